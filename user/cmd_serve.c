// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * `serve`: the resident process. Waits for requests on the control socket, for news of its engine,
 * for the time to renew leases, and for signals; all that it decides is in resident.c.
 *
 * SIGTERM and SIGINT close all windows; it ends when the last connection that it still holds has. A
 * second one ends it at once. With --on-demand (how `open` starts it) it ends when there is nothing
 * left to do.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "cmd.h"
#include "cmd_options.h"
#include "isolate.h"
#include "lazy.h"
#include "log.h"
#include "resident.h"
#include "util.h"

/* Started on demand, and then nobody asked for anything. */
#define FIRST_REQUEST_NS (10 * NSEC_PER_SEC)

static const char usage[] =
	"Usage: acme-steer serve [OPTION...]\n"
	"\n"
	"The resident process: steers while windows are open, and listens on the control socket "
	"for `open`,\n"
	"`close`, `run` and `status`. `open`, `run` and `challenge add` start one when there is "
	"none, so this\n"
	"verb is for systemd.\n"
	"SIGTERM closes all windows, finishes what has begun and ends.\n"
	"\n"
	"  --arm=ADDRESS            steer exactly while somebody listens there (127.0.0.1:31443, "
	"for instance);\n"
	"                           again for more\n"
	"  --notice=WAY             how that is noticed: auto, bpf or poll (auto)\n"
	"  --domain, --web-server, --port, --plane, --client-ip, --sniff-timeout\n"
	"                           as for `open`, of the windows that --arm opens\n"
	"  --workers=N              threads that sniff (the CPUs, up to 4)\n"
	"  --log-format=FORMAT      auto, plain, json or journal (auto: the journal, with fields, "
	"where stderr\n"
	"                           leads there; else plain)\n"
	"  --log-visitors           log a line for each connection, not only those for "
	"acme-tls/1:\n"
	"                           all are steered then, none is read in passing\n"
	"  --on-demand              end when no window is open and no connection is left\n"
	"  --ready-fd=FD            write \"ready\" there when the control socket "
	"answers\n" CMD_NETNS_HELP CMD_HELP_HELP "\n"
	"Exit codes: 0 it was ended in order, 1 it could not start, 2 wrong usage.\n";

struct serve_options {
	const char *netns;
	unsigned workers;
	bool on_demand;
	enum log_format log_format;
	int ready_fd;
	struct arms_config arms;
	const char *armed_only; /* an option that takes --arm */
};

/* Of the windows of --arm, set by window_options_set(). */
static const char *const window_options[] = { "domain", "web-server", "port",
					      "plane",	"client-ip",  "sniff-timeout" };

enum { OPTION_WINDOW = 256 };

static int number(const char *text, unsigned max, unsigned *ret_n)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || n > max)
		return -EINVAL;
	*ret_n = (unsigned)n;
	return 0;
}

static int set_window_option(struct serve_options *options, const char *name, const char *value)
{
	struct window_options *window = &options->arms.window;
	char error[CTL_MAX_ERROR];

	options->armed_only = name;
	if (window_options_set(window, name, value, error, sizeof(error)) < 0) {
		log_error("%s", error);
		return -EINVAL;
	}
	if (strcmp(name, "web-server") == 0 || strcmp(name, "plane") == 0 ||
	    strcmp(name, "client-ip") == 0)
		window->gives_way = false;
	return 0;
}

static int set_notice(struct serve_options *options, char **argv, const char *value)
{
	options->armed_only = "notice";
	for (int i = 0; i < NOTICE_COUNT; i++) {
		if (strcmp(value, notice_names[i]) != 0)
			continue;
		options->arms.notice = (enum notice)i;
		return 0;
	}
	cmd_usage_error(argv, "--notice: auto, bpf or poll is wanted, not ", value);
	return -EINVAL;
}

static int arm(struct serve_options *options, const char *address)
{
	char error[CTL_MAX_ERROR];
	int r = arm_add(options->arms.arms, &options->arms.n, address, error, sizeof(error));

	if (r < 0)
		log_error("%s", error);
	return r;
}

/* What options say together. 0 or -EINVAL. */
static int check_arms(const struct serve_options *options, char **argv)
{
	const struct window_options *window = &options->arms.window;

	if (options->arms.n == 0 && options->armed_only) {
		cmd_usage_error(argv, "works with --arm only: --", options->armed_only);
		return -EINVAL;
	}
	if (options->arms.n && options->on_demand) {
		cmd_usage_error(argv, "takes --arm or --on-demand, not both", "");
		return -EINVAL;
	}
	for (size_t i = 0; i < options->arms.n; i++) {
		for (size_t k = 0; k < window->n_ports; k++) {
			if (options->arms.arms[i].responder.port != window->ports[k])
				continue;
			cmd_usage_error(argv,
					"--arm: a responder has a port of its own, not the one "
					"that is steered",
					"");
			return -EINVAL;
		}
	}
	return 0;
}

/* One that we are given; nothing else is written to by a number that somebody says. */
static bool is_pipe(int fd)
{
	struct stat st;

	return fd > STDERR_FILENO && fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

static enum cmd_parsed parse(int argc, char **argv, struct serve_options *options)
{
	static const struct option own[] = {
		{ "arm", required_argument, NULL, 'a' },
		{ "notice", required_argument, NULL, 'o' },
		{ "workers", required_argument, NULL, 'w' },
		{ "log-format", required_argument, NULL, 'l' },
		{ "log-visitors", no_argument, NULL, 'v' },
		{ "on-demand", no_argument, NULL, 'd' },
		{ "ready-fd", required_argument, NULL, 'r' },
		{ "netns", required_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
	};
	struct option longs[ARRAY_SIZE(own) + ARRAY_SIZE(window_options) + 1] = {};
	unsigned n;
	int c;

	memcpy(longs, own, sizeof(own));
	for (size_t i = 0; i < ARRAY_SIZE(window_options); i++)
		longs[ARRAY_SIZE(own) + i] = (struct option){ window_options[i], required_argument,
							      NULL, OPTION_WINDOW + (int)i };
	window_options_init(&options->arms.window);
	options->arms.window.gives_way = true;
	log_set_format(LOG_FORMAT_AUTO);
	while ((c = cmd_getopt(argc, argv, longs)) != -1) {
		switch (c) {
		case 'w':
			if (number(optarg, STEER_MAX_SNIFFERS, &options->workers) < 0 ||
			    options->workers == 0) {
				cmd_usage_error(argv,
						"--workers: a number from 1 to 64 is wanted, not ",
						optarg);
				return CMD_BAD_USAGE;
			}
			break;
		case 'l':
			if (cmd_log_format(argv, optarg, &options->log_format) < 0)
				return CMD_BAD_USAGE;
			break;
		case 'v':
			conn_log_set_visitors(true);
			break;
		case 'd':
			options->on_demand = true;
			break;
		case 'r':
			if (number(optarg, INT_MAX, &n) < 0 || !is_pipe((int)n)) {
				cmd_usage_error(argv,
						"--ready-fd: not a pipe's descriptor: ", optarg);
				return CMD_BAD_USAGE;
			}
			options->ready_fd = (int)n;
			break;
		case 'n':
			options->netns = optarg;
			break;
		case 'a':
			if (arm(options, optarg) < 0)
				return CMD_BAD_USAGE;
			break;
		case 'o':
			if (set_notice(options, argv, optarg) < 0)
				return CMD_BAD_USAGE;
			break;
		case 'h':
			fputs(usage, stdout);
			return CMD_HELP_SHOWN;
		case '?':
			return CMD_BAD_USAGE;
		default:
			if (set_window_option(options, window_options[c - OPTION_WINDOW], optarg) <
			    0)
				return CMD_BAD_USAGE;
		}
	}
	/* Who has started it reads plain lines until it is ready. */
	if (options->on_demand && options->ready_fd >= 0)
		log_set_format(LOG_FORMAT_PLAIN);
	if (check_arms(options, argv) < 0)
		return CMD_BAD_USAGE;
	if (optind < argc) {
		cmd_usage_error(argv, "takes options only, not ", argv[optind]);
		return CMD_BAD_USAGE;
	}
	return CMD_GO;
}

static unsigned default_workers(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return cpus < 1 ? 1 : (unsigned)MIN(cpus, ENGINE_DEFAULT_WORKERS);
}

/* Every steered connection is a descriptor for as long as it is being classified. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int signal_fd(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* True when it is time to end at once. */
static bool take_signals(int fd, struct resident *resident, bool *stopping)
{
	struct signalfd_siginfo info;

	while (read(fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			continue; /* there is nothing to read anew */
		if (*stopping)
			return true;
		log_info("%s: closing all windows", strsignal((int)info.ssi_signo));
		*stopping = true;
		lazy_sd_notify("STOPPING=1");
		resident_close_all(resident);
	}
	return false;
}

static int poll_until(struct pollfd *fds, nfds_t n, uint64_t at_ns)
{
	uint64_t now = now_ns();
	uint64_t wait = at_ns > now ? at_ns - now : 0;
	struct timespec ts = { .tv_sec = (time_t)(wait / NSEC_PER_SEC),
			       .tv_nsec = (long)(wait % NSEC_PER_SEC) };

	return ppoll(fds, n, at_ns == UINT64_MAX ? NULL : &ts, NULL);
}

/* Tells systemd, if it has started us and asked for that, that this thread goes round. */
static uint64_t feed_watchdog(uint64_t now)
{
	static uint64_t period_ns, next_ns;
	uint64_t usec;

	if (!next_ns)
		period_ns = lazy_sd_watchdog_enabled(&usec) > 0 ? usec * NSEC_PER_USEC / 3 : 0;
	if (!period_ns)
		return next_ns = UINT64_MAX;
	if (now >= next_ns) {
		lazy_sd_notify("WATCHDOG=1");
		next_ns = now + period_ns;
	}
	return next_ns;
}

static void run(struct resident *resident, struct ctl_server *server, int sig_fd, bool on_demand)
{
	struct pollfd fds[] = {
		{ .fd = ctl_server_fd(server), .events = POLLIN },
		{ .fd = resident->notify_fd, .events = POLLIN },
		{ .fd = sig_fd, .events = POLLIN },
		{ .fd = keeper_fd(resident->challenges.keeper), .events = POLLIN },
		{ .fd = arms_fd(resident), .events = POLLIN },
	};
	uint64_t began_ns = now_ns();
	bool stopping = false;

	for (;;) {
		uint64_t now = now_ns();
		uint64_t next = MIN(resident_tick(resident, now), feed_watchdog(now));

		if (resident_is_idle(resident) && !ctl_server_busy(server)) {
			bool unasked = !resident->had_request;

			if (stopping ||
			    (on_demand && (!unasked || now - began_ns >= FIRST_REQUEST_NS)))
				return;
			if (on_demand)
				next = MIN(next, began_ns + FIRST_REQUEST_NS);
		}
		if (poll_until(fds, ARRAY_SIZE(fds), next) < 0 && errno != EINTR) {
			log_error("poll: %s", strerror(errno));
			return;
		}
		if (fds[0].revents)
			ctl_server_dispatch(server);
		if (fds[2].revents && take_signals(sig_fd, resident, &stopping))
			return;
		fds[4].fd = arms_fd(resident); /* none any more, once it ends */
	}
}

static int serve(const struct serve_options *options, ino_t netns_inode)
{
	_cleanup_close_ int sig_fd = signal_fd();
	/* Nothing can be opened for writing later. */
	_cleanup_close_ int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	struct ctl_server *server = NULL;
	struct resident resident;
	char path[CTL_PATH_MAX];
	char error[CTL_MAX_ERROR];
	int lock_fd;
	int err = ctl_lock(netns_inode, &lock_fd);

	/* Whoever reads stderr may go: a parent, journald. */
	signal(SIGPIPE, SIG_IGN);
	if (err == -EBUSY) {
		if (options->ready_fd >= 0)
			ctl_ready(options->ready_fd, CTL_BUSY, -1);
		else
			log_error("a resident process serves this network namespace already");
		return EXIT_FAILED;
	}
	if (err) {
		log_error("taking the lock in %s: %s%s", CTL_DIR, strerror(-err),
			  err == -EACCES ? "; run it as root" : "");
		return EXIT_FAILED;
	}
	raise_file_limit();
	err = resident_init(&resident, options->workers ? options->workers : default_workers());
	if (!err)
		err = ctl_path(netns_inode, path);
	if (!err)
		err = ctl_server_new(path, resident_handle, &resident, &server);
	if (err)
		snprintf(error, sizeof(error), "the control socket in %s: %s", CTL_DIR,
			 strerror(-err));
	else
		err = isolate_resident(error, sizeof(error));
	if (!err && !options->on_demand)
		resident_stay(&resident);
	if (!err)
		err = arms_start(&resident, &options->arms, error, sizeof(error));
	if (err) {
		log_error("%s", error);
		ctl_server_free(server);
		ctl_unlock(netns_inode, lock_fd);
		return EXIT_FAILED;
	}
	if (options->ready_fd >= 0)
		ctl_ready(options->ready_fd, CTL_READY, null_fd);
	if (options->on_demand)
		log_to_daemon(options->log_format);
	if (lazy_sd_notify("READY=1") == -ENOENT && getenv("NOTIFY_SOCKET"))
		log_warn("systemd can't be told that this is ready: libsystemd is not there");
	run(&resident, server, sig_fd, options->on_demand);
	ctl_server_stop_listening(server);
	ctl_server_free(server);
	resident_free(&resident);
	ctl_unlock(netns_inode, lock_fd);
	return EXIT_DONE;
}

int cmd_serve(int argc, char **argv)
{
	struct serve_options options = { .ready_fd = -1 };
	char path[PATH_MAX];
	char error[CTL_MAX_ERROR];
	ino_t inode;
	int err;

	switch (parse(argc, argv, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	lazy_load_systemd();
	err = isolate_surroundings(options.ready_fd);
	if (err) {
		log_error("closing what was left open: %s", strerror(-err));
		return EXIT_FAILED;
	}
	if (ctl_netns(options.netns, &inode, path, error) < 0) {
		log_error("%s", error);
		return EXIT_FAILED;
	}
	if (options.netns && cmd_enter_netns(path) < 0)
		return EXIT_FAILED;
	return serve(&options, inode);
}
