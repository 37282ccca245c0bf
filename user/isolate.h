/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Gives up rights, in named stages: what a process that strangers talk to must not be able to do. */
#ifndef ISOLATE_H
#define ISOLATE_H

#include <stddef.h>

/*
 * For the built-in responder, when all its descriptors are open and OpenSSL is ready. From then on: another
 * user and an empty root directory (if we were root), no capability, no way to get any, limits, and no
 * system call but those that serving TLS on descriptors that are there takes; any other ends the
 * process. It also ends with its parent. @max_fds: descriptors that it may have open.
 * Returns 0, or -errno with one line in @error; then the process must end.
 */
int isolate_responder(unsigned max_fds, char *error, size_t error_size);

#endif
