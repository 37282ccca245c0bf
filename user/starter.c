// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Starts built-in responders for the resident process.
 *
 * Theory of operation: one SOCK_SEQPACKET socket, a request and its answer at a time. A responder
 * is cloned with CLONE_PARENT, so that it is the resident process's child: that one waits for it,
 * and it ends with it. The starter has a pidfd of each, and signals nobody else. Since it has been
 * forked before the resident process has any connection, none is ever copied into a new process,
 * where it would live on after it was handed off.
 */
#include "starter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "isolate.h"
#include "responder.h"
#include "sanitizer.h"
#include "tls_program.h"
#include "util.h"

/* In the starter. */
#define SOCKET_FD  3
#define PROGRAM_FD 4 /* the responder's, if it is there */
#define MAX_OURS   8 /* responders that are there at once: one, and those that are ending */
#define ANSWER_S   5 /* a starter that takes longer hangs */

enum kind { START, KILL };

struct request {
	enum kind kind;
	pid_t pid; /* KILL */
};

struct answer {
	int32_t result; /* START: a pid; or 0, or -errno */
};

struct starter {
	pid_t pid;
	int socket; /* -1: it is gone, or hangs */
};

/* A responder that is there. */
struct ours {
	pid_t pid; /* 0: a free place */
	int pidfd;
};

/* What the two ends of the responder are called in a request's control message. */
union control {
	char space[CMSG_SPACE(2 * sizeof(int))];
	struct cmsghdr align;
};

/* In the new process: system calls only. Never returns. */
static void __attribute__((noreturn)) become_responder(int program, int listener, int socket)
{
	static char *const argv[] = { "acme-steer", "responder", ACME_STEER_VERSION, NULL };
	static char *const nothing[] = { NULL };
	char *const *environment = SANITIZED ? environ : nothing; /* ASAN_OPTIONS */

	/* Above the fixed numbers first, so that none overwrites the other. */
	listener = fcntl(listener, F_DUPFD, 10);
	socket = fcntl(socket, F_DUPFD, 10);
	program = fcntl(program, F_DUPFD_CLOEXEC, 10);
	if (dup2(listener, RESPONDER_FD_LISTENER) < 0 || dup2(socket, RESPONDER_FD_RESIDENT) < 0)
		_exit(1);
	syscall(SYS_close_range, RESPONDER_FD_RESIDENT + 1, program - 1, 0);
	syscall(SYS_close_range, program + 1, ~0U, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* The one that was there when the resident process began, also when its file has been
	 * replaced. */
	syscall(SYS_execveat, program, "", argv, environment, AT_EMPTY_PATH);
	_exit(RESPONDER_NOT_EXECUTED);
}

static void forget_ended(struct ours *ours)
{
	for (size_t i = 0; i < MAX_OURS; i++) {
		struct pollfd pollfd = { .fd = ours[i].pidfd, .events = POLLIN };

		if (!ours[i].pid || poll(&pollfd, 1, 0) == 0)
			continue;
		close(ours[i].pidfd);
		ours[i] = (struct ours){};
	}
}

static int start(struct ours *ours, int program, const int fds[2])
{
	int pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_PARENT | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
	};
	size_t i = 0;
	pid_t pid;

	while (i < MAX_OURS && ours[i].pid)
		i++;
	if (i == MAX_OURS)
		return -EAGAIN;
	if (program < 0)
		return program;
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		become_responder(program, fds[0], fds[1]);
	if (pid < 0)
		return -errno;
	ours[i] = (struct ours){ .pid = pid, .pidfd = pidfd };
	return pid;
}

static int end(const struct ours *ours, pid_t pid)
{
	for (size_t i = 0; pid > 0 && i < MAX_OURS; i++)
		if (ours[i].pid == pid)
			return pidfd_send_signal(ours[i].pidfd, SIGKILL, NULL, 0) < 0 ? -errno : 0;
	return -ESRCH;
}

/* Two descriptors, or none: both are -1 then. */
static void take_fds(struct msghdr *message, int ret_fds[2])
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);

	ret_fds[0] = ret_fds[1] = -1;
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
	    header->cmsg_len == CMSG_LEN(2 * sizeof(int)))
		memcpy(ret_fds, CMSG_DATA(header), 2 * sizeof(int));
}

/* Until the other end is closed. @program: the responder's, or what is wrong with it: -errno. */
static void serve(int program)
{
	struct ours ours[MAX_OURS] = {};

	for (;;) {
		union control control;
		struct request request;
		struct answer answer = { .result = -EINVAL };
		struct iovec iov = { .iov_base = &request, .iov_len = sizeof(request) };
		struct msghdr message = { .msg_iov = &iov,
					  .msg_iovlen = 1,
					  .msg_control = &control,
					  .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(SOCKET_FD, &message, MSG_CMSG_CLOEXEC);
		int fds[2];

		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(request))
			return;
		take_fds(&message, fds);
		forget_ended(ours);
		if (request.kind == START && fds[0] >= 0)
			answer.result = start(ours, program, fds);
		else if (request.kind == KILL)
			answer.result = end(ours, request.pid);
		for (int i = 0; i < 2; i++)
			if (fds[i] >= 0)
				close(fds[i]);
		if (send(SOCKET_FD, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			return;
	}
}

/* Who ends all at once, by Ctrl-C or as a service manager, means the resident process: it says when
 * this one ends. */
static void ignore_signals(void)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	sigset_t none;

	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void __attribute__((noreturn)) become_starter(int socket)
{
	int program = tls_program_open(), no_program = program;
	struct answer ready = {};
	char error[256];
	int null_fd;

	prctl(PR_SET_NAME, "acme-starter");
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	ignore_signals();
	socket = fcntl(socket, F_DUPFD, 10);
	program = fcntl(program, F_DUPFD, 10);
	null_fd = fcntl(open("/dev/null", O_RDWR), F_DUPFD, 10);
	if (dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0 ||
	    dup2(socket, SOCKET_FD) < 0 || fcntl(SOCKET_FD, F_SETFD, FD_CLOEXEC) < 0 ||
	    (program >= 0 && dup3(program, PROGRAM_FD, O_CLOEXEC) < 0) ||
	    close_range(program >= 0 ? PROGRAM_FD + 1 : PROGRAM_FD, ~0U, 0) < 0)
		_exit(1);
	ready.result = isolate_starter(error, sizeof(error));
	if (send(SOCKET_FD, &ready, sizeof(ready), MSG_NOSIGNAL) > 0 && ready.result == 0)
		serve(no_program < 0 ? no_program : PROGRAM_FD);
	if (SANITIZED)
		exit(0); /* which looks for leaks */
	_exit(0);
}

/* One answer, or -EPIPE: then it is not asked again. */
static int take_answer(struct starter *starter)
{
	struct answer answer;
	ssize_t n;

	do
		n = recv(starter->socket, &answer, sizeof(answer), 0);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(answer))
		return answer.result;
	close(TAKE_FD(starter->socket));
	return -EPIPE;
}

static int ask(struct starter *starter, struct request *request, const int *fds)
{
	union control control = {};
	struct iovec iov = { .iov_base = request, .iov_len = sizeof(*request) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (starter->socket < 0)
		return -EPIPE;
	if (fds) {
		struct cmsghdr *header = &control.align;

		message.msg_control = &control;
		message.msg_controllen = sizeof(control.space);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(2 * sizeof(int));
		memcpy(CMSG_DATA(header), fds, 2 * sizeof(int));
	}
	if (sendmsg(starter->socket, &message, MSG_NOSIGNAL) < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	return take_answer(starter);
}

int starter_new(struct starter **ret_starter)
{
	const struct timeval timeout = { .tv_sec = ANSWER_S };
	struct starter *starter = calloc(1, sizeof(*starter));
	_cleanup_close_ int theirs = -1;
	int fds[2];
	int err;

	if (!starter)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
		err = -errno;
		free(starter);
		return err;
	}
	starter->socket = fds[0];
	theirs = fds[1];
	setsockopt(starter->socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	starter->pid = fork();
	if (starter->pid == 0)
		become_starter(theirs);
	err = starter->pid < 0 ? -errno : 0;
	close(TAKE_FD(theirs));
	if (!err)
		err = take_answer(starter);
	if (err) {
		starter_free(starter);
		return err;
	}
	*ret_starter = starter;
	return 0;
}

void starter_free(struct starter *starter)
{
	bool gone = false;
	char byte;

	if (!starter)
		return;
	if (starter->socket >= 0) {
		/* It ends by the end of its socket, which ends ours; one that hangs ends with us.
		 */
		shutdown(starter->socket, SHUT_WR);
		gone = recv(starter->socket, &byte, 1, 0) == 0;
		close(starter->socket);
	}
	if (starter->pid > 0)
		waitpid(starter->pid, NULL, gone ? 0 : WNOHANG);
	free(starter);
}

pid_t starter_start(struct starter *starter, int listener, int socket)
{
	struct request request = { .kind = START };
	const int fds[2] = { listener, socket };

	return ask(starter, &request, fds);
}

int starter_kill(struct starter *starter, pid_t pid)
{
	struct request request = { .kind = KILL, .pid = pid };

	return ask(starter, &request, NULL);
}
