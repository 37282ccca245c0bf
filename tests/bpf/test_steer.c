/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: steer.c shared_maps.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * The decision of steer.bpf.c, by BPF_PROG_TEST_RUN of the very program that steer_attach()
 * attached, and by connections over lo: by its lease, its addresses, its sniffers. What full queues
 * mean is in test_steer_queues.c.
 */
#include "steer_bench.h"

static void test_lease(void **state)
{
	struct bench *b = *state;

	expect_passed(b, &usual, NO_COUNT);
	steer_lease(b->steer, PORT, FOREVER, false);
	expect_steered(b, &usual);
	steer_lease(b->steer, PORT, now_ns() + 60 * NSEC_PER_SEC, false);
	expect_steered(b, &usual);
	steer_lease(b->steer, PORT, now_ns() - 1, false);
	expect_passed(b, &usual, COUNTER_PASSED_LEASE);
	steer_lease(b->steer, PORT, STEER_LEASE_PAST, false);
	expect_passed(b, &usual, COUNTER_PASSED_LEASE);
	steer_lease(b->steer, PORT, 0, false);
	expect_passed(b, &usual, NO_COUNT);
}

static void syn_note(int early_syns_fd, const struct lookup *lookup, uint64_t at_ns)
{
	struct endpoint remote = endpoint_of(lookup->remote, lookup->remote_port);
	struct endpoint local = endpoint_of(lookup->local, lookup->local_port);
	struct early_syn syn = { .at_ns = at_ns };
	struct flow_key key;

	key_fill(&key, &remote, &local);
	assert_int_equal(bpf_map_update_elem(early_syns_fd, &key, &syn, BPF_ANY), 0);
}

/* Who the guard has noted is the web server's, by an early lease and for a moment only. */
static void test_early_lease(void **state)
{
	struct bench *b = *state;
	const struct lookup *both[] = { &usual, &v6 };
	struct shared_maps maps;

	close(b->program);
	steer_free(b->steer);
	assert_int_equal(shared_maps_new(&maps), 0);
	if (steer_new(1, &maps, &b->steer, b->error, sizeof(b->error)) ||
	    steer_attach(b->steer, b->error, sizeof(b->error)))
		fail_msg("%s", b->error);
	b->program = program_attached();
	assert_int_equal(steer_set_sniffer(b->steer, 0, b->sniffer), 0);
	for (size_t i = 0; i < ARRAY_SIZE(both); i++) {
		steer_lease(b->steer, PORT, FOREVER, true);
		expect_steered(b, both[i]);
		syn_note(maps.early_syns_fd, both[i], now_ns());
		expect_passed(b, both[i], COUNTER_EARLY);
		/* Of one window it tells the next one nothing. */
		steer_lease(b->steer, PORT, FOREVER, false);
		expect_steered(b, both[i]);
		steer_lease(b->steer, PORT, FOREVER, true);
		syn_note(maps.early_syns_fd, both[i], now_ns() - EARLY_SYN_NS);
		expect_steered(b, both[i]);
	}
	shared_maps_close(&maps);
}

/* However leases are given, renewed and ended. */
static void test_early_ports(void **state)
{
	static const struct {
		uint16_t port;
		uint64_t until_ns;
		bool early;
		unsigned n;
	} table[] = {
		{ PORT, FOREVER, true, 1 },
		{ PORT, FOREVER - 2, true, 1 },
		{ 8443, FOREVER, false, 1 },
		{ 8443, FOREVER, true, 2 },
		{ PORT, STEER_LEASE_PAST, true, 2 },
		{ PORT, FOREVER, true, 2 },
		{ PORT, FOREVER, false, 1 },
		{ 8443, 0, true, 0 },
		{ 8443, 0, false, 0 },
		{ PORT, FOREVER, true, 1 },
	};
	struct bench *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		steer_lease(b->steer, table[i].port, table[i].until_ns, table[i].early);
		assert_int_equal(steer_early_ports(b->steer), table[i].n);
	}
	steer_reset(b->steer);
	assert_int_equal(steer_early_ports(b->steer), 0);
	assert_false(steer_is_leased(b->steer, PORT));
	close(b->program);
	assert_int_equal(steer_attach(b->steer, b->error, sizeof(b->error)), 0);
	b->program = program_attached();
}

/* The same clock, to better than a few milliseconds: neither early nor late. */
static void test_lease_runs_out(void **state)
{
	struct bench *b = *state;
	uint64_t until = now_ns() + 50 * NSEC_PER_MSEC;
	bool ended = false;

	steer_lease(b->steer, PORT, until, false);
	while (!ended) {
		uint64_t before = now_ns();
		bool steered = verdict(b, &usual) != 0;

		if (steered)
			assert_true(before < until);
		else
			assert_true(now_ns() >= until);
		ended = !steered;
	}
	steer_lease(b->steer, PORT, now_ns() + NSEC_PER_SEC, false);
	expect_steered(b, &usual);
}

static void test_who_is_steered(void **state)
{
	static const struct {
		struct lookup lookup;
		bool steered;
	} table[] = {
		{ { "192.0.2.1", 40000, "192.0.2.2", PORT, IPPROTO_TCP }, true },
		{ { "2001:db8::1", 40000, "2001:db8::2", PORT, IPPROTO_TCP }, true },
		{ { "127.0.0.1", 1, "127.0.0.1", PORT, IPPROTO_TCP }, true },
		{ { "::1", 65535, "::1", PORT, IPPROTO_TCP }, true },
		/* HTTP/3 */
		{ { "192.0.2.1", 40000, "192.0.2.2", PORT, IPPROTO_UDP }, false },
		{ { "2001:db8::1", 40000, "2001:db8::2", PORT, IPPROTO_UDP }, false },
		/* A hand-off that looks for the web server. */
		{ { "192.0.2.1", 0, "192.0.2.2", PORT, IPPROTO_TCP }, false },
		{ { "2001:db8::1", 0, "2001:db8::2", PORT, IPPROTO_TCP }, false },
		/* Ports without a lease, also those of the same bytes in the other order. */
		{ { "192.0.2.1", 40000, "192.0.2.2", PORT + 1, IPPROTO_TCP }, false },
		{ { "192.0.2.1", PORT, "192.0.2.2", 40000, IPPROTO_TCP }, false },
		{ { "2001:db8::1", PORT, "2001:db8::2", 0xbb01, IPPROTO_TCP }, false },
	};
	struct bench *b = *state;

	steer_lease(b->steer, PORT, FOREVER, false);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (table[i].steered)
			expect_steered(b, &table[i].lookup);
		else
			expect_passed(b, &table[i].lookup, NO_COUNT);
	}
}

static void test_every_port(void **state)
{
	static const uint16_t ports[] = { 1, 80, PORT, 8443, 32768, 65535 };
	struct bench *b = *state;
	struct lookup lookup = usual;

	for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
		steer_lease(b->steer, ports[i], FOREVER, false);
		for (size_t j = 0; j < ARRAY_SIZE(ports); j++) {
			lookup.local_port = ports[j];
			if (i == j)
				expect_steered(b, &lookup);
			else
				expect_passed(b, &lookup, NO_COUNT);
		}
		steer_lease(b->steer, ports[i], 0, false);
	}
}

static void test_own_connections(void **state)
{
	static const struct {
		const char *remote;
		uint16_t port;
	} others[] = {
		{ "192.0.2.1", 40001 },	      { "192.0.2.1", 0x409c /* 40000 swapped */ },
		{ "192.0.2.9", 40000 },	      { "193.0.2.1", 40000 },
		{ "2001:db8::1", 40001 },     { "2001:db8::3", 40000 },
		{ "2001:db9::1", 40000 },     { "2001:db8:0:1::1", 40000 },
		{ "2001:db8::1:0:1", 40000 },
	};
	struct endpoint source4 = endpoint_of(usual.remote, usual.remote_port);
	struct endpoint source6 = endpoint_of(v6.remote, v6.remote_port);
	struct bench *b = *state;

	steer_lease(b->steer, PORT, FOREVER, false);
	assert_int_equal(steer_exempt(b->steer, &source4, true), 0);
	assert_int_equal(steer_exempt(b->steer, &source4, true), -EEXIST);
	expect_passed(b, &usual, COUNTER_PASSED_RELAY);
	expect_steered(b, &v6);
	assert_int_equal(steer_exempt(b->steer, &source6, true), 0);
	expect_passed(b, &v6, COUNTER_PASSED_RELAY);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		struct lookup lookup = strchr(others[i].remote, ':') ? v6 : usual;

		lookup.remote = others[i].remote;
		lookup.remote_port = others[i].port;
		expect_steered(b, &lookup);
	}
	assert_int_equal(steer_exempt(b->steer, &source4, false), 0);
	expect_steered(b, &usual);
	expect_passed(b, &v6, COUNTER_PASSED_RELAY);
	assert_int_equal(steer_exempt(b->steer, &source6, false), 0);
	expect_steered(b, &v6);
	assert_int_equal(steer_exempt(b->steer, &source6, false), -ENOENT);
}

static void test_no_sniffer(void **state)
{
	struct bench *b = *state;
	unsigned accept_queue, syn_queue;

	steer_lease(b->steer, PORT, FOREVER, false);
	expect_steered(b, &usual);
	/* A socket that is closed leaves the map by itself. */
	close(b->sniffer);
	expect_passed(b, &usual, COUNTER_PASSED_NO_SNIFFER);
	assert_int_equal(steer_queue(b->steer, 0, &accept_queue, &syn_queue), -ENOENT);
	b->sniffer = sniffer_make(false);
	assert_int_equal(steer_set_sniffer(b->steer, 0, b->sniffer), 0);
	expect_steered(b, &usual);
}

/* A sniffer that the kernel can't give an IPv4 connection to. */
static void test_sniffer_refused(void **state)
{
	struct bench *b = *state;

	steer_lease(b->steer, PORT, FOREVER, false);
	close(b->sniffer);
	b->sniffer = sniffer_make(true);
	assert_int_equal(steer_set_sniffer(b->steer, 0, b->sniffer), 0);
	expect_passed(b, &usual, COUNTER_PASSED_ASSIGN);
	expect_steered(b, &v6);
}

/* More sniffers than one: the CPU chooses, and nobody else's is taken. Has a steer of its own. */
static void test_sniffer_per_cpu(void **state)
{
	struct bench bench = {}, *b = &bench;
	cpu_set_t all, one;
	int sniffers[3];

	if (steer_new(3, NULL, &b->steer, b->error, sizeof(b->error)) ||
	    steer_attach(b->steer, b->error, sizeof(b->error)))
		fail_msg("%s", b->error);
	b->program = program_attached();
	for (unsigned i = 0; i < 3; i++) {
		sniffers[i] = sniffer_make(false);
		assert_int_equal(steer_set_sniffer(b->steer, i, sniffers[i]), 0);
	}
	steer_lease(b->steer, PORT, FOREVER, false);
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
		expect_verdict(b, &usual, cookie_of(sniffers[cpu % 3]), COUNTER_STEERED);
	}
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	for (unsigned i = 0; i < 3; i++)
		close(sniffers[i]);
	close(b->program);
	steer_free(b->steer);
}

/* ---- with connections ---- */

enum { SNIFFER, WEB_SERVER };

struct web {
	int listeners[2];
	struct endpoint address;
};

static struct web web_make(struct bench *b, const char *address)
{
	return (struct web){ .listeners = { b->sniffer, listen_on(address, PORT, NULL) },
			     .address = endpoint_of(address, PORT) };
}

/* One connection goes to @whom, and works. */
static void expect_connection(struct web *web, int whom)
{
	int client = connect_with(&web->address, NULL);
	struct endpoint seen;
	int server;

	assert_int_equal(who_accepts(web->listeners), whom);
	server = accept_from(web->listeners[whom]);
	seen = local_of(server);
	assert_true(endpoint_equal(&seen, &web->address));
	send_pattern(client, 100, 0);
	expect_pattern(server, 100, 0);
	close(client);
	close(server);
}

static void one_port(struct bench *b, const char *address)
{
	struct web web = web_make(b, address);
	uint64_t until;

	expect_connection(&web, WEB_SERVER);
	steer_lease(b->steer, PORT, FOREVER, false);
	expect_connection(&web, SNIFFER);
	steer_lease(b->steer, PORT, 0, false);
	expect_connection(&web, WEB_SERVER);
	until = now_ns() + 20 * NSEC_PER_MSEC;
	steer_lease(b->steer, PORT, until, false);
	assert_true(wait_until(now_ns() >= until));
	expect_connection(&web, WEB_SERVER);
	steer_lease(b->steer, PORT, now_ns() + STEER_LEASE_NS, false);
	expect_connection(&web, SNIFFER);
	steer_detach(b->steer);
	assert_int_equal(program_attached(), -1);
	assert_int_equal(steer_synchronize(), 0);
	expect_connection(&web, WEB_SERVER);
	assert_int_equal(steer_attach(b->steer, b->error, sizeof(b->error)), 0);
	expect_connection(&web, SNIFFER);
	close(web.listeners[WEB_SERVER]);
}

static void test_port_v4(void **state)
{
	one_port(*state, "127.0.0.1");
}

static void test_port_v6(void **state)
{
	one_port(*state, "::1");
}

/* Connections that were there before the window, and those of other ports, are let alone. */
static void test_existing_connection(void **state)
{
	struct bench *b = *state;
	struct web web = web_make(b, "127.0.0.1");
	struct connection c = connection_make("127.0.0.1", web.listeners[WEB_SERVER], NULL);

	steer_lease(b->steer, PORT, FOREVER, false);
	send_pattern(c.client, 1000, 0);
	expect_pattern(c.server, 1000, 0);
	send_pattern(c.server, 1000, 1);
	expect_pattern(c.client, 1000, 1);
	assert_false(ready(b->sniffer, POLLIN, 0));
	connection_close(&c);
	close(web.listeners[WEB_SERVER]);
}

/* The process is gone, and with it everything. */
static void test_gone(void **state)
{
	struct bench *b = *state;
	struct web web = web_make(b, "127.0.0.1");

	steer_lease(b->steer, PORT, FOREVER, false);
	expect_connection(&web, SNIFFER);
	steer_free(b->steer);
	b->steer = NULL;
	assert_int_equal(program_attached(), -1);
	expect_connection(&web, WEB_SERVER);
	close(web.listeners[WEB_SERVER]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_lease),
		TEST(test_early_lease),
		TEST(test_early_ports),
		TEST(test_lease_runs_out),
		TEST(test_who_is_steered),
		TEST(test_every_port),
		TEST(test_own_connections),
		TEST(test_no_sniffer),
		TEST(test_sniffer_refused),
		TEST(test_port_v4),
		TEST(test_port_v6),
		TEST(test_existing_connection),
		TEST(test_gone),
		cmocka_unit_test(test_sniffer_per_cpu),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, namespace_make, NULL);
}
