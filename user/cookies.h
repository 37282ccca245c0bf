/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SYN cookies: the web server and the sniffers take each other's. Main thread only. */
#ifndef COOKIES_H
#define COOKIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "steer.h"

struct cookies {
	struct endpoint sniffers; /* where the group listens */
	unsigned n_sniffers;
	int decoy_fd;	  /* one more of the group; -1: not needed so far */
	int handshake_fd; /* a connection that fills its queue; -1: none */
	uint64_t looked_ns;
	bool warned;
};

/* @sniffer_fd: one of the @n_sniffers, which are one SO_REUSEPORT group. 0 or -errno. */
int cookies_begin(struct cookies *cookies, int sniffer_fd, unsigned n_sniffers);

/* Closes what is open. Good for one that never began, if cookies_init() has been there. */
void cookies_end(struct cookies *cookies);

void cookies_init(struct cookies *cookies);

/*
 * Looks at those who listen on the @n_ports @ports (host order) and at the sniffers, makes them
 * take each other's cookies where that is needed, and tells the steering program. To be called
 * before a port gets its first lease, before its lease ends, and from time to time between.
 */
void cookies_look(struct cookies *cookies, struct steer *steer, const uint16_t *ports,
		  size_t n_ports, uint64_t now_ns);

/* Is it time for that? */
bool cookies_due(const struct cookies *cookies, struct steer *steer, uint64_t now_ns);

#endif
