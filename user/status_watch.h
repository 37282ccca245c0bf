/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* `status --watch`. */
#ifndef STATUS_WATCH_H
#define STATUS_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "ctl_client.h"

struct json_object;

#define WATCH_DEFAULT_NS (UINT64_C(1) * 1000000000)
#define WATCH_MIN_NS	 (UINT64_C(100) * 1000000)
#define WATCH_MAX_NS	 (UINT64_C(3600) * 1000000000)

/* Reads "2", "0.5", "500ms", "2s", "5m". 0; -EINVAL: it is no such time, or not one of 0.1s to 1h.
 */
int watch_interval_parse(const char *text, uint64_t *ret_ns);

/*
 * Shows the status again and again, every @interval_ns: on a terminal as a screen, else as a line
 * each; with @json as a JSON document each. @nobody makes the document for when nobody runs.
 * Returns the exit code, when the user ends it or stdout takes no more; SIGTERM, SIGHUP and SIGQUIT
 * end it as they do any process, but with the terminal as it was.
 */
int status_watch(const struct ctl_client *client, uint64_t interval_ns, bool json,
		 struct json_object *(*nobody)(const struct ctl_client *client));

#endif
