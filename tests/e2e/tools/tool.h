/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the load tools share: the clock, addresses, latencies, counted reasons, a byte pattern. */
#ifndef TOOL_H
#define TOOL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)

#define MAX_TARGETS 16
#define MAX_EVENTS  16384 /* failures, and stalls, that are described one by one */

static inline uint64_t tool_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void tool_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

static inline double tool_number(const char *text, const char *what)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || value < 0)
		tool_die("%s: not a number: %s", what, text);
	return value;
}

static inline void tool_raise_nofile(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* SIGTERM and SIGINT end a run in order. Without SA_RESTART: blocked calls return EINTR. */
static volatile sig_atomic_t tool_stop;

static inline void tool_on_stop(int sig)
{
	tool_stop = 1;
}

static inline void tool_catch_stop(void)
{
	struct sigaction action = { .sa_handler = tool_on_stop };

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* Addresses: "192.0.2.1:443", "[2001:db8::1]:443"; without a port where @port_needed is false. */

struct tool_addr {
	struct sockaddr_storage sa;
	socklen_t len;
};

#define TOOL_ADDRLEN 64

static inline int tool_addr_parse(const char *text, bool port_needed, struct tool_addr *ret)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&ret->sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ret->sa;
	char host[TOOL_ADDRLEN], *p = host;
	unsigned port = 0;

	memset(ret, 0, sizeof(*ret));
	if (snprintf(host, sizeof(host), "%s", text) >= (int)sizeof(host))
		return -EINVAL;
	if (port_needed) {
		char *colon = strrchr(host, ':');

		if (!colon)
			return -EINVAL;
		*colon = '\0';
		port = (unsigned)strtoul(colon + 1, NULL, 10);
		if (!port || port > 65535)
			return -EINVAL;
	}
	if (*p == '[') {
		size_t n = strlen(p);

		if (n < 2 || p[n - 1] != ']')
			return -EINVAL;
		p[n - 1] = '\0';
		p++;
	}
	if (inet_pton(AF_INET, p, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		ret->len = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, p, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		ret->len = sizeof(*v6);
		return 0;
	}
	return -EINVAL;
}

static inline uint16_t tool_addr_port(const struct sockaddr_storage *sa)
{
	return ntohs(sa->ss_family == AF_INET ? ((const struct sockaddr_in *)sa)->sin_port
					      : ((const struct sockaddr_in6 *)sa)->sin6_port);
}

/* Writes the address alone; a v4-mapped one as IPv4. */
static inline const char *tool_addr_host(const struct sockaddr_storage *sa, char buf[TOOL_ADDRLEN])
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sa;

	if (sa->ss_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, buf, TOOL_ADDRLEN);
	else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], buf, TOOL_ADDRLEN);
	else
		inet_ntop(AF_INET6, &v6->sin6_addr, buf, TOOL_ADDRLEN);
	return buf;
}

struct tool_addrs {
	struct tool_addr addr[MAX_TARGETS];
	size_t n;
};

static inline void tool_addrs_add(struct tool_addrs *addrs, const char *text, bool port_needed)
{
	if (addrs->n == MAX_TARGETS)
		tool_die("more than %d addresses", MAX_TARGETS);
	if (tool_addr_parse(text, port_needed, &addrs->addr[addrs->n]) < 0)
		tool_die("not an address%s: %s", port_needed ? " with a port" : "", text);
	addrs->n++;
}

/* The @nth (round and round) of the family of @target; NULL when there is none. */
static inline const struct tool_addr *tool_addrs_of_family(const struct tool_addrs *addrs,
							   int family, uint64_t nth)
{
	size_t n = 0;

	for (size_t i = 0; i < addrs->n; i++)
		n += addrs->addr[i].sa.ss_family == family;
	if (!n)
		return NULL;
	nth %= n;
	for (size_t i = 0; i < addrs->n; i++)
		if (addrs->addr[i].sa.ss_family == family && nth-- == 0)
			return &addrs->addr[i];
	return NULL;
}

/* A source address without giving away the choice of the port. */
static inline int tool_bind_source(int fd, const struct tool_addr *source)
{
	int one = 1;

	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	return bind(fd, (const struct sockaddr *)&source->sa, source->len);
}

/* What became of a connect() that did not block: 0 and the local address, or an errno. */
static inline int tool_connected(int fd, struct sockaddr_storage *ret_local)
{
	socklen_t len = sizeof(int), local_len = sizeof(*ret_local);
	int error = 0;

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (!error)
		getsockname(fd, (struct sockaddr *)ret_local, &local_len);
	return error;
}

/* Bytes that can be made and checked at any offset. */

static inline uint64_t tool_mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static inline void tool_pattern(uint64_t seed, uint64_t offset, uint8_t *buf, size_t len)
{
	while (len) {
		uint64_t word = tool_mix(seed + offset / 8);
		size_t skip = offset % 8, n = 8 - skip < len ? 8 - skip : len;

		memcpy(buf, (uint8_t *)&word + skip, n);
		buf += n;
		offset += n;
		len -= n;
	}
}

/* Returns the number of leading bytes that are as they must be. */
static inline size_t tool_pattern_check(uint64_t seed, uint64_t offset, const uint8_t *buf,
					size_t len)
{
	uint8_t want[4096];

	for (size_t done = 0; done < len;) {
		size_t n = len - done < sizeof(want) ? len - done : sizeof(want);

		tool_pattern(seed, offset + done, want, n);
		if (memcmp(want, buf + done, n)) {
			for (size_t i = 0; i < n; i++)
				if (want[i] != buf[done + i])
					return done + i;
		}
		done += n;
	}
	return len;
}

/* FNV-1a: @hash goes on from the last call's answer. */
#define TOOL_FNV_START UINT64_C(0xcbf29ce484222325)

static inline uint64_t tool_fnv(uint64_t hash, const uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ buf[i]) * UINT64_C(0x100000001b3);
	return hash;
}

/* Latencies. */

struct tool_samples {
	uint64_t *ns;
	size_t n, size;
};

static inline void tool_samples_add(struct tool_samples *samples, uint64_t ns)
{
	if (samples->n == samples->size) {
		samples->size = samples->size ? 2 * samples->size : 4096;
		samples->ns = realloc(samples->ns, samples->size * sizeof(*samples->ns));
		if (!samples->ns)
			tool_die("out of memory");
	}
	samples->ns[samples->n++] = ns;
}

static inline int tool_compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static inline void tool_samples_print(struct tool_samples *samples, const char *name)
{
	size_t n = samples->n;

	if (n)
		qsort(samples->ns, n, sizeof(*samples->ns), tool_compare_u64);
#define TOOL_AT(q) (n ? (double)samples->ns[(size_t)((double)(n - 1) * (q))] / 1e6 : 0.0)
	printf("\"%s\": {\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name, TOOL_AT(0.5),
	       TOOL_AT(0.99), TOOL_AT(1));
#undef TOOL_AT
}

/* Failures (and stalls): each reason counted, the first MAX_EVENTS described. */

struct tool_event {
	double start_s; /* CLOCK_MONOTONIC, as Python's time.monotonic() */
	double took_s;
	char local[TOOL_ADDRLEN], remote[TOOL_ADDRLEN];
	uint16_t local_port;
	char what[96];
};

struct tool_events {
	struct tool_event event[MAX_EVENTS];
	uint64_t n;
	struct {
		char what[96];
		uint64_t n;
	} reason[32];
	size_t n_reasons;
};

static inline void tool_events_add(struct tool_events *events, uint64_t start_ns,
				   const struct sockaddr_storage *local,
				   const struct sockaddr_storage *remote, const char *what)
{
	size_t i;

	for (i = 0; i < events->n_reasons; i++)
		if (!strcmp(events->reason[i].what, what))
			break;
	if (i == events->n_reasons && i < sizeof(events->reason) / sizeof(events->reason[0])) {
		snprintf(events->reason[i].what, sizeof(events->reason[i].what), "%s", what);
		events->n_reasons++;
	}
	if (i < events->n_reasons)
		events->reason[i].n++;
	if (events->n < MAX_EVENTS) {
		struct tool_event *event = &events->event[events->n];

		event->start_s = (double)start_ns / 1e9;
		event->took_s = (double)(tool_now() - start_ns) / 1e9;
		tool_addr_host(local, event->local);
		tool_addr_host(remote, event->remote);
		event->local_port = tool_addr_port(local);
		snprintf(event->what, sizeof(event->what), "%s", what);
	}
	events->n++;
}

static inline void tool_print_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char)*text >= 0x20 && (unsigned char)*text < 0x7f)
			putchar(*text);
	}
	putchar('"');
}

/* "NAME": [..., one object per event] */
static inline void tool_events_print(const struct tool_events *events, const char *name)
{
	uint64_t n = events->n < MAX_EVENTS ? events->n : MAX_EVENTS;

	printf("\"%s\": [", name);
	for (uint64_t i = 0; i < n; i++) {
		const struct tool_event *event = &events->event[i];

		printf("%s{\"start\": %.6f, \"took\": %.6f, \"local\": \"%s\", \"local_port\": %u, "
		       "\"remote\": \"%s\", \"what\": ",
		       i ? ", " : "", event->start_s, event->took_s, event->local,
		       event->local_port, event->remote);
		tool_print_string(event->what);
		putchar('}');
	}
	putchar(']');
}

/* "NAME": {"reason": count, ...} */
static inline void tool_reasons_print(const struct tool_events *events, const char *name)
{
	printf("\"%s\": {", name);
	for (size_t i = 0; i < events->n_reasons; i++) {
		printf("%s", i ? ", " : "");
		tool_print_string(events->reason[i].what);
		printf(": %llu", (unsigned long long)events->reason[i].n);
	}
	putchar('}');
}

/* A whole file, which is the caller's. */
static inline uint8_t *tool_read_file(const char *path, size_t *ret_len)
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

#endif
