/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Relays bytes between a client's connection and a second one, to its target. */
/*
 * Theory of operation
 *
 * A relay has two ends (CLIENT, TARGET) and two flows, each named by the end that it comes from:
 * that of CLIENT takes the client's bytes to the target. relay_start() makes it CONNECTING; the
 * target's answer makes it CONNECTED, or CLOSED with the client's descriptor given back. A target
 * on this host has answered when connect() returns: so after the event batch the new ones are
 * looked at, and only the others are given to epoll. Both flows finished, or a reset, make it
 * CLOSED. CLOSED ones are freed after the event batch, since events of the same batch may still
 * point to their ends.
 *
 * relay_flow.c moves the bytes, as far as it goes, and says why it stopped; this file decides what
 * that means for the two connections.
 *
 * A FIN is passed on by shutdown() when everything before it has been sent; the other flow goes
 * on, without limit of time. A RST is passed on as a RST when what came before it has got there: a
 * RST takes along what is still in the send queue, and whoever sent it was told that it had
 * arrived. Until then the relay lingers. No event tells of an empty send queue, so it is looked at.
 *
 * epoll is level-triggered, so that a busy relay can stop half-way and let others run. An end that
 * must not be read now is not waited for with EPOLLIN; EPOLLOUT is waited for only while the flow
 * to an end is blocked; EPOLLRDHUP never, as it would be reported again and again until the FIN is
 * read. EPOLLHUP and EPOLLERR can't be masked, so ends that would report one for long (both its
 * directions shut down, or dead, while its last bytes wait for the other end) leave the epoll.
 */
#include "relay.h"

#include <assert.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "proxy_header.h"
#include "relay_flow.h"
#include "util.h"

const char *const relay_failure_names[] = {
	[RELAY_REFUSED] = "refused",
	[RELAY_UNREACHABLE] = "unreachable",
	[RELAY_TIMED_OUT] = "timed_out",
	[RELAY_NO_PORT] = "no_port",
	[RELAY_NO_RESOURCE] = "no_resource",
	[RELAY_FORBIDDEN] = "forbidden",
	[RELAY_OTHER] = "other",
};
static_assert(ARRAY_SIZE(relay_failure_names) == RELAY_FAILURE_COUNT, "a name for each failure");
static_assert(offsetof(struct relay_end, ref_type) == 0, "the loop looks there");

#define STATE_CLOSE 7			 /* include/net/tcp_states.h */
#define LOOK_NS	    (20 * NSEC_PER_MSEC) /* at what lingers */

enum relay_state { RELAY_CONNECTING, RELAY_CONNECTED, RELAY_CLOSED };

struct relay {
	struct relay_end end[2];
	bool blocked[2];  /* of a flow: the other end takes no more now */
	bool finished[2]; /* of a flow: FIN passed on, or nobody to take it */
	enum relay_state state;
	enum client_ip client_ip;
	bool exempt;
	bool lingers;	     /* one end is dead, the other has not got everything; in no epoll */
	bool fresh;	     /* its target may have answered already: not looked at, in no epoll */
	uint32_t timeout_ms; /* of the connect, 0: the kernel's */
	struct relay *prev, *next;
	void *user;
	struct endpoint client, asked, source;
};

static void counter_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static struct relay *relay_of_end(struct relay_end *end)
{
	return container_of(end - end->side, struct relay, end[0]);
}

static void list_add(struct relay **head, struct relay *relay)
{
	relay->prev = NULL;
	relay->next = *head;
	if (*head)
		(*head)->prev = relay;
	*head = relay;
}

static void list_remove(struct relay **head, struct relay *relay)
{
	if (relay->prev)
		relay->prev->next = relay->next;
	else
		*head = relay->next;
	if (relay->next)
		relay->next->prev = relay->prev;
}

static enum relay_failure failure_of_error(int error)
{
	switch (-error) {
	case ECONNREFUSED:
	case ECONNRESET: /* accepted by a listener that was closed at once */
	case EPIPE:
		return RELAY_REFUSED;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
		return RELAY_UNREACHABLE;
	case ETIMEDOUT:
		return RELAY_TIMED_OUT;
	case EADDRNOTAVAIL:
	case EADDRINUSE:
		return RELAY_NO_PORT;
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case ENOBUFS:
	case ENOSPC:
	case E2BIG:
		return RELAY_NO_RESOURCE;
	case EPERM:
	case EACCES:
		return RELAY_FORBIDDEN;
	default:
		return RELAY_OTHER;
	}
}

/* ---- epoll ---- */

static int end_arm(struct relay_worker *w, struct relay_end *end, bool present, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = end };

	if (present == end->in_epoll && (!present || events == end->armed))
		return 0;
	if (!present) {
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
		end->in_epoll = false;
		return 0;
	}
	if (epoll_ctl(w->epoll_fd, end->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, end->fd, &event) <
	    0)
		return -errno;
	end->in_epoll = true;
	end->armed = events;
	return 0;
}

/* Waits for what @side can do next, and for nothing that it would report without end. */
static int end_rearm(struct relay_worker *w, struct relay *relay, enum relay_side side)
{
	struct relay_end *end = &relay->end[side];
	uint32_t events = 0;

	if (!relay->finished[side] && !relay->blocked[side])
		events |= EPOLLIN;
	if (!relay->finished[!side] && relay->blocked[!side])
		events |= EPOLLOUT;
	/*
	 * Once we have shut it down, or it is dead, EPOLLHUP is reported until everything of it has
	 * been read. (Nothing is sent to a dead end any more: that flow is finished.)
	 */
	return end_arm(w, end, events || !relay->finished[!side], events);
}

/* ---- the end of a relay ---- */

/* There is an answer, or nobody waits for one any more. */
static void relay_unexempt(struct relay_worker *w, struct relay *relay)
{
	if (relay->exempt)
		source_unexempt(&w->sources, &relay->source);
	relay->exempt = false;
}

static void end_close(struct relay_end *end, bool reset)
{
	const struct linger linger = { .l_onoff = 1 };

	if (end->fd < 0)
		return;
	if (reset)
		setsockopt(end->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(end->fd); /* leaves the epoll by itself: nobody else has this descriptor */
	end->fd = -1;
	end->in_epoll = false;
}

/* The one way out. @reset: with RST, else what is in the send queues is still delivered. */
static void relay_close(struct relay_worker *w, struct relay *relay, bool reset)
{
	if (relay->state == RELAY_CLOSED)
		return;
	for (enum relay_side side = CLIENT; side <= TARGET; side++)
		end_close(&relay->end[side], reset);
	relay_unexempt(w, relay);
	if (relay->client_ip == CLIENT_IP_TRANSPARENT)
		source_release(&w->sources, &relay->source);
	if (relay->state == RELAY_CONNECTED) {
		counter_add(&w->counters.ended, 1);
		if (reset)
			counter_add(&w->counters.reset, 1);
		if (w->callbacks->on_ended)
			w->callbacks->on_ended(w->ctx, relay->user);
	}
	relay->state = RELAY_CLOSED;
	counter_add(&w->counters.active, -1);
	list_remove(relay->lingers ? &w->lingering : &w->relays, relay);
	list_add(&w->closed, relay);
}

/* The target can't be had: the client goes back to the caller as it came. */
static void relay_fail(struct relay_worker *w, struct relay *relay, int error)
{
	int client_fd = TAKE_FD(relay->end[CLIENT].fd);

	if (error != -ECANCELED)
		counter_add(&w->counters.failed[failure_of_error(error)], 1);
	if (relay->end[CLIENT].in_epoll)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, client_fd, NULL);
	relay_close(w, relay, true);
	w->callbacks->on_failed(w->ctx, relay->user, client_fd, error);
}

/* ---- bytes ---- */

/* @side takes no more. What it sent before that still reaches the other end; see relay_move(). */
static void end_fail(struct relay *relay, enum relay_side side)
{
	relay->end[side].dead = true;
	relay->finished[!side] = true;
}

/*
 * Everything of @side has been sent on: its FIN, if that is how it ended, follows. A dead end looks
 * the same to recv(), but ended by a RST: relay_settle() passes that on.
 */
static void relay_finish(struct relay *relay, enum relay_side side)
{
	relay->finished[side] = true;
	if (relay->finished[!side])
		return; /* that was the last of it: relay_settle() closes both */
	if (!relay->end[side].dead && shutdown(relay->end[!side].fd, SHUT_WR) < 0)
		end_fail(relay, !side);
}

/* Moves bytes from @side to the other end, as far as it goes now. */
static void relay_move(struct relay_worker *w, struct relay *relay, enum relay_side side)
{
	enum relay_flow_answer answer;
	size_t n;

	if (relay->finished[side])
		return;
	answer = relay_flow_move(w->buffer, relay->end[side].fd, relay->end[!side].fd, &n);
	counter_add(&w->counters.bytes[side], n);
	relay->blocked[side] = answer == RELAY_FLOW_BLOCKED;
	switch (answer) {
	case RELAY_FLOW_WAITS:
	case RELAY_FLOW_BLOCKED:
		break;
	case RELAY_FLOW_FIN:
		relay_finish(relay, side);
		break;
	case RELAY_FLOW_SOURCE_BAD:
		end_fail(relay, side);
		relay_finish(relay, side);
		break;
	case RELAY_FLOW_SINK_BAD:
		end_fail(relay, !side);
		break;
	}
}

/* Has the peer of @end got all that was sent, or will it never? */
static bool end_is_drained(const struct relay_end *end)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	return getsockopt(end->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	       info.tcpi_state == STATE_CLOSE || (!info.tcpi_unacked && !info.tcpi_notsent_bytes);
}

static struct relay_end *living_end(struct relay *relay)
{
	enum relay_side side = relay->end[CLIENT].dead ? TARGET : CLIENT;

	return relay->end[side].dead ? NULL : &relay->end[side];
}

static void relay_linger(struct relay_worker *w, struct relay *relay, struct relay_end *living)
{
	end_arm(w, living, false, 0);
	end_close(&relay->end[!living->side], true);
	list_remove(&w->relays, relay);
	list_add(&w->lingering, relay);
	relay->lingers = true;
}

/* Returns when it wants to look again. */
static uint64_t look_at_lingering(struct relay_worker *w, uint64_t now_ns)
{
	struct relay *next;

	for (struct relay *relay = w->lingering; relay; relay = next) {
		next = relay->next;
		if (end_is_drained(living_end(relay)))
			relay_close(w, relay, true);
	}
	return w->lingering ? now_ns + LOOK_NS : UINT64_MAX;
}

/* After events: is it over? If not, what is there to wait for? */
static void relay_settle(struct relay_worker *w, struct relay *relay)
{
	if (relay->finished[CLIENT] && relay->finished[TARGET]) {
		bool reset = relay->end[CLIENT].dead || relay->end[TARGET].dead;
		struct relay_end *living = reset ? living_end(relay) : NULL;

		if (living && !end_is_drained(living))
			relay_linger(w, relay, living);
		else
			relay_close(w, relay, reset);
		return;
	}
	if (end_rearm(w, relay, CLIENT) < 0 || end_rearm(w, relay, TARGET) < 0)
		relay_close(w, relay, true);
}

/* ---- connecting ---- */

static int proxy_send(const struct relay *relay)
{
	char header[PROXY_HEADER_MAX];
	size_t len;
	ssize_t n;

	if (relay->client_ip == CLIENT_IP_PROXY_V1)
		len = proxy_header_v1(&relay->client, &relay->asked, header);
	else if (relay->client_ip == CLIENT_IP_PROXY_V2)
		len = proxy_header_v2(&relay->client, &relay->asked, header);
	else
		return 0;
	/* A new socket's empty send queue takes this whole. */
	n = send(relay->end[TARGET].fd, header, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

static void set_int(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

int relay_start(struct relay_worker *w, int client_fd, const struct endpoint *client,
		const struct endpoint *asked, const struct endpoint *target,
		const struct relay_options *options, void *user, struct relay **ret_relay)
{
	_cleanup_free_ struct relay *relay = calloc(1, sizeof(*relay));
	int r;

	if (!relay)
		return -ENOMEM;
	for (enum relay_side side = CLIENT; side <= TARGET; side++)
		relay->end[side] = (struct relay_end){ .ref_type = w->ref_type,
						       .side = (uint8_t)side,
						       .fd = -1 };
	relay->client_ip = options->client_ip;
	relay->client = *client;
	relay->asked = *asked;
	relay->user = user;

	r = source_connect(&w->sources, options->client_ip == CLIENT_IP_TRANSPARENT ? client : NULL,
			   target, &relay->source, &relay->end[TARGET].fd);
	if (r < 0) {
		counter_add(&w->counters.failed[failure_of_error(r)], 1);
		return r;
	}
	relay->exempt = relay->fresh = true;
	relay->timeout_ms = options->connect_timeout_ms;
	list_add(&w->relays, relay);
	counter_add(&w->counters.started, 1);
	counter_add(&w->counters.active, 1);
	relay->end[CLIENT].fd = client_fd;
	if (ret_relay)
		*ret_relay = relay;
	TAKE_PTR(relay);
	return 0;
}

/* What both ends need. */
static void end_prepare(const struct relay_end *end)
{
	set_int(end->fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(end->fd, SOL_SOCKET, SO_OOBINLINE, 1);
	set_int(end->fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/* The target has answered, one way or the other. */
static void relay_answered(struct relay_worker *w, struct relay *relay)
{
	struct relay_end *target = &relay->end[TARGET];
	socklen_t len = sizeof(int);
	int error = 0, r;

	if (getsockopt(target->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	r = error ? -error : proxy_send(relay);
	if (r < 0) {
		relay_fail(w, relay, r);
		return;
	}
	end_prepare(&relay->end[CLIENT]);
	end_prepare(target);
	if (!relay->fresh && relay->timeout_ms)
		set_int(target->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 0);
	relay->fresh = false;
	relay_unexempt(w, relay);
	relay->state = RELAY_CONNECTED;
	counter_add(&w->counters.connected, 1);
	if (w->callbacks->on_connected)
		w->callbacks->on_connected(w->ctx, relay->user);
	relay_move(w, relay, CLIENT);
	relay_settle(w, relay);
}

/* Has the target answered while connect() was under way? Else epoll will say when it does. */
static void relay_look(struct relay_worker *w, struct relay *relay)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	int fd = relay->end[TARGET].fd, r;

	if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0) {
		relay_answered(w, relay);
		return;
	}
	relay->fresh = false;
	/* A SYN that is lost is sent again after a second: not too late for this. */
	if (relay->timeout_ms)
		set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)relay->timeout_ms);
	r = end_arm(w, &relay->end[TARGET], true, EPOLLOUT);
	if (r < 0)
		relay_fail(w, relay, r);
}

/* They are added in front. A callback may start another. */
static void look_at_fresh(struct relay_worker *w)
{
	while (w->relays && w->relays->fresh) {
		struct relay *next;

		for (struct relay *relay = w->relays; relay && relay->fresh; relay = next) {
			next = relay->next;
			relay_look(w, relay);
		}
	}
}

void relay_cancel(struct relay_worker *w, struct relay *relay)
{
	if (relay->state == RELAY_CONNECTING)
		relay_fail(w, relay, -ECANCELED);
}

void relay_handle_event(struct relay_worker *w, struct relay_end *end, uint32_t events)
{
	struct relay *relay = relay_of_end(end);
	enum relay_side side = end->side;

	switch (relay->state) {
	case RELAY_CLOSED:
		return;
	case RELAY_CONNECTING:
		if (side == TARGET)
			relay_answered(w, relay);
		return;
	case RELAY_CONNECTED:
		break;
	}
	if (relay->lingers)
		return; /* of the same batch as the one that ended it */

	if ((events & EPOLLERR) || ((events & EPOLLHUP) && !relay->finished[!side]))
		end_fail(relay, side);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		relay_move(w, relay, side);
	if (events & EPOLLOUT)
		relay_move(w, relay, !side);
	relay_settle(w, relay);
}

/* ---- the worker ---- */

int relay_worker_init(struct relay_worker *w, int epoll_fd, uint8_t ref_type,
		      const struct relay_callbacks *callbacks, void *ctx)
{
	*w = (struct relay_worker){
		.epoll_fd = epoll_fd,
		.ref_type = ref_type,
		.callbacks = callbacks,
		.ctx = ctx,
	};
	sources_init(&w->sources, callbacks->exempt, ctx);
	w->buffer = malloc(RELAY_FLOW_BUFFER_SIZE);
	return w->buffer ? 0 : -ENOMEM;
}

void relay_kill(struct relay_worker *w, struct relay *relay)
{
	if (relay->state == RELAY_CLOSED)
		return;
	counter_add(&w->counters.killed, 1);
	if (relay->state == RELAY_CONNECTING)
		relay_fail(w, relay, -ECANCELED);
	else
		relay_close(w, relay, true);
}

void relay_worker_kill_all(struct relay_worker *w)
{
	while (w->relays)
		relay_kill(w, w->relays);
	while (w->lingering)
		relay_kill(w, w->lingering);
}

uint64_t relay_worker_reap(struct relay_worker *w, uint64_t now_ns)
{
	uint64_t again_ns, sources_ns;

	look_at_fresh(w);
	again_ns = look_at_lingering(w, now_ns);
	while (w->closed) {
		struct relay *relay = w->closed;

		list_remove(&w->closed, relay);
		free(relay);
	}
	sources_ns = sources_tick(&w->sources, now_ns);
	return MIN(again_ns, sources_ns);
}

void relay_worker_done(struct relay_worker *w)
{
	relay_worker_kill_all(w);
	relay_worker_reap(w, now_ns());
	free(TAKE_PTR(w->buffer));
	sources_done(&w->sources);
}
