/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: handoff.c primer.c translated.c guards.c steer.c segment.c bpf_util.c log.c log_record.c addr.c
/*
 * Whole hand-offs by handoff.h, of steered connections, on every kind of way in:
 *
 *   second namespace             this one
 *   10.77.0.2, fd77::2 --- veth --- 10.77.0.1, fd77::1: sniffer, web server (443), responder
 *                                   127.0.0.1, ::1: clients as well
 */
#include <sys/ioctl.h>

#include "bench.h"
#include "guards.h"
#include "handoff.h"
#include "steer.h"

#define PORT	  443
#define RESPONDER 31443

static const struct place {
	const char *address;
	bool from_peer;
} places[] = {
	{ "127.0.0.1", false },
	{ "::1", false },
	{ "10.77.0.1", true },
	{ "fd77::1", true },
};

static struct peer peer;
static struct guards *guards;
static struct handoff_worker *worker;
static struct steer *steer;
static int sniffer;
static unsigned n_pending; /* hand-offs that were not over at once */

/* ---- set-up ---- */

static int topology_make(void **state)
{
	namespace_make(state);
	peer = peer_make();
	peer_wire();
	return 0;
}

static int topology_drop(void **state)
{
	peer_drop(&peer);
	return 0;
}

static int bench_make(void **state)
{
	char error[512];

	if (guards_new(&guards, error, sizeof(error)) ||
	    steer_new(1, &steer, error, sizeof(error)) || steer_attach(steer, error, sizeof(error)))
		fail_msg("%s", error);
	assert_int_equal(handoff_worker_new(guards, &worker), 0);
	sniffer = listen_on("::ffff:127.0.0.1", 0, NULL);
	assert_int_equal(steer_set_sniffer(steer, 0, sniffer), 0);
	assert_int_equal(guards_set_sniffer(guards, 0, sniffer), 0);
	steer_lease(steer, PORT, UINT64_MAX);
	return 0;
}

static int bench_drop(void **state)
{
	steer_free(steer);
	handoff_worker_free(worker);
	guards_free(guards);
	close(sniffer);
	if (system("nft delete table inet gap 2>/dev/null")) {
		/* None of the tests has left it. */
	}
	return 0;
}

/* Resets that both namespaces have sent until now. */
static unsigned resets_now(void)
{
	const int namespaces[] = { peer.ns, peer.own_ns };
	unsigned sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
		char line[512] = "";
		unsigned resets = 0;
		FILE *file;

		assert_int_equal(setns(namespaces[i], CLONE_NEWNET), 0);
		file = fopen("/proc/thread-self/net/snmp", "re");
		assert_non_null(file);
		while (fgets(line, sizeof(line), file))
			if (sscanf(line,
				   "Tcp: %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %u",
				   &resets) == 1)
				break;
		fclose(file);
		sum += resets;
	}
	return sum;
}

static uint64_t counter_now(enum guard_counter counter)
{
	uint64_t now[GUARD_COUNTER_COUNT];

	guards_counters(guards, now);
	return now[counter];
}

static struct connection connection_of(const struct place *place,
				       const struct socket_options *options)
{
	struct endpoint to = endpoint_of(place->address, PORT);

	return connection_take(place->from_peer ? connect_from_peer(&peer, &to, options)
						: connect_with(&to, options),
			       sniffer);
}

static void wait_unread(const struct connection *c, unsigned len)
{
	assert_true(wait_until(unread(c->server) == len));
}

/* ---- hand-offs ---- */

static struct handoff_job job_of(const struct connection *c, const struct endpoint *target)
{
	return (struct handoff_job){
		.remote = c->remote, .local = c->local, .target = *target, .cookie = c->cookie
	};
}

static bool fd_is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* Begins it; what becomes of the descriptor is as handoff.h says. */
static enum handoff_answer begin(struct handoff_job *job, struct connection *c)
{
	enum handoff_answer answer = handoff_begin(worker, job, c->server);
	bool kept = answer == HANDOFF_AGAIN || answer == HANDOFF_REFUSED || answer == HANDOFF_GONE;

	assert_int_equal(fd_is_open(c->server), kept);
	assert_int_equal(job->bytes != NULL, answer == HANDOFF_PENDING);
	assert_int_equal(guards_count(guards), answer == HANDOFF_PENDING);
	if (!kept)
		c->server = -1;
	n_pending += answer == HANDOFF_PENDING;
	return answer;
}

/* Continues as a worker does, when it is time; until it is no longer pending, or @enough. */
#define carry_on(job, answer, enough)                                        \
	({                                                                   \
		enum handoff_answer _answer = (answer);                      \
		uint64_t _give_up = now_ns() + WAIT_MS * NSEC_PER_MSEC;      \
		while (_answer == HANDOFF_PENDING && !(enough)) {            \
			assert_true(now_ns() < _give_up);                    \
			while (now_ns() < (job)->next_ns)                    \
				sched_yield();                               \
			_answer = handoff_continue(worker, (job), now_ns()); \
		}                                                            \
		if (_answer != HANDOFF_PENDING) {                            \
			assert_int_equal(guards_count(guards), 0);           \
			assert_null((job)->bytes);                           \
		}                                                            \
		_answer;                                                     \
	})

/* The listener's new socket is that connection. */
static int adopted_by(int listener, const struct connection *c)
{
	int fd = accept_from(listener);
	struct endpoint remote = peer_of(fd), local = local_of(fd);

	assert_true(endpoint_equal(&remote, &c->remote));
	assert_true(endpoint_equal(&local, &c->local));
	assert_true(cookie_of(fd) != c->cookie);
	return fd;
}

static void hand_off(struct connection *c, const struct endpoint *target, int listener)
{
	struct handoff_job job = job_of(c, target);

	assert_int_equal(carry_on(&job, begin(&job, c), false), HANDOFF_DONE);
	c->server = adopted_by(listener, c);
	c->cookie = cookie_of(c->server);
}

/* More data both ways, then both ends. */
static void expect_works(struct connection *c, size_t sent)
{
	send_pattern(c->client, 3000, sent);
	expect_pattern(c->server, 3000, sent);
	send_pattern(c->server, 20000, 7);
	expect_pattern(c->client, 20000, 7);
	assert_int_equal(shutdown(c->server, SHUT_WR), 0);
	expect_end(c->client);
	close(c->client);
	expect_end(c->server);
	close(c->server);
}

static int web_server_at(const struct place *place, const struct socket_options *options)
{
	return listen_on(place->address, PORT, options);
}

#define for_each_place(place) \
	for (const struct place *place = places; place < places + ARRAY_SIZE(places); place++)

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

/* ---- with a long gap ---- */

/* A firewall between guard_ingress and TCP: no new socket is made while it drops. */
static void gap_begin(const struct connection *c)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "nft 'table inet gap { chain input { type filter hook input priority 0;"
		 " tcp sport %u tcp dport %u drop; }; }'",
		 c->remote.port, c->local.port);
	run(command);
}

static void gap_end(void)
{
	run("nft delete table inet gap");
}

/* A connection that has left the sniffer and got nowhere yet. */
static enum handoff_answer begin_in_gap(struct handoff_job *job, struct connection *c, size_t len)
{
	enum handoff_answer answer;

	if (len)
		send_pattern(c->client, len, 0);
	wait_unread(c, (unsigned)len);
	gap_begin(c);
	*job = job_of(c, &c->local);
	answer = begin(job, c);
	assert_int_equal(answer, HANDOFF_PENDING);
	return answer;
}

static void test_gap(void **state)
{
	static const size_t sizes[] = { 0, 517, 20000 };

	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);

		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			uint64_t held = counter_now(COUNTER_HELD);
			unsigned resets = resets_now();
			struct connection c = connection_of(place, NULL);
			struct handoff_job job;
			enum handoff_answer answer = begin_in_gap(&job, &c, sizes[i]);

			/* One at a time, so that each is a packet. */
			option_set(c.client, IPPROTO_TCP, TCP_NODELAY, 1);
			for (size_t n = 0; n < 5; n++) {
				send_pattern(c.client, 100, sizes[i] + n * 100);
				assert_true(wait_until(counter_now(COUNTER_HELD) > held + n));
			}
			answer = carry_on(&job, answer, job.injections > 0);
			assert_int_equal(answer, HANDOFF_PENDING);
			assert_false(ready(web_server, POLLIN, 0));
			gap_end();
			assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
			c.server = adopted_by(web_server, &c);
			expect_pattern(c.server, sizes[i] + 500, 0);
			expect_works(&c, sizes[i] + 500);
			assert_int_equal(resets_now(), resets);
		}
		close(web_server);
	}
}

/* The client says its last word in the gap. */
static void test_gap_fin(void **state)
{
	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		uint64_t held = counter_now(COUNTER_HELD);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job;
		enum handoff_answer answer = begin_in_gap(&job, &c, 517);

		send_pattern(c.client, 100, 517);
		assert_int_equal(shutdown(c.client, SHUT_WR), 0);
		assert_true(wait_until(counter_now(COUNTER_HELD) > held));
		gap_end();
		assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
		c.server = adopted_by(web_server, &c);
		expect_pattern(c.server, 617, 0);
		expect_end(c.server);
		send_pattern(c.server, 1000, 7);
		expect_pattern(c.client, 1000, 7);
		connection_close(&c);
		close(web_server);
	}
}

/* The web server stops in the gap: the sniffer has it back, and hands it off once more. */
static void test_back_to_sniffer(void **state)
{
	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		unsigned resets = resets_now();
		struct connection c = connection_of(place, NULL);
		struct handoff_job job;
		enum handoff_answer answer = begin_in_gap(&job, &c, 3700);

		close(web_server);
		gap_end();
		assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
		assert_true(job.went_back);
		c.server = adopted_by(sniffer, &c);
		c.cookie = cookie_of(c.server);
		wait_unread(&c, 3700);

		web_server = web_server_at(place, NULL);
		hand_off(&c, &c.local, web_server);
		expect_pattern(c.server, 3700, 0);
		expect_works(&c, 3700);
		assert_int_equal(resets_now(), resets);
		close(web_server);
	}
}

/* The queue has filled up in the gap. */
static void test_queue_fills_up(void **state)
{
	static const struct socket_options small = { .backlog = -1 };

	for_each_place(place)
	{
		int web_server = web_server_at(place, &small);
		struct connection first = connection_of(place, NULL);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job;
		enum handoff_answer answer = begin_in_gap(&job, &c, 517);
		struct handoff_job first_job = job_of(&first, &first.local);
		uint64_t adopted;

		assert_int_equal(handoff_begin(worker, &first_job, first.server), HANDOFF_DONE);
		assert_true(ready(web_server, POLLIN, WAIT_MS));
		gap_end();
		adopted = counter_now(COUNTER_ADOPTED);
		answer = carry_on(&job, answer, counter_now(COUNTER_ADOPTED) >= adopted + 3);
		assert_int_equal(answer, HANDOFF_PENDING);
		first.server = adopted_by(web_server, &first);
		assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
		assert_false(job.went_back);
		c.server = adopted_by(web_server, &c);
		expect_pattern(c.server, 517, 0);
		expect_works(&c, 517);
		expect_works(&first, 0);
		close(web_server);
	}
}

/* Given up: the client is told, and nothing is left. */
static void test_lost(void **state)
{
	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job;
		enum handoff_answer answer = begin_in_gap(&job, &c, 517);
		char byte;

		answer = handoff_continue(worker, &job, job.began_ns + HANDOFF_DEADLINE_NS);
		assert_int_equal(answer, HANDOFF_PENDING);
		assert_true(info_of(c.client).tcpi_state == 1);
		answer = handoff_continue(worker, &job, job.began_ns + HANDOFF_DEADLINE_NS + 1);
		assert_int_equal(answer, HANDOFF_LOST);
		assert_null(job.bytes);
		assert_int_equal(guards_count(guards), 0);
		gap_end();
		assert_true(ready(c.client, POLLIN, WAIT_MS));
		assert_int_equal(recv(c.client, &byte, 1, 0), -1);
		assert_int_equal(errno, ECONNRESET);
		close(c.client);
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_make, bench_drop)

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
		TEST(test_refused),
		TEST(test_unfreeze),
		TEST(test_client_gone),
		TEST(test_gap),
		TEST(test_gap_fin),
		TEST(test_back_to_sniffer),
		TEST(test_queue_fills_up),
		TEST(test_lost),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, topology_make, topology_drop);
}
