/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Relays bytes between a client's connection and a second one, to its target. */
/*
 * Theory of operation
 *
 * A relay has two ends (CLIENT, TARGET) and two flows, each named by the end that it comes from:
 * flow[CLIENT] takes the client's bytes to the target. relay_start() makes it CONNECTING; the
 * target's answer makes it CONNECTED, or CLOSED with the client's descriptor given back. Both flows
 * finished, or a reset, make it CLOSED. CLOSED ones are freed after the event batch, since events
 * of the same batch may still point to their ends.
 *
 * flow_move() takes a flow as far as it goes. Nothing that was read is ever held outside of a pipe:
 * - small amounts are peeked into the worker's one buffer, sent, and only as much as was sent is
 *   taken from the queue, so that the rest waits in the kernel and an idle relay has no buffer;
 * - once a whole buffer came at once, splice(2) moves pages through a pipe, which the flow has only
 *   while it is at it, or while bytes are in it because the other end takes no more. Without pipes
 *   (descriptors used up) everything is copied.
 * Only recv() decides that an end has finished or failed. splice() does not get past a byte of
 * urgent data: it says EAGAIN, or 0, while epoll says EPOLLIN (tcp_splice_read(), its comment on
 * URG). Then a copy does; urgent bytes travel as ordinary ones.
 *
 * A FIN is passed on by shutdown() when everything before it has been sent; the other flow goes
 * on, without limit of time. A RST is passed on as a RST when what came before it has been sent.
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
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "proxy_header.h"
#include "util.h"

#define RELAY_BUFFER_SIZE (32 * 1024)
#define RELAY_PIPE_SIZE	  (256 * 1024) /* asked for; a pipe that stays at 64 KiB does too */
/* Bytes that one flow moves before others get their turn. */
#define RELAY_TURN (512 * 1024)

const char *const relay_failure_names[] = {
	[RELAY_REFUSED] = "refused",
	[RELAY_UNREACHABLE] = "unreachable",
	[RELAY_TIMED_OUT] = "timed_out",
	[RELAY_NO_PORT] = "no_port",
	[RELAY_NO_RESOURCE] = "no_resource",
	[RELAY_FORBIDDEN] = "forbidden",
	[RELAY_OTHER] = "other",
};
static_assert(ARRAY_SIZE(relay_failure_names) == RELAY_FAILURE_COUNT);
static_assert(offsetof(struct relay_end, ref_type) == 0);

enum relay_state { RELAY_CONNECTING, RELAY_CONNECTED, RELAY_CLOSED };

struct relay_flow {
	int pipe[2]; /* -1 but while bytes are under way */
	uint32_t in_pipe;
	bool bulk;     /* splice rather than copy */
	bool blocked;  /* its receiving end takes no more now */
	bool finished; /* FIN passed on, or nobody to take it */
};

struct relay {
	struct relay_end end[2];
	struct relay_flow flow[2];
	enum relay_state state;
	enum client_ip client_ip;
	bool exempt;
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
		return RELAY_NO_RESOURCE;
	case EPERM:
	case EACCES:
		return RELAY_FORBIDDEN;
	default:
		return RELAY_OTHER;
	}
}

/* ---- pipes ---- */

static void pipe_close(struct relay_worker *w, int pipe[2])
{
	close(pipe[0]);
	close(pipe[1]);
	pipe[0] = pipe[1] = -1;
	counter_add(&w->counters.pipes, -1);
}

/* False when there is none to be had: then the caller copies. */
static bool flow_take_pipe(struct relay_worker *w, struct relay_flow *flow)
{
	if (flow->pipe[0] >= 0)
		return true;
	if (w->n_pool) {
		w->n_pool--;
		memcpy(flow->pipe, w->pool[w->n_pool], sizeof(flow->pipe));
		return true;
	}
	if (w->counters.pipes >= RELAY_MAX_PIPES)
		return false;
	if (pipe2(flow->pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
		flow->pipe[0] = flow->pipe[1] = -1;
		return false;
	}
	/* Refused beyond pipe-user-pages-soft: it works as it is. */
	fcntl(flow->pipe[0], F_SETPIPE_SZ, RELAY_PIPE_SIZE);
	counter_add(&w->counters.pipes, 1);
	return true;
}

/* A pipe with bytes in it must never meet another flow: it goes, whatever the pool has room for. */
static void flow_return_pipe(struct relay_worker *w, struct relay_flow *flow)
{
	if (flow->pipe[0] < 0)
		return;
	if (flow->in_pipe || w->n_pool == RELAY_POOL_PIPES) {
		pipe_close(w, flow->pipe);
		flow->in_pipe = 0;
		return;
	}
	memcpy(w->pool[w->n_pool++], flow->pipe, sizeof(flow->pipe));
	flow->pipe[0] = flow->pipe[1] = -1;
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
	const struct relay_flow *from = &relay->flow[side], *to = &relay->flow[!side];
	struct relay_end *end = &relay->end[side];
	uint32_t events = 0;

	if (!from->finished && !from->blocked)
		events |= EPOLLIN;
	if (!to->finished && to->blocked)
		events |= EPOLLOUT;
	/*
	 * Once we have shut it down, or it is dead, EPOLLHUP is reported until everything of it has
	 * been read. (Nothing is sent to a dead end any more: that flow is finished.)
	 */
	return end_arm(w, end, events || !to->finished, events);
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
	for (enum relay_side side = CLIENT; side <= TARGET; side++) {
		end_close(&relay->end[side], reset);
		flow_return_pipe(w, &relay->flow[side]);
	}
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
	list_remove(&w->relays, relay);
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

/* @side takes no more. What it sent before that still reaches the other end; see flow_move(). */
static void end_fail(struct relay_worker *w, struct relay *relay, enum relay_side side)
{
	struct relay_flow *to = &relay->flow[!side];

	relay->end[side].dead = true;
	to->finished = true;
	flow_return_pipe(w, to);
}

/* What one step of a flow came to. */
enum flow_step {
	STEP_MORE,	 /* there may be more to do at once */
	STEP_EMPTY,	 /* the sending end has nothing (more) now */
	STEP_LOOK,	 /* nothing came through the pipe, and only recv() can say why */
	STEP_BLOCKED,	 /* the receiving end takes no more now */
	STEP_FIN,	 /* the sending end has finished */
	STEP_SOURCE_BAD, /* the sending end is in error, its bytes all taken */
	STEP_SINK_BAD,	 /* the receiving end is in error */
};

/* Pipe to socket. *ret_n: bytes sent. */
static enum flow_step flow_drain(struct relay_flow *flow, int to_fd, size_t *ret_n)
{
	ssize_t n = splice(flow->pipe[0], NULL, to_fd, NULL, flow->in_pipe,
			   SPLICE_F_NONBLOCK | SPLICE_F_MOVE);

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? STEP_BLOCKED : STEP_SINK_BAD;
	flow->in_pipe -= (uint32_t)n;
	*ret_n = (size_t)n;
	return STEP_MORE;
}

/* Socket to pipe. */
static enum flow_step flow_fill(struct relay_flow *flow, int from_fd)
{
	ssize_t n = splice(from_fd, NULL, flow->pipe[1], NULL, RELAY_PIPE_SIZE,
			   SPLICE_F_NONBLOCK | SPLICE_F_MOVE);

	if (n > 0) {
		flow->in_pipe += (uint32_t)n;
		return STEP_MORE;
	}
	if (n == 0 || errno == EINTR || errno == ENOMEM || errno == EINVAL)
		return STEP_LOOK;
	/* Having said it, the socket has forgotten its error: recv() would see a FIN. */
	return errno == EAGAIN ? STEP_EMPTY : STEP_SOURCE_BAD;
}

/* Takes from the receive queue the @len bytes that have been peeked and sent. */
static int socket_discard(int fd, uint8_t *buffer, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, buffer, len, MSG_TRUNC | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		len -= (size_t)n;
	}
	return 0;
}

/* Socket to socket by way of @buffer. *ret_n: bytes sent. */
static enum flow_step flow_copy(uint8_t *buffer, int from_fd, int to_fd, size_t *ret_n)
{
	ssize_t got, sent;

	got = recv(from_fd, buffer, RELAY_BUFFER_SIZE, MSG_PEEK | MSG_DONTWAIT);
	if (got == 0)
		return STEP_FIN;
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? STEP_EMPTY : STEP_SOURCE_BAD;

	sent = send(to_fd, buffer, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? STEP_BLOCKED : STEP_SINK_BAD;
	*ret_n = (size_t)sent;
	if (socket_discard(from_fd, buffer, (size_t)sent) < 0)
		return STEP_SOURCE_BAD;
	if (sent < got)
		return STEP_BLOCKED;
	return got == RELAY_BUFFER_SIZE ? STEP_MORE : STEP_EMPTY;
}

/*
 * Everything of @side has been sent on: its FIN, if that is how it ended, follows. A dead end looks
 * the same to recv(), but ended by a RST: relay_settle() passes that on.
 */
static void flow_finish(struct relay_worker *w, struct relay *relay, enum relay_side side)
{
	relay->flow[side].finished = true;
	if (!relay->end[side].dead && shutdown(relay->end[!side].fd, SHUT_WR) < 0)
		end_fail(w, relay, !side);
}

/* Moves bytes from @side to the other end until one of them has to wait, or the turn is over. */
static void flow_move(struct relay_worker *w, struct relay *relay, enum relay_side side)
{
	struct relay_flow *flow = &relay->flow[side];
	const struct relay_end *from = &relay->end[side], *to = &relay->end[!side];
	bool waiting = flow->finished, look = false;
	size_t moved = 0;

	flow->blocked = false;
	while (!waiting) {
		enum flow_step step;
		size_t n = 0;

		if (flow->in_pipe) {
			step = flow_drain(flow, to->fd, &n);
		} else if (flow->bulk && !look && flow_take_pipe(w, flow)) {
			step = flow_fill(flow, from->fd);
		} else {
			step = flow_copy(w->buffer, from->fd, to->fd, &n);
			flow->bulk = n == RELAY_BUFFER_SIZE;
			look = false;
		}
		moved += n;
		counter_add(&w->counters.bytes[side], n);

		switch (step) {
		case STEP_MORE:
			waiting = moved >= RELAY_TURN && !flow->in_pipe;
			break;
		case STEP_EMPTY:
			/* epoll saw something, so splice() may not have taken what there is. */
			look = flow->bulk && !moved;
			waiting = !look;
			break;
		case STEP_LOOK:
			look = true;
			break;
		case STEP_BLOCKED:
			waiting = flow->blocked = true;
			break;
		case STEP_FIN:
			flow_finish(w, relay, side);
			waiting = true;
			break;
		case STEP_SOURCE_BAD:
			end_fail(w, relay, side);
			flow_finish(w, relay, side);
			waiting = true;
			break;
		case STEP_SINK_BAD:
			end_fail(w, relay, !side);
			waiting = true;
			break;
		}
	}
	if (!flow->in_pipe)
		flow_return_pipe(w, flow);
	if (moved >= RELAY_BUFFER_SIZE)
		flow->bulk = true;
}

/* After events: is it over? If not, what is there to wait for? */
static void relay_settle(struct relay_worker *w, struct relay *relay)
{
	if (relay->flow[CLIENT].finished && relay->flow[TARGET].finished) {
		relay_close(w, relay, relay->end[CLIENT].dead || relay->end[TARGET].dead);
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
	for (enum relay_side side = CLIENT; side <= TARGET; side++) {
		relay->end[side] = (struct relay_end){ .ref_type = w->ref_type,
						       .side = (uint8_t)side,
						       .fd = -1 };
		relay->flow[side].pipe[0] = relay->flow[side].pipe[1] = -1;
	}
	relay->client_ip = options->client_ip;
	relay->client = *client;
	relay->asked = *asked;
	relay->user = user;

	r = source_connect(&w->sources, options->client_ip == CLIENT_IP_TRANSPARENT ? client : NULL,
			   target, options->connect_timeout_ms, &relay->source,
			   &relay->end[TARGET].fd);
	if (r < 0) {
		counter_add(&w->counters.failed[failure_of_error(r)], 1);
		return r;
	}
	relay->exempt = true;
	list_add(&w->relays, relay);
	counter_add(&w->counters.started, 1);
	counter_add(&w->counters.active, 1);
	r = end_arm(w, &relay->end[TARGET], true, EPOLLOUT);
	if (r < 0) {
		counter_add(&w->counters.failed[failure_of_error(r)], 1);
		relay_close(w, TAKE_PTR(relay), true);
		return r;
	}
	relay->end[CLIENT].fd = client_fd;
	if (ret_relay)
		*ret_relay = relay;
	TAKE_PTR(relay);
	return 0;
}

/* What both ends need. The sniffer may have left SO_RCVLOWAT, for one, in a state of its own. */
static int end_prepare(const struct relay_end *end)
{
	int flags = fcntl(end->fd, F_GETFL);

	if (flags < 0 || fcntl(end->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	set_int(end->fd, SOL_SOCKET, SO_RCVLOWAT, 1);
	set_int(end->fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(end->fd, SOL_SOCKET, SO_OOBINLINE, 1);
	set_int(end->fd, SOL_TCP, TCP_NODELAY, 1);
	return 0;
}

/* The target has answered, one way or the other. */
static void relay_answered(struct relay_worker *w, struct relay *relay)
{
	struct relay_end *target = &relay->end[TARGET];
	socklen_t len = sizeof(int);
	int error = 0, r;

	if (getsockopt(target->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	r = -error;
	if (r >= 0)
		r = end_prepare(&relay->end[CLIENT]);
	if (r >= 0)
		r = end_prepare(target);
	if (r >= 0)
		r = end_arm(w, &relay->end[CLIENT], true, 0);
	if (r >= 0)
		r = proxy_send(relay);
	if (r < 0) {
		relay_fail(w, relay, r);
		return;
	}
	set_int(target->fd, SOL_TCP, TCP_USER_TIMEOUT, 0);
	relay_unexempt(w, relay);
	relay->state = RELAY_CONNECTED;
	counter_add(&w->counters.connected, 1);
	if (w->callbacks->on_connected)
		w->callbacks->on_connected(w->ctx, relay->user);
	flow_move(w, relay, CLIENT);
	flow_move(w, relay, TARGET);
	relay_settle(w, relay);
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

	if ((events & EPOLLERR) || ((events & EPOLLHUP) && !relay->flow[!side].finished))
		end_fail(w, relay, side);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		flow_move(w, relay, side);
	if (events & EPOLLOUT)
		flow_move(w, relay, !side);
	relay_settle(w, relay);
}

/* ---- the worker ---- */

int relay_worker_init(struct relay_worker *w, int epoll_fd, uint8_t ref_type,
		      const struct relay_callbacks *callbacks, void *ctx)
{
	_cleanup_free_ uint8_t *buffer = malloc(RELAY_BUFFER_SIZE);

	if (!buffer)
		return -ENOMEM;
	*w = (struct relay_worker){
		.epoll_fd = epoll_fd,
		.ref_type = ref_type,
		.callbacks = callbacks,
		.ctx = ctx,
	};
	sources_init(&w->sources, callbacks->exempt, ctx);
	w->buffer = TAKE_PTR(buffer);
	signal(SIGPIPE, SIG_IGN);
	return 0;
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
}

uint64_t relay_worker_reap(struct relay_worker *w, uint64_t now_ns)
{
	while (w->closed) {
		struct relay *relay = w->closed;

		list_remove(&w->closed, relay);
		free(relay);
	}
	return sources_tick(&w->sources, now_ns);
}

void relay_worker_done(struct relay_worker *w)
{
	relay_worker_kill_all(w);
	relay_worker_reap(w, now_ns());
	while (w->n_pool)
		pipe_close(w, w->pool[--w->n_pool]);
	free(TAKE_PTR(w->buffer));
	sources_done(&w->sources);
}
