// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One steered connection, from accept() until somebody else has it.
 *
 *              whole ClientHello, something else,
 *              time over, window closed           target takes it
 *   SNIFFING ------------------------------------> handed off, CLOSED
 *                        |         |       |
 *       target not ready |         |       | kernel can't      the ends close
 *                        v         |       +---------> CONNECTING, RELAYING -> CLOSED
 *                     WAITING      | child not there at once
 *                        |         v                 child there
 *                        +----> ADOPTING ----------------------> CLOSED
 *
 * Nothing is ever read from a connection, only peeked at, so whoever gets it gets every byte. A
 * connection has a descriptor in SNIFFING and WAITING; in ADOPTING the kernel has no socket for it,
 * and with the relay (CONNECTING, RELAYING) that owns it. In doubt the web server gets it. A client
 * that goes away is closed.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "conn.h"
#include "log.h"
#include "util.h"

#define RELAY_CONNECT_MS 3000
#define FIRST_RETRY_NS	 (2 * NSEC_PER_MSEC)
#define LONGEST_RETRY_NS (100 * NSEC_PER_MSEC)

/* Said once for each window: the reasons for relays, and these. */
enum { SAY_CLIENT_IP_LOST = RELAY_REASONS, SAY_NO_CLIENT_IP, SAY_COUNT };
_Static_assert(SAY_COUNT <= 32, "a bit of the tally for each");

struct conn {
	uint8_t ref; /* REF_CONN; first */
	uint8_t state;
	bool polled;	  /* in epoll */
	bool client_done; /* it sent FIN */
	bool in_haste;	  /* see conn_accept() */
	bool waited_for;  /* it has a place among the unclassified */
	bool over_relays; /* it could not be relayed at once, and was counted */
	bool acme;	  /* it asks for acme-tls/1 */
	bool responder_down;
	uint16_t reason; /* why it is relayed */
	int fd;
	struct timer timer;
	struct conn *next;
	struct conn **link;	   /* what points at us */
	uint64_t deadline_ns;	   /* SNIFFING: then it goes as it stands */
	uint64_t waiting_since_ns; /* 0: the target was not tried yet */
	uint64_t retry_ns;
	char *sni;	     /* for the log and the tally, owned; NULL: not known, or not needed */
	struct tally *tally; /* of the window that it belongs to */
	struct relay *relay; /* CONNECTING, RELAYING */
	struct route web_server;
	struct route route;
	struct handoff_job job;
};

#define COUNTER_NAME(id, name, text) name,
const char *const conn_counter_names[] = { CONN_COUNTERS(COUNTER_NAME) };
_Static_assert(ARRAY_SIZE(conn_counter_names) == CONN_COUNTER_COUNT, "a name for each counter");

const char *const conn_state_names[] = { "sniffing",   "waiting", "adopting",
					 "connecting", "relayed", "closed" };
_Static_assert(ARRAY_SIZE(conn_state_names) == CONN_STATES, "a name for each state");

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
	[SEIZE_TRANSLATED] = "translated",
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

static void dispatch(struct conn_owner *owner, struct conn *conn, uint64_t now);

static void count(struct conn_owner *owner, enum conn_counter what)
{
	__atomic_fetch_add(&owner->counters[what], 1, __ATOMIC_RELAXED);
}

/* What has become of it, said once. */
static void report(struct conn_owner *owner, const struct conn *conn, enum conn_outcome outcome)
{
	const struct conn_entry entry = {
		.outcome = outcome,
		.acme = conn->acme,
		.to_responder = conn->route.to_responder,
		.responder_down = conn->responder_down,
		.window = conn->tally->name,
		.name = conn->sni,
		.peer = &conn->job.remote,
		.local = &conn->job.local,
		.target = conn->route.target.port ? &conn->route.target : &conn->job.local,
		.relay_reason = conn_reason_text(conn->reason),
	};
	bool given = outcome == OUTCOME_HANDED_OFF || outcome == OUTCOME_RELAYED;

	if (given)
		tally_count(conn->tally,
			    outcome == OUTCOME_RELAYED ? TALLY_RELAYED : TALLY_HANDED_OFF, 1);
	if (given && conn->route.to_responder)
		tally_challenge(conn->tally, conn->sni ? conn->sni : "");
	if (conn_log_wants(conn->acme) && !conn_log(&owner->log, &entry, now_ns()))
		count(owner, CONN_NOT_LOGGED);
}

static bool in_relay(enum conn_state state)
{
	return state == CONN_CONNECTING || state == CONN_RELAYING;
}

static void set_state(struct conn_owner *owner, struct conn *conn, enum conn_state state)
{
	if (in_relay(state) != in_relay(conn->state)) {
		tally_relay(conn->tally, in_relay(state));
		routes_relay(owner->routes, in_relay(state));
	}
	if (conn->waited_for) {
		conn->waited_for = false;
		owner->n_waited_for--;
		shares_give(&owner->shares, &conn->job.remote.addr);
	}
	__atomic_fetch_sub(&owner->in_state[conn->state], 1, __ATOMIC_RELAXED);
	conn->state = (uint8_t)state;
	__atomic_fetch_add(&owner->in_state[state], 1, __ATOMIC_RELAXED);
}

static void conn_close(struct conn_owner *owner, struct conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	if (conn->fd >= 0)
		close(conn->fd);
	conn->fd = -1;
	timers_cancel(&owner->timers, &conn->timer);
	*conn->link = conn->next;
	if (conn->next)
		conn->next->link = conn->link;
	conn->next = owner->closed;
	owner->closed = conn;
	set_state(owner, conn, CONN_CLOSED);
	tally_release(conn->tally);
	conn->tally = NULL;
}

/* Nobody can take it: the client is told at once, as a closed port would. */
static void conn_reset(struct conn_owner *owner, struct conn *conn)
{
	const struct linger now = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	conn_close(owner, conn);
}

static void set_timer(struct conn_owner *owner, struct conn *conn, uint64_t at_ns)
{
	/* Without memory for a timer it would wait for ever: rather not at all. */
	if (timers_set(&owner->timers, &conn->timer, at_ns) < 0)
		conn_reset(owner, conn);
}

static void poll_for(struct conn_owner *owner, struct conn *conn, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = conn };
	int op = conn->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	/* Without it the timer still moves the connection on. */
	if (epoll_ctl(owner->epoll_fd, op, conn->fd, &event) == 0)
		conn->polled = true;
}

/*
 * The target is not ready: the connection stays where it is and is tried again. @absent: nobody is
 * there; else there is, but can't take it now.
 */
static void wait_for_target(struct conn_owner *owner, struct conn *conn, bool absent, uint64_t now)
{
	uint64_t limit_ns = absent ? CONN_SERVER_WAIT_NS : CONN_QUEUE_WAIT_NS;

	if (conn->route.to_responder)
		limit_ns = CONN_RESPONDER_WAIT_NS;
	if (conn->state != CONN_WAITING) {
		set_state(owner, conn, CONN_WAITING);
		/* Errors and a reset only; what the client sends is for the target. */
		poll_for(owner, conn, 0);
	}
	if (!conn->waiting_since_ns) {
		count(owner, CONN_WAITED);
		conn->waiting_since_ns = now;
		conn->retry_ns = FIRST_RETRY_NS;
	} else if (now - conn->waiting_since_ns > limit_ns) {
		if (conn->route.to_responder) {
			count(owner, CONN_RESPONDER_DOWN);
			conn->responder_down = true;
			conn->route = conn->web_server;
			conn->waiting_since_ns = now;
			dispatch(owner, conn, now);
			return;
		}
		count(owner, CONN_SERVER_DOWN);
		report(owner, conn, OUTCOME_RESET);
		conn_reset(owner, conn);
		return;
	}
	set_timer(owner, conn, now + conn->retry_ns);
	conn->retry_ns = MIN(conn->retry_ns * 2, LONGEST_RETRY_NS);
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
	count(owner, CONN_CLIENT_IP_LOST);
	return start_relay(owner, conn);
}

/*
 * As many are relayed as may be. Who asked for relays can have the web server without one, where
 * the kernel can hand off; any other waits until a relay ends. Nothing new is steered meanwhile.
 */
static void relay_over_limit(struct conn_owner *owner, struct conn *conn, unsigned reason,
			     uint64_t now)
{
	if (!conn->over_relays)
		count(owner, CONN_OVER_RELAYS);
	conn->over_relays = true;
	if (reason == REASON_ASKED && owner->handoff && !conn->web_server.elsewhere) {
		conn->route = conn->web_server;
		conn->route.plane = conn->web_server.plane = PLANE_AUTO;
		dispatch(owner, conn, now);
		return;
	}
	wait_for_target(owner, conn, false, now);
}

/* The kernel can't hand it off: the bytes are copied instead. */
static void relay(struct conn_owner *owner, struct conn *conn, unsigned reason, uint64_t now)
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
	setsockopt(conn->fd, SOL_SOCKET, SO_RCVLOWAT, &(int){ 1 }, sizeof(int));
	conn->reason = (uint16_t)reason;
	r = start_relay(owner, conn);
	if (r < 0 && !may_pass(r) && conn->route.client_ip == CLIENT_IP_TRANSPARENT) {
		r = relay_without_address(owner, conn, r);
		if (r < 0 && conn->route.client_ip == CLIENT_IP_TRANSPARENT) {
			count(owner, CONN_NO_CLIENT_IP);
			report(owner, conn, OUTCOME_RESET);
			conn_reset(owner, conn);
			return;
		}
	}
	if (r < 0) {
		wait_for_target(owner, conn, means_absent(r), now);
		return;
	}
	conn->fd = -1;
	set_state(owner, conn, CONN_CONNECTING);
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
	count(owner, conn->route.to_responder ? CONN_RELAYED_RESPONDER : CONN_RELAYED_WEB);
	report(owner, conn, OUTCOME_RELAYED);
	set_state(owner, conn, CONN_RELAYING);
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
	wait_for_target(owner, conn, means_absent(error), now_ns());
}

static void relay_ended(void *ctx, void *user)
{
	conn_close(ctx, user);
}

static const struct relay_callbacks relay_callbacks = {
	.exempt = relay_exempt,
	.on_connected = relay_connected,
	.on_failed = relay_failed,
	.on_ended = relay_ended,
};

int conn_owner_init(struct conn_owner *owner)
{
	shares_init(&owner->shares);
	return relay_worker_init(&owner->relay, owner->epoll_fd, REF_RELAY, &relay_callbacks,
				 owner);
}

static void handed_off(struct conn_owner *owner, struct conn *conn)
{
	/* Gone back to the sniffer: it will be accepted, and counted, once more. */
	if (conn->job.went_back) {
		tally_count(conn->tally, TALLY_ACCEPTED, -1);
	} else {
		count(owner, conn->route.to_responder ? CONN_HANDED_RESPONDER : CONN_HANDED_WEB);
		report(owner, conn, OUTCOME_HANDED_OFF);
	}
	conn_close(owner, conn);
}

static void handoff_answered(struct conn_owner *owner, struct conn *conn,
			     enum handoff_answer answer, uint64_t now)
{
	switch (answer) {
	case HANDOFF_DONE:
		conn->fd = -1;
		handed_off(owner, conn);
		break;
	case HANDOFF_PENDING:
		conn->fd = -1;
		conn->polled = false;
		if (conn->state != CONN_ADOPTING)
			set_state(owner, conn, CONN_ADOPTING);
		set_timer(owner, conn, conn->job.next_ns);
		break;
	case HANDOFF_AGAIN:
		wait_for_target(owner, conn, conn->job.result == SEIZE_NO_LISTENER, now);
		break;
	case HANDOFF_GONE:
		count(owner, CONN_CLIENT_GONE);
		report(owner, conn, OUTCOME_CLIENT_GONE);
		conn_close(owner, conn);
		break;
	case HANDOFF_LOST:
		conn->fd = -1;
		count(owner, CONN_LOST);
		report(owner, conn, OUTCOME_LOST);
		conn_close(owner, conn);
		break;
	case HANDOFF_REFUSED:
		relay(owner, conn, conn->job.result, now);
		break;
	}
}

/* Gives the connection to conn->route. */
static void dispatch(struct conn_owner *owner, struct conn *conn, uint64_t now)
{
	enum handoff_answer answer;

	if (conn->route.plane == PLANE_RELAY)
		return relay(owner, conn, REASON_ASKED, now);
	if (!owner->handoff)
		return relay(owner, conn, REASON_NO_HANDOFF, now);
	if (conn->route.elsewhere)
		return relay(owner, conn, REASON_ELSEWHERE, now);
	conn->job.target = conn->route.target;
	answer = handoff_begin(owner->handoff, &conn->job, conn->fd);
	handoff_answered(owner, conn, answer, now);
}

/* An acme-tls/1 ClientHello: to the responder that wants it, and its window; if any does. */
static void route_to_responder(struct conn_owner *owner, struct conn *conn, const char *sni)
{
	if (!routes_responder(owner->routes, &conn->job.local, sni, &conn->route))
		return;
	tally_count(conn->tally, TALLY_ACCEPTED, -1);
	tally_release(conn->tally);
	conn->tally = conn->route.tally;
	tally_count(conn->tally, TALLY_ACCEPTED, 1);
}

/* A connection may come here twice: drained while it waits for more. */
static void remember_name(struct conn *conn, const struct hello *hello)
{
	conn->acme = hello->acme_tls;
	if (hello->sni_len && !conn->sni && conn_log_wants(conn->acme))
		conn->sni = strdup(hello->sni);
}

/*
 * May it be waited for until more has come? Silence costs a client nothing and us a descriptor, so
 * the places for it are limited, and nobody gets them all.
 */
static bool may_wait(struct conn_owner *owner, struct conn *conn)
{
	if (conn->client_done || owner->draining)
		return false;
	if (conn->waited_for)
		return true;
	if (conn->in_haste) {
		count(owner, CONN_NO_DESCRIPTOR);
		return false;
	}
	if (owner->n_waited_for >= CONN_MAX_UNCLASSIFIED) {
		count(owner, CONN_OVER_LIMIT);
		return false;
	}
	if (!shares_take(&owner->shares, &conn->job.remote.addr,
			 CONN_MAX_UNCLASSIFIED_PER_SOURCE)) {
		count(owner, CONN_OVER_SHARE);
		return false;
	}
	conn->waited_for = true;
	owner->n_waited_for++;
	return true;
}

/* Looks at what has come so far, and decides if that is enough. */
static void sniff(struct conn_owner *owner, struct conn *conn, uint64_t now)
{
	ssize_t n = recv(conn->fd, owner->peek, sizeof(owner->peek), MSG_PEEK | MSG_DONTWAIT);
	struct hello hello;
	size_t need = 1;

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		count(owner, CONN_CLIENT_GONE);
		report(owner, conn, OUTCOME_CLIENT_GONE);
		conn_close(owner, conn);
		return;
	}
	conn->route = conn->web_server;
	if (n <= 0) {
		if (n != 0 && may_wait(owner, conn))
			poll_for(owner, conn, EPOLLIN | EPOLLRDHUP);
		else
			dispatch(owner, conn, now);
		return;
	}
	switch (hello_parse(owner->peek, (size_t)n, &need, &hello)) {
	case HELLO_DONE:
		remember_name(conn, &hello);
		if (hello.acme_tls)
			route_to_responder(owner, conn, hello.sni);
		break;
	case HELLO_NOT:
		break;
	case HELLO_MORE:
		if (!may_wait(owner, conn))
			break;
		/* No wake-up per segment. If it fails there are more of them. */
		setsockopt(conn->fd, SOL_SOCKET, SO_RCVLOWAT, &(int){ (int)need }, sizeof(int));
		poll_for(owner, conn, EPOLLIN | EPOLLRDHUP);
		return;
	}
	dispatch(owner, conn, now);
}

void conn_accept(struct conn_owner *owner, int fd, const struct sockaddr_storage *peer,
		 bool in_haste, uint64_t now)
{
	struct sockaddr_storage local;
	socklen_t local_len = sizeof(local);
	socklen_t cookie_len = sizeof(uint64_t);
	struct conn *conn = calloc(1, sizeof(*conn));
	uint64_t sniff_ns;

	count(owner, CONN_ACCEPTED);
	if (!conn) {
		count(owner, CONN_LOST);
		close(fd);
		return;
	}
	conn->ref = REF_CONN;
	conn->fd = fd;
	conn->in_haste = in_haste;
	conn->next = owner->first;
	conn->link = &owner->first;
	if (conn->next)
		conn->next->link = &conn->next;
	owner->first = conn;
	__atomic_fetch_add(&owner->in_state[CONN_SNIFFING], 1, __ATOMIC_RELAXED);

	if (getsockname(fd, (struct sockaddr *)&local, &local_len) == 0)
		endpoint_from_sockaddr(&local, &conn->job.local);
	conn->web_server = routes_web_server(owner->routes, &conn->job.local, &sniff_ns);
	conn->tally = conn->web_server.tally;
	tally_count(conn->tally, TALLY_ACCEPTED, 1);
	if (!conn->job.local.port || endpoint_from_sockaddr(peer, &conn->job.remote) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &conn->job.cookie, &cookie_len) < 0) {
		count(owner, CONN_CLIENT_GONE);
		conn_close(owner, conn);
		return;
	}
	conn->job.sniffer = (uint16_t)owner->sniffer;
	conn->deadline_ns = now + sniff_ns;
	set_timer(owner, conn, conn->deadline_ns);
	if (conn->state != CONN_CLOSED)
		sniff(owner, conn, now);
}

void conn_event(struct conn_owner *owner, struct conn *conn, uint32_t events, uint64_t now)
{
	if (conn->state != CONN_SNIFFING && conn->state != CONN_WAITING)
		return; /* an event of the same batch as the one that moved it on */
	if (events & EPOLLERR) {
		count(owner, CONN_CLIENT_GONE);
		report(owner, conn, OUTCOME_CLIENT_GONE);
		conn_close(owner, conn);
		return;
	}
	if (events & (EPOLLRDHUP | EPOLLHUP))
		conn->client_done = true;
	if (conn->state == CONN_SNIFFING)
		sniff(owner, conn, now);
}

void conn_timeout(struct conn_owner *owner, struct timer *timer, uint64_t now)
{
	struct conn *conn = container_of(timer, struct conn, timer);

	timers_cancel(&owner->timers, timer);
	switch ((enum conn_state)conn->state) {
	case CONN_SNIFFING:
		count(owner, CONN_TIMED_OUT);
		tally_count(conn->tally, TALLY_TIMED_OUT, 1);
		conn->route = conn->web_server;
		dispatch(owner, conn, now);
		break;
	case CONN_WAITING:
		dispatch(owner, conn, now);
		break;
	case CONN_ADOPTING:
		handoff_answered(owner, conn, handoff_continue(owner->handoff, &conn->job, now),
				 now);
		break;
	case CONN_CONNECTING:
	case CONN_RELAYING:
	case CONN_CLOSED:
	case CONN_STATES:
		break;
	}
}

void conn_drain(struct conn_owner *owner, uint64_t now)
{
	struct conn *next;

	owner->draining = true;
	for (struct conn *conn = owner->first; conn; conn = next) {
		next = conn->next;
		if (conn->state == CONN_SNIFFING) {
			count(owner, CONN_PASSED_ON);
			sniff(owner, conn, now);
		} else if (conn->state == CONN_WAITING && conn->route.to_responder) {
			conn->route = conn->web_server;
			dispatch(owner, conn, now);
		}
	}
}

void conn_kill(struct conn_owner *owner)
{
	struct conn *next;

	for (struct conn *conn = owner->first; conn; conn = next) {
		next = conn->next;
		if (in_relay(conn->state) && tally_killed(conn->tally))
			relay_kill(&owner->relay, conn->relay);
	}
}

unsigned conn_unsettled(const struct conn_owner *owner)
{
	unsigned n = 0;

	for (int state = CONN_SNIFFING; state < CONN_RELAYING; state++)
		n += __atomic_load_n(&owner->in_state[state], __ATOMIC_RELAXED);
	return n;
}

void conn_reap(struct conn_owner *owner)
{
	while (owner->closed) {
		struct conn *conn = owner->closed;

		owner->closed = conn->next;
		__atomic_fetch_sub(&owner->in_state[CONN_CLOSED], 1, __ATOMIC_RELAXED);
		free(conn->sni);
		free(conn);
	}
}

void conn_close_all(struct conn_owner *owner)
{
	relay_worker_done(&owner->relay);
	while (owner->first)
		conn_close(owner, owner->first);
	conn_reap(owner);
	shares_free(&owner->shares);
}
