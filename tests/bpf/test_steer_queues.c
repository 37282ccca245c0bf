/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: steer.c shared_maps.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * The decision of steer.bpf.c when a sniffer's queues are full, or SYN cookies are sent: by
 * verdicts and by connections over lo.
 */
#include "steer_bench.h"

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
	struct syn_cookie_times *times = steer_syn_cookie_times(b->steer, FAMILY_V4);

	*times = (struct syn_cookie_times){ flood_ns, sniffers_take_ns, server_takes_ns };
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

	steer_lease(b->steer, PORT, FOREVER, false);
	cookies(b, 0, 0, 0, COUNTER_STEERED);
	cookies(b, now, 0, 0, COUNTER_PASSED_COOKIES);
	cookies(b, now, later, 0, COUNTER_STEERED);
	cookies(b, now, now, 0, COUNTER_PASSED_COOKIES);
	cookies(b, now - MIN(now - 1, SYN_COOKIE_VALID_NS), 0, 0,
		now > SYN_COOKIE_VALID_NS ? COUNTER_STEERED : COUNTER_PASSED_COOKIES);
}

/* And sends none that the web server does not take: no more handshakes than there is room for. */
static void test_full_of_handshakes(void **state)
{
	struct bench *b = *state;
	struct endpoint direct = local_of(b->sniffer);
	const struct syn_cookie_times *times = steer_syn_cookie_times(b->steer, FAMILY_V4);
	int clients[4];

	steer_lease(b->steer, PORT, FOREVER, false);
	/* The handshake ends with the first byte. */
	option_set(b->sniffer, IPPROTO_TCP, TCP_DEFER_ACCEPT, 60);
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
	steer_syn_cookie_times(b->steer, FAMILY_V6)->server_takes_ns = FOREVER;
	steer_syn_cookie_times(b->steer, FAMILY_V4)->server_takes_ns = FOREVER;
	expect_passed(b, &usual, COUNTER_PASSED_COOKIES);
	steer_syn_cookie_times(b->steer, FAMILY_V4)->sniffers_take_ns = FOREVER;
	expect_steered(b, &usual);
	close_some(clients, 4);
}

static void test_overload(void **state)
{
	struct bench *b = *state;

	steer_lease(b->steer, PORT, FOREVER, false);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_overload),
		TEST(test_cookies),
		TEST(test_full_of_handshakes),
		TEST(test_queues),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, namespace_make, NULL);
}
