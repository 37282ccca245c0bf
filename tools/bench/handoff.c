/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: handoff.c handoff_replay.c primer.c translated.c guards.c guard_devices.c requests.c listeners.c devices.c shared_maps.c segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * The CPU time of one hand-off, handoff_begin() from seize to commit: `make bench-handoff`.
 *
 *   second namespace             this one
 *   10.77.0.2, fd77::2 --- veth --- 10.77.0.1, fd77::1: sniffer, web server
 *
 * One thread does it all, so what else the machine does shows least here. The time includes making
 * the new socket, since the kernel does that while the segment is injected. For a direct connection
 * it does the same, and what that takes is measured by turns with it: a client's segment that ends a
 * handshake with the web server is injected in the same way, and one that is dropped as soon as it
 * has been injected. What the kernel spends on the socket is the difference of those two; the rest
 * of a hand-off is our own. It does not include the two accept() and the sniffer's peek, nor
 * anybody's wake-up: nobody waits for the listener.
 */
#include <net/if.h>
#include <time.h>

#include "bench.h"
#include "guards.h"
#include "handoff.h"

#define WARM_UP 200
#define COUNT	2000

#define SEGMENT_MAX 1448

/* What clients say to the one that is injected to, behind their SYN, does not get here. */
#define DIRECT_PORT 444

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
	run(IN_PEER "nft 'table inet silent { chain output { type filter hook output priority 0;"
		    " tcp dport 444 tcp flags & syn == 0 drop; }; }'");
	/* A segment made here can't know what the server's clock has told the client. */
	run(IN_PEER "sysctl -qw net.ipv4.tcp_timestamps=0");
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

/* What the kernel spends on the socket that it makes of a handshake's last segment, with so many
 * bytes. */
static uint64_t one_direct(const struct endpoint *to, int web, size_t bytes)
{
	static uint8_t payload[SEGMENT_MAX], frame[SEGMENT_HEADERS_MAX + SEGMENT_MAX];
	int client = connect_from_peer(&peer, to, NULL), server, err;
	struct endpoint remote = local_of(client);
	struct numbers numbers = numbers_of(client);
	const struct guards_device *device = guards_device(guards, if_nametoindex("v0"), &err);
	struct flow_key key;
	struct segment segment = {
		.key = &key, .seq = numbers.snd_nxt, .ack = numbers.rcv_nxt, .window = 502
	};
	uint64_t began, spent, stale;
	size_t len;

	assert_non_null(device);
	key_fill(&key, &remote, to);
	pattern_fill(payload, bytes, 0);
	segment.mac = device->mac;
	segment.payload = payload;
	segment.len = bytes;
	len = segment_build(&segment, frame, sizeof(frame));
	assert_true(len > 0);
	/* As one of a hand-off that is over: guard_ingress drops it. */
	began = cpu_ns();
	err = guards_inject(guards, device, frame, len, MARK_INJECT);
	stale = cpu_ns() - began;
	assert_int_equal(err, 0);
	assert_false(ready(web, POLLIN, 0));
	began = cpu_ns();
	err = guards_inject(guards, device, frame, len, 0);
	spent = cpu_ns() - began;
	assert_int_equal(err, 0);
	server = accept_from(web);
	expect_pattern(server, bytes, 0);
	reset(server);
	reset(client);
	return spent > stale ? spent - stale : 0;
}

static double percentile_us(uint64_t *spent, int percent)
{
	qsort(spent, COUNT, sizeof(*spent), compare);
	return (double)spent[COUNT * percent / 100] / 1e3;
}

static void measure(const char *address, size_t bytes)
{
	static uint64_t spent[COUNT], direct[COUNT], own[COUNT];
	int web, direct_web;
	struct endpoint at, target, direct_at;

	/* Connections are made to the sniffer itself: nothing needs to steer. */
	sniffer = listen_on(address, 0, NULL);
	at = local_of(sniffer);
	assert_int_equal(guards_set_sniffer(guards, 0, sniffer), 0);
	web = listen_on(address, 0, NULL);
	target = local_of(web);
	direct_web = listen_on(address, DIRECT_PORT, NULL);
	direct_at = local_of(direct_web);
	for (int i = -WARM_UP; i < COUNT; i++) {
		uint64_t ns = one(&at, &target, web, bytes);
		uint64_t direct_ns = one_direct(&direct_at, direct_web, bytes);

		if (i < 0)
			continue;
		spent[i] = ns;
		direct[i] = direct_ns;
		own[i] = ns > direct_ns ? ns - direct_ns : 0;
	}
	printf("| %s | %zu | %.1f | %.1f | %.1f | %.1f |\n", endpoint_is_v4(&at) ? "IPv4" : "IPv6",
	       bytes, percentile_us(spent, 50), percentile_us(spent, 90), percentile_us(direct, 50),
	       percentile_us(own, 50));
	close(sniffer);
	close(web);
	close(direct_web);
}

static void hand_offs(void **state)
{
	static const size_t sizes[] = { 0, 517, 1400 };

	printf("| a hand-off's CPU time, µs | bytes | p50 | p90 | of it the socket, p50 | our own, p50 |\n|---|---|---|---|---|---|\n");
	for (int i = 0; i < 2; i++)
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
			measure(i ? "fd77::1" : "10.77.0.1", sizes[k]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(hand_offs) };

	if (unprivileged())
		return 1;
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
