/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: keeper.c starter.c responder.c answer.c certificate.c isolate.c filter.c challenge.c timers.c name.c addr.c log.c lazy.c log_record.c
/* The built-in responder as a process: how it begins, is replaced and ends, and what it may do. */
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "responder_bench.h"

static void a_connection_between_two_processes(void **state)
{
	uint8_t digest[CHALLENGE_DIGEST];
	uint64_t ticket = 0;
	char name[32];
	int status;
	pid_t ca;

	for (unsigned i = 0; i < 2000; i++) {
		numbered(i, name, digest);
		ticket = add(name, digest);
	}
	assert_int_equal(wait_for(ticket), KEEPER_DONE);
	for (int round = 0; round < 5; round++) {
		kill(responder_pid(), SIGKILL);
		ca = fork();
		if (ca == 0) {
			for (unsigned i = 1900; i < 1910; i++) {
				numbered(i, name, digest);
				validate(TLS1_3_VERSION, name, name, digest);
			}
			_exit(0);
		}
		poll(NULL, 0, 20); /* it has connected, most likely */
		numbered(1999, name, digest);
		assert_int_equal(wait_for(add(name, digest)), KEEPER_DONE);
		while (waitpid(ca, &status, WNOHANG) == 0) {
			keeper_tick(keeper, now_ns());
			poll(NULL, 0, 5);
		}
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

static void one_that_does_not_answer_is_replaced(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 4 };
	uint64_t began;
	pid_t first;

	assert_int_equal(wait_for(add("a.example", digest)), KEEPER_DONE);
	first = responder_pid();
	kill(first, SIGSTOP);
	assert_int_equal(wait_for(add("b.example", digest)), KEEPER_DONE);
	assert_true(responder_pid() != first);
	/* Nobody has to want something for that. */
	first = responder_pid();
	began = now_ns();
	kill(first, SIGSTOP);
	while (responder_pid() == first || responder_pid() == 0) {
		keeper_tick(keeper, now_ns());
		assert_true(now_ns() - began < PATIENCE_NS);
		poll(NULL, 0, 20);
	}
	assert_int_equal(wait_for(add("a.example", digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, "a.example", "a.example", digest);
	validate(TLS1_3_VERSION, "b.example", "b.example", digest);
}

/* The value of a line of /proc/PID/status, as it begins. */
static void assert_status(pid_t pid, const char *key, const char *value)
{
	char path[64], line[256];
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	assert_non_null(file);
	while (!found && fgets(line, sizeof(line), file))
		if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':') {
			found = true;
			if (strncmp(line + strlen(key) + 2, value, strlen(value)) != 0)
				fail_msg("%s is %s", key, line + strlen(key) + 2);
		}
	fclose(file);
	assert_true(found);
}

static void it_has_no_rights(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 8 };
	char path[64], root[256];
	ssize_t n;
	pid_t pid;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	pid = responder_pid();
	assert_status(pid, "NoNewPrivs", "1");
	assert_status(pid, "Seccomp", "2");
	assert_status(pid, "CapPrm", "0000000000000000");
	assert_status(pid, "CapEff", "0000000000000000");
	assert_status(pid, "CapInh", "0000000000000000");
	assert_status(pid, "CapAmb", "0000000000000000");
	assert_status(pid, "Threads", "1");
	if (geteuid() != 0)
		return;
	assert_status(pid, "CapBnd", "0000000000000000");
	assert_status(pid, "Uid", "65534\t65534\t65534\t65534");
	assert_status(pid, "Gid", "65534\t65534\t65534\t65534");
	assert_status(pid, "Groups", " \n");
	snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
	n = readlink(path, root, sizeof(root) - 1);
	assert_true(n > 0);
	root[n] = '\0';
	assert_non_null(strstr(root, "(deleted)"));
}

static void stopping_finishes_what_has_begun(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 10 };
	struct client client = { .ctx = SSL_CTX_new(TLS_client_method()) };
	uint64_t began;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	client.ssl = SSL_new(client.ctx);
	SSL_set_alpn_protos(client.ssl, (const unsigned char *)ACME_ALPN, sizeof(ACME_ALPN) - 1);
	SSL_set_tlsext_host_name(client.ssl, "www.example.org");
	client.fd = tcp_connect(); /* perhaps not accepted yet */
	keeper_stop(keeper);
	assert_true(keeper_is_off(keeper));
	assert_false(keeper_is_idle(keeper));
	SSL_set_fd(client.ssl, client.fd);
	assert_int_equal(SSL_connect(client.ssl), 1);
	check_certificate(client.ssl, "www.example.org", digest);
	client_close(&client);

	began = now_ns();
	while (!keeper_is_idle(keeper)) {
		struct pollfd pollfd = { .fd = keeper_fd(keeper), .events = POLLIN };

		keeper_tick(keeper, now_ns());
		assert_true(now_ns() - began < 2 * RESPONDER_END_NS);
		poll(&pollfd, 1, 100);
	}
	assert_int_equal(wait_for(1), KEEPER_FAILED);
	/* And it can be started again. */
	assert_int_equal(keeper_start(keeper, &at, (char[256]){}, 256), 0);
	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
}

static void a_stalled_client_does_not_hold_up_the_end(void **state)
{
	uint64_t began = now_ns();
	int fd;

	assert_int_equal(wait_for(add("www.example.org", (uint8_t[CHALLENGE_DIGEST]){ 11 })),
			 KEEPER_DONE);
	fd = tcp_connect();
	keeper_stop(keeper);
	while (!keeper_is_idle(keeper)) {
		struct pollfd pollfd = { .fd = keeper_fd(keeper), .events = POLLIN };

		keeper_tick(keeper, now_ns());
		assert_true(now_ns() - began < 3 * RESPONDER_END_NS);
		poll(&pollfd, 1, 100);
	}
	close(fd);
}

/* A process of its own is the resident process, and is killed. */
static void it_ends_with_its_parent(void **state)
{
	struct pollfd pollfd = { .events = POLLIN };
	pid_t parent, responder;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	parent = fork();
	if (parent == 0) {
		if (start(NULL) < 0)
			_exit(1);
		wait_for(add("www.example.org", (uint8_t[CHALLENGE_DIGEST]){ 12 }));
		responder = responder_pid();
		if (write(fds[1], &responder, sizeof(responder)) < 0)
			_exit(1);
		pause();
		_exit(1);
	}
	assert_int_equal(read(fds[0], &responder, sizeof(responder)), sizeof(responder));
	pollfd.fd = pidfd_open(responder, 0);
	assert_true(pollfd.fd >= 0);
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	kill(parent, SIGKILL);
	assert_int_equal(poll(&pollfd, 1, 5000), 1);
	waitpid(parent, NULL, 0);
	close(pollfd.fd);
	close(fds[0]);
	close(fds[1]);
}

/* In a process of its own, for it can't raise its limits again. */
static void one_that_cannot_start(void **state)
{
	const struct rlimit few = { 16, 16 };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		bool right = setrlimit(RLIMIT_NOFILE, &few) == 0 && start(NULL) == 0 &&
			     wait_for(add("www.example.org", (uint8_t[CHALLENGE_DIGEST]){ 13 })) ==
				     KEEPER_FAILED &&
			     strstr(keeper_error(keeper), "descriptors") && !keeper_is_off(keeper);

		stop(NULL);
		_exit(right ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_connection_between_two_processes),
		TEST(one_that_does_not_answer_is_replaced),
		TEST(it_has_no_rights),
		TEST(stopping_finishes_what_has_begun),
		TEST(a_stalled_client_does_not_hold_up_the_end),
		cmocka_unit_test(it_ends_with_its_parent),
		cmocka_unit_test(one_that_cannot_start),
	};

	if (is_responder(argc, argv))
		return responder_run();
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("keeper", tests, NULL, NULL);
}
