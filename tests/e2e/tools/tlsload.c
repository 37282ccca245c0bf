/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A steady rate of new HTTPS connections, each checked to the last byte.
 *
 * Open loop: a connection starts when it is due, however many are under way, so a server that
 * stands still can't slow the load down and hide it. A connection is
 *
 *	CONNECT -> (HELLO_WAIT) -> HANDSHAKE -> (REQUEST_WAIT) -> RESPONSE -> done
 *
 * where the waits are those of a client far away. Anything else than the expected status and body
 * and an orderly end is a failure, with its reason. One thread, one epoll. The waits are
 * constant, so each kind has a FIFO; a connection is in at most one of them, and always in the
 * FIFO of the time limit.
 */
#include "response.h"
#include "tls.h"
#include "tool.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define FAR_WAIT_NS  (40 * NS_PER_MS)
#define SLOW_WAIT_NS (300 * NS_PER_MS)
#define PROGRESS_NS  (10 * NS_PER_MS)

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

static struct {
	double rate, seconds, far_fraction, slow_fraction, resume_fraction, early_fraction;
	double timeout_s, stall_ms;
	uint64_t max_live;
	const char *sni, *alpn, *path, *progress_path, *log_path;
	struct tool_addrs targets, sources;
	struct response_expected expected;
} opt = {
	.rate = 500,
	.timeout_s = 10,
	.max_live = 300,
	.stall_ms = 150,
	.sni = "www.example.test",
	.alpn = "http/1.1",
	.path = "/",
};

static struct fifo fifos[FIFO_COUNT];
static SSL_CTX *ctx;
static int epfd, progress_fd = -1;
static FILE *log_file;
static char request[1024];
static uint64_t random_state = 1;
static uint64_t n_started, n_ok, n_live, n_resumed, n_early, max_late_ns, held_back_ns;
static SSL_SESSION *session; /* the newest */
static struct tool_events failures, stalls;
static struct tool_samples latencies;

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

	n_resumed += (uint64_t)SSL_session_reused(conn->ssl);
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
		tool_events_add(&failures, conn->start_ns, &conn->local, &conn->target->sa,
				failure);
	} else {
		n_ok++;
		if (opt.resume_fraction > 0)
			keep_session(conn);
		tool_samples_add(&latencies, took);
		if ((double)took > opt.stall_ms * 1e6)
			tool_events_add(&stalls, conn->start_ns, &conn->local, &conn->target->sa,
					"stall");
	}
	if (log_file)
		fprintf(log_file, "%s %u %s\n", tool_addr_host(&conn->local, host),
			tool_addr_port(&conn->local), failure ? failure : "ok");
	for (int kind = 0; kind < FIFO_COUNT; kind++)
		fifo_remove(kind, conn);
	SSL_free(conn->ssl);
	if (conn->fd >= 0)
		close(conn->fd);
	free(conn);
	n_live--;
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
		n_early++;
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
	socklen_t len = sizeof(int), local_len = sizeof(conn->local);
	int error = 0;

	getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error) {
		conn_fail(conn, "connect: %s", strerror(error));
		return;
	}
	getsockname(conn->fd, (struct sockaddr *)&conn->local, &local_len);
	if (conn->slow)
		conn_wait(conn, HELLO_WAIT, FIFO_SLOW);
	else if (conn->far)
		conn_wait(conn, HELLO_WAIT, FIFO_FAR);
	else
		conn_handshake(conn);
}

static void conn_event(struct conn *conn, uint32_t events)
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

static void conn_start(uint64_t due_ns)
{
	const struct tool_addr *target = &opt.targets.addr[n_started % opt.targets.n], *source;
	struct conn *conn = calloc(1, sizeof(*conn));
	int one = 1;

	if (!conn)
		tool_die("out of memory");
	n_started++;
	n_live++;
	conn->target = target;
	conn->start_ns = tool_now();
	if (conn->start_ns - due_ns > max_late_ns)
		max_late_ns = conn->start_ns - due_ns;
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
	source =
		tool_addrs_of_family(&opt.sources, target->sa.ss_family, n_started / opt.targets.n);
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

static void run_fifos(uint64_t now)
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

static int wait_ms(uint64_t now, uint64_t next_start_ns)
{
	uint64_t until = now + 100 * NS_PER_MS;

	if (next_start_ns < until)
		until = next_start_ns;
	for (int kind = 0; kind < FIFO_COUNT; kind++)
		if (fifos[kind].first && fifos[kind].first->due[kind] < until)
			until = fifos[kind].first->due[kind];
	return until <= now ? 0 : (int)((until - now + NS_PER_MS - 1) / NS_PER_MS);
}

static void write_progress(uint64_t now)
{
	static uint64_t last_ns;
	char line[96];
	int n;

	if (progress_fd < 0 || now - last_ns < PROGRESS_NS)
		return;
	last_ns = now;
	n = snprintf(line, sizeof(line), "%12llu %12llu %12llu %12llu\n",
		     (unsigned long long)n_started, (unsigned long long)n_ok,
		     (unsigned long long)failures.n, (unsigned long long)n_live);
	if (pwrite(progress_fd, line, (size_t)n, 0) < 0)
		tool_die("%s: %s", opt.progress_path, strerror(errno));
}

static void run(uint64_t begin_ns)
{
	uint64_t end_ns = opt.seconds > 0 ? begin_ns + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
	uint64_t gap_ns = (uint64_t)(1e9 / opt.rate), next = begin_ns;
	struct epoll_event events[256];

	for (;;) {
		uint64_t now = tool_now();
		bool stopping = tool_stop || now >= end_ns;
		int n;

		while (!stopping && next <= now && n_live < opt.max_live) {
			conn_start(next);
			next += gap_ns;
		}
		/* What was held back is not made up for. */
		if (!stopping && next <= now) {
			held_back_ns += now + NS_PER_MS - next;
			next = now + NS_PER_MS;
		}
		if (stopping && !n_live)
			return;
		n = epoll_wait(epfd, events, 256,
			       wait_ms(tool_now(), stopping ? UINT64_MAX : next));
		/* A connection has one event per batch and is freed in its own turn only. */
		for (int i = 0; i < n; i++)
			conn_event(events[i].data.ptr, events[i].events);
		now = tool_now();
		run_fifos(now);
		write_progress(now);
	}
}

static void print_result(uint64_t begin_ns)
{
	printf("{\"tool\": \"tlsload\", \"started\": %llu, \"ok\": %llu, \"failed\": %llu, "
	       "\"stalls\": %llu, \"resumed\": %llu, \"early\": %llu, \"seconds\": %.3f, "
	       "\"held_back_s\": %.3f, "
	       "\"begin\": %.6f, \"max_late_ms\": %.3f, ",
	       (unsigned long long)n_started, (unsigned long long)n_ok,
	       (unsigned long long)failures.n, (unsigned long long)stalls.n,
	       (unsigned long long)n_resumed, (unsigned long long)n_early,
	       (double)(tool_now() - begin_ns) / 1e9, (double)held_back_ns / 1e9,
	       (double)begin_ns / 1e9, (double)max_late_ns / 1e6);
	tool_samples_print(&latencies, "latency_ms");
	printf(", ");
	tool_reasons_print(&failures, "reasons");
	printf(", ");
	tool_events_print(&failures, "failures");
	printf(", ");
	tool_events_print(&stalls, "stalled");
	printf("}\n");
	fflush(stdout);
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

static const char usage[] =
	"usage: tlsload [OPTION...] ADDR:PORT...\n"
	"  --rate N              new connections per second (500)\n"
	"  --seconds N           how long; without it, or with 0, until SIGTERM\n"
	"  --far-fraction F      of connections: 40 ms before the ClientHello, and before the "
	"request\n"
	"  --slow-fraction F     of connections: 0.3 s before the ClientHello\n"
	"  --resume-fraction F   of connections: resume the TLS session of an earlier one\n"
	"  --early-fraction F    of resumed ones: the request is 0-RTT data, if the server takes "
	"any\n"
	"  --max-live N          connections at once; more are held back, and not made up for "
	"(300)\n"
	"  --sni NAME --alpn PROTOCOL (\"\": none) --path PATH\n"
	"  --expect-file FILE    the body that must come (default: an empty one)\n"
	"  --source ADDR         local address, repeatable\n"
	"  --timeout SECONDS     of one connection (10)\n"
	"  --stall-ms N          a connection that took longer, waits aside, is a stall (150)\n"
	"  --seed N              of the choice which connections wait\n"
	"  --progress FILE       \"started ok failed live\", kept up to date\n"
	"  --log FILE            a line per connection: local address, port, ok or the reason\n";

enum option_id {
	OPT_RATE = 1,
	OPT_SECONDS,
	OPT_FAR,
	OPT_SLOW,
	OPT_RESUME,
	OPT_EARLY,
	OPT_MAX_LIVE,
	OPT_SNI,
	OPT_ALPN,
	OPT_PATH,
	OPT_EXPECT,
	OPT_SOURCE,
	OPT_TIMEOUT,
	OPT_STALL,
	OPT_SEED,
	OPT_PROGRESS,
	OPT_LOG,
};

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rate", 1, NULL, OPT_RATE },
		{ "seconds", 1, NULL, OPT_SECONDS },
		{ "far-fraction", 1, NULL, OPT_FAR },
		{ "slow-fraction", 1, NULL, OPT_SLOW },
		{ "resume-fraction", 1, NULL, OPT_RESUME },
		{ "early-fraction", 1, NULL, OPT_EARLY },
		{ "max-live", 1, NULL, OPT_MAX_LIVE },
		{ "sni", 1, NULL, OPT_SNI },
		{ "alpn", 1, NULL, OPT_ALPN },
		{ "path", 1, NULL, OPT_PATH },
		{ "expect-file", 1, NULL, OPT_EXPECT },
		{ "source", 1, NULL, OPT_SOURCE },
		{ "timeout", 1, NULL, OPT_TIMEOUT },
		{ "stall-ms", 1, NULL, OPT_STALL },
		{ "seed", 1, NULL, OPT_SEED },
		{ "progress", 1, NULL, OPT_PROGRESS },
		{ "log", 1, NULL, OPT_LOG },
		{ NULL, 0, NULL, 0 },
	};
	int id;

	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (id) {
		case OPT_RATE:
			opt.rate = tool_number(optarg, "--rate");
			break;
		case OPT_SECONDS:
			opt.seconds = tool_number(optarg, "--seconds");
			break;
		case OPT_FAR:
			opt.far_fraction = tool_number(optarg, "--far-fraction");
			break;
		case OPT_SLOW:
			opt.slow_fraction = tool_number(optarg, "--slow-fraction");
			break;
		case OPT_RESUME:
			opt.resume_fraction = tool_number(optarg, "--resume-fraction");
			break;
		case OPT_EARLY:
			opt.early_fraction = tool_number(optarg, "--early-fraction");
			break;
		case OPT_MAX_LIVE:
			opt.max_live = (uint64_t)tool_number(optarg, "--max-live");
			break;
		case OPT_SNI:
			opt.sni = optarg;
			break;
		case OPT_ALPN:
			opt.alpn = optarg;
			break;
		case OPT_PATH:
			opt.path = optarg;
			break;
		case OPT_EXPECT:
			opt.expected.body = tool_read_file(optarg, &opt.expected.len);
			break;
		case OPT_SOURCE:
			tool_addrs_add(&opt.sources, optarg, false);
			break;
		case OPT_TIMEOUT:
			opt.timeout_s = tool_number(optarg, "--timeout");
			break;
		case OPT_STALL:
			opt.stall_ms = tool_number(optarg, "--stall-ms");
			break;
		case OPT_SEED:
			random_state = (uint64_t)tool_number(optarg, "--seed");
			break;
		case OPT_PROGRESS:
			opt.progress_path = optarg;
			break;
		case OPT_LOG:
			opt.log_path = optarg;
			break;
		default:
			tool_die("%s", usage);
		}
	}
	for (; optind < argc; optind++)
		tool_addrs_add(&opt.targets, argv[optind], true);
	if (!opt.targets.n || opt.rate <= 0)
		tool_die("%s", usage);
}

int main(int argc, char **argv)
{
	uint64_t begin_ns;

	parse_options(argc, argv);
	tool_raise_nofile();
	tool_catch_stop();
	make_ctx();
	fifos[FIFO_FAR].delay_ns = FAR_WAIT_NS;
	fifos[FIFO_SLOW].delay_ns = SLOW_WAIT_NS;
	fifos[FIFO_LIMIT].delay_ns = (uint64_t)(opt.timeout_s * 1e9);
	snprintf(request, sizeof(request),
		 "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", opt.path, opt.sni);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0)
		tool_die("epoll_create1: %s", strerror(errno));
	if (opt.progress_path) {
		progress_fd =
			open(opt.progress_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (progress_fd < 0)
			tool_die("%s: %s", opt.progress_path, strerror(errno));
	}
	if (opt.log_path && !(log_file = fopen(opt.log_path, "we")))
		tool_die("%s: %s", opt.log_path, strerror(errno));
	begin_ns = tool_now();
	run(begin_ns);
	if (log_file)
		fclose(log_file);
	print_result(begin_ns);
	return failures.n || !n_ok ? 1 : 0;
}
