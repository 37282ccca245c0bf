// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads what `nft -j list ruleset` prints: libnftables-json(5). */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "firewall_model.h"
#include "util.h"

static struct json_object *get(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;

	if (json_object_is_type(object, json_type_object))
		json_object_object_get_ex(object, key, &value);
	return value;
}

static const char *text(struct json_object *object, const char *key)
{
	struct json_object *value = get(object, key);

	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
}

static void table_name(struct json_object *object, char buf[FIREWALL_NAME])
{
	snprintf(buf, FIREWALL_NAME, "%.10s %.80s", text(object, "family"), text(object, "table"));
}

/* Is @number, or @word, among a match's right-hand values? What can't be read may be. */
static bool among(struct json_object *value, int number, const char *word)
{
	struct json_object *list = get(value, "set");
	struct json_object *range = get(value, "range");

	if (json_object_is_type(value, json_type_int))
		return json_object_get_int(value) == number;
	if (json_object_is_type(value, json_type_string)) {
		const char *string = json_object_get_string(value);

		return string[0] == '@' || strcmp(string, word) == 0;
	}
	if (range)
		return json_object_array_length(range) == 2 &&
		       json_object_get_int(json_object_array_get_idx(range, 0)) <= number &&
		       number <= json_object_get_int(json_object_array_get_idx(range, 1));
	if (json_object_is_type(value, json_type_array))
		list = value;
	if (!json_object_is_type(list, json_type_array))
		return true;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *element = json_object_array_get_idx(list, i);

		if (get(element, "elem"))
			element = get(get(element, "elem"), "val");
		if (among(element, number, word))
			return true;
	}
	return false;
}

/* Is @word the only value? */
static bool is_only(struct json_object *value, const char *word)
{
	if (json_object_is_type(value, json_type_array) && json_object_array_length(value) == 1)
		value = json_object_array_get_idx(value, 0);
	return json_object_is_type(value, json_type_string) &&
	       strcmp(json_object_get_string(value), word) == 0;
}

/* A field that a replayed packet has another value of than the client's. */
static bool is_lost(const char *protocol, const char *field)
{
	static const char *const lost[][2] = {
		{ "ip", "ttl" },       { "ip", "dscp" },     { "ip", "id" },
		{ "ip6", "hoplimit" }, { "ip6", "dscp" },    { "ip6", "flowlabel" },
		{ "ether", "saddr" },  { "ether", "daddr" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(lost); i++)
		if (strcmp(protocol, lost[i][0]) == 0 && strcmp(field, lost[i][1]) == 0)
			return true;
	return false;
}

static void read_payload(struct firewall_rule *rule, struct json_object *payload, const char *op,
			 struct json_object *right, uint16_t port)
{
	bool equal = strcmp(op, "!=") != 0;
	const char *protocol = text(payload, "protocol");
	const char *field = text(payload, "field");
	bool transport = strcmp(protocol, "tcp") == 0 || strcmp(protocol, "th") == 0;

	if (transport && strcmp(field, "dport") == 0) {
		/* "<" and the like may be it. */
		rule->other_port |=
			op[0] != '<' && op[0] != '>' && among(right, port, "https") != equal;
		rule->names_port |= equal;
	} else if (strcmp(field, "protocol") == 0 || strcmp(field, "nexthdr") == 0) {
		rule->applies &= among(right, 6, "tcp") == equal;
	} else if (strcmp(protocol, "tcp") == 0 && strcmp(field, "flags") == 0) {
		rule->only_new |= equal && is_only(right, "syn");
	} else if (!transport && strncmp(protocol, "ip", 2) != 0 &&
		   strcmp(protocol, "ether") != 0) {
		rule->applies = false; /* udp, icmp ... */
	} else {
		rule->narrowed = true;
	}
	if (is_lost(protocol, field)) {
		rule->kinds |= 1u << FIREWALL_HEADER;
		snprintf(rule->what, sizeof(rule->what), "%.20s %.20s", protocol, field);
	}
}

static void read_match(struct firewall_rule *rule, struct json_object *match, uint16_t port)
{
	struct json_object *left = get(match, "left");
	struct json_object *right = get(match, "right");
	struct json_object *mask = get(left, "&");
	bool equal = strcmp(text(match, "op"), "!=") != 0;
	const char *key;

	/* "tcp flags & (fin|syn|rst|ack) == syn" */
	if (json_object_is_type(mask, json_type_array))
		left = json_object_array_get_idx(mask, 0);
	if (get(left, "payload")) {
		read_payload(rule, get(left, "payload"), text(match, "op"), right, port);
		return;
	}
	key = text(get(left, "meta"), "key");
	if (strcmp(key, "l4proto") == 0) {
		rule->applies &= among(right, 6, "tcp") == equal;
	} else if (strncmp(key, "iif", 3) == 0) {
		rule->applies &= !(equal && is_only(right, "lo"));
		rule->narrowed = true;
	} else if (strcmp(text(get(left, "ct"), "key"), "state") == 0) {
		rule->established = among(right, -1, "established") == equal;
		rule->only_new |= !rule->established;
		/* "invalid", which no packet of ours is. */
		if (!rule->established && among(right, -1, "new") != equal &&
		    among(right, -1, "untracked") != equal)
			rule->applies = false;
	} else {
		rule->narrowed = true;
	}
}

/* Chains that a verdict, or a map of verdicts, goes on to. */
static void read_targets(struct firewall_rule *rule, struct json_object *value)
{
	if (json_object_is_type(value, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(value); i++)
			read_targets(rule, json_object_array_get_idx(value, i));
	} else if (json_object_is_type(value, json_type_object)) {
		json_object_object_foreach(value, key, member)
		{
			if (strcmp(key, "jump") == 0 || strcmp(key, "goto") == 0)
				firewall_rule_target(rule, text(member, "target"));
			else
				read_targets(rule, member);
		}
	}
}

/* Is there a rate or a quota in it, be it one for each element of a set? */
static bool has_limit(struct json_object *value)
{
	if (json_object_is_type(value, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(value); i++)
			if (has_limit(json_object_array_get_idx(value, i)))
				return true;
	} else if (json_object_is_type(value, json_type_object)) {
		json_object_object_foreach(value, key, member)
		{
			if (strcmp(key, "limit") == 0 || strcmp(key, "quota") == 0 ||
			    has_limit(member))
				return true;
		}
	}
	return false;
}

static void read_nat(struct firewall_rule *rule, const char *verb, struct json_object *to,
		     uint16_t own_port)
{
	struct json_object *port = get(to, "port");
	char port_text[16] = "";

	if (json_object_is_type(port, json_type_int))
		snprintf(port_text, sizeof(port_text), ":%d", json_object_get_int(port));
	snprintf(rule->what, sizeof(rule->what), "%s to %.40s%s", verb, text(to, "addr"),
		 port_text);
	rule->kinds |= 1u << FIREWALL_LED_AWAY;
	rule->to_port = port && among(port, own_port, "https");
}

/* "ct state vmap { established : accept, related : accept, invalid : drop }" */
static void read_map(struct firewall_rule *rule, struct json_object *map)
{
	struct json_object *pairs = get(get(map, "data"), "set");
	bool of_state = strcmp(text(get(get(map, "key"), "ct"), "key"), "state") == 0;

	rule->opaque = !of_state || !json_object_is_type(pairs, json_type_array);
	for (size_t i = 0; !rule->opaque && i < json_object_array_length(pairs); i++) {
		struct json_object *pair = json_object_array_get_idx(pairs, i);
		struct json_object *verdict = json_object_array_get_idx(pair, 1);

		if (is_only(json_object_array_get_idx(pair, 0), "established") && verdict &&
		    json_object_object_get_ex(verdict, "accept", NULL))
			rule->established = rule->accepts = true;
	}
}

static void read_statement(struct firewall_rule *rule, const char *key, struct json_object *value,
			   uint16_t port)
{
	static const char *const verdicts[] = { "accept", "drop",   "reject", "jump",
						"goto",	  "return", "vmap" };

	for (size_t i = 0; i < ARRAY_SIZE(verdicts); i++)
		rule->decides |= strcmp(key, verdicts[i]) == 0;
	if (strcmp(key, "match") == 0) {
		read_match(rule, value, port);
	} else if (strcmp(key, "accept") == 0) {
		rule->accepts = true;
	} else if (strcmp(key, "dnat") == 0 || strcmp(key, "redirect") == 0) {
		read_nat(rule, key, value, port);
	} else if (strcmp(key, "tproxy") == 0) {
		rule->kinds |= 1u << FIREWALL_TPROXY;
		snprintf(rule->what, sizeof(rule->what), "tproxy");
	} else if (strcmp(key, "synproxy") == 0) {
		rule->kinds |= 1u << FIREWALL_SYNPROXY;
		snprintf(rule->what, sizeof(rule->what), "synproxy");
	} else if (strcmp(key, "vmap") == 0) {
		read_map(rule, value);
	} else if (strcmp(key, "xt") == 0) {
		rule->opaque = true;
	}
}

static int read_rule(struct firewall *firewall, struct json_object *object)
{
	struct json_object *statements = get(object, "expr");
	struct firewall_rule rule = { .applies = true };
	char table[FIREWALL_NAME];

	if (!json_object_is_type(statements, json_type_array))
		return -EINVAL;
	rule.number = (unsigned)json_object_get_int(get(object, "handle"));
	for (size_t i = 0; i < json_object_array_length(statements); i++) {
		struct json_object *statement = json_object_array_get_idx(statements, i);

		if (!json_object_is_type(statement, json_type_object))
			continue;
		json_object_object_foreach(statement, key, value)
			read_statement(&rule, key, value, firewall->port);
	}
	read_targets(&rule, statements);
	if (has_limit(statements)) {
		rule.kinds |= 1u << FIREWALL_LIMIT;
		rule.narrowed = true;
		snprintf(rule.what, sizeof(rule.what), "limit");
	}
	table_name(object, table);
	return firewall_rule_add(firewall, table, text(object, "chain"), &rule);
}

static int read_chain(struct firewall *firewall, struct json_object *object)
{
	const char *hook = text(object, "hook");
	struct firewall_chain *chain;
	char table[FIREWALL_NAME];

	table_name(object, table);
	chain = firewall_chain(firewall, table, text(object, "name"));
	if (!chain)
		return -ENOMEM;
	chain->hook = strcmp(hook, "prerouting") == 0 ? HOOK_PREROUTING
		      : strcmp(hook, "input") == 0    ? HOOK_INPUT
		      : strcmp(hook, "ingress") == 0  ? HOOK_INGRESS
						      : HOOK_NONE;
	if (strncmp(table, "arp ", 4) == 0 || strncmp(table, "bridge ", 7) == 0)
		chain->hook = HOOK_NONE;
	chain->nat = strcmp(text(object, "type"), "nat") == 0;
	chain->policy_drop = strcmp(text(object, "policy"), "drop") == 0;
	return 0;
}

int firewall_add_nft(struct firewall *firewall, const char *json)
{
	struct json_object *document = json_tokener_parse(json);
	struct json_object *list = get(document, "nftables");
	int err = json_object_is_type(list, json_type_array) ? 0 : -EINVAL;

	for (size_t i = 0; !err && i < json_object_array_length(list); i++) {
		struct json_object *element = json_object_array_get_idx(list, i);

		if (get(element, "chain"))
			err = read_chain(firewall, get(element, "chain"));
		else if (get(element, "rule"))
			err = read_rule(firewall, get(element, "rule"));
	}
	json_object_put(document);
	return err;
}
