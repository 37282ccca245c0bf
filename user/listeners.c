// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Who listens: on a port, by one dump of sock_diag for each family; at an address, by one question.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>

#include "listeners.h"
#include "util.h"

/* Linux 5.6; older headers lack it. */
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* What a dump is for. */
struct search {
	uint16_t port;
	int protocol;
	mnl_cb_t message;
	int n;
	struct listener *listeners;
	struct listening_sockets *sockets;
};

static void mark(struct search *search, const struct listener *found)
{
	for (int i = 0; i < search->n; i++)
		if (endpoint_equal(&search->listeners[i].address, &found->address)) {
			search->listeners[i].mptcp = true;
			search->listeners[i].inode = found->inode;
		}
}

static void add(struct search *search, const struct listener *found)
{
	for (int i = 0; i < search->n; i++)
		if (endpoint_equal(&search->listeners[i].address, &found->address))
			return; /* another socket of an SO_REUSEPORT group */
	if (search->n < LISTENERS_MAX)
		search->listeners[search->n++] = *found;
}

static int attribute(const struct nlattr *attr, void *data)
{
	struct listener *found = data;

	if (mnl_attr_get_type(attr) == INET_DIAG_SKV6ONLY)
		found->v6_only = mnl_attr_get_u8(attr);
	return MNL_CB_OK;
}

static bool is_of(const struct search *search, const struct nlmsghdr *nlh)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);

	return nlh->nlmsg_type == SOCK_DIAG_BY_FAMILY && ntohs(msg->id.idiag_sport) == search->port;
}

static int find_address(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	struct search *search = data;
	struct listener found = { .address.port = search->port,
				  .device = msg->id.idiag_if,
				  .inode = msg->idiag_inode };

	if (!is_of(search, nlh))
		return MNL_CB_OK;
	if (msg->idiag_family == AF_INET) {
		memset(&found.address.addr.s6_addr[10], 0xff, 2);
		memcpy(&found.address.addr.s6_addr[12], msg->id.idiag_src, 4);
	} else {
		memcpy(&found.address.addr, msg->id.idiag_src, 16);
		if (IN6_IS_ADDR_LINKLOCAL(&found.address.addr))
			found.address.scope_id = msg->id.idiag_if;
	}
	mnl_attr_parse(nlh, sizeof(*msg), attribute, &found);
	if (search->protocol == IPPROTO_MPTCP)
		mark(search, &found);
	else
		add(search, &found);
	return MNL_CB_OK;
}

static int find_socket(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	struct search *search = data;
	struct listening_sockets *sockets = search->sockets;

	if (!is_of(search, nlh))
		return MNL_CB_OK;
	if (sockets->n < LISTENERS_MAX)
		sockets->cookies[sockets->n++] =
			msg->id.idiag_cookie[0] | (uint64_t)msg->id.idiag_cookie[1] << 32;
	else
		search->n++; /* too many */
	return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, int family, struct search *search)
{
	char buf[16384];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct inet_diag_req_v2 *req;
	ssize_t n;
	int more;

	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = (uint32_t)family;
	req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));
	req->sdiag_family = (uint8_t)family;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = 1u << TCP_LISTEN;
	if (search->protocol != IPPROTO_TCP) /* its number needs more than 8 bits */
		mnl_attr_put_u32(nlh, INET_DIAG_REQ_PROTOCOL, (uint32_t)search->protocol);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	do {
		n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
		if (n < 0)
			return -errno;
		more = mnl_cb_run(buf, (size_t)n, (unsigned)family, 0, search->message, search);
	} while (more > 0);
	return more < 0 ? -errno : 0;
}

static int find(struct search *search)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	int err;

	if (!nl)
		return -errno;
	err = mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : 0;
	if (!err)
		err = dump(nl, AF_INET, search);
	if (!err)
		err = dump(nl, AF_INET6, search);
	mnl_socket_close(nl);
	return err;
}

int listeners_find(uint16_t port, struct listener *ret_listeners)
{
	struct search search = { .port = port,
				 .protocol = IPPROTO_TCP,
				 .message = find_address,
				 .listeners = ret_listeners };
	int err = find(&search);

	return err ? err : search.n;
}

int listeners_sockets(uint16_t port, struct listening_sockets *ret_sockets)
{
	struct search search = { .port = port,
				 .protocol = IPPROTO_TCP,
				 .message = find_socket,
				 .sockets = ret_sockets };
	int err;

	ret_sockets->n = 0;
	err = find(&search);
	return !err && search.n > 0 ? -E2BIG : err;
}

bool listeners_overlap(const struct listening_sockets *a, const struct listening_sockets *b)
{
	for (int i = 0; i < a->n; i++)
		for (int k = 0; k < b->n; k++)
			if (a->cookies[i] == b->cookies[k])
				return true;
	return false;
}

struct mnl_socket *listeners_socket(void)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);

	if (nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
		int err = errno;

		mnl_socket_close(nl);
		errno = err;
		return NULL;
	}
	return nl;
}

static int state(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);

	*(uint8_t *)data = msg->idiag_state;
	return MNL_CB_STOP;
}

/*
 * Linux inet_diag_find_one_icsk(): a lookup as for a packet from @id's destination, which here is
 * port 0 of nobody.
 */
int listeners_at(struct mnl_socket *nl, const struct endpoint *at)
{
	char buf[8192];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	uint8_t found = 0;
	struct inet_diag_req_v2 *req;
	ssize_t n;

	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));
	req->sdiag_family = endpoint_is_v4(at) ? AF_INET : AF_INET6;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = ~0u;
	req->id.idiag_sport = htons(at->port);
	req->id.idiag_if = at->scope_id;
	req->id.idiag_cookie[0] = req->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	if (endpoint_is_v4(at))
		memcpy(req->id.idiag_src, &at->addr.s6_addr[12], 4);
	else
		memcpy(req->id.idiag_src, &at->addr, 16);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
	if (n < 0)
		return -errno;
	if (mnl_cb_run(buf, (size_t)n, 0, 0, state, &found) < 0)
		return errno == ENOENT ? 0 : -errno;
	return found == TCP_LISTEN;
}

int listeners_find_mptcp(uint16_t port, struct listener *listeners, int n)
{
	struct search search = { .port = port,
				 .protocol = IPPROTO_MPTCP,
				 .message = find_address,
				 .n = n,
				 .listeners = listeners };

	return find(&search);
}

bool listeners_is_local(const struct endpoint *endpoint)
{
	struct endpoint any_port = *endpoint;
	struct sockaddr_storage sa;
	_cleanup_close_ int fd = -1;
	socklen_t len;

	any_port.port = 0;
	len = endpoint_to_sockaddr(&any_port, &sa);
	fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && bind(fd, (struct sockaddr *)&sa, len) == 0;
}
