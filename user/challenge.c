// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Challenges: digests from text, and the set of those that are answered.
 *
 * Theory of operation: a hash table by name as SNI shows it. Beside it a heap of all by deadline,
 * for those that end, and for each port one the other way round, since the latest deadline is that
 * of the port's window.
 */
#include "challenge.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lazy.h"
#include "util.h"

#define BUCKETS 16384 /* a power of 2, above CHALLENGE_MAX */

static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Writes the line for the user and returns @code. */
__attribute__((format(printf, 4, 5))) static int refuse(char *error, size_t error_size, int code,
							const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, error_size, fmt, ap);
	va_end(ap);
	return code;
}

/* 43 characters. Bits beyond the last byte must be 0: else two texts would mean one digest. */
static bool read_base64url(const char *text, uint8_t ret_digest[CHALLENGE_DIGEST])
{
	uint32_t bits = 0;
	unsigned n_bits = 0;
	size_t n = 0;

	for (size_t i = 0; i < CHALLENGE_DIGEST_STRLEN - 1; i++) {
		const char *at = text[i] ? strchr(base64url, text[i]) : NULL;

		if (!at)
			return false;
		bits = bits << 6 | (uint32_t)(at - base64url);
		n_bits += 6;
		if (n_bits >= 8) {
			n_bits -= 8;
			ret_digest[n++] = (uint8_t)(bits >> n_bits);
		}
	}
	return (bits & ((1u << n_bits) - 1)) == 0;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes @stride characters apart; what is between them is a colon. */
static bool read_hex(const char *text, size_t stride, uint8_t ret_digest[CHALLENGE_DIGEST])
{
	for (size_t i = 0; i < CHALLENGE_DIGEST; i++, text += stride) {
		int high = hex_value(text[0]);
		int low = hex_value(text[1]);

		if (high < 0 || low < 0 || (stride == 3 && i > 0 && text[-1] != ':'))
			return false;
		ret_digest[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

int challenge_digest_parse(const char *text, uint8_t ret_digest[CHALLENGE_DIGEST], char *error,
			   size_t error_size)
{
	size_t len = strlen(text);
	uint8_t digest[CHALLENGE_DIGEST];
	bool good = false;

	if (len == 43 || (len == 44 && text[43] == '='))
		good = read_base64url(text, digest);
	else if (len == 2 * CHALLENGE_DIGEST)
		good = read_hex(text, 2, digest);
	else if (len == 3 * CHALLENGE_DIGEST - 1)
		good = read_hex(text, 3, digest);
	if (!good && strchr(text, '.'))
		return refuse(error, error_size, -EINVAL,
			      "digest: \"%.100s\" looks like a key authorization; give that with "
			      "--key-authorization",
			      text);
	if (!good)
		return refuse(error, error_size, -EINVAL,
			      "digest: \"%.100s\" is no SHA-256; use base64url (43 characters) or "
			      "hexadecimal (64 digits, colons allowed)",
			      text);
	memcpy(ret_digest, digest, sizeof(digest));
	return 0;
}

int challenge_digest_of(const char *key_authorization, uint8_t ret_digest[CHALLENGE_DIGEST],
			char *error, size_t error_size)
{
	size_t token_len = strspn(key_authorization, base64url);
	const char *thumbprint = key_authorization + token_len + 1;
	uint8_t ignored[CHALLENGE_DIGEST];
	int err;

	/* Cut short by a shell, it would still hash, and the CA would say no without saying why. */
	if (token_len == 0 || key_authorization[token_len] != '.' || strlen(thumbprint) != 43 ||
	    !read_base64url(thumbprint, ignored))
		return refuse(error, error_size, -EINVAL,
			      "key-authorization: \"%.100s\" is none; it is the token, a dot, and "
			      "the account key's thumbprint (43 characters)",
			      key_authorization);
	err = lazy_sha256(key_authorization, strlen(key_authorization), ret_digest);
	if (err)
		return refuse(error, error_size, err,
			      "key-authorization: OpenSSL, which is to hash it, %s; give the digest",
			      err == -ENOENT ? "is not there" : "can't");
	return 0;
}

const char *challenge_digest_format(const uint8_t digest[CHALLENGE_DIGEST],
				    char buf[CHALLENGE_DIGEST_STRLEN])
{
	uint32_t bits = 0;
	unsigned n_bits = 0;
	char *p = buf;

	for (size_t i = 0; i < CHALLENGE_DIGEST; i++) {
		bits = bits << 8 | digest[i];
		for (n_bits += 8; n_bits >= 6; n_bits -= 6)
			*p++ = base64url[bits >> (n_bits - 6) & 63];
	}
	*p++ = base64url[bits << (6 - n_bits) & 63]; /* 256 bits leave 4 */
	*p = '\0';
	return buf;
}

static size_t bucket_of(const char *sni)
{
	uint32_t hash = 2166136261u; /* FNV-1a: only those who may add challenges choose what is in
					the table */

	for (; *sni; sni++)
		hash = (hash ^ (uint8_t)*sni) * 16777619u;
	return (hash ^ hash >> 16) & (BUCKETS - 1);
}

/* What points at the challenge of this name, or at the end of its bucket. The table is there. */
static struct challenge **link_of(const struct challenge_set *set, const char *sni)
{
	struct challenge **link = &set->buckets[bucket_of(sni)];

	while (*link && strcmp((*link)->name.sni, sni) != 0)
		link = &(*link)->next;
	return link;
}

static struct challenge_port *port_of(const struct challenge_set *set, uint16_t port)
{
	for (size_t i = 0; i < set->n_ports; i++)
		if (set->ports[i].port == port)
			return (struct challenge_port *)&set->ports[i];
	return NULL;
}

static void port_deadline(struct challenge_port *port)
{
	port->deadline_ns = UINT64_MAX - timers_first(&port->latest)->at_ns;
}

/* The caller has seen to it that there is room. 0 or -ENOMEM. */
static int port_add(struct challenge_set *set, struct challenge *challenge)
{
	struct challenge_port *port = port_of(set, challenge->port);

	if (!port) {
		port = &set->ports[set->n_ports];
		*port = (struct challenge_port){ .port = challenge->port };
	}
	if (timers_set(&port->latest, &challenge->latest, UINT64_MAX - challenge->deadline_ns) < 0)
		return -ENOMEM;
	if (port->n++ == 0)
		set->n_ports++;
	port_deadline(port);
	return 0;
}

static void port_remove(struct challenge_set *set, struct challenge *challenge)
{
	struct challenge_port *port = port_of(set, challenge->port);

	timers_cancel(&port->latest, &challenge->latest);
	if (--port->n > 0) {
		port_deadline(port);
		return;
	}
	timers_free(&port->latest);
	*port = set->ports[--set->n_ports];
}

static int check_room(const struct challenge_set *set, const struct challenge *old, uint16_t port,
		      char *error, size_t error_size)
{
	bool frees_port = old && port_of(set, old->port)->n == 1;

	if (!old && set->n == CHALLENGE_MAX)
		return refuse(
			error, error_size, -ENOSPC,
			"%d challenges are there already, which is the most; remove some first",
			CHALLENGE_MAX);
	if (!port_of(set, port) && set->n_ports == CHALLENGE_MAX_PORTS && !frees_port)
		return refuse(error, error_size, -ENOSPC,
			      "port %u: challenges are on %d ports already, which is the most; "
			      "remove some first",
			      port, CHALLENGE_MAX_PORTS);
	return 0;
}

static void unlink_challenge(struct challenge_set *set, struct challenge **link)
{
	struct challenge *challenge = *link;

	*link = challenge->next;
	set->n--;
	timers_cancel(&set->soonest, &challenge->soonest);
	port_remove(set, challenge);
	free(challenge);
}

int challenge_set_add(struct challenge_set *set, const struct name *name,
		      const uint8_t digest[CHALLENGE_DIGEST], uint16_t port, uint64_t deadline_ns,
		      bool *ret_replaced, char *error, size_t error_size)
{
	_cleanup_free_ struct challenge *challenge = NULL;
	struct challenge **link;
	bool replaced;
	int r;

	if (!set->buckets)
		set->buckets = calloc(BUCKETS, sizeof(*set->buckets));
	if (!set->buckets)
		return refuse(error, error_size, -ENOMEM, "out of memory");
	link = link_of(set, name->sni);
	replaced = *link;
	r = check_room(set, *link, port, error, error_size);
	if (r < 0)
		return r;
	challenge = calloc(1, sizeof(*challenge));
	if (!challenge || timers_set(&set->soonest, &challenge->soonest, deadline_ns) < 0)
		return refuse(error, error_size, -ENOMEM, "out of memory");
	challenge->name = *name;
	memcpy(challenge->digest, digest, CHALLENGE_DIGEST);
	challenge->port = port;
	challenge->deadline_ns = deadline_ns;
	if (port_add(set, challenge) < 0) {
		timers_cancel(&set->soonest, &challenge->soonest);
		return refuse(error, error_size, -ENOMEM, "out of memory");
	}
	if (replaced)
		unlink_challenge(set, link);
	challenge->next = *link;
	*link = TAKE_PTR(challenge);
	set->n++;
	*ret_replaced = replaced;
	return 0;
}

bool challenge_set_remove(struct challenge_set *set, const char *sni)
{
	struct challenge **link = set->n ? link_of(set, sni) : NULL;

	if (!link || !*link)
		return false;
	unlink_challenge(set, link);
	return true;
}

void challenge_set_clear(struct challenge_set *set)
{
	for (size_t i = 0; set->buckets && i < BUCKETS; i++)
		while (set->buckets[i])
			unlink_challenge(set, &set->buckets[i]);
	timers_free(&set->soonest);
	free(set->buckets);
	*set = (struct challenge_set){};
}

struct challenge *challenge_set_find(const struct challenge_set *set, const char *sni)
{
	return set->n ? *link_of(set, sni) : NULL;
}

void challenge_set_expire(struct challenge_set *set, uint64_t now_ns,
			  void (*gone)(void *ctx, const struct challenge *challenge), void *ctx)
{
	const struct timer *first;

	while ((first = timers_first(&set->soonest)) && first->at_ns <= now_ns) {
		const struct challenge *challenge =
			container_of(first, const struct challenge, soonest);

		gone(ctx, challenge);
		unlink_challenge(set, link_of(set, challenge->name.sni));
	}
}

uint64_t challenge_set_next_deadline(const struct challenge_set *set)
{
	const struct timer *first = timers_first(&set->soonest);

	return first ? first->at_ns : UINT64_MAX;
}

const struct challenge *challenge_set_next(const struct challenge_set *set,
					   const struct challenge *after)
{
	if (set->n == 0 || (after && after->next))
		return after ? after->next : NULL;
	for (size_t i = after ? bucket_of(after->name.sni) + 1 : 0; i < BUCKETS; i++)
		if (set->buckets[i])
			return set->buckets[i];
	return NULL;
}

const struct challenge_port *challenge_set_port(const struct challenge_set *set, uint16_t port)
{
	return port_of(set, port);
}
