/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The built-in responder: a process of its own, without rights, that answers challenges. And what
 * it and the resident process say to each other, over a SOCK_SEQPACKET socket, one struct a
 * message. Both are of one version, or it ends at once.
 */
#ifndef RESPONDER_H
#define RESPONDER_H

#include <stdbool.h>
#include <stdint.h>

#include "answer_counters.h"
#include "challenge.h"

#define RESPONDER_FD_LISTENER 3
#define RESPONDER_FD_RESIDENT 4

/* Exit codes of a process that has not become one, as shells have them, and 125. */
#define RESPONDER_OTHER_VERSION 125
#define RESPONDER_NOT_EXECUTED	126
#define RESPONDER_NOT_LINKED	127
#define RESPONDER_MAX_FDS	(ANSWER_MAX_CONNS + 16)
#define RESPONDER_TEXT_MAX	160

/* The counters change at most so often for the resident process. */
#define RESPONDER_REPORT_NS (UINT64_C(100) * 1000000)
/* When the resident process has nothing more to say: for the handshakes that have begun. */
#define RESPONDER_END_NS (UINT64_C(2) * 1000000000)

enum responder_order_kind {
	RESPONDER_ADD,
	RESPONDER_REMOVE,
	RESPONDER_SYNC, /* that was all there is, for now: the first one makes it listen */
};

struct responder_order {
	uint64_t ticket; /* ever larger */
	enum responder_order_kind kind;
	struct name name; /* REMOVE: its sni */
	uint8_t digest[CHALLENGE_DIGEST];
};

struct responder_report {
	uint64_t ticket; /* every order up to it is done */
	bool ready;	 /* the first one: it serves */
	bool failed;	 /* the last one: it can't, and text says why */
	uint64_t counters[ANSWER_COUNTER_COUNT];
	char text[RESPONDER_TEXT_MAX];
};

/*
 * The process's life, from exec to its exit code: descriptors RESPONDER_FD_LISTENER (listening,
 * non-blocking) and RESPONDER_FD_RESIDENT (non-blocking) are given. It ends when the other end of
 * the latter is closed.
 */
int responder_run(void);

#endif
