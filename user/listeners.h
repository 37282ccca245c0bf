/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who listens on a port of this network namespace, and which addresses are this host's. */
#ifndef LISTENERS_H
#define LISTENERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"

/* More listening addresses than this on one port are not looked at. */
#define LISTENERS_MAX 64

struct listener {
	struct endpoint address; /* may be a wildcard: 0.0.0.0 (v4-mapped) or :: */
	bool v6_only;		 /* of an IPv6 one: takes no IPv4 connections */
	bool mptcp;		 /* listeners_find_mptcp() has said so */
	uint32_t device;	 /* ifindex that it is bound to; 0: none */
	uint32_t inode;		 /* of the socket; of the first one of an SO_REUSEPORT group */
};

/*
 * Asks the kernel (sock_diag) for the TCP sockets that listen on @port (host order). Returns how
 * many are in @ret_listeners (LISTENERS_MAX entries), each address once, or -errno.
 */
int listeners_find(uint16_t port, struct listener *ret_listeners);

/* Sockets by their cookies (SO_COOKIE), which no other socket of the host ever has. */
struct listening_sockets {
	int n;
	uint64_t cookies[LISTENERS_MAX];
};

/*
 * Those that listen on @port (host order), whatever the address: each of an SO_REUSEPORT group. 0,
 * -E2BIG when there are more than LISTENERS_MAX, or -errno.
 */
int listeners_sockets(uint16_t port, struct listening_sockets *ret_sockets);

/* Is a socket in both? */
bool listeners_overlap(const struct listening_sockets *a, const struct listening_sockets *b);

struct mnl_socket;

/* For listeners_at(): mnl_socket_close() it. NULL: errno says why. */
struct mnl_socket *listeners_socket(void);

/*
 * Would a connection to @at find a listener now? One on a wildcard counts. Nobody is connected to:
 * sock_diag looks it up. 1, 0, or -errno.
 */
int listeners_at(struct mnl_socket *nl, const struct endpoint *at);

/*
 * Marks those of the @n @listeners on @port that are MPTCP sockets, and gives them the inode that
 * their process knows. 0, or -errno: without Linux 5.17 or MPTCP none is marked.
 */
int listeners_find_mptcp(uint16_t port, struct listener *listeners, int n);

/* Is this an address of this network namespace, so that a listener there is a local socket? */
bool listeners_is_local(const struct endpoint *endpoint);

#endif
