// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the workers ask of the windows. Written a few times a minute, read for each connection. */
#include "routes.h"

void routes_init(struct routes *routes)
{
	pthread_rwlockattr_t attr;

	/* Readers come in an unbroken stream on a busy host. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&routes->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	routes->windows = (struct window_set){};
	routes->challenges = (struct challenge_set){};
}

void routes_free(struct routes *routes)
{
	window_set_close_all(&routes->windows);
	challenge_set_clear(&routes->challenges);
	pthread_rwlock_destroy(&routes->lock);
}

struct route routes_web_server(struct routes *routes, const struct endpoint *local,
			       uint64_t *ret_sniff_ns)
{
	struct route route = { .target = *local };
	const struct window *window;

	pthread_rwlock_rdlock(&routes->lock);
	window = window_set_of_port(&routes->windows, local->port);
	*ret_sniff_ns = window_set_sniff_timeout(&routes->windows, local->port);
	if (window) {
		if (window->options.has_web_server) {
			route.target = window->options.web_server;
			route.elsewhere = window->web_server_elsewhere;
		}
		route.plane = window->options.plane;
		route.client_ip = window->options.client_ip;
	}
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
		*ret_route = (struct route){ .to_responder = true,
					     .elsewhere = window->responder_elsewhere,
					     .target = window->options.built_in
							       ? routes->built_in
							       : window->options.responder,
					     .plane = window->options.plane,
					     .client_ip = CLIENT_IP_NONE };
		__atomic_fetch_add(&window->acme_connections, 1, __ATOMIC_RELAXED);
	}
	pthread_rwlock_unlock(&routes->lock);
	return window;
}
