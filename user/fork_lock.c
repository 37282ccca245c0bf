// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Forking and letting go of connections exclude each other. Workers do not exclude each other. */
#include "fork_lock.h"

#include <pthread.h>

/* Hand-offs may come in an unbroken stream. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

void fork_lock_close_begin(void)
{
	pthread_rwlock_rdlock(&lock);
}

void fork_lock_close_end(void)
{
	pthread_rwlock_unlock(&lock);
}

void fork_lock_fork_begin(void)
{
	pthread_rwlock_wrlock(&lock);
}

void fork_lock_fork_end(void)
{
	pthread_rwlock_unlock(&lock);
}
