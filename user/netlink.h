/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One question to the kernel by netlink, with one message for an answer. */
#ifndef NETLINK_H
#define NETLINK_H

#include <errno.h>
#include <libmnl/libmnl.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Sends the request at the beginning of @buf (aligned, @size bytes, all but its sequence number is
 * there), whose place the answer takes, and gives that to @each with @ctx. *@seq counts the
 * socket's questions. 0, or -errno: what the kernel answers, too.
 */
static inline int netlink_ask(struct mnl_socket *nl, uint32_t *seq, void *buf, size_t size,
			      mnl_cb_t each, void *ctx)
{
	struct nlmsghdr *nlh = buf;
	ssize_t n;

	nlh->nlmsg_seq = ++*seq;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	/* It has been answered by now; before that may be what was not read of an earlier one. */
	do {
		n = mnl_socket_recvfrom(nl, buf, size);
		if (n < 0)
			return -errno;
	} while (nlh->nlmsg_seq != *seq);
	return mnl_cb_run(buf, (size_t)n, *seq, 0, each, ctx) < 0 ? -errno : 0;
}

#endif
