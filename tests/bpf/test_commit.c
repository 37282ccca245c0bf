/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/* What handoff_commit and handoff_replay say of the new socket, and when they take the guard entry
 * away. */
#include "guard_bench.h"

static struct commit_block commit(const struct flow_key *key, uint32_t flags, uint32_t taken)
{
	struct commit_block block = { .key = *key, .flags = flags, .n_held = taken, .result = 99 };
	int err;

	bpf_util_run(bpf_program__fd(bpf->progs.handoff_commit), &block, sizeof(block), &block, LO,
		     0, &err);
	assert_int_equal(err, 0);
	return block;
}

/* And the entry is there afterwards unless it is over. */
static struct commit_block expect_commit(const struct flow_key *key, uint32_t flags, uint32_t taken,
					 enum commit_result result, bool over)
{
	struct commit_block block = commit(key, flags, taken);
	struct guard guard;

	if (block.result != result)
		fail_msg("commit: %u, not %u", block.result, result);
	assert_int_equal(guard_get(key, &guard), !over);
	assert_int_equal(bpf->bss->n_guards, !over);
	return block;
}

static bool is_released(const struct flow_key *key)
{
	struct released moment;

	return bpf_map__lookup_elem(bpf->maps.released, key, sizeof(*key), &moment, sizeof(moment),
				    0) == 0;
}

/* For a moment it is known what was there. */
static void expect_released(const struct flow_key *key, uint64_t since_ns)
{
	struct released moment;

	assert_int_equal(bpf_map__lookup_elem(bpf->maps.released, key, sizeof(*key), &moment,
					      sizeof(moment), 0),
			 0);
	assert_int_equal(moment.snd_nxt, SND_NXT);
	assert_in_range(moment.until_ns, since_ns + RELEASED_NS, coarse_ns() + RELEASED_NS);
	assert_true(bpf->bss->released_until_ns == moment.until_ns);
}

static void test_commit_no_child(void **state)
{
	struct guard guard = usual_guard;
	struct commit_block block;
	uint64_t before;

	for (size_t i = 0; i < 2; i++) {
		guard = usual_guard;
		guard.seen = 3;
		guard.adopt_error = -EINVAL;
		guard.n_held = 2;
		expect_commit(&keys[i], 0, 0, COMMIT_NO_GUARD, true);
		guard_set(&keys[i], &guard);
		block = expect_commit(&keys[i], 0, 0, COMMIT_NO_CHILD, false);
		assert_int_equal(block.state, 0);
		assert_int_equal(block.seen, 3);
		assert_int_equal(block.adopt_error, -EINVAL);
		assert_int_equal(block.n_held, 2);
		assert_int_equal(guard_of(&keys[i]).parking, PARKING_ON);
		assert_int_equal(guard_of(&keys[i]).to_sniffer, 0);
		expect_commit(&keys[i], COMMIT_RELEASE, 0, COMMIT_NO_CHILD, false);
		expect_commit(&keys[i], COMMIT_STOP_PARKING, 0, COMMIT_NO_CHILD, false);
		assert_int_equal(guard_of(&keys[i]).parking, PARKING_DROP);
		assert_int_equal(guard_of(&keys[i]).to_sniffer, 0);
		expect_commit(&keys[i], COMMIT_TO_SNIFFER, 0, COMMIT_NO_CHILD, false);
		assert_int_equal(guard_of(&keys[i]).to_sniffer, 1);
		block = expect_commit(&keys[i], COMMIT_GIVE_UP, 0, COMMIT_NO_CHILD, true);
		assert_int_equal(block.n_held, 2);
		/* The process's own reset may follow. */
		assert_false(is_released(&keys[i]));
		/* It was seen, and is gone again. */
		guard.child_of = guard.cookie;
		guard_set(&keys[i], &guard);
		before = coarse_ns();
		expect_commit(&keys[i], 0, 2, COMMIT_DONE, true);
		expect_released(&keys[i], before);
	}
}

static void commit_child(const char *address)
{
	struct scene s = scene_make(address, NULL, NULL);
	uint32_t rcv_nxt;
	struct guard guard;
	struct commit_block block;
	struct flow_key listener = s.c.key;
	uint64_t before;

	send_pattern(s.c.client, 100, 0);
	assert_true(wait_until(unread(s.c.server) == 100));
	rcv_nxt = numbers_of(s.c.server).rcv_nxt;
	guard = (struct guard){ .cookie = 1, .rcv_nxt = rcv_nxt + 1, .snd_nxt = SND_NXT };

	/* A listener is not the new socket. */
	listener.remote_port ^= htons(1);
	guard_set(&listener, &guard);
	block = expect_commit(&listener, 0, 0, COMMIT_NO_CHILD, false);
	assert_int_equal(block.state, STATE_LISTEN);
	guard_remove(&listener);

	guard_set(&s.c.key, &guard);
	block = expect_commit(&s.c.key, 0, 0, COMMIT_INCOMPLETE, false);
	assert_int_equal(block.rcv_nxt, rcv_nxt);
	assert_int_equal(block.state, STATE_ESTABLISHED);
	expect_commit(&s.c.key, COMMIT_RELEASE, 0, COMMIT_INCOMPLETE, false);
	guard.rcv_nxt = rcv_nxt + 0x7fffffff;
	guard_set(&s.c.key, &guard);
	expect_commit(&s.c.key, 0, 0, COMMIT_INCOMPLETE, false);

	guard.rcv_nxt = rcv_nxt;
	guard.n_held = 3;
	guard.parking = PARKING_ON;
	guard_set(&s.c.key, &guard);
	block = expect_commit(&s.c.key, 0, 2, COMMIT_HELD, false);
	assert_int_equal(block.n_held, 3);
	assert_int_equal(guard_of(&s.c.key).parking, PARKING_PASS);
	before = coarse_ns();
	block = expect_commit(&s.c.key, 0, 3, COMMIT_DONE, true);
	expect_released(&s.c.key, before);
	assert_int_equal(block.n_held, 3);
	guard_set(&s.c.key, &guard);
	expect_commit(&s.c.key, COMMIT_RELEASE, 2, COMMIT_DONE, true);
	/* It may have got more than was frozen. */
	guard.rcv_nxt = rcv_nxt - 50;
	guard.n_held = 0;
	guard_set(&s.c.key, &guard);
	expect_commit(&s.c.key, 0, 0, COMMIT_DONE, true);

	/* It had everything, answered and closed: all that is left is its TIME_WAIT. */
	expect_pattern(s.c.server, 100, 0);
	close(s.c.server);
	expect_end(s.c.client);
	close(s.c.client);
	s.c.server = s.c.client = -1;
	guard.rcv_nxt = rcv_nxt + 2;
	guard_set(&s.c.key, &guard);
	assert_true(wait_until(commit(&s.c.key, 0, 0).state == STATE_TIME_WAIT));
	expect_commit(&s.c.key, 0, 0, COMMIT_NO_GUARD, true);
	scene_drop(&s);
}

static void test_commit_child(void **state)
{
	commit_child("127.0.0.1");
	commit_child("::1");
}

/* Of a segment of five bytes. */
static uint32_t replay(const struct flow_key *key, uint32_t seq, unsigned runs)
{
	static const uint8_t mac[6];
	const struct segment segment = {
		.key = key, .mac = mac, .seq = seq, .len = 5, .payload = (const uint8_t *)"hello"
	};
	int fd = bpf_program__fd(bpf->progs.handoff_replay);
	uint8_t frame[256];
	size_t len = segment_build(&segment, frame, sizeof(frame));
	int err, answer;

	answer = runs == 1 ? bpf_util_run(fd, frame, len, NULL, LO, MARK_INJECT, &err)
			   : bpf_util_run_twice(fd, frame, len, LO, MARK_INJECT, &err);
	assert_int_equal(err, 0);
	return (uint32_t)answer;
}

/* The second run is a commit without flags, of the frame's connection. Nobody has the addresses. */
static void test_replay(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct guard guard = usual_guard;
		uint64_t before;

		assert_int_equal(replay(&keys[i], FIRST_SEQ, 2), REPLAY_INJECTED);
		guard_set(&keys[i], &guard);
		assert_int_equal(replay(&keys[i], FIRST_SEQ, 2), REPLAY_INJECTED);
		assert_int_equal(guard_of(&keys[i]).parking, PARKING_ON);
		guard.child_of = guard.cookie;
		guard.n_held = 2;
		guard_set(&keys[i], &guard);
		/* Packets are held: that is for the process. */
		assert_int_equal(replay(&keys[i], FIRST_SEQ, 2), REPLAY_INJECTED);
		assert_int_equal(guard_of(&keys[i]).parking, PARKING_PASS);
		assert_false(is_released(&keys[i]));
		guard.n_held = 0;
		guard_set(&keys[i], &guard);
		/* Nothing is said of a connection by the run that injects. */
		assert_int_equal(replay(&keys[i], FIRST_SEQ, 1), REPLAY_FAILED);
		assert_int_equal(bpf->bss->n_guards, 1);
		before = coarse_ns();
		assert_int_equal(replay(&keys[i], FIRST_SEQ, 2), REPLAY_DONE);
		expect_released(&keys[i], before);
		assert_int_equal(bpf->bss->n_guards, 0);
		assert_int_equal(replay(&keys[i], FIRST_SEQ, 2), REPLAY_INJECTED);
	}
}

/* There is a new socket, and more to come: only if it has got just as far as the segment does. */
static void replay_more(const char *address)
{
	struct scene s = scene_make(address, NULL, NULL);
	struct guard guard = { .cookie = 1, .snd_nxt = SND_NXT };
	uint32_t rcv_nxt;

	send_pattern(s.c.client, 100, 0);
	assert_true(wait_until(unread(s.c.server) == 100));
	rcv_nxt = numbers_of(s.c.server).rcv_nxt;
	guard.rcv_nxt = rcv_nxt + 1;
	guard_set(&s.c.key, &guard);
	assert_int_equal(replay(&s.c.key, rcv_nxt - 5, 2), REPLAY_TAKEN);
	assert_int_equal(replay(&s.c.key, rcv_nxt - 6, 2), REPLAY_INJECTED);
	assert_int_equal(replay(&s.c.key, rcv_nxt - 50, 2), REPLAY_INJECTED);
	assert_int_equal(bpf->bss->n_guards, 1);
	guard.rcv_nxt = rcv_nxt;
	guard_set(&s.c.key, &guard);
	assert_int_equal(replay(&s.c.key, rcv_nxt - 5, 2), REPLAY_DONE);
	assert_int_equal(bpf->bss->n_guards, 0);
	expect_pattern(s.c.server, 100, 0);
	scene_drop(&s);
}

static void test_replay_more(void **state)
{
	replay_more("127.0.0.1");
	replay_more("::1");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, keys_make, bench_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_commit_no_child),
		TEST(test_commit_child),
		TEST(test_replay),
		TEST(test_replay_more),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, namespace_make, NULL);
}
