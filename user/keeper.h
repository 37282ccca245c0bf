/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The resident process's end of the built-in responder: starts it, tells it the challenges, starts
 * it again. */
#ifndef KEEPER_H
#define KEEPER_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "responder.h"

struct keeper;

/* Tells a new responder process all there is, by keeper_add(). */
typedef void (*keeper_fill)(void *ctx, struct keeper *keeper);

enum keeper_state {
	KEEPER_OFF,
	KEEPER_STARTING, /* a process is there but has not said that it serves */
	KEEPER_RUNNING,
	KEEPER_WAITING, /* the process died; soon there will be another one */
	KEEPER_STATES
};

enum keeper_answer { KEEPER_DONE, KEEPER_NOT_YET, KEEPER_FAILED };

/*
 * Off at first. Starts the process that will start responders: before there is any other thread,
 * and before we give our rights up; from the thread that lives as long as the process, since all of
 * them end with it. 0 or -errno.
 */
int keeper_new(keeper_fill fill, void *ctx, struct keeper **ret_keeper);

/* Ends the process at once. NULL is fine. */
void keeper_free(struct keeper *keeper);

/* Readable (for poll, level-triggered) when keeper_tick() has something to do. */
int keeper_fd(const struct keeper *keeper);

/*
 * Starts the responder if it is off: listens for it, so that connections find it from now on and
 * also while one process follows another. *ret_at: where it is reached. 0, or -errno with one line
 * in @error.
 */
int keeper_start(struct keeper *keeper, struct endpoint *ret_at, char *error, size_t error_size);

/* Lets it finish the handshakes that have begun, and end. */
void keeper_stop(struct keeper *keeper);

/* Orders, done in turn. The answer is a ticket for keeper_done(). Not while it is off. */
uint64_t keeper_add(struct keeper *keeper, const struct name *name,
		    const uint8_t digest[CHALLENGE_DIGEST]);
uint64_t keeper_remove(struct keeper *keeper, const struct name *name);

/*
 * Is the order of this ticket done? FAILED: no responder can be started; keeper_error() says why.
 * It goes on trying until keeper_stop().
 */
enum keeper_answer keeper_done(const struct keeper *keeper, uint64_t ticket);
const char *keeper_error(const struct keeper *keeper);

/* Reads, writes, starts again. Returns when to call again; UINT64_MAX: when keeper_fd() is
 * readable. */
uint64_t keeper_tick(struct keeper *keeper, uint64_t now_ns);

/* Not started, or stopped. */
bool keeper_is_off(const struct keeper *keeper);

/* No process is there, not even one that is ending. */
bool keeper_is_idle(const struct keeper *keeper);

/* For the status document: state, pid, address, how often started again, counters. The caller puts
 * it. */
struct json_object *keeper_report(const struct keeper *keeper);

#endif
