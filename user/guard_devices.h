/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which devices are guarded: attaches to them, and forgets those that have gone. */
#ifndef GUARD_DEVICES_H
#define GUARD_DEVICES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limit.h"

struct mnl_socket;

/* A device with the guard programs on it. */
struct guards_device {
	unsigned ifindex;
	uint8_t mac[6]; /* zeros where the device has no link header */
	unsigned mtu;
	int links[2];	  /* descriptors of the tcx links: ingress, egress */
	bool used;	  /* a connection came by it */
	uint64_t gone_ns; /* since then it is not this host's any more; 0: it is */
};

struct guard_devices {
	int ingress, egress,
		map; /* descriptors of the programs, and of guarded_devices; not owned */
	int ioctl_fd;
	pthread_mutex_t lock;	 /* of what changes the table */
	struct mnl_socket *news; /* of devices that go; NULL: none is guarded */
	size_t n;
	struct guards_device table[GUARDS_MAX_DEVICES];
};

/* @ingress, @egress, @map: of the programs, which have to stay until the end. 0 or -errno. */
int guard_devices_init(struct guard_devices *devices);

/* Detaches from all. Those that connections came by: their numbers, at most @max. Returns how many.
 */
size_t guard_devices_reset(struct guard_devices *devices, unsigned *ret_used, size_t max);

/* Detached from all before. */
void guard_devices_free(struct guard_devices *devices);

/*
 * The device with that number, attached to if it was not yet. Any thread. It is valid until
 * guard_devices_reset(), or two minutes after it has gone: no hand-off takes that long. NULL with
 * -errno in *ret_err when it can't be attached to.
 */
struct guards_device *guard_devices_get(struct guard_devices *devices, unsigned ifindex,
					int *ret_err);

/*
 * Forgets those that have gone since. One thread. A number may be given out again, and a device
 * that was moved into another network namespace takes its links with it.
 */
void guard_devices_look(struct guard_devices *devices);

#endif
