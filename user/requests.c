// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Ends handshakes through sock_diag. A look-up that does not find the request finds whoever listens
 * there: so first it is asked what is there, and then that very socket is ended, by its cookie.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "listeners.h"
#include "requests.h"
#include "util.h"

/* One socket, by name; what is known of it. */
struct found {
	uint8_t state;
	__u32 cookie[2];
};

static int read_found(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	struct found *found = data;

	found->state = msg->idiag_state;
	memcpy(found->cookie, msg->id.idiag_cookie, sizeof(found->cookie));
	return MNL_CB_STOP;
}

/* Asks (SOCK_DIAG_BY_FAMILY) or tells (SOCK_DESTROY) the kernel of one socket. 0 or -errno. */
static int request(struct mnl_socket *nl, uint16_t type, uint8_t family,
		   const struct inet_diag_sockid *id, struct found *ret_found)
{
	char buf[8192];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct inet_diag_req_v2 *req;
	ssize_t n;

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	if (type == SOCK_DESTROY)
		nlh->nlmsg_flags |= NLM_F_ACK;
	req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));
	req->sdiag_family = family;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = ~0u;
	req->id = *id;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
	if (n < 0)
		return -errno;
	return mnl_cb_run(buf, (size_t)n, 0, 0, read_found, ret_found) < 0 ? -errno : 0;
}

/* Ends the socket named @id, if its state is @state. 0 or -errno. */
static int end(uint8_t family, struct inet_diag_sockid *id, uint8_t state)
{
	struct mnl_socket *nl = listeners_socket();
	struct found found = {};
	int err;

	if (!nl)
		return -errno;
	id->idiag_cookie[0] = id->idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	err = request(nl, SOCK_DIAG_BY_FAMILY, family, id, &found);
	if (!err && found.state != state)
		err = -ENOENT;
	if (!err) {
		memcpy(id->idiag_cookie, found.cookie, sizeof(found.cookie));
		err = request(nl, SOCK_DESTROY, family, id, &found);
	}
	mnl_socket_close(nl);
	return err;
}

int requests_check(void)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct inet_diag_sockid id = {};

	if (fd < 0 || bind(fd, (struct sockaddr *)&sin, len) < 0 || listen(fd, 0) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sin, &len) < 0)
		return -errno;
	id.idiag_sport = sin.sin_port;
	id.idiag_src[0] = sin.sin_addr.s_addr;
	return end(AF_INET, &id, TCP_LISTEN);
}

int requests_end(const struct flow_key *key, unsigned ifindex)
{
	bool v4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)key->local);
	struct inet_diag_sockid id = { .idiag_sport = key->local_port,
				       .idiag_dport = key->remote_port,
				       .idiag_if = ifindex };

	memcpy(id.idiag_src, key->local + (v4 ? 12 : 0), v4 ? 4 : 16);
	memcpy(id.idiag_dst, key->remote + (v4 ? 12 : 0), v4 ? 4 : 16);
	return end(v4 ? AF_INET : AF_INET6, &id, TCP_SYN_RECV);
}
