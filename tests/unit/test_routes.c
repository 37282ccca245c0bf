/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: routes.c window.c window_index.c tally.c challenge.c lazy.c timers.c name.c addr.c
/* Where connections go: while their window is open, when it has just been closed, without one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "limit.h"
#include "routes.h"
#include "util.h"

#define SECOND NSEC_PER_SEC

static struct routes routes;
static struct endpoint local, web_server;

static struct endpoint endpoint(const char *text)
{
	struct endpoint endpoint;

	assert_int_equal(endpoint_parse(text, 0, &endpoint), 0);
	return endpoint;
}

static int setup(void **state)
{
	routes_init(&routes, 100);
	local = endpoint("192.0.2.1:443");
	web_server = endpoint("192.0.2.7:8443");
	return 0;
}

static int teardown(void **state)
{
	routes_free(&routes);
	return 0;
}

static struct window *open_with(const struct window_options *options)
{
	struct window *window;
	char error[256];
	bool renewed;

	assert_int_equal(
		window_set_open(&routes.windows, options, SECOND, &renewed, error, sizeof(error)),
		0);
	window = window_set_find(&routes.windows, options->name);
	window->web_server_elsewhere = options->has_web_server;
	window->tally = tally_new(options->name);
	assert_non_null(window->tally);
	return window;
}

/* A window whose connections reach the web server in a way of their own. */
static struct window *open_window(const char *name, enum client_ip client_ip, bool elsewhere)
{
	struct window_options options;

	window_options_init(&options);
	snprintf(options.name, sizeof(options.name), "%s", name);
	options.plane = PLANE_RELAY;
	options.client_ip = client_ip;
	options.has_web_server = elsewhere;
	options.web_server = web_server;
	options.sniff_timeout_ms = 700;
	return open_with(&options);
}

/* One that has another port, too, and says nothing of either. */
static struct window *open_armed(void)
{
	struct window_options options;

	window_options_init(&options);
	strcpy(options.name, "armed");
	options.gives_way = true;
	options.client_ip = CLIENT_IP_NONE;
	options.n_ports = 2;
	options.ports[0] = 443;
	options.ports[1] = 8443;
	return open_with(&options);
}

static struct route route_now(void)
{
	uint64_t sniff_ns;

	return routes_web_server(&routes, &local, &sniff_ns);
}

static void assert_way(const struct route *route, const struct endpoint *target,
		       enum client_ip client_ip)
{
	assert_false(route->to_responder);
	assert_true(endpoint_equal(&route->target, target));
	assert_int_equal(route->elsewhere, target == &web_server);
	assert_int_equal(route->client_ip, client_ip);
}

static void test_open(void **state)
{
	struct window *window = open_window("blog", CLIENT_IP_PROXY_V2, true);
	uint64_t sniff_ns;
	struct route route = routes_web_server(&routes, &local, &sniff_ns);

	assert_way(&route, &web_server, CLIENT_IP_PROXY_V2);
	assert_int_equal(route.plane, PLANE_RELAY);
	assert_ptr_equal(route.tally, window->tally);
	assert_int_equal(sniff_ns, 700 * NSEC_PER_MSEC);
	tally_release(route.tally);
}

/* It was steered while the window was open, and is accepted when it is closed. */
static void test_just_closed(void **state)
{
	static const enum client_ip ways[] = { CLIENT_IP_TRANSPARENT, CLIENT_IP_PROXY_V1,
					       CLIENT_IP_NONE };

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		bool elsewhere = i == 1;
		struct window *window = open_window("blog", ways[i], elsewhere);
		struct tally *tally = window->tally;
		struct route route;

		routes_close_window(&routes, window, 2 * SECOND);
		route = route_now();
		assert_way(&route, elsewhere ? &web_server : &local, ways[i]);
		assert_int_equal(route.plane, PLANE_RELAY);
		assert_ptr_equal(route.tally, tally);
		tally_release(route.tally);
	}
}

/* Of two that are closed the last: it is that whose steering has just ended. */
static void test_closed_before(void **state)
{
	struct route route;

	routes_close_window(&routes, open_window("one", CLIENT_IP_PROXY_V1, true), 2 * SECOND);
	routes_close_window(&routes, open_window("two", CLIENT_IP_PROXY_V2, false), 3 * SECOND);
	route = route_now();
	assert_way(&route, &local, CLIENT_IP_PROXY_V2);
	assert_string_equal(route.tally->name, "two");
	tally_release(route.tally);
}

/* Nobody knows where it belongs: never may it look like this host. */
static void test_stray(void **state)
{
	struct route route = route_now();

	assert_way(&route, &local, CLIENT_IP_TRANSPARENT);
	assert_int_equal(route.plane, PLANE_AUTO);
	assert_ptr_equal(route.tally, &routes.stray);
	tally_release(route.tally);
}

/* Of two that close together, the one that gave way has nothing to say of the port. */
static void test_closed_with_one_that_gave_way(void **state)
{
	struct window *mine = open_window("mine", CLIENT_IP_PROXY_V2, true);
	struct window *armed = open_armed();
	struct tally *tallies[] = { mine->tally, armed->tally };
	struct route route;

	routes_close_window(&routes, mine, 2 * SECOND);
	routes_close_window(&routes, armed, 2 * SECOND + 1);
	route = route_now();
	assert_way(&route, &web_server, CLIENT_IP_PROXY_V2);
	assert_ptr_equal(route.tally, tallies[0]);

	/* One that was closed before that is in nobody's way. */
	tallies[1]->closed_ns = 4 * SECOND;
	tally_release(route.tally);
	route = route_now();
	assert_way(&route, &local, CLIENT_IP_NONE);
	assert_ptr_equal(route.tally, tallies[1]);
	tally_release(route.tally);
}

/* A tally stays while one of its connections is ours, and a second longer. */
static void test_reap(void **state)
{
	struct route route;

	routes_close_window(&routes, open_window("blog", CLIENT_IP_PROXY_V1, true), 2 * SECOND);
	route = route_now();
	routes_reap_tallies(&routes, 60 * SECOND);
	assert_non_null(routes.closed);
	tally_release(route.tally);
	routes_reap_tallies(&routes, 3 * SECOND - 1);
	assert_non_null(routes.closed);
	routes_reap_tallies(&routes, 3 * SECOND);
	assert_null(routes.closed);
}

/* A relay that found no source port keeps new connections away for a moment. */
static void test_no_ports(void **state)
{
	assert_false(routes_lack_ports(&routes, 0));
	assert_false(routes_lack_ports(&routes, 5 * SECOND));
	routes_no_ports(&routes, 5 * SECOND);
	assert_true(routes_lack_ports(&routes, 5 * SECOND));
	assert_true(routes_lack_ports(&routes, 5 * SECOND + ROUTES_NO_PORTS_NS - 1));
	assert_false(routes_lack_ports(&routes, 5 * SECOND + ROUTES_NO_PORTS_NS));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_just_closed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_before, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_with_one_that_gave_way, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_stray, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_ports, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
