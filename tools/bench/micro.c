/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: hello.c segment.c
/*
 * The inner functions, many times: hello_parse() on captured ClientHellos, and the segment builder.
 *
 *	micro hello FILE.hex N     parses it N times
 *	micro segment BYTES N      builds a segment with so much in it N times
 *
 * Prints nanoseconds of one call. Under callgrind, which `make microbench` uses, instructions are
 * counted inside measured() only.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hello.h"
#include "segment.h"
#include "util.h"

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

/* Not inlined: callgrind is told to count here. */
__attribute__((noinline)) static int measured(int (*function)(void), long n)
{
	int failed = 0;

	for (long i = 0; i < n; i++)
		failed |= function();
	return failed;
}

int main(int argc, char **argv)
{
	bool is_hello = argc == 4 && !strcmp(argv[1], "hello");
	uint64_t began_ns;
	long n;

	if (!is_hello && (argc != 4 || strcmp(argv[1], "segment") != 0)) {
		fprintf(stderr, "usage: micro hello FILE.hex N | micro segment BYTES N\n");
		return 2;
	}
	n = strtol(argv[3], NULL, 10);
	if (is_hello)
		read_hex(argv[2]);
	else
		n_bytes = strtoul(argv[2], NULL, 10);
	if (n <= 0 || n_bytes > sizeof(bytes))
		return 2;
	began_ns = now_ns();
	if (measured(is_hello ? hello : segment, n)) {
		fprintf(stderr, "%s: it does not do what is measured\n", argv[2]);
		return 1;
	}
	printf("%zu %.1f\n", n_bytes, (double)(now_ns() - began_ns) / (double)n);
	return 0;
}
