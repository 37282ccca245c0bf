/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The starter: a process beside the resident one that starts built-in responders, and ends them.
 * What that takes (another user, an empty root directory, exec, signals to others) is what the
 * process that moves connections must not be able to do.
 */
#ifndef STARTER_H
#define STARTER_H

#include <sys/types.h>

struct starter;

/*
 * Starts it. Before there is any other thread, and while this process still has its rights; the
 * starter keeps those that it needs (isolate.c), and no descriptor of ours. It ends with the thread
 * that calls this, and when starter_free() is called. 0 or -errno.
 */
int starter_new(struct starter **ret_starter);

/* Ends it. Responders that it started are not its children, and live on. NULL is fine. */
void starter_free(struct starter *starter);

/*
 * Starts a responder process, a child of the caller's: @listener and @socket, which stay the
 * caller's, become its RESPONDER_FD_LISTENER and RESPONDER_FD_RESIDENT. Returns when there is one,
 * milliseconds later, its pid or -errno; what tls_program_open() says; -EPIPE: the starter is
 * gone, and will not come back.
 */
pid_t starter_start(struct starter *starter, int listener, int socket);

/*
 * Kills a responder that it has started, and that has not been waited for. 0 or -errno; -ESRCH: it
 * has ended, or is none of its.
 */
int starter_kill(struct starter *starter, pid_t pid);

#endif
