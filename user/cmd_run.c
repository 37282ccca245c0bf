/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * acme-steer run: a window for as long as a command lives.
 *
 * Theory of operation: the signals that we pass on are blocked from before the window opens until
 * after it is closed and come through a signalfd, so none of them ends us with a window left open.
 * One poll() waits for them and SIGCHLD (the command ended), for the timer that renews the window,
 * for the child that renews it (a child, so that a resident process that hangs holds up neither
 * signals nor the command's end), and for the resident process itself: when it dies another is
 * started at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "util.h"

#define RETRY_MIN_MS 1000 /* after a renewal that failed */
#define RETRY_MAX_MS 10000

/* Whoever stopped the resident process may start another: a service's restart, an upgrade. */
#define RETURN_LOOK_MS 200
#define RETURN_MS      60000

static const char usage[] = "Usage: acme-steer run [OPTION...] [--] COMMAND [ARG...]\n\n"
			    "Opens a window, runs COMMAND, closes the window and exits as COMMAND "
			    "did. The window is renewed while\n"
			    "COMMAND runs; its ttl only matters when this process is killed. "
			    "SIGTERM, SIGHUP, SIGINT and SIGQUIT are\n"
			    "passed on to COMMAND. The window's name is run-PID unless given.\n\n"
			    "Exit codes: COMMAND's own, 128+N when signal N ended it, 127 when it "
			    "isn't found, 126 when it can't be\n"
			    "executed; 1 when the window could not be opened (COMMAND isn't run "
			    "then), 2 wrong usage.\n";

static const int passed_signals[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT };

struct run {
	struct ctl_client client;
	struct cmd_options options;
	struct ctl_message open_message;
	struct sigaction sigchld; /* as it was, for the command */
	struct sigaction sigpipe; /* likewise */
	sigset_t mask;		  /* as it was, for the command */
	int signal_fd, timer_fd;
	pid_t command, renewer; /* 0: none */
	int renewer_fd;		/* a pipe from it: a struct renewal when it is done; -1: none */
	int resident_fd; /* pidfd of the process that holds the window; -1: can't be watched */
	uint64_t due_ns; /* the next renewal */
	uint64_t return_until_ns; /* until then another resident process is looked for; 0: there is
				     one */
	bool failing;		  /* the last renewal failed, and was reported */
};

struct renewal {
	pid_t resident; /* 0: not seen from here */
};

static void set_timer(struct run *run, uint64_t ms)
{
	struct itimerspec timer = {
		.it_value = { .tv_sec = (time_t)(ms / 1000),
			      .tv_nsec = (long)(ms % 1000 * NSEC_PER_MSEC) },
	};

	timerfd_settime(run->timer_fd, 0, &timer, NULL);
}

static uint64_t renew_interval_ms(const struct run *run)
{
	return run->options.window.ttl_s * UINT64_C(1000) / 3;
}

static int block_signals(struct run *run)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t passed;

	/* Ignored by who started us (a parent that doesn't reap), it would take waitpid() from us.
	 */
	sigaction(SIGCHLD, &action, &run->sigchld);
	/* Whoever reads what we say may go: the command and its window don't depend on that. */
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, &run->sigpipe);
	sigemptyset(&passed);
	for (size_t i = 0; i < ARRAY_SIZE(passed_signals); i++) {
		/* Who ignores a signal (nohup) means it for us too. */
		sigaction(passed_signals[i], NULL, &action);
		if (action.sa_handler != SIG_IGN)
			sigaddset(&passed, passed_signals[i]);
	}
	sigaddset(&passed, SIGCHLD);
	sigprocmask(SIG_BLOCK, &passed, &run->mask);
	run->signal_fd = signalfd(-1, &passed, SFD_CLOEXEC | SFD_NONBLOCK);
	run->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return run->signal_fd < 0 || run->timer_fd < 0 ? -errno : 0;
}

/* The window is open until ttl_s from now, held by the process @pid. */
static void window_is_open(struct run *run, pid_t pid)
{
	if (run->resident_fd >= 0)
		close(run->resident_fd);
	run->resident_fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1; /* always CLOEXEC */
	run->due_ns = now_ns() + renew_interval_ms(run) * NSEC_PER_MSEC;
	run->return_until_ns = 0;
	if (pid > 0 && run->resident_fd < 0 && errno == ESRCH)
		set_timer(run, RETRY_MIN_MS); /* it died since it answered */
	else
		set_timer(run, renew_interval_ms(run));
}

/* Opens or renews the window. */
static int open_window(struct run *run, pid_t *ret_resident, char *error)
{
	struct ctl_answer answer;
	char *rest, *line;
	int r;

	r = ctl_client_call(&run->client, &run->open_message, true, CTL_OPEN_TIMEOUT_MS, &answer,
			    error);
	if (r < 0)
		return r;
	for (rest = answer.lines; (line = cmd_next_line(&rest));)
		if (strncmp(line, "warning: ", 9) == 0)
			log_warn("%s", line);
	*ret_resident = answer.peer_pid;
	ctl_answer_free(&answer);
	return 0;
}

static void close_window(struct run *run)
{
	const char *name = run->options.window.name;
	struct ctl_message message;
	struct ctl_answer answer = {};
	char error[CTL_MAX_ERROR];
	char *rest, *line;
	bool closed = false;
	int r;

	ctl_message_init(&message, "close");
	ctl_message_add(&message, "name", name);
	ctl_message_end(&message);
	r = ctl_client_call(&run->client, &message, false, CTL_CLOSE_TIMEOUT_MS, &answer, error);
	if (r < 0 && r != -ENOENT) {
		log_warn("window \"%s\" is not closed: %s; it closes by itself at its deadline",
			 name, error);
		return;
	}
	for (rest = answer.lines; (line = cmd_next_line(&rest));) {
		if (strncmp(line, "closed ", 7) != 0)
			continue;
		closed = true;
		line += 7;
		strsep(&line, " "); /* its name */
		if (!run->options.quiet)
			log_info("window \"%s\" closed%s%s", name, line ? ": " : "",
				 line ? line : "");
	}
	if (!closed)
		log_warn("window \"%s\" was not open any more when the command ended", name);
	ctl_answer_free(&answer);
}

/* Never returns to the caller in the child. 0, or the exit code when the command can't be run. */
static int spawn(struct run *run, char **argv)
{
	_cleanup_close_ int read_fd = -1, write_fd = -1;
	int fds[2], error = 0;

	if (pipe2(fds, O_CLOEXEC) < 0)
		goto failed;
	read_fd = fds[0];
	write_fd = fds[1];
	run->command = fork();
	if (run->command < 0) {
		run->command = 0;
		goto failed;
	}
	if (run->command == 0) {
		/* All our descriptors are CLOEXEC; what we were given is the command's. */
		sigaction(SIGCHLD, &run->sigchld, NULL);
		sigaction(SIGPIPE, &run->sigpipe, NULL);
		sigprocmask(SIG_SETMASK, &run->mask, NULL);
		execvp(argv[0], argv);
		error = errno;
		_exit(write(write_fd, &error, sizeof(error)) < 0 ? EXIT_FAILED
								 : EXIT_NOT_EXECUTABLE);
	}
	close(TAKE_FD(write_fd));
	while (read(read_fd, &error, sizeof(error)) < 0 && errno == EINTR)
		;
	if (error == 0)
		return 0;
	waitpid(run->command, NULL, 0);
	run->command = 0;
	log_error("run: %s: %s", argv[0], strerror(error));
	return error == ENOENT || error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;

failed:
	log_error("run: can't start %s: %s", argv[0], strerror(errno));
	return EXIT_NOT_EXECUTABLE;
}

static void start_renewal(struct run *run)
{
	int fds[2];

	set_timer(run, 0);
	run->return_until_ns = 0;
	if (run->renewer)
		return;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		set_timer(run, RETRY_MIN_MS);
		return;
	}
	run->renewer = fork();
	if (run->renewer == 0) {
		struct renewal renewal = {};
		char error[CTL_MAX_ERROR];

		if (open_window(run, &renewal.resident, error) == 0)
			_exit(write(fds[1], &renewal, sizeof(renewal)) < 0 ? EXIT_FAILED
									   : EXIT_DONE);
		/* One line when it begins to fail, none while it goes on. */
		if (!run->failing)
			log_warn("window \"%s\" could not be renewed, trying again: %s",
				 run->options.window.name, error);
		_exit(EXIT_FAILED);
	}
	close(fds[1]);
	if (run->renewer < 0) {
		run->renewer = 0;
		close(fds[0]);
		set_timer(run, RETRY_MIN_MS);
		return;
	}
	run->renewer_fd = fds[0];
}

/* Its pipe has something: the result, or EOF when it failed. */
static void end_renewal(struct run *run)
{
	struct renewal renewal;
	ssize_t n = read(run->renewer_fd, &renewal, sizeof(renewal));

	close(TAKE_FD(run->renewer_fd));
	while (waitpid(run->renewer, NULL, 0) < 0 && errno == EINTR)
		;
	run->renewer = 0;
	if (n == sizeof(renewal)) {
		if (run->failing)
			log_info("window \"%s\" is renewed again", run->options.window.name);
		run->failing = false;
		window_is_open(run, renewal.resident);
	} else {
		run->failing = true;
		set_timer(run, MIN(MAX(renew_interval_ms(run) / 10, RETRY_MIN_MS), RETRY_MAX_MS));
	}
}

static void stop_renewal(struct run *run)
{
	if (!run->renewer)
		return;
	kill(run->renewer, SIGKILL);
	while (waitpid(run->renewer, NULL, 0) < 0 && errno == EINTR)
		;
	run->renewer = 0;
	close(TAKE_FD(run->renewer_fd));
}

/*
 * One that leaves in good order removes its socket first. Then somebody stopped it, or closed the
 * window. If there is another soon, as a service's restart makes one, the window is opened again in
 * that; else the next renewal comes when it was due. A socket left behind means that the process
 * died, and nothing is steered until there is another.
 */
static void resident_ended(struct run *run)
{
	close(TAKE_FD(run->resident_fd));
	if (access(run->client.path, F_OK) < 0) {
		run->return_until_ns = now_ns() + RETURN_MS * NSEC_PER_MSEC;
		set_timer(run, RETURN_LOOK_MS);
		return;
	}
	log_warn("the resident process died; starting another");
	start_renewal(run);
}

/* It is time to renew, or to look for another resident process. */
static void timer_ended(struct run *run)
{
	uint64_t now = now_ns();

	if (now >= run->due_ns || !run->return_until_ns || access(run->client.path, F_OK) == 0)
		start_renewal(run);
	else if (now < run->return_until_ns)
		set_timer(run, RETURN_LOOK_MS);
	else
		set_timer(run, (run->due_ns - now) / NSEC_PER_MSEC + 1);
}

/*
 * The terminal sends its signals to the command too, unless that has made a process group of its
 * own; but that it has hung up, it may tell us alone, as the session's leader.
 */
static bool was_for_both(const struct run *run, const struct signalfd_siginfo *info)
{
	return info->ssi_code == SI_KERNEL && info->ssi_signo != SIGHUP &&
	       getpgid(run->command) == getpgrp();
}

static void pass_signals(struct run *run)
{
	struct signalfd_siginfo info;

	while (read(run->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD && !was_for_both(run, &info))
			kill(run->command, (int)info.ssi_signo);
}

/* A signal that came while the window was opened and there was no command yet; 0: none. */
static int early_signal(struct run *run)
{
	struct signalfd_siginfo info;

	while (read(run->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGCHLD)
			return (int)info.ssi_signo;
	return 0;
}

/* Until the command ends; returns the exit code that says how. */
static int wait_for_command(struct run *run)
{
	enum { SIGNAL, TIMER, RENEWER, RESIDENT };
	int status;

	for (;;) {
		struct pollfd fds[] = {
			[SIGNAL] = { .fd = run->signal_fd, .events = POLLIN },
			[TIMER] = { .fd = run->timer_fd, .events = POLLIN },
			[RENEWER] = { .fd = run->renewer_fd, .events = POLLIN },
			[RESIDENT] = { .fd = run->resident_fd, .events = POLLIN },
		};

		if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
			continue;
		if (fds[SIGNAL].revents)
			pass_signals(run);
		if (waitpid(run->command, &status, WNOHANG) == run->command)
			return WIFSIGNALED(status) ? EXIT_SIGNAL + WTERMSIG(status)
						   : WEXITSTATUS(status);
		if (fds[RENEWER].revents)
			end_renewal(run);
		if (fds[TIMER].revents)
			timer_ended(run);
		if (fds[RESIDENT].revents)
			resident_ended(run);
	}
}

static int run_in_window(struct run *run, char **command)
{
	char error[CTL_MAX_ERROR], text[512];
	pid_t resident;
	int code;

	if (open_window(run, &resident, error) < 0) {
		log_error("%s", error);
		return EXIT_FAILED;
	}
	if (!run->options.quiet) {
		cmd_describe(&run->options.window, "open", text, sizeof(text));
		log_info("%s, renewed while %s runs", text, command[0]);
	}
	window_is_open(run, resident);
	code = early_signal(run);
	if (code)
		code += EXIT_SIGNAL;
	else
		code = spawn(run, command);
	if (run->command)
		code = wait_for_command(run);
	stop_renewal(run);
	close_window(run);
	return code;
}

int cmd_run(int argc, char **argv)
{
	struct run run = { .signal_fd = -1, .timer_fd = -1, .renewer_fd = -1, .resident_fd = -1 };
	char error[CTL_MAX_ERROR];

	switch (cmd_options_parse(argc, argv, usage, &run.options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	if (optind == argc)
		return cmd_usage_error(argv, "a command is missing", "");
	if (!run.options.has_name)
		snprintf(run.options.window.name, sizeof(run.options.window.name), "run-%d",
			 (int)getpid());

	if (ctl_client_init(&run.client, run.options.netns, error) < 0) {
		log_error("%s", error);
		return EXIT_FAILED;
	}
	cmd_options_resident(&run.options, &run.client);
	if (cmd_options_request(&run.options, &run.open_message) < 0) {
		log_error("run: the options are too long for one request");
		return EXIT_FAILED;
	}
	if (block_signals(&run) < 0) {
		log_error("run: can't watch for signals: %s", strerror(errno));
		return EXIT_FAILED;
	}
	return run_in_window(&run, argv + optind);
}
