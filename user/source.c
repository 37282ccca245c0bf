/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From where a relay connects to its target: address, port, and its exemption from steering. */
/*
 * Theory of operation
 *
 * No loops: a socket is bound to its source, the source is exempted from steering, and only then
 * does connect() send the SYN. That takes the address to be known before: a UDP socket connected
 * to the same target asks the routing table for it.
 *
 * A relay that ends first, as HTTP clients do, leaves a TIME_WAIT behind. bind() to port 0 avoids
 * those, so at some 470 connections per second and address it finds no port any more. Then ports
 * are taken at random: bind() with SO_REUSEADDR to a given port, then connect(), may reuse a
 * TIME_WAIT at once when timestamps are on, whatever tcp_tw_reuse says (__inet_hash_connect() then
 * calls tcp_twsk_unique() without twp; seen on 6.18).
 */
#include "source.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "relay_route.h"
#include "util.h"

/* Source ports tried for one connection before it counts as none to be had. */
#define PORT_TRIES 256
/* How long ports are taken at random after the kernel found none free. */
#define PORTS_TIGHT_NS (10 * NSEC_PER_SEC)

static void read_port_range(struct sources *sources)
{
	unsigned low = 0, high = 0;
	FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");

	if (!file || fscanf(file, "%u %u", &low, &high) != 2 || !low || low > high ||
	    high > UINT16_MAX) {
		low = 32768;
		high = 60999;
	}
	if (file)
		fclose(file);
	sources->port_low = (uint16_t)low;
	sources->port_high = (uint16_t)high;
}

void sources_init(struct sources *sources,
		  int (*exempt)(void *ctx, const struct endpoint *source, bool add), void *ctx)
{
	*sources = (struct sources){ .exempt = exempt, .ctx = ctx };
	if (getrandom(&sources->random, sizeof(sources->random), GRND_NONBLOCK) < 0 ||
	    !sources->random)
		sources->random = now_ns() | 1;
	read_port_range(sources);
}

void sources_done(struct sources *sources)
{
	relay_route_free(TAKE_PTR(sources->route));
}

uint64_t sources_tick(struct sources *sources, uint64_t now_ns)
{
	return sources->route ? relay_route_tick(sources->route, now_ns) : UINT64_MAX;
}

/* xorshift64*: ports only, nothing secret. */
static uint16_t random_port(struct sources *sources)
{
	uint64_t x = sources->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	sources->random = x;
	x = (x * UINT64_C(0x2545f4914f6cdd1d)) >> 32;
	return (uint16_t)(sources->port_low + x % (sources->port_high - sources->port_low + 1u));
}

/* From which address would this host connect to @target? */
static int address_for(struct sources *sources, const struct endpoint *target,
		       struct endpoint *ret_source)
{
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(target, &sa);
	_cleanup_close_ int fd = -1;

	if (!endpoint_equal(&sources->asked_target, target)) {
		fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
		if (connect(fd, (struct sockaddr *)&sa, len) < 0)
			return -errno;
		len = sizeof(sa);
		if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
			return -errno;
		if (endpoint_from_sockaddr(&sa, &sources->asked_source) < 0)
			return -EAFNOSUPPORT;
		sources->asked_target = *target;
	}
	*ret_source = sources->asked_source;
	ret_source->port = 0;
	return 0;
}

/* This host connects to its own addresses from themselves, to 127.0.0.0/8 from 127.0.0.1. */
static bool address_is_local(const struct endpoint *source, const struct endpoint *target)
{
	return IN6_ARE_ADDR_EQUAL(&source->addr, &target->addr) ||
	       (endpoint_is_v4(target) && endpoint_is_loopback(target));
}

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* A socket for *source, bound; *source gets its port. */
static int source_bind(struct endpoint *source, bool transparent, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(source, &sa);
	_cleanup_close_ int fd = -1;
	int r = 0;

	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (transparent)
		r = sa.ss_family == AF_INET ? set_int(fd, SOL_IP, IP_TRANSPARENT, 1)
					    : set_int(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);
	/* Also lets a web server bind its port while we have a connection from it. */
	if (r >= 0)
		r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r < 0)
		return r;
	if (bind(fd, (struct sockaddr *)&sa, len) < 0)
		return -errno;
	if (!source->port) {
		len = sizeof(sa);
		if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
			return -errno;
		r = endpoint_from_sockaddr(&sa, source);
		if (r < 0)
			return r;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

void source_unexempt(struct sources *sources, const struct endpoint *source)
{
	if (sources->exempt)
		sources->exempt(sources->ctx, source, false);
}

/* One try. For some errors another port may do, see port_taken(). */
static int connect_from(struct sources *sources, struct endpoint *source, bool transparent,
			const struct endpoint *target, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(target, &sa);
	_cleanup_close_ int fd = -1;
	int r;

	r = source_bind(source, transparent, &fd);
	if (r < 0)
		return r;
	/* Nobody listens there, and TCP would connect the socket to itself. */
	if (endpoint_equal(source, target))
		return -EADDRINUSE;
	if (sources->exempt) {
		r = sources->exempt(sources->ctx, source, true);
		if (r < 0)
			return r;
	}
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS) {
		r = -errno;
		source_unexempt(sources, source);
		return r;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool port_taken(int error)
{
	return error == -EADDRNOTAVAIL || error == -EADDRINUSE || error == -EEXIST;
}

static int connect_from_host(struct sources *sources, const struct endpoint *target,
			     struct endpoint *source, int *ret_fd)
{
	for (unsigned i = 0; i < PORT_TRIES; i++) {
		int r = address_for(sources, target, source);

		if (r < 0)
			return r;
		if (now_ns() < sources->ports_tight_ns)
			source->port = random_port(sources);
		r = connect_from(sources, source, false, target, ret_fd);
		if (!port_taken(r))
			return r;
		/* No port is free, or the address is gone: ask for both anew. */
		if (i == 0)
			sources->asked_target = (struct endpoint){};
		sources->ports_tight_ns = now_ns() + PORTS_TIGHT_NS;
	}
	return -EADDRNOTAVAIL;
}

static int connect_from_client(struct sources *sources, const struct endpoint *client,
			       const struct endpoint *target, struct endpoint *source, int *ret_fd)
{
	bool local;
	int r = 0;

	if (!sources->route)
		r = relay_route_new(&sources->route);
	if (r >= 0)
		r = address_for(sources, target, source);
	if (r < 0)
		return r;
	local = address_is_local(source, target);
	for (unsigned i = 0; i < PORT_TRIES; i++) {
		*source = *client;
		r = relay_route_claim(sources->route, client, target, local, &source->port);
		if (r < 0)
			return r;
		r = connect_from(sources, source, true, target, ret_fd);
		if (r >= 0)
			return 0;
		source_release(sources, source);
		if (!port_taken(r))
			return r;
	}
	return -EADDRNOTAVAIL;
}

int source_connect(struct sources *sources, const struct endpoint *client,
		   const struct endpoint *target, struct endpoint *ret_source, int *ret_fd)
{
	struct endpoint source;
	int r;

	if (client)
		r = connect_from_client(sources, client, target, &source, ret_fd);
	else
		r = connect_from_host(sources, target, &source, ret_fd);
	if (r >= 0)
		*ret_source = source;
	return r;
}

void source_release(struct sources *sources, const struct endpoint *source)
{
	relay_route_release(sources->route, source, now_ns());
}
