/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What both BPF wrappers need: libbpf's messages kept quiet, an errno explained, counters summed.
 */
#ifndef BPF_UTIL_H
#define BPF_UTIL_H

#include <stddef.h>
#include <stdint.h>

/* libbpf's own messages go to the debug log from now on, not to stderr. */
void bpf_util_quiet(void);

/* What a user can do about a program that failed to load or attach with @err (-errno). */
const char *bpf_util_remedy(int err);

/* Sums a per-CPU array of @n 64-bit counters over the CPUs; zeros where it can't be read. */
void bpf_util_sum(int map_fd, size_t n, uint64_t *ret_sums);

/*
 * BPF_PROG_TEST_RUN of a tc program on a packet of @size bytes at @data, as if it came from device
 * @ifindex (0 or 1: lo) with skb->mark @mark. @out, which may be @data or NULL, gets the packet as
 * the program left it. Returns the program's return value, or -errno in *ret_err.
 */
int bpf_util_run(int prog_fd, const void *data, size_t size, void *out, unsigned ifindex,
		 unsigned mark, int *ret_err);

/* The same, two runs on the one packet, with nothing to get but the second one's return value. */
int bpf_util_run_twice(int prog_fd, const void *data, size_t size, unsigned ifindex, unsigned mark,
		       int *ret_err);

#endif
