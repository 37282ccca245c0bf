/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads a TLS ClientHello (RFC 8446 4.1.2) as far as the choice of a target needs: SNI and ALPN. */
#ifndef HELLO_H
#define HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limit.h"

enum hello_answer {
	HELLO_DONE, /* a whole ClientHello: *ret_hello is filled in */
	HELLO_MORE, /* a ClientHello so far; *ret_need bytes of stream are needed at least */
	HELLO_NOT,  /* not a ClientHello, or not one that we follow */
};

struct hello {
	bool acme_tls; /* the ALPN list is exactly "acme-tls/1" (RFC 8737 section 3) */
	bool has_alpn;
	size_t sni_len;		     /* 0: no SNI */
	char sni[HELLO_MAX_SNI + 1]; /* host_name, lower case, NUL-terminated, no trailing dot */
};

/*
 * Looks at the first @len bytes of a TCP stream. Pure: reads only @data, writes nothing unless it
 * says so. The same stream cut anywhere gives HELLO_MORE until the whole handshake message is
 * there, and then the same answer however it was cut into segments and records.
 *
 * @ret_need is written for HELLO_MORE only: the stream length (from its start, more than @len)
 * below which another call can't answer anything but HELLO_MORE; a good SO_RCVLOWAT.
 * @ret_hello is written for HELLO_DONE only.
 */
enum hello_answer hello_parse(const uint8_t *data, size_t len, size_t *ret_need,
			      struct hello *ret_hello);

#endif
