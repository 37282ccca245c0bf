/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: window.c window_index.c addr.c name.c
/* The set of windows: opened, renewed, closed; what a connection asks of them. */
#include "window_check.h"

#define S NSEC_PER_SEC

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

static void gives_way_on_several_ports(void **state)
{
	struct window_set set = {};
	struct window_options armed;
	bool renewed;

	window_options_init(&armed);
	strcpy(armed.name, "armed");
	armed.armed = armed.gives_way = armed.ports_given = true;
	armed.n_ports = 2;
	armed.ports[0] = 443;
	armed.ports[1] = 8443;
	assert_int_equal(window_set_open(&set, &armed, S, &renewed, error, sizeof(error)), 0);
	assert_string_equal(window_set_of_port(&set, 443)->options.name, "armed");

	/* What a port's own window was asked for, another port's does not change. */
	assert_int_equal(open_one(&set, S, &renewed, "a", "web-server", "127.0.0.1:8444", "plane",
				  "handoff", NULL),
			 0);
	assert_int_equal(open_one(&set, S, &renewed, "b", "port", "8443", "plane", "relay", NULL),
			 0);
	assert_string_equal(window_set_of_port(&set, 443)->options.name, "a");
	assert_string_equal(window_set_of_port(&set, 8443)->options.name, "b");
	assert_false(window_set_find(&set, "armed")->options.has_web_server);
	assert_int_equal(window_set_open(&set, &armed, S, &renewed, error, sizeof(error)), 0);
	assert_string_equal(window_set_of_port(&set, 443)->options.name, "a");

	window_set_close(&set, "a");
	assert_string_equal(window_set_of_port(&set, 443)->options.name, "armed");
	assert_false(window_set_of_port(&set, 443)->options.has_web_server);

	/* That of a window that has all of its ports it takes over, and keeps. */
	window_set_close(&set, "b");
	assert_int_equal(open_one(&set, S, &renewed, "c", "port", "443", "port", "8443", "port",
				  "9443", "web-server", "127.0.0.1:8444", NULL),
			 0);
	assert_string_equal(window_set_of_port(&set, 8443)->options.name, "c");
	window_set_close(&set, "c");
	assert_string_equal(window_set_of_port(&set, 8443)->options.name, "armed");
	assert_int_equal(window_set_of_port(&set, 8443)->options.web_server.port, 8444);
	window_set_close_all(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(open_renew_close_expire),
		cmocka_unit_test(windows_of_a_port_agree),
		cmocka_unit_test(sniff_timeouts),
		cmocka_unit_test(routes),
		cmocka_unit_test(many_windows),
		cmocka_unit_test(windows_made_for_challenges),
		cmocka_unit_test(gives_way_on_several_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
