/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The sockets that new connections are steered to. */
#ifndef SNIFFER_H
#define SNIFFER_H

#include <stdint.h>

/* steer.bpf.c passes by long before so many wait; as many handshakes as a web server has room for.
 */
#define SNIFFER_BACKLOG 4096

/*
 * A listening socket for IPv4 and IPv6, one of a SO_REUSEPORT group: @port (host order) is the
 * port of the others, or 0 for the first. -1: errno says why.
 */
int sniffer_socket(uint16_t port, int backlog);

#endif
