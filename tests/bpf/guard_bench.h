/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests of the programs of handoff.bpf.c one by one: loaded anew for each test, not attached.
 */
#ifndef GUARD_BENCH_H
#define GUARD_BENCH_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>

#include "bench.h"
#include "bpf_util.h"
#include "handoff.skel.h"

/* include/net/tcp_states.h */
#define STATE_ESTABLISHED 1
#define STATE_TIME_WAIT	  6
#define STATE_CLOSE	  7
#define STATE_CLOSE_WAIT  8
#define STATE_LISTEN	  10

static struct handoff_bpf *bpf;

/* ---- set-up ---- */

static inline void device_guard(uint32_t ifindex, bool guarded)
{
	uint8_t one = 1;
	int err;

	if (guarded)
		err = bpf_map__update_elem(bpf->maps.guarded_devices, &ifindex, sizeof(ifindex),
					   &one, sizeof(one), BPF_ANY);
	else
		err = bpf_map__delete_elem(bpf->maps.guarded_devices, &ifindex, sizeof(ifindex), 0);
	assert_int_equal(err, 0);
}

static inline int bench_make(void **state)
{
	static const char *const sysctls[] = { "tcp_timestamps", "tcp_sack", "tcp_window_scaling",
					       "tcp_syncookies" };

	/* Whatever a test that failed has left. */
	for (size_t i = 0; i < ARRAY_SIZE(sysctls); i++)
		sysctl_set(sysctls[i], 1);
	sysctl_set("tcp_ecn", 2);
	bpf_util_quiet();
	bpf = handoff_bpf__open_and_load();
	assert_non_null(bpf);
	device_guard(LO, true);
	return 0;
}

static inline int bench_drop(void **state)
{
	handoff_bpf__destroy(bpf);
	bpf = NULL;
	return 0;
}

/* ---- guard entries ---- */

static inline bool guard_get(const struct flow_key *key, struct guard *ret_guard)
{
	return bpf_map__lookup_elem(bpf->maps.guards, key, sizeof(*key), ret_guard,
				    sizeof(*ret_guard), 0) == 0;
}

static inline struct guard guard_of(const struct flow_key *key)
{
	struct guard guard;

	assert_true(guard_get(key, &guard));
	return guard;
}

static inline void guard_set(const struct flow_key *key, const struct guard *guard)
{
	struct guard old;

	if (!guard_get(key, &old))
		bpf->bss->n_guards++;
	assert_int_equal(bpf_map__update_elem(bpf->maps.guards, key, sizeof(*key), guard,
					      sizeof(*guard), BPF_ANY),
			 0);
}

static inline void guard_remove(const struct flow_key *key)
{
	assert_int_equal(bpf_map__delete_elem(bpf->maps.guards, key, sizeof(*key), 0), 0);
	bpf->bss->n_guards--;
}

/* ---- connections that nobody has ---- */

#define FIRST_SEQ 1000u
#define RCV_NXT	  1500u
#define SND_NXT	  77000u

static const struct guard usual_guard = { .cookie = 4711,
					  .rcv_nxt = RCV_NXT,
					  .first_seq = FIRST_SEQ,
					  .snd_nxt = SND_NXT,
					  .mss = 1460,
					  .parking = PARKING_ON };

static inline struct flow_key key_make(const char *remote, const char *local)
{
	struct endpoint r = endpoint_of(remote, 40000), l = endpoint_of(local, 443);
	struct flow_key key;

	key_fill(&key, &r, &l);
	return key;
}

static struct flow_key keys[2];

static inline int keys_make(void **state)
{
	keys[0] = key_make("192.0.2.1", "192.0.2.2");
	keys[1] = key_make("2001:db8::1", "2001:db8::2");
	return bench_make(state);
}

/* The time that bpf_ktime_get_coarse_ns() tells. */
static inline uint64_t coarse_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- connections ---- */

/* A client, the listener that has accepted it, and one that it may move to. */
struct scene {
	const char *address;
	int from, to;
	struct endpoint target;
	struct connection c;
};

static inline struct scene scene_make(const char *address, const struct socket_options *client,
				      const struct socket_options *listener)
{
	struct scene s = { .address = address };

	s.from = listen_on(address, 0, NULL);
	s.to = listen_on(address, 0, listener);
	s.target = local_of(s.to);
	s.c = connection_make(address, s.from, client);
	return s;
}

static inline void scene_drop(struct scene *s)
{
	connection_close(&s->c);
	close(s->from);
	close(s->to);
}

#endif
