/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The connections of one window that are still ours: not handed off, not over. */
#ifndef TALLY_H
#define TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util.h"
#include "window.h"

/* Names that are counted one by one; peers choose them when a window has no list. */
#define TALLY_MAX_NAMES 64
#define TALLY_NAME_SIZE (NAME_MAX_LEN + 1)

/* Connections of a window that has been closed are accepted for so long, or less. */
#define TALLY_REST_NS NSEC_PER_SEC

/* What became of a window's connections so far. */
enum tally_number {
	TALLY_ACCEPTED,
	TALLY_HANDED_OFF,
	TALLY_RELAYED,
	TALLY_TIMED_OUT,  /* among those: given to the web server without a whole ClientHello */
	TALLY_CHALLENGES, /* likewise: given to the responder */
	TALLY_NUMBERS
};

/* How a window's connections reach the web server. */
struct tally_way {
	bool has_web_server; /* else: whoever listens where the client asked */
	bool elsewhere;	     /* the web server is not on this host */
	struct endpoint web_server;
	enum plane plane;
	enum client_ip client_ip;
};

/* Challenges for one name. */
struct tally_name {
	char *name; /* printable ASCII without spaces and commas */
	uint64_t n;
};

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
	uint64_t numbers[TALLY_NUMBERS];

	/* Locked by tally.c. */
	struct tally_name *names; /* in the order in which they came first */
	size_t n_names;
	uint64_t other_names; /* challenges for names that found no room */

	/* Of a window that is closed: some of its connections are still to be accepted. */
	struct tally_way way;
	bool gave_way; /* as the window's options say */
	uint16_t ports[WINDOW_MAX_PORTS];
	size_t n_ports;
	uint64_t closed_ns;
	struct tally *next;
};

/* NULL: no memory. */
struct tally *tally_new(const char *name);
void tally_free(struct tally *tally); /* NULL is fine */
/* Frees what it has, but not itself. */
void tally_done(struct tally *tally);

/* One more connection; until tally_release() the tally is not freed. */
void tally_hold(struct tally *tally);

/* The connection is not ours any more. The tally may be gone when this returns. */
void tally_release(struct tally *tally);

/* The relay has one of the connections (@on), or no longer. */
void tally_relay(struct tally *tally, bool on);

uint32_t tally_held(const struct tally *tally);
uint32_t tally_relayed(const struct tally *tally);

/* One more, or with @n -1 one less. */
void tally_count(struct tally *tally, enum tally_number what, int n);
uint64_t tally_number(const struct tally *tally, enum tally_number what);

/* The responder was given a connection that asked for @sni (any bytes; "" when it had none). */
void tally_challenge(struct tally *tally, const char *sni);

/*
 * Calls @each for every name that challenges were for, most of them first; without memory in the
 * order in which they came. Returns how many were for names that are not kept.
 */
uint64_t tally_names(const struct tally *tally,
		     void (*each)(void *ctx, const char *name, uint64_t n), void *ctx);

/* Sets the flag; the workers must be told to look. */
void tally_kill(struct tally *tally, bool killed);
bool tally_killed(const struct tally *tally);

/* True the first time for this @bit (0 to 31), whichever thread asks. */
bool tally_say_once(struct tally *tally, unsigned bit);

/*
 * The newest of the list @closed whose window had @port; if that window gave way, one that did not,
 * and was closed with it. NULL: none.
 */
struct tally *tally_of_port(struct tally *closed, uint16_t port);

#endif
