/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bench's client: TLS 1.3, several workers, each a thread with an epoll of its own.
 *
 * It measures between two moments, begin and end, when the main thread reads the workers' counters,
 * their CPU time and the whole system's from /proc/stat. What is under way at the end is finished,
 * and checked, but not counted. Anything wrong is a failure, and the exit code is 1.
 *
 * With --rate connections start when they are due, however many are under way, and latencies count
 * from that moment: a server that stands still can't hide it. Without, each worker keeps its
 * share of --connections busy. How late the client itself was, and how much of a CPU each worker
 * took, is in the result: who reads it must judge whether the client was the bottleneck.
 */
#include "load.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include <openssl/ssl.h>

#define WORKERS_MAX	16
#define RATE_MAX_LIVE	4096 /* of one worker */
#define STARTING_MAX	32   /* of one worker, while many connections are opened to be kept */
#define EVENTS_MAX	128
#define CHECK_LIMITS_NS (50 * NS_PER_MS)

static const char *const mode_names[MODES] = { "connect", "requests", "down", "up", "hold" };

struct load_options opt = {
	.workers = 2,
	.connections = 64,
	.warmup_s = 0.2,
	.seconds = 1,
	.timeout_s = 10,
	.sni = "www.example.test",
	.path = "/",
};

static struct worker workers[WORKERS_MAX];
uint64_t begin_ns, end_ns;

/* Each file has a tool_stop of its own, and the signal's handler sets this one. */
bool is_stopped(void)
{
	return tool_stop;
}

bool is_over(uint64_t now)
{
	uint64_t end = count(&end_ns);

	return is_stopped() || (end && now >= end);
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

static void check_limits(struct worker *worker)
{
	for (unsigned i = 0; i < worker->n_conns; i++)
		conn_check(&worker->conns[i], (uint64_t)(opt.timeout_s * 1e9));
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
			check_limits(worker);
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
			opt.expected.body = tool_read_file(optarg, &opt.expected.len);
			break;
		case 'u':
			opt.upload = tool_read_file(optarg, &opt.upload_len);
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
	    (opt.mode != MODE_UP && !opt.expected.body) || (opt.rate > 0 && opt.mode != MODE_CONNECT))
		tool_die("%s", usage);
	if (opt.mode == MODE_UP)
		opt.expected = (struct response_expected){ .upload = true };
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
