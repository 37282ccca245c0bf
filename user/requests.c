// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Ends handshakes through sock_diag. A look-up that does not find the request finds whoever listens
 * there: so first it is asked what is there, and then that very socket is ended, by its cookie. (A
 * request whose handshake ends between the two leaves its cookie to the connection, which then is
 * ended: the guard entry is there to keep packets from doing that.)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "listeners.h"
#include "netlink.h"
#include "requests.h"
#include "util.h"

struct requests {
	struct mnl_socket *nl;
	uint32_t seq;
};

/* What is known of one socket. */
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
static int request(struct requests *requests, uint16_t type, uint8_t family,
		   const struct inet_diag_sockid *id, struct found *ret_found)
{
	char buf[8192];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct inet_diag_req_v2 *req;

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	if (type == SOCK_DESTROY)
		nlh->nlmsg_flags |= NLM_F_ACK;
	req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));
	req->sdiag_family = family;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = ~0u;
	req->id = *id;
	return netlink_ask(requests->nl, &requests->seq, buf, sizeof(buf), read_found, ret_found);
}

/* Ends the socket named @id, with that cookie if there is one, if its state is @state. 0 or -errno.
 */
static int end(struct requests *requests, uint8_t family, struct inet_diag_sockid *id,
	       uint8_t state)
{
	struct found found = {};
	int err;

	err = request(requests, SOCK_DIAG_BY_FAMILY, family, id, &found);
	if (err)
		return err;
	if (found.state != state)
		return -ENOENT;
	memcpy(id->idiag_cookie, found.cookie, sizeof(found.cookie));
	return request(requests, SOCK_DESTROY, family, id, &found);
}

static int try_it(struct requests *requests)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct inet_diag_sockid id = {};
	socklen_t cookie_len = sizeof(id.idiag_cookie);
	uint64_t cookie;

	if (fd < 0 || bind(fd, (struct sockaddr *)&sin, len) < 0 || listen(fd, 0) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sin, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &cookie_len) < 0)
		return -errno;
	/* Another program may choose the sockets of this host: its own one, or -ESTALE. */
	id.idiag_cookie[0] = (uint32_t)cookie;
	id.idiag_cookie[1] = (uint32_t)(cookie >> 32);
	id.idiag_sport = sin.sin_port;
	id.idiag_src[0] = sin.sin_addr.s_addr;
	return end(requests, AF_INET, &id, TCP_LISTEN);
}

int requests_new(struct requests **ret_requests)
{
	struct requests *requests = calloc(1, sizeof(*requests));
	int err;

	if (!requests)
		return -ENOMEM;
	requests->nl = listeners_socket();
	err = requests->nl ? try_it(requests) : -errno;
	if (err) {
		requests_free(requests);
		return err;
	}
	*ret_requests = requests;
	return 0;
}

void requests_free(struct requests *requests)
{
	if (!requests)
		return;
	if (requests->nl)
		mnl_socket_close(requests->nl);
	free(requests);
}

int requests_end(struct requests *requests, const struct flow_key *key, unsigned ifindex)
{
	bool v4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)key->local);
	struct inet_diag_sockid id = { .idiag_sport = key->local_port,
				       .idiag_dport = key->remote_port,
				       .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE },
				       .idiag_if = ifindex };

	memcpy(id.idiag_src, key->local + (v4 ? 12 : 0), v4 ? 4 : 16);
	memcpy(id.idiag_dst, key->remote + (v4 ? 12 : 0), v4 ? 4 : 16);
	return end(requests, v4 ? AF_INET : AF_INET6, &id, TCP_SYN_RECV);
}
