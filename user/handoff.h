/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Hands a live TCP connection off to another listener: seize, let go, replay, commit. */
#ifndef HANDOFF_H
#define HANDOFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "guards.h"
#include "limit.h"

/* One worker's scratch memory and raw sockets. Not shared between threads. */
struct handoff_worker;

enum handoff_answer {
	HANDOFF_DONE,	 /* the target has it */
	HANDOFF_PENDING, /* it left our socket, but is not there yet: handoff_continue() at next_ns
			  */
	HANDOFF_AGAIN,	 /* nothing happened; the target, or the connection, may be ready soon */
	HANDOFF_REFUSED, /* nothing happened, and it won't be possible: job.result says why */
	HANDOFF_GONE,	 /* the client has gone away; our socket is still there to be closed */
	HANDOFF_LOST,	 /* it was given up; the client has been sent a reset */
};

/* One connection on its way. The caller fills in the first part; the rest is handoff.c's. */
struct handoff_job {
	struct endpoint remote;
	struct endpoint local;
	struct endpoint target;
	uint64_t cookie;  /* SO_COOKIE of the socket that is to let go */
	uint16_t sniffer; /* index of the sniffer to go back to when the target is gone */

	enum seize_result result; /* of the last attempt */
	uint64_t next_ns;	  /* HANDOFF_PENDING: when to continue */
	uint64_t began_ns;
	uint64_t injected_ns; /* the first segment, the last time */
	uint64_t backoff_ns;
	uint32_t injections; /* how often the first segment was */
	uint32_t held_taken; /* of the packets that were held in the gap */
	uint32_t primings;   /* primer.h */
	uint32_t late_end;   /* where the bytes end that were late the last time */
	uint64_t late_since_ns;
	bool went_back;
	bool fin;
	const struct guards_device *device;
	struct flow_key key;
	struct guard guard;
	uint32_t snd_wnd;
	uint8_t *bytes; /* what the client has sent; owned while HANDOFF_PENDING */
	size_t len;
};

int handoff_worker_new(struct guards *guards, struct handoff_worker **ret_worker);
void handoff_worker_free(struct handoff_worker *worker);

/*
 * Begins, and in the usual case ends, the hand-off of @fd, whose stream nothing was read from.
 * A sniffer accepted it that guards_set_sniffer() was told of.
 * DONE, PENDING, LOST: @fd is closed. AGAIN, REFUSED, GONE: it is as it was.
 */
enum handoff_answer handoff_begin(struct handoff_worker *worker, struct handoff_job *job, int fd);

/*
 * Has a sniffer adopt a connection that the guard took before its handshake was over. DONE, PENDING,
 * LOST; REFUSED: it was given back. @job is empty but for its endpoints.
 */
enum handoff_answer handoff_adopt_early(struct handoff_worker *worker, struct handoff_job *job,
					const struct early_event *event, uint64_t now_ns);

/* Gives such a one back: the web server's handshake goes on. */
void handoff_give_back(struct handoff_worker *worker, struct handoff_job *job,
		       const struct early_event *event);

/* Goes on with a pending one: DONE, PENDING or LOST. */
enum handoff_answer handoff_continue(struct handoff_worker *worker, struct handoff_job *job,
				     uint64_t now_ns);

#endif
