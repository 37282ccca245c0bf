/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Relays between real sockets. One thread plays the client, the web server and the worker's loop in
 * turns, so that every step is in order and wake-ups can be counted.
 *
 *   client --- front (listener) | relay | target (listener) --- server
 */
#ifndef RELAY_BENCH_H
#define RELAY_BENCH_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "relay.h"
#include "util.h"

#define REF_TYPE 7
#define WAIT_NS	 (10 * NSEC_PER_SEC)

struct bench {
	struct relay_worker worker;
	int epoll_fd, front, target;
	struct endpoint front_addr, target_addr;
	unsigned wakeups; /* events that the worker's loop has seen */
	int batch;	  /* and how many it takes at once */
	/* what the callbacks saw */
	unsigned connected, failed, ended, exempts, unexempts;
	int failed_fd, failed_error, exempt_answer;
	struct endpoint exempt_source;
	bool exempt_now;
	/* one relayed connection */
	int client, server;
	struct endpoint client_addr;
};

/* ---- callbacks ---- */

static inline int on_exempt(void *ctx, const struct endpoint *source, bool add)
{
	struct bench *b = ctx;

	if (add && b->exempt_answer)
		return b->exempt_answer;
	if (add)
		b->exempts++;
	else
		b->unexempts++;
	b->exempt_source = *source;
	b->exempt_now = add;
	return 0;
}

static inline void on_connected(void *ctx, void *user)
{
	((struct bench *)ctx)->connected++;
}

static inline void on_failed(void *ctx, void *user, int client_fd, int error)
{
	struct bench *b = ctx;

	b->failed++;
	b->failed_fd = client_fd;
	b->failed_error = error;
}

static inline void on_ended(void *ctx, void *user)
{
	((struct bench *)ctx)->ended++;
}

static const struct relay_callbacks callbacks = {
	.exempt = on_exempt,
	.on_connected = on_connected,
	.on_failed = on_failed,
	.on_ended = on_ended,
};

/* ---- sockets ---- */

static inline struct endpoint local_addr(int fd)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct endpoint endpoint;

	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(endpoint_from_sockaddr(&sa, &endpoint), 0);
	return endpoint;
}

static inline struct endpoint peer_addr(int fd)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct endpoint endpoint;

	assert_int_equal(getpeername(fd, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(endpoint_from_sockaddr(&sa, &endpoint), 0);
	return endpoint;
}

static inline int listen_at(const char *address, int backlog, struct endpoint *ret_addr)
{
	struct sockaddr_storage sa;
	struct endpoint endpoint;
	socklen_t len;
	int fd;

	assert_int_equal(endpoint_parse(address, 1, &endpoint), 0);
	endpoint.port = 0;
	len = endpoint_to_sockaddr(&endpoint, &sa);
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(fd, backlog), 0);
	*ret_addr = local_addr(fd);
	return fd;
}

static inline int connect_to(const struct endpoint *endpoint)
{
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(endpoint, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

static inline int socket_error(int fd)
{
	socklen_t len = sizeof(int);
	int error = 0;

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	return error;
}

static inline void reset(int *fd)
{
	const struct linger linger = { .l_onoff = 1 };

	setsockopt(*fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(TAKE_FD(*fd));
}

static inline void send_text(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* ---- the loop ---- */

static inline void pump(struct bench *b, int timeout_ms)
{
	struct epoll_event events[64];
	int n = epoll_wait(b->epoll_fd, events, b->batch, timeout_ms);

	for (int i = 0; i < n; i++) {
		struct relay_end *end = events[i].data.ptr;

		assert_int_equal(*(uint8_t *)events[i].data.ptr, REF_TYPE);
		relay_handle_event(&b->worker, end, events[i].events);
	}
	if (n > 0)
		b->wakeups += (unsigned)n;
	relay_worker_reap(&b->worker, now_ns());
}

/* Lets the worker run until nothing happens for a moment. */
static inline void settle(struct bench *b)
{
	uint64_t end = now_ns() + WAIT_NS;
	unsigned before;

	do {
		before = b->wakeups;
		pump(b, 20);
		assert_true(now_ns() < end);
	} while (b->wakeups != before);
}

#define pump_until(b, condition)                      \
	do {                                          \
		uint64_t _end = now_ns() + WAIT_NS;   \
		while (!(condition)) {                \
			pump((b), 5);                 \
			assert_true(now_ns() < _end); \
		}                                     \
	} while (0)

/* What recv() says once it says something: bytes, 0, or -errno. */
static inline ssize_t recv_soon(struct bench *b, int fd, void *data, size_t size)
{
	uint64_t end = now_ns() + WAIT_NS;
	ssize_t n;

	for (;;) {
		n = recv(fd, data, size, MSG_DONTWAIT);
		if (n >= 0)
			return n;
		if (errno != EAGAIN)
			return -errno;
		pump(b, 5);
		assert_true(now_ns() < end);
	}
}

static inline void expect_text(struct bench *b, int fd, const char *text)
{
	size_t len = strlen(text), got = 0;
	char data[256];

	while (got < len) {
		ssize_t n = recv_soon(b, fd, data + got, len - got);

		assert_true(n > 0);
		got += (size_t)n;
	}
	assert_memory_equal(data, text, len);
}

static inline void expect_end(struct bench *b, int fd, ssize_t how)
{
	char data[16];

	assert_int_equal(recv_soon(b, fd, data, sizeof(data)), how);
}

/* ---- one relayed connection ---- */

static inline void bench_open(struct bench *b, const char *address)
{
	*b = (struct bench){ .client = -1, .server = -1, .failed_fd = -1, .batch = 64 };
	b->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	assert_int_equal(relay_worker_init(&b->worker, b->epoll_fd, REF_TYPE, &callbacks, b), 0);
	b->front = listen_at(address, 512, &b->front_addr);
	b->target = listen_at(address, 512, &b->target_addr);
}

static inline void close_if_open(int *fd)
{
	if (*fd >= 0)
		close(TAKE_FD(*fd));
}

static inline void bench_close(struct bench *b)
{
	close_if_open(&b->client);
	close_if_open(&b->server);
	close_if_open(&b->failed_fd);
	close_if_open(&b->front);
	close_if_open(&b->target);
	relay_worker_done(&b->worker);
	assert_int_equal(b->worker.counters.active, 0);
	assert_int_equal(b->exempts, b->unexempts);
	close(b->epoll_fd);
}

/* A client that has connected to the front and sent @hello. Returns the front's descriptor. */
static inline int bench_client(struct bench *b, const char *hello)
{
	int fd;

	b->client = connect_to(&b->front_addr);
	b->client_addr = local_addr(b->client);
	fd = accept4(b->front, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	if (hello)
		send_text(b->client, hello);
	return fd;
}

static inline void bench_start(struct bench *b, int fd, enum client_ip client_ip)
{
	const struct relay_options options = { .client_ip = client_ip };

	assert_int_equal(relay_start(&b->worker, fd, &b->client_addr, &b->front_addr,
				     &b->target_addr, &options, b, NULL),
			 0);
	b->server = accept4(b->target, NULL, NULL, SOCK_CLOEXEC);
	assert_true(b->server >= 0);
}

static inline void bench_relay(struct bench *b, const char *address)
{
	int fd;

	bench_open(b, address);
	fd = bench_client(b, NULL);
	bench_start(b, fd, CLIENT_IP_NONE);
	pump_until(b, b->connected == 1);
}

/* Nothing wakes the worker up for a while. */
static inline void expect_quiet(struct bench *b)
{
	uint64_t end = now_ns() + 200 * NSEC_PER_MSEC;
	unsigned before = b->wakeups;

	while (now_ns() < end)
		pump(b, 50);
	assert_int_equal(b->wakeups, before);
}

#endif
