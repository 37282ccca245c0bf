/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * What guard_egress does with packets from a guarded connection: what the old socket must not say
 * any more. Only where a packet's owner counts is the guard attached, to lo.
 */
#include "verdict_bench.h"

static void test_egress(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct flow_key other = keys[i];
		static const struct {
			uint32_t rcv_nxt, ack;
			int verdict;
		} table[] = {
			{ RCV_NXT, RCV_NXT, NEXT },
			{ RCV_NXT, RCV_NXT - 1, NEXT },
			{ RCV_NXT, RCV_NXT - 1000, NEXT },
			{ RCV_NXT, RCV_NXT + 1, DROP },
			{ RCV_NXT, RCV_NXT + 60000, DROP },
			{ 0xffffffff, 0xffffffff, NEXT },
			{ 0xffffffff, 0, DROP },
			{ 5, 0xfffffff0, NEXT },
			{ 0x7fffffff, 0x80000000, DROP },
			{ 0x80000000, 0x7fffffff, NEXT },
		};
		struct wire wire;

		/* No guard: everything passes. */
		wire = wire_out(&keys[i], SND_NXT, RCV_NXT + 1, true);
		expect_out(&wire, NEXT, NO_COUNT);
		other.local_port ^= htons(1);
		guard_set(&other, &usual_guard);
		expect_out(&wire, NEXT, NO_COUNT);
		guard_remove(&other);
		/* What comes from the client is not for egress. */
		guard_set(&keys[i], &usual_guard);
		wire = wire_in(&keys[i], RCV_NXT, 10);
		expect_out(&wire, NEXT, NO_COUNT);
		/* Resets, whatever they acknowledge. */
		wire = wire_out(&keys[i], SND_NXT, RCV_NXT, true);
		expect_out(&wire, DROP, COUNTER_EGRESS_RST);
		wire = wire_out(&keys[i], SND_NXT, RCV_NXT - 100, true);
		expect_out(&wire, DROP, COUNTER_EGRESS_RST);
		wire = wire_out(&keys[i], 0, RCV_NXT + 1, true);
		expect_out(&wire, DROP, COUNTER_EGRESS_RST);
		for (size_t j = 0; j < ARRAY_SIZE(table); j++) {
			struct guard guard = usual_guard;

			guard.rcv_nxt = table[j].rcv_nxt;
			guard_set(&keys[i], &guard);
			wire = wire_out(&keys[i], SND_NXT, table[j].ack, false);
			expect_out(&wire, table[j].verdict,
				   table[j].verdict == DROP ? COUNTER_EGRESS_ACK : NO_COUNT);
		}
		/* Nobody took these for the new socket's. */
		assert_true(guard_of(&keys[i]).child_of == 0);
		guard_remove(&keys[i]);
	}
}

/* ---- packets of real sockets ---- */

/* The old socket may say what it said before, and nothing more. */
static void test_egress_old_socket(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	int link = attach(bpf->progs.guard_egress, ATTACH_TCX_EGRESS);
	struct guard guard = { .cookie = s.c.cookie, .rcv_nxt = numbers_of(s.c.server).rcv_nxt };

	guard_set(&s.c.key, &guard);
	send_pattern(s.c.server, 10, 0);
	expect_pattern(s.c.client, 10, 0);
	expect_counter(NO_COUNT);
	/* It takes a byte; that must not be told. */
	send_pattern(s.c.client, 1, 0);
	assert_true(wait_until(unread(s.c.server) == 1));
	assert_true(wait_until(counter_now(COUNTER_EGRESS_ACK) > 0));
	assert_int_equal(info_of(s.c.client).tcpi_unacked, 1);
	assert_true(guard_of(&s.c.key).child_of == 0);
	/* It is gone; neither must that. */
	assert_int_equal(counter_now(COUNTER_EGRESS_RST), 0);
	reset(s.c.server);
	s.c.server = -1;
	assert_int_equal(counter_now(COUNTER_EGRESS_RST), 1);
	assert_int_equal(info_of(s.c.client).tcpi_state, STATE_ESTABLISHED);
	close(link);
	scene_drop(&s);
}

/* The new socket may say anything. */
static void test_egress_new_socket(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	int link = attach(bpf->progs.guard_egress, ATTACH_TCX_EGRESS);
	struct guard guard = { .cookie = s.c.cookie + 1,
			       .rcv_nxt = numbers_of(s.c.server).rcv_nxt };

	guard_set(&s.c.key, &guard);
	send_pattern(s.c.client, 10, 0);
	assert_true(wait_until(info_of(s.c.client).tcpi_unacked == 0));
	assert_true(guard_of(&s.c.key).child_of == guard.cookie);
	reset(s.c.server);
	s.c.server = -1;
	assert_true(wait_until(info_of(s.c.client).tcpi_state == STATE_CLOSE));
	expect_counter(NO_COUNT);
	close(link);
	scene_drop(&s);
}

/* A reset in answer to a packet that found only a listener: nobody's but, since 6.13, its own. */
static void test_egress_listener(void **state)
{
	int listener = listen_on("127.0.0.1", 0, NULL);
	int link = attach(bpf->progs.guard_egress, ATTACH_TCX_EGRESS);
	struct endpoint remote = endpoint_of("127.0.0.1", 40000), local = local_of(listener);
	struct guard guard = { .cookie = 1, .rcv_nxt = RCV_NXT };
	struct flow_key key;
	struct segment segment = { .key = &key, .seq = RCV_NXT, .ack = SND_NXT, .window = 100 };

	key_fill(&key, &remote, &local);
	guard_set(&key, &guard);
	raw_send(segment);
	assert_int_equal(counter_now(COUNTER_EGRESS_RST), 1);
	assert_true(guard_of(&key).child_of == 0);
	expect_counter(COUNTER_EGRESS_RST);
	close(link);
	close(listener);
}

/* ---- after the hand-off ---- */

static void released_set(const struct flow_key *key, uint64_t until_ns)
{
	struct released moment = { .until_ns = until_ns, .snd_nxt = SND_NXT };

	assert_int_equal(bpf_map__update_elem(bpf->maps.released, key, sizeof(*key), &moment,
					      sizeof(moment), BPF_ANY),
			 0);
}

/* A reset that is late by a moment is dropped, if it stands where the old socket's would. */
static void test_late_reset(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct wire late = wire_out(&keys[i], SND_NXT, RCV_NXT, true);
		struct wire later = wire_out(&keys[i], SND_NXT + 1, RCV_NXT, true);
		struct wire data = wire_out(&keys[i], SND_NXT, RCV_NXT + 1, false);
		struct flow_key other = keys[i];
		struct wire others;

		other.remote_port ^= htons(1);
		others = wire_out(&other, SND_NXT, RCV_NXT, true);
		bpf->bss->released_until_ns = UINT64_MAX;
		expect_out(&late, NEXT, NO_COUNT);
		released_set(&keys[i], UINT64_MAX);
		expect_out(&late, DROP, COUNTER_LATE_RST);
		expect_out(&late, DROP, COUNTER_LATE_RST);
		expect_out(&later, NEXT, NO_COUNT);
		expect_out(&data, NEXT, NO_COUNT);
		expect_out(&others, NEXT, NO_COUNT);
		/* The moment of another one has not passed, this one's has. */
		released_set(&keys[i], coarse_ns());
		expect_out(&late, NEXT, NO_COUNT);
		/* There is none at all. */
		released_set(&keys[i], UINT64_MAX);
		bpf->bss->released_until_ns = coarse_ns();
		expect_out(&late, NEXT, NO_COUNT);
		/* What has passed is forgotten; the next one counts as the first did. */
		assert_true(bpf->bss->released_until_ns == 0);
		expect_out(&late, NEXT, NO_COUNT);
		bpf->bss->released_until_ns = coarse_ns() + NSEC_PER_SEC;
		expect_out(&late, DROP, COUNTER_LATE_RST);
		assert_true(bpf->bss->released_until_ns != 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_egress),
		TEST(test_egress_old_socket),
		TEST(test_egress_new_socket),
		TEST(test_egress_listener),
		TEST(test_late_reset),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, namespace_make, NULL);
}
