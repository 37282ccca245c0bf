/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The PROXY protocol's header, with which a relay tells the target who the client is. */
#ifndef PROXY_HEADER_H
#define PROXY_HEADER_H

#include <stddef.h>

#include "addr.h"

/* v1 has 107 bytes at most and its NUL, v2 52. */
#define PROXY_HEADER_MAX 108

/*
 * Writes the header of a connection from @client to @asked and returns its length. Addresses of
 * two families, which no connection has, become "unknown".
 */
size_t proxy_header_v1(const struct endpoint *client, const struct endpoint *asked,
		       char ret_header[PROXY_HEADER_MAX]);
size_t proxy_header_v2(const struct endpoint *client, const struct endpoint *asked,
		       char ret_header[PROXY_HEADER_MAX]);

#endif
