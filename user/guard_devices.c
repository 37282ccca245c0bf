// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Devices that are guarded. Readers need no lock: an entry is complete before n says that it is
 * there, or gone_ns that it is there again. One whose device has gone is kept for a while, for
 * hand-offs that have begun.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "guard_devices.h"
#include "log.h"
#include "steer_shared.h"
#include "thread.h"
#include "util.h"

/* Linux 6.6; Debian 12's headers are older. */
#define ATTACH_TCX_INGRESS 46
#define ATTACH_TCX_EGRESS  47
#define LINK_BEFORE	   (1u << 3) /* BPF_F_BEFORE; with no other named: all others */

#define KEPT_NS (2 * HANDOFF_DEADLINE_NS)

int guard_devices_init(struct guard_devices *devices)
{
	pthread_mutex_init(&devices->lock, NULL);
	devices->ioctl_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return devices->ioctl_fd < 0 ? -errno : 0;
}

static bool is_gone(const struct guards_device *device)
{
	return __atomic_load_n(&device->gone_ns, __ATOMIC_ACQUIRE);
}

size_t guard_devices_reset(struct guard_devices *devices, unsigned *ret_used, size_t max)
{
	size_t n_used = 0;

	for (size_t i = 0; i < devices->n; i++) {
		struct guards_device *device = &devices->table[i];
		uint8_t value = 0;

		if (is_gone(device))
			continue;
		bpf_map_lookup_elem(devices->map, &device->ifindex, &value);
		if ((device->used || value == DEVICE_USED) && n_used < max)
			ret_used[n_used++] = device->ifindex;
		bpf_map_delete_elem(devices->map, &device->ifindex);
		close(device->links[0]);
		close(device->links[1]);
	}
	devices->n = 0;
	if (devices->news)
		mnl_socket_close(devices->news);
	devices->news = NULL;
	return n_used;
}

void guard_devices_free(struct guard_devices *devices)
{
	if (devices->ioctl_fd >= 0)
		close(devices->ioctl_fd);
	pthread_mutex_destroy(&devices->lock);
}

/* Address and MTU. Devices without a link header answer with another length of address: zeros. */
static int device_read(int ioctl_fd, struct guards_device *device)
{
	struct ifreq ifr = {};

	if (!if_indextoname(device->ifindex, ifr.ifr_name))
		return -ENODEV;
	if (ioctl(ioctl_fd, SIOCGIFMTU, &ifr) < 0)
		return -errno;
	device->mtu = (unsigned)ifr.ifr_mtu;
	if (ioctl(ioctl_fd, SIOCGIFHWADDR, &ifr) < 0)
		return -errno;
	memcpy(device->mac, ifr.ifr_hwaddr.sa_data, sizeof(device->mac));
	return 0;
}

static int device_attach(struct guard_devices *devices, struct guards_device *device)
{
	_cleanup_close_ int ingress = -1;
	_cleanup_close_ int egress = -1;
	/* Before others, whose verdict may be the last word: TCX_PASS, as Cilium's programs say. */
	LIBBPF_OPTS(bpf_link_create_opts, first, .flags = LINK_BEFORE);
	uint8_t value = DEVICE_GUARDED;
	int err = device_read(devices->ioctl_fd, device);

	if (err)
		return err;
	ingress =
		bpf_link_create(devices->ingress, (int)device->ifindex, ATTACH_TCX_INGRESS, &first);
	if (ingress < 0)
		return ingress;
	egress = bpf_link_create(devices->egress, (int)device->ifindex, ATTACH_TCX_EGRESS, &first);
	if (egress < 0)
		return egress;
	err = bpf_map_update_elem(devices->map, &device->ifindex, &value, BPF_ANY);
	if (err)
		return err;
	device->links[0] = TAKE_FD(ingress);
	device->links[1] = TAKE_FD(egress);
	return 0;
}

static struct guards_device *find(struct guard_devices *devices, unsigned ifindex)
{
	size_t n = __atomic_load_n(&devices->n, __ATOMIC_ACQUIRE);

	for (size_t i = 0; i < n; i++)
		if (!is_gone(&devices->table[i]) && devices->table[i].ifindex == ifindex)
			return &devices->table[i];
	return NULL;
}

/* A place in the table that nobody looks at. NULL: it is full. */
static struct guards_device *place(struct guard_devices *devices)
{
	const uint64_t now = now_ns();

	if (devices->n < GUARDS_MAX_DEVICES)
		return &devices->table[devices->n];
	for (size_t i = 0; i < devices->n; i++)
		if (is_gone(&devices->table[i]) && now - devices->table[i].gone_ns > KEPT_NS)
			return &devices->table[i];
	return NULL;
}

static void *close_links(void *arg)
{
	int *links = arg;

	close(links[0]);
	close(links[1]);
	free(links);
	return NULL;
}

/*
 * Attached to it is no more, wherever it is. To detach the kernel's lock of all devices is taken,
 * also where there is nothing to detach from any more, and when devices go it is in demand: so a
 * thread does that.
 */
static void forget(struct guard_devices *devices, struct guards_device *device, uint64_t now)
{
	int *links = malloc(sizeof(device->links));
	pthread_t thread;

	bpf_map_delete_elem(devices->map, &device->ifindex);
	__atomic_store_n(&device->gone_ns, now, __ATOMIC_RELEASE);
	if (links) {
		memcpy(links, device->links, sizeof(device->links));
		if (thread_start(&thread, close_links, links) == 0) {
			pthread_detach(thread);
			return;
		}
	}
	free(links);
	close(device->links[0]);
	close(device->links[1]);
}

/* One of them, if it was guarded. A bridge's port that leaves the bridge is still here. */
static int read_news(const struct nlmsghdr *nlh, void *data)
{
	const struct ifinfomsg *msg = mnl_nlmsg_get_payload(nlh);
	struct guard_devices *devices = data;
	struct guards_device *device;

	if (nlh->nlmsg_type != RTM_DELLINK || msg->ifi_family != AF_UNSPEC)
		return MNL_CB_OK;
	device = find(devices, (unsigned)msg->ifi_index);
	if (device)
		forget(devices, device, now_ns());
	return MNL_CB_OK;
}

/* Some news were lost. */
static void look_for_all(struct guard_devices *devices, uint64_t now)
{
	char name[IF_NAMESIZE];

	for (size_t i = 0; i < devices->n; i++) {
		struct guards_device *device = &devices->table[i];

		if (!is_gone(device) && !if_indextoname(device->ifindex, name) && errno == ENXIO)
			forget(devices, device, now);
	}
}

static void take_news(struct guard_devices *devices)
{
	char buf[16384];
	ssize_t n;

	while ((n = mnl_socket_recvfrom(devices->news, buf, sizeof(buf))) >= 0)
		mnl_cb_run(buf, (size_t)n, 0, 0, read_news, devices);
	if (errno != EAGAIN)
		look_for_all(devices, now_ns());
}

/* Before the first is attached to, so that none goes unheard. */
static void hear_news(struct guard_devices *devices)
{
	struct mnl_socket *news;

	if (devices->news)
		return;
	news = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (news && mnl_socket_bind(news, RTMGRP_LINK, MNL_SOCKET_AUTOPID) < 0) {
		mnl_socket_close(news);
		news = NULL;
	}
	if (!news)
		log_debug("nothing will be heard of devices that go: %s", strerror(errno));
	devices->news = news;
}

static struct guards_device *add(struct guard_devices *devices, unsigned ifindex, int *ret_err)
{
	struct guards_device new = { .ifindex = ifindex, .gone_ns = 1 };
	struct guards_device *to = place(devices);

	if (!to) {
		*ret_err = -ENOSPC;
		return NULL;
	}
	hear_news(devices);
	/* They may be about an earlier one of that number. */
	if (devices->news)
		take_news(devices);
	*ret_err = device_attach(devices, &new);
	if (*ret_err)
		return NULL;
	*to = new;
	__atomic_store_n(&to->gone_ns, 0, __ATOMIC_RELEASE);
	if (to == &devices->table[devices->n])
		__atomic_store_n(&devices->n, devices->n + 1, __ATOMIC_RELEASE);
	return to;
}

struct guards_device *guard_devices_get(struct guard_devices *devices, unsigned ifindex,
					int *ret_err)
{
	struct guards_device *device = find(devices, ifindex);

	*ret_err = 0;
	if (device)
		return device;
	pthread_mutex_lock(&devices->lock);
	device = find(devices, ifindex);
	if (!device)
		device = add(devices, ifindex, ret_err);
	pthread_mutex_unlock(&devices->lock);
	return device;
}

void guard_devices_look(struct guard_devices *devices)
{
	/* Somebody attaches to one, which may take long: the next time, then. */
	if (pthread_mutex_trylock(&devices->lock) != 0)
		return;
	if (devices->news)
		take_news(devices);
	pthread_mutex_unlock(&devices->lock);
}
