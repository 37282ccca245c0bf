// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Copy or splice. Nothing that was read is ever held outside of a pipe:
 * - small amounts are peeked into the worker's one buffer, sent, and only as much as was sent is
 *   taken from the queue, so that the rest waits in the kernel and an idle flow has no buffer;
 * - once a whole buffer came at once, splice(2) moves pages through a pipe, which the flow has only
 *   while it is at it, or while bytes are in it because the other end takes no more. Without pipes
 *   (descriptors used up) everything is copied.
 * Only recv() decides that an end has finished or failed. splice() does not get past a byte of
 * urgent data: it says EAGAIN, or 0, while epoll says EPOLLIN (tcp_splice_read(), its comment on
 * URG). Then a copy does; urgent bytes travel as ordinary ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay_flow.h"
#include "util.h"

#define PIPE_SIZE (256 * 1024) /* asked for; a pipe that stays at 64 KiB does too */
/* Bytes that one flow moves before others get their turn. */
#define TURN (512 * 1024)

static void count_pipes(struct relay_flow_worker *w, int n)
{
	__atomic_store_n(&w->pipes, w->pipes + (uint64_t)n, __ATOMIC_RELAXED);
}

/* ---- pipes ---- */

static void pipe_close(struct relay_flow_worker *w, int pipe[2])
{
	close(pipe[0]);
	close(pipe[1]);
	pipe[0] = pipe[1] = -1;
	count_pipes(w, -1);
}

/* False when there is none to be had: then the caller copies. */
static bool take_pipe(struct relay_flow_worker *w, struct relay_flow *flow)
{
	if (flow->pipe[0] >= 0)
		return true;
	if (w->n_pool) {
		w->n_pool--;
		memcpy(flow->pipe, w->pool[w->n_pool], sizeof(flow->pipe));
		return true;
	}
	if (w->pipes >= RELAY_MAX_PIPES)
		return false;
	if (pipe2(flow->pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
		flow->pipe[0] = flow->pipe[1] = -1;
		return false;
	}
	/* Refused beyond pipe-user-pages-soft: it works as it is. */
	fcntl(flow->pipe[0], F_SETPIPE_SZ, PIPE_SIZE);
	count_pipes(w, 1);
	return true;
}

/* A pipe with bytes in it must never meet another flow: it goes, whatever the pool has room for. */
static void return_pipe(struct relay_flow_worker *w, struct relay_flow *flow)
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

/* ---- one step ---- */

enum step {
	STEP_MORE,    /* there may be more to do at once */
	STEP_EMPTY,   /* the sending end has nothing (more) now */
	STEP_LOOK,    /* nothing came through the pipe, and only recv() can say why */
	STEP_BLOCKED, /* the receiving end takes no more now */
	STEP_FIN,     /* as the answers of the same names */
	STEP_SOURCE_BAD,
	STEP_SINK_BAD,
};

/* Pipe to socket. *ret_n: bytes sent. */
static enum step drain(struct relay_flow *flow, int to_fd, size_t *ret_n)
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
static enum step fill(struct relay_flow *flow, int from_fd)
{
	ssize_t n = splice(from_fd, NULL, flow->pipe[1], NULL, PIPE_SIZE,
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
static int discard(int fd, uint8_t *buffer, size_t len)
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
static enum step copy(uint8_t *buffer, int from_fd, int to_fd, size_t *ret_n)
{
	ssize_t got, sent;

	got = recv(from_fd, buffer, RELAY_FLOW_BUFFER_SIZE, MSG_PEEK | MSG_DONTWAIT);
	if (got == 0)
		return STEP_FIN;
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? STEP_EMPTY : STEP_SOURCE_BAD;

	sent = send(to_fd, buffer, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? STEP_BLOCKED : STEP_SINK_BAD;
	*ret_n = (size_t)sent;
	if (discard(from_fd, buffer, (size_t)sent) < 0)
		return STEP_SOURCE_BAD;
	if (sent < got)
		return STEP_BLOCKED;
	return got == RELAY_FLOW_BUFFER_SIZE ? STEP_MORE : STEP_EMPTY;
}

/* ---- a turn ---- */

static enum relay_flow_answer turn(struct relay_flow_worker *w, struct relay_flow *flow,
				   int from_fd, int to_fd, size_t *ret_n)
{
	bool look = false;

	for (;;) {
		enum step step;
		size_t n = 0;

		if (flow->in_pipe) {
			step = drain(flow, to_fd, &n);
		} else if (flow->bulk && !look && take_pipe(w, flow)) {
			step = fill(flow, from_fd);
		} else {
			step = copy(w->buffer, from_fd, to_fd, &n);
			flow->bulk = n == RELAY_FLOW_BUFFER_SIZE;
			look = false;
		}
		*ret_n += n;

		switch (step) {
		case STEP_MORE:
			if (*ret_n >= TURN && !flow->in_pipe)
				return RELAY_FLOW_WAITS;
			break;
		case STEP_EMPTY:
			/* epoll saw something, so splice() may not have taken what there is. */
			look = flow->bulk && !*ret_n;
			if (!look)
				return RELAY_FLOW_WAITS;
			break;
		case STEP_LOOK:
			look = true;
			break;
		case STEP_BLOCKED:
			flow->blocked = true;
			return RELAY_FLOW_WAITS;
		case STEP_FIN:
			return RELAY_FLOW_FIN;
		case STEP_SOURCE_BAD:
			return RELAY_FLOW_SOURCE_BAD;
		case STEP_SINK_BAD:
			return RELAY_FLOW_SINK_BAD;
		}
	}
}

enum relay_flow_answer relay_flow_move(struct relay_flow_worker *w, struct relay_flow *flow,
				       int from_fd, int to_fd, size_t *ret_n)
{
	enum relay_flow_answer answer;

	flow->blocked = false;
	*ret_n = 0;
	answer = turn(w, flow, from_fd, to_fd, ret_n);
	if (!flow->in_pipe)
		return_pipe(w, flow);
	if (*ret_n >= RELAY_FLOW_BUFFER_SIZE)
		flow->bulk = true;
	return answer;
}

void relay_flow_stop(struct relay_flow_worker *w, struct relay_flow *flow)
{
	return_pipe(w, flow);
	flow->blocked = false;
}

void relay_flow_init(struct relay_flow *flow)
{
	*flow = (struct relay_flow){ .pipe = { -1, -1 } };
}

int relay_flow_worker_init(struct relay_flow_worker *w)
{
	*w = (struct relay_flow_worker){ .buffer = malloc(RELAY_FLOW_BUFFER_SIZE) };
	if (!w->buffer)
		return -ENOMEM;
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

void relay_flow_worker_done(struct relay_flow_worker *w)
{
	while (w->n_pool)
		pipe_close(w, w->pool[--w->n_pool]);
	free(TAKE_PTR(w->buffer));
}
