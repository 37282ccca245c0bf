/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A steady rate of new HTTPS connections, each checked to the last byte.
 *
 * Open loop: a connection starts when it is due, however many are under way, so a server that
 * stands still can't slow the load down and hide it. One thread, one epoll.
 */
#include "tlsload.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>

#define PROGRESS_NS (10 * NS_PER_MS)

struct options opt = {
	.rate = 500,
	.timeout_s = 10,
	.max_live = 300,
	.stall_ms = 150,
	.seed = 1,
	.sni = "www.example.test",
	.alpn = "http/1.1",
	.path = "/",
};
struct totals totals;
static int progress_fd = -1;
static uint64_t held_back_ns;

static int wait_ms(uint64_t now, uint64_t next_start_ns)
{
	uint64_t until = now + 100 * NS_PER_MS, due = conn_next_due();

	if (next_start_ns < until)
		until = next_start_ns;
	if (due < until)
		until = due;
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
		     (unsigned long long)totals.n_started, (unsigned long long)totals.n_ok,
		     (unsigned long long)totals.failures.n, (unsigned long long)totals.n_live);
	if (pwrite(progress_fd, line, (size_t)n, 0) < 0)
		tool_die("%s: %s", opt.progress_path, strerror(errno));
}

static void run(int epfd, uint64_t begin_ns)
{
	uint64_t end_ns = opt.seconds > 0 ? begin_ns + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
	uint64_t gap_ns = (uint64_t)(1e9 / opt.rate), next = begin_ns;
	struct epoll_event events[256];

	for (;;) {
		uint64_t now = tool_now();
		bool stopping = tool_stop || now >= end_ns;
		int n;

		while (!stopping && next <= now && totals.n_live < opt.max_live) {
			conn_start(next);
			next += gap_ns;
		}
		/* What was held back is not made up for. */
		if (!stopping && next <= now) {
			held_back_ns += now + NS_PER_MS - next;
			next = now + NS_PER_MS;
		}
		if (stopping && !totals.n_live)
			return;
		n = epoll_wait(epfd, events, 256,
			       wait_ms(tool_now(), stopping ? UINT64_MAX : next));
		/* A connection has one event per batch and is freed in its own turn only. */
		for (int i = 0; i < n; i++)
			conn_event(events[i].data.ptr, events[i].events);
		now = tool_now();
		conn_run_waits(now);
		write_progress(now);
	}
}

static void print_result(uint64_t begin_ns)
{
	printf("{\"tool\": \"tlsload\", \"started\": %llu, \"ok\": %llu, \"failed\": %llu, "
	       "\"stalls\": %llu, \"resumed\": %llu, \"early\": %llu, \"seconds\": %.3f, "
	       "\"held_back_s\": %.3f, "
	       "\"begin\": %.6f, \"max_late_ms\": %.3f, ",
	       (unsigned long long)totals.n_started, (unsigned long long)totals.n_ok,
	       (unsigned long long)totals.failures.n, (unsigned long long)totals.stalls.n,
	       (unsigned long long)totals.n_resumed, (unsigned long long)totals.n_early,
	       (double)(tool_now() - begin_ns) / 1e9, (double)held_back_ns / 1e9,
	       (double)begin_ns / 1e9, (double)totals.max_late_ns / 1e6);
	tool_samples_print(&totals.latencies, "latency_ms");
	printf(", ");
	tool_reasons_print(&totals.failures, "reasons");
	printf(", ");
	tool_events_print(&totals.failures, "failures");
	printf(", ");
	tool_events_print(&totals.stalls, "stalled");
	printf("}\n");
	fflush(stdout);
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
			opt.seed = (uint64_t)tool_number(optarg, "--seed");
			break;
		case OPT_PROGRESS:
			opt.progress_path = optarg;
			break;
		case OPT_LOG:
			opt.log = fopen(optarg, "we");
			if (!opt.log)
				tool_die("%s: %s", optarg, strerror(errno));
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
	int epfd;

	parse_options(argc, argv);
	tool_raise_nofile();
	tool_catch_stop();
	epfd = conn_init();
	if (opt.progress_path) {
		progress_fd =
			open(opt.progress_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (progress_fd < 0)
			tool_die("%s: %s", opt.progress_path, strerror(errno));
	}
	begin_ns = tool_now();
	run(epfd, begin_ns);
	if (opt.log)
		fclose(opt.log);
	print_result(begin_ns);
	return totals.failures.n || !totals.n_ok ? 1 : 0;
}
