/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/* Which SYNs guard_ingress leaves to the web server, and which are steered. */
#include "early_bench.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_syn),	      TEST(test_syn_options),	TEST(test_syn_ecn),
		TEST(test_syn_place), TEST(test_syn_forwarded), TEST(test_syn_sysctls),
		TEST(test_syn_room),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, topology_make, topology_drop);
}
