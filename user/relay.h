/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Relays: the bytes of a client's connection copied to and from a second connection, to its target.
 */
#ifndef RELAY_H
#define RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "source.h"
#include "window.h"

struct relay;

/* The two ends of a relay; the other is !side. */
enum relay_side { CLIENT, TARGET };

/* Why a target could not be connected to. */
enum relay_failure {
	RELAY_REFUSED,
	RELAY_UNREACHABLE,
	RELAY_TIMED_OUT,
	RELAY_NO_PORT,	   /* every source port that may be used is taken */
	RELAY_NO_RESOURCE, /* descriptors or memory */
	RELAY_FORBIDDEN,   /* transparent without a privilege */
	RELAY_OTHER,
	RELAY_FAILURE_COUNT
};
extern const char *const relay_failure_names[RELAY_FAILURE_COUNT];

/* Written by the worker's thread alone; any thread may read them with __atomic_load_n(). */
struct relay_counters {
	uint64_t active;		      /* connecting or connected now */
	uint64_t started;		      /* relay_start() that returned 0 */
	uint64_t connected;		      /* whose target accepted */
	uint64_t ended;			      /* connected ones that are over, by FIN or by RST */
	uint64_t reset;			      /* those of "ended" that a RST ended */
	uint64_t killed;		      /* by relay_kill() or relay_worker_kill_all() */
	uint64_t failed[RELAY_FAILURE_COUNT]; /* at once or later */
	uint64_t bytes[2];		      /* by the end that they came from */
};

/* What the worker asks of its owner. All are called on the worker's thread. */
struct relay_callbacks {
	/*
	 * From now on a SYN from @source is not steered (@add), or is like any other (!@add).
	 * Returns 0, -EEXIST when it is exempt already (another port is tried), or -errno.
	 * May be NULL when nothing is steered.
	 */
	int (*exempt)(void *ctx, const struct endpoint *source, bool add);
	/* The target accepted: the relay stands by itself. May be NULL. */
	void (*on_connected)(void *ctx, void *user);
	/*
	 * The target can't be had (@error is -errno; -ECANCELED when it was killed).
	 * @client_fd is the caller's again, in no epoll, nothing read from it.
	 */
	void (*on_failed)(void *ctx, void *user, int client_fd, int error);
	/* A relay that was connected is over. May be NULL. */
	void (*on_ended)(void *ctx, void *user);
};

/* What epoll points to, for each of the two descriptors. */
struct relay_end {
	uint8_t ref_type; /* first: the owner's loop dispatches on it */
	uint8_t side;	  /* enum relay_side */
	bool in_epoll;
	bool dead;	/* reset, or its socket is in error: takes nothing more, never waited for */
	uint32_t armed; /* the events that epoll waits for */
	int fd;
};

/* One per thread. Its fields are relay.c's own, but for the counters. */
struct relay_worker {
	int epoll_fd;
	uint8_t ref_type;
	const struct relay_callbacks *callbacks;
	void *ctx;
	struct sources sources;
	struct relay_counters counters;
	struct relay *relays;	 /* connecting or connected */
	struct relay *lingering; /* connected, and about to be reset */
	struct relay *closed;	 /* freed by relay_worker_reap() */
	uint8_t *buffer;	 /* every flow's bytes pass here; relay_flow.h */
};

struct relay_options {
	enum client_ip client_ip;
	uint32_t connect_timeout_ms; /* 0: the kernel's own, minutes */
};

/*
 * Makes @w ready. @epoll_fd stays the caller's; it will hold pointers to struct relay_end that
 * begin with @ref_type. 0 or -errno.
 */
int relay_worker_init(struct relay_worker *w, int epoll_fd, uint8_t ref_type,
		      const struct relay_callbacks *callbacks, void *ctx);

/* Kills what is left and frees everything. */
void relay_worker_done(struct relay_worker *w);

/*
 * Begins to relay @client_fd (connected, non-blocking, its SO_RCVLOWAT 1, not in the epoll) to
 * @target. Nothing is read from the client before the target has accepted; then a PROXY header is
 * sent first if the options say so.
 *
 * @client is the client's address; @asked the local one that it connected to. Returns 0, and then
 * @client_fd belongs to the relay until on_failed() gives it back, and one of on_connected() and
 * on_failed() follows, with @user, never before this returns. Or -errno, and nothing has changed:
 * -EADDRNOTAVAIL when source ports are used up (try again later), -EOPNOTSUPP when this client
 * can't be relayed transparently, -EPERM when this process may not.
 */
int relay_start(struct relay_worker *w, int client_fd, const struct endpoint *client,
		const struct endpoint *asked, const struct endpoint *target,
		const struct relay_options *options, void *user, struct relay **ret_relay);

/* Gives a connecting relay up: on_failed() with -ECANCELED. No effect on a connected one. */
void relay_cancel(struct relay_worker *w, struct relay *relay);

/* Takes what epoll reported for @end. Safe for ends of relays that ended earlier in the batch. */
void relay_handle_event(struct relay_worker *w, struct relay_end *end, uint32_t events);

/*
 * After each batch of events: sees to those that were started, which may call any of the callbacks,
 * frees what ended, gives up claims whose time is over. Returns when it wants to be called at the
 * latest (CLOCK_MONOTONIC ns), UINT64_MAX: after the next batch.
 */
uint64_t relay_worker_reap(struct relay_worker *w, uint64_t now_ns);

/* Resets one at both ends: on_ended(); when it still connects, on_failed() with -ECANCELED. */
void relay_kill(struct relay_worker *w, struct relay *relay);

/* Resets every relay at both ends. Those still connecting: on_failed() with -ECANCELED. */
void relay_worker_kill_all(struct relay_worker *w);

#endif
