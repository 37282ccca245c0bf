/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Source ports of transparent relays, and what brings the replies to them back to this host. */
#ifndef RELAY_ROUTE_H
#define RELAY_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"

/* One per worker: its own netlink socket, source ports, rules and routes; nothing is shared. */
struct relay_route;

/*
 * For one worker, in the network namespace of the calling thread. Nothing is routed before the
 * first claim. Privileged ports are used if bind() allows them now: call it with the capabilities
 * that relay_start() will have. 0 or -errno; -EBUSY: there are 64 already.
 */
int relay_route_new(struct relay_route **ret_route);

/* Takes all its rules and routes away and frees it. NULL is fine. */
void relay_route_free(struct relay_route *route);

/*
 * Finds a source port for a connection from the client's address to @target, and has the replies
 * to it delivered to this host. @client: the client's own address and port. @target_is_local: it
 * is an address of this host. The claim is for this worker; whether the port is free is seen by
 * bind() and connect(). Returns 0; -EADDRNOTAVAIL: all ports of this client are in use;
 * -EOPNOTSUPP: a link-local client; -errno of netlink (-EPERM: no CAP_NET_ADMIN).
 */
int relay_route_claim(struct relay_route *route, const struct endpoint *client,
		      const struct endpoint *target, bool target_is_local, uint16_t *ret_port);

/*
 * Ends a claim on @source, as claimed. It goes on for a while, for what the target has yet to send
 * (@now_ns: CLOCK_MONOTONIC). relay_route_tick() takes the routes away.
 */
void relay_route_release(struct relay_route *route, const struct endpoint *source, uint64_t now_ns);

/* Takes away what is over. Returns when it wants to be called again, UINT64_MAX: nothing is left.
 */
uint64_t relay_route_tick(struct relay_route *route, uint64_t now_ns);

#endif
