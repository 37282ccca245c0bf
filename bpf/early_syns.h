/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which SYNs are not to be steered: guard_ingress tells the steering program. */
#ifndef EARLY_SYNS_H
#define EARLY_SYNS_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "steer_shared.h"

/*
 * The key is the connection as it was at the device: one that a rule of this host leads elsewhere
 * is not found.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, EARLY_SYNS_MAX);
	__type(key, struct flow_key);
	__type(value, struct early_syn);
} early_syns SEC(".maps");

static __always_inline bool is_fresh(const struct early_syn *syn)
{
	return bpf_ktime_get_ns() - syn->at_ns < EARLY_SYN_NS;
}

static __always_inline bool is_early(const struct flow_key *key)
{
	const struct early_syn *syn = bpf_map_lookup_elem(&early_syns, key);

	return syn && is_fresh(syn);
}

#endif
