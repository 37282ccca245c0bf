/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What handoff.c and handoff_replay.c share: a worker's insides, what is said for others. */
#ifndef HANDOFF_PARTS_H
#define HANDOFF_PARTS_H

#include "handoff.h"
#include "segment.h"
#include "translated.h"

#define FRAME_MAX 3400 /* what one test-run's page holds */

struct handoff_worker {
	struct guards *guards;
	int raw[2];	  /* IPv4, IPv6 */
	unsigned ifindex; /* the last connection's device: the next one's, nearly always */
	bool filtered;	  /* netfilter looked at that one: and at the next one, nearly always */
	struct conntrack conntrack;
	uint8_t *scratch;
	size_t scratch_size;
	uint8_t frame[SEGMENT_HEADERS_MAX + FRAME_MAX];
};

/* The first segment, once (more). */
void replay_first(struct handoff_worker *worker, struct handoff_job *job, uint64_t now);

/* One burst of what the new socket, which has got to sequence number @seq, lacks. */
void replay_rest(struct handoff_worker *worker, const struct handoff_job *job, uint32_t seq);

/*
 * The first segments, each with a look at what became of it in one call; what needs a raw socket is
 * looked at later. True: the new socket has everything, and the guard entry is gone.
 */
bool replay_and_commit(struct handoff_worker *worker, struct handoff_job *job);

/* Gives what the client sent in the gap to whoever has the connection now: up to number @n. */
void replay_held(struct handoff_worker *worker, struct handoff_job *job, uint32_t n);

/* A reset to the client, in the old socket's name. */
void replay_reset(struct handoff_worker *worker, const struct handoff_job *job);

#endif
