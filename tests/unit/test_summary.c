/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: summary.c tally.c
/* What is said of a window in the end: numbers that fit, and names that strangers have chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "summary.h"
#include "util.h"

static struct window window;
static struct summary summary;

static int setup(void **state)
{
	window = (struct window){ .opened_ns = 5 * NSEC_PER_SEC, .tally = tally_new("blog") };
	snprintf(window.options.name, sizeof(window.options.name), "blog");
	return window.tally ? 0 : -1;
}

static int teardown(void **state)
{
	tally_free(window.tally);
	return 0;
}

static const char *text_of(struct window_others others)
{
	summary_make(&window, others, window.opened_ns + 12345 * NSEC_PER_MSEC, &summary);
	return summary.text;
}

static void test_nothing(void **state)
{
	assert_string_equal(text_of((struct window_others){}),
			    "open for 12.3 s; 0 connections: 0 handed off, 0 relayed; 0 timed out, "
			    "0 passed by, 0 read in passing; no challenge was served");
}

static void test_numbers(void **state)
{
	struct tally *tally = window.tally;

	for (int i = 0; i < 10; i++) {
		tally_count(tally, TALLY_ACCEPTED, 1);
		if (i < 6)
			tally_count(tally, TALLY_HANDED_OFF, 1);
		else if (i < 8)
			tally_count(tally, TALLY_RELAYED, 1);
		else
			tally_hold(tally);
	}
	window.others_before = (struct window_others){ .passed_by = 7, .read_in_passing = 66 };
	/* One more is relayed still; it is no longer under way. */
	tally_hold(tally);
	tally_relay(tally, true);
	/* Came, and turned out to be another window's. */
	tally_count(tally, TALLY_ACCEPTED, 1);
	tally_count(tally, TALLY_ACCEPTED, -1);
	tally_count(tally, TALLY_TIMED_OUT, 1);
	tally_challenge(tally, "b.example.org");
	tally_challenge(tally, "a.example.org");
	tally_challenge(tally, "b.example.org");
	assert_string_equal(
		text_of((struct window_others){ .passed_by = 10, .read_in_passing = 1300 }),
		"open for 12.3 s; 10 connections: 6 handed off, 2 relayed, 2 under way; "
		"1 timed out, 3 passed by, 1234 read in passing; challenges: b.example.org 2, "
		"a.example.org 1");
	assert_string_equal(summary.fields.value[LOG_FIELD_EVENT], "closed");
	assert_string_equal(summary.fields.value[LOG_FIELD_WINDOW], "blog");
	assert_string_equal(summary.fields.value[LOG_FIELD_SECONDS], "12.3");
	assert_string_equal(summary.fields.value[LOG_FIELD_CONNECTIONS], "10");
	assert_string_equal(summary.fields.value[LOG_FIELD_HANDED_OFF], "6");
	assert_string_equal(summary.fields.value[LOG_FIELD_RELAYED], "2");
	assert_string_equal(summary.fields.value[LOG_FIELD_TIMED_OUT], "1");
	assert_string_equal(summary.fields.value[LOG_FIELD_PASSED_BY], "3");
	assert_string_equal(summary.fields.value[LOG_FIELD_READ_IN_PASSING], "1234");
	assert_string_equal(summary.fields.value[LOG_FIELD_CHALLENGES], "3");
}

/* The line is one of several, and the names are parts of a list. */
static void test_hostile_name(void **state)
{
	tally_challenge(window.tally, "a\nclosed x, y\x1b\xff");
	tally_challenge(window.tally, "");
	text_of((struct window_others){});
	assert_non_null(strstr(summary.text, "challenges: - 1, a?closed?x??y?? 1"));
}

static void count_names(void *ctx, const char *name, uint64_t n)
{
	*(unsigned *)ctx += 1;
}

/* As many names as there are in the world: memory, and the line, stay within their limits. */
static void test_many_names(void **state)
{
	unsigned n = 0;
	char name[TALLY_NAME_SIZE];

	for (int i = 0; i < TALLY_MAX_NAMES + 100; i++) {
		memset(name, 'a', sizeof(name) - 1);
		sprintf(name + sizeof(name) - 6, "%05d", i);
		tally_challenge(window.tally, name);
	}
	assert_int_equal(tally_names(window.tally, count_names, &n), 100);
	assert_int_equal(n, TALLY_MAX_NAMES);
	assert_int_equal(tally_number(window.tally, TALLY_CHALLENGES), TALLY_MAX_NAMES + 100);
	text_of((struct window_others){});
	assert_non_null(strstr(summary.text, "00007 1, other names 156"));
	assert_null(strstr(summary.text, "00008"));
	assert_true(strlen(summary.text) < SUMMARY_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_names, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
