/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: handoff.c handoff_replay.c primer.c translated.c guards.c guard_devices.c requests.c listeners.c devices.c steer.c shared_maps.c segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/* Hand-offs with a long gap: what happens before the new socket is there. */
#include "handoff_bench.h"

static uint64_t counter_now(enum guard_counter counter)
{
	uint64_t now[GUARD_COUNTER_COUNT];

	guards_counters(guards, now);
	return now[counter];
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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
