// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A connection that the kernel can't hand off: why, and how it is relayed instead. What the
 * client's address becomes, what happens beyond the limit, and whether a target that can't be had
 * is waited for.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "conn_parts.h"
#include "log.h"
#include "util.h"

#define RELAY_CONNECT_MS 3000

/* Said once for each window: the reasons for relays, and these. */
enum { SAY_CLIENT_IP_LOST = RELAY_REASONS, SAY_NO_CLIENT_IP, SAY_COUNT };
_Static_assert(SAY_COUNT <= 32, "a bit of the tally for each");

const char *const conn_reason_names[] = {
	[SEIZE_OK] = "none",
	[SEIZE_GONE] = "client_gone",
	[SEIZE_STATE] = "state",
	[SEIZE_UNORDERED] = "segments_missing",
	[SEIZE_DEVICE] = "device",
	[SEIZE_NO_LISTENER] = "no_listener",
	[SEIZE_QUEUE_FULL] = "queue_full",
	[SEIZE_MPTCP] = "mptcp_listener",
	[SEIZE_FAMILY] = "address_family",
	[SEIZE_MSS] = "small_mss",
	[SEIZE_SYNCOOKIES] = "syncookies_off",
	[SEIZE_OPTIONS] = "tcp_options",
	[SEIZE_FULL] = "too_many_handoffs",
	[SEIZE_NO_REUSE] = "no_reuseaddr",
	[SEIZE_TRANSLATED] = "translated",
	[SEIZE_IPSEC] = "ipsec",
	[REASON_ASKED] = "forced",
	[REASON_NO_HANDOFF] = "no_handoff",
	[REASON_ELSEWHERE] = "elsewhere",
};
_Static_assert(ARRAY_SIZE(conn_reason_names) == RELAY_REASONS, "a name for each reason");

const char *conn_reason_text(unsigned reason)
{
	switch (reason) {
	case REASON_ASKED:
		return "--plane=relay asks for it";
	case REASON_NO_HANDOFF:
		return "this kernel can't hand off";
	case REASON_ELSEWHERE:
		return "the target is on another host or in another network namespace";
	default:
		return seize_texts[reason];
	}
}

/* Nobody is at the target. Any other failure is one of this host's, or of a target that is busy. */
static bool means_absent(int error)
{
	switch (-error) {
	case ECONNREFUSED:
	case ECONNRESET:
	case EPIPE:
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
		return true;
	default:
		return false;
	}
}

/* Something has run out that others will give back, or somebody is not there who may come. */
static bool may_pass(int error)
{
	switch (-error) {
	case EADDRNOTAVAIL:
	case EADDRINUSE:
	case E2BIG: /* no room in the map of exempt sources */
	case EAGAIN:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case ENOBUFS:
	case ENOSPC:
	case ETIMEDOUT:
		return true;
	default:
		return means_absent(error);
	}
}

static int start_relay(struct conn_owner *owner, struct conn *conn)
{
	const struct relay_options options = { .client_ip = conn->route.client_ip,
					       .connect_timeout_ms = RELAY_CONNECT_MS };

	return relay_start(&owner->relay, conn->fd, &conn->job.remote, &conn->job.local,
			   &conn->route.target, &options, conn, &conn->relay);
}

/*
 * This client's address can't be kept, now or later. Then the target sees an address of this host;
 * but not a loopback one: who asks for transparent may have a web server that trusts those. 0, or
 * -errno.
 */
static int relay_without_address(struct conn_owner *owner, struct conn *conn, int error)
{
	if (endpoint_is_loopback(&conn->route.target)) {
		if (tally_say_once(conn->tally, SAY_NO_CLIENT_IP))
			log_warn("a client's address can't be kept in a relay (%s), and the web "
				 "server must not take it for this host's own: the connection is "
				 "reset; see --client-ip",
				 strerror(-error));
		return error;
	}
	if (tally_say_once(conn->tally, SAY_CLIENT_IP_LOST))
		log_warn("a client's address can't be kept in a relay (%s): the web server sees "
			 "one of this host's",
			 strerror(-error));
	conn->route.client_ip = conn->web_server.client_ip = CLIENT_IP_NONE;
	conn_count(owner, CONN_CLIENT_IP_LOST);
	return start_relay(owner, conn);
}

/*
 * As many are relayed as may be. Who asked for relays can have the web server without one, where
 * the kernel can hand off and no PROXY header is expected; any other waits until a relay ends.
 * Nothing new is steered meanwhile.
 */
static void relay_over_limit(struct conn_owner *owner, struct conn *conn, unsigned reason,
			     uint64_t now)
{
	if (!conn->over_relays)
		conn_count(owner, CONN_OVER_RELAYS);
	conn->over_relays = true;
	if (reason == REASON_ASKED && owner->handoff && !conn->web_server.elsewhere &&
	    conn->web_server.client_ip != CLIENT_IP_PROXY_V1 &&
	    conn->web_server.client_ip != CLIENT_IP_PROXY_V2) {
		conn->route = conn->web_server;
		conn->route.plane = conn->web_server.plane = PLANE_AUTO;
		conn_dispatch(owner, conn, now);
		return;
	}
	conn_wait_for_target(owner, conn, false, now);
}

void conn_relay(struct conn_owner *owner, struct conn *conn, unsigned reason, uint64_t now)
{
	int r;

	if (tally_killed(conn->tally)) {
		conn_reset(owner, conn);
		return;
	}
	if (routes_relays(owner->routes) >= owner->routes->max_relays) {
		relay_over_limit(owner, conn, reason, now);
		return;
	}
	timers_cancel(&owner->timers, &conn->timer);
	if (owner->handoff)
		guards_let_be(conn->fd);
	if (conn->polled)
		epoll_ctl(owner->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
	conn->polled = false;
	if (conn->lowat)
		setsockopt(conn->fd, SOL_SOCKET, SO_RCVLOWAT, &(int){ 1 }, sizeof(int));
	conn->lowat = false;
	conn->reason = (uint16_t)reason;
	r = start_relay(owner, conn);
	if (r < 0 && !may_pass(r) && conn->route.client_ip == CLIENT_IP_TRANSPARENT) {
		r = relay_without_address(owner, conn, r);
		if (r < 0 && conn->route.client_ip == CLIENT_IP_TRANSPARENT) {
			conn_count(owner, CONN_NO_CLIENT_IP);
			conn_report(owner, conn, OUTCOME_RESET);
			conn_reset(owner, conn);
			return;
		}
	}
	if (r < 0) {
		/* With the client's own address they are that client's ports. */
		if (r == -EADDRNOTAVAIL && conn->route.client_ip != CLIENT_IP_TRANSPARENT)
			routes_no_ports(owner->routes, now);
		conn_wait_for_target(owner, conn, means_absent(r), now);
		return;
	}
	conn->fd = -1;
	conn_set_state(owner, conn, CONN_CONNECTING);
}

static int relay_exempt(void *ctx, const struct endpoint *source, bool add)
{
	struct conn_owner *owner = ctx;

	return owner->steer ? steer_exempt(owner->steer, source, add) : 0;
}

static void relay_connected(void *ctx, void *user)
{
	struct conn_owner *owner = ctx;
	struct conn *conn = user;

	__atomic_fetch_add(&owner->reasons[conn->reason], 1, __ATOMIC_RELAXED);
	if (tally_say_once(conn->tally, conn->reason))
		log_info("window \"%s\": connections are relayed: %s", conn->tally->name,
			 conn_reason_text(conn->reason));
	conn_count(owner, conn->route.to_responder ? CONN_RELAYED_RESPONDER : CONN_RELAYED_WEB);
	conn_report(owner, conn, OUTCOME_RELAYED);
	conn_set_state(owner, conn, CONN_RELAYING);
}

static void relay_failed(void *ctx, void *user, int client_fd, int error)
{
	struct conn_owner *owner = ctx;
	struct conn *conn = user;

	conn->fd = client_fd;
	if (error == -ECANCELED) {
		conn_reset(owner, conn);
		return;
	}
	conn_wait_for_target(owner, conn, means_absent(error), now_ns());
}

static void relay_ended(void *ctx, void *user)
{
	conn_close(ctx, user);
}

int conn_relay_init(struct conn_owner *owner)
{
	static const struct relay_callbacks callbacks = {
		.exempt = relay_exempt,
		.on_connected = relay_connected,
		.on_failed = relay_failed,
		.on_ended = relay_ended,
	};

	return relay_worker_init(&owner->relay, owner->epoll_fd, REF_RELAY, &callbacks, owner);
}
