// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads what iptables-save and ip6tables-save print. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "firewall_model.h"
#include "util.h"

#define WORDS 128 /* of a rule; what is behind them is not looked at */

/* "443", "https", "80:443", "22,80,8000:9000". What can't be read may be it. */
static bool lists_port(char *list, uint16_t port)
{
	char *item;

	while ((item = strsep(&list, ","))) {
		unsigned low, high;
		int n = sscanf(item, "%u:%u", &low, &high);

		if ((n == 1 && low == port) || (n == 2 && low <= port && port <= high))
			return true;
		if (n < 1)
			return true;
	}
	return false;
}

static bool is(const char *word, const char *a, const char *b)
{
	return strcmp(word, a) == 0 || (b && strcmp(word, b) == 0);
}

static void read_module(struct firewall_rule *rule, const char *module)
{
	static const struct {
		const char *module;
		enum firewall_kind kind;
	} counted[] = {
		{ "limit", FIREWALL_LIMIT },  { "hashlimit", FIREWALL_LIMIT },
		{ "recent", FIREWALL_LIMIT }, { "quota", FIREWALL_LIMIT },
		{ "ttl", FIREWALL_HEADER },   { "hl", FIREWALL_HEADER },
		{ "dscp", FIREWALL_HEADER },  { "tos", FIREWALL_HEADER },
		{ "mac", FIREWALL_HEADER },
	};

	if (is(module, "tcp", "multiport") || is(module, "state", "conntrack") ||
	    is(module, "comment", NULL))
		return;
	rule->narrowed = true;
	for (size_t i = 0; i < ARRAY_SIZE(counted); i++)
		if (strcmp(module, counted[i].module) == 0) {
			rule->kinds |= 1u << counted[i].kind;
			snprintf(rule->what, sizeof(rule->what), "-m %s", module);
		}
}

static void read_target(struct firewall_rule *rule, const char *target)
{
	static const char *const only_note[] = { "LOG",	 "NFLOG",    "TRACE", "AUDIT",	 "MARK",
						 "SET",	 "CONNMARK", "CT",    "TCPMSS",	 "TOS",
						 "DSCP", "TTL",	     "HL",    "CLASSIFY" };

	rule->decides = true;
	for (size_t i = 0; i < ARRAY_SIZE(only_note); i++)
		rule->decides &= strcmp(target, only_note[i]) != 0;
	if (is(target, "ACCEPT", NULL))
		rule->accepts = true;
	else if (is(target, "DNAT", "REDIRECT"))
		rule->kinds |= 1u << FIREWALL_LED_AWAY;
	else if (is(target, "TPROXY", NULL))
		rule->kinds |= 1u << FIREWALL_TPROXY;
	else if (is(target, "SYNPROXY", NULL))
		rule->kinds |= 1u << FIREWALL_SYNPROXY;
	else
		firewall_rule_target(rule, target);
	if (rule->kinds && !rule->what[0])
		snprintf(rule->what, sizeof(rule->what), "-j %.40s", target);
}

static void read_state(struct firewall_rule *rule, const char *states, bool not )
{
	rule->established = (strstr(states, "ESTABLISHED") != NULL) != not ;
	rule->only_new |= !rule->established;
	/* INVALID, which no packet of ours is. */
	if (!rule->established &&
	    (strstr(states, "NEW") != NULL) == not &&(strstr(states, "UNTRACKED") != NULL) == not )
		rule->applies = false;
}

/* One option with its value. @not: "!" was in front. */
static void read_option(struct firewall_rule *rule, const char *option, char *value, bool not,
			uint16_t port)
{
	unsigned to;
	char *colon;

	if (is(option, "-p", NULL)) {
		rule->applies &= is(value, "tcp", "all") != not ;
	} else if (is(option, "--dport", "--dports")) {
		rule->other_port |= lists_port(value, port) == not ;
		rule->names_port |= !not ;
	} else if (is(option, "--ctstate", "--state")) {
		read_state(rule, value, not );
	} else if (is(option, "-m", NULL)) {
		read_module(rule, value);
	} else if (is(option, "-j", "-g")) {
		read_target(rule, value);
	} else if (is(option, "--to-destination", "--to-ports")) {
		snprintf(rule->what, sizeof(rule->what), "%s to %.40s",
			 option[5] == 'd' ? "dnat" : "redirect", value);
		colon = strrchr(value, ':');
		rule->to_port = sscanf(colon ? colon + 1 : value, "%u", &to) == 1 && to == port &&
				(colon || is(option, "--to-ports", NULL));
	} else if (is(option, "-i", NULL)) {
		rule->applies &= not || !is(value, "lo", NULL);
		rule->narrowed = true;
	} else if (is(option, "-s", "-d") || is(option, "--sport", "--sports")) {
		rule->narrowed = true;
	}
}

/* Cuts at spaces outside of quotes. */
static size_t cut_words(char *line, char *words[WORDS])
{
	size_t n = 0;

	while (*line && n < WORDS) {
		bool quoted = *line == '"';

		words[n++] = line += quoted;
		while (*line && *line != (quoted ? '"' : ' '))
			line += *line == '\\' && line[1] ? 2 : 1;
		if (*line)
			*line++ = '\0';
		while (*line == ' ')
			line++;
	}
	return n;
}

static int read_rule(struct firewall *firewall, const char *table, unsigned number, char *line)
{
	struct firewall_rule rule = { .applies = true, .number = number };
	char *words[WORDS];
	size_t n = cut_words(line, words);
	bool not = false;

	for (size_t i = 2; i < n; i++) {
		if (is(words[i], "!", NULL)) {
			not = true;
			continue;
		}
		if (is(words[i], "--syn", NULL))
			rule.only_new |= !not ;
		/* "--tcp-flags MASK COMP": a SYN alone is the first packet. */
		else if (is(words[i], "--tcp-flags", NULL) && i + 2 < n)
			rule.only_new |= !not &&is(words[i + 2], "SYN", NULL);
		else if (words[i][0] == '-' && i + 1 < n)
			read_option(&rule, words[i], words[i + 1], not, firewall->port);
		not = false;
	}
	return n < 2 ? 0 : firewall_rule_add(firewall, table, words[1], &rule);
}

/* ":INPUT DROP [0:0]" */
static int read_chain(struct firewall *firewall, const char *table, char *line)
{
	struct firewall_chain *chain;
	char *words[WORDS];
	size_t n = cut_words(line + 1, words);

	if (n < 2)
		return 0;
	chain = firewall_chain(firewall, table, words[0]);
	if (!chain)
		return -ENOMEM;
	chain->hook = is(words[0], "PREROUTING", NULL) ? HOOK_PREROUTING
		      : is(words[0], "INPUT", NULL)    ? HOOK_INPUT
						       : HOOK_NONE;
	chain->policy_drop = is(words[1], "DROP", NULL);
	chain->nat = strstr(table, "tables nat") != NULL;
	return 0;
}

int firewall_add_iptables(struct firewall *firewall, const char *family, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	char table[FIREWALL_NAME] = "", last[FIREWALL_NAME] = "";
	char *rest = copy, *line;
	unsigned number = 0;
	int err = copy ? 0 : -ENOMEM;

	while (!err && (line = strsep(&rest, "\n"))) {
		if (line[0] == '*')
			snprintf(table, sizeof(table), "%stables %.40s", family, line + 1);
		else if (line[0] == ':')
			err = read_chain(firewall, table, line);
		else if (strncmp(line, "-A ", 3) == 0) {
			size_t len = strcspn(line + 3, " ");

			/* iptables numbers the rules of each chain. */
			if (strlen(last) != len || strncmp(last, line + 3, len) != 0)
				number = 0;
			snprintf(last, sizeof(last), "%.*s", (int)len, line + 3);
			err = read_rule(firewall, table, ++number, line);
		}
	}
	return err;
}
