// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * `make static` only: the part of libmnl that is used, since Debian has no libmnl.a. The interface
 * is that of <libmnl/libmnl.h>, whose manual says what each function does.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct mnl_socket {
	int fd;
	struct sockaddr_nl address;
};

struct mnl_socket *mnl_socket_open2(int bus, int flags)
{
	struct mnl_socket *nl = calloc(1, sizeof(*nl));

	if (!nl)
		return NULL;
	nl->fd = socket(AF_NETLINK, SOCK_RAW | flags, bus);
	if (nl->fd < 0) {
		free(nl);
		return NULL;
	}
	return nl;
}

int mnl_socket_close(struct mnl_socket *nl)
{
	int r = close(nl->fd);

	free(nl);
	return r;
}

int mnl_socket_bind(struct mnl_socket *nl, unsigned int groups, pid_t pid)
{
	socklen_t len = sizeof(nl->address);

	nl->address = (struct sockaddr_nl){
		.nl_family = AF_NETLINK,
		.nl_groups = groups,
		.nl_pid = (uint32_t)pid,
	};
	if (bind(nl->fd, (struct sockaddr *)&nl->address, len) < 0)
		return -1;
	return getsockname(nl->fd, (struct sockaddr *)&nl->address, &len);
}

unsigned int mnl_socket_get_portid(const struct mnl_socket *nl)
{
	return nl->address.nl_pid;
}

int mnl_socket_setsockopt(const struct mnl_socket *nl, int type, void *buf, socklen_t len)
{
	return setsockopt(nl->fd, SOL_NETLINK, type, buf, len);
}

ssize_t mnl_socket_sendto(const struct mnl_socket *nl, const void *req, size_t size)
{
	static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	return sendto(nl->fd, req, size, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
}

ssize_t mnl_socket_recvfrom(const struct mnl_socket *nl, void *buf, size_t size)
{
	struct sockaddr_nl from;
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	struct msghdr message = {
		.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1
	};
	ssize_t n = recvmsg(nl->fd, &message, 0);

	if (n >= 0 && message.msg_flags & MSG_TRUNC) {
		errno = ENOSPC;
		return -1;
	}
	return n;
}

struct nlmsghdr *mnl_nlmsg_put_header(void *buf)
{
	struct nlmsghdr *nlh = buf;

	*nlh = (struct nlmsghdr){ .nlmsg_len = MNL_NLMSG_HDRLEN };
	return nlh;
}

void *mnl_nlmsg_put_extra_header(struct nlmsghdr *nlh, size_t size)
{
	void *extra = mnl_nlmsg_get_payload_tail(nlh);

	nlh->nlmsg_len += (uint32_t)MNL_ALIGN(size);
	memset(extra, 0, MNL_ALIGN(size));
	return extra;
}

void *mnl_nlmsg_get_payload(const struct nlmsghdr *nlh)
{
	return (char *)nlh + MNL_NLMSG_HDRLEN;
}

void *mnl_nlmsg_get_payload_offset(const struct nlmsghdr *nlh, size_t offset)
{
	return (char *)mnl_nlmsg_get_payload(nlh) + MNL_ALIGN(offset);
}

void *mnl_nlmsg_get_payload_tail(const struct nlmsghdr *nlh)
{
	return (char *)nlh + MNL_ALIGN(nlh->nlmsg_len);
}

uint16_t mnl_attr_get_type(const struct nlattr *attr)
{
	return attr->nla_type & NLA_TYPE_MASK;
}

uint16_t mnl_attr_get_payload_len(const struct nlattr *attr)
{
	return (uint16_t)(attr->nla_len - MNL_ATTR_HDRLEN);
}

void *mnl_attr_get_payload(const struct nlattr *attr)
{
	return (char *)attr + MNL_ATTR_HDRLEN;
}

uint8_t mnl_attr_get_u8(const struct nlattr *attr)
{
	return *(uint8_t *)mnl_attr_get_payload(attr);
}

uint32_t mnl_attr_get_u32(const struct nlattr *attr)
{
	uint32_t value;

	memcpy(&value, mnl_attr_get_payload(attr), sizeof(value));
	return value;
}

bool mnl_attr_ok(const struct nlattr *attr, int len)
{
	return len >= (int)sizeof(*attr) && attr->nla_len >= sizeof(*attr) &&
	       (int)attr->nla_len <= len;
}

struct nlattr *mnl_attr_next(const struct nlattr *attr)
{
	return (struct nlattr *)(void *)((char *)attr + MNL_ALIGN(attr->nla_len));
}

int mnl_attr_parse(const struct nlmsghdr *nlh, unsigned int offset, mnl_attr_cb_t cb, void *data)
{
	const struct nlattr *attr;
	int r = MNL_CB_OK;

	mnl_attr_for_each(attr, nlh, offset)
	{
		r = cb(attr, data);
		if (r <= MNL_CB_STOP)
			return r;
	}
	return r;
}

void mnl_attr_put(struct nlmsghdr *nlh, uint16_t type, size_t len, const void *data)
{
	struct nlattr *attr = mnl_nlmsg_get_payload_tail(nlh);
	size_t pad = MNL_ALIGN(len) - len;

	attr->nla_type = type;
	attr->nla_len = (uint16_t)(MNL_ATTR_HDRLEN + len);
	memcpy(mnl_attr_get_payload(attr), data, len);
	memset((char *)mnl_attr_get_payload(attr) + len, 0, pad);
	nlh->nlmsg_len += (uint32_t)MNL_ALIGN(attr->nla_len);
}

struct nlattr *mnl_attr_nest_start(struct nlmsghdr *nlh, uint16_t type)
{
	struct nlattr *nest = mnl_nlmsg_get_payload_tail(nlh);

	nest->nla_type = NLA_F_NESTED | type;
	nlh->nlmsg_len += (uint32_t)MNL_ALIGN(sizeof(*nest));
	return nest;
}

void mnl_attr_nest_end(struct nlmsghdr *nlh, struct nlattr *nest)
{
	nest->nla_len = (uint16_t)((char *)mnl_nlmsg_get_payload_tail(nlh) - (char *)nest);
}

void mnl_attr_put_u8(struct nlmsghdr *nlh, uint16_t type, uint8_t data)
{
	mnl_attr_put(nlh, type, sizeof(data), &data);
}

void mnl_attr_put_u32(struct nlmsghdr *nlh, uint16_t type, uint32_t data)
{
	mnl_attr_put(nlh, type, sizeof(data), &data);
}

void mnl_attr_put_strz(struct nlmsghdr *nlh, uint16_t type, const char *data)
{
	mnl_attr_put(nlh, type, strlen(data) + 1, data);
}

/* What the kernel says about a request: 0 at its end, -1 with errno. */
static int control(const struct nlmsghdr *nlh)
{
	const struct nlmsgerr *error = mnl_nlmsg_get_payload(nlh);

	switch (nlh->nlmsg_type) {
	case NLMSG_DONE:
		return MNL_CB_STOP;
	case NLMSG_ERROR:
		if (nlh->nlmsg_len < MNL_NLMSG_HDRLEN + sizeof(*error)) {
			errno = EBADMSG;
			return MNL_CB_ERROR;
		}
		if (error->error == 0)
			return MNL_CB_STOP;
		errno = error->error < 0 ? -error->error : error->error;
		return MNL_CB_ERROR;
	default:
		return MNL_CB_OK;
	}
}

int mnl_cb_run(const void *buf, size_t size, unsigned int seq, unsigned int portid, mnl_cb_t cb,
	       void *data)
{
	const struct nlmsghdr *nlh = buf;
	size_t left = size;
	int r = MNL_CB_OK;

	while (left >= sizeof(*nlh) && nlh->nlmsg_len >= sizeof(*nlh) && nlh->nlmsg_len <= left) {
		size_t len = MNL_ALIGN(nlh->nlmsg_len);
		int err = nlh->nlmsg_pid && portid && nlh->nlmsg_pid != portid ? ESRCH
			  : nlh->nlmsg_seq && seq && nlh->nlmsg_seq != seq     ? EPROTO
			  : nlh->nlmsg_flags & NLM_F_DUMP_INTR		       ? EINTR
									       : 0;

		if (err) {
			errno = err;
			return MNL_CB_ERROR;
		}
		if (nlh->nlmsg_type < NLMSG_MIN_TYPE)
			r = control(nlh);
		else
			r = cb ? cb(nlh, data) : MNL_CB_OK;
		if (r <= MNL_CB_STOP)
			break;
		if (len >= left)
			break;
		left -= len;
		nlh = (const void *)((const char *)nlh + len);
	}
	return r;
}
