// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The connections of one window that are still ours. */
#include "tally.h"

#include <stdio.h>
#include <stdlib.h>

struct tally *tally_new(const char *name)
{
	struct tally *tally = calloc(1, sizeof(*tally));

	if (tally)
		snprintf(tally->name, sizeof(tally->name), "%s", name);
	return tally;
}

void tally_hold(struct tally *tally)
{
	__atomic_fetch_add(&tally->held, 1, __ATOMIC_RELAXED);
}

void tally_release(struct tally *tally)
{
	/* The last look at it: who sees 0 may free it. */
	__atomic_fetch_sub(&tally->held, 1, __ATOMIC_RELEASE);
}

void tally_relay(struct tally *tally, bool on)
{
	__atomic_fetch_add(&tally->relayed, on ? 1 : UINT32_MAX, __ATOMIC_RELEASE);
}

uint32_t tally_held(const struct tally *tally)
{
	return __atomic_load_n(&tally->held, __ATOMIC_ACQUIRE);
}

uint32_t tally_relayed(const struct tally *tally)
{
	return __atomic_load_n(&tally->relayed, __ATOMIC_ACQUIRE);
}

void tally_kill(struct tally *tally, bool killed)
{
	__atomic_store_n(&tally->killed, killed, __ATOMIC_RELEASE);
}

bool tally_killed(const struct tally *tally)
{
	return __atomic_load_n(&tally->killed, __ATOMIC_ACQUIRE);
}

bool tally_say_once(struct tally *tally, unsigned bit)
{
	uint32_t mask = UINT32_C(1) << bit;

	if (__atomic_load_n(&tally->said, __ATOMIC_RELAXED) & mask)
		return false;
	return !(__atomic_fetch_or(&tally->said, mask, __ATOMIC_RELAXED) & mask);
}

struct tally *tally_of_port(struct tally *closed, uint16_t port)
{
	for (; closed; closed = closed->next)
		for (size_t i = 0; i < closed->n_ports; i++)
			if (closed->ports[i] == port)
				return closed;
	return NULL;
}
