/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Firewall rules that a hand-off's replayed packets, or new connections to a port, may be stopped
 * or led away by. Read from what `nft` and `iptables-save` print; hints for a person, not more.
 */
#ifndef FIREWALL_H
#define FIREWALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum firewall_kind {
	FIREWALL_LED_AWAY, /* DNAT or redirect: nobody here gets connections to the port */
	FIREWALL_LED_HERE, /* DNAT or redirect from another port: on the wire it is another
			    * connection than in the socket */
	FIREWALL_TPROXY,   /* the packet gets its socket before steering could choose one */
	FIREWALL_SYNPROXY, /* sequence numbers on the wire and in the socket differ */
	FIREWALL_LIMIT,	   /* a rate or quota that replayed packets count in once more */
	FIREWALL_HEADER,   /* a header field that a replayed packet does not keep */
	FIREWALL_CLOSED,   /* whatever is not accepted is dropped, and nothing accepts the port */
	FIREWALL_KINDS
};

struct firewall_hint {
	enum firewall_kind kind;
	char where[192]; /* "inet filter, chain input, rule 5" */
	char what[64];	 /* "dnat to 172.17.0.2:443" */
};

#define FIREWALL_HINTS 16

struct firewall;

/* Reads rules as they concern TCP packets to @port. NULL: no memory. */
struct firewall *firewall_new(uint16_t port);
void firewall_free(struct firewall *firewall);

/* Adds what `nft -j list ruleset` prints. 0, -EINVAL: not understood, -ENOMEM. */
int firewall_add_nft(struct firewall *firewall, const char *json);

/* Adds what `iptables-save` or `ip6tables-save` (@family "ip6") prints. 0 or -ENOMEM. */
int firewall_add_iptables(struct firewall *firewall, const char *family, const char *text);

/* How many rules there are at all in chains that packets to this host pass. */
size_t firewall_rules(const struct firewall *firewall);

/* Returns how many hints are in @ret_hints (FIREWALL_HINTS entries). */
size_t firewall_judge(struct firewall *firewall, struct firewall_hint *ret_hints);

#endif
