/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For fuzzers: what must hold, and the input in pieces. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define check(ok) ((ok) ? (void)0 : check_failed(#ok, __FILE__, __LINE__))

static inline void __attribute__((noreturn))
check_failed(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
	abort();
}

/* What is left of the input. */
struct input {
	const uint8_t *data;
	size_t len;
};

/* The next @len bytes; zeros where there are none left. */
static inline void take(struct input *input, void *to, size_t len)
{
	size_t n = MIN(len, input->len);

	memset(to, 0, len);
	if (n)
		memcpy(to, input->data, n);
	input->data += n;
	input->len -= n;
}

/* All of it as a string in memory of exactly its size, for the address sanitizer. To be freed. */
static inline char *text_of(struct input input)
{
	char *text = malloc(input.len + 1);

	check(text);
	if (input.len)
		memcpy(text, input.data, input.len);
	text[input.len] = '\0';
	return text;
}

#endif
