/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The resident process's mind: windows come and go, and with them the engine. One thread. */
#ifndef RESIDENT_H
#define RESIDENT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "arms.h"
#include "challenges.h"
#include "closing.h"
#include "ctl_server.h"
#include "engine.h"
#include "log.h"
#include "routes.h"

/* ACME clients that validate several names open and close their listener for each. */
#define RESIDENT_REVIVABLE_NS UINT64_C(250000000)

struct resident {
	struct routes routes;
	unsigned workers;
	ino_t netns_inode;
	int notify_fd;		    /* eventfd: an engine has news */
	struct engine *engine;	    /* NULL: no window, and nothing of one is left */
	struct engine_numbers past; /* of engines that are gone */
	bool stopping;		    /* no window is opened any more */
	bool stays;		    /* without windows, too: keeps the programs loaded */
	struct programs spare;	    /* those that no engine uses now */
	char last_no_handoff[256];
	struct closings closings;
	struct challenges challenges;
	struct arms arms;
	bool had_request;
	uint64_t started_ns;
	uint64_t renewed_ns;
	bool relays_full;    /* nothing new is steered, so many being relayed */
	uint64_t times_full; /* how often that began */
	struct log_limit full_limit;
};

/* @workers: of each engine. 0 or -errno. */
int resident_init(struct resident *resident, unsigned workers);
void resident_free(struct resident *resident);

/*
 * This process stays when no window is open. Loads the programs, and from now on keeps them from
 * window to window, so that one opens in milliseconds. Logs why when they can't be loaded: each
 * opening tries again.
 */
void resident_stay(struct resident *resident);

/* A ctl_handler; @ctx is the resident. */
void resident_handle(void *ctx, struct ctl_conn *conn, const struct ctl_request *request);

/* Renews leases, ends windows whose time is over, goes on with what drains. Returns when to call
 * again. */
uint64_t resident_tick(struct resident *resident, uint64_t now_ns);

/* Disarms, and closes all windows; what is under way is finished by resident_tick(). */
void resident_close_all(struct resident *resident);

/* No window, no engine, nobody waits for an answer. */
bool resident_is_idle(const struct resident *resident);

/* Sums over the engines so far. */
void resident_numbers(const struct resident *resident, struct engine_numbers *ret_numbers);

/*
 * For challenges, which have windows too. Opens or renews a window, with an engine and everything;
 * then resident_settle(). 0, or -errno with one line in @error.
 */
int resident_open_window(struct resident *resident, const struct window_options *options,
			 bool *ret_renewed, char *error, size_t error_size);

/* Closes one; tells @conn (may be NULL) in a line. Then resident_settle() or closing_reply(). */
void resident_close_window(struct resident *resident, struct ctl_conn *conn,
			   const struct window *window, const char *why);

/* After windows were opened or closed: leases for those that are open; without any, the engine
 * drains. */
void resident_settle(struct resident *resident);

/* The status document, as `status --json` prints it. The caller puts it. */
struct json_object *resident_report(const struct resident *resident, uint64_t now_ns);

#endif
