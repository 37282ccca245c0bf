/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Challenges: which names the built-in responder answers for, with what, until when. Pure; takes
 * the time. */
#ifndef CHALLENGE_H
#define CHALLENGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limit.h"
#include "name.h"
#include "timers.h"

#define CHALLENGE_DIGEST 32 /* bytes of a SHA-256 */

/* Base64url without padding, and its NUL. */
#define CHALLENGE_DIGEST_STRLEN 44

struct challenge {
	struct name name;
	uint8_t digest[CHALLENGE_DIGEST];
	uint16_t port; /* host order */
	uint64_t deadline_ns;
	uint64_t connections;	/* for this digest, given to the responder; __atomic, by workers */
	struct challenge *next; /* in its bucket */
	struct timer soonest;	/* in the set's heap */
	struct timer latest;	/* in its port's: the time left until the end of all times */
};

/* The challenges of one port. */
struct challenge_port {
	uint16_t port;
	size_t n;
	uint64_t deadline_ns; /* the latest one */
	struct timers latest;
};

/* Zeroed: empty. */
struct challenge_set {
	struct challenge **buckets;
	size_t n;
	struct challenge_port ports[CHALLENGE_MAX_PORTS + 1]; /* one more while a challenge moves */
	size_t n_ports;					      /* only ports that have challenges */
	struct timers soonest;
};

/*
 * The digest of a key authorization, as ACME clients give it: base64url (43 characters, or 44 with
 * its padding), or 64 hexadecimal digits, which may have colons between the bytes. Returns 0, or
 * -EINVAL with one line in @error; @ret_digest is untouched then.
 */
int challenge_digest_parse(const char *text, uint8_t ret_digest[CHALLENGE_DIGEST], char *error,
			   size_t error_size);

/* The same from a key authorization ("token.thumbprint", RFC 8555 section 8.1), by hashing it. */
int challenge_digest_of(const char *key_authorization, uint8_t ret_digest[CHALLENGE_DIGEST],
			char *error, size_t error_size);

/* Base64url; returns @buf. */
const char *challenge_digest_format(const uint8_t digest[CHALLENGE_DIGEST],
				    char buf[CHALLENGE_DIGEST_STRLEN]);

/*
 * Adds a challenge. One of the same name is replaced: digest, port and deadline are taken anew.
 * Returns 0, -ENOSPC beyond CHALLENGE_MAX or CHALLENGE_MAX_PORTS, or -ENOMEM, with one line in
 * @error.
 */
int challenge_set_add(struct challenge_set *set, const struct name *name,
		      const uint8_t digest[CHALLENGE_DIGEST], uint16_t port, uint64_t deadline_ns,
		      bool *ret_replaced, char *error, size_t error_size);

/* Takes a challenge away by its name as SNI shows it. Returns true when it was there. */
bool challenge_set_remove(struct challenge_set *set, const char *sni);

void challenge_set_clear(struct challenge_set *set);

/* By lower-case SNI. NULL: none. */
struct challenge *challenge_set_find(const struct challenge_set *set, const char *sni);

/* Takes away all whose deadline is not after @now_ns; tells @gone of each, while it still is there.
 */
void challenge_set_expire(struct challenge_set *set, uint64_t now_ns,
			  void (*gone)(void *ctx, const struct challenge *challenge), void *ctx);

/* When to call challenge_set_expire() next, at the latest; UINT64_MAX: never. */
uint64_t challenge_set_next_deadline(const struct challenge_set *set);

/* Goes through all, in no order: @after NULL gives the first one, the last one gives NULL. */
const struct challenge *challenge_set_next(const struct challenge_set *set,
					   const struct challenge *after);

/* What there is of @port; NULL: nothing. */
const struct challenge_port *challenge_set_port(const struct challenge_set *set, uint16_t port);

#endif
