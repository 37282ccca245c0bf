/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For the tests of hello_parse(): makes streams, and checks what holds at any cut of any stream. */
#ifndef HELLO_CHECK_H
#define HELLO_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hello.h"
#include "early_check.h"
#include "slow_hello.h"
#include "util.h"

#define NEVER_WRITTEN ((size_t)0xdeadbeef)

struct stream {
	size_t len;
	uint8_t data[HELLO_MAX_STREAM + 4096];
};

static const char *const answer_names[] = { "done", "more", "not" };

/* Bytes */

static inline void put(struct stream *s, const void *data, size_t len)
{
	assert_true(s->len + len <= sizeof(s->data));
	memcpy(s->data + s->len, data, len);
	s->len += len;
}

static inline void put_number(struct stream *s, size_t value, size_t width)
{
	while (width--) {
		uint8_t byte = (uint8_t)(value >> 8 * width);

		put(s, &byte, 1);
	}
}

/* "00 0a 'acme-tls/1'": hex bytes, and text between quotes. */
static inline void put_hex(struct stream *s, const char *text)
{
	for (const char *p = text; *p;) {
		unsigned int byte;

		if (*p == ' ' || *p == '\n') {
			p++;
		} else if (*p == '\'') {
			const char *end = strchr(p + 1, '\'');

			assert_non_null(end);
			put(s, p + 1, (size_t)(end - p - 1));
			p = end + 1;
		} else {
			assert_int_equal(sscanf(p, "%2x", &byte), 1);
			put_number(s, byte, 1);
			p += 2;
		}
	}
}

static inline void put_record(struct stream *s, const uint8_t *fragment, size_t len)
{
	put_hex(s, "16 0301");
	put_number(s, len, 2);
	put(s, fragment, len);
}

/* The message in records of @size bytes. */
static inline void put_records(struct stream *s, const struct stream *message, size_t size)
{
	for (size_t at = 0; at < message->len; at += size)
		put_record(s, message->data + at, MIN(size, message->len - at));
}

/* Checks */

/* The case that is being tested: named when it fails, by the test's teardown. */
static const char *current_case;

static inline int tell_case(void **state)
{
	if (current_case)
		print_message("failed at: %s\n", current_case);
	current_case = NULL;
	return 0;
}

#define hello_test(f) cmocka_unit_test_teardown(f, tell_case)

static inline void assert_same_hello(const struct hello *a, const struct hello *b)
{
	assert_int_equal(a->acme_tls, b->acme_tls);
	assert_int_equal(a->has_alpn, b->has_alpn);
	assert_int_equal(a->sni_len, b->sni_len);
	assert_string_equal(a->sni, b->sni);
	assert_int_equal(strlen(a->sni), a->sni_len);
}

/* Calls hello_parse() and checks what holds for any call. */
static inline enum hello_answer parse(const uint8_t *data, size_t len, size_t *ret_need,
				      struct hello *ret_hello)
{
	size_t need = NEVER_WRITTEN;
	struct hello hello, untouched;
	enum hello_answer answer;

	memset(&hello, 0x5a, sizeof(hello));
	untouched = hello;
	answer = hello_parse(data, len, &need, &hello);
	if (answer == HELLO_MORE) {
		assert_true(need > len);
		assert_true(need <= HELLO_MAX_STREAM);
	} else {
		assert_int_equal(need, NEVER_WRITTEN);
	}
	assert_true(early_agrees(data, len, answer, &hello));
	if (answer != HELLO_DONE)
		assert_memory_equal(&hello, &untouched, sizeof(hello));
	*ret_need = need;
	*ret_hello = hello;
	return answer;
}

/*
 * Every prefix of the stream, each in memory of exactly its size: the answer is HELLO_MORE up to
 * one point and the final one from there on; no prefix shorter than a length needed knows more.
 */
static inline void check_every_cut(const struct stream *s, enum hello_answer expect,
				   const struct hello *expect_hello)
{
	size_t need, promised = 1;
	bool decided = false;
	struct hello hello;

	for (size_t len = 0; len <= s->len; len++) {
		uint8_t *exact = malloc(len);
		enum hello_answer answer;

		assert_true(exact || !len);
		if (len)
			memcpy(exact, s->data, len);
		answer = parse(exact, len, &need, &hello);
		free(exact);

		if (answer == HELLO_MORE) {
			assert_false(decided);
			/* Needs only grow; and once this much is there, the next need is beyond. */
			assert_true(need >= promised);
			promised = need;
			continue;
		}
		assert_true(len >= promised);
		assert_int_equal(answer, expect);
		if (answer == HELLO_DONE)
			assert_same_hello(&hello, expect_hello);
		decided = true;
	}
	assert_int_equal(decided, expect != HELLO_MORE);
}

/* As a caller does that waits for the length needed. Returns how often it asked. */
static inline size_t check_by_need(const struct stream *s, enum hello_answer expect)
{
	size_t calls = 0, need = 0;
	struct hello hello;

	for (;;) {
		enum hello_answer answer = parse(s->data, need, &need, &hello);

		calls++;
		if (answer == HELLO_MORE && need <= s->len)
			continue;
		assert_int_equal(answer, expect);
		return calls;
	}
}

static inline void check_same_as_slow(const struct stream *s)
{
	struct hello hello, slow_hello;
	size_t need, end;
	enum hello_answer answer = parse(s->data, s->len, &need, &hello);
	enum hello_answer slow = slow_parse(s->data, s->len, &end, &slow_hello);

	if (answer == slow && answer == HELLO_DONE)
		assert_same_hello(&hello, &slow_hello);
	assert_string_equal(answer_names[answer], answer_names[slow]);
}

#endif
