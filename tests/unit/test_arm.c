/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: arm.c window.c window_index.c addr.c name.c
/* Armed addresses: which are taken, and every state with all that may happen in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arm.h"
#include "util.h"

#define NOW UINT64_C(5000000000)

static char error[512];

static void test_add(void **state)
{
	struct arm arms[ARM_MAX];
	size_t n = 0;

	assert_int_equal(arm_add(arms, &n, "127.0.0.1:31443", error, sizeof(error)), 0);
	assert_int_equal(arm_add(arms, &n, "[::1]:31443", error, sizeof(error)), 0);
	assert_int_equal(arm_add(arms, &n, "[::ffff:127.0.0.1]:31443", error, sizeof(error)), 0);
	assert_int_equal(n, 2);
	assert_string_equal(arms[0].window, "armed:127.0.0.1:31443");
	assert_string_equal(arms[1].window, "armed:[::1]:31443");
	assert_int_equal(arms[0].state, ARM_WAITING);
	assert_int_equal(arms[1].responder.port, 31443);
}

static void test_add_refuses(void **state)
{
	static const char *const bad[] = { "",
					   "127.0.0.1",
					   "31443",
					   "127.0.0.1:0",
					   "[::]:443",
					   "0.0.0.0:31443",
					   "localhost:31443",
					   "fe80::1",
					   "[fe80::1]:31443",
					   "[ff02::1]:31443",
					   "127.0.0.1:65536" };
	struct arm arms[ARM_MAX];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		error[0] = '\0';
		if (arm_add(arms, &n, bad[i], error, sizeof(error)) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
		assert_memory_equal(error, "arm: ", 5);
		assert_null(strchr(error, '\n'));
	}
	assert_int_equal(n, 0);
}

static void test_add_limit(void **state)
{
	struct arm arms[ARM_MAX];
	char text[32];
	size_t n = 0;

	for (int i = 0; i < ARM_MAX; i++) {
		snprintf(text, sizeof(text), "127.0.0.1:%d", 31000 + i);
		assert_int_equal(arm_add(arms, &n, text, error, sizeof(error)), 0);
	}
	assert_int_equal(arm_add(arms, &n, "127.0.0.1:31000", error, sizeof(error)), 0);
	assert_int_equal(n, ARM_MAX);
	assert_int_equal(arm_add(arms, &n, "127.0.0.1:32000", error, sizeof(error)), -E2BIG);
	assert_int_equal(n, ARM_MAX);
}

/* The longest name that an address makes is whole, and no user's. */
static void test_window_name(void **state)
{
	static const char longest[] =
		"[fe80:1111:2222:3333:4444:5555:6666:7777%interface-name-]:65535";
	struct window_options options;
	struct arm arm;

	assert_true(strlen("armed:") + ENDPOINT_STRLEN <= sizeof(arm.window));
	assert_true(strlen(longest) < ENDPOINT_STRLEN);
	window_options_init(&options);
	assert_int_equal(
		window_options_set(&options, "name", "armed:127.0.0.1:31443", error, sizeof(error)),
		-EINVAL);
}

static void test_listener_comes_and_goes(void **state)
{
	struct arm arm = {};

	assert_int_equal(arm_step(&arm, ARM_NOBODY, false, NOW), ARM_STAY);
	for (uint64_t i = 1; i <= 3; i++) {
		assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_OPEN_WINDOW);
		arm_opened(&arm, true, NOW);
		assert_int_equal(arm.state, ARM_OPEN);
		assert_int_equal(arm.opened, i);
		assert_int_equal(arm_step(&arm, ARM_SOMEBODY, true, NOW), ARM_STAY);
		assert_int_equal(arm_step(&arm, ARM_NOBODY, true, NOW), ARM_CLOSE_WINDOW);
		assert_int_equal(arm.state, ARM_WAITING);
		assert_int_equal(arm_step(&arm, ARM_NOBODY, false, NOW), ARM_STAY);
	}
}

/* What a user has closed stays closed until somebody new listens. */
static void test_closed_by_user(void **state)
{
	struct arm arm = {};

	arm_step(&arm, ARM_SOMEBODY, false, NOW);
	arm_opened(&arm, true, NOW);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_STAY);
	assert_int_equal(arm.state, ARM_SHUT);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW + ARM_AGAIN_NS), ARM_STAY);
	assert_int_equal(arm_step(&arm, ARM_NOBODY, false, NOW), ARM_STAY);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_OPEN_WINDOW);
}

/* That nobody listens in between is not seen. */
static void test_closed_by_user_and_others_follow(void **state)
{
	struct arm arm = {};

	arm_step(&arm, ARM_SOMEBODY, false, NOW);
	arm_opened(&arm, true, NOW);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_STAY);
	assert_int_equal(arm.state, ARM_SHUT);
	assert_int_equal(arm_step(&arm, ARM_OTHERS, false, NOW), ARM_OPEN_WINDOW);
	arm_opened(&arm, true, NOW);
	assert_int_equal(arm.opened, 2);
	assert_int_equal(arm_step(&arm, ARM_OTHERS, true, NOW), ARM_STAY);
}

/* Nobody noticed that it was closed before the listener went. */
static void test_closed_by_user_unseen(void **state)
{
	struct arm arm = {};

	arm_step(&arm, ARM_SOMEBODY, false, NOW);
	arm_opened(&arm, true, NOW);
	assert_int_equal(arm_step(&arm, ARM_NOBODY, false, NOW), ARM_STAY);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_OPEN_WINDOW);
}

static void test_failure(void **state)
{
	struct arm arm = {};

	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_OPEN_WINDOW);
	arm_opened(&arm, false, NOW);
	assert_int_equal(arm.state, ARM_FAILED);
	assert_int_equal(arm.opened, 0);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW), ARM_STAY);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW + ARM_AGAIN_NS - 1), ARM_STAY);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW + ARM_AGAIN_NS), ARM_OPEN_WINDOW);
	arm_opened(&arm, false, NOW + ARM_AGAIN_NS);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW + ARM_AGAIN_NS), ARM_STAY);
	/* A new listener is tried at once. */
	assert_int_equal(arm_step(&arm, ARM_NOBODY, false, NOW + ARM_AGAIN_NS), ARM_STAY);
	assert_int_equal(arm_step(&arm, ARM_SOMEBODY, false, NOW + ARM_AGAIN_NS), ARM_OPEN_WINDOW);
	arm_opened(&arm, true, NOW + ARM_AGAIN_NS);
	assert_int_equal(arm.opened, 1);
}

/* No window of an armed address has a deadline; others do beside it. */
static void test_no_deadline(void **state)
{
	struct window_options options;
	struct window_set set = {};
	bool renewed;

	window_options_init(&options);
	assert_int_equal(window_set_open(&set, &options, NOW, &renewed, error, sizeof(error)), 0);
	options.armed = options.gives_way = true;
	strcpy(options.name, "armed:127.0.0.1:31443");
	assert_int_equal(window_set_open(&set, &options, NOW, &renewed, error, sizeof(error)), 0);
	assert_true(window_set_port_deadline(&set, 443) == UINT64_MAX);
	assert_true(window_set_next_deadline(&set) == NOW + WINDOW_DEFAULT_TTL_S * NSEC_PER_SEC);
	assert_int_equal(window_set_expire(&set, UINT64_MAX - 1), 1);
	assert_non_null(window_set_find(&set, "armed:127.0.0.1:31443"));
	window_set_close_all(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add),
		cmocka_unit_test(test_add_refuses),
		cmocka_unit_test(test_add_limit),
		cmocka_unit_test(test_window_name),
		cmocka_unit_test(test_listener_comes_and_goes),
		cmocka_unit_test(test_closed_by_user),
		cmocka_unit_test(test_closed_by_user_and_others_follow),
		cmocka_unit_test(test_closed_by_user_unseen),
		cmocka_unit_test(test_failure),
		cmocka_unit_test(test_no_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
