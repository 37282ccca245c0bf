// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Can a window with these options be opened on this host? */
#include "window_check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "listeners.h"
#include "log.h"
#include "policy.h"
#include "vrf.h"

/* May a window with these options be handed to @target? Says why not, unless a relay will do. */
static int check_target(struct engine *engine, const struct window_options *options,
			const struct endpoint *target, char *error, size_t error_size)
{
	struct guards *guards = engine_guards(engine);
	char text[ENDPOINT_STRLEN];
	enum seize_result result;
	int err;

	if (!guards || options->plane == PLANE_RELAY)
		return 0;
	result = guards_preflight(guards, endpoint_is_v4(target), target, &err);
	if (err || result == SEIZE_OK || result == SEIZE_QUEUE_FULL)
		return 0;
	endpoint_format(target, text);
	if (options->plane == PLANE_HANDOFF) {
		snprintf(error, error_size,
			 "connections can't be handed off to %s: %s; without --plane=handoff they "
			 "are "
			 "relayed",
			 text, seize_texts[result]);
		return -EOPNOTSUPP;
	}
	log_info("steered connections to %s are relayed: %s", text, seize_texts[result]);
	return 0;
}

/* An address that a listener on a wildcard can be reached at. */
static struct endpoint reachable(const struct listener *listener)
{
	struct endpoint at = listener->address;

	if (IN6_IS_ADDR_UNSPECIFIED(&at.addr))
		at.addr = (struct in6_addr)IN6ADDR_LOOPBACK_INIT;
	else if (endpoint_is_v4(&at) && !memcmp(&at.addr.s6_addr[12], "\0\0\0", 4))
		memcpy(&at.addr.s6_addr[12], "\x7f\0\0\1", 4);
	return at;
}

/* Is there a web server behind each port, and which plane can it have? */
static int check_port(struct engine *engine, const struct window_options *options, uint16_t port,
		      char *error, size_t error_size)
{
	struct listener listeners[LISTENERS_MAX];
	int n = listeners_find(port, listeners);

	if (n < 0) {
		snprintf(error, error_size, "asking who listens on port %u: %s", port,
			 strerror(-n));
		return n;
	}
	if (n == 0) {
		snprintf(error, error_size,
			 "nothing listens on port %u in this network namespace; start the web "
			 "server "
			 "first, or name where it is with --web-server or --netns",
			 port);
		return -ENOENT;
	}
	for (int i = 0; i < n; i++) {
		struct endpoint at = reachable(&listeners[i]);
		int err = check_target(engine, options, &at, error, error_size);

		if (err)
			return err;
	}
	return 0;
}

/* When all of a window's connections are relayed: can the client's address be kept as asked for? */
static int check_client_ip(const struct window_options *options, char *error, size_t error_size)
{
	int err = options->client_ip == CLIENT_IP_TRANSPARENT ? policy_probe() : 0;

	if (err)
		snprintf(error, error_size,
			 "connections are relayed, and their addresses can't be kept: %s; give "
			 "CAP_NET_ADMIN, or choose --client-ip=proxy-v2 (the web server must "
			 "expect it) or "
			 "--client-ip=none (it sees this host's address)",
			 err == -EOPNOTSUPP ? "the kernel has no policy routing" : strerror(-err));
	return err;
}

/*
 * The web server is on another host, or in another network namespace: only a relay gets there. Its
 * answers to the clients' own addresses come by here only if we are its router; else every
 * connection would be lost, and there is no way to find out but to lose one.
 */
static int check_elsewhere(const struct window_options *options, char *error, size_t error_size)
{
	char at[ENDPOINT_STRLEN];

	endpoint_format(&options->web_server, at);
	if (options->plane == PLANE_HANDOFF) {
		snprintf(error, error_size,
			 "the web server at %s is not on this host; without --plane=handoff "
			 "connections are relayed",
			 at);
		return -EOPNOTSUPP;
	}
	if (options->client_ip != CLIENT_IP_TRANSPARENT || options->client_ip_chosen)
		return 0;
	snprintf(error, error_size,
		 "the web server at %s is not on this host, and would answer the clients past "
		 "it: say --client-ip=proxy-v2 (it must expect that), --client-ip=none (it sees "
		 "this host's address), or --client-ip=transparent if this host is its router",
		 at);
	return -EINVAL;
}

/* The sniffers are in no VRF: what comes in by one would be lost. */
static int check_vrf(uint16_t port, char *error, size_t error_size)
{
	struct listener listeners[LISTENERS_MAX];
	int n = listeners_find(port, listeners);
	char name[IF_NAMESIZE];

	if (n <= 0 || vrf_find(listeners, n, name) <= 0)
		return 0;
	snprintf(error, error_size,
		 "connections to port %u come in by the VRF %s, and would be lost: no window is "
		 "opened where the web server is bound to a VRF, or takes connections of all of "
		 "them (net.ipv4.tcp_l3mdev_accept)",
		 port, name);
	return -EOPNOTSUPP;
}

/* Does another window say where the web server of this port is? */
static bool gives_way_to(const struct window_options *options, const struct window_set *set,
			 uint16_t port)
{
	const struct window *other = window_set_of_port(set, port);

	return options->gives_way && other && !other->options.gives_way;
}

int window_check(const struct window_options *options, const struct window_set *set,
		 struct engine *engine, char *error, size_t error_size)
{
	const char *no_handoff = engine_no_handoff(engine);
	int err = 0;

	if (options->plane == PLANE_HANDOFF && no_handoff) {
		snprintf(error, error_size, "%s; without --plane=handoff connections are relayed",
			 no_handoff);
		return -EOPNOTSUPP;
	}
	for (size_t i = 0; i < options->n_ports && !err; i++)
		err = check_vrf(options->ports[i], error, error_size);
	if (!err && (no_handoff || options->plane == PLANE_RELAY))
		err = check_client_ip(options, error, error_size);
	if (err)
		return err;
	if (options->has_web_server) {
		if (!listeners_is_local(&options->web_server))
			return check_elsewhere(options, error, error_size);
		return check_target(engine, options, &options->web_server, error, error_size);
	}
	for (size_t i = 0; i < options->n_ports && !err; i++)
		if (!gives_way_to(options, set, options->ports[i]))
			err = check_port(engine, options, options->ports[i], error, error_size);
	return err;
}
