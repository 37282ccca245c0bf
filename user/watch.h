/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Notices that listeners come and go on a few ports: loads watch.bpf.c and reads what it says. */
#ifndef WATCH_H
#define WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "steer_shared.h"

struct watch;

/*
 * Watches @n (at most WATCH_MAX_PORTS) ports (host order) of this network namespace from now on,
 * whatever the address. Returns 0, or -errno with one line in @error: this kernel can't.
 */
int watch_new(const uint16_t *ports, size_t n, struct watch **ret_watch, char *error,
	      size_t error_size);

/* Ends it; nothing stays attached. NULL is fine. */
void watch_free(struct watch *watch);

/* Readable when watch_take() has something to say. */
int watch_fd(const struct watch *watch);

enum watch_news {
	WATCH_NOTHING,
	WATCH_BEGINS, /* a socket is about to listen, if it does not already: look for a while */
	WATCH_CEASES, /* one no longer does, and none has begun to */
};

/*
 * What has happened since the last call. On which port, and what it means for an address, is to be
 * looked up. *ret_at_ns: when it last did (CLOCK_MONOTONIC); untouched when nothing has.
 */
enum watch_news watch_take(struct watch *watch, uint64_t *ret_at_ns);

#endif
