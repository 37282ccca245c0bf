/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which process has a socket, and who listens on a port elsewhere: read from /proc. */
#ifndef OWNERS_H
#define OWNERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct owner {
	pid_t pid;     /* 0: not seen */
	char name[64]; /* as ps shows it; printable */
};

/*
 * For each of the sockets with these inode numbers, the first process that has a descriptor of it.
 * Other users' processes are seen by root only, those of another pid namespace not at all.
 */
void owners_find(const uint64_t *inodes, size_t n, struct owner *ret_owners);

/* The same for a BPF link by its id. */
void owners_of_link(uint32_t id, struct owner *ret_owner);

/* Somebody who listens on TCP @port (host order) in another network namespace than @netns. */
void owners_elsewhere(uint16_t port, ino_t netns, struct owner *ret_owner);

#endif
