/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A command's end of the control socket.
 *
 * Theory of operation: ctl_client_exchange() is one attempt. ctl_client_call() repeats it over the
 * moments when residents come and go: nobody listens -> start one; somebody else holds the lock, or
 * the connection ended without a last line -> that process is coming or leaving, ask again soon;
 * it is being stopped -> a service may start another, which has the first turn.
 * The resident process is a grandchild in its own session, with an environment, signals and
 * descriptors of its own: an ACME client that waits for EOF on a hook's output must not wait for
 * it.
 */
#include "ctl_client.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "log.h"
#include "util.h"

#define CONNECT_TIMEOUT_S 5	/* waiting for room in the listener's queue */
#define START_TIMEOUT_MS  15000 /* a loaded machine needs seconds to load BPF */
#define RETRY_PAUSE_MS	  20
#define RETRY_MAX	  250  /* pauses: 5 s */
#define TURN_MAX	  50   /* pauses in which nobody listens, after one was stopped: 1 s */
#define START_MAX	  3    /* resident processes that one call starts */
#define STDERR_MAX	  4096 /* bytes of a starting process's messages */
#define READY_FD	  3

int ctl_client_init(struct ctl_client *client, const char *netns, char *error)
{
	int r;

	memset(client, 0, sizeof(*client));
	client->has_netns = netns;
	r = ctl_netns(netns, &client->netns_inode, client->netns_path, error);
	if (r == 0)
		r = ctl_path(client->netns_inode, client->path);
	return r;
}

void ctl_answer_free(struct ctl_answer *answer)
{
	free(answer->lines);
	answer->lines = NULL;
}

/* Milliseconds until @deadline_ns for poll(), rounded up; 0 when it has passed; -1: for ever. */
static int ms_until(uint64_t deadline_ns)
{
	uint64_t now = now_ns();

	if (deadline_ns == UINT64_MAX)
		return -1;
	if (deadline_ns <= now)
		return 0;
	return (int)MIN((deadline_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC, INT_MAX);
}

/* poll() on one descriptor until it is ready (0) or @deadline_ns (-ETIMEDOUT). */
static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd pollfd = { .fd = fd, .events = events };

	for (;;) {
		int ms = ms_until(deadline_ns);
		int n = poll(&pollfd, 1, ms);

		if (n > 0)
			return 0;
		if (n == 0 && ms_until(deadline_ns) == 0)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int connect_to(const char *path, int *ret_fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval timeout = { .tv_sec = CONNECT_TIMEOUT_S };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		if (errno != EINTR)
			return errno == EAGAIN ? -ETIMEDOUT : -errno; /* its queue stayed full */
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int send_all(int fd, const char *text, size_t len, uint64_t deadline_ns)
{
	while (len > 0) {
		ssize_t n = send(fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		int r;

		if (n >= 0) {
			text += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			r = wait_for(fd, POLLOUT, deadline_ns);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

/* Everything up to EOF, as a string. A connection that was reset gives what came before. */
static int receive_all(int fd, uint64_t deadline_ns, char **ret_text)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0, size = 0;

	for (;;) {
		ssize_t n;
		int r;

		if (size - len < 2) {
			char *more;

			if (size > CTL_MAX_ANSWER)
				return -EMSGSIZE;
			size = size ? 2 * size : 4096;
			more = realloc(text, size);
			if (!more)
				return -ENOMEM;
			text = more;
		}
		n = recv(fd, text + len, size - len - 1, MSG_DONTWAIT);
		if (n > 0) {
			len += (size_t)n;
		} else if (n == 0 || errno == ECONNRESET) {
			text[len] = '\0';
			*ret_text = TAKE_PTR(text);
			return 0;
		} else if (errno == EAGAIN) {
			r = wait_for(fd, POLLIN, deadline_ns);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

/*
 * Cuts the last line off @text. 0 with "" or the error in @error; -ESHUTDOWN: whoever answers is
 * being stopped; -ECONNRESET: it is no status.
 */
static int take_status(char *text, char *error)
{
	static const char error_prefix[] = "error: ";
	size_t len = strlen(text);
	char *last;

	if (len == 0 || text[len - 1] != '\n')
		return -ECONNRESET;
	text[len - 1] = '\0';
	last = strrchr(text, '\n');
	last = last ? last + 1 : text;
	if (strcmp(last, CTL_STOPPING) == 0)
		return -ESHUTDOWN;
	if (strcmp(last, "ok") == 0)
		error[0] = '\0';
	else if (strncmp(last, error_prefix, strlen(error_prefix)) == 0)
		snprintf(error, CTL_MAX_ERROR, "%s", last + strlen(error_prefix));
	else
		return -ECONNRESET;
	*last = '\0';
	return 0;
}

int ctl_client_exchange(const char *path, const struct ctl_message *message, unsigned timeout_ms,
			struct ctl_answer *ret_answer, char *error)
{
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *text = NULL;
	struct ucred peer = {};
	socklen_t size = sizeof(peer);
	uint64_t deadline_ns;
	int r;

	r = connect_to(path, &fd);
	if (r < 0)
		return r;
	deadline_ns =
		timeout_ms == CTL_NO_TIMEOUT ? UINT64_MAX : now_ns() + timeout_ms * NSEC_PER_MSEC;
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
	r = send_all(fd, message->text, message->len, deadline_ns);
	/* A peer that refuses us answers and closes before it has read all: its answer counts. */
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		return r;
	r = receive_all(fd, deadline_ns, &text);
	if (r == 0)
		r = take_status(text, error);
	if (r < 0)
		return r;
	ret_answer->lines = TAKE_PTR(text);
	ret_answer->peer_pid = peer.pid;
	return 0;
}

static void explain(const struct ctl_client *client, int r, unsigned timeout_ms, char *error)
{
	switch (r) {
	case -ENOENT:
	case -ECONNREFUSED:
		snprintf(error, CTL_MAX_ERROR,
			 "no acme-steer is running in this network namespace");
		break;
	case -EACCES:
	case -EPERM:
		snprintf(error, CTL_MAX_ERROR,
			 "no right to use %s: run this as root, or as a member of the group %s",
			 client->path, CTL_GROUP);
		break;
	case -ETIMEDOUT:
		snprintf(error, CTL_MAX_ERROR,
			 "the acme-steer that listens at %s didn't answer within %u s; it is "
			 "stopped or overloaded",
			 client->path, (timeout_ms + 999) / 1000);
		break;
	case -ECONNRESET:
		snprintf(error, CTL_MAX_ERROR,
			 "the acme-steer that listens at %s ends without an answer", client->path);
		break;
	case -ESHUTDOWN:
		snprintf(error, CTL_MAX_ERROR, "the acme-steer that listens at %s is being stopped",
			 client->path);
		break;
	default:
		snprintf(error, CTL_MAX_ERROR, "can't talk to %s: %s", client->path, strerror(-r));
	}
}

int ctl_client_call(const struct ctl_client *client, const struct ctl_message *message, bool start,
		    unsigned timeout_ms, struct ctl_answer *ret_answer, char *error)
{
	unsigned pauses = 0, turns = 0, starts = 0;
	bool stopped = false, gives_way = false;

	for (;;) {
		struct timespec pause = { .tv_nsec = RETRY_PAUSE_MS * (long)NSEC_PER_MSEC };
		int r = ctl_client_exchange(client->path, message, timeout_ms, ret_answer, error);
		bool absent = r == -ENOENT || r == -ECONNREFUSED;

		if (r == 0 && error[0]) {
			ctl_answer_free(ret_answer);
			return -EREMOTEIO;
		}
		if (r == 0)
			return 0;
		if (absent && !start) {
			explain(client, r, timeout_ms, error);
			return -ENOENT;
		}
		stopped |= r == -ESHUTDOWN;
		/* Who is not root can't start one, and root's would keep a service from coming
		 * back.
		 */
		if (absent && stopped)
			gives_way = geteuid() != 0 || turns++ < TURN_MAX;
		if (absent && !gives_way && starts < START_MAX) {
			r = ctl_client_start(client, error);
			if (r == 0) {
				starts++;
				continue;
			}
			if (r != -EBUSY)
				return r;
		} else if (!absent && r != -ECONNRESET && r != -ESHUTDOWN) {
			explain(client, r, timeout_ms, error);
			return r;
		}
		if (pauses++ == RETRY_MAX) {
			if (r == -EBUSY)
				snprintf(error, CTL_MAX_ERROR,
					 "another acme-steer holds the lock of this network "
					 "namespace but doesn't listen at %s",
					 client->path);
			else
				explain(client, r, timeout_ms, error);
			return r;
		}
		nanosleep(&pause, NULL);
	}
}

/* The environment that the resident process gets: nothing of the ACME client's, its secrets least.
 */
static char **resident_environment(void)
{
	static const char *const kept[] = { "PATH=",   "TZ=",		"LANG=",
					    "LC_ALL=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=" };
	static char *environment[ARRAY_SIZE(kept) + 1];
	size_t n = 0;

	for (char **p = environ; *p && n < ARRAY_SIZE(kept); p++)
		for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
			if (strncmp(*p, kept[i], strlen(kept[i])) == 0)
				environment[n++] = *p;
	environment[n] = NULL;
	return environment;
}

/* In the grandchild. Never returns. */
static void __attribute__((noreturn))
become_resident(const struct ctl_client *client, int stderr_fd, int ready_fd)
{
	char netns[PATH_MAX + 16], workers[32], log_format[32], self[PATH_MAX];
	char *argv[9] = { "acme-steer", "serve", "--on-demand", "--ready-fd=3" };
	static_assert(READY_FD == 3, "as in argv");
	size_t argc = 4;
	sigset_t none;
	ssize_t n;

	if (client->has_netns) {
		snprintf(netns, sizeof(netns), "--netns=%s", client->netns_path);
		argv[argc++] = netns;
	}
	if (client->workers) {
		snprintf(workers, sizeof(workers), "--workers=%u", client->workers);
		argv[argc++] = workers;
	}

	if (client->log_format) {
		snprintf(log_format, sizeof(log_format), "--log-format=%s", client->log_format);
		argv[argc++] = log_format;
	}
	if (client->log_visitors)
		argv[argc++] = "--log-visitors";

	/* Above 9, so that no dup2() below overwrites another's source. */
	stderr_fd = fcntl(stderr_fd, F_DUPFD, 10);
	ready_fd = fcntl(ready_fd, F_DUPFD, 10);
	int null_fd = fcntl(open("/dev/null", O_RDWR), F_DUPFD, 10);

	if (dup2(stderr_fd, STDERR_FILENO) < 0)
		_exit(1);
	if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0 ||
	    dup2(ready_fd, READY_FD) < 0 || close_range(READY_FD + 1, ~0U, 0) < 0 ||
	    chdir("/") < 0) {
		log_error("can't start the resident process: %s", strerror(errno));
		_exit(1);
	}
	umask(022);
	for (int sig = 1; sig < SIGRTMIN; sig++)
		signal(sig, SIG_DFL); /* nohup and shells leave some ignored */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);

	/* By its own path, so that it is called acme-steer in a list of processes and not "exe". */
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = '\0';
		execve(self, argv, resident_environment());
	}
	execve("/proc/self/exe", argv, resident_environment());
	log_error("can't start the resident process: %s", strerror(errno));
	_exit(1);
}

/* Reads what is there; sets *@fd to -1 at EOF. */
static void read_some(int *fd, char *buf, size_t size, size_t *len)
{
	char scratch[512];
	bool full = *len == size - 1; /* the rest is thrown away: the writer must not block */
	ssize_t n =
		full ? read(*fd, scratch, sizeof(scratch)) : read(*fd, buf + *len, size - 1 - *len);

	if (n > 0 && !full)
		*len += (size_t)n;
	else if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		*fd = -1;
	buf[*len] = '\0';
}

/*
 * What a starting process wrote to stderr: of one that failed the last line is the error, every
 * other line is a warning. Its lines begin like ours, with the name of the program.
 */
static void pass_on(char *text, bool failed, char *error)
{
	static const char prefix[] = "acme-steer: ";
	char *rest = text;
	char *last = NULL;
	char *line;

	while ((line = strsep(&rest, "\n"))) {
		if (strncmp(line, prefix, strlen(prefix)) == 0)
			line += strlen(prefix);
		if (!*line)
			continue;
		if (last)
			log_warn("%s", last);
		last = line;
	}
	if (failed)
		snprintf(error, CTL_MAX_ERROR, "%s",
			 last ? last : "the resident process ended without a word");
	else if (last)
		log_warn("%s", last);
}

/* Until it is ready, busy or has failed, or until START_TIMEOUT_MS. */
static int wait_until_ready(int stderr_fd, int ready_fd, char *error)
{
	uint64_t deadline_ns = now_ns() + START_TIMEOUT_MS * NSEC_PER_MSEC;
	char text[STDERR_MAX] = "", word[16] = "";
	size_t text_len = 0, word_len = 0;

	/* Its stderr closes last, by its end; the word comes before that. */
	while (!strchr(word, '\n') && (stderr_fd >= 0 || ready_fd >= 0)) {
		struct pollfd fds[] = { { .fd = stderr_fd, .events = POLLIN },
					{ .fd = ready_fd, .events = POLLIN } };
		int ms = ms_until(deadline_ns);

		if (ms == 0) {
			snprintf(error, CTL_MAX_ERROR,
				 "the resident process wasn't ready within %d s",
				 START_TIMEOUT_MS / 1000);
			return -ETIMEDOUT;
		}
		if (poll(fds, ARRAY_SIZE(fds), ms) <= 0)
			continue;
		if (fds[0].revents)
			read_some(&stderr_fd, text, sizeof(text), &text_len);
		if (fds[1].revents)
			read_some(&ready_fd, word, sizeof(word), &word_len);
	}
	if (strcmp(word, CTL_BUSY) == 0)
		return -EBUSY;
	if (stderr_fd >= 0)
		read_some(&stderr_fd, text, sizeof(text),
			  &text_len); /* non-blocking: what came meanwhile */
	if (strcmp(word, CTL_READY) == 0) {
		pass_on(text, false, error);
		return 0;
	}
	pass_on(text, true, error);
	return -ECHILD;
}

int ctl_client_start(const struct ctl_client *client, char *error)
{
	_cleanup_close_ int stderr_read = -1, stderr_write = -1, ready_read = -1, ready_write = -1;
	int fds[2];
	pid_t pid;
	int r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		goto failed;
	stderr_read = fds[0];
	stderr_write = fds[1];
	if (pipe2(fds, O_CLOEXEC) < 0)
		goto failed;
	ready_read = fds[0];
	ready_write = fds[1];
	if (fcntl(stderr_read, F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(ready_read, F_SETFL, O_NONBLOCK) < 0)
		goto failed;

	pid = fork();
	if (pid < 0)
		goto failed;
	if (pid == 0) {
		/* A session leader's child: out of the caller's session, and can't get a terminal.
		 */
		if (setsid() < 0)
			_exit(1);
		pid = fork();
		if (pid != 0)
			_exit(pid < 0);
		become_resident(client, stderr_write, ready_write);
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(TAKE_FD(stderr_write));
	close(TAKE_FD(ready_write));
	r = wait_until_ready(stderr_read, ready_read, error);
	if (r == -ECHILD && geteuid() != 0) {
		size_t len = strlen(error);

		snprintf(error + len, CTL_MAX_ERROR - len,
			 " (not root: run this as root, or have root run `acme-steer serve` and "
			 "join the group %s)",
			 CTL_GROUP);
	}
	return r;

failed:
	r = -errno;
	snprintf(error, CTL_MAX_ERROR, "can't start the resident process: %s", strerror(-r));
	return r;
}
