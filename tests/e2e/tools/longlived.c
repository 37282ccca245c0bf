/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that live through windows: a download, an upload and an idle keep-alive connection
 * per trio, over TLS, every byte checked.
 *
 * Trios start one after the other (--spacing-ms), so that some are opened before, in and after a
 * window. A blocking thread per connection.
 */
#include "longlived.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <openssl/ssl.h>

#define MAX_TRIOS 256

struct options opt = {
	.spacing_ms = 0,
	.timeout_s = 10,
	.idle_interval_s = 1e9,
	.download_bytes = 8 << 20,
	.upload_bytes = 4 << 20,
	.trios = 1,
	.sni = "www.example.test",
	.download_path = "/download",
	.upload_prefix = "/upload/",
	.idle_path = "/",
};

int stop_fd;
static struct member members[MAX_TRIOS * ROLE_COUNT];
static struct tool_events failures;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned n_established, n_ok, n_failed, n_live;
static int progress_fd = -1;

static void on_stop(int sig)
{
	uint64_t one = 1;

	if (write(stop_fd, &one, sizeof(one)) < 0)
		return;
}

bool stopped(void)
{
	struct pollfd pollfd = { .fd = stop_fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) > 0;
}

bool pause_ms(int ms)
{
	struct pollfd pollfd = { .fd = stop_fd, .events = POLLIN };

	return poll(&pollfd, 1, ms) > 0;
}

static void write_progress(void)
{
	char line[96];
	int n;

	if (progress_fd < 0)
		return;
	n = snprintf(line, sizeof(line), "%12u %12u %12u %12u\n", n_established, n_ok, n_failed,
		     n_live);
	if (pwrite(progress_fd, line, (size_t)n, 0) < 0)
		tool_die("%s: %s", opt.progress_path, strerror(errno));
}

void established(struct member *member)
{
	if (member->counted)
		return;
	member->counted = true;
	pthread_mutex_lock(&lock);
	n_established++;
	write_progress();
	pthread_mutex_unlock(&lock);
}

static void *member_run(void *arg)
{
	struct member *member = arg;
	bool ok = member_serve(member);

	pthread_mutex_lock(&lock);
	if (ok) {
		n_ok++;
	} else {
		n_failed++;
		tool_events_add(&failures, member->start_ns, &member->local, &member->target->sa,
				member->failure);
	}
	n_live--;
	write_progress();
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void start_trio(unsigned trio)
{
	for (int role = 0; role < ROLE_COUNT; role++) {
		struct member *member = &members[trio * ROLE_COUNT + (unsigned)role];

		member->trio = trio;
		member->role = (enum role)role;
		member->fd = -1;
		member->start_ns = tool_now();
		member->target = &opt.targets.addr[trio % opt.targets.n];
		member->local.ss_family = member->target->sa.ss_family;
		pthread_mutex_lock(&lock);
		n_live++;
		pthread_mutex_unlock(&lock);
		if (pthread_create(&member->thread, NULL, member_run, member))
			tool_die("pthread_create failed");
	}
}

static unsigned run(void)
{
	uint64_t begin = tool_now(), end = begin + (uint64_t)(opt.seconds * 1e9), now;
	unsigned started = 0;

	do {
		now = tool_now();
		if (opt.seconds > 0 && now >= end)
			on_stop(0);
		if (started < opt.trios &&
		    now - begin >= (uint64_t)((double)started * opt.spacing_ms * 1e6))
			start_trio(started++);
	} while (!pause_ms(started < opt.trios ? 5 : 50));
	for (unsigned i = 0; i < started * ROLE_COUNT; i++)
		pthread_join(members[i].thread, NULL);
	return started;
}

static void print_result(unsigned started)
{
	uint64_t bytes[ROLE_COUNT] = { 0 };
	unsigned requests = 0;
	bool first = true;

	printf("{\"tool\": \"longlived\", \"trios\": %u, \"established\": %u, \"ok\": %u, "
	       "\"failed\": %u, ",
	       started, n_established, n_ok, n_failed);
	printf("\"uploads\": [");
	for (unsigned i = 0; i < started * ROLE_COUNT; i++) {
		const struct member *member = &members[i];

		bytes[member->role] += member->bytes;
		requests += member->requests;
		if (member->role != UPLOAD || member->failure[0])
			continue;
		printf("%s{\"path\": \"%s\", \"bytes\": %llu, \"sha256\": \"%s\"}",
		       first ? "" : ", ", member->upload_path, (unsigned long long)member->bytes,
		       member->sha256);
		first = false;
	}
	printf("], \"bytes_down\": %llu, \"bytes_up\": %llu, \"idle_requests\": %u, ",
	       (unsigned long long)bytes[DOWNLOAD], (unsigned long long)bytes[UPLOAD], requests);
	tool_reasons_print(&failures, "reasons");
	printf(", ");
	tool_events_print(&failures, "failures");
	printf("}\n");
	fflush(stdout);
}

static int make_file(const char *path, uint64_t len)
{
	static uint8_t buf[1 << 16];
	FILE *f = fopen(path, "we");

	if (!f)
		tool_die("%s: %s", path, strerror(errno));
	for (uint64_t done = 0; done < len;) {
		size_t n = len - done < sizeof(buf) ? (size_t)(len - done) : sizeof(buf);

		tool_pattern(0, done, buf, n);
		if (fwrite(buf, 1, n, f) != n)
			tool_die("%s: %s", path, strerror(errno));
		done += n;
	}
	if (fclose(f))
		tool_die("%s: %s", path, strerror(errno));
	return 0;
}

static const char usage[] =
	"usage: longlived [OPTION...] ADDR:PORT...\n"
	"       longlived --make-file FILE --download-bytes N\n"
	"  --trios N             download + upload + idle connection, this many times (1)\n"
	"  --spacing-ms N        between the starts of trios (0)\n"
	"  --seconds N           how long; without it, or with 0, until SIGTERM\n"
	"  --timeout N           seconds without a byte after which a connection hangs (10)\n"
	"  --download-bytes N    length of the file behind --download-path (8 MiB, /download)\n"
	"  --upload-bytes N      (4 MiB), PUT to --upload-prefix (/upload/)\n"
	"  --idle-path PATH      (/), asked for at the start, the end, and each --idle-interval "
	"SECONDS\n"
	"  --sni NAME, --source ADDR (repeatable)\n"
	"  --progress FILE       \"established ok failed live\", kept up to date\n";

enum option_id {
	OPT_TRIOS = 1,
	OPT_SPACING,
	OPT_SECONDS,
	OPT_TIMEOUT,
	OPT_DOWNLOAD_BYTES,
	OPT_DOWNLOAD_PATH,
	OPT_UPLOAD_BYTES,
	OPT_UPLOAD_PREFIX,
	OPT_IDLE_PATH,
	OPT_IDLE_INTERVAL,
	OPT_SNI,
	OPT_SOURCE,
	OPT_PROGRESS,
	OPT_MAKE_FILE,
};

static const char *parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "trios", 1, NULL, OPT_TRIOS },
		{ "spacing-ms", 1, NULL, OPT_SPACING },
		{ "seconds", 1, NULL, OPT_SECONDS },
		{ "timeout", 1, NULL, OPT_TIMEOUT },
		{ "download-bytes", 1, NULL, OPT_DOWNLOAD_BYTES },
		{ "download-path", 1, NULL, OPT_DOWNLOAD_PATH },
		{ "upload-bytes", 1, NULL, OPT_UPLOAD_BYTES },
		{ "upload-prefix", 1, NULL, OPT_UPLOAD_PREFIX },
		{ "idle-path", 1, NULL, OPT_IDLE_PATH },
		{ "idle-interval", 1, NULL, OPT_IDLE_INTERVAL },
		{ "sni", 1, NULL, OPT_SNI },
		{ "source", 1, NULL, OPT_SOURCE },
		{ "progress", 1, NULL, OPT_PROGRESS },
		{ "make-file", 1, NULL, OPT_MAKE_FILE },
		{ NULL, 0, NULL, 0 },
	};
	const char *file = NULL;
	int id;

	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (id) {
		case OPT_TRIOS:
			opt.trios = (unsigned)tool_number(optarg, "--trios");
			break;
		case OPT_SPACING:
			opt.spacing_ms = tool_number(optarg, "--spacing-ms");
			break;
		case OPT_SECONDS:
			opt.seconds = tool_number(optarg, "--seconds");
			break;
		case OPT_TIMEOUT:
			opt.timeout_s = tool_number(optarg, "--timeout");
			break;
		case OPT_DOWNLOAD_BYTES:
			opt.download_bytes = (uint64_t)tool_number(optarg, "--download-bytes");
			break;
		case OPT_DOWNLOAD_PATH:
			opt.download_path = optarg;
			break;
		case OPT_UPLOAD_BYTES:
			opt.upload_bytes = (uint64_t)tool_number(optarg, "--upload-bytes");
			break;
		case OPT_UPLOAD_PREFIX:
			opt.upload_prefix = optarg;
			break;
		case OPT_IDLE_PATH:
			opt.idle_path = optarg;
			break;
		case OPT_IDLE_INTERVAL:
			opt.idle_interval_s = tool_number(optarg, "--idle-interval");
			break;
		case OPT_SNI:
			opt.sni = optarg;
			break;
		case OPT_SOURCE:
			tool_addrs_add(&opt.sources, optarg, false);
			break;
		case OPT_PROGRESS:
			opt.progress_path = optarg;
			break;
		case OPT_MAKE_FILE:
			file = optarg;
			break;
		default:
			tool_die("%s", usage);
		}
	}
	for (; optind < argc; optind++)
		tool_addrs_add(&opt.targets, argv[optind], true);
	if (!file && (!opt.targets.n || !opt.trios || opt.trios > MAX_TRIOS))
		tool_die("%s", usage);
	return file;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
	const char *file = parse_options(argc, argv);
	unsigned started;

	if (file)
		return make_file(file, opt.download_bytes);
	tool_raise_nofile();
	opt.upload_tag = (unsigned)getpid();
	stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stop_fd < 0)
		tool_die("eventfd: %s", strerror(errno));
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	opt.ctx = SSL_CTX_new(TLS_client_method());
	if (!opt.ctx || !SSL_CTX_set_min_proto_version(opt.ctx, TLS1_3_VERSION))
		tool_die("SSL_CTX_new failed");
	SSL_CTX_set_verify(opt.ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_quiet_shutdown(opt.ctx, 1);
	if (opt.progress_path) {
		progress_fd =
			open(opt.progress_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (progress_fd < 0)
			tool_die("%s: %s", opt.progress_path, strerror(errno));
	}
	started = run();
	print_result(started);
	return n_failed || !n_ok ? 1 : 0;
}
