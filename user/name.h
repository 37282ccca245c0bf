/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The names that a CA validates: host names and IP addresses, and how SNI shows them. Pure. */
#ifndef NAME_H
#define NAME_H

#include <stdint.h>

#define NAME_MAX_LEN 253

struct name {
	char sni[NAME_MAX_LEN +
		 1]; /* lower case; of an IP address its reverse name (RFC 8738 section 6) */
	uint8_t address_len; /* 4 or 16: an IP address; 0: a host name */
	uint8_t address[16];
};

/*
 * Reads a host name (letters, digits, hyphens; one final dot is dropped), an IP address, or the
 * reverse name of an IP address, which means that address. Returns NULL, or what is wrong with
 * @text as the end of a sentence that begins with it ("is a wildcard, ..."); @ret_name is untouched
 * then.
 */
const char *name_parse(const char *text, struct name *ret_name);

/* As people write it: the host name, or the IP address; returns @buf. */
const char *name_format(const struct name *name, char buf[NAME_MAX_LEN + 1]);

#endif
