/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections that live through windows: a download, an upload and an idle keep-alive connection
 * per trio, over TLS, every byte checked.
 *
 * Download and upload trickle until the end of the run and then go at full speed to their own
 * end, so that nothing a window did to them can stay unseen in a buffer. Trios start one after the
 * other (--spacing-ms), so that some are opened before, in and after a window. The bytes are
 * tool.h's pattern: seed 0 for the download (longlived --make-file writes it), the trio's number
 * + 1 for an upload, whose SHA-256 is printed for a comparison with what the server has stored.
 * A blocking thread per connection.
 */
#include "tls.h"
#include "tool.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

#define MAX_TRIOS     256
#define TRICKLE_BYTES 4096
#define TRICKLE_MS    100
#define HEAD_MAX      2048

enum role { DOWNLOAD, UPLOAD, IDLE, ROLE_COUNT };
static const char *const role_names[ROLE_COUNT] = { "download", "upload", "idle" };

struct member {
	pthread_t thread;
	unsigned trio;
	enum role role;
	uint64_t start_ns;
	const struct tool_addr *target;
	struct sockaddr_storage local;
	int fd;
	SSL *ssl;
	char head[HEAD_MAX];
	uint64_t bytes;
	unsigned requests;
	char upload_path[128];
	char sha256[65];
	char failure[96];
	bool counted;
};

static struct {
	double seconds, spacing_ms, idle_interval_s, timeout_s;
	uint64_t download_bytes, upload_bytes;
	unsigned trios, upload_tag;
	const char *sni, *download_path, *upload_prefix, *idle_path, *progress_path;
	struct tool_addrs targets, sources;
} opt = {
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

static SSL_CTX *ctx;
static int stop_fd;
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

static bool stopped(void)
{
	struct pollfd pollfd = { .fd = stop_fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) > 0;
}

/* Returns true when the run is over. */
static bool pause_ms(int ms)
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

static void established(struct member *member)
{
	if (member->counted)
		return;
	member->counted = true;
	pthread_mutex_lock(&lock);
	n_established++;
	write_progress();
	pthread_mutex_unlock(&lock);
}

__attribute__((format(printf, 2, 3))) static bool fail(struct member *member, const char *fmt, ...)
{
	int n = snprintf(member->failure, sizeof(member->failure),
			 "%s: ", role_names[member->role]);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(member->failure + n, sizeof(member->failure) - (size_t)n, fmt, ap);
	va_end(ap);
	return false;
}

static bool fail_tls(struct member *member, const char *what, int ret)
{
	int saved_errno = errno, error = SSL_get_error(member->ssl, ret);
	char fault[TLS_FAULT_LEN];

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ||
	    (error == SSL_ERROR_SYSCALL && saved_errno == EAGAIN))
		return fail(member, "%s: hung for %.0f s", what, opt.timeout_s);
	errno = saved_errno;
	return fail(member, "%s: %s", what, tls_fault(member->ssl, ret, fault));
}

static bool open_tls(struct member *member)
{
	const struct tool_addr *target = member->target, *source;
	struct timeval timeout = { .tv_sec = (time_t)opt.timeout_s };
	socklen_t len = sizeof(member->local);
	static const int hello_wait_ms[] = { 0, 40, 300 };
	int ret;

	member->fd = socket(target->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (member->fd < 0)
		return fail(member, "socket: %s", strerror(errno));
	setsockopt(member->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(member->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	source = tool_addrs_of_family(&opt.sources, target->sa.ss_family, member->trio);
	if (source && tool_bind_source(member->fd, source) < 0)
		return fail(member, "bind: %s", strerror(errno));
	if (connect(member->fd, (const struct sockaddr *)&target->sa, target->len) < 0)
		return fail(member, "connect: %s", strerror(errno));
	getsockname(member->fd, (struct sockaddr *)&member->local, &len);
	pause_ms(hello_wait_ms[(member->trio + member->role) % 3]);
	member->ssl = SSL_new(ctx);
	if (!member->ssl || !SSL_set_fd(member->ssl, member->fd) ||
	    !SSL_set_tlsext_host_name(member->ssl, opt.sni))
		tool_die("SSL_new failed");
	errno = 0;
	ret = SSL_connect(member->ssl);
	if (ret <= 0)
		return fail_tls(member, "handshake", ret);
	return true;
}

static bool send_all(struct member *member, const void *data, size_t len)
{
	int ret;

	ERR_clear_error();
	errno = 0;
	ret = SSL_write(member->ssl, data, (int)len);
	return ret > 0 ? true : fail_tls(member, "write", ret);
}

/*
 * Reads as far as the head's end. What came behind it is left in @rest. Returns the status, or 0
 * when it failed; @ret_length is the body's.
 */
static int read_head(struct member *member, uint8_t *rest, size_t rest_size, size_t *ret_rest,
		     uint64_t *ret_length)
{
	size_t len = 0;
	char *end = NULL, *length;
	int status = 0, n;

	while (!end) {
		if (len == HEAD_MAX - 1)
			return fail(member, "head too long");
		ERR_clear_error();
		errno = 0;
		n = SSL_read(member->ssl, member->head + len, (int)(HEAD_MAX - 1 - len));
		if (n <= 0)
			return fail_tls(member, "read head", n);
		len += (size_t)n;
		member->head[len] = '\0';
		end = strstr(member->head, "\r\n\r\n");
	}
	*ret_rest = len - (size_t)(end + 4 - member->head);
	if (*ret_rest > rest_size)
		return fail(member, "unexpected body");
	memcpy(rest, end + 4, *ret_rest);
	end[2] = '\0';
	length = strcasestr(member->head, "\r\ncontent-length:");
	*ret_length = length ? strtoull(length + 17, NULL, 10) : 0;
	if (sscanf(member->head, "HTTP/1.%*d %d", &status) != 1)
		return fail(member, "not HTTP");
	return status;
}

static bool read_end(struct member *member)
{
	char byte;
	int n;

	ERR_clear_error();
	errno = 0;
	n = SSL_read(member->ssl, &byte, 1);
	if (n > 0)
		return fail(member, "bytes behind the end");
	if (SSL_get_error(member->ssl, n) != SSL_ERROR_ZERO_RETURN)
		return fail_tls(member, "end", n);
	return true;
}

static bool run_download(struct member *member)
{
	uint8_t buf[16384];
	char request[512];
	uint64_t length;
	size_t n;
	int status, ret;

	snprintf(request, sizeof(request),
		 "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", opt.download_path,
		 opt.sni);
	if (!send_all(member, request, strlen(request)))
		return false;
	status = read_head(member, buf, sizeof(buf), &n, &length);
	if (!status)
		return false;
	if (status != 200 || length != opt.download_bytes)
		return fail(member, "status %d, length %llu", status, (unsigned long long)length);
	for (;;) {
		if (tool_pattern_check(0, member->bytes, buf, n) != n)
			return fail(member, "wrong byte after %llu",
				    (unsigned long long)member->bytes);
		member->bytes += n;
		if (n)
			established(member);
		if (member->bytes >= length)
			break;
		pause_ms(TRICKLE_MS);
		ERR_clear_error();
		errno = 0;
		ret = SSL_read(member->ssl, buf, stopped() ? (int)sizeof(buf) : TRICKLE_BYTES);
		if (ret <= 0)
			return fail_tls(member, "read", ret);
		n = (size_t)ret;
	}
	return read_end(member);
}

static bool run_upload(struct member *member)
{
	EVP_MD_CTX *digest = EVP_MD_CTX_new();
	uint8_t buf[16384], md[EVP_MAX_MD_SIZE];
	unsigned md_len = 0;
	char request[512];
	uint64_t length;
	size_t n, rest;
	int status;

	snprintf(member->upload_path, sizeof(member->upload_path), "%s%u-%u", opt.upload_prefix,
		 opt.upload_tag, member->trio);
	snprintf(request, sizeof(request),
		 "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %llu\r\nConnection: close\r\n\r\n",
		 member->upload_path, opt.sni, (unsigned long long)opt.upload_bytes);
	EVP_DigestInit_ex(digest, EVP_sha256(), NULL);
	if (!send_all(member, request, strlen(request)))
		goto out;
	while (member->bytes < opt.upload_bytes) {
		n = stopped() ? sizeof(buf) : TRICKLE_BYTES;
		if (n > opt.upload_bytes - member->bytes)
			n = (size_t)(opt.upload_bytes - member->bytes);
		tool_pattern(member->trio + 1, member->bytes, buf, n);
		EVP_DigestUpdate(digest, buf, n);
		if (!send_all(member, buf, n))
			goto out;
		member->bytes += n;
		established(member);
		pause_ms(TRICKLE_MS);
	}
	EVP_DigestFinal_ex(digest, md, &md_len);
	for (unsigned i = 0; i < md_len; i++)
		sprintf(member->sha256 + 2 * i, "%02x", md[i]);
	status = read_head(member, buf, sizeof(buf), &rest, &length);
	if (status && status != 201 && status != 204)
		fail(member, "status %d", status);
	if (!member->failure[0] && rest == length)
		read_end(member);
out:
	EVP_MD_CTX_free(digest);
	return !member->failure[0];
}

static bool idle_request(struct member *member)
{
	uint8_t buf[HEAD_MAX];
	char request[512];
	uint64_t length;
	size_t n;
	int status, ret;

	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", opt.idle_path,
		 opt.sni);
	if (!send_all(member, request, strlen(request)))
		return false;
	status = read_head(member, buf, sizeof(buf), &n, &length);
	if (!status)
		return false;
	if (status != 200)
		return fail(member, "status %d", status);
	while (n < length) {
		size_t want = length - n < sizeof(buf) ? (size_t)(length - n) : sizeof(buf);

		ret = SSL_read(member->ssl, buf, (int)want);
		if (ret <= 0)
			return fail_tls(member, "read", ret);
		n += (size_t)ret;
	}
	member->requests++;
	established(member);
	return true;
}

static bool run_idle(struct member *member)
{
	for (;;) {
		struct pollfd fds[2] = { { .fd = stop_fd, .events = POLLIN },
					 { .fd = member->fd, .events = POLLIN | POLLRDHUP } };
		double ms = opt.idle_interval_s * 1000;

		if (!idle_request(member))
			return false;
		if (poll(fds, 2, ms > 1e8 ? 100000000 : (int)ms) < 0 && errno != EINTR)
			return fail(member, "poll: %s", strerror(errno));
		if (fds[1].revents)
			return fail(member, "closed while idle");
		if (stopped())
			return idle_request(member);
	}
}

static void *member_run(void *arg)
{
	static bool (*const run[ROLE_COUNT])(struct member *) = { run_download, run_upload,
								  run_idle };
	struct member *member = arg;
	bool ok = open_tls(member) && run[member->role](member);

	SSL_free(member->ssl);
	if (member->fd >= 0)
		close(member->fd);
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
	ctx = SSL_CTX_new(TLS_client_method());
	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION))
		tool_die("SSL_CTX_new failed");
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_quiet_shutdown(ctx, 1);
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
