// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Timers of one thread: a binary heap, soonest first. */
#include <errno.h>
#include <stdlib.h>

#include "timers.h"

static void put(struct timers *timers, size_t place, struct timer *timer)
{
	timers->heap[place] = timer;
	timer->place = place;
}

/* Moves @timer from the free place @hole up or down to where it belongs. */
static void settle(struct timers *timers, size_t hole, struct timer *timer)
{
	while (hole > 1 && timers->heap[hole / 2]->at_ns > timer->at_ns) {
		put(timers, hole, timers->heap[hole / 2]);
		hole /= 2;
	}
	for (;;) {
		size_t child = hole * 2;

		if (child > timers->n)
			break;
		if (child < timers->n &&
		    timers->heap[child + 1]->at_ns < timers->heap[child]->at_ns)
			child++;
		if (timers->heap[child]->at_ns >= timer->at_ns)
			break;
		put(timers, hole, timers->heap[child]);
		hole = child;
	}
	put(timers, hole, timer);
}

void timers_free(struct timers *timers)
{
	free(timers->heap);
	*timers = (struct timers){};
}

int timers_set(struct timers *timers, struct timer *timer, uint64_t at_ns)
{
	if (!timer->place) {
		if (timers->n + 1 >= timers->size) {
			size_t size = timers->size ? timers->size * 2 : 64;
			struct timer **heap = realloc(timers->heap, size * sizeof(*heap));

			if (!heap)
				return -ENOMEM;
			timers->heap = heap;
			timers->size = size;
		}
		timer->place = ++timers->n;
	}
	timer->at_ns = at_ns;
	settle(timers, timer->place, timer);
	return 0;
}

void timers_cancel(struct timers *timers, struct timer *timer)
{
	size_t hole = timer->place;
	struct timer *last;

	if (!hole)
		return;
	timer->place = 0;
	last = timers->heap[timers->n--];
	if (last != timer)
		settle(timers, hole, last);
}

struct timer *timers_first(const struct timers *timers)
{
	return timers->n ? timers->heap[1] : NULL;
}
