// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What connection tracking knows of a connection: getorigdst() of nf_conntrack_proto.c. */
#include <netinet/in.h>
#include <sys/socket.h>

#include "translated.h"

/* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST; their headers don't go with the C library's. */
#define ORIGINAL_DST 80

bool translated(int fd, const struct endpoint *local)
{
	struct sockaddr_storage to = { 0 };
	bool v4 = endpoint_is_v4(local);
	socklen_t len = v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	struct endpoint original;

	/* ENOPROTOOPT: no connection tracking; ENOENT: not of this connection. */
	if (getsockopt(fd, v4 ? SOL_IP : SOL_IPV6, ORIGINAL_DST, &to, &len) < 0 ||
	    endpoint_from_sockaddr(&to, &original) < 0)
		return false;
	/* A link-local address has its interface here, and perhaps not there. */
	original.scope_id = local->scope_id;
	return !endpoint_equal(&original, local);
}
