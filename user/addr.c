/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP addresses: from text and sockaddr to one 16-byte form, and back. */
#include "addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "util.h"

/* Digits alone, no sign, no space, so that "443x" and " 443" are refused. */
static int number_parse(const char *text, uint32_t max, uint32_t *ret_number)
{
	uint64_t number = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		number = number * 10 + (uint64_t)(*text - '0');
		if (number > max)
			return -EINVAL;
	}
	*ret_number = (uint32_t)number;
	return 0;
}

static int v4_parse(const char *text, struct in6_addr *ret_addr)
{
	struct in_addr v4;

	if (inet_pton(AF_INET, text, &v4) != 1)
		return -EINVAL;
	memset(ret_addr, 0, sizeof(*ret_addr));
	ret_addr->s6_addr[10] = ret_addr->s6_addr[11] = 0xff;
	memcpy(&ret_addr->s6_addr[12], &v4, sizeof(v4));
	return 0;
}

/* "fe80::1%eth0": a zone is for link-local addresses only, by interface name or index. */
static int v6_parse(char *text, struct in6_addr *ret_addr, uint32_t *ret_scope_id)
{
	char *zone = strchr(text, '%');
	uint32_t scope_id = 0;

	if (zone)
		*zone++ = '\0';
	if (inet_pton(AF_INET6, text, ret_addr) != 1)
		return -EINVAL;
	if (zone) {
		if (!IN6_IS_ADDR_LINKLOCAL(ret_addr))
			return -EINVAL;
		scope_id = if_nametoindex(zone);
		if (!scope_id && (number_parse(zone, INT32_MAX, &scope_id) < 0 || !scope_id))
			return -EINVAL;
	}
	*ret_scope_id = scope_id;
	return 0;
}

int endpoint_parse(const char *text, uint16_t default_port, struct endpoint *ret_endpoint)
{
	struct endpoint endpoint = {};
	const char *port_text = NULL;
	char copy[ENDPOINT_STRLEN];
	uint32_t port = default_port;
	size_t len = strlen(text);
	char *addr = copy;
	int r;

	if (len >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, len + 1);

	if (copy[0] == '[') {
		char *end = strchr(copy, ']');

		if (!end || (end[1] && end[1] != ':'))
			return -EINVAL;
		if (end[1])
			port_text = end + 2;
		*end = '\0';
		addr = copy + 1;
		r = v6_parse(addr, &endpoint.addr, &endpoint.scope_id);
	} else {
		char *colon = strchr(copy, ':');

		/* Two colons without brackets: an IPv6 address alone. */
		if (colon && strchr(colon + 1, ':')) {
			r = v6_parse(addr, &endpoint.addr, &endpoint.scope_id);
		} else {
			if (colon) {
				*colon = '\0';
				port_text = colon + 1;
			}
			r = v4_parse(addr, &endpoint.addr);
		}
	}
	if (r < 0)
		return r;
	if (port_text && number_parse(port_text, UINT16_MAX, &port) < 0)
		return -EINVAL;
	if (!port)
		return -EINVAL;

	endpoint.port = (uint16_t)port;
	*ret_endpoint = endpoint;
	return 0;
}

const char *endpoint_format_addr(const struct endpoint *endpoint, char buf[ENDPOINT_STRLEN])
{
	char name[IF_NAMESIZE];
	size_t len;

	if (endpoint_is_v4(endpoint)) {
		inet_ntop(AF_INET, &endpoint->addr.s6_addr[12], buf, ENDPOINT_STRLEN);
		return buf;
	}
	inet_ntop(AF_INET6, &endpoint->addr, buf, ENDPOINT_STRLEN);
	if (!endpoint->scope_id)
		return buf;
	len = strlen(buf);
	if (if_indextoname(endpoint->scope_id, name))
		snprintf(buf + len, ENDPOINT_STRLEN - len, "%%%s", name);
	else
		snprintf(buf + len, ENDPOINT_STRLEN - len, "%%%u", endpoint->scope_id);
	return buf;
}

const char *endpoint_format(const struct endpoint *endpoint, char buf[ENDPOINT_STRLEN])
{
	char addr[ENDPOINT_STRLEN];

	endpoint_format_addr(endpoint, addr);
	/* At most 45 bytes of address and 16 of zone: the precision only tells the compiler. */
	if (endpoint_is_v4(endpoint))
		snprintf(buf, ENDPOINT_STRLEN, "%.15s:%u", addr, endpoint->port);
	else
		snprintf(buf, ENDPOINT_STRLEN, "[%.62s]:%u", addr, endpoint->port);
	return buf;
}

int endpoint_from_sockaddr(const struct sockaddr_storage *sa, struct endpoint *ret_endpoint)
{
	struct endpoint endpoint = {};

	if (sa->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

		endpoint.addr.s6_addr[10] = endpoint.addr.s6_addr[11] = 0xff;
		memcpy(&endpoint.addr.s6_addr[12], &in->sin_addr, sizeof(in->sin_addr));
		endpoint.port = ntohs(in->sin_port);
	} else if (sa->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

		endpoint.addr = in6->sin6_addr;
		endpoint.port = ntohs(in6->sin6_port);
		if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
			endpoint.scope_id = in6->sin6_scope_id;
	} else {
		return -EAFNOSUPPORT;
	}
	*ret_endpoint = endpoint;
	return 0;
}

socklen_t endpoint_to_sockaddr(const struct endpoint *endpoint, struct sockaddr_storage *ret_sa)
{
	memset(ret_sa, 0, sizeof(*ret_sa));
	if (endpoint_is_v4(endpoint)) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret_sa;

		in->sin_family = AF_INET;
		in->sin_port = htons(endpoint->port);
		memcpy(&in->sin_addr, &endpoint->addr.s6_addr[12], sizeof(in->sin_addr));
		return sizeof(*in);
	}

	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_sa;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(endpoint->port);
	in6->sin6_addr = endpoint->addr;
	in6->sin6_scope_id = endpoint->scope_id;
	return sizeof(*in6);
}

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
	return a->port == b->port && a->scope_id == b->scope_id &&
	       IN6_ARE_ADDR_EQUAL(&a->addr, &b->addr);
}
