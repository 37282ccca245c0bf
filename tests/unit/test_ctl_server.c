/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: ctl.c ctl_server.c ctl_client.c log.c lazy.c log_record.c
/* The resident process's end of the control socket, in this process and driven by pump(). */
#include "ctl_bench.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};

	alarm(60); /* what waits for ever has failed too */
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
