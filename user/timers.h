/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Timers of one thread: a binary heap, soonest first. A timer is a member of what it is for. */
#ifndef TIMERS_H
#define TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer {
	uint64_t at_ns; /* CLOCK_MONOTONIC */
	size_t place;	/* in the heap, from 1; 0: not set */
};

struct timers {
	struct timer **heap; /* heap[0] is not used */
	size_t n;
	size_t size;
};

void timers_free(struct timers *timers);

/* Sets or moves a timer. 0, or -ENOMEM with the timer as it was. */
int timers_set(struct timers *timers, struct timer *timer, uint64_t at_ns);

/* Not set is fine. */
void timers_cancel(struct timers *timers, struct timer *timer);

/* The soonest timer, or NULL. */
struct timer *timers_first(const struct timers *timers);

#endif
