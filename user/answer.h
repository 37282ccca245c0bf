/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TLS connections that ask for acme-tls/1, each answered by its challenge's certificate. No I/O but
 * theirs. */
#ifndef ANSWER_H
#define ANSWER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "answer_counters.h"
#include "challenge.h"
#include "limit.h"

struct answer;

struct answer_list {
	struct answer *first, *last; /* oldest first */
};

struct answerer {
	int epoll_fd; /* the caller's; data.ptr of a connection is its struct answer */
	SSL_CTX *ctx;
	EVP_PKEY *key; /* P-256, made once */
	struct challenge_set challenges;
	struct answer_list handshaking, closing, unused;
	unsigned n; /* connections */
	unsigned max_conns;
	uint64_t counters[ANSWER_COUNTER_COUNT];
};

/* Makes the key, loads of OpenSSL all that it will need, and answers one connection to itself. 0 or
 * -errno. */
int answerer_init(struct answerer *answerer, int epoll_fd, unsigned max_conns);
void answerer_free(struct answerer *answerer);

/* Takes a non-blocking socket. */
void answer_accept(struct answerer *answerer, int fd, uint64_t now_ns);

/* epoll has something for it. Fine for a connection that has been closed since. */
void answer_event(struct answerer *answerer, struct answer *answer, uint64_t now_ns);

/* Ends what takes too long. Returns when to call again; UINT64_MAX: not before a new connection. */
uint64_t answer_expire(struct answerer *answerer, uint64_t now_ns);

#endif
