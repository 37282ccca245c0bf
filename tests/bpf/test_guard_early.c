/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * What guard_ingress does with the packets of a handshake that is the web server's: which SYNs it
 * leaves to it, what it waits for, passes and takes.
 *
 *   second namespace             this one
 *   10.77.0.2, fd77::2 --- veth --- 10.77.0.1, fd77::1: web server (443)
 *
 * The handshakes are real ones that the client can't end: what it says behind its SYN is dropped
 * where it is. The packets that the program is asked about are made here.
 */
#include "verdict_bench.h"

#define PORT	 443
#define FOREVER	 (UINT64_MAX | LEASE_EARLY)
#define TCP_FIN	 0x01
#define TCP_SYN	 0x02
#define TCP_RST	 0x04
#define TCP_ACK	 0x10
#define TCP_ECE	 0x40
#define TCP_CWR	 0x80
#define DOFF_AE	 0x01 /* RFC 9768 */
#define MSS_1460 "\x02\x04\x05\xb4"

static const char *const addresses[] = { "10.77.0.1", "fd77::1" };

static struct peer peer;
static int web[2], sniffer;
static uint32_t device;
static struct ring_buffer *events;
static struct early_event last_event;

/* ---- set-up ---- */

static int topology_make(void **state)
{
	namespace_make(state);
	peer = peer_make();
	peer_wire();
	run("ip link set v0 address 02:00:00:00:00:01");
	run(IN_PEER "nft 'table inet silent { chain output { type filter hook output priority 0;"
		    " tcp dport 443 tcp flags & syn == 0 drop; }; }'");
	device = if_nametoindex("v0");
	assert_true(device > 0);
	return 0;
}

static int topology_drop(void **state)
{
	peer_drop(&peer);
	return 0;
}

static void lease(uint16_t port, uint64_t until_ns)
{
	uint32_t key = port;

	assert_int_equal(bpf_map__update_elem(bpf->maps.leases, &key, sizeof(key), &until_ns,
					      sizeof(until_ns), BPF_ANY),
			 0);
}

static void set_sniffer(void)
{
	uint64_t fd = (uint64_t)sniffer;
	uint32_t zero = 0;

	assert_int_equal(bpf_map__update_elem(bpf->maps.own_sniffers, &zero, sizeof(zero), &fd,
					      sizeof(fd), BPF_ANY),
			 0);
}

static int take_event(void *ctx, void *data, size_t size)
{
	assert_int_equal(size, sizeof(last_event));
	memcpy(&last_event, data, size);
	return 0;
}

static int early_make(void **state)
{
	memset(counters_before, 0, sizeof(counters_before));
	bench_make(state);
	sysctl_set("tcp_synack_retries", 5);
	device_guard(device, true);
	for (int i = 0; i < 2; i++)
		web[i] = listen_on(addresses[i], PORT, NULL);
	sniffer = listen_on("::ffff:127.0.0.1", 0, NULL);
	set_sniffer();
	events = ring_buffer__new(bpf_map__fd(bpf->maps.early_events), take_event, NULL, NULL);
	assert_non_null(events);
	lease(PORT, FOREVER);
	bpf->bss->n_early_ports = 1;
	return 0;
}

static int early_drop(void **state)
{
	for (int i = 0; i < 2; i++)
		close(web[i]);
	close(sniffer);
	ring_buffer__free(events);
	return bench_drop(state);
}

#undef TEST
#define TEST(f) cmocka_unit_test_setup_teardown(f, early_make, early_drop)

/* ---- packets ---- */

static struct wire packet(const struct flow_key *key, uint32_t seq, uint32_t ack, uint8_t flags,
			  const void *payload, size_t len)
{
	struct segment segment = { .key = key,
				   .mac = wire_mac,
				   .seq = seq,
				   .ack = ack,
				   .window = 100,
				   .payload = payload,
				   .len = len };
	struct wire wire = { .ifindex = device };
	size_t ip_len =
		endpoint_is_v4(&(struct endpoint){ .addr = *(const struct in6_addr *)key->local })
			? 20
			: 40;

	wire.len = segment_build(&segment, wire.frame, sizeof(wire.frame));
	assert_true(wire.len > 0);
	wire.frame[SEGMENT_ETHERNET_LEN + ip_len + 13] = flags;
	return wire;
}

static uint8_t *tcp_of(struct wire *wire)
{
	return wire->frame + SEGMENT_ETHERNET_LEN + (wire->frame[13] == 0 ? 20 : 40);
}

/* A SYN with these options, as many bytes as a multiple of four, and so much data. */
static struct wire syn_with(const struct flow_key *key, const void *options, size_t len,
			    size_t data_len)
{
	uint8_t bytes[100] = {};
	struct wire wire;

	assert_true(len + data_len <= sizeof(bytes));
	memcpy(bytes, options, len);
	wire = packet(key, 77, 0, TCP_SYN, bytes, len + data_len);
	tcp_of(&wire)[12] = (uint8_t)((20 + len) / 4 << 4);
	return wire;
}

static struct flow_key some_client(size_t i)
{
	struct endpoint remote = endpoint_of(i ? "fd77::2" : "10.77.0.2", 40000);
	struct endpoint local = endpoint_of(addresses[i], PORT);
	struct flow_key key;

	key_fill(&key, &remote, &local);
	return key;
}

static bool is_noted(const struct flow_key *key, struct early_syn *ret_syn)
{
	return bpf_map__lookup_elem(bpf->maps.early_syns, key, sizeof(*key), ret_syn,
				    sizeof(*ret_syn), 0) == 0;
}

static void note(const struct flow_key *key, uint64_t at_ns)
{
	const struct early_syn syn = { .at_ns = at_ns };

	assert_int_equal(bpf_map__update_elem(bpf->maps.early_syns, key, sizeof(*key), &syn,
					      sizeof(syn), BPF_ANY),
			 0);
}

static void expect_noted(const struct wire *wire, const struct flow_key *key)
{
	uint64_t before = now_ns();
	struct early_syn syn;

	expect_in(wire, 0, NEXT, 0, NO_COUNT);
	assert_true(is_noted(key, &syn));
	assert_true(syn.at_ns >= before && syn.at_ns <= now_ns());
	assert_false(syn.passed || syn.acked);
}

/* It is steered, also when there was one of that name before that was not. */
static void expect_steered(const struct wire *wire, const struct flow_key *key)
{
	struct early_syn syn;

	note(key, now_ns());
	expect_in(wire, 0, NEXT, 0, NO_COUNT);
	if (is_noted(key, &syn))
		fail_msg("it is noted");
}

/* ---- SYNs ---- */

static void test_syn(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
	} options[] = {
		{ MSS_1460, 4 },
		{ "\x01\x01\x01\x01" MSS_1460, 8 },
		{ MSS_1460 "\x04\x02\x08\x0a\0\0\0\1\0\0\0\0\x01\x03\x03\x07", 20 },
		/* It asks for a cookie, and has none. */
		{ "\x22\x02\x01\x01" MSS_1460, 8 },
		/* What stands behind the end does not count. */
		{ MSS_1460 "\x00\x22\x06\xff", 8 },
	};

	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i);

		for (size_t j = 0; j < ARRAY_SIZE(options); j++) {
			struct wire wire = syn_with(&key, options[j].bytes, options[j].len, 0);
			uint8_t guarded = 0;

			device_guard(device, true);
			expect_noted(&wire, &key);
			assert_int_equal(bpf_map__lookup_elem(bpf->maps.guarded_devices, &device,
							      sizeof(device), &guarded,
							      sizeof(guarded), 0),
					 0);
			assert_int_equal(guarded, DEVICE_USED);
		}
	}
}

/* What no socket could be made of later, or what may be a connection at once. */
static void test_syn_options(void **state)
{
	static const struct {
		const char *bytes;
		size_t len, data_len;
	} options[] = {
		{ "", 0, 0 },
		{ "\x01\x01\x01\x01", 4, 0 },
		{ "\x02\x04\x00\x80", 4, 0 },			/* an MSS of 128 */
		{ "\x03\x01\x07\x01" MSS_1460, 8, 0 },		/* an option without a length */
		{ "\x00\x00\x00\x00" MSS_1460, 8, 0 },		/* the end comes first */
		{ "\x22\x06\1\2\3\4\x01\x01" MSS_1460, 12, 0 }, /* a cookie */
		{ MSS_1460, 4, 1 },				/* data */
	};

	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i);

		for (size_t j = 0; j < ARRAY_SIZE(options); j++) {
			struct wire wire = syn_with(&key, options[j].bytes, options[j].len,
						    options[j].data_len);

			expect_steered(&wire, &key);
		}
	}
}

/* RFC 9768: a client that asks for accurate ECN; for the older one is fine. */
static void test_syn_ecn(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i);
		struct wire wire = syn_with(&key, MSS_1460, 4, 0);

		tcp_of(&wire)[13] = TCP_SYN | TCP_ECE | TCP_CWR;
		expect_noted(&wire, &key);
		tcp_of(&wire)[12] |= DOFF_AE;
		expect_steered(&wire, &key);
	}
}

/* Where it comes in, whom it is for, and whether anybody wants to read it. */
static void test_syn_place(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i), other = key;
		struct wire wire = syn_with(&key, MSS_1460, 4, 0), elsewhere = wire;
		struct early_syn syn;

		elsewhere.ifindex = LO;
		memset(elsewhere.frame, 0, 6);
		expect_steered(&elsewhere, &key);
		/* Nobody listens there. */
		other.local[15] ^= 8;
		elsewhere = syn_with(&other, MSS_1460, 4, 0);
		expect_steered(&elsewhere, &other);

		/* One without visitors to be read, one that is over, none. */
		note(&key, 1);
		lease(PORT, FOREVER & ~LEASE_EARLY);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		lease(PORT, (now_ns() - 1) | LEASE_EARLY);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		lease(PORT, 0);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		lease(PORT, FOREVER);
		bpf->bss->n_early_ports = 0;
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		bpf->bss->n_early_ports = 1;
		assert_true(is_noted(&key, &syn) && syn.at_ns == 1);

		/* After a handshake that was lost sight of. */
		bpf->bss->early_shut_until_ns = now_ns() + 3600 * NSEC_PER_SEC;
		expect_steered(&wire, &key);
		bpf->bss->early_shut_until_ns = now_ns() - 1;
		expect_noted(&wire, &key);
		/* Another machine's, that a promiscuous device shows. */
		wire.frame[5] ^= 1;
		note(&key, 1);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		assert_true(is_noted(&key, &syn) && syn.at_ns == 1);
	}
}

/* What is to be sent on is not for this host's listener on all addresses. */
static void test_syn_forwarded(void **state)
{
	struct flow_key key = some_client(0);
	struct wire wire;
	int all;

	close(web[0]);
	all = listen_on("0.0.0.0", PORT, NULL);
	run("ip addr add 10.78.0.1/24 dev v0 && ip neigh add 10.78.0.9 lladdr 2:0:0:0:0:9 dev v0");
	wire = syn_with(&key, MSS_1460, 4, 0);
	expect_noted(&wire, &key);
	sysctl_set("ip_forward", 1);
	expect_noted(&wire, &key);
	key.local[13] = 78;
	key.local[15] = 9;
	wire = syn_with(&key, MSS_1460, 4, 0);
	expect_steered(&wire, &key);
	sysctl_set("ip_forward", 0);
	run("ip addr del 10.78.0.1/24 dev v0");
	close(all);
	web[0] = listen_on(addresses[0], PORT, NULL);
}

/* The kernel must keep a request, and long enough. */
static void test_syn_sysctls(void **state)
{
	static const struct {
		const char *name;
		int value, usual;
		bool noted;
	} table[] = {
		{ "tcp_syncookies", 0, 1, false },
		{ "tcp_syncookies", 2, 1, false },
		{ "tcp_synack_retries", 1, 5, false },
		{ "tcp_synack_retries", 2, 5, true },
	};

	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i);
		struct wire wire = syn_with(&key, MSS_1460, 4, 0);

		for (size_t j = 0; j < ARRAY_SIZE(table); j++) {
			sysctl_set(table[j].name, table[j].value);
			(table[j].noted ? expect_noted : expect_steered)(&wire, &key);
			sysctl_set(table[j].name, table[j].usual);
		}
		/* The listener's own number counts before the host's. */
		option_set(web[i], IPPROTO_TCP, TCP_SYNCNT, 1);
		expect_steered(&wire, &key);
		option_set(web[i], IPPROTO_TCP, TCP_SYNCNT, 2);
		expect_noted(&wire, &key);
	}
}

/* A queue that is half full has no room: neither the listener's nor the sniffer's. */
static void test_syn_room(void **state)
{
	const struct socket_options two = { .backlog = 2 };
	struct endpoint at;
	int clients[2], waiting;

	for (size_t i = 0; i < 2; i++) {
		struct flow_key key = some_client(i);
		struct wire wire = syn_with(&key, MSS_1460, 4, 0);

		close(web[i]);
		web[i] = listen_on(addresses[i], PORT, &two);
		at = local_of(web[i]);
		for (size_t j = 0; j < ARRAY_SIZE(clients); j++) {
			expect_noted(&wire, &key);
			/* A handshake that is under way counts as one that waits to be accepted. */
			clients[j] = connect_from_peer(&peer, &at, NULL);
		}
		expect_steered(&wire, &key);
		for (size_t j = 0; j < ARRAY_SIZE(clients); j++)
			close(clients[j]);
		close(web[i]);
		web[i] = listen_on(addresses[i], PORT, NULL);
		expect_noted(&wire, &key);

		/* A sniffer whose queue has room for none. */
		close(sniffer);
		sniffer = listen_on("::ffff:127.0.0.1", 0, &two);
		set_sniffer();
		at = local_of(sniffer);
		expect_noted(&wire, &key);
		waiting = connect_with(&at, NULL);
		expect_steered(&wire, &key);
		close(waiting);
		close(sniffer);
		expect_steered(&wire, &key);
		sniffer = listen_on("::ffff:127.0.0.1", 0, NULL);
		set_sniffer();
	}
}

/* ---- behind it ---- */

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
		TEST(test_syn),	      TEST(test_syn_options),	TEST(test_syn_ecn),
		TEST(test_syn_place), TEST(test_syn_forwarded), TEST(test_syn_sysctls),
		TEST(test_syn_room),  TEST(test_ack),		TEST(test_visitor),
		TEST(test_taken),     TEST(test_not_taken),	TEST(test_lost_sight),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, topology_make, topology_drop);
}
