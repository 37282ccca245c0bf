/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Did a rule of this host (DNAT, redirect) change where a connection goes? */
#ifndef TRANSLATED_H
#define TRANSLATED_H

#include <stdbool.h>

#include "addr.h"

/*
 * @fd: an accepted connection, AF_INET6 or v4-mapped; @local: the address that it has here. True
 * when connection tracking knows that the client connected to another one: then what is on the
 * wire does not carry the socket's addresses, and a replayed segment would be a connection of its
 * own. False also when there is no connection tracking. One system call.
 */
bool translated(int fd, const struct endpoint *local);

#endif
