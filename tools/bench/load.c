/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bench's client: TLS 1.3, several workers, each a thread with an epoll of its own.
 *
 *	CONNECT -> HANDSHAKE -> REQUEST -> RESPONSE -> closed, or REQUEST again, or HELD
 *
 * It measures between two moments, begin and end, when the main thread reads the workers' counters,
 * their CPU time and the whole system's from /proc/stat. What is under way at the end is finished,
 * and checked, but not counted. Every response is checked to the last byte, and that the web server
 * saw the connection come from where it should (its header X-Peer). Anything wrong is a failure with
 * its reason, and the exit code is 1.
 *
 * With --rate connections start when they are due, however many are under way, and latencies count
 * from that moment: a server that stands still can't hide it. Without, each worker keeps its
 * share of --connections busy. How late the client itself was, and how much of a CPU each worker
 * took, is in the result: who reads it must judge whether the client was the bottleneck.
 */
#include "tls.h"
#include "tool.h"

#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define HEAD_MAX       1024
#define WORKERS_MAX    16
#define RATE_MAX_LIVE  4096 /* of one worker */
#define STARTING_MAX   32   /* of one worker, while many connections are opened to be kept */
#define UPLOAD_CHUNK   16384
#define EVENTS_MAX     128
#define BUFFER	       65536
#define CHECK_LIMITS_NS (50 * NS_PER_MS)

enum mode { MODE_CONNECT, MODE_REQUESTS, MODE_DOWN, MODE_UP, MODE_HOLD, MODES };
static const char *const mode_names[MODES] = { "connect", "requests", "down", "up", "hold" };

enum state { FREE, CONNECT, HANDSHAKE, REQUEST, RESPONSE, HELD };
static const char *const state_names[] = { "free",    "connect",  "handshake",
					   "request", "response", "held" };

struct worker;

struct conn {
	struct worker *worker;
	struct conn *next; /* free */
	int fd;
	enum state state;
	uint32_t interest;
	bool head_done, first_byte_seen;
	uint64_t due_ns, activity_ns;
	SSL *ssl;
	unsigned index; /* of all */
	struct sockaddr_storage local;
	char head[HEAD_MAX];
	size_t head_len, body_len, body_expected, sent;
};

struct worker {
	pthread_t thread;
	unsigned index;
	int epoll_fd;
	SSL_CTX *ctx;
	SSL_SESSION *session; /* the newest */
	struct conn *conns, *free;
	unsigned n_conns, n_live, n_starting;
	uint64_t n_started;
	/* Read by the main thread: __atomic. */
	uint64_t n_done;  /* responses */
	uint64_t n_bytes; /* of bodies, either way */
	uint64_t n_ready; /* connections that have had their first response */
	uint64_t n_failed;
	uint64_t n_resumed;
	struct tool_samples latencies, lateness;
	struct tool_events failures;
	uint8_t buffer[BUFFER];
};

static struct {
	enum mode mode;
	unsigned workers, connections;
	double rate, warmup_s, seconds, timeout_s;
	bool resume;
	const char *sni, *path, *expect_peer, *progress_path, *samples_path;
	struct tool_addrs targets, sources;
	uint8_t *expect, *upload;
	size_t expect_len, upload_len;
} opt = {
	.workers = 2,
	.connections = 64,
	.warmup_s = 0.2,
	.seconds = 1,
	.timeout_s = 10,
	.sni = "www.example.test",
	.path = "/",
};

static struct worker workers[WORKERS_MAX];
static uint64_t begin_ns, end_ns; /* __atomic; 0: not yet */

static uint64_t count(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static bool is_over(uint64_t now)
{
	uint64_t end = count(&end_ns);

	return tool_stop || (end && now >= end);
}

static bool is_measured(uint64_t ns)
{
	uint64_t begin = count(&begin_ns);

	return begin && ns >= begin && ns < count(&end_ns);
}

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

/* The value of header @name (with its colon) in a head that ends in an empty line; NULL: none. */
static const char *header(const char *head, const char *name, size_t *ret_len)
{
	const char *at = strcasestr(head, name);

	if (!at)
		return NULL;
	at += strlen(name);
	at += strspn(at, " ");
	*ret_len = strcspn(at, "\r\n");
	return at;
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
	peer = header(conn->head, "\r\nX-Peer:", &len);
	if (peer && len == strlen(expected) && !memcmp(peer, expected, len))
		return true;
	conn_fail(conn, "route: the web server saw %.*s, not %s", peer ? (int)len : 7,
		  peer ? peer : "nothing", expected);
	return false;
}

static bool conn_check_head(struct conn *conn)
{
	const char *length;
	int status = 0;
	size_t len;

	if (sscanf(conn->head, "HTTP/1.%*d %d", &status) != 1) {
		conn_fail(conn, "response: not HTTP");
		return false;
	}
	if (opt.mode == MODE_UP ? status != 201 && status != 204 : status != 200) {
		conn_fail(conn, "response: status %d", status);
		return false;
	}
	conn->body_expected = opt.mode == MODE_UP ? 0 : opt.expect_len;
	length = header(conn->head, "\r\nContent-Length:", &len);
	if ((length ? strtoull(length, NULL, 10) : 0) != conn->body_expected) {
		conn_fail(conn, "response: unexpected length");
		return false;
	}
	return conn_check_peer(conn);
}

static bool conn_check_body(struct conn *conn, const uint8_t *data, size_t len)
{
	if (conn->body_len + len > conn->body_expected) {
		conn_fail(conn, "response: body too long");
		return false;
	}
	if (memcmp(opt.expect + conn->body_len, data, len)) {
		conn_fail(conn, "response: wrong byte in body");
		return false;
	}
	conn->body_len += len;
	if (opt.mode == MODE_DOWN)
		add(&conn->worker->n_bytes, len);
	return true;
}

static bool conn_take(struct conn *conn, const uint8_t *data, size_t len)
{
	size_t room = HEAD_MAX - 1 - conn->head_len, old = conn->head_len, head;
	char *end;

	if (conn->head_done)
		return conn_check_body(conn, data, len);
	if (room > len)
		room = len;
	memcpy(conn->head + old, data, room);
	conn->head_len += room;
	conn->head[conn->head_len] = '\0';
	end = strstr(conn->head, "\r\n\r\n");
	if (!end) {
		if (room == len)
			return true;
		conn_fail(conn, "response: head too long");
		return false;
	}
	conn->head_done = true;
	head = (size_t)(end + 4 - conn->head) - old;
	end[2] = '\0';
	return conn_check_head(conn) && conn_check_body(conn, data + head, len - head);
}

static void conn_request(struct conn *conn);

/* A whole response is there. Returns false when there is nothing more to read now. */
static bool conn_responded(struct conn *conn)
{
	struct worker *worker = conn->worker;

	if (opt.mode == MODE_CONNECT)
		return true; /* the end has to come, too */
	add(&worker->n_done, 1);
	if (opt.mode == MODE_HOLD && !tool_stop) {
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
		if (conn->head_done && conn->body_len == conn->body_expected &&
		    !conn_responded(conn))
			return;
	}
	if (SSL_get_error(conn->ssl, n) != SSL_ERROR_ZERO_RETURN || opt.mode != MODE_CONNECT ||
	    !conn->head_done) {
		conn_tls_progress(conn, n);
	} else if (conn->body_len < conn->body_expected) {
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

static void conn_request(struct conn *conn)
{
	conn->state = REQUEST;
	conn->activity_ns = tool_now(); /* it may have been held for long */
	conn->sent = 0;
	conn->head_len = conn->body_len = 0;
	conn->body_expected = 0;
	conn->head_done = false;
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
	socklen_t len = sizeof(int), local_len = sizeof(conn->local);
	int error = 0;

	getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error) {
		conn_fail(conn, "connect: %s", strerror(error));
		return;
	}
	getsockname(conn->fd, (struct sockaddr *)&conn->local, &local_len);
	conn_handshake(conn);
}

/* While a body goes out only a failing connection is readable. */
static void conn_event(struct conn *conn, uint32_t events)
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

static void conn_start(struct worker *worker, uint64_t due_ns)
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

/* Starts what is due; returns when the next one will be. */
static uint64_t start_due(struct worker *worker, uint64_t next_ns, uint64_t now)
{
	uint64_t gap_ns = (uint64_t)(1e9 * opt.workers / opt.rate);

	for (; next_ns <= now && worker->free; next_ns += gap_ns)
		conn_start(worker, next_ns);
	return next_ns;
}

static void start_all(struct worker *worker, uint64_t now)
{
	/* Connections that are kept are opened once; failed ones are not made up for. */
	bool once = opt.mode != MODE_CONNECT;

	while (worker->free && (!once || (worker->n_started < worker->n_conns &&
					  worker->n_starting < STARTING_MAX)))
		conn_start(worker, now);
}

static void check_limits(struct worker *worker, uint64_t now)
{
	uint64_t limit_ns = (uint64_t)(opt.timeout_s * 1e9);

	for (unsigned i = 0; i < worker->n_conns; i++) {
		struct conn *conn = &worker->conns[i];

		if (conn->state != FREE && conn->state != HELD &&
		    tool_now() > conn->activity_ns + limit_ns)
			conn_fail(conn, "%s: timeout", state_names[conn->state]);
	}
}

/* What is held ends with one more request: the connections must still be good. */
static void wake_held(struct worker *worker)
{
	for (unsigned i = 0; i < worker->n_conns; i++)
		if (worker->conns[i].state == HELD)
			conn_request(&worker->conns[i]);
}

static void wait_events(struct worker *worker, uint64_t now, uint64_t next_ns)
{
	struct epoll_event events[EVENTS_MAX];
	uint64_t ns = next_ns > now ? next_ns - now : 0;
	struct timespec ts;
	int n;

	if (ns > 20 * NS_PER_MS)
		ns = 20 * NS_PER_MS;
	ts = (struct timespec){ .tv_nsec = (long)ns };
	n = epoll_pwait2(worker->epoll_fd, events, EVENTS_MAX, &ts, NULL);
	/* A connection has one event per batch and is freed in its own turn only. */
	for (int i = 0; i < n; i++)
		conn_event(events[i].data.ptr, events[i].events);
}

static void *worker_run(void *arg)
{
	struct worker *worker = arg;
	uint64_t now = tool_now(), next_ns = now, checked_ns = now;
	bool woken = false;

	prctl(PR_SET_TIMERSLACK, 1);
	for (;;) {
		now = tool_now();
		if (is_over(now)) {
			if (!worker->n_live)
				return NULL;
			if (!woken)
				wake_held(worker);
			woken = true;
			next_ns = UINT64_MAX;
		} else if (opt.rate > 0) {
			next_ns = start_due(worker, next_ns, now);
		} else {
			start_all(worker, now);
			next_ns = UINT64_MAX;
		}
		wait_events(worker, now, next_ns);
		if (now - checked_ns > CHECK_LIMITS_NS) {
			check_limits(worker, now);
			checked_ns = now;
		}
	}
}

/* What the main thread reads at both moments. */
struct snapshot {
	uint64_t ns, n_done, n_bytes, n_failed;
	double worker_cpu_s[WORKERS_MAX];
	double system_s[8]; /* of /proc/stat: user nice system idle iowait irq softirq steal */
};

static void read_system(double ret_seconds[8])
{
	FILE *f = fopen("/proc/stat", "re");
	unsigned long long t[8] = {};

	if (!f || fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2],
			 &t[3], &t[4], &t[5], &t[6], &t[7]) != 8)
		tool_die("/proc/stat: %s", strerror(errno));
	fclose(f);
	for (int i = 0; i < 8; i++)
		ret_seconds[i] = (double)t[i] / (double)sysconf(_SC_CLK_TCK);
}

static struct snapshot snapshot(void)
{
	struct snapshot now = { .ns = tool_now() };

	for (unsigned i = 0; i < opt.workers; i++) {
		struct timespec ts = {};
		clockid_t clock;

		now.n_done += count(&workers[i].n_done);
		now.n_bytes += count(&workers[i].n_bytes);
		now.n_failed += count(&workers[i].n_failed);
		if (pthread_getcpuclockid(workers[i].thread, &clock) == 0)
			clock_gettime(clock, &ts);
		now.worker_cpu_s[i] = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
	}
	read_system(now.system_s);
	return now;
}

static void sleep_until(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };

	while (!tool_stop && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static uint64_t sum_ready(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < opt.workers; i++)
		n += count(&workers[i].n_ready) + count(&workers[i].n_failed);
	return n;
}

/* Connections that are kept are all there before anything is measured. */
static void wait_ready(void)
{
	while (!tool_stop && opt.mode != MODE_CONNECT && sum_ready() < opt.connections)
		sleep_until(tool_now() + NS_PER_MS);
}

static void write_progress(void)
{
	FILE *f = opt.progress_path ? fopen(opt.progress_path, "we") : NULL;

	if (!opt.progress_path)
		return;
	if (!f || fprintf(f, "%llu\n", (unsigned long long)sum_ready()) < 0 || fclose(f))
		tool_die("%s: %s", opt.progress_path, strerror(errno));
}

static void worker_init(struct worker *worker, unsigned index)
{
	unsigned share = opt.connections / opt.workers + (index < opt.connections % opt.workers);

	worker->index = index;
	worker->n_conns = opt.rate > 0 ? RATE_MAX_LIVE : share;
	worker->conns = calloc(worker->n_conns + 1, sizeof(*worker->conns));
	worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	/* A library context each, or they wait for each other's locks. */
	worker->ctx = SSL_CTX_new_ex(OSSL_LIB_CTX_new(), NULL, TLS_client_method());
	if (!worker->conns || worker->epoll_fd < 0 || !worker->ctx ||
	    !SSL_CTX_set_min_proto_version(worker->ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set1_groups_list(worker->ctx, "X25519") ||
	    !SSL_CTX_set_ciphersuites(worker->ctx, "TLS_AES_128_GCM_SHA256"))
		tool_die("a worker can't be made");
	SSL_CTX_set_verify(worker->ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_session_cache_mode(worker->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_quiet_shutdown(worker->ctx, 1);
	SSL_CTX_set_read_ahead(worker->ctx, 1);
	SSL_CTX_set_mode(worker->ctx,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (opt.mode == MODE_HOLD)
		SSL_CTX_set_mode(worker->ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_alpn_protos(worker->ctx, (const uint8_t *)"\x08http/1.1", 9);
	for (unsigned i = 0; i < worker->n_conns; i++) {
		struct conn *conn = &worker->conns[i];

		conn->worker = worker;
		conn->index = i * opt.workers + index;
		conn->next = worker->free;
		worker->free = conn;
	}
}

/* All workers' samples as one. */
static struct tool_samples gather(size_t offset)
{
	struct tool_samples all = {};

	for (unsigned i = 0; i < opt.workers; i++) {
		const struct tool_samples *one = (void *)((uint8_t *)&workers[i] + offset);

		for (size_t k = 0; k < one->n; k++)
			tool_samples_add(&all, one->ns[k]);
	}
	return all;
}

static void write_samples(const struct tool_samples *samples)
{
	FILE *f = opt.samples_path ? fopen(opt.samples_path, "we") : NULL;

	if (!opt.samples_path)
		return;
	if (!f || fwrite(samples->ns, sizeof(*samples->ns), samples->n, f) != samples->n ||
	    fclose(f))
		tool_die("%s: %s", opt.samples_path, strerror(errno));
}

static void print_failures(void)
{
	static struct tool_events all;

	for (unsigned i = 0; i < opt.workers; i++) {
		const struct tool_events *one = &workers[i].failures;

		for (size_t k = 0; k < one->n_reasons; k++) {
			size_t at = 0;

			while (at < all.n_reasons &&
			       strcmp(all.reason[at].what, one->reason[k].what))
				at++;
			if (at == sizeof(all.reason) / sizeof(all.reason[0]))
				continue;
			all.reason[at].n += one->reason[k].n;
			if (at == all.n_reasons)
				memcpy(all.reason[all.n_reasons++].what, one->reason[k].what,
				       sizeof(one->reason[k].what));
		}
	}
	tool_reasons_print(&all, "reasons");
}

static uint64_t print_result(const struct snapshot *begin, const struct snapshot *end)
{
	static const char *const names[8] = { "user",	"nice", "system",  "idle",
					      "iowait", "irq",	"softirq", "steal" };
	struct tool_samples latencies = gather(offsetof(struct worker, latencies));
	struct tool_samples lateness = gather(offsetof(struct worker, lateness));
	uint64_t failed = 0, started = 0, resumed = 0;

	for (unsigned i = 0; i < opt.workers; i++) {
		failed += workers[i].n_failed;
		started += workers[i].n_started;
		resumed += workers[i].n_resumed;
	}
	write_samples(&latencies);
	printf("{\"mode\": \"%s\", \"started\": %llu, \"failed\": %llu, \"resumed\": %llu, "
	       "\"done\": %llu, \"bytes\": %llu, \"seconds\": %.6f, ",
	       mode_names[opt.mode], (unsigned long long)started, (unsigned long long)failed,
	       (unsigned long long)resumed,
	       (unsigned long long)(end->n_done - begin->n_done),
	       (unsigned long long)(end->n_bytes - begin->n_bytes),
	       (double)(end->ns - begin->ns) / 1e9);
	tool_samples_print(&latencies, "latency_ms");
	printf(", ");
	tool_samples_print(&lateness, "late_ms");
	printf(", \"worker_cpu_s\": [");
	for (unsigned i = 0; i < opt.workers; i++)
		printf("%s%.6f", i ? ", " : "", end->worker_cpu_s[i] - begin->worker_cpu_s[i]);
	printf("], \"system_s\": {");
	for (int i = 0; i < 8; i++)
		printf("%s\"%s\": %.2f", i ? ", " : "", names[i],
		       end->system_s[i] - begin->system_s[i]);
	printf("}, ");
	print_failures();
	printf("}\n");
	fflush(stdout);
	return failed;
}

static uint8_t *read_file(const char *path, size_t *ret_len)
{
	FILE *f = fopen(path, "re");
	uint8_t *data;
	long size;

	if (!f || fseek(f, 0, SEEK_END) < 0 || (size = ftell(f)) < 0)
		tool_die("%s: %s", path, strerror(errno));
	rewind(f);
	*ret_len = (size_t)size;
	data = malloc(*ret_len + 1);
	if (!data || fread(data, 1, *ret_len, f) != *ret_len)
		tool_die("%s: can't read", path);
	fclose(f);
	return data;
}

static const char usage[] =
	"usage: load --mode MODE [OPTION...] ADDR:PORT\n"
	"  --mode connect        a request on each connection, which the server then closes\n"
	"         requests       requests one after the other on connections that are kept\n"
	"         down, up       large bodies on connections that are kept\n"
	"         hold           one request on each, then silence until SIGTERM\n"
	"  --connections N       at once (64)\n"
	"  --rate N              with connect: new ones per second, however many are under way\n"
	"  --resume              with connect: the TLS session of an earlier connection\n"
	"  --workers N           threads (2)\n"
	"  --warmup S --seconds S   not measured, and measured (0.2 and 1)\n"
	"  --path PATH           (/); up: with the connection's number behind it\n"
	"  --expect-file FILE    the body that must come\n"
	"  --upload-file FILE    the body to send\n"
	"  --expect-peer ADDR    what the header X-Peer must say; \"self\": the local address\n"
	"  --source ADDR         local address, repeatable\n"
	"  --sni NAME            (www.example.test)\n"
	"  --timeout S           of a connection without progress (10)\n"
	"  --progress FILE       hold: how many are there, once all are\n"
	"  --samples FILE        connect: latencies in ns, 64 bits each\n";

static enum mode parse_mode(const char *text)
{
	for (int mode = 0; mode < MODES; mode++)
		if (!strcmp(text, mode_names[mode]))
			return mode;
	tool_die("%s", usage);
}

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "mode", 1, NULL, 'm' },	 { "connections", 1, NULL, 'c' },
		{ "rate", 1, NULL, 'r' },	 { "workers", 1, NULL, 'w' },
		{ "warmup", 1, NULL, 'W' },	 { "seconds", 1, NULL, 's' },
		{ "path", 1, NULL, 'p' },	 { "expect-file", 1, NULL, 'e' },
		{ "upload-file", 1, NULL, 'u' }, { "expect-peer", 1, NULL, 'P' },
		{ "source", 1, NULL, 'S' },	 { "sni", 1, NULL, 'n' },
		{ "timeout", 1, NULL, 't' },	 { "progress", 1, NULL, 'g' },
		{ "samples", 1, NULL, 'f' },	 { "resume", 0, NULL, 'R' },
		{ NULL, 0, NULL, 0 },
	};
	bool has_mode = false;
	int id;

	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (id) {
		case 'm':
			opt.mode = parse_mode(optarg);
			has_mode = true;
			break;
		case 'c':
			opt.connections = (unsigned)tool_number(optarg, "--connections");
			break;
		case 'r':
			opt.rate = tool_number(optarg, "--rate");
			break;
		case 'w':
			opt.workers = (unsigned)tool_number(optarg, "--workers");
			break;
		case 'W':
			opt.warmup_s = tool_number(optarg, "--warmup");
			break;
		case 's':
			opt.seconds = tool_number(optarg, "--seconds");
			break;
		case 'p':
			opt.path = optarg;
			break;
		case 'e':
			opt.expect = read_file(optarg, &opt.expect_len);
			break;
		case 'u':
			opt.upload = read_file(optarg, &opt.upload_len);
			break;
		case 'P':
			opt.expect_peer = optarg;
			break;
		case 'S':
			tool_addrs_add(&opt.sources, optarg, false);
			break;
		case 'n':
			opt.sni = optarg;
			break;
		case 't':
			opt.timeout_s = tool_number(optarg, "--timeout");
			break;
		case 'g':
			opt.progress_path = optarg;
			break;
		case 'R':
			opt.resume = true;
			break;
		case 'f':
			opt.samples_path = optarg;
			break;
		default:
			tool_die("%s", usage);
		}
	}
	if (optind + 1 != argc || !has_mode || !opt.workers || opt.workers > WORKERS_MAX ||
	    !opt.connections || (opt.mode == MODE_UP && !opt.upload) ||
	    (opt.mode != MODE_UP && !opt.expect) || (opt.rate > 0 && opt.mode != MODE_CONNECT))
		tool_die("%s", usage);
	tool_addrs_add(&opt.targets, argv[optind], true);
}

int main(int argc, char **argv)
{
	struct snapshot begin, end;
	uint64_t begin_at;

	parse_options(argc, argv);
	tool_raise_nofile();
	tool_catch_stop();
	for (unsigned i = 0; i < opt.workers; i++)
		worker_init(&workers[i], i);
	for (unsigned i = 0; i < opt.workers; i++)
		if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]))
			tool_die("a thread can't be made");
	wait_ready();
	write_progress();
	if (opt.mode == MODE_HOLD)
		while (!tool_stop) /* the signal may reach a worker */
			sleep_until(tool_now() + 10 * NS_PER_MS);
	begin_at = tool_now() + (uint64_t)(opt.warmup_s * 1e9);
	/* The end first: a begin is never seen without its end. */
	__atomic_store_n(&end_ns, begin_at + (uint64_t)(opt.seconds * 1e9), __ATOMIC_SEQ_CST);
	__atomic_store_n(&begin_ns, begin_at, __ATOMIC_SEQ_CST);
	sleep_until(begin_at);
	begin = snapshot();
	sleep_until(end_ns);
	end = snapshot();
	for (unsigned i = 0; i < opt.workers; i++)
		pthread_join(workers[i].thread, NULL);
	return print_result(&begin, &end) ? 1 : 0;
}
