/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For tests of whole hand-offs, of steered connections, on every kind of way in:
 *
 *   second namespace             this one
 *   10.77.0.2, fd77::2 --- veth --- 10.77.0.1, fd77::1: sniffer, web server (443), responder
 *                                   127.0.0.1, ::1: clients as well
 */
#ifndef HANDOFF_BENCH_H
#define HANDOFF_BENCH_H

#include "bench.h"
#include "guards.h"
#include "handoff.h"
#include "steer.h"

#define PORT 443

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

static inline int topology_make(void **state)
{
	namespace_make(state);
	peer = peer_make();
	peer_wire();
	return 0;
}

static inline int topology_drop(void **state)
{
	peer_drop(&peer);
	return 0;
}

static inline int bench_make(void **state)
{
	char error[512];

	if (guards_new(&guards, NULL, error, sizeof(error)) ||
	    steer_new(1, NULL, &steer, error, sizeof(error)) || steer_attach(steer, error, sizeof(error)))
		fail_msg("%s", error);
	assert_int_equal(handoff_worker_new(guards, &worker), 0);
	sniffer = listen_on("::ffff:127.0.0.1", 0, NULL);
	assert_int_equal(steer_set_sniffer(steer, 0, sniffer), 0);
	assert_int_equal(guards_set_sniffer(guards, 0, sniffer), 0);
	steer_lease(steer, PORT, UINT64_MAX, false);
	return 0;
}

static inline int bench_drop(void **state)
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
static inline unsigned resets_now(void)
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

static inline struct connection connection_of(const struct place *place,
					      const struct socket_options *options)
{
	struct endpoint to = endpoint_of(place->address, PORT);

	return connection_take(place->from_peer ? connect_from_peer(&peer, &to, options)
						: connect_with(&to, options),
			       sniffer);
}

static inline void wait_unread(const struct connection *c, unsigned len)
{
	assert_true(wait_until(unread(c->server) == len));
}

/* ---- hand-offs ---- */

static inline struct handoff_job job_of(const struct connection *c, const struct endpoint *target)
{
	return (struct handoff_job){
		.remote = c->remote, .local = c->local, .target = *target, .cookie = c->cookie
	};
}

static inline bool fd_is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* Begins it; what becomes of the descriptor is as handoff.h says. */
static inline enum handoff_answer begin(struct handoff_job *job, struct connection *c)
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
static inline int adopted_by(int listener, const struct connection *c)
{
	int fd = accept_from(listener);
	struct endpoint remote = peer_of(fd), local = local_of(fd);

	assert_true(endpoint_equal(&remote, &c->remote));
	assert_true(endpoint_equal(&local, &c->local));
	assert_true(cookie_of(fd) != c->cookie);
	return fd;
}

static inline void hand_off(struct connection *c, const struct endpoint *target, int listener)
{
	struct handoff_job job = job_of(c, target);

	assert_int_equal(carry_on(&job, begin(&job, c), false), HANDOFF_DONE);
	c->server = adopted_by(listener, c);
	c->cookie = cookie_of(c->server);
}

/* More data both ways, then both ends. */
static inline void expect_works(struct connection *c, size_t sent)
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

static inline int web_server_at(const struct place *place, const struct socket_options *options)
{
	return listen_on(place->address, PORT, options);
}

#define for_each_place(place) \
	for (const struct place *place = places; place < places + ARRAY_SIZE(places); place++)

/* ---- a long gap ---- */

/* A firewall between guard_ingress and TCP drops what is @match. */
static inline void drop_begin(const char *match)
{
	char command[256];

	snprintf(
		command, sizeof(command),
		"nft 'table inet gap { chain input { type filter hook input priority 0; %s drop; };"
		" }'",
		match);
	run(command);
}

/* No new socket is made meanwhile. */
static inline void gap_begin(const struct connection *c)
{
	char match[64];

	snprintf(match, sizeof(match), "tcp sport %u tcp dport %u", c->remote.port, c->local.port);
	drop_begin(match);
}

static inline void gap_end(void)
{
	run("nft delete table inet gap");
}

/* A connection that has left the sniffer and got nowhere yet. */
static inline enum handoff_answer begin_in_gap(struct handoff_job *job, struct connection *c,
					       size_t len)
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_make, bench_drop)

#endif
