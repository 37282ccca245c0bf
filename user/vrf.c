// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Virtual routing and forwarding domains of this network namespace.
 *
 * What comes in by a VRF finds listeners that are bound to it, and with net.ipv4.tcp_l3mdev_accept
 * at 1 those that are bound to nothing: inet_bound_dev_eq(). The look-up that steers is for all of
 * them, and does not know a VRF from any device.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

#include "util.h"
#include "vrf.h"

struct vrf_search {
	const struct listener *listeners;
	int n;
	bool accept; /* unbound listeners get what comes by a VRF, too */
	char *name;
	bool found;
};

struct vrf_link {
	bool is_vrf;
	const char *name;
};

static int attribute(const struct nlattr *attr, void *data)
{
	struct vrf_link *link = data;
	const struct nlattr *info = mnl_attr_get_payload(attr);
	const char *end = (const char *)info + mnl_attr_get_payload_len(attr);

	if (mnl_attr_get_type(attr) == IFLA_IFNAME)
		link->name = mnl_attr_get_payload(attr);
	if (mnl_attr_get_type(attr) != IFLA_LINKINFO)
		return MNL_CB_OK;
	for (; mnl_attr_ok(info, (int)(end - (const char *)info)); info = mnl_attr_next(info))
		if (mnl_attr_get_type(info) == IFLA_INFO_KIND)
			link->is_vrf = strcmp(mnl_attr_get_payload(info), "vrf") == 0;
	return MNL_CB_OK;
}

static int device(const struct nlmsghdr *nlh, void *data)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(nlh);
	struct vrf_search *search = data;
	struct vrf_link link = {};
	bool meant = search->accept;

	if (nlh->nlmsg_type != RTM_NEWLINK || search->found)
		return MNL_CB_OK;
	mnl_attr_parse(nlh, sizeof(*info), attribute, &link);
	for (int i = 0; i < search->n; i++)
		meant |= search->listeners[i].device == (uint32_t)info->ifi_index;
	search->found = link.is_vrf && meant && link.name;
	if (search->found)
		snprintf(search->name, IF_NAMESIZE, "%s", link.name);
	return MNL_CB_OK;
}

/* Missing: the kernel has no VRFs. */
static bool unbound_accept(void)
{
	FILE *file = fopen("/proc/sys/net/ipv4/tcp_l3mdev_accept", "re");
	int value = 0;

	if (file && fscanf(file, "%d", &value) != 1)
		value = 0;
	if (file)
		fclose(file);
	return value;
}

int vrf_find(const struct listener *listeners, int n, char ret_name[IF_NAMESIZE])
{
	struct vrf_search search = {
		.listeners = listeners, .n = n, .accept = unbound_accept(), .name = ret_name
	};
	bool possible = search.accept;
	struct mnl_socket *nl;
	char buf[32768];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct ifinfomsg *info;
	ssize_t got;
	int more = -1;

	for (int i = 0; i < n; i++)
		possible |= listeners[i].device;
	if (!possible)
		return 0;
	nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!nl)
		return -errno;
	nlh->nlmsg_type = RTM_GETLINK;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = 1;
	info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
	info->ifi_family = AF_UNSPEC;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) >= 0)
		do {
			got = mnl_socket_recvfrom(nl, buf, sizeof(buf));
			more = got < 0 ? -1 : mnl_cb_run(buf, (size_t)got, 1, 0, device, &search);
		} while (more > 0);
	more = more < 0 ? -errno : 0;
	mnl_socket_close(nl);
	return more < 0 ? more : search.found;
}
