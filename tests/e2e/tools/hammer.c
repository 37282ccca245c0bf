/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Clients that send a ClientHello of 517 bytes and, right behind it, twelve segments of one byte in
 * a tight loop, so that data arrives while the connection changes hands. The other end is
 * byteserver, which checks and answers (exchange.h). A blocking thread per client.
 */
#include "exchange.h"

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>

#define MAX_THREADS 64
#define CHUNK	    65536

static struct {
	uint64_t connections, upload, segments;
	unsigned threads;
	double hung_ms, stall_ms, gap_ms;
	bool any_port;
	struct tool_addrs targets, sources;
} opt = {
	.connections = 20000,
	.segments = 12,
	.threads = 2,
	.hung_ms = 5000,
	.stall_ms = 150,
};

static atomic_ullong next_number;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tool_events failures, stalls;
static struct tool_samples latencies;
static uint64_t n_ok, n_hung, n_reset, n_wrong, n_other;
static double begin_s;

struct client {
	int fd;
	uint64_t seed, tail_len, start_ns, digest;
	const struct tool_addr *target;
	struct sockaddr_storage local;
};

/* Sends all of it. Returns 0 or -errno. */
static int send_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Reads until @len bytes or the end of the stream. Returns how many, or -errno. */
static ssize_t recv_all(int fd, uint8_t *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = recv(fd, data + done, len - done, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static int client_open(struct client *client, uint64_t number)
{
	struct timeval timeout = { .tv_sec = (time_t)(opt.hung_ms / 1000),
				   .tv_usec = (suseconds_t)((uint64_t)opt.hung_ms % 1000 * 1000) };
	const struct tool_addr *source;
	socklen_t len = sizeof(client->local);
	int one = 1;

	client->fd = socket(client->target->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->fd < 0)
		return -errno;
	setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(client->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	source = tool_addrs_of_family(&opt.sources, client->target->sa.ss_family,
				      number / opt.targets.n);
	if (source && tool_bind_source(client->fd, source) < 0)
		return -errno;
	/* SO_SNDTIMEO bounds connect() too; it says EINPROGRESS then. */
	if (connect(client->fd, (const struct sockaddr *)&client->target->sa, client->target->len) <
	    0)
		return errno == EINPROGRESS ? -EAGAIN : -errno;
	getsockname(client->fd, (struct sockaddr *)&client->local, &len);
	return 0;
}

static int client_send(struct client *client)
{
	uint8_t hello[EXCHANGE_HELLO_LEN], small[256];
	uint64_t offset = 0;
	int r;

	exchange_hello(client->seed, client->tail_len, hello);
	tool_pattern(client->seed, 0, small, sizeof(small));
	client->digest = tool_fnv(TOOL_FNV_START, hello, sizeof(hello));
	r = send_all(client->fd, hello, sizeof(hello));
	for (; !r && offset < opt.segments; offset++)
		r = send_all(client->fd, small + offset, 1);
	client->digest =
		tool_fnv(client->digest, small, client->tail_len < 12 ? client->tail_len : 12);
	while (!r && offset < client->tail_len) {
		static __thread uint8_t chunk[CHUNK];
		size_t n = client->tail_len - offset < CHUNK ? client->tail_len - offset : CHUNK;

		tool_pattern(client->seed, offset, chunk, n);
		r = send_all(client->fd, chunk, n);
		offset += n;
	}
	return r;
}

/* Returns NULL or what is wrong; *@ret_error the errno, if it is one. */
static const char *client_check_answer(struct client *client, int *ret_error)
{
	struct exchange_answer answer;
	uint8_t addr[16], byte;
	ssize_t n;

	n = recv_all(client->fd, (uint8_t *)&answer, sizeof(answer));
	if (n < 0) {
		*ret_error = (int)-n;
		return "answer";
	}
	if ((size_t)n != sizeof(answer))
		return "closed before the answer";
	exchange_addr(&client->local, addr);
	if (answer.magic != EXCHANGE_ANSWER_MAGIC)
		return "wrong byte in the answer";
	if (answer.first_wrong != UINT64_MAX)
		return "server saw a wrong byte";
	if (answer.bytes != EXCHANGE_HELLO_LEN + client->tail_len)
		return "server saw too few or too many bytes";
	if (answer.digest != client->digest)
		return "server saw another digest";
	if (memcmp(answer.addr, addr, sizeof(addr)) ||
	    (!opt.any_port && answer.port != tool_addr_port(&client->local)))
		return "server saw another address";
	n = recv_all(client->fd, &byte, 1);
	if (n < 0) {
		*ret_error = (int)-n;
		return "end";
	}
	return n ? "bytes behind the answer" : NULL;
}

static void client_count(struct client *client, const char *wrong, int error)
{
	uint64_t took = tool_now() - client->start_ns;
	char what[96];

	pthread_mutex_lock(&lock);
	if (!wrong) {
		n_ok++;
		tool_samples_add(&latencies, took);
		if ((double)took > opt.stall_ms * 1e6)
			tool_events_add(&stalls, client->start_ns, &client->local,
					&client->target->sa, "stall");
	} else {
		if (error == EAGAIN)
			n_hung++;
		else if (error == ECONNRESET || error == EPIPE)
			n_reset++;
		else if (error)
			n_other++;
		else
			n_wrong++;
		snprintf(what, sizeof(what), "%s%s%s", wrong, error ? ": " : "",
			 error == EAGAIN ? "hung"
			 : error	 ? strerror(error)
					 : "");
		tool_events_add(&failures, client->start_ns, &client->local, &client->target->sa,
				what);
	}
	pthread_mutex_unlock(&lock);
}

static void *client_thread(void *arg)
{
	uint64_t number;

	while (!tool_stop && (number = atomic_fetch_add(&next_number, 1)) < opt.connections) {
		struct client client = { .seed = tool_mix(number ^ (uint64_t)getpid() << 32),
					 .tail_len = opt.segments + opt.upload,
					 .target = &opt.targets.addr[number % opt.targets.n],
					 .start_ns = tool_now() };
		const char *wrong = NULL;
		int error;

		client.local.ss_family = client.target->sa.ss_family;
		error = -client_open(&client, number);
		if (error) {
			wrong = "connect";
		} else {
			error = -client_send(&client);
			if (error)
				wrong = "send";
			else
				wrong = client_check_answer(&client, &error);
		}
		if (client.fd >= 0)
			close(client.fd);
		client_count(&client, wrong, error);
		if (opt.gap_ms > 0) {
			struct timespec gap = { .tv_sec = (time_t)(opt.gap_ms / 1000),
						.tv_nsec = (long)((uint64_t)(opt.gap_ms * 1e6) %
								  NS_PER_S) };

			nanosleep(&gap, NULL);
		}
	}
	return NULL;
}

static void print_result(void)
{
	double seconds = (double)tool_now() / 1e9 - begin_s;

	printf("{\"tool\": \"hammer\", \"connections\": %llu, \"ok\": %llu, \"failed\": %llu, "
	       "\"hung\": %llu, \"reset\": %llu, \"wrong\": %llu, \"other\": %llu, "
	       "\"stalls\": %llu, \"seconds\": %.3f, ",
	       (unsigned long long)(n_ok + failures.n), (unsigned long long)n_ok,
	       (unsigned long long)failures.n, (unsigned long long)n_hung,
	       (unsigned long long)n_reset, (unsigned long long)n_wrong,
	       (unsigned long long)n_other, (unsigned long long)stalls.n, seconds);
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

static const char usage[] =
	"usage: hammer [OPTION...] ADDR:PORT...\n"
	"  --connections N       in all (20000), round the addresses\n"
	"  --threads N           clients at a time (2)\n"
	"  --segments N          one-byte segments behind the hello (12, at most 255)\n"
	"  --upload BYTES        more behind those (0)\n"
	"  --hung-ms N           no progress for so long is hung (5000)\n"
	"  --stall-ms N          a connection that took longer is a stall (150)\n"
	"  --gap-ms N            pause of each client between two connections (0)\n"
	"  --any-port            the server may see another port, not another address\n"
	"  --source ADDR         local address, repeatable\n";

enum option_id {
	OPT_CONNECTIONS = 1,
	OPT_THREADS,
	OPT_SEGMENTS,
	OPT_UPLOAD,
	OPT_HUNG,
	OPT_STALL,
	OPT_GAP,
	OPT_ANY_PORT,
	OPT_SOURCE,
};

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "connections", 1, NULL, OPT_CONNECTIONS },
		{ "threads", 1, NULL, OPT_THREADS },
		{ "segments", 1, NULL, OPT_SEGMENTS },
		{ "upload", 1, NULL, OPT_UPLOAD },
		{ "hung-ms", 1, NULL, OPT_HUNG },
		{ "stall-ms", 1, NULL, OPT_STALL },
		{ "gap-ms", 1, NULL, OPT_GAP },
		{ "any-port", 0, NULL, OPT_ANY_PORT },
		{ "source", 1, NULL, OPT_SOURCE },
		{ NULL, 0, NULL, 0 },
	};
	int id;

	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (id) {
		case OPT_CONNECTIONS:
			opt.connections = (uint64_t)tool_number(optarg, "--connections");
			break;
		case OPT_THREADS:
			opt.threads = (unsigned)tool_number(optarg, "--threads");
			break;
		case OPT_SEGMENTS:
			opt.segments = (uint64_t)tool_number(optarg, "--segments");
			break;
		case OPT_UPLOAD:
			opt.upload = (uint64_t)tool_number(optarg, "--upload");
			break;
		case OPT_HUNG:
			opt.hung_ms = tool_number(optarg, "--hung-ms");
			break;
		case OPT_STALL:
			opt.stall_ms = tool_number(optarg, "--stall-ms");
			break;
		case OPT_GAP:
			opt.gap_ms = tool_number(optarg, "--gap-ms");
			break;
		case OPT_ANY_PORT: opt.any_port = true; break;
		case OPT_SOURCE:
			tool_addrs_add(&opt.sources, optarg, false);
			break;
		default:
			tool_die("%s", usage);
		}
	}
	for (; optind < argc; optind++)
		tool_addrs_add(&opt.targets, argv[optind], true);
	if (!opt.targets.n || !opt.threads || opt.threads > MAX_THREADS || opt.segments > 255)
		tool_die("%s", usage);
}

int main(int argc, char **argv)
{
	pthread_t threads[MAX_THREADS];

	parse_options(argc, argv);
	tool_raise_nofile();
	tool_catch_stop();
	begin_s = (double)tool_now() / 1e9;
	for (unsigned i = 0; i < opt.threads; i++)
		if (pthread_create(&threads[i], NULL, client_thread, NULL))
			tool_die("pthread_create failed");
	for (unsigned i = 0; i < opt.threads; i++)
		pthread_join(threads[i], NULL);
	print_result();
	return failures.n || !n_ok ? 1 : 0;
}
