// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A host may have hundreds of devices, most of them its containers'. Clients on other hosts nearly
 * always come by the one that the default route leads to. The route is asked for as a socket would:
 * connect() of UDP sends nothing, and the address that the kernel has chosen by it is the device's.
 */
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

/* This host's address for a client at @far. False: it has no route there. */
static bool way_out(const char *far, struct endpoint *ret_address)
{
	struct sockaddr_storage sa;
	struct endpoint client;
	socklen_t len;
	_cleanup_close_ int fd = -1;

	if (endpoint_parse(far, 443, &client) < 0)
		return false;
	len = endpoint_to_sockaddr(&client, &sa);
	fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, len) < 0)
		return false;
	len = sizeof(sa);
	return getsockname(fd, (struct sockaddr *)&sa, &len) == 0 &&
	       endpoint_from_sockaddr(&sa, ret_address) == 0;
}

static bool has_address(const struct ifaddrs *a, const struct endpoint *address)
{
	if (a->ifa_addr->sa_family == AF_INET)
		return endpoint_is_v4(address) &&
		       memcmp(&((const struct sockaddr_in *)a->ifa_addr)->sin_addr,
			      &address->addr.s6_addr[12], 4) == 0;
	return IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)a->ifa_addr)->sin6_addr,
				  &address->addr);
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
	/* RFC 5737, RFC 3849: nobody's. */
	size_t n_ways = way_out("192.0.2.1", &ways[0]);
	struct ifaddrs *list = NULL;
	size_t n = 0;

	n_ways += way_out("2001:db8:ffff::1", &ways[n_ways]);
	if (getifaddrs(&list) < 0)
		return 0;
	for (const struct ifaddrs *a = list; a; a = a->ifa_next)
		for (size_t i = 0; i < n_ways && n < max; i++)
			if (is_usable(a) && has_address(a, &ways[i]))
				n = add(ret_ifindexes, n, a->ifa_name);
	for (const struct ifaddrs *a = list; a && n_ways == 0 && n < max; a = a->ifa_next)
		if (is_usable(a))
			n = add(ret_ifindexes, n, a->ifa_name);
	freeifaddrs(list);
	return n;
}
