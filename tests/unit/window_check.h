/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Options of windows, set as they must be, or refused. */
#ifndef WINDOW_CHECK_H
#define WINDOW_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util.h"
#include "window.h"

static char error[512];

static inline int set_one(struct window_options *options, const char *key, const char *value)
{
	strcpy(error, "untouched");
	return window_options_set(options, key, value, error, sizeof(error));
}

static inline void good(struct window_options *options, const char *key, const char *value)
{
	if (set_one(options, key, value) != 0)
		fail_msg("%s=%s: %s", key, value, error);
	assert_string_equal(error, "untouched");
}

/* Refused with @code, a line that begins with the key and has @word, and nothing changed. */
static inline void bad(const char *key, const char *value, int code, const char *word)
{
	struct window_options options, before;
	char prefix[32];
	int r;

	window_options_init(&options);
	before = options;
	r = set_one(&options, key, value);
	if (r != code)
		fail_msg("%s=%s: %d, not %d (%s)", key, value, r, code, error);
	snprintf(prefix, sizeof(prefix), "%s: ", key);
	assert_memory_equal(error, prefix, strlen(prefix));
	if (!strstr(error, word))
		fail_msg("%s=%s: no \"%s\" in \"%s\"", key, value, word, error);
	assert_null(strchr(error, '\n'));
	assert_memory_equal(&options, &before, sizeof(options));
}

#endif
