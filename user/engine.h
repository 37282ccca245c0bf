/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All that steers, together: the kernel programs and the workers with their sniffers. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "syn_cookies.h"
#include "loop.h"
#include "programs.h"
#include "routes.h"

/* Workers when nobody says how many: the CPUs, up to this. */
#define ENGINE_DEFAULT_WORKERS 4

enum engine_state {
	ENGINE_STEERING,  /* windows are open, or may be */
	ENGINE_DRAINING,  /* nothing new is steered; what had begun is finished */
	ENGINE_LINGERING, /* nothing is attached or listening; relayed connections go on */
	ENGINE_FINISHED,  /* nothing is left: free it, or have it steer again */
};

struct engine;

/* Sums over the workers, and the BPF programs'. */
struct engine_numbers {
	struct loop_numbers loop;
	uint64_t steer[STEER_COUNTER_COUNT];
	uint64_t guard[GUARD_COUNTER_COUNT];
};

struct engine_config {
	struct routes *routes;
	unsigned n_workers;
	int notify_fd;		/* an eventfd, the caller's, that becomes readable when
				   engine_progress() has something to do */
	struct programs *spare; /* loaded ones for as many workers, which it takes over; it leaves
				   its own there when it has done with them and there are none.
				   NULL: they are loaded, and unloaded */
};

/*
 * Loads and attaches everything; steers nothing before it is given a lease. Returns 0, or -errno
 * with one line in @error.
 */
int engine_new(const struct engine_config *config, struct engine **ret_engine, char *error,
	       size_t error_size);

/* Ends everything at once. NULL is fine. */
void engine_free(struct engine *engine);

/* NULL when this kernel can hand off; else one line that says what is missing. */
const char *engine_no_handoff(const struct engine *engine);

/* For the question whether a target can be handed to; NULL when the kernel can't. */
struct guards *engine_guards(const struct engine *engine);

/*
 * A window has been opened, and gets its leases next. @hands_off: connections may be handed off, so
 * guards_prepare(). That is waited for if the programs have been loaded for this window, which took
 * longer; but who opens a window of a process that is there already should not have to wait.
 */
void engine_opened(struct engine *engine, bool hands_off);

/*
 * Renews the lease of @port until @until_ns, or ends it (0). Not renewed while a worker does not
 * answer: new connections then go to the web server when the last lease is over. @early: visitors'
 * handshakes may be the web server's own, see bpf/early.h.
 */
void engine_lease(struct engine *engine, uint16_t port, uint64_t until_ns, bool early);

/* syn_cookies_look(), for these ports. */
void engine_look_at_syn_cookies(struct engine *engine, const uint16_t *ports, size_t n_ports,
				bool closing, uint64_t now_ns);

/* Asks the workers for a sign of life, and looks which devices have gone; with each round of
 * leases. */
void engine_ping(struct engine *engine);

/*
 * ENGINE_STEERING to ENGINE_DRAINING: all leases must have been ended. In another state: nothing.
 * For @revivable_ns at least it can be revived: the sniffers, which nothing is steered to, are
 * kept.
 */
void engine_drain(struct engine *engine, uint64_t revivable_ns);

/*
 * From any state back to ENGINE_STEERING, with the relayed connections that it has. Waits some
 * milliseconds where workers are about to retire. 0, or -errno with one line in @error.
 */
int engine_revive(struct engine *engine, char *error, size_t error_size);

/* Has the workers end the relayed connections of windows that are marked so: tally_kill(). */
void engine_kill(struct engine *engine);

enum engine_state engine_state(const struct engine *engine);

/* All that waited in the accept queues when it began to drain has been given away. */
bool engine_drained(const struct engine *engine);

/* Goes on with what is under way, and returns the state. *ret_again_ns: when to call again at the
 * latest. */
enum engine_state engine_progress(struct engine *engine, uint64_t now_ns, uint64_t *ret_again_ns);

/* Adds this engine's numbers to *sum. */
void engine_numbers_add(const struct engine *engine, struct engine_numbers *sum);

#endif
