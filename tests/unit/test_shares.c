/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: shares.c
/* Nobody gets more than a share, and what is given back is there again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "shares.h"

#define MAX 3

static struct in6_addr address(const char *text)
{
	struct in6_addr addr;

	assert_int_equal(inet_pton(AF_INET6, text, &addr), 1);
	return addr;
}

static int setup(void **state)
{
	static struct shares shares;

	shares_init(&shares);
	*state = &shares;
	return 0;
}

static int teardown(void **state)
{
	struct shares *shares = *state;

	shares_free(shares);
	for (size_t i = 0; i < SHARES_BUCKETS; i++)
		assert_null(shares->buckets[i]);
	return 0;
}

static void test_share(void **state)
{
	struct shares *shares = *state;
	const struct in6_addr one = address("::ffff:192.0.2.1");
	const struct in6_addr other = address("::ffff:192.0.2.2");

	for (int i = 0; i < MAX; i++)
		assert_true(shares_take(shares, &one, MAX));
	assert_false(shares_take(shares, &one, MAX));
	assert_true(shares_take(shares, &other, MAX));
	shares_give(shares, &one);
	assert_true(shares_take(shares, &one, MAX));
	assert_false(shares_take(shares, &one, MAX));
}

static void test_none(void **state)
{
	struct shares *shares = *state;
	const struct in6_addr one = address("::ffff:192.0.2.1");

	assert_false(shares_take(shares, &one, 0));
	assert_int_equal(shares->n, 0);
	shares_give(shares, &one); /* without effect */
	assert_int_equal(shares->n, 0);
}

/* Whoever has one address of an IPv6 network has all of them; IPv4 addresses are single. */
static void test_networks(void **state)
{
	struct shares *shares = *state;
	const struct in6_addr one = address("2001:db8:1:2::1");
	const struct in6_addr neighbour = address("2001:db8:1:2:ffff:ffff:ffff:ffff");
	const struct in6_addr stranger = address("2001:db8:1:3::1");

	assert_true(shares_take(shares, &one, 1));
	assert_false(shares_take(shares, &neighbour, 1));
	assert_true(shares_take(shares, &stranger, 1));
	assert_int_equal(shares->n, 2);
	shares_give(shares, &neighbour);
	assert_true(shares_take(shares, &one, 1));
}

/* Many more addresses than buckets; taken and given back in another order. */
static void test_many(void **state)
{
	struct shares *shares = *state;
	enum { N = 10007 };
	char text[64];

	for (unsigned i = 0; i < N; i++) {
		snprintf(text, sizeof(text), "::ffff:10.0.%u.%u", i / 256, i % 256);
		const struct in6_addr addr = address(text);

		for (unsigned k = 0; k <= i % MAX; k++)
			assert_true(shares_take(shares, &addr, MAX));
	}
	assert_int_equal(shares->n, N);
	for (unsigned i = 0; i < N; i++) {
		unsigned at = (unsigned)((i * UINT64_C(7919)) % N);

		snprintf(text, sizeof(text), "::ffff:10.0.%u.%u", at / 256, at % 256);
		const struct in6_addr addr = address(text);

		for (unsigned k = at % MAX + 1; k < MAX; k++)
			assert_true(shares_take(shares, &addr, MAX));
		assert_false(shares_take(shares, &addr, MAX));
		for (unsigned k = 0; k < MAX; k++)
			shares_give(shares, &addr);
	}
	assert_int_equal(shares->n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_share, setup, teardown),
		cmocka_unit_test_setup_teardown(test_none, setup, teardown),
		cmocka_unit_test_setup_teardown(test_networks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
