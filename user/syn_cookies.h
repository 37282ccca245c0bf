/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SYN cookies: the web server and the sniffers take each other's. Main thread only. */
#ifndef SYN_COOKIES_H
#define SYN_COOKIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "steer.h"

struct syn_cookies {
	struct endpoint sniffers; /* where the group listens */
	unsigned n_sniffers;
	int decoy_fd;	  /* one more of the group; -1: not needed so far */
	int handshake_fd; /* a connection that fills its queue; -1: none */
	uint64_t looked_ns;
	bool warned;
};

/* Nothing is open yet. */
void syn_cookies_init(struct syn_cookies *cookies);

/* @sniffer_fd: one of the @n_sniffers, which are one SO_REUSEPORT group. 0 or -errno. */
int syn_cookies_begin(struct syn_cookies *cookies, int sniffer_fd, unsigned n_sniffers);

/* Closes what is open: it is as after syn_cookies_init(). */
void syn_cookies_end(struct syn_cookies *cookies);

/*
 * Looks at those who listen on the @n_ports @ports (host order) and at the sniffers, makes them
 * take each other's cookies where that is needed, and tells the steering program. To be called
 * before leases are given or renewed, when it looks if it is time to or a port has none yet; and,
 * with @closing, before a port's lease ends, when it looks.
 */
void syn_cookies_look(struct syn_cookies *cookies, struct steer *steer, const uint16_t *ports,
		      size_t n_ports, bool closing, uint64_t now_ns);

#endif
