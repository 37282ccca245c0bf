// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * All that steers, together. Driven by the main thread, a step at a time.
 *
 * - STEERING: leases are given; workers sniff and hand off.
 * - DRAINING: the sk_lookup program steers nothing, and is detached: at once, or when the time is
 *   over in which another window may follow. Workers give what they have to the web server at once,
 *   then what was in the accept queues (drained), then whatever handshakes that had begun still
 *   bring: the sniffers listen until no handshake is under way, which is read from the sockets
 *   themselves. SYN-ACKs are repeated for about a minute at most.
 * - LINGERING: programs and sniffers are gone. Relayed connections go on.
 * - FINISHED: those have ended, too.
 *
 * It can steer again from each of them: workers and their relayed connections stay, and get new
 * sniffers.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "engine.h"
#include "log.h"
#include "sniffer.h"
#include "util.h"

#define LOOK_AT_QUEUES_NS (5 * NSEC_PER_MSEC)
#define RETIRE_NS	  NSEC_PER_SEC		/* a worker that takes longer hangs */
#define LOOK_LONGER_NS	  (100 * NSEC_PER_MSEC) /* a handshake that does not come to its end */

struct engine {
	enum engine_state state;
	struct programs programs;
	struct programs *spare;	      /* where to leave them; NULL: nowhere */
	struct engine_numbers before; /* of the programs, when they were taken over */
	uint64_t drain_began_ns;
	uint64_t revivable_ns; /* until then it does not retire */
	bool quiet_once; /* the queues were empty, and then no CPU was in the sk_lookup program */
	bool retiring;
	bool just_loaded; /* for the window that is being opened */
	bool stuck_logged;
	struct syn_cookies cookies;
	struct engine_numbers gone; /* of programs that it had before */
	int notify_fd;
	unsigned n_loops;
	struct loop *loops[STEER_MAX_SNIFFERS];
};

static int make_loops(struct engine *engine, const struct engine_config *config, char *error,
		      size_t error_size)
{
	unsigned n = MIN(config->n_workers, STEER_MAX_SNIFFERS);

	for (unsigned i = 0; i < n; i++) {
		const struct loop_config loop_config = { .index = i,
							 .routes = config->routes,
							 .notify_fd = config->notify_fd };
		int err = loop_new(&loop_config, &engine->loops[i], error, error_size);

		if (err)
			return err;
		engine->n_loops++;
	}
	return 0;
}

/* Makes sniffer @i, and tells the programs. Its descriptor, or -errno with one line in @error. */
static int make_sniffer(struct engine *engine, unsigned i, char *error, size_t error_size)
{
	const struct programs *programs = &engine->programs;
	_cleanup_close_ int fd =
		sniffer_socket(i > 0 ? engine->cookies.sniffers.port : 0, SNIFFER_BACKLOG);
	int err = fd < 0 ? -errno : 0;

	if (err) {
		snprintf(error, error_size, "the sniffer's socket: %s%s", strerror(-err),
			 err == -EADDRNOTAVAIL ? "; is lo up in this network namespace?" : "");
		return err;
	}
	if (i == 0)
		err = syn_cookies_begin(&engine->cookies, fd, engine->n_loops);
	if (!err)
		err = steer_set_sniffer(programs->steer, i, fd);
	if (!err && programs->guards)
		err = guards_set_sniffer(programs->guards, i, fd);
	if (err)
		snprintf(error, error_size, "giving the sniffer to the kernel: %s", strerror(-err));
	return err ? err : TAKE_FD(fd);
}

static int begin_loops(struct engine *engine, char *error, size_t error_size)
{
	for (unsigned i = 0; i < engine->n_loops; i++) {
		int fd = make_sniffer(engine, i, error, error_size);
		int err;

		if (fd < 0)
			return fd;
		err = loop_begin(engine->loops[i], engine->programs.steer, engine->programs.guards,
				 fd, error, error_size);
		if (err)
			return err;
	}
	return 0;
}

/* What the programs have counted so far. */
static void count(const struct programs *programs, struct engine_numbers *ret_numbers)
{
	*ret_numbers = (struct engine_numbers){};
	steer_counters(programs->steer, ret_numbers->steer);
	if (programs->guards)
		guards_counters(programs->guards, ret_numbers->guard);
}

/* The programs, a sniffer for each worker, and steering. */
static int begin(struct engine *engine, char *error, size_t error_size)
{
	int err = 0;

	if (engine->spare && engine->spare->steer) {
		engine->programs = *engine->spare;
		*engine->spare = (struct programs){};
	} else {
		err = programs_load(engine->n_loops, &engine->programs, error, error_size);
		engine->just_loaded = err == 0;
	}
	if (err)
		return err;
	count(&engine->programs, &engine->before);
	engine->state = ENGINE_STEERING;
	err = begin_loops(engine, error, error_size);
	if (!err)
		err = steer_attach(engine->programs.steer, error, error_size);
	return err;
}

int engine_new(const struct engine_config *config, struct engine **ret_engine, char *error,
	       size_t error_size)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	int err;

	if (!engine) {
		snprintf(error, error_size, "no memory");
		return -ENOMEM;
	}
	syn_cookies_init(&engine->cookies);
	engine->spare = config->spare;
	engine->notify_fd = config->notify_fd;
	err = make_loops(engine, config, error, error_size);
	if (!err)
		err = begin(engine, error, error_size);
	if (err) {
		engine_free(engine);
		return err;
	}
	*ret_engine = engine;
	return 0;
}

void engine_free(struct engine *engine)
{
	if (!engine)
		return;
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_free(engine->loops[i]);
	syn_cookies_end(&engine->cookies);
	programs_free(&engine->programs);
	free(engine);
}

const char *engine_no_handoff(const struct engine *engine)
{
	return engine->programs.no_handoff[0] ? engine->programs.no_handoff : NULL;
}

struct guards *engine_guards(const struct engine *engine)
{
	return engine->programs.guards;
}

void engine_opened(struct engine *engine, bool hands_off)
{
	if (engine->programs.guards && hands_off)
		guards_prepare(engine->programs.guards, engine->just_loaded);
	engine->just_loaded = false;
}

void engine_ping(struct engine *engine)
{
	if (engine->programs.guards)
		guards_look_at_devices(engine->programs.guards);
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

void engine_lease(struct engine *engine, uint16_t port, uint64_t until_ns, bool early)
{
	const struct programs *programs = &engine->programs;

	if (until_ns && !alive(engine))
		return;
	steer_lease(programs->steer, port, until_ns,
		    early && programs->guards && guards_can_read(programs->guards));
	if (programs->guards)
		guards_read(programs->guards, steer_early_ports(programs->steer));
}

void engine_look_at_syn_cookies(struct engine *engine, const uint16_t *ports, size_t n_ports,
				bool closing, uint64_t now_ns)
{
	syn_cookies_look(&engine->cookies, engine->programs.steer, ports, n_ports, closing, now_ns);
}

void engine_drain(struct engine *engine, uint64_t revivable_ns)
{
	if (engine->state != ENGINE_STEERING)
		return;
	engine->state = ENGINE_DRAINING;
	engine->quiet_once = false;
	engine->drain_began_ns = now_ns();
	engine->revivable_ns = engine->drain_began_ns + revivable_ns;
	/* Without a lease nothing is steered; detaching and attaching take a millisecond each. */
	if (!revivable_ns)
		steer_detach(engine->programs.steer);
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_drain(engine->loops[i], true);
}

void engine_kill(struct engine *engine)
{
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_kill(engine->loops[i]);
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
		int err;

		if (loop_unsettled(engine->loops[i]))
			return false;
		err = steer_queue(engine->programs.steer, i, &accept_queue, &syn_queue);
		/* -ENOENT: it has no sniffer any more. */
		if (err != -ENOENT && (err || accept_queue || syn_queue))
			return false;
		/* It may have been accepted between the two looks. */
		if (loop_unsettled(engine->loops[i]))
			return false;
	}
	return !engine->programs.guards || guards_count(engine->programs.guards) == 0;
}

/* What the programs have counted for this engine. */
static struct engine_numbers programs_numbers(const struct engine *engine)
{
	struct engine_numbers numbers;

	if (!engine->programs.steer)
		return engine->gone;
	count(&engine->programs, &numbers);
	for (int i = 0; i < STEER_COUNTER_COUNT; i++)
		numbers.steer[i] += engine->gone.steer[i] - engine->before.steer[i];
	for (int i = 0; i < GUARD_COUNTER_COUNT; i++)
		numbers.guard[i] += engine->gone.guard[i] - engine->before.guard[i];
	return numbers;
}

/* Nothing is attached afterwards. */
static void let_go(struct engine *engine)
{
	engine->gone = programs_numbers(engine);
	syn_cookies_end(&engine->cookies);
	if (engine->spare && !engine->spare->steer) {
		programs_reset(&engine->programs);
		*engine->spare = engine->programs;
	} else {
		programs_free(&engine->programs);
	}
	engine->programs.steer = NULL;
	engine->programs.guards = NULL;
}

static void linger(struct engine *engine)
{
	let_go(engine);
	engine->retiring = false;
	engine->state = ENGINE_LINGERING;
}

static uint64_t drain(struct engine *engine, uint64_t now)
{
	uint64_t look_ns =
		now - engine->drain_began_ns < NSEC_PER_SEC ? LOOK_AT_QUEUES_NS : LOOK_LONGER_NS;

	if (engine->retiring) {
		if (all(engine, loop_retired))
			linger(engine);
		return now + look_ns;
	}
	if (!engine_drained(engine) || !quiet(engine))
		return now + look_ns;
	/* What follows takes milliseconds, in which nobody else is served. */
	if (now < engine->revivable_ns)
		return engine->revivable_ns;
	if (!engine->quiet_once) {
		steer_detach(engine->programs.steer);
		/* A handshake may have begun between detaching and its last user's leaving. */
		engine->quiet_once = steer_synchronize() == 0;
		return engine->quiet_once ? now : now + look_ns;
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

/* Workers that were told to retire do so at their next event. */
static int wait_retired(struct engine *engine, char *error, size_t error_size)
{
	const uint64_t give_up_ns = now_ns() + RETIRE_NS;
	struct pollfd pollfd = { .fd = engine->notify_fd, .events = POLLIN };
	eventfd_t n;

	while (!all(engine, loop_retired)) {
		if (now_ns() >= give_up_ns) {
			snprintf(error, error_size,
				 "a worker does not answer; try again, or "
				 "restart the resident process");
			return -EBUSY;
		}
		poll(&pollfd, 1, 10);
		eventfd_read(engine->notify_fd, &n);
	}
	linger(engine);
	return 0;
}

int engine_revive(struct engine *engine, char *error, size_t error_size)
{
	int err = 0;

	if (engine->state == ENGINE_STEERING)
		return 0;
	if (engine->retiring)
		err = wait_retired(engine, error, error_size);
	if (err)
		return err;
	if (engine->state != ENGINE_DRAINING) {
		err = begin(engine, error, error_size);
		/* What has begun of it ends as after a window. */
		if (err && engine->programs.steer)
			engine_drain(engine, 0);
		return err;
	}
	err = steer_attach(engine->programs.steer, error, error_size);
	if (err)
		return err;
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_drain(engine->loops[i], false);
	engine->state = ENGINE_STEERING;
	return 0;
}

void engine_numbers_add(const struct engine *engine, struct engine_numbers *sum)
{
	const struct engine_numbers kernel = programs_numbers(engine);

	for (int i = 0; i < STEER_COUNTER_COUNT; i++)
		sum->steer[i] += kernel.steer[i];
	for (int i = 0; i < GUARD_COUNTER_COUNT; i++)
		sum->guard[i] += kernel.guard[i];
	for (unsigned i = 0; i < engine->n_loops; i++)
		loop_numbers_add(engine->loops[i], &sum->loop);
}
