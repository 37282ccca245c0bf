// uses: hello.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * hello_parse() on every vector of tests/vectors: whole, byte by byte, split over records of every
 * size, with bytes after it, and changed at random. The expectations come from the vectors' headers
 * and, for the changed ones, from the second reader.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "hello.h"
#include "hello_check.h"
#include "slow_hello.h"
#include "util.h"

/* xorshift32: the same "random" tests every time. */
static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* The message without the records. */
static void unwrap(const struct stream *s, struct stream *ret_message)
{
	static struct slow_message message;
	size_t end;

	assert_int_equal(slow_reassemble(s->data, s->len, &message, &end), HELLO_DONE);
	ret_message->len = 0;
	put(ret_message, message.data, message.len);
}

struct vector {
	char name[256];
	enum hello_answer expect;
	struct hello hello;
	struct stream stream;
};

static const char *vectors_pattern(void)
{
	static char pattern[4096];
	const char *file = __FILE__, *slash = strrchr(file, '/');

	snprintf(pattern, sizeof(pattern), "%.*s../vectors/*.hex",
		 slash ? (int)(slash - file + 1) : 0, file);
	return pattern;
}

static void read_expectation(struct vector *v, const char *key, const char *value)
{
	if (!strcmp(key, "expect")) {
		v->expect = !strcmp(value, "done")   ? HELLO_DONE
			    : !strcmp(value, "more") ? HELLO_MORE
						     : HELLO_NOT;
		assert_string_equal(value, answer_names[v->expect]);
	} else if (!strcmp(key, "sni")) {
		v->hello.sni_len = strlen(value);
		assert_true(v->hello.sni_len <= HELLO_MAX_SNI);
		strcpy(v->hello.sni, value);
	} else if (!strcmp(key, "alpn")) {
		v->hello.has_alpn = *value;
	} else if (!strcmp(key, "acme")) {
		v->hello.acme_tls = !strcmp(value, "yes");
	}
}

static void read_vector(const char *path, struct vector *v)
{
	char line[4096], key[32], value[2048];
	FILE *file = fopen(path, "r");
	int keys = 0;

	assert_non_null(file);
	memset(v, 0, sizeof(*v));
	snprintf(v->name, sizeof(v->name), "%s", strrchr(path, '/') + 1);
	while (fgets(line, sizeof(line), file)) {
		value[0] = '\0';
		if (line[0] != '#') {
			put_hex(&v->stream, line);
		} else if (sscanf(line, "# %31[a-z]: %2047[^\n]", key, value) >= 1) {
			read_expectation(v, key, value);
			keys++;
		}
	}
	fclose(file);
	assert_true(keys >= 4);
}

static void for_each_vector(void (*check)(const struct vector *v))
{
	static struct vector v;
	glob_t found;

	assert_int_equal(glob(vectors_pattern(), 0, NULL, &found), 0);
	assert_true(found.gl_pathc >= 20);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		read_vector(found.gl_pathv[i], &v);
		current_case = v.name;
		check(&v);
	}
	current_case = NULL;
	globfree(&found);
}

static void check_vector_cuts(const struct vector *v)
{
	struct hello hello;
	size_t need;

	check_every_cut(&v->stream, v->expect, &v->hello);
	check_same_as_slow(&v->stream);
	check_by_need(&v->stream, v->expect);
	assert_int_equal(parse(v->stream.data, v->stream.len, &need, &hello), v->expect);
}

static void vectors_at_every_cut(void **state)
{
	for_each_vector(check_vector_cuts);
}

/* All cuts of the small record sizes, where headers are what is cut; the ends of the others. */
static void check_vector_records(const struct vector *v)
{
	static struct stream message, split;

	if (v->expect != HELLO_DONE)
		return;
	unwrap(&v->stream, &message);
	for (size_t size = 1; size <= message.len; size++) {
		struct hello hello;
		size_t need;

		split.len = 0;
		put_records(&split, &message, size);
		if (size <= 12 || size % 97 == 0) {
			check_every_cut(&split, HELLO_DONE, &v->hello);
			check_same_as_slow(&split);
		}
		assert_int_equal(parse(split.data, split.len, &need, &hello), HELLO_DONE);
		assert_same_hello(&hello, &v->hello);
		assert_int_equal(parse(split.data, split.len - 1, &need, &hello), HELLO_MORE);
		assert_int_equal(need, split.len);
		check_by_need(&split, HELLO_DONE);
	}
}

static void vectors_in_records_of_every_size(void **state)
{
	for_each_vector(check_vector_records);
}

static void check_vector_tails(const struct vector *v)
{
	static const char *const tails[] = {
		"00",		     /* nothing that TLS knows */
		"17 0303 0001 00",   /* application data: early data */
		"14 0303 0001 01",   /* change_cipher_spec, for middleboxes */
		"16 0301 0000",	     /* a record that would not be ours to like */
		"15 0301 0002 0100", /* close_notify */
		"'GET / HTTP/1.1'",
	};
	static struct stream longer;
	struct hello hello;
	size_t need;

	if (v->expect != HELLO_DONE)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(tails); i++) {
		longer = v->stream;
		put_hex(&longer, tails[i]);
		check_every_cut(&longer, HELLO_DONE, &v->hello);
	}
	/* More in the same record, and far more than is ever looked at. */
	longer = v->stream;
	put_hex(&longer, "01 000000 02");
	longer.data[3] = (uint8_t)((longer.len - 5) >> 8);
	longer.data[4] = (uint8_t)(longer.len - 5);
	check_every_cut(&longer, HELLO_DONE, &v->hello);
	longer = v->stream;
	while (longer.len < sizeof(longer.data))
		put_hex(&longer, "ff");
	check_same_as_slow(&longer);
	assert_int_equal(parse(longer.data, longer.len, &need, &hello), HELLO_DONE);
	assert_same_hello(&hello, &v->hello);
}

static void vectors_with_bytes_after(void **state)
{
	for_each_vector(check_vector_tails);
}

/* One record: its header and the handshake's tell all, so nobody is woken between them and the end.
 */
static void check_vector_need(const struct vector *v)
{
	struct hello hello;
	size_t need;

	if (v->expect != HELLO_DONE)
		return;
	for (size_t len = 9; len < v->stream.len; len++) {
		assert_int_equal(parse(v->stream.data, len, &need, &hello), HELLO_MORE);
		assert_int_equal(need, v->stream.len);
	}
	assert_in_range(check_by_need(&v->stream, HELLO_DONE), 2, 11);
}

static void need_is_exact_in_one_record(void **state)
{
	for_each_vector(check_vector_need);
}

/* A visitor's, in one record, needs no second look: no sniffer's. */
static void check_vector_early(const struct vector *v)
{
	const struct stream *s = &v->stream;

	if (v->expect == HELLO_DONE && v->hello.acme_tls)
		assert_int_equal(early_kind(s->data, s->len), HELLO_UNSURE);
	else if (v->expect == HELLO_DONE && s->len <= HELLO_ROOM &&
		 s->len == 5u + (s->data[3] << 8 | s->data[4]))
		assert_int_equal(early_kind(s->data, s->len), HELLO_VISITOR);
}

static void visitors_are_known_early(void **state)
{
	for_each_vector(check_vector_early);
}

/* Differential: vectors with bytes changed, in records of any sizes, against the second reader. */
static void check_vector_mutations(const struct vector *v)
{
	static struct stream message, mutant;
	uint32_t random = 2463534242u;

	if (v->expect != HELLO_DONE)
		return;
	unwrap(&v->stream, &message);
	for (int round = 0; round < 4000; round++) {
		struct stream *changed = &mutant;
		size_t at = 0;

		mutant.len = 0;
		while (at < message.len) {
			size_t size = 1 + next_random(&random) % (round % 3 ? 1000 : 8);

			size = MIN(size, message.len - at);
			put_record(&mutant, message.data + at, size);
			at += size;
		}
		for (uint32_t i = next_random(&random) % 4; i; i--) {
			size_t where = next_random(&random) % MIN(changed->len, (size_t)700);

			changed->data[where] = (uint8_t)next_random(&random);
			if (next_random(&random) % 2)
				changed->data[where] %= 20;
		}
		if (next_random(&random) % 4 == 0)
			changed->len = next_random(&random) % (changed->len + 1);
		check_same_as_slow(changed);
	}
}

static void vectors_changed_at_random(void **state)
{
	for_each_vector(check_vector_mutations);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		hello_test(vectors_at_every_cut),
		hello_test(vectors_in_records_of_every_size),
		hello_test(vectors_with_bytes_after),
		hello_test(vectors_changed_at_random),
		hello_test(need_is_exact_in_one_record),
		hello_test(visitors_are_known_early),
	};

	return cmocka_run_group_tests_name("hello_vectors", tests, NULL, NULL);
}
