/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/* What guard_ingress waits for, passes and takes of a handshake that it has left to the web server.
 */
#include "early_bench.h"

/* A handshake that waits for its last packet. */
struct handshake {
	struct flow_key key;
	int client;
	uint32_t seq, ack; /* what that packet has */
};

static struct handshake handshake_make(size_t i)
{
	struct endpoint to = endpoint_of(addresses[i], PORT), remote;
	struct handshake h = { .client = connect_from_peer(&peer, &to, NULL) };
	struct numbers numbers = numbers_of(h.client);

	remote = local_of(h.client);
	key_fill(&h.key, &remote, &to);
	h.seq = numbers.snd_nxt;
	h.ack = numbers.rcv_nxt;
	note(&h.key, now_ns());
	return h;
}

static struct wire says(const struct handshake *h, uint32_t at, const void *bytes, size_t len)
{
	return packet(&h->key, h->seq + at, h->ack, TCP_ACK, bytes, len);
}

/* What says nothing is waited behind; the end of the connection is not. */
static void test_ack(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct handshake h = handshake_make(i);
		struct wire ack = says(&h, 0, NULL, 0), other;
		struct early_syn syn;

		expect_in(&ack, 0, DROP, 0, COUNTER_EARLY_DEFERRED);
		expect_in(&ack, 0x1234, DROP, 0x1234, COUNTER_EARLY_DEFERRED);
		assert_true(is_noted(&h.key, &syn) && syn.acked && !syn.passed);
		/* The answer to a SYN-ACK that is older, or newer, than the one that there is. */
		other = packet(&h.key, h.seq, h.ack + 1, TCP_ACK, NULL, 0);
		expect_in(&other, 0, NEXT, 0, NO_COUNT);
		other = packet(&h.key, h.seq, h.ack, TCP_ACK | TCP_FIN, NULL, 0);
		expect_in(&other, 0, NEXT, 0, NO_COUNT);
		other = packet(&h.key, h.seq, h.ack, TCP_ACK | TCP_RST, NULL, 0);
		expect_in(&other, 0, NEXT, 0, NO_COUNT);
		/* After a timeout he has been silent for a second: the web server has him. */
		syn.timeouts = 1;
		assert_int_equal(bpf_map__update_elem(bpf->maps.early_syns, &h.key, sizeof(h.key),
						      &syn, sizeof(syn), BPF_ANY),
				 0);
		expect_in(&ack, 0, NEXT, 0, NO_COUNT);
		/* One whose SYN nobody has asked about is let be. */
		bpf_map__delete_elem(bpf->maps.early_syns, &h.key, sizeof(h.key), 0);
		expect_in(&ack, 0, NEXT, 0, NO_COUNT);
		close(h.client);
	}
}

/* A ClientHello with this ALPN list; returns its length. */
static size_t hello_make(uint8_t *bytes, const char *alpn)
{
	size_t alpn_len = strlen(alpn), extensions = 4 + 2 + 1 + alpn_len;
	size_t message = 2 + 32 + 1 + 4 + 2 + 2 + extensions, n = 0;
	const uint8_t head[] = { 22, 3, 1, 0, (uint8_t)(4 + message), 1, 0, 0, (uint8_t)message,
				 3,  3 };
	const uint8_t middle[] = { 0,
				   0,
				   2,
				   0x13,
				   1,
				   1,
				   0,
				   0,
				   (uint8_t)extensions,
				   0,
				   16,
				   0,
				   (uint8_t)(3 + alpn_len),
				   0,
				   (uint8_t)(1 + alpn_len),
				   (uint8_t)alpn_len };

	memcpy(bytes, head, sizeof(head));
	n += sizeof(head);
	memset(bytes + n, 7, 32);
	n += 32;
	memcpy(bytes + n, middle, sizeof(middle));
	n += sizeof(middle);
	memcpy(bytes + n, alpn, alpn_len);
	return n + alpn_len;
}

/* A visitor's passes, and what comes behind it is not looked at. */
static void test_visitor(void **state)
{
	uint8_t hello[200];
	size_t len = hello_make(hello, "h2");

	for (size_t i = 0; i < 2; i++) {
		struct handshake h = handshake_make(i);
		struct wire first = says(&h, 0, hello, len), next = says(&h, (uint32_t)len, "x", 1);
		struct wire no_tls = says(&h, 0, "GET / HTTP/1.0\r\n", 16);
		struct early_syn syn;

		expect_in(&first, 0, NEXT, 0, COUNTER_EARLY_PASSED);
		assert_true(is_noted(&h.key, &syn) && syn.passed);
		assert_int_equal(ntohl(syn.hello_seq), h.seq);
		expect_in(&next, 0, NEXT, 0, NO_COUNT);
		/* The kernel had no room for him, and TCP repeats it. */
		expect_in(&first, 0, NEXT, 0, COUNTER_EARLY_PASSED);
		expect_in(&no_tls, 0, NEXT, 0, COUNTER_EARLY_PASSED);
		assert_int_equal(bpf->bss->n_guards, 0);
		close(h.client);
	}
}

static void expect_no_event(void)
{
	assert_int_equal(ring_buffer__consume(events), 0);
}

/* It is held, guarded as the connection that the kernel's request would make, and reported. */
static void expect_taken(const struct handshake *h, const struct wire *wire)
{
	struct tcp_info info = info_of(h->client);
	uint64_t taken = counter_now(COUNTER_EARLY_TAKEN), n_held = counter_now(COUNTER_HELD);
	const struct early_event *event = &last_event;
	struct guard guard;
	uint32_t mark = 0;

	assert_int_equal(verdict(bpf->progs.guard_ingress, wire, &mark), DROP);
	assert_int_equal(counter_now(COUNTER_EARLY_TAKEN), taken + 1);
	assert_int_equal(counter_now(COUNTER_HELD), n_held + 1);
	assert_int_equal(bpf->bss->n_guards, 1);

	guard = guard_of(&h->key);
	assert_true(guard.cookie >> 63);
	assert_int_equal(guard.to_sniffer, 1);
	assert_int_equal(guard.parking, PARKING_ON);
	assert_int_equal(guard.rcv_nxt, h->seq);
	assert_int_equal(guard.first_seq, h->seq);
	assert_int_equal(guard.snd_nxt, h->ack);
	assert_int_equal(guard.options, OPTION_TSTAMP | OPTION_SACK | OPTION_WSCALE);
	assert_int_equal(guard.snd_wscale, info.tcpi_rcv_wscale);
	assert_int_equal(guard.rcv_wscale, info.tcpi_snd_wscale);
	assert_true(guard.mss > 1400 && guard.mss <= 1460);
	assert_int_equal(guard.n_held, 1);

	assert_int_equal(ring_buffer__consume(events), 1);
	assert_memory_equal(&event->key, &h->key, sizeof(h->key));
	assert_int_equal(event->ifindex, device);
	assert_int_equal(event->snd_wnd, 100u << guard.snd_wscale);
	guard.n_held = 0;
	assert_memory_equal(&event->guard, &guard, sizeof(guard));

	bpf_util_sum(bpf_map__fd(bpf->maps.guard_counters), GUARD_COUNTER_COUNT, counters_before);
	guard_remove(&h->key);
}

/* What may be for acme-tls/1, as far as is to be seen. */
static void test_taken(void **state)
{
	uint8_t hello[200], visitor[200];
	size_t len = hello_make(hello, "acme-tls/1"), visitor_len = hello_make(visitor, "h2");

	for (size_t i = 0; i < 2; i++) {
		struct handshake h = handshake_make(i);
		struct wire wire = says(&h, 0, hello, len);

		expect_taken(&h, &wire);
		/* Not whole, if it were a visitor's even. */
		wire = says(&h, 0, visitor, visitor_len - 1);
		expect_taken(&h, &wire);
		wire = says(&h, 0, hello, 1);
		expect_taken(&h, &wire);
		/* Not the beginning: that may have been lost, or comes later. */
		wire = says(&h, 7, "GET / HTTP/1.0\r\n", 16);
		expect_taken(&h, &wire);
		close(h.client);
	}
}

/* What can't be taken now is sent again by the client; what never could be passes. */
static void test_not_taken(void **state)
{
	uint8_t hello[200];
	size_t len = hello_make(hello, "acme-tls/1");

	for (size_t i = 0; i < 2; i++) {
		struct handshake h = handshake_make(i);
		struct wire wire = says(&h, 0, hello, len);

		/* The kernel would make no socket of it. */
		sysctl_set("tcp_syncookies", 0);
		expect_in(&wire, 0, DROP, 0, NO_COUNT);
		sysctl_set("tcp_syncookies", 1);
		sysctl_set("tcp_sack", 0);
		expect_in(&wire, 0, DROP, 0, NO_COUNT);
		sysctl_set("tcp_sack", 1);
		assert_int_equal(bpf->bss->n_guards, 0);
		expect_no_event();
		/* It was another handshake's. */
		wire = packet(&h.key, h.seq, h.ack + 1, TCP_ACK, hello, len);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		/* The lease is over. */
		lease(PORT, (now_ns() - 1) | LEASE_EARLY);
		wire = says(&h, 0, hello, len);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		lease(PORT, FOREVER);
		close(h.client);
	}
}

/* The kernel has no request: a cookie, or another name. For a while all are steered. */
static void test_lost_sight(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i);
		struct wire wire = packet(&key, 78, 1, TCP_ACK, NULL, 0);
		struct wire syn = syn_with(&key, MSS_1460, 4, 0);

		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		note(&key, now_ns() - 2 * EARLY_SYN_NS);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		note(&key, now_ns());
		expect_in(&wire, 0, NEXT, 0, COUNTER_EARLY_UNREAD);
		assert_true(bpf->bss->early_shut_until_ns > now_ns() + 9 * NSEC_PER_SEC);
		expect_steered(&syn, &key);
		bpf->bss->early_shut_until_ns = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ack),	      TEST(test_visitor),    TEST(test_taken),
		TEST(test_not_taken), TEST(test_lost_sight),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, topology_make, topology_drop);
}
