/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: ctl.c ctl_server.c ctl_client.c log.c lazy.c log_record.c
/*
 * A verb's end of the control socket, against a server in a child or a resident process that it
 * starts: this program plays that, too ("serve" as its first argument, the socket's path in
 * --netns).
 */
#include "ctl_bench.h"

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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
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
