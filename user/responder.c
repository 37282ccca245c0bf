// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The built-in responder's process: strangers talk to it, so it has no rights (isolate.c) and knows
 * nothing but names and digests, which are no secrets.
 *
 * Theory of operation: one epoll holds the listener, the socket to the resident process, and the
 * connections. It listens from the first SYNC on: what waited in the queue for it while the process
 * before it died must not be told that its name is unknown. Orders are done as they come and
 * reported by the ticket of the last one. When the resident process closes its end, or dies, this
 * takes what is in the accept queue, finishes what has begun, for RESPONDER_END_NS at most, and
 * ends. (If that process dies the kernel ends this one even before.)
 */
#include "responder.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "answer.h"
#include "isolate.h"
#include "util.h"

#define EVENTS		64
#define ACCEPTS		64		      /* in one go, before others get their turn */
#define OTHER_FDS	16		      /* that are no connections */
#define ACCEPT_PAUSE_NS (100 * NSEC_PER_MSEC) /* without descriptors: not to spin */

struct responder {
	struct answerer answerer;
	int epoll_fd;
	int listener; /* -1: no longer */
	int resident;
	uint64_t accept_again_ns; /* 0, or when to listen again */
	uint64_t end_ns;	  /* 0: the resident process is there */
	uint64_t ticket;
	bool synced; /* it has all the challenges that there were when it was started, and listens
		      */
	bool out_of_memory;
	struct responder_report reported;
	bool report_due; /* could not be sent, or must be at once */
	uint64_t reported_ns;
};

static void watch(struct responder *responder, int op, int *fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = fd };

	epoll_ctl(responder->epoll_fd, op, *fd, &event);
}

static void report(struct responder *responder, uint64_t now)
{
	struct responder_report *last = &responder->reported;

	last->ticket = responder->ticket;
	memcpy(last->counters, responder->answerer.counters, sizeof(last->counters));
	if (send(responder->resident, last, sizeof(*last), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		responder->report_due = true;
		watch(responder, EPOLL_CTL_MOD, &responder->resident, EPOLLIN | EPOLLOUT);
		return;
	}
	last->ready = false;
	responder->reported_ns = now;
	if (responder->report_due)
		watch(responder, EPOLL_CTL_MOD, &responder->resident, EPOLLIN);
	responder->report_due = false;
}

/* Reports what is new. Returns when there will be something again; UINT64_MAX: not before an event.
 */
static uint64_t report_if_due(struct responder *responder, uint64_t now)
{
	const struct responder_report *last = &responder->reported;

	if (responder->end_ns || responder->report_due)
		return UINT64_MAX;
	if (last->ticket == responder->ticket &&
	    memcmp(last->counters, responder->answerer.counters, sizeof(last->counters)) == 0)
		return UINT64_MAX;
	if (last->ticket == responder->ticket && now - responder->reported_ns < RESPONDER_REPORT_NS)
		return responder->reported_ns + RESPONDER_REPORT_NS;
	report(responder, now);
	return UINT64_MAX;
}

static void do_order(struct responder *responder, const struct responder_order *order)
{
	char error[RESPONDER_TEXT_MAX];
	bool replaced;

	switch (order->kind) {
	case RESPONDER_ADD:
		/* Without memory: not reported as done, and a new process will try. */
		if (challenge_set_add(&responder->answerer.challenges, &order->name, order->digest,
				      0, UINT64_MAX, &replaced, error, sizeof(error)) < 0) {
			responder->out_of_memory = true;
			return;
		}
		break;
	case RESPONDER_REMOVE:
		challenge_set_remove(&responder->answerer.challenges, order->name.sni);
		break;
	case RESPONDER_SYNC:
		if (!responder->synced)
			watch(responder, EPOLL_CTL_ADD, &responder->listener, EPOLLIN);
		responder->synced = true;
		break;
	}
	responder->ticket = order->ticket;
}

static void stop_listening(struct responder *responder)
{
	if (responder->listener < 0)
		return;
	/* The resident process has it as well, so close() alone would leave it in the epoll. */
	epoll_ctl(responder->epoll_fd, EPOLL_CTL_DEL, responder->listener, NULL);
	close(responder->listener);
	responder->listener = -1;
	responder->accept_again_ns = 0;
}

static void accept_some(struct responder *responder, unsigned max, uint64_t now)
{
	while (responder->listener >= 0 && max-- > 0) {
		int fd = accept4(responder->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			answer_accept(&responder->answerer, fd, now);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN) {
			responder->accept_again_ns = now + ACCEPT_PAUSE_NS;
			watch(responder, EPOLL_CTL_MOD, &responder->listener, 0);
		}
		return;
	}
}

static void take_orders(struct responder *responder, uint64_t now)
{
	struct responder_order order;

	for (int i = 0; i < EVENTS; i++) {
		ssize_t n = recv(responder->resident, &order, sizeof(order), MSG_DONTWAIT);

		if (n == (ssize_t)sizeof(order)) {
			do_order(responder, &order);
			continue;
		}
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		responder->end_ns = now + RESPONDER_END_NS;
		epoll_ctl(responder->epoll_fd, EPOLL_CTL_DEL, responder->resident, NULL);
		if (responder->synced)
			accept_some(responder, ANSWER_MAX_CONNS, now);
		stop_listening(responder);
		return;
	}
}

static void take_event(struct responder *responder, const struct epoll_event *event, uint64_t now)
{
	if (event->data.ptr == &responder->listener) {
		accept_some(responder, ACCEPTS, now);
	} else if (event->data.ptr == &responder->resident) {
		if (!responder->end_ns && (event->events & EPOLLOUT))
			report(responder, now);
		if (!responder->end_ns && (event->events & ~(uint32_t)EPOLLOUT))
			take_orders(responder, now);
	} else {
		answer_event(&responder->answerer, event->data.ptr, now);
	}
}

/* For epoll_wait(), rounded up; not more than a minute. */
static int ms_until(uint64_t at_ns, uint64_t now)
{
	if (at_ns <= now)
		return 0;
	return (int)MIN((at_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC, UINT64_C(60000));
}

static void serve(struct responder *responder)
{
	struct epoll_event events[EVENTS];

	for (;;) {
		uint64_t now = now_ns();
		uint64_t next = answer_expire(&responder->answerer, now);
		int n;

		next = MIN(next, report_if_due(responder, now));
		if (responder->out_of_memory ||
		    (responder->end_ns && (responder->answerer.n == 0 || responder->end_ns <= now)))
			return;
		if (responder->end_ns)
			next = MIN(next, responder->end_ns);
		if (responder->accept_again_ns && responder->accept_again_ns <= now) {
			responder->accept_again_ns = 0;
			watch(responder, EPOLL_CTL_MOD, &responder->listener, EPOLLIN);
		} else if (responder->accept_again_ns) {
			next = MIN(next, responder->accept_again_ns);
		}
		n = epoll_wait(responder->epoll_fd, events, EVENTS, ms_until(next, now));
		now = now_ns();
		for (int i = 0; i < n; i++)
			take_event(responder, &events[i], now);
	}
}

/* A terminal's Ctrl-C, or a service manager that ends all at once: the resident process says when
 * to end. */
static void ignore_signals(void)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };

	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
}

static unsigned max_fds(void)
{
	struct rlimit limit = {};

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)RESPONDER_MAX_FDS);
	setrlimit(RLIMIT_NOFILE, &limit);
	return (unsigned)limit.rlim_cur;
}

static int set_up(struct responder *responder, char *error, size_t error_size)
{
	unsigned fds = max_fds();
	int r;

	prctl(PR_SET_NAME, "acme-steer");
	ignore_signals();
	close_range(RESPONDER_FD_RESIDENT + 1, ~0U, 0);
	responder->listener = RESPONDER_FD_LISTENER;
	responder->resident = RESPONDER_FD_RESIDENT;
	responder->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (responder->epoll_fd < 0 || fds <= OTHER_FDS) {
		snprintf(error, error_size, "too few descriptors");
		return -EMFILE;
	}
	watch(responder, EPOLL_CTL_ADD, &responder->resident, EPOLLIN);
	r = answerer_init(&responder->answerer, responder->epoll_fd, fds - OTHER_FDS);
	if (r < 0) {
		snprintf(error, error_size, "OpenSSL can't make a TLS 1.3 server with a P-256 key");
		return r;
	}
	return isolate_responder(fds, error, error_size);
}

int responder_run(void)
{
	static struct responder responder;
	int r = set_up(&responder, responder.reported.text, sizeof(responder.reported.text));

	responder.reported.ready = r == 0;
	responder.reported.failed = r < 0;
	report(&responder, now_ns());
	if (r < 0)
		return 1;
	serve(&responder);
	return responder.out_of_memory ? 1 : 0;
}
