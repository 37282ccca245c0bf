// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * All that steers, together. Driven by the main thread, a step at a time.
 *
 *   STEERING   leases are given; workers sniff and hand off.
 *   DRAINING   the sk_lookup program is detached. Workers give what they have to the web server at
 *              once, then what was in the accept queues (drained), then whatever handshakes that
 * had begun still bring: the sniffers listen until no handshake is under way, which is read from
 * the sockets themselves. SYN-ACKs are repeated for about a minute at most. LINGERING  programs and
 * sniffers are gone. Relayed connections go on. FINISHED   those have ended, too.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "log.h"
#include "util.h"

#define LOOK_AT_QUEUES_NS (5 * NSEC_PER_MSEC)
#define LOOK_LONGER_NS	  (100 * NSEC_PER_MSEC) /* a handshake that does not come to its end */

struct engine {
	enum engine_state state;
	struct steer *steer;
	struct guards *guards;
	char no_handoff[256];
	uint64_t drain_began_ns;
	bool quiet_once; /* the queues were empty, and then no CPU was in the sk_lookup program */
	bool retiring;
	bool stuck_logged;
	struct engine_numbers gone; /* of the programs, when they are unloaded */
	unsigned n_loops;
	struct loop *loops[STEER_MAX_SNIFFERS];
};

static int start_loops(struct engine *engine, struct routes *routes, unsigned n, int notify_fd,
		       char *error, size_t error_size)
{
	for (unsigned i = 0; i < n; i++) {
		const struct loop_config config = { .index = i,
						    .routes = routes,
						    .steer = engine->steer,
						    .guards = engine->guards,
						    .notify_fd = notify_fd };
		int err = loop_new(&config, &engine->loops[i], error, error_size);
		int fd;

		if (err)
			return err;
		engine->n_loops++;
		fd = loop_sniffer_fd(engine->loops[i]);
		err = steer_set_sniffer(engine->steer, i, fd);
		if (!err && engine->guards)
			err = guards_set_sniffer(engine->guards, i, fd);
		if (err) {
			snprintf(error, error_size, "giving the sniffer to the kernel: %s",
				 strerror(-err));
			return err;
		}
	}
	return 0;
}

/* Without it everything is relayed. */
static void *load_guards(void *arg)
{
	struct engine *engine = arg;

	if (guards_new(&engine->guards, engine->no_handoff, sizeof(engine->no_handoff)) < 0)
		engine->guards = NULL;
	return NULL;
}

/* Both objects at once: most of the time goes into reading the kernel's BTF, for each anew. */
static int load(struct engine *engine, unsigned n_workers, char *error, size_t error_size)
{
	pthread_t thread;
	int no_thread = pthread_create(&thread, NULL, load_guards, engine);
	int err = steer_new(n_workers, &engine->steer, error, error_size);

	if (no_thread)
		load_guards(engine);
	else
		pthread_join(thread, NULL);
	if (!err && !engine->guards)
		log_info("%s; connections are relayed", engine->no_handoff);
	return err;
}

int engine_new(struct routes *routes, unsigned n_workers, int notify_fd, struct engine **ret_engine,
	       char *error, size_t error_size)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	int err;

	if (!engine) {
		snprintf(error, error_size, "no memory");
		return -ENOMEM;
	}
	n_workers = MIN(n_workers, STEER_MAX_SNIFFERS);
	err = load(engine, n_workers, error, error_size);
	if (err)
		goto fail;
	err = start_loops(engine, routes, n_workers, notify_fd, error, error_size);
	if (err)
		goto fail;
	*ret_engine = engine;
	return 0;
fail:
	engine_free(engine);
	return err;
}

void engine_free(struct engine *engine)
{
	if (!engine)
		return;
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_free(engine->loops[i]);
	guards_free(engine->guards);
	steer_free(engine->steer);
	free(engine);
}

const char *engine_no_handoff(const struct engine *engine)
{
	return engine->no_handoff[0] ? engine->no_handoff : NULL;
}

struct guards *engine_guards(const struct engine *engine)
{
	return engine->guards;
}

void engine_ping(struct engine *engine)
{
	for (unsigned i = 0; i < engine->n_loops; i++)
		if (loop_alive(engine->loops[i]))
			loop_ping(engine->loops[i]);
}

static bool alive(struct engine *engine)
{
	for (unsigned i = 0; i < engine->n_loops; i++) {
		if (loop_alive(engine->loops[i]))
			continue;
		if (!engine->stuck_logged)
			log_warn("worker %u does not answer: new connections pass it by", i);
		engine->stuck_logged = true;
		return false;
	}
	engine->stuck_logged = false;
	return true;
}

void engine_lease(struct engine *engine, uint16_t port, uint64_t until_ns)
{
	if (until_ns == 0 || alive(engine))
		steer_lease(engine->steer, port, until_ns);
}

void engine_drain(struct engine *engine)
{
	if (engine->state != ENGINE_STEERING)
		return;
	engine->state = ENGINE_DRAINING;
	engine->quiet_once = false;
	engine->drain_began_ns = now_ns();
	steer_detach(engine->steer);
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_drain(engine->loops[i], true);
}

int engine_revive(struct engine *engine)
{
	int err;

	if (engine->state != ENGINE_DRAINING || engine->retiring)
		return -EBUSY;
	err = steer_attach(engine->steer);
	if (err)
		return err;
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_drain(engine->loops[i], false);
	engine->state = ENGINE_STEERING;
	return 0;
}

enum engine_state engine_state(const struct engine *engine)
{
	return engine->state;
}

static bool all(const struct engine *engine, bool (*is)(const struct loop *))
{
	for (unsigned i = 0; i < engine->n_loops; i++)
		if (!is(engine->loops[i]))
			return false;
	return true;
}

bool engine_drained(const struct engine *engine)
{
	return engine->state > ENGINE_DRAINING ||
	       (engine->state == ENGINE_DRAINING && all(engine, loop_drained));
}

/* No handshake is under way, no connection waits for accept(), none is half way. */
static bool quiet(const struct engine *engine)
{
	for (unsigned i = 0; i < engine->n_loops; i++) {
		unsigned accept_queue = 0;
		unsigned syn_queue = 0;

		if (loop_unsettled(engine->loops[i]))
			return false;
		if (steer_queue(engine->steer, i, &accept_queue, &syn_queue) == 0 &&
		    (accept_queue || syn_queue))
			return false;
		/* It may have been accepted between the two looks. */
		if (loop_unsettled(engine->loops[i]))
			return false;
	}
	return !engine->guards || guards_count(engine->guards) == 0;
}

static void unload(struct engine *engine)
{
	steer_counters(engine->steer, engine->gone.steer);
	if (engine->guards)
		guards_counters(engine->guards, engine->gone.guard);
	guards_free(engine->guards);
	steer_free(engine->steer);
	engine->guards = NULL;
	engine->steer = NULL;
}

static uint64_t drain(struct engine *engine, uint64_t now)
{
	uint64_t look_ns =
		now - engine->drain_began_ns < NSEC_PER_SEC ? LOOK_AT_QUEUES_NS : LOOK_LONGER_NS;

	if (engine->retiring) {
		if (all(engine, loop_retired)) {
			unload(engine);
			engine->state = ENGINE_LINGERING;
		}
		return now + look_ns;
	}
	if (!engine_drained(engine) || !quiet(engine))
		return now + look_ns;
	if (!engine->quiet_once) {
		/* A handshake may have begun between detaching and its last user's leaving. */
		steer_synchronize();
		engine->quiet_once = true;
		return now;
	}
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_retire(engine->loops[i]);
	engine->retiring = true;
	return now + look_ns;
}

static bool relays_nothing(const struct loop *loop)
{
	return loop_relayed(loop) == 0;
}

enum engine_state engine_progress(struct engine *engine, uint64_t now_ns, uint64_t *ret_again_ns)
{
	*ret_again_ns = UINT64_MAX;
	if (engine->state == ENGINE_DRAINING)
		*ret_again_ns = drain(engine, now_ns);
	if (engine->state == ENGINE_LINGERING) {
		*ret_again_ns = now_ns + LOOK_LONGER_NS;
		if (all(engine, relays_nothing))
			engine->state = ENGINE_FINISHED;
	}
	return engine->state;
}

void engine_numbers_add(const struct engine *engine, struct engine_numbers *sum)
{
	struct engine_numbers kernel = engine->gone;

	if (engine->steer)
		steer_counters(engine->steer, kernel.steer);
	if (engine->guards)
		guards_counters(engine->guards, kernel.guard);
	for (int i = 0; i < STEER_COUNTER_COUNT; i++)
		sum->steer[i] += kernel.steer[i];
	for (int i = 0; i < GUARD_COUNTER_COUNT; i++)
		sum->guard[i] += kernel.guard[i];
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_numbers_add(engine->loops[i], &sum->loop);
}
