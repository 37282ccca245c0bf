/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Gives up rights, in named stages: what a process that strangers talk to must not be able to do.
 */
#ifndef ISOLATE_H
#define ISOLATE_H

#include <stddef.h>

/*
 * For the resident process, first of all: what its caller has left it is not to be trusted. Of the
 * environment what a service manager or a sanitizer says remains; of the descriptors 0, 1, 2 and
 * @ready_fd (-1: none); the working directory is /, and what it makes is its user's alone unless it
 * says otherwise. 0 or -errno.
 */
int isolate_surroundings(int ready_fd);

/*
 * For the built-in responder, when all its descriptors are open and OpenSSL is ready. From then on:
 * another user and an empty root directory (if we were root), no capability, no way to get any,
 * limits, and no system call but those that serving TLS on descriptors that are there takes; any
 * other ends the process. It also ends with its parent. @max_fds: descriptors that it may have
 * open. Returns 0, or -errno with one line in @error; then the process must end.
 */
int isolate_responder(unsigned max_fds, char *error, size_t error_size);

/*
 * For the starter: keeps of the capabilities that it has those that starting and ending a responder
 * takes, can never get others, and may do little else. 0, or -errno with one line in @error.
 */
int isolate_starter(char *error, size_t error_size);

/*
 * For the resident process, when it has its namespace, its lock, its control socket and a starter,
 * but no other thread: keeps of the capabilities that it has those that steering, handing off and
 * relaying take, and can never get others. From then on it can't execute anything, make another
 * process, or open a file for writing; other system calls that it has no use for fail with ENOSYS
 * and are in the kernel's log. A kernel that counts BPF maps as locked memory (before 5.11) is told
 * not to mind. Returns 0, or -errno with one line in @error.
 */
int isolate_resident(char *error, size_t error_size);

#endif
