// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The resident process's end of the built-in responder.
 *
 * Theory of operation: the listener is ours, and every responder process inherits it: connections
 * find it while there is none, and wait in its queue. A starter (starter.c) makes the process and
 * kills it, for we have no right to. Orders are queued here and sent as the socket
 * takes them; the process reports the ticket of the last one done.
 *
 *   OFF -> STARTING -> RUNNING         a process that dies makes it WAITING, then STARTING again,
 * with a ^  \       |            new queue: all the challenges that there are then, and a SYNC. |
 * v      v            A ticket from before is done when that SYNC is.
 *              +--- WAITING
 *
 * keeper_stop() leads from each of them to OFF: the process is set aside to end by itself, and is
 * reaped. A process that does not do its orders is ended; so that one that hangs is found out,
 * there always are some.
 */
#include "keeper.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "log.h"
#include "starter.h"
#include "tls_program.h"
#include "util.h"

#define BACKLOG		 4096
#define MAX_ENDING	 4 /* processes that are ending; one more, and the oldest is ended at once */
#define FIRST_PAUSE_NS	 (50 * NSEC_PER_MSEC)
#define LONGEST_PAUSE_NS (5 * NSEC_PER_SEC)
#define LONG_LIFE_NS \
	(10 * NSEC_PER_SEC) /* after so long a life the next pause is the first one again */
#define TRIES_MAX 3 /* processes in a row that never served, until waiting callers are told */
#define START_NS  (10 * NSEC_PER_SEC)
#define ORDER_NS  (5 * NSEC_PER_SEC) /* for the next order to be done */
#define ENDING_NS (5 * NSEC_PER_SEC)
#define ASK_NS	  (2 * NSEC_PER_SEC) /* a process that has had no order for so long gets a SYNC */

static const char *const state_names[] = {
	[KEEPER_OFF] = "off",
	[KEEPER_STARTING] = "starting",
	[KEEPER_RUNNING] = "running",
	[KEEPER_WAITING] = "waiting",
};
static_assert(ARRAY_SIZE(state_names) == KEEPER_STATES, "a name for each state");

struct process {
	pid_t pid; /* 0: none */
	int pidfd;
	int socket;
	uint64_t kill_ns; /* when to lose patience; 0: not */
};

struct keeper {
	enum keeper_state state;
	keeper_fill fill;
	void *ctx;
	struct starter *starter;
	int epoll_fd;
	int listener; /* -1: off */
	struct endpoint at;
	struct process process;
	struct process ending[MAX_ENDING];

	struct responder_order *queue; /* not sent yet: [sent, n) */
	size_t sent, n, size;
	bool no_memory;	    /* an order is missing: the process must be started again */
	uint64_t ticket;    /* the last one given */
	uint64_t done;	    /* the last one reported */
	uint64_t old, sync; /* tickets up to @old are done when @sync is */

	unsigned tries;
	uint64_t started_ns, again_ns, pause_ns, asked_ns;
	uint64_t restarts;
	char error[256];
	struct responder_report report;		 /* the last one */
	uint64_t counters[ANSWER_COUNTER_COUNT]; /* of earlier processes */
	struct log_limit log_limit;
};

#define COUNTER_NAME(id, name, text) name,
static const char *const counter_names[] = { ANSWER_COUNTERS(COUNTER_NAME) };
_Static_assert(ARRAY_SIZE(counter_names) == ANSWER_COUNTER_COUNT, "a name for each counter");

int keeper_new(keeper_fill fill, void *ctx, struct keeper **ret_keeper)
{
	struct keeper *keeper = calloc(1, sizeof(*keeper));
	int err;

	if (!keeper)
		return -ENOMEM;
	keeper->fill = fill;
	keeper->ctx = ctx;
	keeper->listener = -1;
	err = starter_new(&keeper->starter);
	if (err) {
		free(keeper);
		return err;
	}
	keeper->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (keeper->epoll_fd < 0) {
		err = -errno;
		starter_free(keeper->starter);
		free(keeper);
		return err;
	}
	*ret_keeper = keeper;
	return 0;
}

int keeper_fd(const struct keeper *keeper)
{
	return keeper->epoll_fd;
}

static void process_close(struct process *process)
{
	close(process->pidfd);
	if (process->socket >= 0)
		close(process->socket);
	*process = (struct process){};
}

/* True when it has ended, and is no more. */
static bool process_reap(struct process *process, int *ret_status)
{
	if (waitpid(process->pid, ret_status, WNOHANG) == 0)
		return false;
	process_close(process);
	return true;
}

static void process_kill(struct keeper *keeper, struct process *process)
{
	int r = starter_kill(keeper->starter, process->pid);

	/* Without a starter it ends when its socket is closed, or else when we do: not to be waited
	 * for. */
	while (waitpid(process->pid, NULL, r == 0 ? 0 : WNOHANG) < 0 && errno == EINTR)
		;
	process_close(process);
}

void keeper_free(struct keeper *keeper)
{
	if (!keeper)
		return;
	for (size_t i = 0; i < MAX_ENDING; i++)
		if (keeper->ending[i].pid)
			process_kill(keeper, &keeper->ending[i]);
	if (keeper->process.pid)
		process_kill(keeper, &keeper->process);
	if (keeper->listener >= 0)
		close(keeper->listener);
	close(keeper->epoll_fd);
	starter_free(keeper->starter);
	free(keeper->queue);
	free(keeper);
}

/*
 * On loopback, reachable by nobody from outside. IPv6, with a v4-mapped address: an IPv4 socket
 * can't adopt connections of IPv6 clients, and one on ::1 none of IPv4.
 *
 * SO_REUSEADDR passes on to accepted sockets. Those that were handed off have the web server's
 * port, in TIME-WAIT for a minute, too: without it the web server could not bind that port.
 */
static int listen_somewhere(int *ret_fd, struct endpoint *ret_at)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
	struct sockaddr_storage bound;
	socklen_t size = sizeof(bound);
	_cleanup_close_ int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &address.sin6_addr);
	if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 0 }, sizeof(int)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&bound, &size) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return endpoint_from_sockaddr(&bound, ret_at);
}

static int process_start(struct keeper *keeper)
{
	struct epoll_event event = { .events = EPOLLIN };
	_cleanup_close_ int ours = -1, theirs = -1;
	int fds[2], pidfd;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	ours = fds[0];
	theirs = fds[1];
	pid = starter_start(keeper->starter, keeper->listener, theirs);
	if (pid < 0)
		return pid;
	pidfd = pidfd_open(pid, 0);
	keeper->process = (struct process){ .pid = pid, .pidfd = pidfd, .socket = TAKE_FD(ours) };
	if (pidfd < 0 || epoll_ctl(keeper->epoll_fd, EPOLL_CTL_ADD, pidfd, &event) < 0 ||
	    epoll_ctl(keeper->epoll_fd, EPOLL_CTL_ADD, keeper->process.socket, &event) < 0) {
		int err = -errno;

		process_kill(keeper, &keeper->process);
		return err;
	}
	return 0;
}

static void enqueue(struct keeper *keeper, enum responder_order_kind kind, const struct name *name,
		    const uint8_t *digest)
{
	struct responder_order *order;

	keeper->ticket++;
	if (keeper->state == KEEPER_WAITING ||
	    keeper->state == KEEPER_OFF) /* the next process is told all */
		return;
	if (keeper->n == keeper->size) {
		size_t size = MAX(2 * keeper->size, (size_t)64);
		void *queue = realloc(keeper->queue, size * sizeof(*order));

		if (!queue) {
			keeper->no_memory = true;
			return;
		}
		keeper->queue = queue;
		keeper->size = size;
	}
	order = &keeper->queue[keeper->n++];
	*order = (struct responder_order){ .ticket = keeper->ticket, .kind = kind };
	if (name)
		order->name = *name;
	if (digest)
		memcpy(order->digest, digest, CHALLENGE_DIGEST);
}

static void queue_clear(struct keeper *keeper)
{
	free(keeper->queue);
	keeper->queue = NULL;
	keeper->sent = keeper->n = keeper->size = 0;
	keeper->no_memory = false;
}

static void wait_and_try_again(struct keeper *keeper, uint64_t now)
{
	queue_clear(keeper);
	keeper->state = KEEPER_WAITING;
	if (now - keeper->started_ns >= LONG_LIFE_NS)
		keeper->pause_ns = 0;
	keeper->pause_ns =
		keeper->pause_ns ? MIN(2 * keeper->pause_ns, LONGEST_PAUSE_NS) : FIRST_PAUSE_NS;
	keeper->again_ns = now + keeper->pause_ns;
}

static void start_process(struct keeper *keeper, uint64_t now)
{
	int err = process_start(keeper);
	const char *remedy;

	keeper->started_ns = now;
	keeper->done = 0;
	memset(&keeper->report, 0, sizeof(keeper->report));
	if (err) {
		remedy = tls_program_remedy(err);
		snprintf(keeper->error, sizeof(keeper->error),
			 "starting the built-in responder: %s%s%s%s",
			 err == -EPIPE ? "who starts it is gone: restart the resident process"
				       : tls_program_fault(err),
			 remedy ? "; " : "", remedy ? remedy : "",
			 remedy ? ", and restart the resident process" : "");
		keeper->tries++;
		wait_and_try_again(keeper, now);
		return;
	}
	keeper->state = KEEPER_STARTING;
	keeper->old = keeper->ticket;
	keeper->process.kill_ns = now + START_NS;
	keeper->fill(keeper->ctx, keeper);
	enqueue(keeper, RESPONDER_SYNC, NULL, NULL);
	keeper->sync = keeper->ticket;
}

int keeper_start(struct keeper *keeper, struct endpoint *ret_at, char *error, size_t error_size)
{
	int err = 0;

	if (keeper->state == KEEPER_OFF)
		err = listen_somewhere(&keeper->listener, &keeper->at);
	if (err) {
		snprintf(error, error_size, "a listener for the built-in responder: %s",
			 strerror(-err));
		return err;
	}
	*ret_at = keeper->at;
	if (keeper->state == KEEPER_OFF) {
		keeper->tries = 0;
		keeper->pause_ns = 0;
		start_process(keeper, now_ns());
	}
	return 0;
}

static void counters_keep(struct keeper *keeper)
{
	for (int i = 0; i < ANSWER_COUNTER_COUNT; i++)
		keeper->counters[i] += keeper->report.counters[i];
	memset(&keeper->report, 0, sizeof(keeper->report));
}

static void read_reports(struct keeper *keeper, uint64_t now);

/* Lets the process end by itself; it learns it from its socket. */
static void set_aside(struct keeper *keeper, uint64_t now)
{
	struct process *oldest = &keeper->ending[0];
	struct process *place = NULL;

	for (size_t i = 0; i < MAX_ENDING; i++) {
		if (!keeper->ending[i].pid)
			place = &keeper->ending[i];
		else if (keeper->ending[i].kill_ns < oldest->kill_ns)
			oldest = &keeper->ending[i];
	}
	if (!place) {
		process_kill(keeper, oldest);
		place = oldest;
	}
	close(TAKE_FD(keeper->process.socket));
	*place = keeper->process;
	place->kill_ns = now + ENDING_NS;
	keeper->process = (struct process){};
}

void keeper_stop(struct keeper *keeper)
{
	uint64_t now = now_ns();

	if (keeper->state == KEEPER_OFF)
		return;
	close(TAKE_FD(keeper->listener));
	if (keeper->process.pid) {
		read_reports(keeper, now);
		set_aside(keeper, now);
	}
	counters_keep(keeper);
	queue_clear(keeper);
	keeper->state = KEEPER_OFF;
}

uint64_t keeper_add(struct keeper *keeper, const struct name *name,
		    const uint8_t digest[CHALLENGE_DIGEST])
{
	enqueue(keeper, RESPONDER_ADD, name, digest);
	return keeper->ticket;
}

uint64_t keeper_remove(struct keeper *keeper, const struct name *name)
{
	enqueue(keeper, RESPONDER_REMOVE, name, NULL);
	return keeper->ticket;
}

enum keeper_answer keeper_done(const struct keeper *keeper, uint64_t ticket)
{
	if (keeper->state == KEEPER_RUNNING && keeper->done >= MAX(ticket, keeper->sync))
		return KEEPER_DONE;
	if (keeper->state == KEEPER_OFF || keeper->tries >= TRIES_MAX)
		return KEEPER_FAILED;
	return KEEPER_NOT_YET;
}

const char *keeper_error(const struct keeper *keeper)
{
	return keeper->error[0] ? keeper->error : "the built-in responder is off";
}

/* Its words are shown, so nothing but text may be in them. */
static void take_text(struct keeper *keeper, struct responder_report *report)
{
	report->text[RESPONDER_TEXT_MAX - 1] = '\0';
	for (char *p = report->text; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	snprintf(keeper->error, sizeof(keeper->error), "the built-in responder: %s", report->text);
}

static void read_reports(struct keeper *keeper, uint64_t now)
{
	struct responder_report report;

	while (recv(keeper->process.socket, &report, sizeof(report), MSG_DONTWAIT) ==
	       (ssize_t)sizeof(report)) {
		if (report.failed) {
			take_text(keeper, &report);
			keeper->tries = TRIES_MAX; /* the next one would find the same */
		} else if (report.ready && keeper->state == KEEPER_STARTING) {
			keeper->state = KEEPER_RUNNING;
			keeper->tries = 0;
		}
		if (report.ticket > keeper->done)
			keeper->process.kill_ns = now + ORDER_NS;
		/* A ticket that was not given yet would be a lie. */
		keeper->done = MAX(keeper->done, MIN(report.ticket, keeper->ticket));
		keeper->report = report;
	}
}

static void send_orders(struct keeper *keeper)
{
	struct epoll_event event = { .events = EPOLLIN };

	while (keeper->sent < keeper->n) {
		const struct responder_order *order = &keeper->queue[keeper->sent];

		if (send(keeper->process.socket, order, sizeof(*order),
			 MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
		keeper->sent++;
	}
	if (keeper->sent == keeper->n)
		keeper->sent = keeper->n = 0;
	else
		event.events |= EPOLLOUT;
	epoll_ctl(keeper->epoll_fd, EPOLL_CTL_MOD, keeper->process.socket, &event);
}

/* Of a process that did not become a responder. NULL: it did, or has said itself what was wrong. */
static const char *no_responder(int exit_code)
{
	switch (exit_code) {
	case RESPONDER_OTHER_VERSION:
		return "acme-steer-tls is of another version; restart the resident process";
	case RESPONDER_NOT_EXECUTED:
		return "acme-steer-tls can't be executed";
	case RESPONDER_NOT_LINKED:
		return "acme-steer-tls lacks a library, see `acme-steer probe --help`";
	default:
		return NULL;
	}
}

static void describe_end(struct keeper *keeper, int status, uint64_t now)
{
	const char *fault = WIFEXITED(status) ? no_responder(WEXITSTATUS(status)) : NULL;
	char how[128];

	if (fault)
		snprintf(how, sizeof(how), "did not start: %s", fault);
	else if (WIFSIGNALED(status))
		snprintf(how, sizeof(how), "ended by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(how, sizeof(how), "ended with exit code %d", WEXITSTATUS(status));
	if (!keeper->report.failed)
		snprintf(keeper->error, sizeof(keeper->error), "the built-in responder %s", how);
	if (log_limit_ok(&keeper->log_limit, 5, 60 * NSEC_PER_SEC, now))
		log_warn("%s; it is started again", keeper->error);
}

/* What the process has to say, and whether it is still there. */
static void process_tick(struct keeper *keeper, uint64_t now)
{
	int status;

	read_reports(keeper, now);
	if (keeper->state == KEEPER_RUNNING && now - keeper->asked_ns >= ASK_NS) {
		keeper->asked_ns = now;
		enqueue(keeper, RESPONDER_SYNC, NULL, NULL);
	}
	if (keeper->done >= keeper->ticket && keeper->state == KEEPER_RUNNING)
		keeper->process.kill_ns = 0;
	else if (!keeper->process.kill_ns)
		keeper->process.kill_ns = now + ORDER_NS;
	if (keeper->no_memory || (keeper->process.kill_ns && keeper->process.kill_ns <= now))
		starter_kill(keeper->starter, keeper->process.pid);
	if (process_reap(&keeper->process, &status)) {
		if (keeper->state == KEEPER_STARTING)
			keeper->tries = MIN(keeper->tries + 1, TRIES_MAX);
		describe_end(keeper, status, now);
		counters_keep(keeper);
		wait_and_try_again(keeper, now);
		return;
	}
	send_orders(keeper);
}

uint64_t keeper_tick(struct keeper *keeper, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;
	int status;

	for (size_t i = 0; i < MAX_ENDING; i++) {
		struct process *process = &keeper->ending[i];

		if (!process->pid)
			continue;
		if (process->kill_ns <= now_ns)
			starter_kill(keeper->starter, process->pid);
		if (!process_reap(process, &status))
			next_ns = MIN(next_ns, MAX(process->kill_ns, now_ns + 10 * NSEC_PER_MSEC));
	}
	if (keeper->state == KEEPER_WAITING && keeper->again_ns <= now_ns) {
		keeper->restarts++;
		start_process(keeper, now_ns);
	}
	if (keeper->process.pid)
		process_tick(keeper, now_ns);
	if (keeper->process.pid && keeper->process.kill_ns)
		next_ns = MIN(next_ns, MAX(keeper->process.kill_ns, now_ns + 10 * NSEC_PER_MSEC));
	if (keeper->state == KEEPER_RUNNING)
		next_ns = MIN(next_ns, keeper->asked_ns + ASK_NS);
	if (keeper->state == KEEPER_WAITING)
		next_ns = MIN(next_ns, keeper->again_ns);
	return next_ns;
}

bool keeper_is_off(const struct keeper *keeper)
{
	return keeper->state == KEEPER_OFF;
}

bool keeper_is_idle(const struct keeper *keeper)
{
	for (size_t i = 0; i < MAX_ENDING; i++)
		if (keeper->ending[i].pid)
			return false;
	return keeper->state == KEEPER_OFF;
}

struct json_object *keeper_report(const struct keeper *keeper)
{
	struct json_object *report = json_object_new_object();
	struct json_object *counters = json_object_new_object();
	char address[ENDPOINT_STRLEN];

	json_object_object_add(report, "state", json_object_new_string(state_names[keeper->state]));
	json_object_object_add(report, "pid",
			       keeper->process.pid ? json_object_new_int(keeper->process.pid)
						   : NULL);
	json_object_object_add(report, "address",
			       keeper->listener >= 0 ? json_object_new_string(endpoint_format(
							       &keeper->at, address))
						     : NULL);
	json_object_object_add(report, "restarts",
			       json_object_new_int64((int64_t)keeper->restarts));
	if (keeper->error[0] && keeper->state != KEEPER_RUNNING && keeper->state != KEEPER_OFF)
		json_object_object_add(report, "error", json_object_new_string(keeper->error));
	for (int i = 0; i < ANSWER_COUNTER_COUNT; i++)
		json_object_object_add(
			counters, counter_names[i],
			json_object_new_int64(
				(int64_t)(keeper->counters[i] + keeper->report.counters[i])));
	json_object_object_add(report, "counters", counters);
	return report;
}
