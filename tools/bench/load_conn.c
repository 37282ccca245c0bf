/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One connection of the bench's client:
 *
 *	CONNECT -> HANDSHAKE -> REQUEST -> RESPONSE -> closed, or REQUEST again, or HELD
 *
 * Every response is checked to the last byte, and that the web server saw the connection come from
 * where it should (its header X-Peer). Anything wrong is a failure with its reason.
 */
#include "load.h"

#include <sys/epoll.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

static const char *const state_names[] = { "free",    "connect",  "handshake",
					   "request", "response", "held" };

static void conn_free(struct conn *conn)
{
	struct worker *worker = conn->worker;

	if (!conn->first_byte_seen)
		worker->n_starting--;
	SSL_free(conn->ssl);
	conn->ssl = NULL;
	close(conn->fd);
	conn->state = FREE;
	conn->next = worker->free;
	worker->free = conn;
	worker->n_live--;
}

__attribute__((format(printf, 2, 3))) static void conn_fail(struct conn *conn, const char *fmt, ...)
{
	struct worker *worker = conn->worker;
	char what[96];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	tool_events_add(&worker->failures, conn->due_ns, &conn->local, &opt.targets.addr[0].sa,
			what);
	add(&worker->n_failed, 1);
	conn_free(conn);
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
	epoll_ctl(conn->worker->epoll_fd, conn->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, conn->fd,
		  &event);
	conn->interest = events;
}

/* Returns false when the connection is gone, or has to wait for an event. */
static bool conn_tls_progress(struct conn *conn, int ret)
{
	if (ret > 0)
		return true;
	switch (SSL_get_error(conn->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
		conn_interest(conn, EPOLLIN);
		return false;
	case SSL_ERROR_WANT_WRITE:
		conn_interest(conn, EPOLLOUT);
		return false;
	default:
		conn_fail_tls(conn, ret);
		return false;
	}
}

/* Did the web server see it come from where it should? */
static bool conn_check_peer(struct conn *conn)
{
	char host[TOOL_ADDRLEN];
	const char *expected = opt.expect_peer;
	const char *peer;
	size_t len;

	if (!expected)
		return true;
	if (!strcmp(expected, "self"))
		expected = tool_addr_host(&conn->local, host);
	peer = response_header(&conn->response, "\r\nX-Peer:", &len);
	if (peer && len == strlen(expected) && !memcmp(peer, expected, len))
		return true;
	conn_fail(conn, "route: the web server saw %.*s, not %s", peer ? (int)len : 7,
		  peer ? peer : "nothing", expected);
	return false;
}

static bool conn_take(struct conn *conn, const uint8_t *data, size_t len)
{
	struct response *response = &conn->response;
	bool in_head = !response->head_done;
	size_t old = response->body_len;

	if (!response_take(response, data, len, &opt.expected)) {
		conn_fail(conn, "%s", response->fault);
		return false;
	}
	if (opt.mode == MODE_DOWN)
		add(&conn->worker->n_bytes, response->body_len - old);
	return !in_head || !response->head_done || conn_check_peer(conn);
}

/* A whole response is there. Returns false when there is nothing more to read now. */
static bool conn_responded(struct conn *conn)
{
	struct worker *worker = conn->worker;

	if (opt.mode == MODE_CONNECT)
		return true; /* the end has to come, too */
	add(&worker->n_done, 1);
	if (opt.mode == MODE_HOLD && !is_stopped()) {
		conn->state = HELD;
		conn_interest(conn, EPOLLIN);
	} else if (is_over(tool_now())) {
		SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
		conn_free(conn);
	} else {
		conn_request(conn);
	}
	return false;
}

static void conn_first_byte(struct conn *conn)
{
	struct worker *worker = conn->worker;
	uint64_t now = tool_now();

	conn->first_byte_seen = true;
	worker->n_starting--;
	add(&worker->n_ready, 1);
	if (opt.mode == MODE_CONNECT && is_measured(conn->due_ns))
		tool_samples_add(&worker->latencies, now - conn->due_ns);
}

static void keep_session(struct conn *conn)
{
	SSL_SESSION *newest = opt.resume ? SSL_get1_session(conn->ssl) : NULL;

	conn->worker->n_resumed += (uint64_t)SSL_session_reused(conn->ssl);
	if (newest && SSL_SESSION_is_resumable(newest)) {
		SSL_SESSION_free(conn->worker->session);
		conn->worker->session = newest;
	} else {
		SSL_SESSION_free(newest);
	}
}

static void conn_read(struct conn *conn)
{
	struct worker *worker = conn->worker;
	int n;

	for (;;) {
		ERR_clear_error();
		errno = 0;
		n = SSL_read(conn->ssl, worker->buffer, BUFFER);
		if (n <= 0)
			break;
		conn->activity_ns = tool_now();
		if (!conn->first_byte_seen)
			conn_first_byte(conn);
		if (!conn_take(conn, worker->buffer, (size_t)n))
			return;
		if (response_is_whole(&conn->response, &opt.expected) && !conn_responded(conn))
			return;
	}
	if (SSL_get_error(conn->ssl, n) != SSL_ERROR_ZERO_RETURN || opt.mode != MODE_CONNECT ||
	    !conn->response.head_done) {
		conn_tls_progress(conn, n);
	} else if (!response_is_whole(&conn->response, &opt.expected)) {
		conn_fail(conn, "response: short body");
	} else {
		add(&worker->n_done, 1);
		keep_session(conn);
		/* Or SSL_free() takes the session for a bad one. */
		SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN);
		conn_free(conn);
	}
}

/* Head and body of the request, as far as the socket takes them. */
static void conn_write(struct conn *conn)
{
	char head[512];
	int head_len, ret;

	if (conn->sent == 0) {
		head_len = opt.mode == MODE_UP ?
				   snprintf(head, sizeof(head),
					    "PUT %s%u HTTP/1.1\r\nHost: %s\r\nContent-Length: "
					    "%zu\r\n\r\n",
					    opt.path, conn->index, opt.sni, opt.upload_len) :
				   snprintf(head, sizeof(head),
					    "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", opt.path,
					    opt.sni,
					    opt.mode == MODE_CONNECT ? "Connection: close\r\n" :
								       "");
		ret = SSL_write(conn->ssl, head, head_len);
		if (!conn_tls_progress(conn, ret))
			return;
		conn->sent = 1; /* the head counts as one byte */
	}
	while (opt.mode == MODE_UP && conn->sent <= opt.upload_len) {
		size_t left = opt.upload_len + 1 - conn->sent;

		ERR_clear_error();
		errno = 0;
		ret = SSL_write(conn->ssl, opt.upload + conn->sent - 1,
				(int)(left < UPLOAD_CHUNK ? left : UPLOAD_CHUNK));
		if (!conn_tls_progress(conn, ret))
			return;
		conn->sent += (size_t)ret;
		conn->activity_ns = tool_now();
		add(&conn->worker->n_bytes, (uint64_t)ret);
	}
	conn->state = RESPONSE;
	conn_interest(conn, EPOLLIN);
}

void conn_request(struct conn *conn)
{
	conn->state = REQUEST;
	conn->activity_ns = tool_now(); /* it may have been held for long */
	conn->sent = 0;
	response_begin(&conn->response);
	ERR_clear_error();
	errno = 0;
	conn_write(conn);
}

static void conn_handshake(struct conn *conn)
{
	conn->state = HANDSHAKE;
	ERR_clear_error();
	errno = 0;
	if (conn_tls_progress(conn, SSL_connect(conn->ssl)))
		conn_request(conn);
}

static void conn_connected(struct conn *conn)
{
	int error = tool_connected(conn->fd, &conn->local);

	if (error) {
		conn_fail(conn, "connect: %s", strerror(error));
		return;
	}
	conn_handshake(conn);
}

/* While a body goes out only a failing connection is readable. */
void conn_event(struct conn *conn, uint32_t events)
{
	switch (conn->state) {
	case CONNECT:
		conn_connected(conn);
		break;
	case HANDSHAKE:
		conn_handshake(conn);
		break;
	case REQUEST:
		ERR_clear_error();
		errno = 0;
		conn_write(conn);
		break;
	case RESPONSE:
		conn_read(conn);
		break;
	case HELD:
		conn_fail(conn, "held: data or end of stream");
		break;
	case FREE:
		break;
	}
}

void conn_start(struct worker *worker, uint64_t due_ns)
{
	const struct tool_addr *target = &opt.targets.addr[0], *source;
	struct conn *conn = worker->free;
	uint64_t now = tool_now();
	int one = 1;

	worker->free = conn->next;
	worker->n_live++;
	worker->n_starting++;
	conn->state = CONNECT;
	conn->interest = 0;
	conn->first_byte_seen = false;
	conn->due_ns = due_ns;
	conn->activity_ns = now;
	conn->local = (struct sockaddr_storage){ .ss_family = target->sa.ss_family };
	if (is_measured(due_ns))
		tool_samples_add(&worker->lateness, now - due_ns);
	source = tool_addrs_of_family(&opt.sources, target->sa.ss_family,
				      worker->n_started++ * opt.workers + worker->index);
	conn->fd = socket(target->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	conn->ssl = SSL_new(worker->ctx);
	if (conn->fd < 0 || !conn->ssl || !SSL_set_fd(conn->ssl, conn->fd) ||
	    !SSL_set_tlsext_host_name(conn->ssl, opt.sni))
		tool_die("a socket and its TLS state: %s", strerror(errno));
	if (worker->session)
		SSL_set_session(conn->ssl, worker->session);
	setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (source && tool_bind_source(conn->fd, source) < 0) {
		conn_fail(conn, "bind: %s", strerror(errno));
		return;
	}
	if (connect(conn->fd, (const struct sockaddr *)&target->sa, target->len) < 0 &&
	    errno != EINPROGRESS) {
		conn_fail(conn, "connect: %s", strerror(errno));
		return;
	}
	conn_interest(conn, EPOLLOUT);
}

void conn_check(struct conn *conn, uint64_t limit_ns)
{
	if (conn->state != FREE && conn->state != HELD &&
	    tool_now() > conn->activity_ns + limit_ns)
		conn_fail(conn, "%s: timeout", state_names[conn->state]);
}
