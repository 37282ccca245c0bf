/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: timers.c
/* The heap against a list that is searched from end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "timers.h"
#include "util.h"

#define N_TIMERS 300 /* the heap grows from 64, three times */

static uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);

static uint32_t random32(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 16);
}

struct model {
	struct timers timers;
	struct timer all[N_TIMERS];
	bool set[N_TIMERS];
	uint64_t at_ns[N_TIMERS];
};

/* The heap holds what the list holds, the soonest first, and every timer knows its place. */
static void expect_same(const struct model *m)
{
	const struct timer *first = timers_first(&m->timers);
	uint64_t soonest = UINT64_MAX;
	size_t n = 0;

	for (size_t i = 0; i < N_TIMERS; i++) {
		const struct timer *timer = &m->all[i];

		assert_int_equal(timer->place != 0, m->set[i]);
		if (!m->set[i])
			continue;
		n++;
		assert_true(timer->at_ns == m->at_ns[i]);
		assert_ptr_equal(m->timers.heap[timer->place], timer);
		if (m->at_ns[i] < soonest)
			soonest = m->at_ns[i];
	}
	assert_int_equal(m->timers.n, n);
	assert_int_equal(first != NULL, n != 0);
	if (first)
		assert_true(first->at_ns == soonest);
}

static void set(struct model *m, size_t i, uint64_t at_ns)
{
	assert_int_equal(timers_set(&m->timers, &m->all[i], at_ns), 0);
	m->set[i] = true;
	m->at_ns[i] = at_ns;
}

static void cancel(struct model *m, size_t i)
{
	timers_cancel(&m->timers, &m->all[i]);
	m->set[i] = false;
}

static void test_empty(void **state)
{
	struct timers timers = {};
	struct timer timer = {};

	assert_null(timers_first(&timers));
	timers_cancel(&timers, &timer);
	assert_null(timers_first(&timers));
	assert_int_equal(timers_set(&timers, &timer, UINT64_MAX), 0);
	assert_ptr_equal(timers_first(&timers), &timer);
	timers_cancel(&timers, &timer);
	timers_cancel(&timers, &timer);
	assert_null(timers_first(&timers));
	timers_free(&timers);
	timers_free(&timers);
	assert_int_equal(timers_set(&timers, &timer, 1), 0);
	assert_ptr_equal(timers_first(&timers), &timer);
	timers_free(&timers);
}

/* @spread: how many different times there are; few make many ties. */
static void random_operations(uint32_t spread, unsigned rounds)
{
	struct model *m = calloc(1, sizeof(*m));

	for (unsigned round = 0; round < rounds; round++) {
		size_t i = random32() % N_TIMERS;

		/* Now filling, now emptying. */
		if (random32() % 100 < (round / 1000 % 2 ? 30 : 75))
			set(m, i, random32() % spread);
		else
			cancel(m, i);
		expect_same(m);
	}
	timers_free(&m->timers);
	free(m);
}

static void test_random(void **state)
{
	random_operations(UINT32_MAX, 10000);
	random_operations(1000, 5000);
	random_operations(3, 5000);
}

/* As a worker does: what is due comes out in order, whatever is set meanwhile. */
static void test_in_order(void **state)
{
	struct model *m = calloc(1, sizeof(*m));
	uint64_t last = 0;
	size_t n = 0;

	for (size_t i = 0; i < N_TIMERS; i++)
		set(m, i, (uint64_t)random32() << 20);
	for (struct timer *timer; (timer = timers_first(&m->timers)); n++) {
		size_t i = (size_t)(timer - m->all);

		assert_true(timer->at_ns >= last);
		last = timer->at_ns;
		cancel(m, i);
		expect_same(m);
		/* Every other one again, later; each once. */
		if (n < N_TIMERS && i % 2)
			set(m, i, last + random32());
	}
	assert_in_range(n, N_TIMERS + 1, 2 * N_TIMERS);
	timers_free(&m->timers);
	free(m);
}

/* Moved to both ends and to where it is. */
static void test_move(void **state)
{
	struct model *m = calloc(1, sizeof(*m));

	for (size_t i = 0; i < N_TIMERS; i++)
		set(m, i, 1000 + i);
	for (size_t i = 0; i < N_TIMERS; i++) {
		set(m, i, 0);
		assert_ptr_equal(timers_first(&m->timers), &m->all[i]);
		set(m, i, UINT64_MAX);
		expect_same(m);
		set(m, i, UINT64_MAX);
		expect_same(m);
	}
	timers_free(&m->timers);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_in_order),
		cmocka_unit_test(test_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
