/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For tests of steer.bpf.c: each has a steer of its own with one sniffer, attached, and asks the
 * very program that is attached for its verdict by BPF_PROG_TEST_RUN.
 */
#ifndef STEER_BENCH_H
#define STEER_BENCH_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>

#include "bench.h"
#include "steer.h"

#define PORT	 443
#define NO_COUNT STEER_COUNTER_COUNT
#define FOREVER	 UINT64_MAX

struct bench {
	struct steer *steer;
	int program; /* the one attached to this namespace */
	int sniffer;
	char error[512];
};

/* ---- set-up ---- */

/* The sk_lookup program of this network namespace; -1: none is attached. */
static inline int program_attached(void)
{
	struct stat netns;
	uint32_t id = 0;
	int program = -1;

	assert_int_equal(stat("/proc/self/ns/net", &netns), 0);
	while (bpf_link_get_next_id(id, &id) == 0) {
		_cleanup_close_ int link = bpf_link_get_fd_by_id(id);
		struct bpf_link_info info = {};
		uint32_t len = sizeof(info);

		if (link < 0 || bpf_obj_get_info_by_fd(link, &info, &len) ||
		    info.type != BPF_LINK_TYPE_NETNS || info.netns.netns_ino != netns.st_ino)
			continue;
		assert_int_equal(program, -1);
		assert_int_equal(info.netns.attach_type, BPF_SK_LOOKUP);
		program = bpf_prog_get_fd_by_id(info.prog_id);
		assert_true(program >= 0);
	}
	return program;
}

static inline int sniffer_make(bool v6_only)
{
	const struct socket_options options = { .v6_only = v6_only };

	return listen_on(v6_only ? "::1" : "::ffff:127.0.0.1", 0, &options);
}

static inline int bench_make(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	if (steer_new(1, NULL, &b->steer, b->error, sizeof(b->error)) ||
	    steer_attach(b->steer, b->error, sizeof(b->error)))
		fail_msg("%s", b->error);
	b->program = program_attached();
	assert_true(b->program >= 0);
	b->sniffer = sniffer_make(false);
	assert_int_equal(steer_set_sniffer(b->steer, 0, b->sniffer), 0);
	*state = b;
	return 0;
}

static inline int bench_drop(void **state)
{
	struct bench *b = *state;

	close(b->program);
	steer_free(b->steer);
	if (b->sniffer >= 0)
		close(b->sniffer);
	assert_int_equal(program_attached(), -1);
	free(b);
	return 0;
}

/* ---- verdicts ---- */

struct lookup {
	const char *remote;
	uint16_t remote_port;
	const char *local;
	uint16_t local_port;
	int protocol;
};

static const struct lookup usual = { "192.0.2.1", 40000, "192.0.2.2", PORT, IPPROTO_TCP };
static const struct lookup v6 = { "2001:db8::1", 40000, "2001:db8::2", PORT, IPPROTO_TCP };

/* Which socket does the program choose for this packet? Its cookie; 0: it passes. */
static inline uint64_t verdict(struct bench *b, const struct lookup *lookup)
{
	struct endpoint remote = endpoint_of(lookup->remote, lookup->remote_port);
	struct endpoint local = endpoint_of(lookup->local, lookup->local_port);
	struct bpf_sk_lookup ctx = { .protocol = (uint32_t)lookup->protocol,
				     .remote_port = htons(remote.port),
				     .local_port = local.port };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx),
		    .ctx_out = &ctx, .ctx_size_out = sizeof(ctx));

	if (endpoint_is_v4(&remote)) {
		ctx.family = AF_INET;
		memcpy(&ctx.remote_ip4, &remote.addr.s6_addr[12], 4);
		memcpy(&ctx.local_ip4, &local.addr.s6_addr[12], 4);
	} else {
		ctx.family = AF_INET6;
		memcpy(ctx.remote_ip6, &remote.addr, 16);
		memcpy(ctx.local_ip6, &local.addr, 16);
	}
	assert_int_equal(bpf_prog_test_run_opts(b->program, &opts), 0);
	assert_int_equal(opts.retval, 1 /* SK_PASS: never SK_DROP */);
	return ctx.cookie;
}

/* @counter goes up by exactly one and no other does; NO_COUNT: none. */
static inline void expect_verdict(struct bench *b, const struct lookup *lookup, uint64_t cookie,
				  unsigned counter)
{
	uint64_t before[STEER_COUNTER_COUNT], after[STEER_COUNTER_COUNT];

	steer_counters(b->steer, before);
	assert_true(verdict(b, lookup) == cookie);
	steer_counters(b->steer, after);
	for (unsigned i = 0; i < STEER_COUNTER_COUNT; i++)
		if (after[i] != before[i] + (i == counter))
			fail_msg("counter %s: from %lu to %lu", steer_counter_names[i], before[i],
				 after[i]);
}

static inline void expect_steered(struct bench *b, const struct lookup *lookup)
{
	expect_verdict(b, lookup, cookie_of(b->sniffer), COUNTER_STEERED);
}

static inline void expect_passed(struct bench *b, const struct lookup *lookup, unsigned counter)
{
	expect_verdict(b, lookup, 0, counter);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_make, bench_drop)

#endif
