/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The request `close`, and the conversations that wait for what it asks to be done. */
#ifndef CLOSING_H
#define CLOSING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ctl_server.h"
#include "limit.h"
#include "window.h"

#define CLOSING_KILL_WAIT_NS (UINT64_C(5) * 1000000000)

struct resident;

struct closing {
	struct ctl_conn *conn;
	char name[WINDOW_NAME_SIZE]; /* the window's; "": all windows */
	bool drain;		     /* wait until no connection of it is left */
	bool kill;		     /* end its relayed connections, when the wait is over */
	bool killing;
	uint64_t until_ns; /* the end of waiting, or, killing, of patience */
};

struct closings {
	struct closing waiting[CLOSING_MAX];
	size_t n;
};

/*
 * The request: name=NAME or all=yes; drain=TIME (seconds, or with s, m, h; "yes": without limit);
 * kill=yes. Answers, now or later, by lines
 *
 *	closed NAME TEXT	for each window that was open
 *	ended NAME N		relayed connections that are ended, of a window closed now or before
 *	left NAME N		connections that were left when the time was over
 *	handshakes		nothing but handshakes that began in a window is left
 *
 * and ok.
 */
void closing_handle(struct resident *resident, struct ctl_conn *conn,
		    const struct ctl_request *request);

/* Windows were closed otherwise: replies ok, at once, or, without a window, when nothing waits in
 * the accept queues. */
void closing_reply(struct resident *resident, struct ctl_conn *conn);

/* Answers those whose wait is over. Returns when to call again. */
uint64_t closing_tick(struct resident *resident, uint64_t now_ns);

#endif
