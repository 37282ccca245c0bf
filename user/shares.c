// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How many places each client address has taken. A hash table with an entry for each address that
 * has any: as many entries at most as there are places. Its hash is keyed, so that nobody can find
 * addresses that fall into one bucket.
 */
#include "shares.h"

#include <string.h>
#include <sys/random.h>

#include "util.h"

struct share {
	struct share *next;
	struct in6_addr source; /* as source_of() makes it */
	unsigned n;
};

void shares_init(struct shares *shares)
{
	*shares = (struct shares){};
	/* Without randomness yet (early in the boot) the keys are 0: slower at worst. */
	if (getrandom(shares->secret, sizeof(shares->secret), GRND_NONBLOCK) < 0)
		memset(shares->secret, 0, sizeof(shares->secret));
}

void shares_free(struct shares *shares)
{
	for (size_t i = 0; i < SHARES_BUCKETS; i++) {
		while (shares->buckets[i]) {
			struct share *share = shares->buckets[i];

			shares->buckets[i] = share->next;
			free(share);
		}
	}
	shares->n = 0;
}

/* Whoever has an IPv6 network has all the addresses in it. */
static struct in6_addr source_of(const struct in6_addr *addr)
{
	struct in6_addr source = *addr;

	if (!IN6_IS_ADDR_V4MAPPED(addr))
		memset(&source.s6_addr[8], 0, 8);
	return source;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Where the entry of @source is linked, or would be. */
static struct share **find(struct shares *shares, const struct in6_addr *source)
{
	uint64_t words[2];
	struct share **link;

	memcpy(words, source, sizeof(words));
	words[0] = mix(words[0] ^ shares->secret[0]);
	words[1] = mix(words[1] ^ words[0] ^ shares->secret[1]);
	link = &shares->buckets[words[1] % SHARES_BUCKETS];
	while (*link && !IN6_ARE_ADDR_EQUAL(&(*link)->source, source))
		link = &(*link)->next;
	return link;
}

bool shares_take(struct shares *shares, const struct in6_addr *addr, unsigned max)
{
	const struct in6_addr source = source_of(addr);
	struct share **link = find(shares, &source);

	if (max == 0)
		return false;
	if (!*link) {
		struct share *share = calloc(1, sizeof(*share));

		if (!share)
			return false;
		share->source = source;
		*link = share;
		shares->n++;
	}
	if ((*link)->n >= max)
		return false;
	(*link)->n++;
	return true;
}

void shares_give(struct shares *shares, const struct in6_addr *addr)
{
	const struct in6_addr source = source_of(addr);
	struct share **link = find(shares, &source);
	struct share *share = *link;

	if (!share || --share->n > 0)
		return;
	*link = share->next;
	shares->n--;
	free(share);
}
