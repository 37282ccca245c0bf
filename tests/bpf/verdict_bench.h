/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests of what the guards do with a packet: packets made here, verdicts, what is counted. */
#ifndef VERDICT_BENCH_H
#define VERDICT_BENCH_H

#include "guard_bench.h"

#define NO_COUNT GUARD_COUNTER_COUNT

enum { NEXT = -1, DROP = 2, REDIRECT = 7 };

static const char *const counter_names[] = {
#define COUNTER_NAME(id, name, text) name,
	GUARD_COUNTERS(COUNTER_NAME)
};

static uint64_t counters_before[GUARD_COUNTER_COUNT];

/* Since the last time, @counter has gone up by one and no other has; NO_COUNT: none. */
static inline void expect_counter(unsigned counter)
{
	uint64_t now[GUARD_COUNTER_COUNT];

	bpf_util_sum(bpf_map__fd(bpf->maps.guard_counters), GUARD_COUNTER_COUNT, now);
	for (unsigned i = 0; i < GUARD_COUNTER_COUNT; i++)
		if (now[i] != counters_before[i] + (i == counter))
			fail_msg("counter %s: from %lu to %lu", counter_names[i],
				 counters_before[i], now[i]);
	memcpy(counters_before, now, sizeof(now));
}

static inline uint64_t counter_now(enum guard_counter counter)
{
	uint64_t now[GUARD_COUNTER_COUNT];

	bpf_util_sum(bpf_map__fd(bpf->maps.guard_counters), GUARD_COUNTER_COUNT, now);
	return now[counter];
}

/* ---- packets made here ---- */

struct wire {
	uint8_t frame[4096];
	size_t len;
	uint32_t ifindex; /* where it comes in, or goes out; 0: lo */
	bool merged;	  /* by GRO, or not split yet by GSO */
};

static const uint8_t wire_mac[6] = { 2, 0, 0, 0, 0, 1 };

static inline struct flow_key reversed(const struct flow_key *key)
{
	struct flow_key other = { .remote_port = key->local_port, .local_port = key->remote_port };

	memcpy(other.remote, key->local, 16);
	memcpy(other.local, key->remote, 16);
	return other;
}

static inline struct wire wire_of(struct segment segment, size_t len)
{
	static uint8_t payload[3000];
	struct wire wire = {};

	pattern_fill(payload, sizeof(payload), 0);
	segment.mac = wire_mac;
	segment.payload = payload;
	segment.len = len;
	wire.len = segment_build(&segment, wire.frame, sizeof(wire.frame));
	assert_true(wire.len > 0);
	return wire;
}

/* From the client to us. */
static inline struct wire wire_in(const struct flow_key *key, uint32_t seq, size_t len)
{
	return wire_of((struct segment){ .key = key, .seq = seq, .ack = SND_NXT, .window = 100 },
		       len);
}

/* From us to the client. */
static inline struct wire wire_out(const struct flow_key *key, uint32_t seq, uint32_t ack, bool rst)
{
	struct flow_key other = reversed(key);

	return wire_of((struct segment){ .key = &other, .seq = seq, .ack = ack, .rst = rst }, 0);
}

/* The verdict on a packet with skb->mark *mark, which is then what the program made of it. */
static inline int verdict(struct bpf_program *program, const struct wire *wire, uint32_t *mark)
{
	struct __sk_buff skb = { .mark = *mark,
				 .ifindex = wire->ifindex ? wire->ifindex : LO,
				 .gso_segs = wire->merged ? 3 : 0,
				 .gso_size = wire->merged ? 1000 : 0 };
	uint8_t out[4096];
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = wire->frame,
		    .data_size_in = (uint32_t)wire->len, .data_out = out,
		    .data_size_out = sizeof(out), .ctx_in = &skb, .ctx_size_in = sizeof(skb),
		    .ctx_out = &skb, .ctx_size_out = sizeof(skb));

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(program), &opts), 0);
	assert_int_equal(opts.data_size_out, wire->len);
	assert_memory_equal(out, wire->frame, wire->len);
	*mark = skb.mark;
	return (int)opts.retval;
}

static inline void expect_verdict(struct bpf_program *program, const struct wire *wire,
				  uint32_t mark, int answer, uint32_t mark_after, unsigned counter)
{
	uint32_t mark_before = mark;
	int got = verdict(program, wire, &mark);

	if (got != answer || mark != mark_after)
		fail_msg("mark %#x: verdict %d, mark %#x; not %d, %#x", mark_before, got, mark,
			 answer, mark_after);
	expect_counter(counter);
}

static inline void expect_in(const struct wire *wire, uint32_t mark, int answer,
			     uint32_t mark_after, unsigned counter)
{
	expect_verdict(bpf->progs.guard_ingress, wire, mark, answer, mark_after, counter);
}

static inline void expect_out(const struct wire *wire, int answer, unsigned counter)
{
	expect_verdict(bpf->progs.guard_egress, wire, 0x5a5a, answer, 0x5a5a, counter);
}

static inline int guard_bench_make(void **state)
{
	memset(counters_before, 0, sizeof(counters_before));
	return keys_make(state);
}

/* ---- packets of real sockets ---- */

static inline int attach(struct bpf_program *program, int where)
{
	int link = bpf_link_create(bpf_program__fd(program), LO, where, NULL);

	assert_true(link >= 0);
	return link;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, guard_bench_make, bench_drop)

#endif
