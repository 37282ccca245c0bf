/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Policy routes that bring replies to a client's address back to a transparent relay on this host.
 */
#include "relay_route.h"

#include <errno.h>

int relay_route_new(unsigned index, unsigned n_workers, struct relay_route **ret_route)
{
	return -EOPNOTSUPP;
}

void relay_route_free(struct relay_route *route)
{
}

int relay_route_claim(struct relay_route *route, const struct endpoint *client,
		      const struct endpoint *target, bool target_is_local, uint16_t *ret_port)
{
	return -EOPNOTSUPP;
}

void relay_route_release(struct relay_route *route, const struct endpoint *source, uint64_t now_ns)
{
}

uint64_t relay_route_tick(struct relay_route *route, uint64_t now_ns)
{
	return UINT64_MAX;
}
