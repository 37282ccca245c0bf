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
 * and with the relay (CONNECTING, RELAYING) that owns it: conn_relay.c. In doubt the web server
 * gets it. A client that goes away is closed.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "conn_parts.h"
#include "log.h"
#include "util.h"

#define FIRST_RETRY_NS	 (2 * NSEC_PER_MSEC)
#define LONGEST_RETRY_NS (100 * NSEC_PER_MSEC)

#define COUNTER_NAME(id, name, text) name,
const char *const conn_counter_names[] = { CONN_COUNTERS(COUNTER_NAME) };
_Static_assert(ARRAY_SIZE(conn_counter_names) == CONN_COUNTER_COUNT, "a name for each counter");

const char *const conn_state_names[] = { "sniffing",   "waiting", "adopting",
					 "connecting", "relayed", "closed" };
_Static_assert(ARRAY_SIZE(conn_state_names) == CONN_STATES, "a name for each state");

void conn_count(struct conn_owner *owner, enum conn_counter what)
{
	__atomic_fetch_add(&owner->counters[what], 1, __ATOMIC_RELAXED);
}

void conn_report(struct conn_owner *owner, const struct conn *conn, enum conn_outcome outcome)
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
		conn_count(owner, CONN_NOT_LOGGED);
}

void conn_set_state(struct conn_owner *owner, struct conn *conn, enum conn_state state)
{
	if (conn_in_relay(state) != conn_in_relay(conn->state)) {
		tally_relay(conn->tally, conn_in_relay(state));
		routes_relay(owner->routes, conn_in_relay(state));
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

void conn_close(struct conn_owner *owner, struct conn *conn)
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
	conn_set_state(owner, conn, CONN_CLOSED);
	tally_release(conn->tally);
	conn->tally = NULL;
}

void conn_reset(struct conn_owner *owner, struct conn *conn)
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

	conn->need = 0;
	/* Without it the timer still moves the connection on. */
	if (epoll_ctl(owner->epoll_fd, op, conn->fd, &event) == 0)
		conn->polled = true;
}

/*
 * Until @need bytes are there, or more has come. Only news count: a socket can be readable for good
 * with less to be peeked at, before urgent data or when memory is short. And it is asked for once,
 * for asking reports what is there already.
 */
static void sniff_again(struct conn_owner *owner, struct conn *conn, size_t need)
{
	if (conn->need == need)
		return;
	/* No wake-up per segment. If it fails there are more of them. */
	if (need > 1) {
		setsockopt(conn->fd, SOL_SOCKET, SO_RCVLOWAT, &(int){ (int)need }, sizeof(int));
		conn->lowat = true;
	}
	poll_for(owner, conn, EPOLLIN | EPOLLRDHUP | EPOLLET);
	conn->need = need;
}

void conn_wait_for_target(struct conn_owner *owner, struct conn *conn, bool absent, uint64_t now)
{
	uint64_t limit_ns = absent ? CONN_SERVER_WAIT_NS : CONN_QUEUE_WAIT_NS;
	uint64_t since_ns = conn->waiting_since_ns;

	if (conn->route.to_responder)
		limit_ns = CONN_RESPONDER_WAIT_NS;
	/* Errors and a reset only; what the client sends is for the target. */
	if (conn->state != CONN_WAITING || !conn->polled)
		poll_for(owner, conn, 0);
	if (conn->state != CONN_WAITING)
		conn_set_state(owner, conn, CONN_WAITING);
	if (!absent)
		conn->absent_since_ns = 0;
	else if (!conn->absent_since_ns)
		conn->absent_since_ns = now;
	if (absent && !conn->route.to_responder)
		since_ns = conn->absent_since_ns;
	if (!conn->waiting_since_ns) {
		conn_count(owner, CONN_WAITED);
		conn->waiting_since_ns = now;
		conn->retry_ns = FIRST_RETRY_NS;
	} else if (now - since_ns > limit_ns) {
		if (conn->route.to_responder) {
			conn_count(owner, CONN_RESPONDER_DOWN);
			conn->responder_down = true;
			conn->route = conn->web_server;
			conn->waiting_since_ns = now;
			conn->absent_since_ns = 0;
			conn_dispatch(owner, conn, now);
			return;
		}
		conn_count(owner, CONN_SERVER_DOWN);
		conn_report(owner, conn, OUTCOME_RESET);
		conn_reset(owner, conn);
		return;
	}
	set_timer(owner, conn, now + conn->retry_ns);
	conn->retry_ns = MIN(conn->retry_ns * 2, LONGEST_RETRY_NS);
}

int conn_owner_init(struct conn_owner *owner)
{
	shares_init(&owner->shares);
	return conn_relay_init(owner);
}

static void handed_off(struct conn_owner *owner, struct conn *conn)
{
	/* Gone back to the sniffer: it will be accepted, and counted, once more. */
	if (conn->job.went_back) {
		tally_count(conn->tally, TALLY_ACCEPTED, -1);
	} else {
		conn_count(owner,
			   conn->route.to_responder ? CONN_HANDED_RESPONDER : CONN_HANDED_WEB);
		conn_report(owner, conn, OUTCOME_HANDED_OFF);
	}
	conn_close(owner, conn);
}

void conn_handoff_answered(struct conn_owner *owner, struct conn *conn, enum handoff_answer answer,
			   uint64_t now)
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
			conn_set_state(owner, conn, CONN_ADOPTING);
		set_timer(owner, conn, conn->job.next_ns);
		break;
	case HANDOFF_AGAIN:
		conn_wait_for_target(owner, conn, conn->job.result == SEIZE_NO_LISTENER, now);
		break;
	case HANDOFF_GONE:
		conn_count(owner, CONN_CLIENT_GONE);
		conn_report(owner, conn, OUTCOME_CLIENT_GONE);
		conn_close(owner, conn);
		break;
	case HANDOFF_LOST:
		conn->fd = -1;
		conn_count(owner, CONN_LOST);
		conn_report(owner, conn, OUTCOME_LOST);
		conn_close(owner, conn);
		break;
	case HANDOFF_REFUSED:
		conn_relay(owner, conn, conn->job.result, now);
		break;
	}
}

void conn_dispatch(struct conn_owner *owner, struct conn *conn, uint64_t now)
{
	enum handoff_answer answer;

	if (conn->route.plane == PLANE_RELAY)
		return conn_relay(owner, conn, REASON_ASKED, now);
	if (!owner->handoff)
		return conn_relay(owner, conn, REASON_NO_HANDOFF, now);
	if (conn->route.elsewhere)
		return conn_relay(owner, conn, REASON_ELSEWHERE, now);
	conn->job.target = conn->route.target;
	answer = handoff_begin(owner->handoff, &conn->job, conn->fd);
	conn_handoff_answered(owner, conn, answer, now);
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
		conn_count(owner, CONN_NO_DESCRIPTOR);
		return false;
	}
	if (owner->n_waited_for >= CONN_MAX_UNCLASSIFIED) {
		conn_count(owner, CONN_OVER_LIMIT);
		return false;
	}
	if (!shares_take(&owner->shares, &conn->job.remote.addr,
			 CONN_MAX_UNCLASSIFIED_PER_SOURCE)) {
		conn_count(owner, CONN_OVER_SHARE);
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
		conn_count(owner, CONN_CLIENT_GONE);
		conn_report(owner, conn, OUTCOME_CLIENT_GONE);
		conn_close(owner, conn);
		return;
	}
	conn->route = conn->web_server;
	if (n <= 0) {
		if (n != 0 && may_wait(owner, conn))
			sniff_again(owner, conn, need);
		else
			conn_dispatch(owner, conn, now);
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
		sniff_again(owner, conn, need);
		return;
	}
	conn_dispatch(owner, conn, now);
}

struct conn *conn_new(struct conn_owner *owner, int fd)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->ref = REF_CONN;
	conn->fd = fd;
	conn->next = owner->first;
	conn->link = &owner->first;
	if (conn->next)
		conn->next->link = &conn->next;
	owner->first = conn;
	__atomic_fetch_add(&owner->in_state[CONN_SNIFFING], 1, __ATOMIC_RELAXED);
	return conn;
}

void conn_accept(struct conn_owner *owner, int fd, const struct sockaddr_storage *peer,
		 bool in_haste, uint64_t now)
{
	struct sockaddr_storage local;
	socklen_t local_len = sizeof(local);
	socklen_t cookie_len = sizeof(uint64_t);
	struct conn *conn = conn_new(owner, fd);
	uint64_t sniff_ns;

	conn_count(owner, CONN_ACCEPTED);
	if (!conn) {
		conn_count(owner, CONN_LOST);
		close(fd);
		return;
	}
	conn->in_haste = in_haste;
	if (getsockname(fd, (struct sockaddr *)&local, &local_len) == 0)
		endpoint_from_sockaddr(&local, &conn->job.local);
	conn->web_server = routes_web_server(owner->routes, &conn->job.local, &sniff_ns);
	conn->tally = conn->web_server.tally;
	tally_count(conn->tally, TALLY_ACCEPTED, 1);
	if (!conn->job.local.port || endpoint_from_sockaddr(peer, &conn->job.remote) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &conn->job.cookie, &cookie_len) < 0) {
		conn_count(owner, CONN_CLIENT_GONE);
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
		conn_count(owner, CONN_CLIENT_GONE);
		conn_report(owner, conn, OUTCOME_CLIENT_GONE);
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
		conn_count(owner, CONN_TIMED_OUT);
		tally_count(conn->tally, TALLY_TIMED_OUT, 1);
		conn->route = conn->web_server;
		conn_dispatch(owner, conn, now);
		break;
	case CONN_WAITING:
		conn_dispatch(owner, conn, now);
		break;
	case CONN_ADOPTING:
		conn_handoff_answered(owner, conn,
				      handoff_continue(owner->handoff, &conn->job, now), now);
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
			conn_count(owner, CONN_PASSED_ON);
			sniff(owner, conn, now);
		} else if (conn->state == CONN_WAITING && conn->route.to_responder) {
			conn->route = conn->web_server;
			conn->waiting_since_ns = now;
			conn->absent_since_ns = 0;
			conn_dispatch(owner, conn, now);
		}
	}
}

bool conn_make_room(struct conn_owner *owner, uint64_t now)
{
	struct conn *oldest = NULL;

	/* The newest comes first. */
	for (struct conn *conn = owner->first; conn; conn = conn->next)
		if (conn->state == CONN_SNIFFING)
			oldest = conn;
	if (!oldest)
		return false;
	conn_count(owner, CONN_NO_DESCRIPTOR);
	oldest->route = oldest->web_server;
	conn_dispatch(owner, oldest, now);
	return true;
}

void conn_kill(struct conn_owner *owner)
{
	struct conn *next;

	for (struct conn *conn = owner->first; conn; conn = next) {
		next = conn->next;
		if (conn_in_relay(conn->state) && tally_killed(conn->tally))
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
