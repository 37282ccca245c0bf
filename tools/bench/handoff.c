/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: handoff.c handoff_replay.c primer.c translated.c guards.c requests.c listeners.c devices.c shared_maps.c segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * The CPU time of one hand-off, handoff_begin() from seize to commit: `make bench-handoff`.
 *
 *   second namespace             this one
 *   10.77.0.2, fd77::2 --- veth --- 10.77.0.1, fd77::1: sniffer, web server
 *
 * One thread does it all, so what else the machine does shows least here. The time includes making
 * the new socket, since the kernel does that while the segment is injected; for a direct connection
 * it does the same. It does not include the two accept() and the sniffer's peek, nor anybody's
 * wake-up: nobody waits for the listener.
 */
#include <time.h>

#include "bench.h"
#include "guards.h"
#include "handoff.h"

#define WARM_UP 200
#define COUNT	2000

static struct peer peer;
static struct guards *guards;
static struct handoff_worker *worker;
static int sniffer;

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *one = a, *other = b;

	return (*one > *other) - (*one < *other);
}

static int set_up(void **state)
{
	char error[512];

	namespace_make(state);
	peer = peer_make();
	peer_wire();
	if (guards_new(&guards, NULL, error, sizeof(error)))
		fail_msg("%s", error);
	assert_int_equal(handoff_worker_new(guards, &worker), 0);
	return 0;
}

static int tear_down(void **state)
{
	handoff_worker_free(worker);
	guards_free(guards);
	peer_drop(&peer);
	return 0;
}

/* One connection with so many bytes to be read, from its connect() to both ends' close(). */
static uint64_t one(const struct endpoint *at, const struct endpoint *target, int web, size_t bytes)
{
	struct connection c = connection_take(connect_from_peer(&peer, at, NULL), sniffer);
	struct handoff_job job = {
		.remote = c.remote, .local = c.local, .target = *target, .cookie = c.cookie
	};
	uint64_t began, spent;
	enum handoff_answer answer;

	send_pattern(c.client, bytes, 0);
	assert_true(wait_until(unread(c.server) == bytes));
	began = cpu_ns();
	answer = handoff_begin(worker, &job, c.server);
	spent = cpu_ns() - began;
	/* Else it was no hand-off, or not all of it. */
	assert_int_equal(answer, HANDOFF_DONE);
	c.server = accept_from(web);
	expect_pattern(c.server, bytes, 0);
	reset(c.client);
	close(c.server);
	return spent;
}

static void measure(const char *address, size_t bytes)
{
	static uint64_t spent[COUNT];
	int web;
	struct endpoint at, target;

	/* Connections are made to the sniffer itself: nothing needs to steer. */
	sniffer = listen_on(address, 0, NULL);
	at = local_of(sniffer);
	assert_int_equal(guards_set_sniffer(guards, 0, sniffer), 0);
	web = listen_on(address, 0, NULL);
	target = local_of(web);
	for (int i = -WARM_UP; i < COUNT; i++) {
		uint64_t ns = one(&at, &target, web, bytes);

		if (i >= 0)
			spent[i] = ns;
	}
	qsort(spent, COUNT, sizeof(*spent), compare);
	printf("| %s | %zu | %.1f | %.1f | %.1f |\n", endpoint_is_v4(&at) ? "IPv4" : "IPv6", bytes,
	       (double)spent[COUNT / 10] / 1e3, (double)spent[COUNT / 2] / 1e3,
	       (double)spent[COUNT * 9 / 10] / 1e3);
	close(sniffer);
	close(web);
}

static void hand_offs(void **state)
{
	printf("| a hand-off's CPU time, us | bytes | p10 | p50 | p90 |\n|---|---|---|---|---|\n");
	for (int i = 0; i < 2; i++)
		for (size_t bytes = 0; bytes <= 1800; bytes = bytes ? bytes + 1283 : 517)
			measure(i ? "fd77::1" : "10.77.0.1", bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(hand_offs) };

	if (unprivileged())
		return 1;
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
