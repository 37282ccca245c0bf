/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The log's one line for a steered connection: each that asks for acme-tls/1, and visitors if
 * asked. */
#ifndef CONN_LOG_H
#define CONN_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "log.h"

/* Lines that one worker writes at most: whoever connects can provoke them. */
#define CONN_LOG_BURST	     500
#define CONN_LOG_INTERVAL_NS UINT64_C(1000000000)

enum conn_outcome {
	OUTCOME_HANDED_OFF,
	OUTCOME_RELAYED,
	OUTCOME_CLIENT_GONE,
	OUTCOME_LOST,
	OUTCOME_RESET, /* nobody could take it */
	OUTCOMES
};

/* Of one worker. Zeroed: nothing yet. */
struct conn_log {
	struct log_limit limit;
	uint64_t unsaid; /* connections without a line since the last one that has one */
};

/* Everything is the caller's. */
struct conn_entry {
	enum conn_outcome outcome;
	bool acme;	     /* it asked for acme-tls/1; else it is a visitor */
	bool to_responder;   /* else to the web server, */
	bool responder_down; /* which has it because of this */
	const char *window;  /* its name; "": of none */
	const char *name;    /* of SNI, any bytes; NULL: none */
	const struct endpoint *peer, *local, *target;
	const char *relay_reason; /* relayed: why, in words */
};

/* Visitors have lines, too. Set before threads start. */
void conn_log_set_visitors(bool visitors);
bool conn_log_wants(bool acme);

/* False: it has no line, there being too many. */
bool conn_log(struct conn_log *log, const struct conn_entry *entry, uint64_t now_ns);

#endif
