/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What hammer says and byteserver checks, on plain TCP: an ordinary ClientHello of 517 bytes whose
 * random carries a seed and the length of what follows it, then that many bytes of tool.h's
 * pattern. The server answers with what it saw: count, digest, the client's address and port.
 */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "tool.h"

#define EXCHANGE_HELLO_LEN  517
#define EXCHANGE_RANDOM_AT  11 /* record header 5, handshake header 4, version 2 */
#define EXCHANGE_MAGIC	    "hammered"
#define EXCHANGE_ANSWER_LEN 56

struct exchange_random {
	char magic[8];
	uint64_t seed;
	uint64_t tail_len;
	uint64_t check; /* tool_mix(seed ^ tail_len): a wrong byte here is seen too */
};

static inline size_t exchange_put(uint8_t *p, size_t at, const void *bytes, size_t len)
{
	memcpy(p + at, bytes, len);
	return at + len;
}

/* A TLS 1.3 ClientHello: SNI, groups, key share, signature algorithms, ALPN http/1.1, padding. */
static inline void exchange_hello(uint64_t seed, uint64_t tail_len,
				  uint8_t hello[EXCHANGE_HELLO_LEN])
{
	static const uint8_t start[] = { 22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3 };
	static const uint8_t suites[] = { 0, 6, 0x13, 1, 0x13, 2, 0x13, 3, 1, 0 };
	static const uint8_t
		extensions[] = {
			0,   0,	  0,   21,  0,	 19,  0,   0,	16,  'w', 'w', 'w', '.',
			'e', 'x', 'a', 'm', 'p', 'l', 'e', '.', 't', 'e', 's', 't', /* SNI */
			0,   43,  0,   3,   2,	 3,   4,       /* supported_versions: TLS 1.3 */
			0,   10,  0,   4,   0,	 2,   0,   29, /* supported_groups: x25519 */
			0,   13,  0,   6,   0,	 4,   4,   3,	8,   4, /* signature_algorithms */
			0,   16,  0,   11,  0,	 9,   8,   'h', 't', 't', 'p', '/', '1',
			'.', '1',					 /* ALPN */
			0,   51,  0,   38,  0,	 36,  0,   29,	0,   32, /* key_share: x25519 */
		};
	struct exchange_random random = { .magic = EXCHANGE_MAGIC,
					  .seed = seed,
					  .tail_len = tail_len,
					  .check = tool_mix(seed ^ tail_len) };
	size_t at, extensions_at, padding;
	uint8_t key[32];

	tool_pattern(seed, 1 << 20, key, sizeof(key));
	at = exchange_put(hello, 0, start, sizeof(start));
	at = exchange_put(hello, at, &random, sizeof(random));
	hello[at++] = 32;
	at = exchange_put(hello, at, key, sizeof(key)); /* session id */
	at = exchange_put(hello, at, suites, sizeof(suites));
	extensions_at = at;
	at += 2;
	at = exchange_put(hello, at, extensions, sizeof(extensions));
	at = exchange_put(hello, at, key, sizeof(key));
	padding = EXCHANGE_HELLO_LEN - at - 4;
	hello[at++] = 0;
	hello[at++] = 21;
	hello[at++] = (uint8_t)(padding >> 8);
	hello[at++] = (uint8_t)padding;
	memset(hello + at, 0, padding);
	hello[extensions_at] = (uint8_t)((EXCHANGE_HELLO_LEN - extensions_at - 2) >> 8);
	hello[extensions_at + 1] = (uint8_t)(EXCHANGE_HELLO_LEN - extensions_at - 2);
}

struct exchange_answer {
	uint64_t bytes;	      /* hello and tail */
	uint64_t digest;      /* FNV-1a over both */
	uint64_t first_wrong; /* offset, UINT64_MAX: none */
	uint8_t addr[16];     /* of the client as the server sees it, v4-mapped */
	uint64_t port;
	uint64_t magic;
};
_Static_assert(sizeof(struct exchange_answer) == EXCHANGE_ANSWER_LEN, "no padding");

#define EXCHANGE_ANSWER_MAGIC UINT64_C(0x7265776f68732121)

static inline void exchange_addr(const struct sockaddr_storage *sa, uint8_t addr[16])
{
	if (sa->ss_family == AF_INET) {
		memset(addr, 0, 10);
		addr[10] = addr[11] = 0xff;
		memcpy(addr + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
	} else {
		memcpy(addr, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
	}
}

#endif
