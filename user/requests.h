/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's request sockets: handshakes that are not over. */
#ifndef REQUESTS_H
#define REQUESTS_H

#include "steer_shared.h"

/* Not shared between threads. */
struct requests;

/*
 * 0 if this process, on this kernel, can end a handshake without a word to its client, which is
 * tried on a listener of its own; or -errno.
 */
int requests_new(struct requests **ret_requests);
void requests_free(struct requests *requests); /* NULL is fine */

/*
 * Ends the handshake of that name, seen on device @ifindex: its listener forgets it, and the client
 * is told nothing. Linux inet_diag's SOCK_DESTROY, tcp_abort(). 0, -ENOENT if there is no such
 * handshake, or -errno; another socket that is found is left alone. Takes no descriptor.
 */
int requests_end(struct requests *requests, const struct flow_key *key, unsigned ifindex);

#endif
