/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the workers ask of the windows: where does this connection go? Locked; any thread. */
#ifndef ROUTES_H
#define ROUTES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "challenge.h"
#include "tally.h"
#include "window.h"

/* Only the main thread writes, with the lock held; it may read without. */
struct routes {
	pthread_rwlock_t lock;
	struct window_set windows;
	struct challenge_set challenges;
	struct endpoint built_in; /* where the built-in responder is, while there are challenges */
	struct tally *closed;	  /* of closed windows that still have connections; newest first */
	struct tally stray;	  /* connections of no window, open or closed */
	uint32_t max_relays;	  /* relayed connections at once, of all workers */
	uint32_t relays;	  /* those that there are; __atomic */
	uint64_t no_ports_ns;	  /* when a relay last found no source port; __atomic */
};

/* Where one connection goes, and how. */
struct route {
	bool to_responder; /* else to the web server */
	bool elsewhere;	   /* the target is not on this host: only a relay gets there */
	struct endpoint target;
	enum plane plane;
	enum client_ip client_ip;
	struct tally *tally; /* held for the caller, who has to tally_release() it */
};

/* @max_relays: see limit.h. */
void routes_init(struct routes *routes, uint32_t max_relays);
void routes_free(struct routes *routes);

/*
 * To the web server, for a connection to @local that has just come: asked then, since the window
 * may be closed before it is classified. If it is closed already, the way is still its own.
 * *ret_sniff_ns: how long to wait for a ClientHello.
 */
struct route routes_web_server(struct routes *routes, const struct endpoint *local,
			       uint64_t *ret_sniff_ns);

/*
 * To the responder that wants an acme-tls/1 ClientHello for @sni on the port of @local: the
 * built-in one if there is a challenge for the name, else a window's; counts it there. False when
 * nobody does.
 */
bool routes_responder(struct routes *routes, const struct endpoint *local, const char *sni,
		      struct route *ret_route);

/* One more connection is relayed (@on), or one less. Any thread. */
void routes_relay(struct routes *routes, bool on);

/* How many are; any thread. */
uint32_t routes_relays(const struct routes *routes);

/* There was no source port for one more, at @now_ns; any thread. */
void routes_no_ports(struct routes *routes, uint64_t now_ns);

/* Was that so until a moment ago? */
bool routes_lack_ports(const struct routes *routes, uint64_t now_ns);

/* Takes @window out; its tally joins the closed ones. */
void routes_close_window(struct routes *routes, const struct window *window, uint64_t now_ns);

/*
 * Frees tallies of closed windows that have no connection any more. Not while an engine drains:
 * what still comes belongs to the window that was closed.
 */
void routes_reap_tallies(struct routes *routes, uint64_t now_ns);

#endif
