/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One direction of a relay: the bytes that one socket received, sent by another. */
#ifndef RELAY_FLOW_H
#define RELAY_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limit.h"

/* Bytes that are copied at once, and from which on they are not copied but spliced. */
#define RELAY_FLOW_BUFFER_SIZE (32 * 1024)

/* What the flows of one thread share. */
struct relay_flow_worker {
	uint8_t *buffer; /* every flow's first bytes pass here */
	uint64_t pipes;	 /* that exist now; written by its thread alone, any may read it */
	int pool[RELAY_POOL_PIPES][2];
	size_t n_pool;
};

struct relay_flow {
	int pipe[2]; /* -1 but while bytes are under way */
	uint32_t in_pipe;
	bool bulk;    /* splice rather than copy */
	bool blocked; /* the receiving socket takes no more now; set by relay_flow_move() */
};

enum relay_flow_answer {
	RELAY_FLOW_WAITS,      /* for bytes; if it is blocked, for room; or for its next turn */
	RELAY_FLOW_FIN,	       /* all bytes are sent, and a FIN came after them */
	RELAY_FLOW_SOURCE_BAD, /* the sending end is in error, its bytes all taken */
	RELAY_FLOW_SINK_BAD,   /* the receiving end is in error */
};

/* Ignores SIGPIPE for the whole process: splice(2) has no MSG_NOSIGNAL. 0 or -ENOMEM. */
int relay_flow_worker_init(struct relay_flow_worker *w);

/* Frees everything. Flows have been stopped before. */
void relay_flow_worker_done(struct relay_flow_worker *w);

void relay_flow_init(struct relay_flow *flow);

/*
 * Moves bytes until a socket has to wait, or so many have been moved that others are to have their
 * turn: then epoll, level-triggered, says at once that there is more. The sockets are non-blocking.
 * *ret_n: bytes sent.
 */
enum relay_flow_answer relay_flow_move(struct relay_flow_worker *w, struct relay_flow *flow,
				       int from_fd, int to_fd, size_t *ret_n);

/* Nothing is to be moved any more: gives the pipe back. Safe to call again. */
void relay_flow_stop(struct relay_flow_worker *w, struct relay_flow *flow);

#endif
