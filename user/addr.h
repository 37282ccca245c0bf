/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One form for every TCP address: 16 bytes, IPv4 as ::ffff:a.b.c.d, port in host order. */
#ifndef ADDR_H
#define ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct endpoint {
	struct in6_addr addr;
	uint32_t scope_id; /* interface index of a link-local address, else 0 */
	uint16_t port;	   /* host order */
};

/* "[ffff:...:ffff%interface]:65535" and its NUL. */
#define ENDPOINT_STRLEN 80

/*
 * Reads "127.0.0.1:31443", "[::1]:31443", or an address alone when @default_port is not 0.
 * Names are not resolved. Returns 0, or -EINVAL with *ret_endpoint untouched.
 */
int endpoint_parse(const char *text, uint16_t default_port, struct endpoint *ret_endpoint);

/* Writes "192.0.2.1:443" or "[2001:db8::1]:443" and returns @buf. */
const char *endpoint_format(const struct endpoint *endpoint, char buf[ENDPOINT_STRLEN]);

/* Writes the address alone ("192.0.2.1", "2001:db8::1") and returns @buf. */
const char *endpoint_format_addr(const struct endpoint *endpoint, char buf[ENDPOINT_STRLEN]);

/* From AF_INET or AF_INET6 as the kernel fills it in. 0 or -EAFNOSUPPORT. */
int endpoint_from_sockaddr(const struct sockaddr_storage *sa, struct endpoint *ret_endpoint);

/* To AF_INET (v4-mapped) or AF_INET6. Returns the length to give to bind() or connect(). */
socklen_t endpoint_to_sockaddr(const struct endpoint *endpoint, struct sockaddr_storage *ret_sa);

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b);

static inline bool endpoint_is_v4(const struct endpoint *endpoint)
{
	return IN6_IS_ADDR_V4MAPPED(&endpoint->addr);
}

static inline bool endpoint_is_loopback(const struct endpoint *endpoint)
{
	return IN6_IS_ADDR_LOOPBACK(&endpoint->addr) ||
	       (endpoint_is_v4(endpoint) && endpoint->addr.s6_addr[12] == 127);
}

#endif
