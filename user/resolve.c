// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A host name's addresses. */
#include "resolve.h"

#include <netdb.h>
#include <string.h>

#include "util.h"

static void add(struct endpoint *list, int *n, const struct addrinfo *info, uint16_t port)
{
	struct sockaddr_storage sa = {};
	struct endpoint endpoint;

	memcpy(&sa, info->ai_addr, MIN(info->ai_addrlen, sizeof(sa)));
	if (endpoint_from_sockaddr(&sa, &endpoint) < 0)
		return;
	endpoint.port = port;
	for (int i = 0; i < *n; i++)
		if (endpoint_equal(&list[i], &endpoint))
			return;
	if (*n < RESOLVE_MAX)
		list[(*n)++] = endpoint;
}

int resolve(const char *name, bool v4, uint16_t port, struct endpoint *ret,
	    const char **ret_problem)
{
	const struct addrinfo hints = { .ai_family = v4 ? AF_INET : AF_INET6,
					.ai_socktype = SOCK_STREAM };
	struct addrinfo *infos = NULL;
	int r = getaddrinfo(name, NULL, &hints, &infos);
	int n = 0;

	*ret_problem = NULL;
	/* NONAME is both "no such name" and, of one family, "no such record". */
	if (r != 0 && r != EAI_NONAME && r != EAI_NODATA && r != EAI_ADDRFAMILY)
		*ret_problem = gai_strerror(r);
	if (r != 0)
		return 0;
	for (const struct addrinfo *info = infos; info; info = info->ai_next)
		add(ret, &n, info, port);
	freeaddrinfo(infos);
	return n;
}

bool resolve_is_private(const struct endpoint *endpoint)
{
	const uint8_t *a = endpoint->addr.s6_addr;

	if (!endpoint_is_v4(endpoint))
		return (a[0] & 0xfe) == 0xfc || (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) ||
		       IN6_IS_ADDR_LOOPBACK(&endpoint->addr) ||
		       IN6_IS_ADDR_UNSPECIFIED(&endpoint->addr);
	a += 12;
	return a[0] == 0 || a[0] == 10 || a[0] == 127 || (a[0] == 100 && (a[1] & 0xc0) == 64) ||
	       (a[0] == 169 && a[1] == 254) || (a[0] == 172 && (a[1] & 0xf0) == 16) ||
	       (a[0] == 192 && a[1] == 168);
}
