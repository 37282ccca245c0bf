/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rules of either tool in one form. Between firewall*.c only. */
#ifndef FIREWALL_MODEL_H
#define FIREWALL_MODEL_H

#include "firewall.h"

enum firewall_hook { HOOK_NONE, HOOK_INGRESS, HOOK_PREROUTING, HOOK_INPUT };

#define FIREWALL_NAME 96

struct firewall_chain {
	char table[FIREWALL_NAME]; /* "inet filter" */
	char name[FIREWALL_NAME];
	enum firewall_hook hook;
	bool nat;	  /* passed by the first packet of a connection only */
	bool policy_drop; /* what no rule decides about */
	bool reached;	  /* by packets to this host */
};

#define FIREWALL_TARGETS 8

struct firewall_rule {
	size_t chain;
	unsigned number;  /* as the tool shows it */
	bool applies;	  /* may match TCP packets to the port from elsewhere */
	bool other_port;  /* does not, for it is about other ports */
	bool to_port;	  /* DNAT or redirect to the port */
	bool only_new;	  /* matches the first packet of a connection only */
	bool narrowed;	  /* has matches beside port, protocol and state */
	bool names_port;  /* has a match for the port */
	bool established; /* has a match that packets of a connection that exists pass */
	bool accepts;
	bool decides;	/* accepts, drops or goes on elsewhere; does not only count or log */
	bool opaque;	/* decides by something that is not read: a map, a match of a module */
	unsigned kinds; /* 1 << enum firewall_kind */
	char what[64];
	char targets[FIREWALL_TARGETS][FIREWALL_NAME]; /* chains that it goes on to */
	size_t n_targets;
};

struct firewall {
	uint16_t port;
	struct firewall_chain *chains;
	size_t n_chains;
	struct firewall_rule *rules;
	size_t n_rules;
};

/* The chain, which is added when it is not there. NULL: no memory. Valid until the next call. */
struct firewall_chain *firewall_chain(struct firewall *firewall, const char *table,
				      const char *name);

/* Adds a rule to a chain. 0 or -ENOMEM. */
int firewall_rule_add(struct firewall *firewall, const char *table, const char *chain,
		      const struct firewall_rule *rule);

/* One more chain that @rule goes on to. */
void firewall_rule_target(struct firewall_rule *rule, const char *name);

#endif
