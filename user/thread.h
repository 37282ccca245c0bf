/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Threads beside the main one, which all signals are for. */
#ifndef THREAD_H
#define THREAD_H

#include <pthread.h>
#include <signal.h>

/* As pthread_create(), with all signals blocked. 0 or -errno. */
static inline int thread_start(pthread_t *ret_thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = pthread_create(ret_thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

#endif
