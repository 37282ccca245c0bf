// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What connection tracking knows of a connection. Where the client connected to, the socket itself
 * says (getorigdst() of nf_conntrack_proto.c), on any kernel that translates; where the client is,
 * only ctnetlink. That is asked for the connection with the socket's addresses, as its answers have
 * them: ctnetlink_get_conntrack().
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"
#include "netlink.h"
#include "translated.h"

/* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST; their headers don't go with the C library's. */
#define ORIGINAL_DST 80

#define CT_GET (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET)
#define CT_NEW (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW)

void conntrack_close(struct conntrack *conntrack)
{
	if (conntrack->nl)
		mnl_socket_close(conntrack->nl);
	*conntrack = (struct conntrack){};
}

/* Does it go where the client connected to? 1: elsewhere; -errno: it is not tracked. */
static int goes_elsewhere(int fd, const struct endpoint *local)
{
	struct sockaddr_storage to = { 0 };
	bool v4 = endpoint_is_v4(local);
	socklen_t len = v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	struct endpoint original;

	int err;

	/* ENOPROTOOPT: no connection tracking; ENOENT: not of this connection. */
	if (getsockopt(fd, v4 ? SOL_IP : SOL_IPV6, ORIGINAL_DST, &to, &len) < 0)
		return -errno;
	err = endpoint_from_sockaddr(&to, &original);
	if (err)
		return err;
	/* A link-local address has its interface here, and perhaps not there. */
	original.scope_id = local->scope_id;
	return !endpoint_equal(&original, local);
}

static void put_address(struct nlmsghdr *nlh, const struct endpoint *endpoint, uint16_t v4_type,
			uint16_t v6_type)
{
	if (endpoint_is_v4(endpoint))
		mnl_attr_put(nlh, v4_type, 4, &endpoint->addr.s6_addr[12]);
	else
		mnl_attr_put(nlh, v6_type, 16, &endpoint->addr);
}

static void put_port(struct nlmsghdr *nlh, uint16_t type, uint16_t port)
{
	const uint16_t be = htons(port);

	mnl_attr_put(nlh, type, sizeof(be), &be);
}

static void put_question(struct nlmsghdr *nlh, const struct endpoint *remote,
			 const struct endpoint *local)
{
	struct nfgenmsg *nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));
	struct nlattr *tuple, *part;

	nfg->nfgen_family = endpoint_is_v4(local) ? AF_INET : AF_INET6;
	nfg->version = NFNETLINK_V0;
	tuple = mnl_attr_nest_start(nlh, CTA_TUPLE_REPLY);
	part = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);
	put_address(nlh, local, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
	put_address(nlh, remote, CTA_IP_V4_DST, CTA_IP_V6_DST);
	mnl_attr_nest_end(nlh, part);
	part = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(nlh, CTA_PROTO_NUM, IPPROTO_TCP);
	put_port(nlh, CTA_PROTO_SRC_PORT, local->port);
	put_port(nlh, CTA_PROTO_DST_PORT, remote->port);
	mnl_attr_nest_end(nlh, part);
	mnl_attr_nest_end(nlh, tuple);
}

/* The attribute of that type and size in @nest, or in @nlh; NULL: none. */
static const void *find(const struct nlmsghdr *nlh, const struct nlattr *nest, uint16_t type,
			size_t size)
{
	const struct nlattr *attr;

	if (nest) {
		mnl_attr_for_each_nested(attr, nest) if (mnl_attr_get_type(attr) == type &&
							 mnl_attr_get_payload_len(attr) >=
								 size) return size
			? mnl_attr_get_payload(attr)
			: attr;
	} else {
		mnl_attr_for_each(attr, nlh, sizeof(struct nfgenmsg)) if (mnl_attr_get_type(attr) ==
									  type) return attr;
	}
	return NULL;
}

struct answer {
	const struct endpoint *remote;
	bool differs;
};

/* Is the client, as the connection's first packet had it, another than the socket's? */
static int read_answer(const struct nlmsghdr *nlh, void *data)
{
	struct answer *answer = data;
	const struct endpoint *remote = answer->remote;
	bool v4 = endpoint_is_v4(remote);
	const struct nlattr *tuple, *ip, *proto;
	const void *address, *port;
	const uint16_t be = htons(remote->port);

	tuple = nlh->nlmsg_type == CT_NEW ? find(nlh, NULL, CTA_TUPLE_ORIG, 0) : NULL;
	ip = tuple ? find(nlh, tuple, CTA_TUPLE_IP, 0) : NULL;
	proto = tuple ? find(nlh, tuple, CTA_TUPLE_PROTO, 0) : NULL;
	if (!ip || !proto)
		return MNL_CB_STOP;
	address = find(nlh, ip, v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, v4 ? 4 : 16);
	port = find(nlh, proto, CTA_PROTO_SRC_PORT, sizeof(be));
	/* Of another family it would be another's, too. */
	answer->differs = !address || !port || memcmp(port, &be, sizeof(be)) != 0 ||
			  memcmp(address, &remote->addr.s6_addr[v4 ? 12 : 0], v4 ? 4 : 16) != 0;
	return MNL_CB_STOP;
}

static int ask(struct conntrack *conntrack, const struct endpoint *remote,
	       const struct endpoint *local, struct answer *answer)
{
	char buf[4096];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = CT_GET;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	put_question(nlh, remote, local);
	return netlink_ask(conntrack->nl, &conntrack->seq, buf, sizeof(buf), read_answer, answer);
}

static int conntrack_open(struct conntrack *conntrack)
{
	int err;

	conntrack->nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (conntrack->nl && mnl_socket_bind(conntrack->nl, 0, MNL_SOCKET_AUTOPID) == 0)
		return 0;
	err = -errno;
	conntrack_close(conntrack);
	return err;
}

static bool comes_from_elsewhere(struct conntrack *conntrack, const struct endpoint *remote,
				 const struct endpoint *local)
{
	struct answer answer = { .remote = remote };
	int err = 0;

	if (conntrack->mute)
		return false;
	if (!conntrack->nl)
		err = conntrack_open(conntrack);
	if (!err)
		err = ask(conntrack, remote, local, &answer);
	/* ENOENT: it is not tracked. */
	if (!err || err == -ENOENT)
		return answer.differs;
	conntrack_close(conntrack);
	conntrack->mute = err == -EINVAL || err == -EPERM || err == -EOPNOTSUPP ||
			  err == -EPROTONOSUPPORT || err == -EAFNOSUPPORT;
	if (conntrack->mute)
		log_info("connection tracking does not say where clients are (%s): give "
			 "--plane=relay if a rule of this host changes the source of what comes "
			 "in",
			 strerror(-err));
	return false;
}

bool translated(struct conntrack *conntrack, int fd, const struct endpoint *remote,
		const struct endpoint *local)
{
	int r = goes_elsewhere(fd, local);

	/* What is not tracked need not be asked for, which would load modules. */
	return r < 0 ? false : r > 0 || comes_from_elsewhere(conntrack, remote, local);
}
