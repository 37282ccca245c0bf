/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: handoff.c handoff_replay.c primer.c translated.c guards.c guard_devices.c requests.c listeners.c devices.c steer.c shared_maps.c segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/* Hand-offs that are over at once, or as soon as the target takes more. */
#include <sys/ioctl.h>

#include "handoff_bench.h"

#define RESPONDER 31443

static void web_server(const struct place *place)
{
	static const size_t sizes[] = { 0, 1, 517, 1380, 1800, 3700, 20000, 60000 };
	int web_server = web_server_at(place, NULL);

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		unsigned resets = resets_now();
		struct connection c = connection_of(place, NULL);

		if (sizes[i])
			send_pattern(c.client, sizes[i], 0);
		wait_unread(&c, (unsigned)sizes[i]);
		hand_off(&c, &c.local, web_server);
		expect_pattern(c.server, sizes[i], 0);
		expect_works(&c, sizes[i]);
		assert_int_equal(resets_now(), resets);
	}
	close(web_server);
}

static void test_web_server(void **state)
{
	for_each_place(place) web_server(place);
}

/* Packets take the way over another CPU: the new socket is not there when the injection returns. */
static void test_other_cpu(void **state)
{
	cpu_set_t all, first;

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	assert_int_equal(sched_setaffinity(0, sizeof(first), &first), 0);
	run("unshare -m sh -c 'mount -t sysfs none /sys &&"
	    " echo 2 >/sys/class/net/v0/queues/rx-0/rps_cpus'");
	n_pending = 0;
	for_each_place(place) for (int i = 0; i < 20 && place->from_peer; i++) web_server(place);
	assert_true(n_pending > 0 || CPU_COUNT(&all) == 1);
	run("unshare -m sh -c 'mount -t sysfs none /sys &&"
	    " echo 0 >/sys/class/net/v0/queues/rx-0/rps_cpus'");
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

/* What both ends agreed on, and where they are: the new socket goes on just there. */
static void same_numbers(const struct place *place)
{
	const uint8_t options =
		TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE | TCPI_OPT_ECN;
	int web_server = listen_on(place->address, PORT, NULL);
	struct connection c = connection_of(place, NULL);
	struct tcp_info old_info, info;
	struct numbers old, new;

	send_pattern(c.client, 517, 0);
	wait_unread(&c, 517);
	old_info = info_of(c.server);
	old = numbers_of(c.server);
	option_set(c.server, SOL_SOCKET, SO_REUSEADDR, 1);
	hand_off(&c, &c.local, web_server);
	info = info_of(c.server);
	new = numbers_of(c.server);
	option_set(c.server, SOL_SOCKET, SO_REUSEADDR, 1);

	assert_int_equal(info.tcpi_options & options, old_info.tcpi_options & options);
	assert_int_equal(info.tcpi_snd_wscale, old_info.tcpi_snd_wscale);
	assert_int_equal(info.tcpi_rcv_wscale, old_info.tcpi_rcv_wscale);
	assert_int_equal(new.mss, old.mss);
	assert_int_equal(new.rcv_nxt, old.rcv_nxt);
	assert_int_equal(new.snd_nxt, old.snd_nxt);
	/* Less what is lost by scaling. */
	assert_in_range(old.window.snd_wnd - new.window.snd_wnd, 0,
			(1u << info.tcpi_snd_wscale) - 1);
	/* Its clock goes on; the lowest bit tells something else. */
	if (info.tcpi_options & TCPI_OPT_TIMESTAMPS)
		assert_in_range((new.tstamp | 1) - old.tstamp, 0, WAIT_MS);
	expect_pattern(c.server, 517, 0);
	expect_works(&c, 517);
	close(web_server);
}

static void test_same_numbers(void **state)
{
	static const char *const sysctls[] = { "tcp_timestamps", "tcp_sack", "tcp_window_scaling" };

	for_each_place(place)
	{
		same_numbers(place);
		for (size_t i = 0; i < ARRAY_SIZE(sysctls); i++) {
			sysctl_set(sysctls[i], 0);
			same_numbers(place);
			sysctl_set(sysctls[i], 1);
		}
		/* On lo both ends then ask for it. */
		sysctl_set("tcp_ecn", 1);
		same_numbers(place);
		sysctl_set("tcp_ecn", 2);
	}
}

/* The client has ended its side already. */
static void test_fin(void **state)
{
	static const size_t sizes[] = { 0, 1, 517, 20000 };

	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);

		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			unsigned resets = resets_now();
			struct connection c = connection_of(place, NULL);

			if (sizes[i])
				send_pattern(c.client, sizes[i], 0);
			assert_int_equal(shutdown(c.client, SHUT_WR), 0);
			wait_unread(&c, (unsigned)sizes[i]);
			assert_true(wait_until(info_of(c.server).tcpi_state == 8));
			hand_off(&c, &c.local, web_server);
			expect_pattern(c.server, sizes[i], 0);
			expect_end(c.server);
			send_pattern(c.server, 20000, 7);
			expect_pattern(c.client, 20000, 7);
			close(c.server);
			expect_end(c.client);
			close(c.client);
			assert_int_equal(resets_now(), resets);
		}
		close(web_server);
	}
}

/* The responder has another address and port, and perhaps another family. */
static void test_responder(void **state)
{
	static const struct {
		const char *listener, *target;
	} table[] = { { "127.0.0.1", "127.0.0.1" }, { "::1", "::1" }, { "::", "127.0.0.1" } };

	for_each_place(place)
	{
		for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
			int responder = listen_on(table[i].listener, RESPONDER, NULL);
			struct endpoint target = endpoint_of(table[i].target, RESPONDER);
			struct connection c = connection_of(place, NULL);
			bool v6 = !endpoint_is_v4(&c.local);

			send_pattern(c.client, 517, 0);
			wait_unread(&c, 517);
			if (v6 && i == 0) {
				struct handoff_job job = job_of(&c, &target);

				assert_int_equal(begin(&job, &c), HANDOFF_REFUSED);
				assert_int_equal(job.result, SEIZE_FAMILY);
			} else {
				hand_off(&c, &target, responder);
			}
			expect_pattern(c.server, 517, 0);
			expect_works(&c, 517);
			close(responder);
		}
	}
}

/* A web server whose sockets take little at a time: the rest waits with us. */
static void test_small_window(void **state)
{
	static const struct socket_options small = { .receive_buffer = 4096 };
	const size_t len = 60000;

	for_each_place(place)
	{
		int web_server = web_server_at(place, &small);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job = job_of(&c, &c.local);
		enum handoff_answer answer;
		uint8_t bytes[60000], expected[60000];
		size_t got = 0;

		pattern_fill(expected, len, 0);
		send_pattern(c.client, len, 0);
		wait_unread(&c, len);
		answer = begin(&job, &c);
		assert_int_equal(answer, HANDOFF_PENDING);
		answer = carry_on(&job, answer, ready(web_server, POLLIN, 0));
		assert_int_equal(answer, HANDOFF_PENDING);
		c.server = adopted_by(web_server, &c);
		while (got < len) {
			ssize_t n = recv(c.server, bytes + got, len - got, MSG_DONTWAIT);

			got += n > 0 ? (size_t)n : 0;
			answer = carry_on(&job, answer, ready(c.server, POLLIN, 0));
			if (answer != HANDOFF_PENDING)
				break;
		}
		assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
		assert_true(got > 0);
		assert_memory_equal(bytes, expected, got);
		expect_pattern(c.server, len - got, got);
		expect_works(&c, len);
		close(web_server);
	}
}

/* Nothing has happened to the connection; it can be handed off later. */
static void test_queue_full(void **state)
{
	static const struct socket_options small = { .backlog = -1 };

	for_each_place(place)
	{
		int web_server = web_server_at(place, &small);
		struct connection first = connection_of(place, NULL);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job = job_of(&c, &c.local), first_job;

		send_pattern(c.client, 517, 0);
		wait_unread(&c, 517);
		first_job = job_of(&first, &first.local);
		assert_int_equal(carry_on(&first_job, begin(&first_job, &first), false),
				 HANDOFF_DONE);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(begin(&job, &c), HANDOFF_AGAIN);
			assert_int_equal(job.result, SEIZE_QUEUE_FULL);
		}
		send_pattern(c.client, 100, 517);
		wait_unread(&c, 617);
		first.server = adopted_by(web_server, &first);
		hand_off(&c, &c.local, web_server);
		expect_pattern(c.server, 617, 0);
		expect_works(&c, 617);
		expect_works(&first, 0);
		close(web_server);
	}
}

/* A packet that guard_socket has let pass is waited for, as it may be late; but not for ever. */
static void test_late_packet(void **state)
{
	const struct place *lo = &places[0];
	int web_server = web_server_at(lo, NULL);
	struct connection c = connection_of(lo, NULL);
	struct numbers n = numbers_of(c.server);
	struct handoff_job job = job_of(&c, &c.local);
	/* It acknowledges what was never sent: the socket won't have it, tcp_ack(). */
	struct segment never_comes = { .key = &c.key,
				       .seq = n.rcv_nxt,
				       .ack = n.snd_nxt + 1000,
				       .window = 1000,
				       .payload = (const uint8_t *)"late",
				       .len = 4 };
	enum handoff_answer answer;
	uint64_t began;

	raw_send(never_comes);
	assert_int_equal(begin(&job, &c), HANDOFF_AGAIN);
	assert_int_equal(job.result, SEIZE_UNORDERED);
	assert_int_equal(unread(c.server), 0);
	send_pattern(c.client, 517, 0);
	wait_unread(&c, 517);
	hand_off(&c, &c.local, web_server);
	expect_pattern(c.server, 517, 0);
	expect_works(&c, 517);

	c = connection_of(lo, NULL);
	n = numbers_of(c.server);
	job = job_of(&c, &c.local);
	send_pattern(c.client, 517, 0);
	wait_unread(&c, 517);
	never_comes.key = &c.key;
	never_comes.seq = n.rcv_nxt + 517;
	never_comes.ack = n.snd_nxt + 1000;
	raw_send(never_comes);
	began = now_ns();
	do
		answer = begin(&job, &c);
	while (answer == HANDOFF_AGAIN && now_ns() - began < WAIT_MS * NSEC_PER_MSEC);
	assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
	assert_true(now_ns() - began >= 50 * NSEC_PER_MSEC);
	c.server = adopted_by(web_server, &c);
	expect_pattern(c.server, 517, 0);
	expect_works(&c, 517);
	close(web_server);
}

static void test_refused(void **state)
{
	static const struct socket_options small = { .mss = 400 };

	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		struct connection c = connection_of(place, &small);
		struct handoff_job job = job_of(&c, &c.local);

		send_pattern(c.client, 517, 0);
		wait_unread(&c, 517);
		assert_int_equal(begin(&job, &c), HANDOFF_REFUSED);
		assert_int_equal(job.result, SEIZE_MSS);
		assert_false(ready(web_server, POLLIN, 0));
		expect_pattern(c.server, 517, 0);
		expect_works(&c, 517);
		close(web_server);

		c = connection_of(place, NULL);
		job = job_of(&c, &c.local);
		assert_int_equal(begin(&job, &c), HANDOFF_AGAIN);
		assert_int_equal(job.result, SEIZE_NO_LISTENER);
		expect_works(&c, 0);
	}
}

/* Else the web server could not bind its port while we have the connection. */
static bool is_reusable(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, &len), 0);
	return value;
}

/* More than we move: found out when the connection is frozen already. */
static void test_unfreeze(void **state)
{
	const size_t len = HANDOFF_MAX_BYTES + 1000000;

	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		struct connection c;
		struct handoff_job job;
		size_t sent = 0;

		option_set(sniffer, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
		c = connection_of(place, NULL);
		while (sent < len) {
			uint8_t bytes[65536];
			size_t n = MIN(sizeof(bytes), len - sent);
			ssize_t done;

			pattern_fill(bytes, n, sent);
			assert_true(ready(c.client, POLLOUT, WAIT_MS));
			done = send(c.client, bytes, n, MSG_DONTWAIT);
			assert_true(done > 0);
			sent += (size_t)done;
		}
		assert_true(wait_until(({
			int n = 0;

			assert_int_equal(ioctl(c.server, FIONREAD, &n), 0);
			n == (int)len;
		})));
		job = job_of(&c, &c.local);
		assert_int_equal(begin(&job, &c), HANDOFF_REFUSED);
		assert_int_equal(job.result, SEIZE_STATE);
		assert_true(is_reusable(c.server));
		expect_pattern(c.server, len, 0);
		send_pattern(c.server, 20000, 7);
		expect_pattern(c.client, 20000, 7);
		close(c.client);
		expect_end(c.server);
		close(c.server);
		assert_false(ready(web_server, POLLIN, 0));
		close(web_server);
	}
}

static void test_client_gone(void **state)
{
	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job = job_of(&c, &c.local);

		send_pattern(c.client, 517, 0);
		wait_unread(&c, 517);
		reset(c.client);
		assert_true(wait_until(info_of(c.server).tcpi_state == 7 /* CLOSE */));
		assert_int_equal(begin(&job, &c), HANDOFF_GONE);
		close(c.server);
		assert_false(ready(web_server, POLLIN, 0));
		close(web_server);
	}
}

/* Devices are guarded once each, and no longer than the guards live. */
static void test_devices(void **state)
{
	const struct guards_device *lo, *again;
	int err;

	lo = guards_device(guards, LO, &err);
	assert_non_null(lo);
	assert_int_equal(err, 0);
	assert_int_equal(lo->ifindex, LO);
	assert_int_equal(lo->mtu, 65536);
	assert_memory_equal(lo->mac, "\0\0\0\0\0", 6);
	again = guards_device(guards, LO, &err);
	assert_ptr_equal(again, lo);
	assert_null(guards_device(guards, 4242, &err));
	assert_int_equal(err, -ENODEV);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_devices),
		TEST(test_web_server),
		TEST(test_other_cpu),
		TEST(test_same_numbers),
		TEST(test_fin),
		TEST(test_responder),
		TEST(test_small_window),
		TEST(test_queue_full),
		TEST(test_late_packet),
		TEST(test_refused),
		TEST(test_unfreeze),
		TEST(test_client_gone),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, topology_make, topology_drop);
}
