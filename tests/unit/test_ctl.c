/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: ctl.c ctl_server.c ctl_client.c log.c log_record.c
/*
 * Both ends of the control socket, in a directory of the test's own. The server runs in this
 * process, driven by pump(), or in a child; this program also plays the resident process that
 * ctl_client_start() starts
 * ("serve" as its first argument), with the socket's path in --netns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ctl_client.h"
#include "ctl_server.h"
#include "util.h"

#define BIG (2 << 20)

static char dir[] = "/tmp/test_ctl.XXXXXX";
static char sock_path[CTL_PATH_MAX];

/* What the handler got last, and what it does with it. */
static struct {
	unsigned calls;
	struct ctl_request request;
	char values[CTL_MAX_PAIRS][64];
	struct ctl_conn *kept; /* by the verb "wait" */
	bool leave;
} seen;

static void handler(void *ctx, struct ctl_conn *conn, const struct ctl_request *request)
{
	assert_ptr_equal(ctx, &seen);
	seen.calls++;
	seen.request = *request;
	for (size_t i = 0; i < request->n; i++)
		snprintf(seen.values[i], sizeof(seen.values[i]), "%s", request->pairs[i].value);
	if (strcmp(request->verb, "wait") == 0) {
		seen.kept = conn;
	} else if (strcmp(request->verb, "big") == 0) {
		char *text = malloc(BIG + 1);

		memset(text, 'b', BIG);
		text[BIG] = '\0';
		ctl_reply_line(conn, "%s", text);
		ctl_reply_line(conn, "after");
		if (ctl_request_get(request, "thrice")) {
			ctl_reply_line(conn, "%s", text);
			ctl_reply_line(conn, "%s", text);
		}
		ctl_reply_ok(conn);
		free(text);
	} else if (strcmp(request->verb, "fail") == 0) {
		ctl_reply_error(conn, "no %s\nfor you", "steam");
	} else if (strcmp(request->verb, "whoami") == 0) {
		char cwd[64] = "?";

		ctl_reply_line(conn, "cwd %s", getcwd(cwd, sizeof(cwd)));
		ctl_reply_line(conn, "leads %d", getsid(0) == getpid());
		ctl_reply_line(conn, "sid %d", (int)getsid(0));
		ctl_reply_line(conn, "stderr %zd", write(STDERR_FILENO, "to nobody\n", 10));
		ctl_reply_line(conn, "secret %s", getenv("TEST_SECRET") ? "kept" : "gone");
		ctl_reply_line(conn, "hup %s",
			       signal(SIGHUP, SIG_DFL) == SIG_IGN ? "ignored" : "default");
		ctl_reply_ok(conn);
	} else {
		if (strcmp(request->verb, "leave") == 0)
			seen.leave = true;
		ctl_reply_line(conn, "line %s", "one\ntwo");
		ctl_reply_ok(conn);
	}
}

static struct ctl_server *new_server(void)
{
	struct ctl_server *server = NULL;

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(ctl_server_new(sock_path, handler, &seen, &server), 0);
	return server;
}

/* Lets the server work until it has had nothing to do for @idle_ms. */
static void pump(struct ctl_server *server, int idle_ms)
{
	struct pollfd fd = { .fd = ctl_server_fd(server), .events = POLLIN };

	while (poll(&fd, 1, idle_ms) > 0)
		ctl_server_dispatch(server);
}

static int try_connect(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, sock_path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int talk(const char *text)
{
	int fd = try_connect();

	assert_true(fd >= 0);
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	return fd;
}

/* All that has come; asserts that the end (EOF, not a reset) has come too. Closes @fd. */
static const char *answer_of(int fd)
{
	static char text[4096];
	ssize_t n, len = 0;

	while ((n = recv(fd, text + len, sizeof(text) - 1 - (size_t)len, 0)) > 0)
		len += n;
	if (n < 0)
		fail_msg("no end of the answer: %s", strerror(errno));
	text[len] = '\0';
	close(fd);
	return text;
}

static void nothing_yet(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, EAGAIN);
}

/* The texts of requests. */

static void parse_requests(void **state)
{
	static const struct {
		const char *text;
		int r;
		const char *word; /* in the error */
	} cases[] = {
		{ "ping\n\n", 0, NULL },
		{ "open\nname=a\nttl=\ndomain=a=b\ndomain=c d\n\nrest", 0, NULL },
		{ "", -EINVAL, "ends before" },
		{ "ping", -EINVAL, "ends before" },
		{ "ping\n", -EINVAL, "ends before" },
		{ "ping\nname=a\n", -EINVAL, "ends before" },
		{ "\n\n", -EINVAL, "is no verb" },
		{ "Ping\n\n", -EINVAL, "is no verb" },
		{ "ping pong\n\n", -EINVAL, "is no verb" },
		{ "abcdefghijklmnopqrstuvwxyz-01234\n\n", -EINVAL, "is no verb" },
		{ "ping\r\n\r\n", -EINVAL, "control character" },
		{ "open\nname=a\tb\n\n", -EINVAL, "control character" },
		{ "open\nname\n\n", -EINVAL, "not key=value" },
		{ "open\n=a\n\n", -EINVAL, "no key" },
		{ "open\nNAME=a\n\n", -EINVAL, "no key" },
		{ "open\nabcdefghijklmnopqrstuvwxyz-01234=a\n\n", -EINVAL, "no key" },
	};
	static struct ctl_request request;
	char text[128], error[CTL_MAX_ERROR];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r;

		strcpy(text, cases[i].text);
		r = ctl_request_parse(text, strlen(text), &request, error);
		if (r != cases[i].r || (r < 0 && !strstr(error, cases[i].word)))
			fail_msg("\"%s\": %d %s", cases[i].text, r, r ? error : "");
	}
	strcpy(text, cases[1].text);
	assert_int_equal(ctl_request_parse(text, strlen(text), &request, error), 0);
	assert_string_equal(request.verb, "open");
	assert_int_equal(request.n, 4);
	assert_string_equal(ctl_request_get(&request, "name"), "a");
	assert_string_equal(ctl_request_get(&request, "ttl"), "");
	assert_string_equal(ctl_request_get(&request, "domain"), "a=b");
	assert_string_equal(request.pairs[3].value, "c d");
	assert_null(ctl_request_get(&request, "nam"));

	/* A NUL is a control character like others. */
	memcpy(text, "open\nname=a\0b\n\n", 16);
	assert_int_equal(ctl_request_parse(text, 15, &request, error), -EINVAL);
}

static void write_and_parse(void **state)
{
	static struct ctl_message message;
	static struct ctl_request request;
	char error[CTL_MAX_ERROR], value[1001];
	unsigned n = 0;

	ctl_message_init(&message, "open");
	for (int i = 0; i < CTL_MAX_PAIRS; i++)
		assert_int_equal(ctl_message_add(&message, "domain", "a.example"), 0);
	assert_int_equal(ctl_message_add(&message, "name", "a\nname=b"), -EINVAL);
	ctl_message_end(&message);
	assert_int_equal(ctl_request_parse(message.text, message.len, &request, error), 0);
	assert_int_equal(request.n, CTL_MAX_PAIRS);

	ctl_message_init(&message, "open");
	for (int i = 0; i < CTL_MAX_PAIRS + 1; i++)
		ctl_message_add(&message, "domain", "a.example");
	ctl_message_end(&message);
	assert_int_equal(ctl_request_parse(message.text, message.len, &request, error), -E2BIG);

	memset(value, 'v', 1000);
	value[1000] = '\0';
	ctl_message_init(&message, "open");
	while (ctl_message_add(&message, "key", value) == 0)
		n++;
	assert_int_equal(n, (CTL_MAX_REQUEST - 6) / 1005);
	ctl_message_end(&message);
	assert_true(message.len <= CTL_MAX_REQUEST);
}

/* The server. */

static void answers(void **state)
{
	struct ctl_server *server = new_server();
	struct stat st;
	int fd;

	assert_int_equal(stat(sock_path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_false(ctl_server_busy(server));

	fd = talk("open\nname=a\ndomain=x\ndomain=y\n\n");
	pump(server, 0);
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	assert_int_equal(seen.calls, 1);
	assert_string_equal(seen.request.verb, "open");
	assert_int_equal(seen.request.n, 3);
	assert_string_equal(seen.values[2], "y");
	assert_int_equal(seen.request.uid, getuid());
	assert_int_equal(seen.request.pid, getpid());
	assert_false(ctl_server_busy(server));

	fd = talk("fail\n\n");
	pump(server, 0);
	assert_string_equal(answer_of(fd), "error: no steam for you\n");

	fd = talk("Hello\n\n");
	pump(server, 0);
	assert_string_equal(answer_of(fd), "error: \"Hello\" is no verb\n");
	assert_int_equal(seen.calls, 2);

	/* More than one request: the first counts, and the rest must not turn EOF into a reset. */
	fd = talk("ping\n\nping\n\n");
	pump(server, 0);
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	assert_int_equal(seen.calls, 3);
	ctl_server_free(server);
	assert_int_equal(access(sock_path, F_OK), -1);
}

static void in_pieces(void **state)
{
	static const char text[] = "open\nname=a\n\n";
	struct ctl_server *server = new_server();
	int fd = talk("");

	for (const char *p = text; *p; p++) {
		assert_int_equal(seen.calls, 0);
		assert_int_equal(send(fd, p, 1, MSG_NOSIGNAL), 1);
		pump(server, 0);
	}
	assert_int_equal(seen.calls, 1);
	assert_string_equal(answer_of(fd), "line one two\nok\n");

	/* Who only ends his own direction still gets the answer, now or later. */
	fd = talk(text);
	shutdown(fd, SHUT_WR);
	pump(server, 0);
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	fd = talk("wait\n\n");
	shutdown(fd, SHUT_WR);
	pump(server, 0);
	nothing_yet(fd);
	assert_true(ctl_server_busy(server));
	ctl_reply_ok(seen.kept);
	assert_string_equal(answer_of(fd), "ok\n");
	assert_false(ctl_server_busy(server));

	/* Half a request is none, and says so. */
	fd = talk("open\nname=a\n");
	shutdown(fd, SHUT_WR);
	pump(server, 0);
	assert_string_equal(answer_of(fd), "error: the request ends before its empty line\n");
	close(talk("open\nname=a\n"));
	close(talk(""));
	pump(server, 0);
	assert_int_equal(seen.calls, 3);
	assert_false(ctl_server_busy(server));
	ctl_server_free(server);
}

static void too_long(void **state)
{
	struct ctl_server *server = new_server();
	static char text[2 * CTL_MAX_REQUEST];
	int fd = talk("open\nname=");
	size_t sent = 0;
	ssize_t n;

	memset(text, 'x', sizeof(text));
	for (int i = 0; i < 20 && sent < CTL_MAX_REQUEST; i++) {
		n = send(fd, text, 8192, MSG_NOSIGNAL);
		if (n < 0)
			break;
		sent += (size_t)n;
		pump(server, 0);
	}
	assert_string_equal(answer_of(fd), "error: the request is longer than 65536 bytes\n");
	assert_int_equal(seen.calls, 0);
	assert_false(ctl_server_busy(server));
	ctl_server_free(server);
}

static void peer_gone_before_the_answer(void **state)
{
	struct ctl_server *server = new_server();
	struct ctl_conn *first, *second;
	int fd;

	close(talk("wait\n\n"));
	pump(server, 0);
	first = seen.kept;
	fd = talk("wait\n\n");
	pump(server, 0);
	second = seen.kept;
	close(fd);
	pump(server, 0);
	/* Both are still ours to answer. */
	assert_true(ctl_server_busy(server));
	assert_true(ctl_conn_is_gone(first));
	assert_true(ctl_conn_is_gone(second));
	ctl_reply_line(first, "nobody reads this");
	ctl_reply_ok(first);
	assert_true(ctl_server_busy(server));
	ctl_reply_error(second, "nor this");
	assert_false(ctl_server_busy(server));
	/* And it left nothing that keeps the loop awake. */
	pump(server, 0);
	ctl_server_free(server);
}

static void long_answers(void **state)
{
	struct ctl_server *server = new_server();
	static char buf[65536];
	size_t len = 0;
	char last[16] = "";
	int fd = talk("big\n\n");
	ssize_t n;

	pump(server, 0);
	assert_true(ctl_server_busy(server));
	while ((n = recv(fd, buf, sizeof(buf), 0)) != 0) {
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			pump(server, 0);
			continue;
		}
		len += (size_t)n;
		if (n >= 10)
			memcpy(last, buf + n - 10, 10);
	}
	close(fd);
	assert_int_equal(len, BIG + 1 + strlen("after\nok\n"));
	assert_string_equal(last + 1, "after\nok\n");
	assert_false(ctl_server_busy(server));

	fd = talk("big\nthrice=yes\n\n");
	pump(server, 0);
	assert_string_equal(answer_of(fd), "error: the answer is too long\n");
	ctl_server_free(server);
}

static void stalled_peers_are_dropped(void **state)
{
	struct ctl_server *server = new_server();
	int silent = talk(""), half = talk("open\n"), deaf = talk("big\n\n"),
	    waits = talk("wait\n\n"), fd;
	uint64_t began_ns = now_ns();
	char scratch[1];

	pump(server, 0);
	fd = talk("ping\n\n"); /* nobody waits for them */
	pump(server, 0);
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	assert_true(now_ns() - began_ns < NSEC_PER_SEC);

	pump(server, CTL_REQUEST_TIMEOUT_S * 1000 - 1000);
	nothing_yet(silent);
	nothing_yet(half);
	pump(server, 1500);
	assert_true(now_ns() - began_ns >= CTL_REQUEST_TIMEOUT_S * NSEC_PER_SEC);
	assert_string_equal(answer_of(silent), "error: the request didn't come whole within 5 s\n");
	assert_string_equal(answer_of(half), "error: the request didn't come whole within 5 s\n");
	while (recv(deaf, scratch, 1, 0) > 0)
		;
	assert_int_equal(recv(deaf, scratch, 1, 0), 0); /* cut off */
	close(deaf);
	/* Who waits for us may wait for longer. */
	nothing_yet(waits);
	ctl_reply_ok(seen.kept);
	assert_string_equal(answer_of(waits), "ok\n");
	ctl_server_free(server);
}

static void crowd_waits_for_its_turn(void **state)
{
	struct ctl_server *server = new_server();
	int crowd[CTL_MAX_CONNS], fd;

	for (int i = 0; i < CTL_MAX_CONNS; i++) {
		crowd[i] = talk("wait\n\n");
		pump(server, 0);
	}
	fd = talk("ping\n\n");
	pump(server, 0); /* would never return if the listener kept the loop awake */
	nothing_yet(fd);
	ctl_reply_ok(seen.kept);
	pump(server, 0);
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	for (int i = 0; i < CTL_MAX_CONNS; i++)
		close(crowd[i]);
	ctl_server_free(server);
}

/* A word now and then is no request; and all the places are free again in time. */
static void drips_and_a_silent_crowd(void **state)
{
	struct ctl_server *server = new_server();
	uint64_t began_ns = now_ns(), end_ns = began_ns + CTL_REQUEST_TIMEOUT_S * NSEC_PER_SEC;
	int crowd[CTL_MAX_CONNS], fd;

	for (int i = 0; i < CTL_MAX_CONNS; i++)
		crowd[i] = talk("");
	fd = talk("ping\n\n");
	pump(server, 0);
	nothing_yet(fd);
	while (now_ns() < end_ns - NSEC_PER_SEC) {
		assert_int_equal(send(crowd[0], "x", 1, MSG_NOSIGNAL), 1);
		pump(server, 200);
	}
	nothing_yet(crowd[0]);
	nothing_yet(fd);
	pump(server, 1500);
	assert_true(now_ns() >= end_ns);
	for (int i = 0; i < CTL_MAX_CONNS; i++)
		assert_string_equal(answer_of(crowd[i]),
				    "error: the request didn't come whole within 5 s\n");
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	assert_false(ctl_server_busy(server));
	ctl_server_free(server);
}

static void stops_listening(void **state)
{
	struct ctl_server *server = new_server();
	int waits = talk("wait\n\n");

	pump(server, 0);
	ctl_server_stop_listening(server);
	assert_int_equal(access(sock_path, F_OK), -1);
	assert_int_equal(try_connect(), -1);
	assert_true(ctl_server_busy(server));
	ctl_reply_line(seen.kept, "closed a");
	ctl_reply_ok(seen.kept);
	assert_string_equal(answer_of(waits), "closed a\nok\n");
	assert_false(ctl_server_busy(server));
	ctl_server_free(server);
}

static void replaces_a_stale_socket(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int stale = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
	struct ctl_server *server = NULL;
	char path[200];

	strcpy(address.sun_path, sock_path);
	assert_int_equal(bind(stale, (struct sockaddr *)&address, sizeof(address)), 0);
	close(stale);
	server = new_server();
	fd = talk("ping\n\n");
	pump(server, 0);
	assert_string_equal(answer_of(fd), "line one two\nok\n");
	ctl_server_free(server);

	memset(path, 'p', sizeof(path) - 1);
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	server = NULL;
	assert_int_equal(ctl_server_new(path, handler, &seen, &server), -ENAMETOOLONG);
	assert_null(server);
}

/* Talks as uid 65534, with @gid as its group or supplementary group; what it is answered. */
static const char *answer_for(struct ctl_server *server, gid_t gid, bool supplementary)
{
	int pair[2];
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	pid = fork();
	if (pid == 0) {
		char text[1024];
		int fd;
		ssize_t n;

		if (setgroups(supplementary, &gid) < 0 || setgid(supplementary ? 65533 : gid) < 0 ||
		    setuid(65534) < 0)
			_exit(1);
		/* May fail: who is refused is so before he says anything. No assertions in a child.
		 */
		fd = try_connect();
		fcntl(fd, F_SETFL, 0);
		send(fd, "ping\n\n", 6, MSG_NOSIGNAL);
		while ((n = recv(fd, text, sizeof(text), 0)) > 0)
			send(pair[1], text, (size_t)n, 0);
		_exit(0);
	}
	close(pair[1]);
	while (waitpid(pid, NULL, WNOHANG) == 0)
		pump(server, 20);
	return answer_of(pair[0]);
}

static void checks_its_peers(void **state)
{
	struct ctl_server *server;
	struct stat st;
	gid_t gid = 65001;

	if (geteuid() != 0) {
		print_message("needs root, to be somebody else\n");
		skip();
	}
	/* A group of our own makes the socket's group known whether CTL_GROUP exists or not. */
	if (!getgrnam(CTL_GROUP))
		assert_int_equal(setegid(gid), 0);
	server = new_server();
	assert_int_equal(setegid(0), 0);
	assert_int_equal(stat(sock_path, &st), 0);
	gid = st.st_gid;
	assert_int_equal(chmod(sock_path, 0666), 0); /* it must not depend on the mode */
	assert_int_equal(chmod(dir, 0755), 0);

	assert_non_null(strstr(answer_for(server, 65002, false), "error: no right: uid 65534"));
	assert_non_null(strstr(answer_for(server, 65002, true), "error: no right: uid 65534"));
	assert_int_equal(seen.calls, 0);
	assert_string_equal(answer_for(server, gid, false), "line one two\nok\n");
	assert_string_equal(answer_for(server, gid, true), "line one two\nok\n");
	assert_int_equal(seen.calls, 2);
	assert_int_equal(seen.request.uid, 65534);
	ctl_server_free(server);
}

/* The lock and the namespace. */

static void locks(void **state)
{
	char path[CTL_PATH_MAX];
	int fd = -1, other = -1;

	snprintf(path, sizeof(path), "%s/a.lock", dir);
	assert_int_equal(ctl_lock_file(path, &fd), 0);
	assert_int_equal(ctl_lock_file(path, &other), -EBUSY);
	assert_int_equal(other, -1);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	ctl_unlock_file(path, fd);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(ctl_lock_file(path, &fd), 0);
	close(fd); /* as by kill -9: the file stays and is no obstacle */
	assert_int_equal(ctl_lock_file(path, &fd), 0);
	ctl_unlock_file(path, fd);
	snprintf(path, sizeof(path), "%s/no/a.lock", dir);
	assert_int_equal(ctl_lock_file(path, &fd), -ENOENT);
}

static void namespaces(void **state)
{
	char path[PATH_MAX], pid[16], error[CTL_MAX_ERROR], sock[CTL_PATH_MAX],
		expected[CTL_PATH_MAX];
	struct stat st;
	ino_t inode = 0;

	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	assert_int_equal(ctl_netns(NULL, &inode, path, error), 0);
	assert_int_equal(inode, st.st_ino);
	snprintf(pid, sizeof(pid), "%d", getpid());
	inode = 0;
	assert_int_equal(ctl_netns(pid, &inode, path, error), 0);
	assert_int_equal(inode, st.st_ino);
	inode = 0;
	assert_int_equal(ctl_netns("/proc/self/ns/net", &inode, path, error), 0);
	assert_int_equal(inode, st.st_ino);
	assert_string_equal(path, "/proc/self/ns/net");
	assert_int_equal(ctl_path(inode, sock), 0);
	snprintf(expected, sizeof(expected), "/run/acme-steer/%lu.sock", (unsigned long)st.st_ino);
	assert_string_equal(sock, expected);

	assert_int_equal(ctl_netns("/proc/self/ns/mnt", &inode, path, error), -EINVAL);
	assert_non_null(strstr(error, "is no network namespace"));
	assert_int_equal(ctl_netns("/dev/null", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns("no-such-name", &inode, path, error), -ENOENT);
	assert_non_null(strstr(error, "no-such-name"));
	assert_int_equal(ctl_netns("../netns/edge", &inode, path, error), -EINVAL);
	assert_non_null(strstr(error, "absolute path"));
	assert_int_equal(ctl_netns("a/b", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns(".", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns("", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns("999999999", &inode, path, error), -ENOENT);
	assert_int_equal(ctl_netns("/no/such", &inode, path, error), -ENOENT);
	assert_int_equal(inode, st.st_ino);
}

/* The client, against a server in a child or a resident process that it starts. */

static int serve_until_leave(void)
{
	struct ctl_server *server = new_server();

	while (!seen.leave || ctl_server_busy(server)) {
		struct pollfd fd = { .fd = ctl_server_fd(server), .events = POLLIN };

		poll(&fd, 1, -1);
		ctl_server_dispatch(server);
		if (seen.leave)
			ctl_server_stop_listening(server);
	}
	ctl_server_free(server);
	return 0;
}

/* What this program does as the resident process; its socket's path tells which part it plays. */
static int play_resident(int argc, char **argv)
{
	int ready_fd = -1, lock;
	char lock_path[CTL_PATH_MAX + 8];

	if (argc != 6 || strcmp(argv[2], "--on-demand") != 0 ||
	    sscanf(argv[3], "--ready-fd=%d", &ready_fd) != 1 ||
	    strncmp(argv[4], "--netns=", 8) != 0 || strcmp(argv[5], "--workers=3") != 0) {
		fprintf(stderr, "acme-steer: bad arguments\n");
		return 2;
	}
	snprintf(sock_path, sizeof(sock_path), "%s", argv[4] + 8);
	if (strstr(sock_path, "fails.sock")) {
		fprintf(stderr, "acme-steer: a warning\nacme-steer: this kernel has no steam\n");
		return 1;
	}
	if (strstr(sock_path, "mute.sock"))
		return 1;
	snprintf(lock_path, sizeof(lock_path), "%s.lock", sock_path);
	if (ctl_lock_file(lock_path, &lock) < 0) {
		ctl_ready(ready_fd, CTL_BUSY, -1);
		return 1;
	}
	usleep(100000); /* others find the lock taken and nobody who answers */
	struct ctl_server *server = new_server();
	struct pollfd fd = { .fd = ctl_server_fd(server), .events = POLLIN };

	ctl_ready(ready_fd, CTL_READY, open("/dev/null", O_WRONLY | O_CLOEXEC));
	while (!seen.leave || ctl_server_busy(server)) {
		if (poll(&fd, 1, 20000) <= 0) /* a test that failed left us behind */
			return 1;
		ctl_server_dispatch(server);
	}
	ctl_server_free(server);
	ctl_unlock_file(lock_path, lock);
	return 0;
}

static void client_init(struct ctl_client *client, const char *name)
{
	memset(client, 0, sizeof(*client));
	snprintf(client->path, sizeof(client->path), "%s/%s", dir, name);
	client->has_netns = true;
	strcpy(client->netns_path, client->path);
	client->workers = 3;
}

static int call(const struct ctl_client *client, const char *verb, bool start, unsigned timeout_ms,
		struct ctl_answer *ret_answer, char *error)
{
	static struct ctl_message message;

	ctl_message_init(&message, verb);
	ctl_message_end(&message);
	return ctl_client_call(client, &message, start, timeout_ms, ret_answer, error);
}

static void client_calls(void **state)
{
	struct ctl_client client;
	struct ctl_answer answer;
	char error[CTL_MAX_ERROR] = "";
	pid_t pid;
	int status;

	client_init(&client, "a.sock");
	assert_int_equal(call(&client, "ping", false, 1000, &answer, error), -ENOENT);
	assert_non_null(strstr(error, "no acme-steer is running"));

	pid = fork();
	if (pid == 0)
		_exit(serve_until_leave());
	while (access(sock_path, F_OK) < 0)
		usleep(1000);
	/* From bind() to listen() it may still be refused. */
	while (call(&client, "ping", false, 1000, &answer, error) == -ENOENT)
		usleep(1000);
	assert_string_equal(answer.lines, "line one two\n");
	assert_int_equal(answer.peer_pid, pid);
	ctl_answer_free(&answer);

	assert_int_equal(call(&client, "fail", false, 1000, &answer, error), -EREMOTEIO);
	assert_string_equal(error, "no steam for you");
	assert_int_equal(call(&client, "big", false, 5000, &answer, error), 0);
	assert_int_equal(strlen(answer.lines), BIG + 1 + 6);
	ctl_answer_free(&answer);
	assert_int_equal(call(&client, "wait", false, 200, &answer, error), -ETIMEDOUT);
	assert_non_null(strstr(error, "didn't answer"));

	/* It has no time for us at all. */
	kill(pid, SIGSTOP);
	assert_int_equal(call(&client, "ping", false, 200, &answer, error), -ETIMEDOUT);
	kill(pid, SIGCONT);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	/* The socket that it left is as good as none. */
	assert_int_equal(access(sock_path, F_OK), 0);
	assert_int_equal(call(&client, "ping", false, 1000, &answer, error), -ENOENT);
	unlink(sock_path);
}

/* A resident that leaves ends connections without a last line: asked again. */
static void client_asks_again(void **state)
{
	static const char *const answers[] = { "", "opened\n", "opened\no", "opened\nok",
					       "opened\nok\n" };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct ctl_client client;
	struct ctl_answer answer;
	char error[CTL_MAX_ERROR] = "";
	int status;
	pid_t pid;

	client_init(&client, "a.sock");
	strcpy(address.sun_path, sock_path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	pid = fork();
	if (pid == 0) {
		for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
			int fd = accept(listener, NULL, NULL);
			char request[64];

			/* The first is closed with the request unread: a reset. */
			if (i > 0 && recv(fd, request, sizeof(request), 0) < 0)
				_exit(1);
			send(fd, answers[i], strlen(answers[i]), MSG_NOSIGNAL);
			close(fd);
		}
		_exit(0);
	}
	close(listener);
	assert_int_equal(call(&client, "open", false, 2000, &answer, error), 0);
	assert_string_equal(answer.lines, "opened\n");
	ctl_answer_free(&answer);
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(call(&client, "open", false, 2000, &answer, error), -ENOENT);
	unlink(sock_path);
}

static void client_starts_a_resident(void **state)
{
	struct ctl_client client;
	struct ctl_answer answer;
	char error[CTL_MAX_ERROR] = "", sid[32];
	int leak[2];
	char c;

	/* What a hook's caller has open, and waits for the end of. */
	assert_int_equal(pipe(leak), 0);
	assert_int_equal(setenv("TEST_SECRET", "x", 1), 0);
	signal(SIGHUP, SIG_IGN);
	client_init(&client, "start.sock");
	assert_int_equal(call(&client, "whoami", true, 5000, &answer, error), 0);
	close(leak[1]);
	assert_int_equal(read(leak[0], &c, 1), 0);
	close(leak[0]);
	signal(SIGHUP, SIG_DFL);

	assert_non_null(strstr(answer.lines, "cwd /\n"));
	assert_non_null(strstr(answer.lines, "leads 0\n"));
	snprintf(sid, sizeof(sid), "sid %d\n", (int)getsid(0));
	assert_null(strstr(answer.lines, sid));
	assert_non_null(
		strstr(answer.lines, "stderr 10\n")); /* our end of the pipe is closed by now */
	assert_non_null(strstr(answer.lines, "secret gone\n"));
	assert_non_null(strstr(answer.lines, "hup default\n"));
	ctl_answer_free(&answer);

	assert_int_equal(call(&client, "leave", false, 5000, &answer, error), 0);
	ctl_answer_free(&answer);
}

static void client_tells_why_none_starts(void **state)
{
	struct ctl_client client;
	struct ctl_answer answer;
	char error[CTL_MAX_ERROR] = "";

	client_init(&client, "fails.sock");
	assert_int_equal(call(&client, "ping", true, 1000, &answer, error), -ECHILD);
	assert_memory_equal(error, "this kernel has no steam", 24);
	client_init(&client, "mute.sock");
	assert_int_equal(call(&client, "ping", true, 1000, &answer, error), -ECHILD);
	assert_memory_equal(error, "the resident process ended without a word", 41);
}

/* All at once: one resident process, everybody is answered by it. */
static void clients_start_one_resident(void **state)
{
	struct ctl_client client;
	struct ctl_answer answer;
	char error[CTL_MAX_ERROR] = "";
	int pipes[2];
	pid_t first = 0, pid;

	client_init(&client, "race.sock");
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	for (int i = 0; i < 6; i++) {
		if (fork() == 0) {
			pid = 0;
			if (call(&client, "ping", true, 5000, &answer, error) == 0)
				pid = answer.peer_pid;
			_exit(write(pipes[1], &pid, sizeof(pid)) < 0);
		}
	}
	for (int i = 0; i < 6; i++) {
		assert_int_equal(read(pipes[0], &pid, sizeof(pid)), sizeof(pid));
		assert_int_not_equal(pid, 0);
		if (!first)
			first = pid;
		assert_int_equal(pid, first);
	}
	close(pipes[0]);
	close(pipes[1]);
	while (wait(NULL) > 0)
		;
	assert_int_equal(call(&client, "leave", false, 5000, &answer, error), 0);
	ctl_answer_free(&answer);
}

static int set_up(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(sock_path, sizeof(sock_path), "%s/a.sock", dir);
	return 0;
}

static int tear_down(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_requests),
		cmocka_unit_test(write_and_parse),
		cmocka_unit_test(answers),
		cmocka_unit_test(in_pieces),
		cmocka_unit_test(too_long),
		cmocka_unit_test(peer_gone_before_the_answer),
		cmocka_unit_test(long_answers),
		cmocka_unit_test(stalled_peers_are_dropped),
		cmocka_unit_test(crowd_waits_for_its_turn),
		cmocka_unit_test(drips_and_a_silent_crowd),
		cmocka_unit_test(stops_listening),
		cmocka_unit_test(replaces_a_stale_socket),
		cmocka_unit_test(checks_its_peers),
		cmocka_unit_test(locks),
		cmocka_unit_test(namespaces),
		cmocka_unit_test(client_calls),
		cmocka_unit_test(client_asks_again),
		cmocka_unit_test(client_starts_a_resident),
		cmocka_unit_test(client_tells_why_none_starts),
		cmocka_unit_test(clients_start_one_resident),
	};

	if (argc > 1 && strcmp(argv[1], "serve") == 0)
		return play_resident(argc, argv);
	alarm(60); /* what waits for ever has failed too */
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
