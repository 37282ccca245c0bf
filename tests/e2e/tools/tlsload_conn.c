/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One of tlsload's connections:
 *
 *	CONNECT -> (HELLO_WAIT) -> HANDSHAKE -> (REQUEST_WAIT) -> RESPONSE -> done
 *
 * where the waits are those of a client far away. Anything else than the expected status and body
 * and an orderly end is a failure, with its reason. The waits are constant, so each kind has a
 * FIFO; a connection is in at most one of them, and always in the FIFO of the time limit.
 */
#include "tlsload.h"

#include <sys/epoll.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define FAR_WAIT_NS  (40 * NS_PER_MS)
#define SLOW_WAIT_NS (300 * NS_PER_MS)

enum state { CONNECT, HELLO_WAIT, HANDSHAKE, REQUEST_WAIT, RESPONSE };
static const char *const state_names[] = { "connect", "wait before hello", "handshake",
					   "wait before request", "response" };

enum fifo_kind { FIFO_FAR, FIFO_SLOW, FIFO_LIMIT, FIFO_COUNT };

struct conn {
	struct conn *next[FIFO_COUNT], *prev[FIFO_COUNT];
	uint64_t due[FIFO_COUNT];
	int fd;
	enum state state;
	bool far, slow;
	bool early, early_written; /* the request goes with the ClientHello */
	uint32_t interest;
	uint64_t start_ns, waited_ns, wait_began_ns;
	SSL *ssl;
	const struct tool_addr *target;
	struct sockaddr_storage local;
	struct response response;
};

struct fifo {
	struct conn *first, *last;
	uint64_t delay_ns;
};

static struct fifo fifos[FIFO_COUNT];
static SSL_CTX *ctx;
static int epfd;
static char request[1024];
static uint64_t random_state;
static SSL_SESSION *session; /* the newest */

static void fifo_add(enum fifo_kind kind, struct conn *conn, uint64_t now)
{
	struct fifo *fifo = &fifos[kind];

	conn->due[kind] = now + fifo->delay_ns;
	conn->next[kind] = NULL;
	conn->prev[kind] = fifo->last;
	if (fifo->last)
		fifo->last->next[kind] = conn;
	else
		fifo->first = conn;
	fifo->last = conn;
}

static void fifo_remove(enum fifo_kind kind, struct conn *conn)
{
	struct fifo *fifo = &fifos[kind];

	if (!conn->due[kind])
		return;
	conn->due[kind] = 0;
	if (conn->prev[kind])
		conn->prev[kind]->next[kind] = conn->next[kind];
	else
		fifo->first = conn->next[kind];
	if (conn->next[kind])
		conn->next[kind]->prev[kind] = conn->prev[kind];
	else
		fifo->last = conn->prev[kind];
}

static void keep_session(struct conn *conn)
{
	SSL_SESSION *newest = SSL_get1_session(conn->ssl);

	totals.n_resumed += (uint64_t)SSL_session_reused(conn->ssl);
	if (newest && SSL_SESSION_is_resumable(newest)) {
		SSL_SESSION_free(session);
		session = newest;
	} else {
		SSL_SESSION_free(newest);
	}
	/* Or SSL_free() takes the session for a bad one. */
	SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN);
}

static void conn_end(struct conn *conn, const char *failure)
{
	uint64_t now = tool_now(), took = now - conn->start_ns - conn->waited_ns;
	char host[TOOL_ADDRLEN];

	if (failure) {
		tool_events_add(&totals.failures, conn->start_ns, &conn->local, &conn->target->sa,
				failure);
	} else {
		totals.n_ok++;
		if (opt.resume_fraction > 0)
			keep_session(conn);
		tool_samples_add(&totals.latencies, took);
		if ((double)took > opt.stall_ms * 1e6)
			tool_events_add(&totals.stalls, conn->start_ns, &conn->local,
					&conn->target->sa, "stall");
	}
	if (opt.log)
		fprintf(opt.log, "%s %u %s\n", tool_addr_host(&conn->local, host),
			tool_addr_port(&conn->local), failure ? failure : "ok");
	for (int kind = 0; kind < FIFO_COUNT; kind++)
		fifo_remove(kind, conn);
	SSL_free(conn->ssl);
	if (conn->fd >= 0)
		close(conn->fd);
	free(conn);
	totals.n_live--;
}

__attribute__((format(printf, 2, 3))) static void conn_fail(struct conn *conn, const char *fmt, ...)
{
	char what[96];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	conn_end(conn, what);
}

static void conn_fail_tls(struct conn *conn, int ret)
{
	char fault[TLS_FAULT_LEN];

	conn_fail(conn, "%s: %s", state_names[conn->state], tls_fault(conn->ssl, ret, fault));
}

static void conn_interest(struct conn *conn, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = conn };

	if (conn->interest == events)
		return;
	epoll_ctl(epfd, conn->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, conn->fd, &event);
	conn->interest = events;
}

static void conn_wait(struct conn *conn, enum state state, enum fifo_kind kind)
{
	conn->state = state;
	conn->wait_began_ns = tool_now();
	fifo_add(kind, conn, conn->wait_began_ns);
	/* Tickets may come before the request: not looked at yet. */
	conn_interest(conn, EPOLLRDHUP | (state == HELLO_WAIT ? EPOLLIN : 0));
}

/* Returns false when the connection is gone, or has to wait for an event. */
static bool conn_tls_progress(struct conn *conn, int ret)
{
	if (ret > 0)
		return true;
	switch (SSL_get_error(conn->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
		conn_interest(conn, EPOLLIN | EPOLLRDHUP);
		return false;
	case SSL_ERROR_WANT_WRITE:
		conn_interest(conn, EPOLLOUT | EPOLLRDHUP);
		return false;
	default:
		conn_fail_tls(conn, ret);
		return false;
	}
}

static void conn_read(struct conn *conn)
{
	uint8_t buf[16384];
	int n;

	for (;;) {
		ERR_clear_error();
		errno = 0;
		n = SSL_read(conn->ssl, buf, sizeof(buf));
		if (n > 0) {
			if (response_take(&conn->response, buf, (size_t)n, &opt.expected))
				continue;
			conn_fail(conn, "%s", conn->response.fault);
			return;
		}
		if (SSL_get_error(conn->ssl, n) == SSL_ERROR_ZERO_RETURN &&
		    conn->response.head_done) {
			if (response_is_whole(&conn->response, &opt.expected))
				conn_end(conn, NULL);
			else
				conn_fail(conn, "response: short body");
			return;
		}
		conn_tls_progress(conn, n);
		return;
	}
}

static void conn_request(struct conn *conn)
{
	conn->state = RESPONSE;
	ERR_clear_error();
	errno = 0;
	/* Fits any send buffer: all or nothing. */
	if (conn_tls_progress(conn, SSL_write(conn->ssl, request, (int)strlen(request)))) {
		conn_interest(conn, EPOLLIN | EPOLLRDHUP);
		conn_read(conn);
	}
}

/* The request, as 0-RTT data. Returns false when the connection is gone or has to wait. */
static bool conn_write_early(struct conn *conn)
{
	size_t written;

	if (!conn_tls_progress(conn,
			       SSL_write_early_data(conn->ssl, request, strlen(request), &written)))
		return false;
	conn->early_written = true;
	return true;
}

static void conn_handshake(struct conn *conn)
{
	conn->state = HANDSHAKE;
	ERR_clear_error();
	errno = 0;
	if (conn->early && !conn->early_written && !conn_write_early(conn))
		return;
	if (!conn_tls_progress(conn, SSL_connect(conn->ssl)))
		return;
	if (conn->early && SSL_get_early_data_status(conn->ssl) == SSL_EARLY_DATA_ACCEPTED) {
		totals.n_early++;
		conn->state = RESPONSE;
		conn_interest(conn, EPOLLIN | EPOLLRDHUP);
		conn_read(conn);
	} else if (conn->far) {
		conn_wait(conn, REQUEST_WAIT, FIFO_FAR);
	} else {
		conn_request(conn);
	}
}

static void conn_connected(struct conn *conn)
{
	int error = tool_connected(conn->fd, &conn->local);

	if (error) {
		conn_fail(conn, "connect: %s", strerror(error));
		return;
	}
	if (conn->slow)
		conn_wait(conn, HELLO_WAIT, FIFO_SLOW);
	else if (conn->far)
		conn_wait(conn, HELLO_WAIT, FIFO_FAR);
	else
		conn_handshake(conn);
}

void conn_event(struct conn *conn, uint32_t events)
{
	char byte;

	switch (conn->state) {
	case CONNECT:
		conn_connected(conn);
		break;
	case HELLO_WAIT:
		if (recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0)
			conn_fail(conn, "%s: %s", state_names[conn->state], strerror(errno));
		else
			conn_fail(conn, "%s: data or end of stream", state_names[conn->state]);
		break;
	case HANDSHAKE:
		conn_handshake(conn);
		break;
	case REQUEST_WAIT:
		conn_fail(conn, "%s: closed", state_names[conn->state]);
		break;
	case RESPONSE:
		conn_read(conn);
		break;
	}
}

static double random_fraction(void)
{
	return (double)(tool_mix(random_state++) >> 11) / (double)(UINT64_C(1) << 53);
}

void conn_start(uint64_t due_ns)
{
	const struct tool_addr *target = &opt.targets.addr[totals.n_started % opt.targets.n],
			       *source;
	struct conn *conn = calloc(1, sizeof(*conn));
	int one = 1;

	if (!conn)
		tool_die("out of memory");
	totals.n_started++;
	totals.n_live++;
	conn->target = target;
	conn->start_ns = tool_now();
	if (conn->start_ns - due_ns > totals.max_late_ns)
		totals.max_late_ns = conn->start_ns - due_ns;
	conn->far = random_fraction() < opt.far_fraction;
	conn->slow = random_fraction() < opt.slow_fraction;
	conn->local.ss_family = target->sa.ss_family;
	fifo_add(FIFO_LIMIT, conn, conn->start_ns);
	conn->fd = socket(target->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (conn->fd < 0) {
		conn_fail(conn, "socket: %s", strerror(errno));
		return;
	}
	setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	source = tool_addrs_of_family(&opt.sources, target->sa.ss_family,
				      totals.n_started / opt.targets.n);
	if (source && tool_bind_source(conn->fd, source) < 0) {
		conn_fail(conn, "bind: %s", strerror(errno));
		return;
	}
	conn->ssl = SSL_new(ctx);
	if (!conn->ssl || !SSL_set_fd(conn->ssl, conn->fd) ||
	    !SSL_set_tlsext_host_name(conn->ssl, opt.sni))
		tool_die("SSL_new failed");
	if (session && random_fraction() < opt.resume_fraction) {
		/* Of its own: OpenSSL makes the session of one that fails useless. */
		SSL_SESSION *copy = SSL_SESSION_dup(session);

		if (!copy || !SSL_set_session(conn->ssl, copy))
			tool_die("SSL_SESSION_dup failed");
		conn->early = SSL_SESSION_get_max_early_data(copy) > 0 &&
			      random_fraction() < opt.early_fraction;
		SSL_SESSION_free(copy);
	}
	if (connect(conn->fd, (const struct sockaddr *)&target->sa, target->len) < 0 &&
	    errno != EINPROGRESS) {
		conn_fail(conn, "connect: %s", strerror(errno));
		return;
	}
	conn_interest(conn, EPOLLOUT);
}

void conn_run_waits(uint64_t now)
{
	struct conn *conn;

	for (int kind = 0; kind < FIFO_LIMIT; kind++) {
		while ((conn = fifos[kind].first) && conn->due[kind] <= now) {
			fifo_remove(kind, conn);
			conn->waited_ns += tool_now() - conn->wait_began_ns;
			if (conn->state == HELLO_WAIT)
				conn_handshake(conn);
			else
				conn_request(conn);
		}
	}
	while ((conn = fifos[FIFO_LIMIT].first) && conn->due[FIFO_LIMIT] <= now)
		conn_fail(conn, "%s: timeout", state_names[conn->state]);
}

uint64_t conn_next_due(void)
{
	uint64_t due = UINT64_MAX;

	for (int kind = 0; kind < FIFO_COUNT; kind++)
		if (fifos[kind].first && fifos[kind].first->due[kind] < due)
			due = fifos[kind].first->due[kind];
	return due;
}

static void make_ctx(void)
{
	uint8_t wire[256];
	size_t len = strlen(opt.alpn);

	ctx = SSL_CTX_new(TLS_client_method());
	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set1_groups_list(ctx, "X25519:P-256"))
		tool_die("SSL_CTX_new failed");
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_quiet_shutdown(ctx, 1);
	SSL_CTX_set_read_ahead(ctx, 1);
	if (len && len < sizeof(wire)) {
		wire[0] = (uint8_t)len;
		memcpy(wire + 1, opt.alpn, len);
		SSL_CTX_set_alpn_protos(ctx, wire, (unsigned)len + 1);
	}
}

int conn_init(void)
{
	make_ctx();
	random_state = opt.seed;
	fifos[FIFO_FAR].delay_ns = FAR_WAIT_NS;
	fifos[FIFO_SLOW].delay_ns = SLOW_WAIT_NS;
	fifos[FIFO_LIMIT].delay_ns = (uint64_t)(opt.timeout_s * 1e9);
	snprintf(request, sizeof(request),
		 "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", opt.path, opt.sni);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0)
		tool_die("epoll_create1: %s", strerror(errno));
	return epfd;
}
