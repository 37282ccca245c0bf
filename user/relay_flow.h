/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One direction of a relay: the bytes that one socket received, sent by another. */
#ifndef RELAY_FLOW_H
#define RELAY_FLOW_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that are copied at once. */
#define RELAY_FLOW_BUFFER_SIZE (32 * 1024)

enum relay_flow_answer {
	RELAY_FLOW_WAITS,      /* for bytes, or for its next turn */
	RELAY_FLOW_BLOCKED,    /* the receiving socket takes no more now */
	RELAY_FLOW_FIN,	       /* all bytes are sent, and a FIN came after them */
	RELAY_FLOW_SOURCE_BAD, /* the sending end is in error, its bytes all taken */
	RELAY_FLOW_SINK_BAD,   /* the receiving end is in error */
};

/*
 * Moves bytes until a socket has to wait, or so many have been moved that others are to have their
 * turn: then epoll, level-triggered, says at once that there is more. The sockets are non-blocking.
 * @buffer: RELAY_FLOW_BUFFER_SIZE bytes, which may be everybody's: nothing is left in it. *ret_n:
 * bytes sent.
 */
enum relay_flow_answer relay_flow_move(uint8_t *buffer, int from_fd, int to_fd, size_t *ret_n);

#endif
