/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's request sockets: handshakes that are not over. */
#ifndef REQUESTS_H
#define REQUESTS_H

#include "steer_shared.h"

/* Can this process, on this kernel, end a handshake without a word to its client? 0 or -errno. */
int requests_check(void);

/*
 * Ends the handshake of that name, seen on device @ifindex: its listener forgets it, and the client
 * is told nothing. Linux inet_diag's SOCK_DESTROY, tcp_abort(). 0, -ENOENT if there is no such
 * handshake, or -errno; sockets that are not in a handshake are left alone.
 */
int requests_end(const struct flow_key *key, unsigned ifindex);

#endif
