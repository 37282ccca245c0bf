/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: hello.c segment.c challenge.c lazy.c timers.c window.c window_index.c name.c addr.c
/*
 * The inner functions, many times: hello_parse() on captured ClientHellos, the segment builder, and
 * what is asked of windows and challenges.
 *
 *	micro hello FILE.hex N     parses it N times
 *	micro segment BYTES N      builds a segment with so much in it N times
 *	micro windows MANY N       asks where a connection goes, of so many windows of 100 names
 *	micro challenges MANY N    finds a challenge among so many
 *	micro deadlines MANY N     adds one that ends last to so many, and removes it
 *
 * Prints nanoseconds of one call. Under callgrind, which `make microbench` uses, instructions are
 * counted inside measured() only.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "challenge.h"
#include "hello.h"
#include "segment.h"
#include "util.h"
#include "window.h"

static uint8_t bytes[65536];
static size_t n_bytes;

/* Hex digits and blanks; a line from # on is a comment. */
static void read_hex(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[4096];

	if (!f) {
		perror(path);
		exit(2);
	}
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "#")] = '\0';
		for (char *p = line; *(p += strspn(p, " \t\r\n"));) {
			unsigned value;

			if (sscanf(p, "%2x", &value) != 1 || n_bytes == sizeof(bytes))
				exit(2);
			bytes[n_bytes++] = (uint8_t)value;
			p += 2;
		}
	}
	fclose(f);
}

static int hello(void)
{
	struct hello result;
	size_t need;

	return hello_parse(bytes, n_bytes, &need, &result) == HELLO_DONE ? 0 : 1;
}

static void set_size(size_t n)
{
	if (n > sizeof(bytes))
		exit(2);
	n_bytes = n;
}

static int segment(void)
{
	static const struct flow_key key = { .remote_port = 1, .local_port = 2 };
	static const uint8_t mac[6];
	static uint8_t frame[SEGMENT_HEADERS_MAX + sizeof(bytes)];
	const struct segment segment = { .key = &key,
					 .mac = mac,
					 .window = 512,
					 .timestamps = true,
					 .payload = bytes,
					 .len = n_bytes };

	return segment_build(&segment, frame, sizeof(frame)) > 0 ? 0 : 1;
}

static struct window_set windows;
static struct challenge_set challenges;
static char error[256];

static void open_windows(size_t n)
{
	static struct window_options options;
	bool renewed;

	for (size_t i = 0; i < n; i++) {
		window_options_init(&options);
		snprintf(options.name, sizeof(options.name), "w%zu", i);
		for (; options.n_domains < WINDOW_MAX_DOMAINS; options.n_domains++)
			snprintf(options.domains[options.n_domains], sizeof(options.domains[0]),
				 "d%zu.w%zu.example.test", options.n_domains, i);
		if (window_set_open(&windows, &options, 0, &renewed, error, sizeof(error)) < 0)
			exit(2);
	}
}

static void add_challenge(const char *text, uint64_t deadline_ns)
{
	static const uint8_t digest[CHALLENGE_DIGEST];
	struct name name;
	bool replaced;

	if (name_parse(text, &name) ||
	    challenge_set_add(&challenges, &name, digest, 443, deadline_ns, &replaced, error,
			      sizeof(error)) < 0)
		exit(2);
}

static void add_challenges(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char text[64];

		snprintf(text, sizeof(text), "host-%05zu.example.test", i);
		add_challenge(text, i);
	}
}

/* For its web server, and, since it asks for acme-tls/1, for its responder; twice: listed, and not.
 */
static int window(void)
{
	return window_set_of_port(&windows, 443) && window_set_sniff_timeout(&windows, 443) &&
			       window_set_route(&windows, 443, "d0.w0.example.test") &&
			       !window_set_route(&windows, 443, "dx.w0.example.test")
		       ? 0
		       : 1;
}

static int challenge(void)
{
	return challenge_set_find(&challenges, "host-00000.example.test") &&
			       !challenge_set_find(&challenges, "host-xxxxx.example.test")
		       ? 0
		       : 1;
}

static int deadline(void)
{
	add_challenge("host-xxxxx.example.test", UINT64_MAX);
	return challenge_set_port(&challenges, 443)->deadline_ns == UINT64_MAX &&
			       challenge_set_remove(&challenges, "host-xxxxx.example.test") &&
			       challenge_set_port(&challenges, 443)->deadline_ns < UINT64_MAX
		       ? 0
		       : 1;
}

/* Not inlined: callgrind is told to count here. */
__attribute__((noinline)) static int measured(int (*function)(void), long n)
{
	int failed = 0;

	for (long i = 0; i < n; i++)
		failed |= function();
	return failed;
}

static const struct {
	const char *name;
	int (*function)(void);
	void (*set_up)(size_t n); /* NULL: the argument is a file */
} kinds[] = {
	{ "hello", hello, NULL },
	{ "segment", segment, set_size },
	{ "windows", window, open_windows },
	{ "challenges", challenge, add_challenges },
	{ "deadlines", deadline, add_challenges },
};

int main(int argc, char **argv)
{
	size_t kind = 0;
	uint64_t began_ns;
	long n;

	while (argc == 4 && kind < ARRAY_SIZE(kinds) && strcmp(kinds[kind].name, argv[1]) != 0)
		kind++;
	if (argc != 4 || kind == ARRAY_SIZE(kinds)) {
		fprintf(stderr, "usage: micro hello FILE.hex N | micro segment BYTES N | "
				"micro windows|challenges|deadlines MANY N\n");
		return 2;
	}
	n = strtol(argv[3], NULL, 10);
	if (n <= 0)
		return 2;
	if (kinds[kind].set_up)
		kinds[kind].set_up(strtoul(argv[2], NULL, 10));
	else
		read_hex(argv[2]);
	began_ns = now_ns();
	if (measured(kinds[kind].function, n)) {
		fprintf(stderr, "%s: it does not do what is measured\n", argv[2]);
		return 1;
	}
	printf("%zu %.1f\n", n_bytes, (double)(now_ns() - began_ns) / (double)n);
	return 0;
}
