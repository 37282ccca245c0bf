/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: relay.c relay_flow.c proxy_header.c source.c relay_route.c policy.c addr.c
/* Relays between sockets on loopback: their ends, memory, headers, source ports. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "relay_bench.h"

static void test_small(void **state)
{
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	for (int i = 0; i < 3; i++) {
		send_text(b.client, "question");
		expect_text(&b, b.server, "question");
		send_text(b.server, "answer");
		expect_text(&b, b.client, "answer");
	}
	settle(&b);
	assert_int_equal(b.worker.counters.bytes[CLIENT], 3 * strlen("question"));
	assert_int_equal(b.worker.counters.bytes[TARGET], 3 * strlen("answer"));
	bench_close(&b);
}

static void test_source_is_exempt(void **state)
{
	struct endpoint seen;
	struct bench b;
	int fd;

	bench_open(&b, "127.0.0.1");
	fd = bench_client(&b, "hello");
	bench_start(&b, fd, CLIENT_IP_NONE);
	/* The connection is there, the worker has not run: still exempt, by the address seen. */
	assert_int_equal(b.exempts, 1);
	assert_true(b.exempt_now);
	seen = peer_addr(b.server);
	assert_true(endpoint_equal(&seen, &b.exempt_source));
	pump_until(&b, b.connected == 1);
	assert_false(b.exempt_now);
	assert_true(endpoint_equal(&seen, &b.exempt_source));
	expect_text(&b, b.server, "hello");
	bench_close(&b);
}

static void test_no_exemption_no_connection(void **state)
{
	const struct relay_options options = {};
	struct bench b;
	int fd;

	bench_open(&b, "127.0.0.1");
	fd = bench_client(&b, "hello");
	b.exempt_answer = -E2BIG;
	assert_int_equal(relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &b.target_addr,
				     &options, &b, NULL),
			 -E2BIG);
	assert_int_equal(b.worker.counters.failed[RELAY_NO_RESOURCE], 1);
	fcntl(b.target, F_SETFL, O_NONBLOCK);
	assert_int_equal(accept(b.target, NULL, NULL), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(b.worker.counters.active, 0);
	close(fd);
	bench_close(&b);
}

static void test_refused(void **state)
{
	const struct relay_options options = { .client_ip = CLIENT_IP_PROXY_V1 };
	struct bench b;
	char data[16];
	int fd;

	bench_open(&b, "127.0.0.1");
	close_if_open(&b.target);
	fd = bench_client(&b, "hello");
	assert_int_equal(relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &b.target_addr,
				     &options, &b, NULL),
			 0);
	pump_until(&b, b.failed == 1);
	assert_int_equal(b.failed_error, -ECONNREFUSED);
	assert_int_equal(b.failed_fd, fd);
	assert_int_equal(b.worker.counters.failed[RELAY_REFUSED], 1);
	assert_int_equal(b.worker.counters.active, 0);
	assert_int_equal(b.ended, 0);

	/* Nothing was read, and another target may have it. */
	assert_int_equal(recv(fd, data, sizeof(data), MSG_PEEK), 5);
	b.target = listen_at("127.0.0.1", 16, &b.target_addr);
	b.failed_fd = -1;
	bench_start(&b, fd, CLIENT_IP_NONE);
	expect_text(&b, b.server, "hello");
	bench_close(&b);
}

/* The backlog is full: SYNs are dropped. */
static int fill_backlog(struct endpoint *ret_addr, int fds[4])
{
	int listener = listen_at("127.0.0.1", 0, ret_addr);
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(ret_addr, &sa);

	for (int i = 0; i < 4; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		connect(fds[i], (struct sockaddr *)&sa, len);
	}
	return listener;
}

static void test_no_answer(void **state)
{
	const struct relay_options options = { .connect_timeout_ms = 300 };
	int fds[4], listener, fd;
	struct endpoint silent;
	struct relay *relay;
	struct bench b;

	bench_open(&b, "127.0.0.1");
	listener = fill_backlog(&silent, fds);
	fd = bench_client(&b, "hello");
	assert_int_equal(relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &silent,
				     &options, &b, NULL),
			 0);
	pump_until(&b, b.failed == 1);
	assert_int_equal(b.failed_error, -ETIMEDOUT);
	assert_int_equal(b.worker.counters.failed[RELAY_TIMED_OUT], 1);

	/* Given up by the caller, and by the end of everything. */
	assert_int_equal(relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &silent,
				     &options, &b, &relay),
			 0);
	relay_cancel(&b.worker, relay);
	assert_int_equal(b.failed, 2);
	assert_int_equal(b.failed_error, -ECANCELED);
	assert_int_equal(relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &silent,
				     &options, &b, &relay),
			 0);
	relay_worker_kill_all(&b.worker);
	assert_int_equal(b.failed, 3);
	assert_int_equal(b.failed_error, -ECANCELED);
	assert_int_equal(b.failed_fd, fd);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	close(listener);
	bench_close(&b);
}

static void test_half_close(void **state)
{
	struct bench b;

	/* The client has said everything; the answer takes its time. */
	bench_relay(&b, "127.0.0.1");
	send_text(b.client, "question");
	shutdown(b.client, SHUT_WR);
	expect_text(&b, b.server, "question");
	expect_end(&b, b.server, 0);
	settle(&b);
	send_text(b.server, "late ");
	expect_text(&b, b.client, "late ");
	settle(&b);
	send_text(b.server, "answer");
	close_if_open(&b.server);
	expect_text(&b, b.client, "answer");
	expect_end(&b, b.client, 0);
	pump_until(&b, b.ended == 1);
	assert_int_equal(b.worker.counters.reset, 0);
	bench_close(&b);

	/* The server first. */
	bench_relay(&b, "::1");
	send_text(b.server, "greeting");
	shutdown(b.server, SHUT_WR);
	expect_text(&b, b.client, "greeting");
	expect_end(&b, b.client, 0);
	settle(&b);
	send_text(b.client, "still ");
	expect_text(&b, b.server, "still ");
	send_text(b.client, "here");
	close_if_open(&b.client);
	expect_text(&b, b.server, "here");
	expect_end(&b, b.server, 0);
	pump_until(&b, b.ended == 1);
	assert_int_equal(b.worker.counters.reset, 0);
	bench_close(&b);
}

static void test_data_and_fin_wait(void **state)
{
	struct bench b;
	int fd;

	bench_open(&b, "127.0.0.1");
	fd = bench_client(&b, "all there is");
	shutdown(b.client, SHUT_WR);
	bench_start(&b, fd, CLIENT_IP_NONE);
	expect_text(&b, b.server, "all there is");
	expect_end(&b, b.server, 0);
	send_text(b.server, "thanks");
	close_if_open(&b.server);
	expect_text(&b, b.client, "thanks");
	expect_end(&b, b.client, 0);
	pump_until(&b, b.ended == 1);
	bench_close(&b);
}

static void test_reset(void **state)
{
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	reset(&b.client);
	expect_end(&b, b.server, -ECONNRESET);
	assert_int_equal(b.ended, 1);
	assert_int_equal(b.worker.counters.reset, 1);
	bench_close(&b);

	/* What came before the RST arrives before the RST. */
	bench_relay(&b, "127.0.0.1");
	send_text(b.server, "go away");
	reset(&b.server);
	expect_text(&b, b.client, "go away");
	expect_end(&b, b.client, -ECONNRESET);
	assert_int_equal(b.worker.counters.reset, 1);
	bench_close(&b);

	/* The server has closed; the client goes on and gets what it would get from the server. */
	bench_relay(&b, "127.0.0.1");
	send_text(b.server, "bye");
	close_if_open(&b.server);
	expect_text(&b, b.client, "bye");
	expect_end(&b, b.client, 0);
	send_text(b.client, "too late");
	pump_until(&b, b.ended == 1);
	assert_int_equal(socket_error(b.client), EPIPE); /* a RST in CLOSE_WAIT */
	bench_close(&b);

	/* The client is found dead by sending to it, with words of its own still unread. */
	bench_relay(&b, "127.0.0.1");
	b.batch = 1;
	send_text(b.server, "to nobody");
	send_text(b.client, "last words");
	reset(&b.client);
	expect_text(&b, b.server, "last words");
	expect_end(&b, b.server, -ECONNRESET);
	bench_close(&b);
}

static void test_kill_all(void **state)
{
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	relay_worker_kill_all(&b.worker);
	assert_int_equal(b.ended, 1);
	assert_int_equal(b.worker.counters.killed, 1);
	expect_end(&b, b.client, -ECONNRESET);
	expect_end(&b, b.server, -ECONNRESET);
	bench_close(&b);
}

/* The relay's descriptor of the connection whose far end is at @peer. */
static int relay_fd(const struct endpoint *peer)
{
	for (int fd = 3; fd < 1024; fd++) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof(sa);
		struct endpoint endpoint;

		if (!getpeername(fd, (struct sockaddr *)&sa, &len) &&
		    !endpoint_from_sockaddr(&sa, &endpoint) && endpoint_equal(&endpoint, peer))
			return fd;
	}
	fail();
	return -1;
}

static int option(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int value = -1;

	assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
	return value;
}

static void test_socket_options(void **state)
{
	const struct relay_options options = { .connect_timeout_ms = 1000 };
	struct bench b;
	int fds[2];

	bench_open(&b, "127.0.0.1");
	fds[CLIENT] = bench_client(&b, NULL);
	assert_int_equal(relay_start(&b.worker, fds[CLIENT], &b.client_addr, &b.front_addr,
				     &b.target_addr, &options, &b, NULL),
			 0);
	b.server = accept4(b.target, NULL, NULL, SOCK_CLOEXEC);
	pump_until(&b, b.connected == 1);
	fds[TARGET] = relay_fd(&b.target_addr);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(option(fds[i], SOL_TCP, TCP_NODELAY), 1);
		assert_int_equal(option(fds[i], SOL_TCP, TCP_USER_TIMEOUT), 0);
		assert_int_equal(option(fds[i], SOL_SOCKET, SO_KEEPALIVE), 1);
		assert_int_equal(option(fds[i], SOL_SOCKET, SO_RCVLOWAT), 1);
		assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
		assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
	}
	bench_close(&b);
}

/* ---- memory ---- */

static void test_idle_memory(void **state)
{
	struct rlimit limit = { .rlim_cur = 41000, .rlim_max = 41000 }, old;
	size_t n = 10000, before, used;
	struct bench b;
	int(*fds)[2];

	getrlimit(RLIMIT_NOFILE, &old);
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		n = MIN(n, (old.rlim_cur - 100) / 4);
	fds = calloc(n, sizeof(*fds));
	bench_open(&b, "127.0.0.1");
	before = mallinfo2().uordblks;
	for (size_t i = 0; i < n; i++) {
		int fd = bench_client(&b, "hello");

		bench_start(&b, fd, CLIENT_IP_NONE);
		pump_until(&b, b.connected == i + 1);
		expect_text(&b, b.server, "hello");
		send_text(b.server, "answer");
		expect_text(&b, b.client, "answer");
		fds[i][0] = TAKE_FD(b.client);
		fds[i][1] = TAKE_FD(b.server);
	}
	settle(&b);
	used = (mallinfo2().uordblks - before) / n;
	print_message("%zu idle relays: %zu bytes each\n", n, used);
	assert_true(used < 2048);
	assert_int_equal(b.worker.counters.active, n);
	expect_quiet(&b);
	for (size_t i = 0; i < n; i++) {
		close(fds[i][0]);
		close(fds[i][1]);
	}
	pump_until(&b, b.worker.counters.active == 0);
	bench_close(&b);
	free(fds);
	setrlimit(RLIMIT_NOFILE, &old);
}

/* ---- PROXY header ---- */

static void expect_header(const char *client, const char *asked, const char *listen,
			  enum client_ip client_ip, const char *header, size_t len)
{
	const struct relay_options options = { .client_ip = client_ip };
	struct endpoint client_addr, asked_addr;
	char data[256];
	struct bench b;
	int fd;

	bench_open(&b, listen);
	fd = bench_client(&b, "hello");
	assert_int_equal(endpoint_parse(client, 0, &client_addr), 0);
	assert_int_equal(endpoint_parse(asked, 0, &asked_addr), 0);
	assert_int_equal(relay_start(&b.worker, fd, &client_addr, &asked_addr, &b.target_addr,
				     &options, &b, NULL),
			 0);
	b.server = accept4(b.target, NULL, NULL, SOCK_CLOEXEC);
	pump_until(&b, b.worker.counters.bytes[CLIENT] == 5);
	assert_int_equal(recv_soon(&b, b.server, data, sizeof(data)), len + 5);
	assert_memory_equal(data, header, len);
	assert_memory_equal(data + len, "hello", 5);
	bench_close(&b);
}

#define HEADER(text) text, sizeof(text) - 1
#define SIGNATURE    "\r\n\r\n\0\r\nQUIT\n"

static void test_proxy_v1(void **state)
{
	expect_header("192.0.2.1:1", "198.51.100.255:65535", "127.0.0.1", CLIENT_IP_PROXY_V1,
		      HEADER("PROXY TCP4 192.0.2.1 198.51.100.255 1 65535\r\n"));
	expect_header("[2001:db8::1]:50000", "[2001:db8:1:2:3:4:5:6]:443", "::1",
		      CLIENT_IP_PROXY_V1,
		      HEADER("PROXY TCP6 2001:db8::1 2001:db8:1:2:3:4:5:6 50000 443\r\n"));
	/* The target's family is nobody's business. */
	expect_header("[2001:db8::1]:50000", "[2001:db8::2]:443", "127.0.0.1", CLIENT_IP_PROXY_V1,
		      HEADER("PROXY TCP6 2001:db8::1 2001:db8::2 50000 443\r\n"));
	expect_header("[2001:db8::1]:50000", "192.0.2.1:443", "127.0.0.1", CLIENT_IP_PROXY_V1,
		      HEADER("PROXY UNKNOWN\r\n"));
}

static void test_proxy_v2(void **state)
{
	expect_header("192.0.2.1:258", "198.51.100.255:443", "127.0.0.1", CLIENT_IP_PROXY_V2,
		      HEADER(SIGNATURE "\x21\x11\x00\x0c"
				       "\xc0\x00\x02\x01\xc6\x33\x64\xff\x01\x02\x01\xbb"));
	expect_header("[2001:db8::1]:258", "[2001:db8::2]:443", "::1", CLIENT_IP_PROXY_V2,
		      HEADER(SIGNATURE
			     "\x21\x21\x00\x24"
			     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
			     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x01\x02\x01\xbb"));
	expect_header("[2001:db8::1]:50000", "192.0.2.1:443", "127.0.0.1", CLIENT_IP_PROXY_V2,
		      HEADER(SIGNATURE "\x21\x00\x00\x00"));
}

/* ---- source ports ---- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(99);
	close(fd);
}

/* Nobody listens at the only port: TCP would connect a socket there to itself. */
static void not_to_itself(void)
{
	const struct relay_options options = {};
	struct endpoint itself;
	struct bench b;
	int fd;

	bench_open(&b, "127.0.0.1");
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000");
	b.worker.sources.port_low = b.worker.sources.port_high = 40000;
	endpoint_parse("127.0.0.1:40000", 0, &itself);
	fd = dup(b.front);
	assert_int_equal(relay_start(&b.worker, fd, &itself, &itself, &itself, &options, &b, NULL),
			 -EADDRNOTAVAIL);
	assert_int_equal(b.worker.counters.failed[RELAY_NO_PORT], 1);
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999");
	close(fd);
	bench_close(&b);
}

/* More connections than there are ports, each leaving a TIME_WAIT at the relay. */
static void reuse_ports(void)
{
	struct bench b;

	bench_open(&b, "127.0.0.1");
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000 40015");
	write_file("/proc/sys/net/ipv4/tcp_tw_reuse", "0");
	b.worker.sources.port_low = 40000;
	b.worker.sources.port_high = 40015;
	for (unsigned i = 0; i < 200; i++) {
		int fds[2], fd;

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		b.client = fds[0];
		fd = fds[1];
		bench_start(&b, fd, CLIENT_IP_NONE);
		shutdown(b.client, SHUT_WR);
		expect_end(&b, b.server, 0);
		close_if_open(&b.server);
		expect_end(&b, b.client, 0);
		close_if_open(&b.client);
		pump_until(&b, b.ended == i + 1);
	}
	bench_close(&b);
}

static void test_few_ports(void **state)
{
	int status;
	pid_t pid;

	if (geteuid()) {
		print_message("needs root, for a network namespace of its own\n");
		skip();
	}
	pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWNET) < 0 || system("ip link set lo up"))
			_exit(98);
		not_to_itself();
		reuse_ports();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_source_is_exempt),
		cmocka_unit_test(test_no_exemption_no_connection),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_no_answer),
		cmocka_unit_test(test_half_close),
		cmocka_unit_test(test_data_and_fin_wait),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_kill_all),
		cmocka_unit_test(test_socket_options),
		cmocka_unit_test(test_idle_memory),
		cmocka_unit_test(test_proxy_v1),
		cmocka_unit_test(test_proxy_v2),
		cmocka_unit_test(test_few_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
