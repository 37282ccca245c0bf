// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The connections of one window that are still ours. */
#include "tally.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

/* Of all tallies' names: challenges are rare. */
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;

struct tally *tally_new(const char *name)
{
	struct tally *tally = calloc(1, sizeof(*tally));

	if (tally)
		snprintf(tally->name, sizeof(tally->name), "%s", name);
	return tally;
}

void tally_done(struct tally *tally)
{
	for (size_t i = 0; i < tally->n_names; i++)
		free(tally->names[i].name);
	free(tally->names);
	tally->names = NULL;
	tally->n_names = 0;
}

void tally_free(struct tally *tally)
{
	if (!tally)
		return;
	tally_done(tally);
	free(tally);
}

void tally_hold(struct tally *tally)
{
	__atomic_fetch_add(&tally->held, 1, __ATOMIC_RELAXED);
}

void tally_release(struct tally *tally)
{
	/* The last look at it: who sees 0 may free it. */
	__atomic_fetch_sub(&tally->held, 1, __ATOMIC_RELEASE);
}

void tally_relay(struct tally *tally, bool on)
{
	__atomic_fetch_add(&tally->relayed, on ? 1 : UINT32_MAX, __ATOMIC_RELEASE);
}

uint32_t tally_held(const struct tally *tally)
{
	return __atomic_load_n(&tally->held, __ATOMIC_ACQUIRE);
}

uint32_t tally_relayed(const struct tally *tally)
{
	return __atomic_load_n(&tally->relayed, __ATOMIC_ACQUIRE);
}

void tally_count(struct tally *tally, enum tally_number what, int n)
{
	__atomic_fetch_add(&tally->numbers[what], (uint64_t)(int64_t)n, __ATOMIC_RELAXED);
}

uint64_t tally_number(const struct tally *tally, enum tally_number what)
{
	return __atomic_load_n(&tally->numbers[what], __ATOMIC_RELAXED);
}

/* As it is shown: it stands in a list. */
static void clean_name(const char *sni, char ret_name[TALLY_NAME_SIZE])
{
	size_t len = 0;

	for (; sni[len] && len < NAME_MAX_LEN; len++)
		ret_name[len] =
			sni[len] > ' ' && sni[len] < 0x7f && sni[len] != ',' ? sni[len] : '?';
	ret_name[len] = '\0';
	if (!len)
		strcpy(ret_name, "-");
}

/* The entry of @name, made if there is room; else NULL. Locked. */
static struct tally_name *find_name(struct tally *tally, const char *name)
{
	struct tally_name *names;
	char *copy;

	for (size_t i = 0; i < tally->n_names; i++)
		if (strcmp(tally->names[i].name, name) == 0)
			return &tally->names[i];
	if (tally->n_names == TALLY_MAX_NAMES)
		return NULL;
	copy = strdup(name);
	names = copy ? realloc(tally->names, (tally->n_names + 1) * sizeof(*names)) : NULL;
	if (!names) {
		free(copy);
		return NULL;
	}
	tally->names = names;
	names[tally->n_names] = (struct tally_name){ .name = copy };
	return &names[tally->n_names++];
}

void tally_challenge(struct tally *tally, const char *sni)
{
	char name[TALLY_NAME_SIZE];
	struct tally_name *entry;

	clean_name(sni, name);
	tally_count(tally, TALLY_CHALLENGES, 1);
	pthread_mutex_lock(&names_lock);
	entry = find_name(tally, name);
	if (entry)
		entry->n++;
	else
		tally->other_names++;
	pthread_mutex_unlock(&names_lock);
}

static int compare_names(const void *a, const void *b)
{
	const struct tally_name *one = a, *other = b;

	if (one->n != other->n)
		return one->n < other->n ? 1 : -1;
	return strcmp(one->name, other->name);
}

uint64_t tally_names(const struct tally *tally,
		     void (*each)(void *ctx, const char *name, uint64_t n), void *ctx)
{
	_cleanup_free_ struct tally_name *sorted = NULL;
	const struct tally_name *names;
	uint64_t others;

	pthread_mutex_lock(&names_lock);
	names = tally->names;
	if (tally->n_names)
		sorted = malloc(tally->n_names * sizeof(*sorted));
	if (sorted) {
		memcpy(sorted, names, tally->n_names * sizeof(*sorted));
		qsort(sorted, tally->n_names, sizeof(*sorted), compare_names);
		names = sorted;
	}
	for (size_t i = 0; i < tally->n_names; i++)
		each(ctx, names[i].name, names[i].n);
	others = tally->other_names;
	pthread_mutex_unlock(&names_lock);
	return others;
}

void tally_kill(struct tally *tally, bool killed)
{
	__atomic_store_n(&tally->killed, killed, __ATOMIC_RELEASE);
}

bool tally_killed(const struct tally *tally)
{
	return __atomic_load_n(&tally->killed, __ATOMIC_ACQUIRE);
}

bool tally_say_once(struct tally *tally, unsigned bit)
{
	uint32_t mask = UINT32_C(1) << bit;

	if (__atomic_load_n(&tally->said, __ATOMIC_RELAXED) & mask)
		return false;
	return !(__atomic_fetch_or(&tally->said, mask, __ATOMIC_RELAXED) & mask);
}

static bool had_port(const struct tally *tally, uint16_t port)
{
	for (size_t i = 0; i < tally->n_ports; i++)
		if (tally->ports[i] == port)
			return true;
	return false;
}

struct tally *tally_of_port(struct tally *closed, uint16_t port)
{
	struct tally *newest = NULL;

	for (; closed; closed = closed->next) {
		if (!had_port(closed, port))
			continue;
		if (!newest)
			newest = closed;
		if (!closed->gave_way && newest->closed_ns - closed->closed_ns < TALLY_REST_NS)
			return closed;
	}
	return newest;
}
