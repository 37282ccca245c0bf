// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the workers ask of the windows. Written a few times a minute, read for each connection. */
#include <stdlib.h>

#include "routes.h"
#include "util.h"

void routes_init(struct routes *routes, uint32_t max_relays)
{
	pthread_rwlockattr_t attr;

	/* Readers come in an unbroken stream on a busy host. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&routes->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	routes->windows = (struct window_set){};
	routes->challenges = (struct challenge_set){};
	routes->closed = NULL;
	/* No web server may take a visitor of unknown origin for this host. */
	routes->stray = (struct tally){ .way = { .client_ip = CLIENT_IP_TRANSPARENT } };
	routes->max_relays = max_relays;
	routes->relays = 0;
	routes->no_ports_ns = 0;
}

void routes_free(struct routes *routes)
{
	while (routes->windows.n > 0)
		routes_close_window(routes, routes->windows.windows[0], 0);
	while (routes->closed) {
		struct tally *tally = routes->closed;

		routes->closed = tally->next;
		tally_free(tally);
	}
	tally_done(&routes->stray);
	challenge_set_clear(&routes->challenges);
	pthread_rwlock_destroy(&routes->lock);
}

void routes_relay(struct routes *routes, bool on)
{
	__atomic_fetch_add(&routes->relays, on ? 1 : UINT32_MAX, __ATOMIC_RELAXED);
}

uint32_t routes_relays(const struct routes *routes)
{
	return __atomic_load_n(&routes->relays, __ATOMIC_RELAXED);
}

void routes_no_ports(struct routes *routes, uint64_t now_ns)
{
	__atomic_store_n(&routes->no_ports_ns, now_ns, __ATOMIC_RELAXED);
}

bool routes_lack_ports(const struct routes *routes, uint64_t now_ns)
{
	uint64_t lacked_ns = __atomic_load_n(&routes->no_ports_ns, __ATOMIC_RELAXED);

	return lacked_ns && now_ns < lacked_ns + ROUTES_NO_PORTS_NS;
}

static struct tally_way way_of(const struct window *window)
{
	return (struct tally_way){ .has_web_server = window->options.has_web_server,
				   .elsewhere = window->web_server_elsewhere,
				   .web_server = window->options.web_server,
				   .plane = window->options.plane,
				   .client_ip = window->options.client_ip };
}

struct route routes_web_server(struct routes *routes, const struct endpoint *local,
			       uint64_t *ret_sniff_ns)
{
	const struct window *window;
	struct tally_way way;
	struct tally *tally;
	struct route route;

	pthread_rwlock_rdlock(&routes->lock);
	window = window_set_of_port(&routes->windows, local->port);
	*ret_sniff_ns = window_set_sniff_timeout(&routes->windows, local->port);
	tally = window ? window->tally : tally_of_port(routes->closed, local->port);
	if (!tally)
		tally = &routes->stray;
	way = window ? way_of(window) : tally->way;
	route = (struct route){ .target = way.has_web_server ? way.web_server : *local,
				.elsewhere = way.elsewhere,
				.plane = way.plane,
				.client_ip = way.client_ip,
				.tally = tally };
	tally_hold(tally);
	pthread_rwlock_unlock(&routes->lock);
	return route;
}

/* The window of the challenge for @sni, which is counted; NULL: there is none on this port. */
static struct window *challenge_window(struct routes *routes, uint16_t port, const char *sni)
{
	struct challenge *challenge = challenge_set_find(&routes->challenges, sni);

	if (!challenge || challenge->port != port)
		return NULL;
	__atomic_fetch_add(&challenge->connections, 1, __ATOMIC_RELAXED);
	return window_set_built_in(&routes->windows, port);
}

bool routes_responder(struct routes *routes, const struct endpoint *local, const char *sni,
		      struct route *ret_route)
{
	struct window *window;

	pthread_rwlock_rdlock(&routes->lock);
	window = challenge_window(routes, local->port, sni);
	if (!window)
		window = window_set_route(&routes->windows, local->port, sni);
	if (window) {
		/* A responder has no use for the client's address. */
		*ret_route = (struct route){
			.to_responder = true,
			.elsewhere = window->responder_elsewhere,
			.target = window->options.built_in ? routes->built_in
							   : window->options.responder,
			.plane = window_set_of_port(&routes->windows, local->port)->options.plane,
			.client_ip = CLIENT_IP_NONE,
			.tally = window->tally
		};
		tally_hold(window->tally);
		__atomic_fetch_add(&window->acme_connections, 1, __ATOMIC_RELAXED);
	}
	pthread_rwlock_unlock(&routes->lock);
	return window;
}

void routes_close_window(struct routes *routes, const struct window *window, uint64_t now_ns)
{
	struct tally *tally = window->tally;

	pthread_rwlock_wrlock(&routes->lock);
	tally->way = way_of(window);
	tally->gave_way = window->options.gives_way;
	tally->n_ports = window->options.n_ports;
	for (size_t i = 0; i < tally->n_ports; i++)
		tally->ports[i] = window->options.ports[i];
	tally->closed_ns = now_ns;
	tally->next = routes->closed;
	routes->closed = tally;
	window_set_close(&routes->windows, window->options.name);
	pthread_rwlock_unlock(&routes->lock);
}

static bool tally_is_over(const struct tally *tally, uint64_t now_ns)
{
	return !tally_held(tally) && now_ns - tally->closed_ns >= TALLY_REST_NS;
}

void routes_reap_tallies(struct routes *routes, uint64_t now_ns)
{
	bool any = false;

	for (const struct tally *tally = routes->closed; tally; tally = tally->next)
		any |= tally_is_over(tally, now_ns);
	if (!any)
		return;
	/* A connection that is being routed has the lock until it is counted. */
	pthread_rwlock_wrlock(&routes->lock);
	for (struct tally **link = &routes->closed; *link;) {
		struct tally *tally = *link;

		if (tally_is_over(tally, now_ns)) {
			*link = tally->next;
			tally_free(tally);
		} else {
			link = &tally->next;
		}
	}
	pthread_rwlock_unlock(&routes->lock);
}
