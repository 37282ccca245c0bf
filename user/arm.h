/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One armed address: a window is open for it exactly while somebody listens there. Pure; takes the
 * time. */
#ifndef ARM_H
#define ARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "listeners.h"
#include "steer_shared.h"
#include "window.h"

#define ARM_MAX WATCH_MAX_PORTS
/* A window that could not be opened is tried again after this, while somebody listens. */
#define ARM_AGAIN_NS UINT64_C(1000000000)

enum arm_state {
	ARM_WAITING, /* nobody listens */
	ARM_OPEN,    /* somebody does, and a window was opened */
	ARM_SHUT,    /* and a user has closed that: no other for those who listened then */
	ARM_FAILED,  /* and no window could be opened; again_ns: when to try again */
	ARM_STATES
};
extern const char *const arm_state_names[ARM_STATES];

struct arm {
	struct endpoint responder;
	char window[WINDOW_NAME_SIZE]; /* its window's name, which no user's window can have */
	enum arm_state state;
	uint64_t again_ns;
	uint64_t opened; /* windows so far */
	/* The caller's: from the notice to the end of the last change; 0: unknown. */
	uint64_t reaction_ns;
	/* The caller's: who listened when a user closed it. */
	struct listening_sockets shut_for;
};

enum arm_act { ARM_STAY, ARM_OPEN_WINDOW, ARM_CLOSE_WINDOW };

enum arm_listener {
	ARM_NOBODY,
	ARM_SOMEBODY,
	ARM_OTHERS, /* and in ARM_SHUT it is known that none of them did then */
};

/*
 * Adds the address @text to @arms, of which there are *n (room for ARM_MAX); the same one twice is
 * one. 0, or -EINVAL or -E2BIG with one line in @error.
 */
int arm_add(struct arm *arms, size_t *n, const char *text, char *error, size_t error_size);

/*
 * What is to be done now that somebody listens there or nobody does, and the address's window is
 * open or is not. After ARM_OPEN_WINDOW call arm_opened(). One listener may have followed another
 * unseen: an open window is as good for the other one.
 */
enum arm_act arm_step(struct arm *arm, enum arm_listener listener, bool window_open,
		      uint64_t now_ns);

/* Whether opening the window succeeded. */
void arm_opened(struct arm *arm, bool success, uint64_t now_ns);

#endif
