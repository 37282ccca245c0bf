// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One armed address.
 *
 *              somebody listens                    a user closes the window
 *   WAITING ----------------------> OPEN ------------------------------------> SHUT
 *      ^  \                          ^
 *      |   `-- can't be opened --> FAILED, and tried again
 *      |
 *      `--- from each of them when nobody listens any more; an open window is closed then.
 *           From SHUT also when others listen than did when it was closed.
 */
#include "arm.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "util.h"

const char *const arm_state_names[] = {
	[ARM_WAITING] = "waiting",
	[ARM_OPEN] = "open",
	[ARM_SHUT] = "shut",
	[ARM_FAILED] = "failed",
};
static_assert(ARRAY_SIZE(arm_state_names) == ARM_STATES, "a name for each state");

int arm_add(struct arm *arms, size_t *n, const char *text, char *error, size_t error_size)
{
	struct endpoint responder;
	char address[ENDPOINT_STRLEN];
	struct arm *arm = &arms[*n];
	int r = window_endpoint_set("arm", text, "127.0.0.1:31443", &responder, error, error_size);

	if (r < 0)
		return r;
	for (size_t i = 0; i < *n; i++)
		if (endpoint_equal(&arms[i].responder, &responder))
			return 0;
	if (*n == ARM_MAX) {
		snprintf(error, error_size, "arm: at most %d addresses can be armed", ARM_MAX);
		return -E2BIG;
	}
	*arm = (struct arm){ .responder = responder };
	snprintf(arm->window, sizeof(arm->window), "armed:%s",
		 endpoint_format(&responder, address));
	++*n;
	return 0;
}

enum arm_act arm_step(struct arm *arm, enum arm_listener listener, bool window_open,
		      uint64_t now_ns)
{
	if (listener == ARM_NOBODY) {
		arm->state = ARM_WAITING;
		return window_open ? ARM_CLOSE_WINDOW : ARM_STAY;
	}
	if (listener == ARM_OTHERS && arm->state == ARM_SHUT)
		arm->state = ARM_WAITING;
	if (arm->state == ARM_OPEN && !window_open)
		arm->state = ARM_SHUT;
	if (arm->state == ARM_WAITING || (arm->state == ARM_FAILED && now_ns >= arm->again_ns))
		return ARM_OPEN_WINDOW;
	return ARM_STAY;
}

void arm_opened(struct arm *arm, bool success, uint64_t now_ns)
{
	arm->state = success ? ARM_OPEN : ARM_FAILED;
	if (success)
		arm->opened++;
	else
		arm->again_ns = now_ns + ARM_AGAIN_NS;
}
