/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: steer.c bpf_util.c log.c log_record.c addr.c
/*
 * The decision of steer.bpf.c, by BPF_PROG_TEST_RUN of the very program that steer_attach()
 * attached, and by connections over lo. Every test has a steer of its own with one sniffer.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>

#include "bench.h"
#include "steer.h"

#define PORT	 443
#define NO_COUNT STEER_COUNTER_COUNT
#define FOREVER	 UINT64_MAX

struct bench {
	struct steer *steer;
	int program; /* the one attached to this namespace */
	int sniffer;
	char error[512];
};

/* ---- set-up ---- */

/* The sk_lookup program of this network namespace; -1: none is attached. */
static int program_attached(void)
{
	struct stat netns;
	uint32_t id = 0;
	int program = -1;

	assert_int_equal(stat("/proc/self/ns/net", &netns), 0);
	while (bpf_link_get_next_id(id, &id) == 0) {
		_cleanup_close_ int link = bpf_link_get_fd_by_id(id);
		struct bpf_link_info info = {};
		uint32_t len = sizeof(info);

		if (link < 0 || bpf_obj_get_info_by_fd(link, &info, &len) ||
		    info.type != BPF_LINK_TYPE_NETNS || info.netns.netns_ino != netns.st_ino)
			continue;
		assert_int_equal(program, -1);
		assert_int_equal(info.netns.attach_type, BPF_SK_LOOKUP);
		program = bpf_prog_get_fd_by_id(info.prog_id);
		assert_true(program >= 0);
	}
	return program;
}

static int sniffer_make(bool v6_only)
{
	const struct socket_options options = { .v6_only = v6_only };

	return listen_on(v6_only ? "::1" : "::ffff:127.0.0.1", 0, &options);
}

static int bench_make(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	if (steer_new(1, &b->steer, b->error, sizeof(b->error)) ||
	    steer_attach(b->steer, b->error, sizeof(b->error)))
		fail_msg("%s", b->error);
	b->program = program_attached();
	assert_true(b->program >= 0);
	b->sniffer = sniffer_make(false);
	assert_int_equal(steer_set_sniffer(b->steer, 0, b->sniffer), 0);
	*state = b;
	return 0;
}

static int bench_drop(void **state)
{
	struct bench *b = *state;

	close(b->program);
	steer_free(b->steer);
	if (b->sniffer >= 0)
		close(b->sniffer);
	assert_int_equal(program_attached(), -1);
	free(b);
	return 0;
}

/* ---- verdicts ---- */

struct lookup {
	const char *remote;
	uint16_t remote_port;
	const char *local;
	uint16_t local_port;
	int protocol;
};

static const struct lookup usual = { "192.0.2.1", 40000, "192.0.2.2", PORT, IPPROTO_TCP };
static const struct lookup v6 = { "2001:db8::1", 40000, "2001:db8::2", PORT, IPPROTO_TCP };

/* Which socket does the program choose for this packet? Its cookie; 0: it passes. */
static uint64_t verdict(struct bench *b, const struct lookup *lookup)
{
	struct endpoint remote = endpoint_of(lookup->remote, lookup->remote_port);
	struct endpoint local = endpoint_of(lookup->local, lookup->local_port);
	struct bpf_sk_lookup ctx = { .protocol = (uint32_t)lookup->protocol,
				     .remote_port = htons(remote.port),
				     .local_port = local.port };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx),
		    .ctx_out = &ctx, .ctx_size_out = sizeof(ctx));

	if (endpoint_is_v4(&remote)) {
		ctx.family = AF_INET;
		memcpy(&ctx.remote_ip4, &remote.addr.s6_addr[12], 4);
		memcpy(&ctx.local_ip4, &local.addr.s6_addr[12], 4);
	} else {
		ctx.family = AF_INET6;
		memcpy(ctx.remote_ip6, &remote.addr, 16);
		memcpy(ctx.local_ip6, &local.addr, 16);
	}
	assert_int_equal(bpf_prog_test_run_opts(b->program, &opts), 0);
	assert_int_equal(opts.retval, 1 /* SK_PASS: never SK_DROP */);
	return ctx.cookie;
}

/* @counter goes up by exactly one and no other does; NO_COUNT: none. */
static void expect_verdict(struct bench *b, const struct lookup *lookup, uint64_t cookie,
			   unsigned counter)
{
	uint64_t before[STEER_COUNTER_COUNT], after[STEER_COUNTER_COUNT];

	steer_counters(b->steer, before);
	assert_true(verdict(b, lookup) == cookie);
	steer_counters(b->steer, after);
	for (unsigned i = 0; i < STEER_COUNTER_COUNT; i++)
		if (after[i] != before[i] + (i == counter))
			fail_msg("counter %s: from %lu to %lu", steer_counter_names[i], before[i],
				 after[i]);
}

static void expect_steered(struct bench *b, const struct lookup *lookup)
{
	expect_verdict(b, lookup, cookie_of(b->sniffer), COUNTER_STEERED);
}

static void expect_passed(struct bench *b, const struct lookup *lookup, unsigned counter)
{
	expect_verdict(b, lookup, 0, counter);
}

static void test_lease(void **state)
{
	struct bench *b = *state;

	expect_passed(b, &usual, NO_COUNT);
	steer_lease(b->steer, PORT, FOREVER);
	expect_steered(b, &usual);
	steer_lease(b->steer, PORT, now_ns() + 60 * NSEC_PER_SEC);
	expect_steered(b, &usual);
	steer_lease(b->steer, PORT, now_ns() - 1);
	expect_passed(b, &usual, COUNTER_PASSED_LEASE);
	steer_lease(b->steer, PORT, 1);
	expect_passed(b, &usual, COUNTER_PASSED_LEASE);
	steer_lease(b->steer, PORT, 0);
	expect_passed(b, &usual, NO_COUNT);
}

/* The same clock, to better than a few milliseconds: neither early nor late. */
static void test_lease_runs_out(void **state)
{
	struct bench *b = *state;
	uint64_t until = now_ns() + 50 * NSEC_PER_MSEC;
	bool ended = false;

	steer_lease(b->steer, PORT, until);
	while (!ended) {
		uint64_t before = now_ns();
		bool steered = verdict(b, &usual) != 0;

		if (steered)
			assert_true(before < until);
		else
			assert_true(now_ns() >= until);
		ended = !steered;
	}
	steer_lease(b->steer, PORT, now_ns() + NSEC_PER_SEC);
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

	steer_lease(b->steer, PORT, FOREVER);
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
		steer_lease(b->steer, ports[i], FOREVER);
		for (size_t j = 0; j < ARRAY_SIZE(ports); j++) {
			lookup.local_port = ports[j];
			if (i == j)
				expect_steered(b, &lookup);
			else
				expect_passed(b, &lookup, NO_COUNT);
		}
		steer_lease(b->steer, ports[i], 0);
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

	steer_lease(b->steer, PORT, FOREVER);
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

	steer_lease(b->steer, PORT, FOREVER);
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

	steer_lease(b->steer, PORT, FOREVER);
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

	if (steer_new(3, &b->steer, b->error, sizeof(b->error)) ||
	    steer_attach(b->steer, b->error, sizeof(b->error)))
		fail_msg("%s", b->error);
	b->program = program_attached();
	for (unsigned i = 0; i < 3; i++) {
		sniffers[i] = sniffer_make(false);
		assert_int_equal(steer_set_sniffer(b->steer, i, sniffers[i]), 0);
	}
	steer_lease(b->steer, PORT, FOREVER);
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

static void connect_some(int *fds, unsigned n, const struct endpoint *to)
{
	for (unsigned i = 0; i < n; i++)
		fds[i] = connect_with(to, NULL);
}

static void close_some(const int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
}

static void expect_queues(struct bench *b, unsigned accept_queue, unsigned syn_queue)
{
	unsigned accept_now = ~0u, syn_now = ~0u;

	/* The handshake's last packet may still be on its way. */
	if (!wait_until(steer_queue(b->steer, 0, &accept_now, &syn_now) == 0 &&
			accept_now == accept_queue && syn_now == syn_queue))
		fail_msg("accept queue %u, SYN queue %u; not %u and %u", accept_now, syn_now,
			 accept_queue, syn_queue);
}

/* Up to @limit connections may wait at a sniffer that has room for @backlog. */
static void overload(struct bench *b, int backlog, unsigned limit)
{
	struct endpoint direct = local_of(b->sniffer);
	int clients[STEER_BACKLOG_LIMIT + 1];
	int accepted;

	assert_int_equal(listen(b->sniffer, backlog), 0);
	expect_steered(b, &usual);
	connect_some(clients, limit, &direct);
	expect_queues(b, limit, 0);
	expect_steered(b, &usual);
	connect_some(&clients[limit], 1, &direct);
	expect_queues(b, limit + 1, 0);
	expect_passed(b, &usual, COUNTER_PASSED_OVERLOAD);
	accepted = accept_from(b->sniffer);
	expect_queues(b, limit, 0);
	expect_steered(b, &usual);
	close(accepted);
	for (unsigned i = 0; i < limit; i++)
		close(accept_from(b->sniffer));
	expect_queues(b, 0, 0);
	close_some(clients, limit + 1);
}

/* What flood_ns and the other two say of IPv4, and what becomes of one more connection. */
static void cookies(struct bench *b, uint64_t flood_ns, uint64_t sniffers_take_ns,
		    uint64_t server_takes_ns, unsigned counter)
{
	struct cookie_times *times = steer_cookie_times(b->steer, FAMILY_V4);

	*times = (struct cookie_times){ flood_ns, sniffers_take_ns, server_takes_ns };
	if (counter == COUNTER_STEERED)
		expect_steered(b, &usual);
	else
		expect_passed(b, &usual, counter);
	/* The other family is as if nothing were. */
	expect_steered(b, &v6);
}

/* A sniffer gets no cookie that it does not take. */
static void test_cookies(void **state)
{
	struct bench *b = *state;
	uint64_t now = now_ns();
	uint64_t later = now + 60 * NSEC_PER_SEC;

	steer_lease(b->steer, PORT, FOREVER);
	cookies(b, 0, 0, 0, COUNTER_STEERED);
	cookies(b, now, 0, 0, COUNTER_PASSED_COOKIES);
	cookies(b, now, later, 0, COUNTER_STEERED);
	cookies(b, now, now, 0, COUNTER_PASSED_COOKIES);
	cookies(b, now - MIN(now - 1, COOKIE_VALID_NS), 0, 0,
		now > COOKIE_VALID_NS ? COUNTER_STEERED : COUNTER_PASSED_COOKIES);
}

/* And sends none that the web server does not take: no more handshakes than there is room for. */
static void test_full_of_handshakes(void **state)
{
	struct bench *b = *state;
	struct endpoint direct = local_of(b->sniffer);
	const struct cookie_times *times = steer_cookie_times(b->steer, FAMILY_V4);
	const int seconds = 60;
	int clients[4];

	steer_lease(b->steer, PORT, FOREVER);
	/* The handshake ends with the first byte. */
	assert_int_equal(
		setsockopt(b->sniffer, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)),
		0);
	assert_int_equal(listen(b->sniffer, 4), 0);
	connect_some(clients, 3, &direct);
	expect_queues(b, 0, 3);
	cookies(b, 0, 0, 0, COUNTER_STEERED);
	assert_true(times->flood_ns == 0);
	connect_some(&clients[3], 1, &direct);
	expect_queues(b, 0, 4);
	expect_passed(b, &v6, COUNTER_PASSED_COOKIES);
	expect_passed(b, &usual, COUNTER_PASSED_COOKIES);
	assert_true(times->flood_ns != 0);
	/* Without cookies a SYN would be dropped here. */
	sysctl_set("tcp_syncookies", 0);
	expect_passed(b, &usual, COUNTER_PASSED_OVERLOAD);
	sysctl_set("tcp_syncookies", 1);
	/* The web server takes them, the sniffers not yet; both do. */
	steer_cookie_times(b->steer, FAMILY_V6)->server_takes_ns = FOREVER;
	steer_cookie_times(b->steer, FAMILY_V4)->server_takes_ns = FOREVER;
	expect_passed(b, &usual, COUNTER_PASSED_COOKIES);
	steer_cookie_times(b->steer, FAMILY_V4)->sniffers_take_ns = FOREVER;
	expect_steered(b, &usual);
	close_some(clients, 4);
}

static void test_overload(void **state)
{
	struct bench *b = *state;

	steer_lease(b->steer, PORT, FOREVER);
	overload(b, 3, 0);
	overload(b, 40, 10);
	overload(b, STEER_BACKLOG_LIMIT * 4 - 1, STEER_BACKLOG_LIMIT - 1);
	overload(b, STEER_BACKLOG_LIMIT * 4, STEER_BACKLOG_LIMIT);
	overload(b, STEER_BACKLOG_LIMIT * 8, STEER_BACKLOG_LIMIT);
}

static void test_queues(void **state)
{
	struct bench *b = *state;
	struct endpoint direct = local_of(b->sniffer);
	unsigned accept_queue = 77, syn_queue = 77;
	int clients[4];
	int accepted;

	expect_queues(b, 0, 0);
	connect_some(clients, 3, &direct);
	expect_queues(b, 3, 0);
	accepted = accept_from(b->sniffer);
	expect_queues(b, 2, 0);
	close(accepted);
	/* A handshake counts as under way until data comes, with this option. */
	option_set(b->sniffer, IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
	connect_some(&clients[3], 1, &direct);
	expect_queues(b, 2, 1);
	send_pattern(clients[3], 1, 0);
	expect_queues(b, 3, 0);
	assert_int_equal(steer_queue(b->steer, 1, &accept_queue, &syn_queue), -ENOENT);
	assert_int_equal(steer_queue(b->steer, STEER_MAX_SNIFFERS, &accept_queue, &syn_queue),
			 -ENOENT);
	assert_int_equal(accept_queue, 77);
	assert_int_equal(syn_queue, 77);
	close_some(clients, 4);
}

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
	steer_lease(b->steer, PORT, FOREVER);
	expect_connection(&web, SNIFFER);
	steer_lease(b->steer, PORT, 0);
	expect_connection(&web, WEB_SERVER);
	until = now_ns() + 20 * NSEC_PER_MSEC;
	steer_lease(b->steer, PORT, until);
	assert_true(wait_until(now_ns() >= until));
	expect_connection(&web, WEB_SERVER);
	steer_lease(b->steer, PORT, now_ns() + STEER_LEASE_NS);
	expect_connection(&web, SNIFFER);
	steer_detach(b->steer);
	assert_int_equal(program_attached(), -1);
	steer_synchronize();
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

	steer_lease(b->steer, PORT, FOREVER);
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

	steer_lease(b->steer, PORT, FOREVER);
	expect_connection(&web, SNIFFER);
	steer_free(b->steer);
	b->steer = NULL;
	assert_int_equal(program_attached(), -1);
	expect_connection(&web, WEB_SERVER);
	close(web.listeners[WEB_SERVER]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_make, bench_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_lease),
		TEST(test_lease_runs_out),
		TEST(test_who_is_steered),
		TEST(test_every_port),
		TEST(test_own_connections),
		TEST(test_no_sniffer),
		TEST(test_sniffer_refused),
		TEST(test_overload),
		TEST(test_cookies),
		TEST(test_full_of_handshakes),
		TEST(test_queues),
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
