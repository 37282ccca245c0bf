/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forking and letting go of connections exclude each other. */
#ifndef FORK_LOCK_H
#define FORK_LOCK_H

/*
 * A process has copies of all descriptors between fork() and exec. A socket that its owner closes
 * meanwhile lives on, and with it the connection that is being given to somebody else.
 *
 * A worker that closes such a socket does so between fork_lock_close_begin() and
 * fork_lock_close_end(); whoever forks, between fork_lock_fork_begin() and fork_lock_fork_end(),
 * the latter when the new process has no copies any more. Both may wait for the other; neither
 * nests.
 */
void fork_lock_close_begin(void);
void fork_lock_close_end(void);
void fork_lock_fork_begin(void);
void fork_lock_fork_end(void);

#endif
