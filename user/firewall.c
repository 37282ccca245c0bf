// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Firewall rules, judged.
 *
 * A replayed packet comes in by the device and passes the same chains as the client's own did,
 * behind the tcx programs. Connection tracking knows its connection, and takes it for a packet sent
 * again. So a chain that accepts what belongs to connections that exist lets it through there, and
 * the rules behind that don't matter.
 */
#include "firewall.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "firewall_model.h"

struct firewall *firewall_new(uint16_t port)
{
	struct firewall *firewall = calloc(1, sizeof(*firewall));

	if (firewall)
		firewall->port = port;
	return firewall;
}

void firewall_free(struct firewall *firewall)
{
	if (!firewall)
		return;
	free(firewall->chains);
	free(firewall->rules);
	free(firewall);
}

static size_t chain_index(const struct firewall *firewall, const char *table, const char *name)
{
	size_t i = 0;

	while (i < firewall->n_chains && (strcmp(firewall->chains[i].table, table) != 0 ||
					  strcmp(firewall->chains[i].name, name) != 0))
		i++;
	return i;
}

struct firewall_chain *firewall_chain(struct firewall *firewall, const char *table,
				      const char *name)
{
	size_t i = chain_index(firewall, table, name);
	struct firewall_chain *chains;

	if (i < firewall->n_chains)
		return &firewall->chains[i];
	chains = reallocarray(firewall->chains, i + 1, sizeof(*chains));
	if (!chains)
		return NULL;
	firewall->chains = chains;
	chains[i] = (struct firewall_chain){};
	snprintf(chains[i].table, sizeof(chains[i].table), "%s", table);
	snprintf(chains[i].name, sizeof(chains[i].name), "%s", name);
	firewall->n_chains++;
	return &chains[i];
}

int firewall_rule_add(struct firewall *firewall, const char *table, const char *chain,
		      const struct firewall_rule *rule)
{
	struct firewall_rule *rules, *new;
	struct firewall_chain *in = firewall_chain(firewall, table, chain);

	if (!in)
		return -ENOMEM;
	rules = reallocarray(firewall->rules, firewall->n_rules + 1, sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	firewall->rules = rules;
	new = &rules[firewall->n_rules++];
	*new = *rule;
	new->chain = (size_t)(in - firewall->chains);
	if (new->other_port &&new->to_port)
		new->kinds = 1u << FIREWALL_LED_HERE;
	else
		new->applies &= !new->other_port;
	return 0;
}

void firewall_rule_target(struct firewall_rule *rule, const char *name)
{
	if (rule->n_targets < FIREWALL_TARGETS)
		snprintf(rule->targets[rule->n_targets++], FIREWALL_NAME, "%s", name);
}

size_t firewall_rules(const struct firewall *firewall)
{
	size_t n = 0;

	for (size_t i = 0; i < firewall->n_rules; i++)
		n += firewall->chains[firewall->rules[i].chain].reached;
	return n;
}

/* Chains that packets to this host pass, and those that rules for the port go on to from there. */
static void mark_reached(struct firewall *firewall)
{
	bool more = true;

	for (size_t i = 0; i < firewall->n_chains; i++)
		firewall->chains[i].reached = firewall->chains[i].hook != HOOK_NONE;
	while (more) {
		more = false;
		for (size_t i = 0; i < firewall->n_rules; i++) {
			const struct firewall_rule *rule = &firewall->rules[i];
			const struct firewall_chain *from = &firewall->chains[rule->chain];

			for (size_t k = 0; rule->applies && from->reached && k < rule->n_targets;
			     k++) {
				size_t to = chain_index(firewall, from->table, rule->targets[k]);

				if (to == firewall->n_chains || firewall->chains[to].reached)
					continue;
				firewall->chains[to].reached = true;
				firewall->chains[to].nat = from->nat;
				more = true;
			}
		}
	}
}

/* Everything that belongs to a connection that exists is accepted. */
static bool lets_replayed_through(const struct firewall_rule *rule)
{
	return rule->established && rule->accepts && !rule->narrowed && !rule->opaque;
}

static void hint(struct firewall_hint *hints, size_t *n, enum firewall_kind kind,
		 const struct firewall_chain *chain, unsigned number, const char *what)
{
	struct firewall_hint *to;

	if (*n == FIREWALL_HINTS)
		return;
	to = &hints[(*n)++];
	to->kind = kind;
	if (number)
		snprintf(to->where, sizeof(to->where), "%.80s, chain %.80s, rule %u", chain->table,
			 chain->name, number);
	else
		snprintf(to->where, sizeof(to->where), "%.80s, chain %.80s", chain->table,
			 chain->name);
	snprintf(to->what, sizeof(to->what), "%s", what);
}

/* The rules of one chain, in their order. */
static void judge_chain(const struct firewall *firewall, size_t index, struct firewall_hint *hints,
			size_t *n)
{
	const unsigned of_any_packet = 1u << FIREWALL_LIMIT | 1u << FIREWALL_HEADER;
	const struct firewall_chain *chain = &firewall->chains[index];
	bool through = chain->nat; /* replayed packets are not asked about any more */

	for (size_t i = 0; i < firewall->n_rules; i++) {
		const struct firewall_rule *rule = &firewall->rules[i];

		if (rule->chain != index || !rule->applies)
			continue;
		for (unsigned kind = 0; kind < FIREWALL_KINDS; kind++)
			if ((rule->kinds & 1u << kind) &&
			    (!(of_any_packet & 1u << kind) ||
			     (rule->decides && !through && !rule->only_new)))
				hint(hints, n, kind, chain, rule->number, rule->what);
		through |= lets_replayed_through(rule);
	}
}

/* Does a rule of a table that can be reached accept new connections to the port, perhaps? */
static bool may_accept_port(const struct firewall *firewall, const char *table)
{
	for (size_t i = 0; i < firewall->n_rules; i++) {
		const struct firewall_rule *rule = &firewall->rules[i];
		const struct firewall_chain *chain = &firewall->chains[rule->chain];

		if (!chain->reached || !rule->applies || strcmp(chain->table, table) != 0)
			continue;
		if (rule->opaque)
			return true;
		if (rule->accepts && (rule->names_port || !rule->narrowed) &&
		    (!rule->established || rule->only_new))
			return true;
	}
	return false;
}

size_t firewall_judge(struct firewall *firewall, struct firewall_hint *ret_hints)
{
	size_t n = 0;

	mark_reached(firewall);
	for (size_t i = 0; i < firewall->n_chains; i++) {
		const struct firewall_chain *chain = &firewall->chains[i];

		if (!chain->reached)
			continue;
		judge_chain(firewall, i, ret_hints, &n);
		if (chain->hook == HOOK_INPUT && chain->policy_drop && !chain->nat &&
		    !may_accept_port(firewall, chain->table))
			hint(ret_hints, &n, FIREWALL_CLOSED, chain, 0, "policy drop");
	}
	return n;
}
