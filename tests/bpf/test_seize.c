/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * What handoff_seize and handoff_preflight say of real connections and listeners, and that the
 * guard entry that handoff_seize publishes agrees with what the sockets themselves say.
 */
#include "guard_bench.h"

static struct seize_block seize_on(const struct connection *c, const struct endpoint *target,
				   uint32_t ifindex)
{
	struct seize_block block = { .key = c->key,
				     .ifindex = ifindex,
				     .cookie = c->cookie,
				     .result = SEIZE_RESULTS,
				     .guard = { .target_port = htons(target->port) } };
	int err;

	memcpy(block.guard.target, &target->addr, 16);
	bpf_util_run(bpf_program__fd(bpf->progs.handoff_seize), &block, sizeof(block), &block,
		     ifindex, 0, &err);
	assert_int_equal(err, 0);
	return block;
}

static void expect_seize(const struct connection *c, const struct endpoint *target,
			 enum seize_result result)
{
	struct seize_block block = seize_on(c, target, LO);
	struct guard guard;

	if (block.result != result)
		fail_msg("seize: %u, not %u", block.result, result);
	assert_int_equal(guard_get(&c->key, &guard), result == SEIZE_OK);
	assert_int_equal(bpf->bss->n_guards, result == SEIZE_OK);
	if (result == SEIZE_OK)
		guard_remove(&c->key);
}

static enum seize_result preflight(const char *client, const struct endpoint *target)
{
	struct endpoint remote = endpoint_of(client, 1);
	struct preflight_block block = { .target_port = htons(target->port),
					 .result = SEIZE_RESULTS };
	int err;

	memcpy(block.remote, &remote.addr, 16);
	memcpy(block.target, &target->addr, 16);
	bpf_util_run(bpf_program__fd(bpf->progs.handoff_preflight), &block, sizeof(block), &block,
		     LO, 0, &err);
	assert_int_equal(err, 0);
	return block.result;
}

static void expect_scene(const char *address, const struct socket_options *client,
			 const struct socket_options *listener, enum seize_result result)
{
	struct scene s = scene_make(address, client, listener);

	expect_seize(&s.c, &s.target, result);
	scene_drop(&s);
}

static uint8_t options_of(int fd)
{
	struct tcp_info info = info_of(fd);

	return (info.tcpi_options & TCPI_OPT_TIMESTAMPS ? OPTION_TSTAMP : 0) |
	       (info.tcpi_options & TCPI_OPT_SACK ? OPTION_SACK : 0) |
	       (info.tcpi_options & TCPI_OPT_WSCALE ? OPTION_WSCALE : 0) |
	       (info.tcpi_options & TCPI_OPT_ECN ? OPTION_ECN : 0);
}

/* Everything published, against what the sockets say themselves. */
static void published(const char *address, size_t len, bool fin)
{
	struct scene s = scene_make(address, NULL, NULL);
	struct numbers server, client;
	struct seize_block block;
	struct tcp_info info;
	uint64_t now;
	struct guard guard;

	if (len)
		send_pattern(s.c.client, len, 0);
	if (fin)
		assert_int_equal(shutdown(s.c.client, SHUT_WR), 0);
	assert_true(wait_until(unread(s.c.server) == len &&
			       info_of(s.c.server).tcpi_state ==
				       (fin ? STATE_CLOSE_WAIT : STATE_ESTABLISHED)));
	server = numbers_of(s.c.server);
	client = numbers_of(s.c.client);
	info = info_of(s.c.server);
	now = now_ns();
	block = seize_on(&s.c, &s.target, LO);
	guard = guard_of(&s.c.key);

	assert_int_equal(block.result, SEIZE_OK);
	assert_int_equal(block.ifindex, LO);
	assert_true(block.ifindex_out == LO || block.ifindex_out == 0);
	assert_int_equal(block.state, fin ? STATE_CLOSE_WAIT : STATE_ESTABLISHED);
	assert_int_equal(block.snd_wnd, server.window.snd_wnd);
	assert_int_equal(bpf->bss->n_guards, 1);
	assert_memory_equal(&block.guard, &guard, sizeof(guard));

	assert_true(guard.cookie == s.c.cookie);
	assert_true(guard.child_of == 0);
	assert_int_equal(guard.rcv_nxt, server.rcv_nxt);
	assert_int_equal(guard.rcv_nxt, client.snd_nxt);
	assert_int_equal(guard.first_seq, server.rcv_nxt - (uint32_t)len - fin);
	assert_int_equal(guard.snd_nxt, server.snd_nxt);
	assert_int_equal(guard.snd_nxt, client.rcv_nxt);
	assert_int_equal(guard.mss, server.mss);
	assert_int_equal(guard.options, options_of(s.c.server));
	assert_int_equal(guard.snd_wscale, info.tcpi_snd_wscale);
	assert_int_equal(guard.rcv_wscale, info.tcpi_rcv_wscale);
	/* TCP_TIMESTAMP tells something else by the lowest bit. */
	if (guard.options & OPTION_TSTAMP) {
		/* The client's clock at its last packet: a moment ago. */
		assert_in_range((client.tstamp | 1) - guard.ts_recent, 0, WAIT_MS);
		/* The clock that the socket shows now is that of the host and this. */
		assert_in_range((uint32_t)(now / NSEC_PER_MSEC) + guard.tsoffset - server.tstamp, 0,
				WAIT_MS);
	}
	assert_memory_equal(guard.target, &s.target.addr, 16);
	assert_int_equal(guard.target_port, htons(s.target.port));
	assert_int_equal(guard.parking, PARKING_ON);
	assert_int_equal(guard.seen | guard.n_held | guard.to_sniffer | guard.sniffer, 0);
	assert_int_equal(guard.adopt_error, 0);

	/* Not twice. */
	block = seize_on(&s.c, &s.target, LO);
	assert_int_equal(block.result, SEIZE_FULL);
	assert_int_equal(bpf->bss->n_guards, 1);
	scene_drop(&s);
	guard_remove(&s.c.key);
}

static void test_published(void **state)
{
	static const char *const addresses[] = { "127.0.0.1", "::1" };
	static const char *const sysctls[] = { "tcp_timestamps", "tcp_sack", "tcp_window_scaling" };

	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		published(addresses[i], 0, false);
		published(addresses[i], 0, true);
		published(addresses[i], 1000, false);
		published(addresses[i], 1000, true);
		for (size_t j = 0; j < ARRAY_SIZE(sysctls); j++) {
			sysctl_set(sysctls[j], 0);
			published(addresses[i], 100, false);
			sysctl_set(sysctls[j], 1);
		}
		sysctl_set("tcp_ecn", 1);
		published(addresses[i], 100, false);
		sysctl_set("tcp_ecn", 2);
	}
}

static void test_seize_gone(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	struct connection other = s.c;

	other.cookie++;
	expect_seize(&other, &s.target, SEIZE_GONE);
	other = s.c;
	/* Nobody but the listener has this one. */
	other.key.remote_port ^= htons(1);
	expect_seize(&other, &s.target, SEIZE_GONE);
	other = s.c;
	/* And nobody at all this one. */
	other.key.local_port = htons(1);
	expect_seize(&other, &s.target, SEIZE_GONE);
	/* We have shut down our side: neither established nor CLOSE_WAIT. */
	expect_seize(&s.c, &s.target, SEIZE_OK);
	assert_int_equal(shutdown(s.c.server, SHUT_WR), 0);
	expect_seize(&s.c, &s.target, SEIZE_GONE);
	reset(s.c.client);
	s.c.client = -1;
	assert_true(wait_until(info_of(s.c.server).tcpi_state == STATE_CLOSE));
	expect_seize(&s.c, &s.target, SEIZE_GONE);
	scene_drop(&s);
}

static void test_no_listener(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	struct endpoint other = endpoint_of("127.0.0.2", s.target.port);

	assert_int_equal(preflight("127.0.0.1", &s.target), SEIZE_OK);
	assert_int_equal(preflight("127.0.0.1", &other), SEIZE_NO_LISTENER);
	expect_seize(&s.c, &s.target, SEIZE_OK);
	expect_seize(&s.c, &other, SEIZE_NO_LISTENER);
	close(s.to);
	assert_int_equal(preflight("127.0.0.1", &s.target), SEIZE_NO_LISTENER);
	expect_seize(&s.c, &s.target, SEIZE_NO_LISTENER);
	s.to = -1;
	scene_drop(&s);
}

/* listen(fd, 0) has room for one. */
static void queue_full(const char *address)
{
	static const struct socket_options small = { .backlog = -1 };
	struct scene s = scene_make(address, NULL, &small);
	int client = connect_with(&s.target, NULL);
	int server;

	assert_true(ready(s.to, POLLIN, WAIT_MS));
	assert_int_equal(preflight(address, &s.target), SEIZE_QUEUE_FULL);
	expect_seize(&s.c, &s.target, SEIZE_QUEUE_FULL);
	server = accept_from(s.to);
	assert_int_equal(preflight(address, &s.target), SEIZE_OK);
	expect_seize(&s.c, &s.target, SEIZE_OK);
	close(server);
	close(client);
	scene_drop(&s);
}

static void test_queue_full(void **state)
{
	queue_full("127.0.0.1");
	queue_full("::1");
}

static void test_mptcp(void **state)
{
	static const struct socket_options mptcp = { .protocol = IPPROTO_MPTCP };
	struct scene s = scene_make("127.0.0.1", NULL, &mptcp);

	assert_int_equal(preflight("127.0.0.1", &s.target), SEIZE_MPTCP);
	expect_seize(&s.c, &s.target, SEIZE_MPTCP);
	scene_drop(&s);
	expect_scene("::1", NULL, &mptcp, SEIZE_MPTCP);
	/* An MPTCP client that a TCP listener has accepted is a TCP client. */
	expect_scene("127.0.0.1", &mptcp, NULL, SEIZE_OK);
}

/* On another port than the connection's. Before there is a connection that can't be told. */
static void test_no_reuse(void **state)
{
	static const struct socket_options no_reuse = { .no_reuse = true };
	struct scene s = scene_make("127.0.0.1", NULL, &no_reuse);
	struct connection same = connection_make("127.0.0.1", s.to, NULL);

	assert_int_equal(preflight("127.0.0.1", &s.target), SEIZE_OK);
	expect_seize(&s.c, &s.target, SEIZE_NO_REUSE);
	expect_seize(&same, &s.target, SEIZE_OK);
	connection_close(&same);
	scene_drop(&s);
	expect_scene("::1", NULL, &no_reuse, SEIZE_NO_REUSE);
}

/* Which listener can take which client; by what address it is looked up. */
static void test_family(void **state)
{
	static const struct {
		const char *client, *listener, *target;
		enum seize_result result;
	} table[] = {
		{ "127.0.0.1", "127.0.0.1", "127.0.0.1", SEIZE_OK },
		{ "127.0.0.1", "0.0.0.0", "127.0.0.1", SEIZE_OK },
		{ "127.0.0.1", "::", "127.0.0.1", SEIZE_OK },
		{ "127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1", SEIZE_OK },
		{ "127.0.0.1", "::1", "::1", SEIZE_OK },
		{ "127.0.0.1", "::1", "127.0.0.1", SEIZE_NO_LISTENER },
		{ "::1", "::1", "::1", SEIZE_OK },
		{ "::1", "::", "::1", SEIZE_OK },
		{ "::1", "::", "127.0.0.1", SEIZE_OK },
		{ "::1", "::ffff:127.0.0.1", "127.0.0.1", SEIZE_OK },
		{ "::1", "127.0.0.1", "127.0.0.1", SEIZE_FAMILY },
		{ "::1", "0.0.0.0", "127.0.0.1", SEIZE_FAMILY },
		{ "::1", "127.0.0.1", "::1", SEIZE_NO_LISTENER },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		int from = listen_on(table[i].client, 0, NULL);
		int to = listen_on(table[i].listener, 0, NULL);
		struct endpoint target = endpoint_of(table[i].target, local_of(to).port);
		struct connection c = connection_make(table[i].client, from, NULL);

		if (preflight(table[i].client, &target) != table[i].result)
			fail_msg("preflight of %s to %s at %s", table[i].client, table[i].listener,
				 table[i].target);
		expect_seize(&c, &target, table[i].result);
		connection_close(&c);
		close(from);
		close(to);
	}
}

static void test_mss(void **state)
{
	static const struct {
		const char *address;
		int mss;
		enum seize_result result;
	} table[] = {
		{ "127.0.0.1", 400, SEIZE_MSS }, { "127.0.0.1", 535, SEIZE_MSS },
		{ "127.0.0.1", 536, SEIZE_OK },	 { "::1", 536, SEIZE_MSS },
		{ "::1", 1219, SEIZE_MSS },	 { "::1", 1220, SEIZE_OK },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct socket_options options = { .mss = table[i].mss };

		expect_scene(table[i].address, &options, NULL, table[i].result);
	}
}

static void test_syncookies(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);

	sysctl_set("tcp_syncookies", 0);
	assert_int_equal(preflight("127.0.0.1", &s.target), SEIZE_SYNCOOKIES);
	expect_seize(&s.c, &s.target, SEIZE_SYNCOOKIES);
	sysctl_set("tcp_syncookies", 2);
	expect_seize(&s.c, &s.target, SEIZE_OK);
	sysctl_set("tcp_syncookies", 1);
	expect_seize(&s.c, &s.target, SEIZE_OK);
	scene_drop(&s);
}

static void test_options(void **state)
{
	static const char *const sysctls[] = { "tcp_timestamps", "tcp_sack", "tcp_window_scaling" };

	for (size_t i = 0; i < ARRAY_SIZE(sysctls); i++) {
		struct scene s = scene_make("127.0.0.1", NULL, NULL);

		sysctl_set(sysctls[i], 0);
		expect_seize(&s.c, &s.target, SEIZE_OPTIONS);
		/* Who never had it can be moved. */
		expect_scene("127.0.0.1", NULL, NULL, SEIZE_OK);
		sysctl_set(sysctls[i], 1);
		expect_seize(&s.c, &s.target, SEIZE_OK);
		scene_drop(&s);
	}
}

static void test_device(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	struct seize_block block;
	uint32_t other;

	run("ip link add dev0 type veth peer name dev1 && ip link set dev0 up");
	other = if_nametoindex("dev0");
	/* The test-run was made on another one. */
	device_guard(other, true);
	block = seize_on(&s.c, &s.target, other);
	assert_int_equal(block.result, SEIZE_DEVICE);
	assert_int_equal(block.ifindex, LO);
	expect_seize(&s.c, &s.target, SEIZE_OK);
	/* On the right one, but it is not guarded. */
	device_guard(LO, false);
	block = seize_on(&s.c, &s.target, LO);
	assert_int_equal(block.result, SEIZE_DEVICE);
	assert_int_equal(block.ifindex, LO);
	assert_int_equal(bpf->bss->n_guards, 0);
	run("ip link del dev0");
	scene_drop(&s);
}

/* In by one device, out by another: both have to be guarded. */
static void test_device_out(void **state)
{
	struct peer peer = peer_make();
	struct endpoint local = endpoint_of("10.9.0.1", 0);
	struct seize_block block;
	uint32_t in, out;
	struct scene s;

	run("ip link add in0 type veth peer name in1 netns $PEER &&"
	    "ip link add out0 type veth peer name out1 netns $PEER &&"
	    "ip link set in0 up && ip link set out0 up && ip addr add 10.9.0.1/32 dev in0 &&"
	    "ip route add 10.9.0.2 dev in0");
	run(IN_PEER "sh -c 'ip link set in1 up && ip link set out1 up &&"
		    "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done &&"
		    "ip addr add 10.9.0.2/32 dev in1 && ip route add 10.9.0.1 dev in1'");
	s = (struct scene){ .from = listen_on("10.9.0.1", 0, NULL),
			    .to = listen_on("10.9.0.1", 0, NULL) };
	s.target = local_of(s.to);
	local.port = local_of(s.from).port;
	s.c = connection_take(connect_from_peer(&peer, &local, NULL), s.from);
	run("ip route replace 10.9.0.2 dev out0");
	/* To send something is to look for the way anew. */
	send_pattern(s.c.server, 1, 0);
	expect_pattern(s.c.client, 1, 0);
	assert_true(wait_until(info_of(s.c.server).tcpi_unacked == 0));
	in = if_nametoindex("in0");
	out = if_nametoindex("out0");
	for (int guarded = 0; guarded < 4; guarded++) {
		if (guarded & 1)
			device_guard(in, true);
		if (guarded & 2)
			device_guard(out, true);
		block = seize_on(&s.c, &s.target, in);
		assert_int_equal(block.result, guarded == 3 ? SEIZE_OK : SEIZE_DEVICE);
		assert_int_equal(block.ifindex, in);
		assert_int_equal(block.ifindex_out, out);
		if (guarded & 1)
			device_guard(in, false);
		if (guarded & 2)
			device_guard(out, false);
	}
	scene_drop(&s);
	peer_drop(&peer);
}

/* Something that we have sent was not acknowledged yet. */
static void test_in_flight(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	unsigned unacked;
	struct seize_block block;

	do {
		/* The client waits a little before it acknowledges. */
		option_set(s.c.client, IPPROTO_TCP, TCP_QUICKACK, 0);
		send_pattern(s.c.server, 1, 0);
		block = seize_on(&s.c, &s.target, LO);
		unacked = info_of(s.c.server).tcpi_unacked;
		assert_true(block.result == SEIZE_STATE || !unacked);
		if (block.result == SEIZE_OK)
			guard_remove(&s.c.key);
	} while (!unacked);
	assert_true(wait_until(info_of(s.c.server).tcpi_unacked == 0));
	expect_seize(&s.c, &s.target, SEIZE_OK);
	scene_drop(&s);
}

static void test_unordered(void **state)
{
	struct scene s;
	struct numbers n;

	/* A segment without the option would be ignored. */
	sysctl_set("tcp_timestamps", 0);
	s = scene_make("127.0.0.1", NULL, NULL);
	n = numbers_of(s.c.server);
	raw_send((struct segment){ .key = &s.c.key,
				   .seq = n.rcv_nxt + 10,
				   .ack = n.snd_nxt,
				   .window = 1000,
				   .payload = (const uint8_t *)"behind",
				   .len = 6 });
	expect_seize(&s.c, &s.target, SEIZE_UNORDERED);
	/* The client fills the hole; what is beyond has come already. */
	send_pattern(s.c.client, 10, 0);
	assert_true(wait_until(unread(s.c.server) == 16));
	expect_seize(&s.c, &s.target, SEIZE_OK);
	sysctl_set("tcp_timestamps", 1);
	scene_drop(&s);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_make, bench_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_published),  TEST(test_seize_gone), TEST(test_no_listener),
		TEST(test_queue_full), TEST(test_mptcp),      TEST(test_no_reuse),
		TEST(test_family),     TEST(test_mss),	      TEST(test_syncookies),
		TEST(test_options),    TEST(test_device),     TEST(test_device_out),
		TEST(test_in_flight),  TEST(test_unordered),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, namespace_make, NULL);
}
