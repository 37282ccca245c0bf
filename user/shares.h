/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How many places each client address has taken: nobody gets more than a share. */
#ifndef SHARES_H
#define SHARES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define SHARES_BUCKETS 1024 /* a power of 2 */

struct share;

/* Not shared between threads. Zeroed it works; shares_init() makes it safe from chosen addresses.
 */
struct shares {
	uint64_t secret[2];
	unsigned n; /* addresses that have a place */
	struct share *buckets[SHARES_BUCKETS];
};

void shares_init(struct shares *shares);
void shares_free(struct shares *shares);

/*
 * Takes a place for @addr (v4-mapped, or IPv6: its /64 counts as one), if it has less than @max.
 * Returns false when it has not, or without memory. shares_give() gives a place back that was
 * taken.
 */
bool shares_take(struct shares *shares, const struct in6_addr *addr, unsigned max);
void shares_give(struct shares *shares, const struct in6_addr *addr);

#endif
