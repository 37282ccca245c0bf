// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A host may have hundreds of devices, most of them its containers'. Clients on other hosts nearly
 * always come by the one that the default route leads to. The route is asked for as a socket would:
 * connect() of UDP sends nothing, and the address that the kernel has chosen by it is the device's.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "addr.h"
#include "devices.h"
#include "util.h"

static bool is_usable(const struct ifaddrs *a)
{
	const unsigned flags = IFF_UP | IFF_RUNNING;

	if (!a->ifa_addr || (a->ifa_flags & (flags | IFF_LOOPBACK)) != flags)
		return false;
	if (a->ifa_addr->sa_family == AF_INET6)
		return !IN6_IS_ADDR_LINKLOCAL(
			&((const struct sockaddr_in6 *)a->ifa_addr)->sin6_addr);
	return a->ifa_addr->sa_family == AF_INET;
}

static void address_of(const struct ifaddrs *a, struct endpoint *ret_address)
{
	struct sockaddr_storage sa = {};

	memcpy(&sa, a->ifa_addr,
	       a->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
						 : sizeof(struct sockaddr_in6));
	endpoint_from_sockaddr(&sa, ret_address);
	ret_address->port = 0;
}

/* This host's address for a client of @family that is far away. False: it has no route there. */
static bool way_out(int family, struct endpoint *ret_address)
{
	/* RFC 5737, RFC 3849: nobody's. */
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(443) };
	struct sockaddr_in6 sin6 = { .sin6_family = AF_INET6, .sin6_port = htons(443) };
	_cleanup_close_ int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	inet_pton(AF_INET, "192.0.2.1", &sin.sin_addr);
	inet_pton(AF_INET6, "2001:db8:ffff::1", &sin6.sin6_addr);
	if (fd < 0 ||
	    (family == AF_INET ? connect(fd, (struct sockaddr *)&sin, sizeof(sin))
			       : connect(fd, (struct sockaddr *)&sin6, sizeof(sin6))) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0 ||
	    endpoint_from_sockaddr(&sa, ret_address) < 0)
		return false;
	ret_address->port = 0;
	return true;
}

static size_t add(unsigned *ifindexes, size_t n, const char *name)
{
	unsigned ifindex = if_nametoindex(name);

	for (size_t i = 0; i < n; i++)
		if (ifindexes[i] == ifindex)
			return n;
	if (ifindex)
		ifindexes[n++] = ifindex;
	return n;
}

size_t devices_expected(unsigned *ret_ifindexes, size_t max)
{
	struct endpoint ways[2];
	size_t n_ways = way_out(AF_INET, &ways[0]);
	struct ifaddrs *list = NULL;
	size_t n = 0;

	n_ways += way_out(AF_INET6, &ways[n_ways]);
	if (getifaddrs(&list) < 0)
		return 0;
	for (const struct ifaddrs *a = list; a && n < max; a = a->ifa_next) {
		struct endpoint address;

		if (!is_usable(a))
			continue;
		address_of(a, &address);
		for (size_t i = 0; i < n_ways && n < max; i++)
			if (endpoint_equal(&address, &ways[i]))
				n = add(ret_ifindexes, n, a->ifa_name);
	}
	for (const struct ifaddrs *a = list; a && n_ways == 0 && n < max; a = a->ifa_next)
		if (is_usable(a))
			n = add(ret_ifindexes, n, a->ifa_name);
	freeifaddrs(list);
	return n;
}
