/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The policy rules and routes of transparent relays in the kernel, by rtnetlink. */
#ifndef POLICY_H
#define POLICY_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

struct mnl_socket;

/* Those who add rules and routes at once, each with its own. */
#define POLICY_OWNERS 64
/* The highest client's port that the way round leaves to the rules behind it. */
#define POLICY_LAST_PORT 9215

/* One owner's netlink socket. */
struct policy {
	struct mnl_socket *netlink;
	uint32_t seq;
	unsigned owner;
};

/* Which packets, but for the client's port. */
struct policy_match {
	bool v4;	      /* else IPv6 */
	bool local;	      /* sent by this host, else also received by it */
	uint16_t target_port; /* that they come from */
};

/* For @owner (less than POLICY_OWNERS), in the calling thread's network namespace. 0 or -errno. */
int policy_open(struct policy *policy, unsigned owner);
void policy_close(struct policy *policy);

/* TCP packets that match and go to @port are routed by that port's table. 0 or -errno. */
int policy_rule(struct policy *policy, bool add, const struct policy_match *match, uint16_t port);

/* In @port's table: @addr (v4-mapped or IPv6) is delivered here. 0 or -errno. */
int policy_route(struct policy *policy, bool add, const struct in6_addr *addr, uint16_t port);

/* The way round this owner's rules with "local", for whatever can't match them. 0 or -errno. */
int policy_round(struct policy *policy, bool add, bool v4);

/*
 * Removes every rule and route that this module ever makes, whichever process made them: once,
 * before the first worker starts. *ret_removed: how many (may be NULL). 0 or -errno.
 */
int policy_clean(unsigned *ret_removed);

/*
 * Can it work here? Adds a rule and a route that match nothing, and removes them. 0, -EPERM (no
 * CAP_NET_ADMIN), -EOPNOTSUPP (a kernel without policy routing) or -errno.
 */
int policy_probe(void);

#endif
