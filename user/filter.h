/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The system calls that each of our processes may make: lists of those allowed, for good. */
#ifndef FILTER_H
#define FILTER_H

/*
 * Each puts a filter on the calling process, which must have one thread and no_new_privs. 0 or
 * -errno.
 *
 * filter_responder(): strangers talk to it, and its whole life is reading and writing: any other
 * call ends it, and another is started.
 *
 * filter_starter(): what a responder takes until it has its own filter is allowed as well. Any
 * other call fails with ENOSYS.
 *
 * filter_resident(): visitors' connections are in it, so a call that is merely unknown must not end
 * it: it fails with ENOSYS, as on a kernel that does not have it, which libraries are prepared for,
 * and the kernel logs it (type=1326, where it has an audit log). What only an intruder would call
 * (execve, fork, ptrace, mount, setns ...) ends it at once: the port is the web server's alone then.
 */
int filter_responder(void);
int filter_starter(void);
int filter_resident(void);

#endif
