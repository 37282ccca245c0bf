/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The other end of hammer: checks every byte and answers with what it saw (exchange.h). A number of
 * threads per listening socket, each of which accepts and serves. With --hold nothing is accepted
 * before SIGUSR1, so that the accept queue can be seen full.
 */
#include "exchange.h"

#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>

#define MAX_LISTENERS 64
#define MAX_THREADS   64

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static struct {
	struct tool_addrs listen;
	int backlog;
	unsigned threads, reuseport;
	double accept_delay_ms, timeout_s;
	bool hold, mptcp, dual;
	const char *log_path, *progress_path;
	int corrupt;
} opt = {
	.backlog = 4096,
	.threads = 4,
	.reuseport = 1,
	.timeout_s = 10,
};

static int listeners[MAX_LISTENERS];
static unsigned n_listeners;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static bool may_accept = true;
static FILE *log_file;
static int progress_fd = -1;
static uint64_t n_accepted, n_ok, n_bad, n_live;
static uint64_t per_listener[MAX_LISTENERS];
static struct tool_events failures;

static void write_progress(void)
{
	char line[96];
	int n;

	if (progress_fd < 0)
		return;
	n = snprintf(line, sizeof(line), "%12llu %12llu %12llu %12llu\n",
		     (unsigned long long)n_accepted, (unsigned long long)n_ok,
		     (unsigned long long)n_bad, (unsigned long long)n_live);
	if (pwrite(progress_fd, line, (size_t)n, 0) < 0)
		tool_die("%s: %s", opt.progress_path, strerror(errno));
}

static const char *receive(int fd, uint8_t *buf, size_t len, int flags, size_t *ret_len)
{
	ssize_t n;

	do
		n = recv(fd, buf, len, flags);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? "timeout" : strerror(errno);
	*ret_len = (size_t)n;
	return n ? NULL : "short";
}

/* Returns NULL when all that the client announced came; *@ret_answer says what it was. */
static const char *check_bytes(int fd, struct exchange_answer *ret_answer)
{
	uint8_t hello[EXCHANGE_HELLO_LEN], want[EXCHANGE_HELLO_LEN];
	static __thread uint8_t buf[65536];
	struct exchange_random random;
	const char *wrong;
	uint64_t digest, first_wrong = UINT64_MAX, done = 0;
	size_t n;

	for (size_t have = 0; have < sizeof(hello); have += n) {
		wrong = receive(fd, hello + have, sizeof(hello) - have, 0, &n);
		if (wrong)
			return wrong;
	}
	memcpy(&random, hello + EXCHANGE_RANDOM_AT, sizeof(random));
	if (memcmp(random.magic, EXCHANGE_MAGIC, sizeof(random.magic)) ||
	    random.check != tool_mix(random.seed ^ random.tail_len))
		return "not hammer's hello";
	exchange_hello(random.seed, random.tail_len, want);
	for (size_t i = 0; i < sizeof(hello) && first_wrong == UINT64_MAX; i++)
		if (hello[i] != want[i])
			first_wrong = i;
	digest = tool_fnv(TOOL_FNV_START, hello, sizeof(hello));
	while (done < random.tail_len) {
		size_t max =
			random.tail_len - done < sizeof(buf) ? random.tail_len - done : sizeof(buf);
		size_t right;

		wrong = receive(fd, buf, max, 0, &n);
		if (wrong)
			return wrong;
		if (opt.corrupt && done <= 5 && 5 < done + n)
			buf[5 - done] ^= 1;
		right = tool_pattern_check(random.seed, done, buf, n);
		if (right < n && first_wrong == UINT64_MAX)
			first_wrong = EXCHANGE_HELLO_LEN + done + right;
		/* The digest covers the one-byte segments; the pattern covers all. */
		if (done < 12)
			digest = tool_fnv(digest, buf, n < 12 - done ? n : 12 - done);
		done += n;
	}
	ret_answer->bytes = EXCHANGE_HELLO_LEN + done;
	ret_answer->digest = digest;
	ret_answer->first_wrong = first_wrong;
	return NULL;
}

static void serve(int fd, const struct sockaddr_storage *peer, unsigned listener)
{
	struct timeval timeout = { .tv_sec = (time_t)opt.timeout_s };
	struct exchange_answer answer = { .magic = EXCHANGE_ANSWER_MAGIC };
	uint64_t start = tool_now();
	char host[TOOL_ADDRLEN];
	const char *wrong;

	pthread_mutex_lock(&lock);
	n_accepted++;
	n_live++;
	per_listener[listener]++;
	write_progress();
	pthread_mutex_unlock(&lock);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	exchange_addr(peer, answer.addr);
	answer.port = tool_addr_port(peer);
	wrong = check_bytes(fd, &answer);
	if (!wrong && send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
		wrong = "can't answer";
	if (!wrong && answer.first_wrong != UINT64_MAX)
		wrong = "wrong byte";
	close(fd);

	pthread_mutex_lock(&lock);
	n_live--;
	if (wrong) {
		n_bad++;
		tool_events_add(&failures, start, peer, peer, wrong);
	} else {
		n_ok++;
	}
	if (log_file)
		fprintf(log_file, "%s %u %u %s\n", tool_addr_host(peer, host),
			tool_addr_port(peer), listener, wrong ? wrong : "ok");
	write_progress();
	pthread_mutex_unlock(&lock);
}

static void *listener_thread(void *arg)
{
	unsigned listener = (unsigned)(uintptr_t)arg;

	for (;;) {
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);
		int fd;

		pthread_mutex_lock(&lock);
		while (!may_accept)
			pthread_cond_wait(&released, &lock);
		pthread_mutex_unlock(&lock);
		if (opt.accept_delay_ms > 0) {
			struct timespec delay = {
				.tv_sec = (time_t)(opt.accept_delay_ms / 1000),
				.tv_nsec = (long)((uint64_t)(opt.accept_delay_ms * 1e6) % NS_PER_S)
			};

			nanosleep(&delay, NULL);
		}
		fd = accept4(listeners[listener], (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
		if (fd >= 0)
			serve(fd, &peer, listener);
		else if (errno == EINVAL) /* shut down: the end of the run */
			return NULL;
	}
}

static void open_listener(const struct tool_addr *addr)
{
	int fd, one = 1, zero = 0;

	fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, opt.mptcp ? IPPROTO_MPTCP : 0);
	if (fd < 0)
		tool_die("socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (opt.reuseport > 1)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (addr->sa.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, opt.dual ? &zero : &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&addr->sa, addr->len) < 0)
		tool_die("bind: %s", strerror(errno));
	if (listen(fd, opt.backlog) < 0)
		tool_die("listen: %s", strerror(errno));
	if (n_listeners == MAX_LISTENERS)
		tool_die("too many listeners");
	listeners[n_listeners++] = fd;
}

static void print_result(void)
{
	printf("{\"tool\": \"byteserver\", \"accepted\": %llu, \"ok\": %llu, \"bad\": %llu, "
	       "\"live\": %llu, \"per_listener\": [",
	       (unsigned long long)n_accepted, (unsigned long long)n_ok, (unsigned long long)n_bad,
	       (unsigned long long)n_live);
	for (unsigned i = 0; i < n_listeners; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)per_listener[i]);
	printf("], ");
	tool_reasons_print(&failures, "reasons");
	printf(", ");
	tool_events_print(&failures, "failures");
	printf("}\n");
	fflush(stdout);
}

static const char usage[] =
	"usage: byteserver [OPTION...]\n"
	"  --listen ADDR:PORT    repeatable (0.0.0.0:443 and [::]:443)\n"
	"  --dual                [::] takes v4 too\n"
	"  --backlog N           (4096)\n"
	"  --threads N           that accept and serve, per listening socket (4)\n"
	"  --reuseport N         listening sockets per address (1)\n"
	"  --mptcp               IPPROTO_MPTCP listeners\n"
	"  --accept-delay-ms N   before each accept\n"
	"  --hold                accept nothing before SIGUSR1\n"
	"  --timeout SECONDS     without a byte (10)\n"
	"  --corrupt             spoil a byte of each connection (to test the tests)\n"
	"  --log FILE            a line per connection: client's address, port, number of the\n"
	"                        listening socket, ok or what is wrong\n"
	"  --progress FILE       \"accepted ok bad live\", kept up to date\n";

enum option_id {
	OPT_LISTEN = 1,
	OPT_DUAL,
	OPT_BACKLOG,
	OPT_THREADS,
	OPT_REUSEPORT,
	OPT_MPTCP,
	OPT_ACCEPT_DELAY,
	OPT_HOLD,
	OPT_TIMEOUT,
	OPT_CORRUPT,
	OPT_LOG,
	OPT_PROGRESS,
};

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "listen", 1, NULL, OPT_LISTEN },
		{ "dual", 0, NULL, OPT_DUAL },
		{ "backlog", 1, NULL, OPT_BACKLOG },
		{ "threads", 1, NULL, OPT_THREADS },
		{ "reuseport", 1, NULL, OPT_REUSEPORT },
		{ "mptcp", 0, NULL, OPT_MPTCP },
		{ "accept-delay-ms", 1, NULL, OPT_ACCEPT_DELAY },
		{ "hold", 0, NULL, OPT_HOLD },
		{ "timeout", 1, NULL, OPT_TIMEOUT },
		{ "corrupt", 0, NULL, OPT_CORRUPT },
		{ "log", 1, NULL, OPT_LOG },
		{ "progress", 1, NULL, OPT_PROGRESS },
		{ NULL, 0, NULL, 0 },
	};
	int id;

	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (id) {
		case OPT_LISTEN:
			tool_addrs_add(&opt.listen, optarg, true);
			break;
		case OPT_DUAL:
			opt.dual = true;
			break;
		case OPT_BACKLOG:
			opt.backlog = (int)tool_number(optarg, "--backlog");
			break;
		case OPT_THREADS:
			opt.threads = (unsigned)tool_number(optarg, "--threads");
			break;
		case OPT_REUSEPORT:
			opt.reuseport = (unsigned)tool_number(optarg, "--reuseport");
			break;
		case OPT_MPTCP:
			opt.mptcp = true;
			break;
		case OPT_ACCEPT_DELAY:
			opt.accept_delay_ms = tool_number(optarg, "--accept-delay-ms");
			break;
		case OPT_HOLD:
			opt.hold = true;
			may_accept = false;
			break;
		case OPT_TIMEOUT:
			opt.timeout_s = tool_number(optarg, "--timeout");
			break;
		case OPT_CORRUPT:
			opt.corrupt = 1;
			break;
		case OPT_LOG:
			opt.log_path = optarg;
			break;
		case OPT_PROGRESS:
			opt.progress_path = optarg;
			break;
		default:
			tool_die("%s", usage);
		}
	}
	if (optind < argc || !opt.threads || opt.threads > MAX_THREADS || !opt.reuseport)
		tool_die("%s", usage);
	if (!opt.listen.n) {
		if (!opt.dual)
			tool_addrs_add(&opt.listen, "0.0.0.0:443", true);
		tool_addrs_add(&opt.listen, "[::]:443", true);
	}
}

int main(int argc, char **argv)
{
	pthread_t thread;
	sigset_t signals;
	int sig;

	parse_options(argc, argv);
	tool_raise_nofile();
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	if (opt.log_path && !(log_file = fopen(opt.log_path, "we")))
		tool_die("%s: %s", opt.log_path, strerror(errno));
	if (log_file)
		setlinebuf(log_file);
	if (opt.progress_path) {
		progress_fd =
			open(opt.progress_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (progress_fd < 0)
			tool_die("%s: %s", opt.progress_path, strerror(errno));
	}
	for (size_t i = 0; i < opt.listen.n; i++)
		for (unsigned j = 0; j < opt.reuseport; j++)
			open_listener(&opt.listen.addr[i]);
	for (unsigned i = 0; i < n_listeners; i++)
		for (unsigned j = 0; j < opt.threads; j++)
			if (pthread_create(&thread, NULL, listener_thread, (void *)(uintptr_t)i))
				tool_die("pthread_create failed");
	for (;;) {
		if (sigwait(&signals, &sig))
			continue;
		if (sig != SIGUSR1)
			break;
		pthread_mutex_lock(&lock);
		may_accept = true;
		pthread_cond_broadcast(&released);
		pthread_mutex_unlock(&lock);
	}
	/* What is being served is given up: the clients are through with it, or the test is. */
	pthread_mutex_lock(&lock);
	print_result();
	_exit(0);
}
