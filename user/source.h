/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From where a relay connects to its target: address, port, and its exemption from steering. */
#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"

struct relay_route;

/* One per worker. Its fields are source.c's own. */
struct sources {
	int (*exempt)(void *ctx, const struct endpoint *source, bool add);
	void *ctx;
	struct relay_route *route; /* NULL: no transparent relay yet */
	uint64_t random;
	uint16_t port_low, port_high; /* ip_local_port_range */
	uint64_t ports_tight_ns;      /* until then don't ask the kernel for a free port */
	struct endpoint asked_target, asked_source; /* the routing table's last answer */
};

/* @exempt may be NULL, see struct relay_callbacks. Opens nothing. */
void sources_init(struct sources *sources,
		  int (*exempt)(void *ctx, const struct endpoint *source, bool add), void *ctx);
void sources_done(struct sources *sources);

/*
 * Makes a non-blocking socket, exempts its source from steering, and only then begins to connect
 * it to @target: from an address of this host or, with @client, from the client's own address (at
 * another port), in a way that the replies come back to it.
 *
 * The caller owns *ret_fd, calls source_unexempt() once there is an answer, and with @client
 * source_release() when the socket is closed. -errno: see relay_start().
 */
int source_connect(struct sources *sources, const struct endpoint *client,
		   const struct endpoint *target, struct endpoint *ret_source, int *ret_fd);
void source_unexempt(struct sources *sources, const struct endpoint *source);
void source_release(struct sources *sources, const struct endpoint *source);

/* Takes routes away that are over. When to call again at the latest (ns), UINT64_MAX: no need. */
uint64_t sources_tick(struct sources *sources, uint64_t now_ns);

#endif
