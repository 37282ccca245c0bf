/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Did a rule of this host (DNAT, redirect; SNAT of what comes in) change a connection's addresses?
 */
#ifndef TRANSLATED_H
#define TRANSLATED_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"

struct mnl_socket;

/* How connection tracking is asked; {} before the first question. Not shared between threads. */
struct conntrack {
	struct mnl_socket *nl;
	uint32_t seq;
	bool mute; /* this kernel can't be asked by netlink (nf_conntrack_netlink) */
};

/* It is as before the first question. */
void conntrack_close(struct conntrack *conntrack);

/*
 * @fd: an accepted connection, AF_INET6 or v4-mapped, of a client at @remote to @local. True when
 * connection tracking knows other addresses of it: then what is on the wire does not carry the
 * socket's, and a replayed segment would be a connection of its own. False also when there is no
 * connection tracking. Three system calls, or one.
 */
bool translated(struct conntrack *conntrack, int fd, const struct endpoint *remote,
		const struct endpoint *local);

#endif
