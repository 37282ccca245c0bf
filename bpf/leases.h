/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Until when connections to a port are looked at: the steering program and the guard share it. */
#ifndef LEASES_H
#define LEASES_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "steer_shared.h"

/* A port (host order): bpf_ktime_get_ns(), with LEASE_EARLY; 0: none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LEASE_PORTS);
	__type(key, __u32);
	__type(value, __u64);
} leases SEC(".maps");

#endif
