/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The resident process's challenges: requests about them, the windows they open, the responder that
 * answers. */
#ifndef CHALLENGES_H
#define CHALLENGES_H

#include <stdbool.h>
#include <stdint.h>

#include "ctl_server.h"
#include "keeper.h"

struct resident;

/* With no challenge, and something else still steering, the responder stays for so long. */
#define CHALLENGES_LINGER_NS (UINT64_C(1) * 1000000000)

/* Somebody waits for his challenge to be answered. */
struct challenge_wait {
	struct ctl_conn *conn;
	uint64_t ticket;
	struct name name;
	bool replaced; /* there was one of this name */
};

struct challenges {
	struct keeper *keeper;
	struct challenge_wait waits[CTL_MAX_CONNS];
	size_t n_waits;
	uint64_t none_since_ns; /* 0: there are some, or the responder is off */
};

/* 0 or -errno. */
int challenges_init(struct resident *resident);
void challenges_free(struct resident *resident);

/* Answers requests about challenges. False: it is none. */
bool challenges_handle(struct resident *resident, struct ctl_conn *conn,
		       const struct ctl_request *request);

/* Their window is closed: takes away all challenges of @port. */
void challenges_forget(struct resident *resident, uint16_t port);

/* Answers those who wait, ends what has reached its deadline, keeps the responder. Returns when to
 * call again. */
uint64_t challenges_tick(struct resident *resident, uint64_t now_ns);

/* After the engine: stops the responder when nobody needs it any more. Returns when to call again.
 */
uint64_t challenges_stop_responder(struct resident *resident, uint64_t now_ns);

/* Nobody waits, and no responder process is there. */
bool challenges_are_idle(const struct resident *resident);

#endif
