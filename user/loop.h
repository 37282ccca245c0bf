/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A worker: one thread, one sniffer socket, one epoll, the connections that came by that sniffer.
 */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "conn.h"
#include "guards.h"
#include "routes.h"
#include "steer.h"

struct loop;

struct loop_config {
	unsigned index; /* of the worker and its sniffer */
	struct routes *routes;
	int notify_fd; /* an eventfd that the worker writes to when it has done what it was told */
};

struct loop_numbers {
	uint64_t counters[CONN_COUNTER_COUNT];
	uint64_t reasons[RELAY_REASONS];
	uint32_t in_state[CONN_STATES];
};

/* Starts the thread; it is retired. 0, or -errno with one line in @error. */
int loop_new(const struct loop_config *config, struct loop **ret_loop, char *error,
	     size_t error_size);

/*
 * Has a worker that is retired sniff with these programs until it is retired again; @guards is NULL
 * where the kernel can't hand off. @sniffer_fd, the listening socket, is the loop's from then on.
 * 0, or -errno with one line in @error.
 */
int loop_begin(struct loop *loop, struct steer *steer, struct guards *guards, int sniffer_fd,
	       char *error, size_t error_size);

/* Ends the thread and every connection that is left. NULL is fine. */
void loop_free(struct loop *loop);

/*
 * The last window is closed (or, @draining false, a new one is open before all was over): classify
 * no more, give what is there and what still comes to the web server.
 */
void loop_drain(struct loop *loop, bool draining);

/* All that was in the accept queue when loop_drain() was called has been accepted and given away.
 */
bool loop_drained(const struct loop *loop);

/* Closes the sniffer and all that hands off: only relayed connections may be left. */
void loop_retire(struct loop *loop);
bool loop_retired(const struct loop *loop);

/* Asks the worker for a sign of life; loop_alive() tells if it has answered the last one. */
void loop_ping(struct loop *loop);
bool loop_alive(const struct loop *loop);

/* Has the worker end the relayed connections of windows that are marked so: tally_kill(). */
void loop_kill(struct loop *loop);

/* Connections that the sniffer's side is not done with; those that are relayed. Any thread. */
unsigned loop_unsettled(const struct loop *loop);
unsigned loop_relayed(const struct loop *loop);

/* Adds this worker's numbers to *sum. Any thread. */
void loop_numbers_add(const struct loop *loop, struct loop_numbers *sum);

#endif
