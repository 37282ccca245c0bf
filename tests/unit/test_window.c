/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: window.c window_index.c addr.c name.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util.h"
#include "window.h"

#define S NSEC_PER_SEC

static char error[512];

static int set_one(struct window_options *options, const char *key, const char *value)
{
	strcpy(error, "untouched");
	return window_options_set(options, key, value, error, sizeof(error));
}

static void good(struct window_options *options, const char *key, const char *value)
{
	if (set_one(options, key, value) != 0)
		fail_msg("%s=%s: %s", key, value, error);
	assert_string_equal(error, "untouched");
}

/* Refused with @code, a line that begins with the key and has @word, and nothing changed. */
static void bad(const char *key, const char *value, int code, const char *word)
{
	struct window_options options, before;
	char prefix[32];
	int r;

	window_options_init(&options);
	before = options;
	r = set_one(&options, key, value);
	if (r != code)
		fail_msg("%s=%s: %d, not %d (%s)", key, value, r, code, error);
	snprintf(prefix, sizeof(prefix), "%s: ", key);
	assert_memory_equal(error, prefix, strlen(prefix));
	if (!strstr(error, word))
		fail_msg("%s=%s: no \"%s\" in \"%s\"", key, value, word, error);
	assert_null(strchr(error, '\n'));
	assert_memory_equal(&options, &before, sizeof(options));
}

static void defaults(void **state)
{
	struct window_options options;
	char buf[ENDPOINT_STRLEN];

	window_options_init(&options);
	assert_string_equal(options.name, "default");
	assert_int_equal(options.ttl_s, 600);
	assert_int_equal(options.sniff_timeout_ms, 3000);
	assert_int_equal(options.n_ports, 1);
	assert_int_equal(options.ports[0], 443);
	assert_int_equal(options.n_domains, 0);
	assert_string_equal(endpoint_format(&options.responder, buf), "127.0.0.1:31443");
	assert_false(options.has_web_server);
	assert_int_equal(options.plane, PLANE_AUTO);
	assert_int_equal(options.client_ip, CLIENT_IP_TRANSPARENT);
	assert_false(options.built_in);
}

static void times(void **state)
{
	static const struct {
		const char *text;
		uint32_t ttl_s;
	} ttls[] = { { "600", 600 },   { "90s", 90 },	{ "10m", 600 }, { "1h", 3600 },
		     { "3600", 3600 }, { "60m", 3600 }, { "1", 1 } };
	struct window_options options;

	window_options_init(&options);
	for (size_t i = 0; i < ARRAY_SIZE(ttls); i++) {
		good(&options, "ttl", ttls[i].text);
		assert_int_equal(options.ttl_s, ttls[i].ttl_s);
	}
	bad("ttl", "0", -EINVAL, "close the window at once");
	bad("ttl", "0h", -EINVAL, "close the window at once");
	bad("ttl", "2h", -EINVAL,
	    "2h is more than the 1h allowed; use 1h, or `acme-steer run`, which renews");
	bad("ttl", "3601", -EINVAL, "more than");
	bad("ttl", "61m", -EINVAL, "more than");
	bad("ttl", "4294967296", -EINVAL, "more than");
	bad("ttl", "18446744073709551617", -EINVAL, "more than");
	bad("ttl", "5124095576030432h", -EINVAL, "more than");
	bad("ttl", "", -EINVAL, "is no time");
	bad("ttl", "m", -EINVAL, "is no time");
	bad("ttl", "-1", -EINVAL, "is no time");
	bad("ttl", "+1", -EINVAL, "is no time");
	bad("ttl", " 1", -EINVAL, "is no time");
	bad("ttl", "1.5h", -EINVAL, "is no time");
	bad("ttl", "10min", -EINVAL, "is no time");
	bad("ttl", "1d", -EINVAL, "is no time");
	bad("ttl", "500ms", -EINVAL, "is no time");

	good(&options, "sniff-timeout", "500ms");
	assert_int_equal(options.sniff_timeout_ms, 500);
	good(&options, "sniff-timeout", "60s");
	assert_int_equal(options.sniff_timeout_ms, 60000);
	good(&options, "sniff-timeout", "100ms");
	assert_int_equal(options.sniff_timeout_ms, 100);
	bad("sniff-timeout", "99ms", -EINVAL, "outside");
	bad("sniff-timeout", "61s", -EINVAL, "outside");
	bad("sniff-timeout", "0s", -EINVAL, "outside");
	bad("sniff-timeout", "3", -EINVAL, "is no time");
	bad("sniff-timeout", "1m", -EINVAL, "is no time");
}

static void names(void **state)
{
	struct window_options options;
	char text[66];

	window_options_init(&options);
	good(&options, "name", "run-123.A_b");
	assert_string_equal(options.name, "run-123.A_b");
	memset(text, 'n', sizeof(text));
	text[63] = '\0';
	good(&options, "name", text);
	assert_string_equal(options.name, text);
	text[63] = 'n';
	text[64] = '\0';
	bad("name", text, -EINVAL, "is no window name");
	bad("name", "", -EINVAL, "is no window name");
	bad("name", "a b", -EINVAL, "is no window name");
	bad("name", "a/b", -EINVAL, "is no window name");
	bad("name", "\xc3\xa4", -EINVAL, "is no window name");
	bad("names", "a", -ENOKEY, "no such window option");
	bad("", "a", -ENOKEY, "no such window option");
}

static void ports(void **state)
{
	struct window_options options;
	char text[16];

	window_options_init(&options);
	good(&options, "port", "8443"); /* takes the default's place */
	assert_int_equal(options.n_ports, 1);
	assert_int_equal(options.ports[0], 8443);
	good(&options, "port", "443");
	good(&options, "port", "8443");
	assert_int_equal(options.n_ports, 2);
	assert_int_equal(options.ports[1], 443);
	for (int i = 3; i <= WINDOW_MAX_PORTS; i++) {
		snprintf(text, sizeof(text), "%d", i);
		good(&options, "port", text);
	}
	assert_int_equal(set_one(&options, "port", "9"), -E2BIG);
	assert_int_equal(options.n_ports, WINDOW_MAX_PORTS);
	good(&options, "port", "443"); /* there already */

	window_options_init(&options);
	good(&options, "port", "443");
	assert_int_equal(options.n_ports, 1);
	good(&options, "port", "65535");
	assert_int_equal(options.n_ports, 2);
	bad("port", "0", -EINVAL, "is no port");
	bad("port", "65536", -EINVAL, "is no port");
	bad("port", "", -EINVAL, "is no port");
	bad("port", "-1", -EINVAL, "is no port");
	bad("port", "https", -EINVAL, "is no port");
	bad("port", "443x", -EINVAL, "is no port");
	bad("port", "18446744073709551617", -EINVAL, "is no port");
}

static void one_domain(const char *value, const char *stored)
{
	struct window_options options;

	window_options_init(&options);
	good(&options, "domain", value);
	assert_int_equal(options.n_domains, 1);
	assert_string_equal(options.domains[0], stored);
}

static void domains(void **state)
{
	struct window_options options;
	char text[300] = "", label[66];

	one_domain("Example.COM", "example.com");
	one_domain("example.com.", "example.com");
	one_domain("localhost", "localhost");
	one_domain("xn--bcher-kva.example", "xn--bcher-kva.example");
	one_domain("a-1.2-b.example", "a-1.2-b.example");
	one_domain("1.2.3.4a", "1.2.3.4a");
	one_domain("192.0.2.1", "1.2.0.192.in-addr.arpa");
	one_domain("2001:DB8::1",
		   "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");

	bad("domain", "*.example.com", -EINVAL, "DNS-01");
	bad("domain", "*", -EINVAL, "DNS-01");
	bad("domain",
	    "b\xc3\xbc"
	    "cher.example",
	    -EINVAL, "A-label");
	bad("domain", "", -EINVAL, "is empty");
	bad("domain", ".", -EINVAL, "is empty");
	bad("domain", ".example", -EINVAL, "empty label");
	bad("domain", "a..example", -EINVAL, "empty label");
	bad("domain", "example..", -EINVAL, "empty label");
	bad("domain", "-a.example", -EINVAL, "begins with a hyphen");
	bad("domain", "a-.example", -EINVAL, "ends in a hyphen");
	bad("domain", "a.example-", -EINVAL, "ends in a hyphen");
	bad("domain", "a_b.example", -EINVAL, "no host name");
	bad("domain", "a,b", -EINVAL, "no host name");
	bad("domain", "a b", -EINVAL, "no host name");
	bad("domain", "https://example.com/", -EINVAL, "no host name");
	bad("domain", "192.0.2.256", -EINVAL, "neither");
	bad("domain", "192.0.2.1.", -EINVAL, "neither");
	bad("domain", "1234", -EINVAL, "neither");
	bad("domain", "::g", -EINVAL, "no host name");

	memset(label, 'a', 64);
	strcpy(label + 64, ".");
	snprintf(text, sizeof(text), "%sb", label);
	bad("domain", text, -EINVAL, "more than 63");
	strcpy(label + 63, ".");
	snprintf(text, sizeof(text), "%s%s%s%.61s", label, label, label, label);
	assert_int_equal(strlen(text), 253);
	one_domain(text, text);
	strcat(text, "a");
	bad("domain", text, -EINVAL, "longer than the 253");
	memset(text, 'a', sizeof(text) - 1);
	bad("domain", text, -EINVAL, "longer than the 253");

	window_options_init(&options);
	for (int i = 0; i < WINDOW_MAX_DOMAINS; i++) {
		snprintf(text, sizeof(text), "d%d.example", i);
		good(&options, "domain", text);
		good(&options, "domain", "D0.example");
		assert_int_equal(options.n_domains, i + 1);
	}
	assert_int_equal(set_one(&options, "domain", "one-more.example"), -E2BIG);
	assert_int_equal(options.n_domains, WINDOW_MAX_DOMAINS);
}

static void endpoints_and_choices(void **state)
{
	struct window_options options;
	char buf[ENDPOINT_STRLEN];

	window_options_init(&options);
	good(&options, "responder", "[::1]:5001");
	assert_string_equal(endpoint_format(&options.responder, buf), "[::1]:5001");
	assert_false(options.has_web_server);
	good(&options, "web-server", "192.0.2.1:8443");
	assert_true(options.has_web_server);
	assert_string_equal(endpoint_format(&options.web_server, buf), "192.0.2.1:8443");
	bad("responder", "localhost:31443", -EINVAL, "no address");
	bad("responder", "127.0.0.1", -EINVAL, "no address");
	bad("responder", "31443", -EINVAL, "no address");
	bad("responder", "", -EINVAL, "no address");
	bad("responder", "0.0.0.0:443", -EINVAL, "nobody can connect");
	bad("responder", "224.0.0.1:443", -EINVAL, "nobody can connect");
	bad("responder", "255.255.255.255:443", -EINVAL, "nobody can connect");
	bad("web-server", "[::]:443", -EINVAL, "nobody can connect");
	bad("web-server", "[ff02::1]:443", -EINVAL, "nobody can connect");
	bad("web-server", "[fe80::1]:443", -EINVAL, "needs its interface");
	bad("web-server", "nginx", -EINVAL, "no address");

	for (int i = 0; i < PLANE_COUNT; i++) {
		good(&options, "plane", plane_names[i]);
		assert_int_equal(options.plane, i);
	}
	for (int i = 0; i < CLIENT_IP_COUNT; i++) {
		good(&options, "client-ip", client_ip_names[i]);
		assert_int_equal(options.client_ip, i);
	}
	assert_string_equal(plane_names[PLANE_HANDOFF], "handoff");
	assert_string_equal(client_ip_names[CLIENT_IP_PROXY_V2], "proxy-v2");
	bad("plane", "hand-off", -EINVAL, "use auto, handoff or relay");
	bad("client-ip", "", -EINVAL, "use none, transparent, proxy-v1 or proxy-v2");
}

/* Opens the window @name with "key=value" words at @now. */
static int open_one(struct window_set *set, uint64_t now, bool *ret_renewed, const char *name, ...)
{
	struct window_options options;
	va_list ap;
	const char *key;

	window_options_init(&options);
	good(&options, "name", name);
	va_start(ap, name);
	while ((key = va_arg(ap, const char *)))
		good(&options, key, va_arg(ap, const char *));
	va_end(ap);
	return window_set_open(set, &options, now, ret_renewed, error, sizeof(error));
}

static void open_renew_close_expire(void **state)
{
	struct window_set set = {};
	struct window *a;
	bool renewed = true;

	assert_int_equal(window_set_next_deadline(&set), UINT64_MAX);
	assert_int_equal(window_set_port_deadline(&set, 443), 0);
	assert_false(window_set_close(&set, "a"));
	assert_int_equal(window_set_expire(&set, UINT64_MAX), 0);

	assert_int_equal(open_one(&set, 1 * S, &renewed, "a", "ttl", "10", NULL), 0);
	assert_false(renewed);
	assert_int_equal(open_one(&set, 2 * S, &renewed, "b", "ttl", "20", "port", "8443", "port",
				  "443", NULL),
			 0);
	assert_false(renewed);
	assert_int_equal(set.n, 2);
	a = window_set_find(&set, "a");
	assert_ptr_equal(a, set.windows[0]);
	assert_null(window_set_find(&set, "A"));
	a->acme_connections = 7;
	assert_int_equal(window_set_next_deadline(&set), 11 * S);
	assert_int_equal(window_set_port_deadline(&set, 443), 22 * S);
	assert_int_equal(window_set_port_deadline(&set, 8443), 22 * S);
	assert_int_equal(window_set_port_deadline(&set, 80), 0);

	/* Renewed: all options anew, deadline from now even if that is sooner, history kept. */
	assert_int_equal(open_one(&set, 5 * S, &renewed, "a", "port", "8443", "ttl", "5", NULL), 0);
	assert_true(renewed);
	assert_int_equal(set.n, 2);
	assert_ptr_equal(window_set_find(&set, "a"), a);
	assert_int_equal(a->opened_ns, 1 * S);
	assert_int_equal(a->acme_connections, 7);
	assert_int_equal(a->deadline_ns, 10 * S);
	assert_int_equal(a->options.n_ports, 1);
	assert_int_equal(a->options.ports[0], 8443);

	assert_int_equal(window_set_expire(&set, 10 * S - 1), 0);
	assert_int_equal(window_set_expire(&set, 10 * S), 1);
	assert_int_equal(set.n, 1);
	assert_string_equal(set.windows[0]->options.name, "b");
	assert_true(window_set_close(&set, "b"));
	assert_false(window_set_close(&set, "b"));
	assert_int_equal(set.n, 0);

	for (int i = 0; i < WINDOW_MAX; i++) {
		char name[16];

		snprintf(name, sizeof(name), "w%d", i);
		assert_int_equal(open_one(&set, S, &renewed, name, NULL), 0);
	}
	renewed = true;
	assert_int_equal(open_one(&set, S, &renewed, "one-more", NULL), -ENOSPC);
	assert_true(renewed); /* untouched */
	assert_int_equal(set.n, WINDOW_MAX);
	assert_int_equal(open_one(&set, S, &renewed, "w7", NULL), 0);
	assert_true(window_set_close(&set, "w0"));
	assert_true(window_set_close(&set, "w63"));
	assert_true(window_set_close(&set, "w30"));
	assert_int_equal(set.n, WINDOW_MAX - 3);
	assert_string_equal(set.windows[0]->options.name, "w1");
	assert_string_equal(set.windows[29]->options.name, "w31");
	window_set_close_all(&set);
	assert_int_equal(set.n, 0);
}

static void windows_of_a_port_agree(void **state)
{
	struct window_set set = {};
	bool renewed;

	assert_int_equal(open_one(&set, S, &renewed, "a", "web-server", "127.0.0.1:8443", NULL), 0);
	assert_int_equal(open_one(&set, S, &renewed, "b", NULL), -EEXIST);
	assert_non_null(strstr(error, "port 443: window \"a\" is open with another web-server"));
	assert_int_equal(set.n, 1);
	assert_int_equal(open_one(&set, S, &renewed, "b", "web-server", "127.0.0.1:8444", NULL),
			 -EEXIST);
	assert_int_equal(open_one(&set, S, &renewed, "b", "web-server", "127.0.0.1:8443", "plane",
				  "relay", NULL),
			 -EEXIST);
	assert_non_null(strstr(error, "another plane"));
	assert_int_equal(open_one(&set, S, &renewed, "b", "web-server", "127.0.0.1:8443",
				  "client-ip", "proxy-v1", NULL),
			 -EEXIST);
	assert_non_null(strstr(error, "another client-ip"));
	assert_int_equal(open_one(&set, S, &renewed, "b", "web-server", "127.0.0.1:8443",
				  "responder", "127.0.0.1:1", NULL),
			 0);
	/* Another port: another matter. */
	assert_int_equal(open_one(&set, S, &renewed, "c", "port", "8443", "plane", "relay", NULL),
			 0);
	assert_int_equal(open_one(&set, S, &renewed, "d", "port", "9443", "port", "8443", NULL),
			 -EEXIST);
	assert_non_null(strstr(error, "port 8443: window \"c\""));
	/* A window doesn't contradict itself, but it does another on being renewed, and stays as it
	 * was. */
	assert_int_equal(open_one(&set, S, &renewed, "c", "port", "8443", NULL), 0);
	assert_true(renewed);
	assert_int_equal(open_one(&set, 9 * S, &renewed, "c", NULL), -EEXIST);
	assert_int_equal(window_set_find(&set, "c")->options.ports[0], 8443);
	assert_int_equal(window_set_find(&set, "c")->deadline_ns, 601 * S);

	assert_ptr_equal(window_set_of_port(&set, 443), set.windows[0]);
	assert_null(window_set_of_port(&set, 80));
	window_set_close_all(&set);
}

static void sniff_timeouts(void **state)
{
	struct window_set set = {};
	bool renewed;

	assert_int_equal(window_set_sniff_timeout(&set, 443), 3 * S);
	open_one(&set, S, &renewed, "a", "sniff-timeout", "500ms", NULL);
	assert_int_equal(window_set_sniff_timeout(&set, 443), S / 2);
	open_one(&set, S, &renewed, "b", "sniff-timeout", "10s", NULL);
	assert_int_equal(window_set_sniff_timeout(&set, 443), 10 * S);
	assert_int_equal(window_set_sniff_timeout(&set, 80), 3 * S);
	window_set_close_all(&set);
}

static const char *routed(const struct window_set *set, uint16_t port, const char *sni)
{
	const struct window *window = window_set_route(set, port, sni);

	return window ? window->options.name : "nobody";
}

static void routes(void **state)
{
	struct window_set set = {};
	bool renewed;

	assert_string_equal(routed(&set, 443, "a.example"), "nobody");
	open_one(&set, S, &renewed, "listed", "domain", "A.example", "domain", "b.example",
		 "domain", "192.0.2.1", NULL);
	assert_string_equal(routed(&set, 443, "a.example"), "listed");
	assert_string_equal(routed(&set, 443, "B.Example"), "listed");
	assert_string_equal(routed(&set, 443, "1.2.0.192.in-addr.arpa"), "listed");
	assert_string_equal(routed(&set, 443, "192.0.2.1"), "nobody");
	assert_string_equal(routed(&set, 443, "c.example"), "nobody");
	assert_string_equal(routed(&set, 443, "xa.example"), "nobody");
	assert_string_equal(routed(&set, 443, ""), "nobody");
	assert_string_equal(routed(&set, 8443, "a.example"), "nobody");

	open_one(&set, S, &renewed, "every", NULL);
	open_one(&set, S, &renewed, "other-port", "port", "8443", NULL);
	assert_string_equal(routed(&set, 443, "a.example"), "listed");
	assert_string_equal(routed(&set, 443, "c.example"), "every");
	assert_string_equal(routed(&set, 443, ""), "every");
	assert_string_equal(routed(&set, 8443, "a.example"), "other-port");

	/* The one opened last, whether both list the name or neither has a list. */
	open_one(&set, S, &renewed, "listed-too", "domain", "a.example", NULL);
	open_one(&set, S, &renewed, "every-too", NULL);
	assert_string_equal(routed(&set, 443, "a.example"), "listed-too");
	assert_string_equal(routed(&set, 443, "b.example"), "listed");
	assert_string_equal(routed(&set, 443, "c.example"), "every-too");
	window_set_close(&set, "every-too");
	window_set_close(&set, "listed-too");
	assert_string_equal(routed(&set, 443, "a.example"), "listed");
	assert_string_equal(routed(&set, 443, "c.example"), "every");
	window_set_close_all(&set);
}

/* What the four questions of a connection mean, asked of every window. */
static void assert_answers(const struct window_set *set, uint16_t port, const char *sni)
{
	const struct window *first = NULL, *listed = NULL, *every = NULL;
	uint64_t ms = 0;

	for (size_t i = 0; i < set->n; i++) {
		const struct window *window = set->windows[i];
		bool has = false;

		for (size_t k = 0; k < window->options.n_ports; k++)
			has |= window->options.ports[k] == port;
		if (!has)
			continue;
		if (!first)
			first = window;
		if (window->options.sniff_timeout_ms > ms)
			ms = window->options.sniff_timeout_ms;
		if (window->options.n_domains == 0)
			every = window;
		for (size_t k = 0; k < window->options.n_domains; k++)
			if (strcmp(window->options.domains[k], sni) == 0)
				listed = window;
	}
	assert_ptr_equal(window_set_of_port(set, port), first);
	assert_ptr_equal(window_set_route(set, port, sni), listed ? listed : every);
	assert_int_equal(window_set_sniff_timeout(set, port), first ? ms * NSEC_PER_MSEC : 3 * S);
	assert_null(window_set_built_in(set, port));
}

/* Opened, renewed and closed without end, of few enough ports and names that they collide. */
static void many_windows(void **state)
{
	struct window_set set = {};
	unsigned random = 1;
	bool renewed;

	for (int round = 0; round < 3000; round++) {
		char name[16], port[16], other[16], domain[24], another[24], sniff[16];
		unsigned kind = (random = random * 1103515245 + 12345) >> 16;

		snprintf(name, sizeof(name), "w%u", kind % (WINDOW_MAX + 6));
		random = random * 1103515245 + 12345;
		snprintf(port, sizeof(port), "%u", 1 + (random >> 16) % 40);
		snprintf(other, sizeof(other), "%u", 1 + (random >> 20) % 40);
		snprintf(domain, sizeof(domain), "d%u.example", (random >> 12) % 90);
		snprintf(another, sizeof(another), "d%u.example", (random >> 18) % 90);
		snprintf(sniff, sizeof(sniff), "%ums", 100 + (random >> 10) % 5000);
		if (round % 5 == 4)
			window_set_close(&set, name);
		else if (round % 5 == 3)
			open_one(&set, S, &renewed, name, "port", port, "sniff-timeout", sniff,
				 NULL);
		else
			open_one(&set, S, &renewed, name, "port", port, "port", other, "domain",
				 domain, "domain", another, NULL);
		for (uint16_t i = 1; i <= 41; i++) {
			char sni[24];

			snprintf(sni, sizeof(sni), "d%u.example", (random >> 8) % 95 + i % 7);
			assert_answers(&set, i, sni);
			assert_answers(&set, i, domain);
		}
	}
	assert_true(set.n > WINDOW_MAX / 2);
	window_set_close_all(&set);
	assert_answers(&set, 1, "d1.example");
}

static int open_built_in(struct window_set *set, uint64_t now, bool gives_way, enum plane plane)
{
	struct window_options options;
	bool renewed;

	window_options_init(&options);
	strcpy(options.name, "challenge:443");
	options.built_in = true;
	options.gives_way = gives_way;
	options.plane = plane;
	return window_set_open(set, &options, now, &renewed, error, sizeof(error));
}

static void windows_made_for_challenges(void **state)
{
	struct window_set set = {};
	struct window *window;
	bool renewed;

	assert_null(window_set_built_in(&set, 443));
	assert_int_equal(open_built_in(&set, S, true, PLANE_AUTO), 0);
	window = window_set_built_in(&set, 443);
	assert_non_null(window);
	assert_null(window_set_built_in(&set, 8443));
	/* No window of a user's can be called that. */
	bad("name", "challenge:443", -EINVAL, "A-Z");
	/* It has no list of names, and yet is not for every name. */
	assert_string_equal(routed(&set, 443, "a.example"), "nobody");
	assert_ptr_equal(window_set_of_port(&set, 443), window);

	/* It follows the others, */
	assert_int_equal(open_one(&set, S, &renewed, "a", "web-server", "127.0.0.1:8443", "plane",
				  "relay", NULL),
			 0);
	assert_string_equal(routed(&set, 443, "a.example"), "a");
	assert_true(window->options.has_web_server);
	assert_int_equal(window->options.web_server.port, 8443);
	assert_int_equal(window->options.plane, PLANE_RELAY);
	/* those of its port. */
	assert_int_equal(open_one(&set, S, &renewed, "b", "port", "8443", "plane", "handoff", NULL),
			 0);
	assert_int_equal(window->options.plane, PLANE_RELAY);
	/* Opened or renewed, it takes what is there. */
	assert_int_equal(open_built_in(&set, S, true, PLANE_AUTO), 0);
	assert_int_equal(window->options.plane, PLANE_RELAY);

	/* Unless a user says otherwise: then it is one like the others. */
	assert_int_equal(open_built_in(&set, S, false, PLANE_HANDOFF), -EEXIST);
	window_set_close(&set, "a");
	assert_int_equal(open_built_in(&set, S, false, PLANE_HANDOFF), 0);
	assert_int_equal(open_one(&set, S, &renewed, "a", "plane", "relay", NULL), -EEXIST);
	assert_non_null(strstr(error, "challenge:443"));
	window_set_close_all(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(times),
		cmocka_unit_test(names),
		cmocka_unit_test(ports),
		cmocka_unit_test(domains),
		cmocka_unit_test(endpoints_and_choices),
		cmocka_unit_test(open_renew_close_expire),
		cmocka_unit_test(windows_of_a_port_agree),
		cmocka_unit_test(sniff_timeouts),
		cmocka_unit_test(routes),
		cmocka_unit_test(many_windows),
		cmocka_unit_test(windows_made_for_challenges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
