/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: firewall.c firewall_nft.c firewall_iptables.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "firewall.h"
#include "util.h"

static const char letters[] = {
	[FIREWALL_LED_AWAY] = 'a', [FIREWALL_LED_HERE] = 'H', [FIREWALL_TPROXY] = 't',
	[FIREWALL_SYNPROXY] = 's', [FIREWALL_LIMIT] = 'l',    [FIREWALL_HEADER] = 'h',
	[FIREWALL_CLOSED] = 'c',
};

/* Judges, frees, and writes the hints' letters. */
static void judge(struct firewall *firewall, char *ret, struct firewall_hint *ret_first)
{
	struct firewall_hint hints[FIREWALL_HINTS];
	size_t n = firewall_judge(firewall, hints);

	for (size_t i = 0; i < n; i++)
		ret[i] = letters[hints[i].kind];
	ret[n] = '\0';
	if (n && ret_first)
		*ret_first = hints[0];
	firewall_free(firewall);
}

/* What is found in a chain with these rules: libnftables-json(5), as nft 1.0.6 prints it. */
static void nft(const char *chain, const char *rules, char *ret, struct firewall_hint *ret_first)
{
	struct firewall *firewall = firewall_new(443);
	char json[8192];
	int n = snprintf(
		json, sizeof(json),
		"{\"nftables\": [{\"metainfo\": {\"version\": \"1.0.6\"}},"
		"{\"chain\": {\"family\": \"inet\", \"table\": \"t\", \"name\": \"c\", %s}}",
		chain);
	int handle = 1;

	while (*rules) {
		int len = (int)strcspn(rules, "\n");

		/* "chain: expressions" is a rule of another chain. */
		const char *name = rules[0] == '[' ? "c" : "other";

		while (*rules != '[')
			rules++, len--;
		n += snprintf(json + n, sizeof(json) - (size_t)n,
			      ",{\"rule\": {\"family\": \"inet\", \"table\": \"t\", \"chain\": "
			      "\"%s\", \"handle\": %d, \"expr\": %.*s}}",
			      name, handle++, len, rules);
		rules += len + (rules[len] == '\n');
	}
	strcpy(json + n, "]}");
	assert_int_equal(firewall_add_nft(firewall, json), 0);
	judge(firewall, ret, ret_first);
}

#define INPUT	   "\"type\": \"filter\", \"hook\": \"input\", \"prio\": 0, \"policy\": \"accept\""
#define INPUT_DROP "\"type\": \"filter\", \"hook\": \"input\", \"prio\": 0, \"policy\": \"drop\""
#define PREROUTING \
	"\"type\": \"nat\", \"hook\": \"prerouting\", \"prio\": -100, \"policy\": \"accept\""
#define OUTPUT "\"type\": \"filter\", \"hook\": \"output\", \"prio\": 0, \"policy\": \"drop\""
#define MATCH(op, left, right) \
	"{\"match\": {\"op\": \"" op "\", \"left\": {" left "}, \"right\": " right "}}"
#define PAYLOAD(protocol, field) \
	"\"payload\": {\"protocol\": \"" protocol "\", \"field\": \"" field "\"}"
#define DPORT(right) MATCH("==", PAYLOAD("tcp", "dport"), right)
#define STATE(right) MATCH("in", "\"ct\": {\"key\": \"state\"}", right)
#define ESTABLISHED  STATE("[\"established\", \"related\"]")
#define ACCEPT	     "{\"accept\": null}"
#define DROP	     "{\"drop\": null}"
#define LIMIT	     "{\"limit\": {\"rate\": 10, \"burst\": 5, \"per\": \"second\", \"inv\": true}}"
#define JUMP	     "{\"jump\": {\"target\": \"other\"}}"
#define RULE(...)    "[" __VA_ARGS__ "]"
#define THEN	     ", "

static void nft_rules(void **state)
{
	static const struct {
		const char *chain, *rules, *hints;
	} cases[] = {
		{ INPUT, "", "" },
		{ INPUT, RULE(DPORT("443") THEN ACCEPT), "" },
		/* Rates and quotas. */
		{ INPUT, RULE(DPORT("443") THEN LIMIT THEN DROP), "l" },
		{ INPUT, RULE(DPORT("80") THEN LIMIT THEN DROP), "" },
		{ INPUT,
		  RULE(DPORT("{\"set\": [22, {\"range\": [400, 500]}]}") THEN LIMIT THEN DROP),
		  "l" },
		{ INPUT,
		  RULE(DPORT("{\"set\": [22, {\"range\": [500, 600]}]}") THEN LIMIT THEN DROP),
		  "" },
		{ INPUT, RULE(DPORT("\"@web\"") THEN LIMIT THEN DROP), "l" },
		{ INPUT, RULE(MATCH("!=", PAYLOAD("tcp", "dport"), "443") THEN LIMIT THEN DROP),
		  "" },
		{ INPUT, RULE(MATCH("!=", PAYLOAD("tcp", "dport"), "22") THEN LIMIT THEN DROP),
		  "l" },
		{ INPUT, RULE(MATCH("<", PAYLOAD("tcp", "dport"), "1024") THEN LIMIT THEN DROP),
		  "l" },
		{ INPUT, RULE(MATCH("==", PAYLOAD("udp", "dport"), "443") THEN LIMIT THEN DROP),
		  "" },
		{ INPUT,
		  RULE(MATCH("==", "\"meta\": {\"key\": \"l4proto\"}", "\"udp\"")
			       THEN LIMIT THEN DROP),
		  "" },
		{ INPUT,
		  RULE(MATCH("==", "\"meta\": {\"key\": \"iif\"}", "\"lo\"") THEN LIMIT THEN DROP),
		  "" },
		{ INPUT, RULE(LIMIT THEN "{\"log\": null}"), "" },
		{ INPUT,
		  RULE(DPORT("443") THEN
		       "{\"set\": {\"op\": \"add\", \"set\": \"@m\", \"stmt\": [" LIMIT
		       "]}}" THEN DROP),
		  "l" },
		/* Not asked about any more. */
		{ INPUT, RULE(STATE("\"new\"") THEN LIMIT THEN DROP), "" },
		{ INPUT, RULE(MATCH("in", PAYLOAD("tcp", "flags"), "\"syn\"") THEN LIMIT THEN DROP),
		  "" },
		{ INPUT, RULE(ESTABLISHED THEN ACCEPT) "\n" RULE(LIMIT THEN DROP), "" },
		{ INPUT, RULE(LIMIT THEN DROP) "\n" RULE(ESTABLISHED THEN ACCEPT), "l" },
		{ INPUT, RULE(ESTABLISHED THEN DPORT("22") THEN ACCEPT) "\n" RULE(LIMIT THEN DROP),
		  "l" },
		{ INPUT,
		  RULE("{\"vmap\": {\"key\": {\"ct\": {\"key\": \"state\"}}, \"data\": {\"set\": "
		       "[[\"established\", " ACCEPT "], [\"invalid\", " DROP
		       "]]}}}") "\n" RULE(LIMIT THEN DROP),
		  "" },
		{ INPUT, RULE(STATE("\"invalid\"") THEN LIMIT THEN DROP), "" },
		/* Chains that are reached, and those that are not. */
		{ INPUT, RULE(DPORT("443") THEN JUMP) "\nother: " RULE(LIMIT THEN DROP), "l" },
		{ INPUT, RULE(DPORT("22") THEN JUMP) "\nother: " RULE(LIMIT THEN DROP), "" },
		{ INPUT, "other: " RULE(LIMIT THEN DROP), "" },
		{ INPUT,
		  RULE("{\"vmap\": {\"key\": {" PAYLOAD(
			  "tcp", "dport") "}, \"data\": {\"set\": [[443, " JUMP
					  "]]}}}") "\nother: " RULE(LIMIT THEN DROP),
		  "l" },
		{ OUTPUT, RULE(LIMIT THEN DROP), "" },
		/* Headers. */
		{ INPUT, RULE(MATCH("<", PAYLOAD("ip", "ttl"), "5") THEN DROP), "h" },
		{ INPUT,
		  RULE(MATCH("==", PAYLOAD("ether", "saddr"), "\"00:01:02:03:04:05\"") THEN DROP),
		  "h" },
		{ INPUT, RULE(MATCH("==", PAYLOAD("ip", "saddr"), "\"192.0.2.1\"") THEN DROP), "" },
		/* Proxies and forwarding. */
		{ INPUT, RULE(DPORT("443") THEN "{\"synproxy\": {\"mss\": 1460}}"), "s" },
		{ INPUT,
		  RULE(STATE("[\"invalid\", \"untracked\"]") THEN
		       "{\"synproxy\": {\"mss\": 1460}}"),
		  "s" },
		{ PREROUTING, RULE(DPORT("443") THEN "{\"tproxy\": {\"port\": 8443}}"), "t" },
		{ PREROUTING, RULE(DPORT("443") THEN "{\"redirect\": {\"port\": 8443}}"), "a" },
		{ PREROUTING, RULE(DPORT("443") THEN "{\"dnat\": {\"addr\": \"10.0.0.1\"}}"), "a" },
		{ PREROUTING, RULE(DPORT("80") THEN "{\"redirect\": {\"port\": 8080}}"), "" },
		{ PREROUTING, RULE(DPORT("443") THEN LIMIT THEN DROP), "" },
		{ PREROUTING, RULE(DPORT("80") THEN "{\"redirect\": {\"port\": 443}}"), "H" },
		{ PREROUTING,
		  RULE(DPORT("80") THEN "{\"dnat\": {\"addr\": \"192.0.2.1\", \"port\": 443}}"),
		  "H" },
		{ PREROUTING,
		  RULE(MATCH("==", PAYLOAD("udp", "dport"), "80") THEN
		       "{\"redirect\": {\"port\": 443}}"),
		  "" },
		/* What accepts the port? */
		{ INPUT_DROP, "", "c" },
		{ INPUT_DROP, RULE(ESTABLISHED THEN ACCEPT) "\n" RULE(DPORT("22") THEN ACCEPT),
		  "c" },
		{ INPUT_DROP, RULE(DPORT("{\"set\": [80, 443]}") THEN STATE("\"new\"") THEN ACCEPT),
		  "" },
		{ INPUT_DROP,
		  RULE(MATCH("==", PAYLOAD("ip", "saddr"), "\"192.0.2.1\"") THEN ACCEPT), "c" },
		{ INPUT_DROP, RULE(ACCEPT), "" },
		{ INPUT_DROP, RULE(DPORT("443") THEN JUMP) "\nother: " RULE(ACCEPT), "" },
		{ INPUT_DROP, RULE("{\"xt\": null}" THEN ACCEPT), "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char found[FIREWALL_HINTS + 1];

		nft(cases[i].chain, cases[i].rules, found, NULL);
		if (strcmp(found, cases[i].hints) != 0)
			fail_msg("case %zu: \"%s\", not \"%s\": %s", i, found, cases[i].hints,
				 cases[i].rules);
	}
}

static void nft_words(void **state)
{
	struct firewall_hint hint;
	char found[FIREWALL_HINTS + 1];

	nft(PREROUTING,
	    RULE(ACCEPT) "\n" RULE(DPORT("443") THEN
				   "{\"dnat\": {\"addr\": \"172.17.0.2\", \"port\": 8443}}"),
	    found, &hint);
	assert_string_equal(hint.where, "inet t, chain c, rule 2");
	assert_string_equal(hint.what, "dnat to 172.17.0.2:8443");
	nft(INPUT, RULE(MATCH("<", PAYLOAD("ip6", "hoplimit"), "5") THEN DROP), found, &hint);
	assert_string_equal(hint.what, "ip6 hoplimit");
}

static void not_nft(void **state)
{
	static const char *const texts[] = {
		"", "{", "[]", "{}", "{\"nftables\": 1}", "null", "{\"nftables\": [{\"rule\": {}}]}"
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct firewall *firewall = firewall_new(443);

		assert_int_equal(firewall_add_nft(firewall, texts[i]), -EINVAL);
		firewall_free(firewall);
	}
}

static void iptables(void **state)
{
	static const struct {
		const char *text, *hints;
	} cases[] = {
		{ "", "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", "" },
		{ "*filter\n:INPUT DROP [0:0]\nCOMMIT\n", "c" },
		{ "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n",
		  "" },
		{ "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n",
		  "c" },
		{ "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m multiport --dports 80,400:500 -j "
		  "ACCEPT\n",
		  "" },
		{ "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED "
		  "-j "
		  "ACCEPT\n-A INPUT -i lo -j ACCEPT\n",
		  "c" },
		{ "*filter\n:INPUT DROP [0:0]\n:web - [0:0]\n-A INPUT -p tcp -j web\n"
		  "-A web -p tcp -m tcp --dport 443 -m conntrack --ctstate NEW -j ACCEPT\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 443 -m hashlimit "
		  "--hashlimit-above 10/sec --hashlimit-name x -j DROP\n",
		  "l" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m state --state ESTABLISHED -j ACCEPT\n"
		  "-A INPUT -p tcp -m tcp --dport 443 -m limit --limit 1/sec -j DROP\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 443 --tcp-flags "
		  "FIN,SYN,RST,ACK SYN -m limit --limit 1/sec -j DROP\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m limit --limit 1/sec -j LOG\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m limit --limit 1/sec -j DROP\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp ! --dport 443 -m limit -j DROP\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT ! -p udp -m ttl --ttl-lt 5 -j DROP\n",
		  "h" },
		{ "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -m ttl --ttl-lt 5 -j DROP\n",
		  "" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment \"a -m limit b\" -j "
		  "DROP\n",
		  "" },
		{ "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m mac --mac-source "
		  "00:01:02:03:04:05 -j DROP\n",
		  "h" },
		{ "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 443 -j DNAT "
		  "--to-destination 10.0.0.1:443\n",
		  "a" },
		{ "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 80 -j REDIRECT "
		  "--to-ports 8080\n",
		  "" },
		{ "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype "
		  "--dst-type LOCAL -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j "
		  "DNAT --to-destination 172.17.0.2:443\n",
		  "a" },
		{ "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 80 -j REDIRECT "
		  "--to-ports 443\n",
		  "H" },
		{ "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 80 -j DNAT "
		  "--to-destination 192.0.2.1:443\n",
		  "H" },
		{ "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 80 -j DNAT "
		  "--to-destination 192.0.2.1\n",
		  "" },
		{ "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 443 -j TPROXY "
		  "--on-port 1\n",
		  "t" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 443 -m state --state "
		  "INVALID,UNTRACKED -j SYNPROXY\n",
		  "s" },
		{ "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 443 -j SYNPROXY\n", "s" },
		{ "-A\n-A \n:\n: \n*\n-A INPUT\n-A INPUT -j\n", "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct firewall *firewall = firewall_new(443);
		char found[FIREWALL_HINTS + 1];

		assert_int_equal(firewall_add_iptables(firewall, "ip", cases[i].text), 0);
		judge(firewall, found, NULL);
		if (strcmp(found, cases[i].hints) != 0)
			fail_msg("case %zu: \"%s\", not \"%s\": %s", i, found, cases[i].hints,
				 cases[i].text);
	}
}

static void iptables_words(void **state)
{
	struct firewall *firewall = firewall_new(443);
	struct firewall_hint hint;
	char found[FIREWALL_HINTS + 1];

	assert_int_equal(firewall_add_iptables(
				 firewall, "ip6",
				 "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\n-A "
				 "PREROUTING -p tcp --dport 443 -j REDIRECT --to-ports 8443\n"),
			 0);
	judge(firewall, found, &hint);
	assert_string_equal(found, "a");
	assert_string_equal(hint.where, "ip6tables nat, chain PREROUTING, rule 2");
	assert_string_equal(hint.what, "redirect to 8443");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nft_rules),	  cmocka_unit_test(nft_words),
		cmocka_unit_test(not_nft),	  cmocka_unit_test(iptables),
		cmocka_unit_test(iptables_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
