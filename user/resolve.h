/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A host name's addresses, as this machine's resolver has them. */
#ifndef RESOLVE_H
#define RESOLVE_H

#include <stdbool.h>

#include "addr.h"

#define RESOLVE_MAX 16 /* addresses of each family; more are not looked at */

/*
 * Asks for A (@v4) or AAAA records; blocks for as long as the resolver takes. Returns how many are
 * in @ret (RESOLVE_MAX entries, with @port), each once. 0: there are none, and *ret_problem is NULL
 * when that is all that is to be said, or says what was wrong with asking.
 */
int resolve(const char *name, bool v4, uint16_t port, struct endpoint *ret,
	    const char **ret_problem);

/* Is it an address that only local networks know, so that no public CA can get there? */
bool resolve_is_private(const struct endpoint *endpoint);

#endif
