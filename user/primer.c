// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "primer.h"
#include "util.h"

static int listen_transparent(bool v4, struct sockaddr_storage *ret_at, socklen_t *ret_len)
{
	struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)ret_at;
	struct sockaddr_in *sin = (struct sockaddr_in *)ret_at;
	int family = v4 ? AF_INET : AF_INET6;
	_cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const int one = 1;

	memset(ret_at, 0, sizeof(*ret_at));
	if (v4)
		*sin = (struct sockaddr_in){ .sin_family = AF_INET,
					     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	else
		*sin6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
					       .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	*ret_len = v4 ? sizeof(*sin) : sizeof(*sin6);
	if (fd < 0 ||
	    setsockopt(fd, v4 ? SOL_IP : SOL_IPV6, v4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, &one,
		       sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)ret_at, *ret_len) < 0 || listen(fd, 1) < 0 ||
	    getsockname(fd, (struct sockaddr *)ret_at, ret_len) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/*
 * The handshake is over when connect() returns: on the loopback device all of it is in that call.
 * In repair mode both ends go without a packet, and without TIME_WAIT.
 */
static void connect_once(bool v4)
{
	struct sockaddr_storage at;
	socklen_t len;
	_cleanup_close_ int listener = listen_transparent(v4, &at, &len);
	_cleanup_close_ int client = -1, server = -1;
	const int on = TCP_REPAIR_ON;

	if (listener < 0)
		return;
	client = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (client < 0)
		return;
	/* No result matters: guard_ingress sees if it helped. */
	connect(client, (struct sockaddr *)&at, len);
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (server >= 0)
		setsockopt(server, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on));
	setsockopt(client, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on));
}

void primer_run(unsigned cpu, bool v4)
{
	cpu_set_t before, there;

	CPU_ZERO(&there);
	CPU_SET(cpu, &there);
	if (sched_getaffinity(0, sizeof(before), &before) < 0 ||
	    sched_setaffinity(0, sizeof(there), &there) < 0)
		return;
	connect_once(v4);
	sched_setaffinity(0, sizeof(before), &before);
}
