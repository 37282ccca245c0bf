/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The connections of one window that are still ours: not handed off, not over. */
#ifndef TALLY_H
#define TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "window.h"

/*
 * Made with its window, and outlives it until the last connection has ended. Workers count
 * connections in it, so all but the name, the ports and the list are __atomic.
 */
struct tally {
	char name[WINDOW_NAME_SIZE]; /* the window's */
	uint32_t held;		     /* connections in any state */
	uint32_t relayed;	     /* those of them that the relay has */
	uint32_t said;		     /* bits: what was logged for this window already */
	bool killed;		     /* relayed ones are ended, and there will be no more */

	/* Of a window that is closed. */
	uint16_t ports[WINDOW_MAX_PORTS];
	size_t n_ports;
	uint64_t closed_ns;
	struct tally *next;
};

/* NULL: no memory. */
struct tally *tally_new(const char *name);

/* One more connection; until tally_release() the tally is not freed. */
void tally_hold(struct tally *tally);

/* The connection is not ours any more. The tally may be gone when this returns. */
void tally_release(struct tally *tally);

/* The relay has one of the connections (@on), or no longer. */
void tally_relay(struct tally *tally, bool on);

uint32_t tally_held(const struct tally *tally);
uint32_t tally_relayed(const struct tally *tally);

/* Sets the flag; the workers must be told to look. */
void tally_kill(struct tally *tally, bool killed);
bool tally_killed(const struct tally *tally);

/* True the first time for this @bit (0 to 31), whichever thread asks. */
bool tally_say_once(struct tally *tally, unsigned bit);

/* The newest of the list @closed whose window had @port; NULL: none. */
struct tally *tally_of_port(struct tally *closed, uint16_t port);

#endif
