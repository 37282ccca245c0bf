/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tests of the BPF programs share: a network namespace of their own, real connections in
 * it, waiting for a condition.
 */
#ifndef BENCH_H
#define BENCH_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <linux/tcp.h>

#include "addr.h"
#include "segment.h"
#include "steer_shared.h"
#include "util.h"

#define LO	1 /* ifindex */
#define WAIT_MS 5000

/* Linux 6.6; Debian 12's headers are older. */
#define ATTACH_TCX_INGRESS 46
#define ATTACH_TCX_EGRESS  47

/* One end's view of a connection: what seize is told, and the sockets themselves. */
struct connection {
	int client, server;
	struct endpoint remote, local;
	struct flow_key key;
	uint64_t cookie;
};

/* How a client or a listener differs from the usual one; zeros: it does not. */
struct socket_options {
	int protocol; /* IPPROTO_MPTCP */
	int mss;
	int receive_buffer;
	bool v6_only;
	bool no_reuse; /* without SO_REUSEADDR */
	int backlog;   /* from 1; -1: listen(fd, 0) */
};

/* ---- the namespace ---- */

static inline void run(const char *command)
{
	int status = system(command);

	if (status)
		fail_msg("%s: status %d", command, status);
}

/* /proc/sys/net shows the network namespace of whoever opens it. */
static inline void sysctl_set(const char *name, int value)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_true(fprintf(file, "%d\n", value) > 0);
	assert_int_equal(fclose(file), 0);
}

static inline bool unprivileged(void)
{
	if (geteuid())
		print_message("skipped: needs root, for network namespaces and BPF\n");
	return geteuid() != 0;
}

/* A group's set-up. */
static inline int namespace_make(void **state)
{
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	run("ip link set lo up");
	return 0;
}

/* A second one, where clients are: this host's only way to it is a veth pair (or more) of the
 * test's. */
struct peer {
	pid_t pid; /* holds it; $PEER for run() */
	int own_ns, ns;
};

#define IN_PEER "nsenter --net=/proc/$PEER/ns/net "

static inline int netns_open(pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static inline struct peer peer_make(void)
{
	struct peer peer;
	char text[16], byte;
	int pipes[2];

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	peer.pid = fork();
	assert_true(peer.pid >= 0);
	if (peer.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWNET) < 0 || write(pipes[1], "r", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	close(pipes[0]);
	peer.own_ns = netns_open(getpid());
	peer.ns = netns_open(peer.pid);
	snprintf(text, sizeof(text), "%d", peer.pid);
	setenv("PEER", text, 1);
	return peer;
}

/* The way there: v0 here and v1 there, 10.77.0.1 and .2, fd77::1 and ::2. */
static inline void peer_wire(void)
{
	run("ip link add v0 type veth peer name v1 netns $PEER &&"
	    "ip addr add 10.77.0.1/24 dev v0 && ip addr add fd77::1/64 dev v0 nodad &&"
	    "ip link set v0 up");
	run(IN_PEER "sh -c 'ip addr add 10.77.0.2/24 dev v1 &&"
		    "ip addr add fd77::2/64 dev v1 nodad && ip link set v1 up'");
}

static inline void peer_drop(struct peer *peer)
{
	kill(peer->pid, SIGKILL);
	waitpid(peer->pid, NULL, 0);
	close(peer->own_ns);
	close(peer->ns);
}

/* ---- sockets ---- */

static inline struct endpoint endpoint_of(const char *text, uint16_t port)
{
	struct endpoint endpoint;

	assert_int_equal(endpoint_parse(text, 1, &endpoint), 0);
	endpoint.port = port;
	return endpoint;
}

static inline struct endpoint name_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *))
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct endpoint endpoint;

	assert_int_equal(get(fd, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(endpoint_from_sockaddr(&sa, &endpoint), 0);
	return endpoint;
}

static inline int get_local(int fd, struct sockaddr *sa, socklen_t *len)
{
	return getsockname(fd, sa, len);
}

static inline int get_peer(int fd, struct sockaddr *sa, socklen_t *len)
{
	return getpeername(fd, sa, len);
}

static inline struct endpoint local_of(int fd)
{
	return name_of(fd, get_local);
}

static inline struct endpoint peer_of(int fd)
{
	return name_of(fd, get_peer);
}

static inline uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len), 0);
	assert_true(cookie != 0);
	return cookie;
}

static inline int option_get(int fd, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, name, &value, &len), 0);
	return value;
}

static inline void option_set(int fd, int level, int name, int value)
{
	assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

static inline int socket_make(int family, const struct socket_options *options)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, options ? options->protocol : 0);

	assert_true(fd >= 0);
	option_set(fd, SOL_SOCKET, SO_REUSEADDR, !(options && options->no_reuse));
	if (options && options->mss)
		option_set(fd, IPPROTO_TCP, TCP_MAXSEG, options->mss);
	if (options && options->receive_buffer)
		option_set(fd, SOL_SOCKET, SO_RCVBUF, options->receive_buffer);
	if (family == AF_INET6)
		option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, options && options->v6_only);
	return fd;
}

/* A listener; port 0: any. An address like "::ffff:127.0.0.1" makes an AF_INET6 one of 127.0.0.1.
 */
static inline int listen_on(const char *address, uint16_t port,
			    const struct socket_options *options)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
	int backlog = options && options->backlog ? MAX(options->backlog, 0) : 1024;
	int fd;

	if (inet_pton(AF_INET, address, &in.sin_addr) == 1) {
		fd = socket_make(AF_INET, options);
		assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	} else {
		assert_int_equal(inet_pton(AF_INET6, address, &in6.sin6_addr), 1);
		fd = socket_make(AF_INET6, options);
		assert_int_equal(bind(fd, (struct sockaddr *)&in6, sizeof(in6)), 0);
	}
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static inline int connect_with(const struct endpoint *to, const struct socket_options *options)
{
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(to, &sa);
	int fd = socket_make(sa.ss_family, options);

	if (connect(fd, (struct sockaddr *)&sa, len))
		fail_msg("connect: %s", strerror(errno));
	return fd;
}

/* The same from the second namespace. */
static inline int connect_from_peer(const struct peer *peer, const struct endpoint *to,
				    const struct socket_options *options)
{
	int fd;

	assert_int_equal(setns(peer->ns, CLONE_NEWNET), 0);
	fd = connect_with(to, options);
	assert_int_equal(setns(peer->own_ns, CLONE_NEWNET), 0);
	return fd;
}

static inline bool ready(int fd, short events, int timeout_ms)
{
	struct pollfd pollfd = { .fd = fd, .events = events };

	return poll(&pollfd, 1, timeout_ms) == 1;
}

static inline int accept_from(int listener)
{
	int fd;

	if (!ready(listener, POLLIN, WAIT_MS))
		fail_msg("nothing to accept");
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Whose accept queue is the newcomer in? The two are looked at until one of them has it. */
static inline int who_accepts(const int listeners[2])
{
	struct pollfd pollfds[2] = { { .fd = listeners[0], .events = POLLIN },
				     { .fd = listeners[1], .events = POLLIN } };

	if (poll(pollfds, 2, WAIT_MS) != 1)
		fail_msg("not exactly one of the listeners has something to accept");
	return pollfds[1].revents ? 1 : 0;
}

static inline void key_fill(struct flow_key *key, const struct endpoint *remote,
			    const struct endpoint *local)
{
	*key = (struct flow_key){ .remote_port = htons(remote->port),
				  .local_port = htons(local->port) };
	memcpy(key->remote, &remote->addr, 16);
	memcpy(key->local, &local->addr, 16);
}

/* Takes the next connection of @listener, which @client has made. */
static inline struct connection connection_take(int client, int listener)
{
	struct connection c = { .client = client, .server = accept_from(listener) };

	c.remote = peer_of(c.server);
	c.local = local_of(c.server);
	c.cookie = cookie_of(c.server);
	key_fill(&c.key, &c.remote, &c.local);
	return c;
}

static inline struct connection connection_make(const char *address, int listener,
						const struct socket_options *options)
{
	struct endpoint to = endpoint_of(address, local_of(listener).port);

	return connection_take(connect_with(&to, options), listener);
}

static inline void connection_close(struct connection *c)
{
	if (c->client >= 0)
		close(c->client);
	if (c->server >= 0)
		close(c->server);
	c->client = c->server = -1;
}

/* close() with a reset. */
static inline void reset(int fd)
{
	const struct linger linger = { .l_onoff = 1 };

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	close(fd);
}

/* ---- bytes ---- */

/* Position-dependent, with a period that no segment size divides. */
static inline void pattern_fill(uint8_t *bytes, size_t len, size_t from)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)((from + i) % 251 + 1);
}

static inline void send_pattern(int fd, size_t len, size_t from)
{
	_cleanup_free_ uint8_t *bytes = malloc(len);

	pattern_fill(bytes, len, from);
	assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
}

/* Reads exactly @len bytes of the pattern. */
static inline void expect_pattern(int fd, size_t len, size_t from)
{
	_cleanup_free_ uint8_t *bytes = malloc(len);
	_cleanup_free_ uint8_t *expected = malloc(len);
	size_t got = 0;

	pattern_fill(expected, len, from);
	while (got < len) {
		ssize_t n;

		if (!ready(fd, POLLIN, WAIT_MS))
			fail_msg("%zu of %zu bytes, then nothing", got, len);
		n = recv(fd, bytes + got, len - got, 0);
		if (n <= 0)
			fail_msg("%zu of %zu bytes, then %s", got, len,
				 n ? strerror(errno) : "the end");
		got += (size_t)n;
	}
	assert_memory_equal(bytes, expected, len);
}

static inline void expect_end(int fd)
{
	char byte;

	assert_true(ready(fd, POLLIN, WAIT_MS));
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

/* True as soon as @condition is; false after a while. */
#define wait_until(condition)                                       \
	({                                                          \
		uint64_t _end = now_ns() + WAIT_MS * NSEC_PER_MSEC; \
		bool _true;                                         \
		while (!(_true = (condition)) && now_ns() < _end)   \
			poll(NULL, 0, 1);                           \
		_true;                                              \
	})

/* ---- what the kernel says of a socket ---- */

static inline struct tcp_info info_of(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	return info;
}

static inline unsigned unread(int fd)
{
	static uint8_t bytes[1 << 20];
	ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);

	return n > 0 ? (unsigned)n : 0;
}

/* What only a socket in repair mode tells. */
struct numbers {
	uint32_t rcv_nxt, snd_nxt, tstamp, mss;
	struct tcp_repair_window window;
};

static inline struct numbers numbers_of(int fd)
{
	struct numbers n = {};
	socklen_t len = sizeof(n.window);

	option_set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	option_set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
	n.rcv_nxt = (uint32_t)option_get(fd, TCP_QUEUE_SEQ);
	option_set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	n.snd_nxt = (uint32_t)option_get(fd, TCP_QUEUE_SEQ);
	n.tstamp = (uint32_t)option_get(fd, TCP_TIMESTAMP);
	n.mss = (uint32_t)option_get(fd, TCP_MAXSEG);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &n.window, &len), 0);
	option_set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	return n;
}

/* Sends @segment from the client's address to ours, by lo. */
static inline void raw_send(struct segment segment)
{
	static const uint8_t mac[6];
	const struct sockaddr_in to = { .sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	uint8_t frame[2048];
	size_t len;

	segment.mac = mac;
	len = segment_build(&segment, frame, sizeof(frame));
	assert_true(len > 0);
	assert_int_equal(
		sendto(fd, frame + 14, len - 14, 0, (const struct sockaddr *)&to, sizeof(to)),
		len - 14);
	close(fd);
}

#endif
