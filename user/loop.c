// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A worker: one thread that waits for events and hands them on.
 *
 * The main thread tells it what to do through a few flags and an eventfd that wakes it: begin (here
 * is a sniffer), drain (the windows are closed), retire (nothing more can come), stop. From retire
 * to the next begin it has only relayed connections. The worker answers by flags too, and by the
 * main thread's eventfd. It never waits for anything but events and timers; but for its turn, while
 * descriptors are short. It shares nothing with other workers but the windows (routes.c), the
 * kernel's maps, and the number of descriptors that the process may have.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "log.h"
#include "loop.h"
#include "thread.h"
#include "util.h"

#define EVENTS_PER_BATCH  64
#define ACCEPTS_PER_EVENT 64 /* then other connections have their turn */
#define ACCEPT_PAUSE_NS	  (100 * NSEC_PER_MSEC)

#define HASTE_NS NSEC_PER_SEC

/*
 * What workers share, as descriptors are shared. While those are short one worker at a time
 * accepts: else another one could get the descriptor that a worker has closed to accept with, and
 * keep it.
 */
static struct {
	pthread_mutex_t lock;
	/* __atomic. */
	uint64_t until_ns;  /* descriptors are taken to be short until then */
	unsigned n_lacking; /* workers without one in reserve */
} haste = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct loop {
	struct conn_owner owner;
	struct handoff_worker *handoff;
	uint8_t ref_listener; /* REF_LISTENER, REF_WAKE: what epoll points at */
	uint8_t ref_wake;
	uint8_t ref_early;
	struct guards *guards; /* of the worker that hears what they have taken; NULL: another's */
	int listener_fd;
	int wake_fd;
	int notify_fd;
	int spare_fd; /* given up for a connection when there is no other descriptor; -1: in use */
	pthread_t thread;
	bool started;
	bool lacks_spare;
	bool accept_paused;
	uint64_t accept_again_ns;
	uint64_t relay_reap_ns;
	struct log_limit pause_limit;

	/* What a retired worker is to sniff with: the main thread's until it says begin. */
	struct {
		int listener_fd;
		struct handoff_worker *handoff;
		struct guards *guards;
		struct steer *steer;
	} next;

	/* Written by the main thread; __atomic. The worker takes back begin. */
	bool begin;
	bool drain;
	bool retire;
	bool stop;
	bool kill;
	uint32_t pings;
	/* Written by the worker; __atomic. */
	bool drained;
	bool retired;
	uint32_t pongs;
};

static int watch(struct loop *loop, int fd, uint8_t *ref)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = ref };

	return epoll_ctl(loop->owner.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void notify(const struct loop *loop)
{
	eventfd_write(loop->notify_fd, 1);
}

static bool are_short(int err)
{
	return err == -EMFILE || err == -ENFILE;
}

static int spare_fd(void)
{
	return eventfd(0, EFD_CLOEXEC);
}

/* Has a descriptor in reserve again, if there is one to have. */
static void reserve(struct loop *loop)
{
	bool lacked = loop->lacks_spare;

	if (loop->spare_fd < 0)
		loop->spare_fd = spare_fd();
	loop->lacks_spare = loop->spare_fd < 0;
	__atomic_fetch_add(&haste.n_lacking, (unsigned)loop->lacks_spare - (unsigned)lacked,
			   __ATOMIC_RELAXED);
}

/* No descriptors, no memory: accept() would fail again and again while the queue stays readable. */
static void accept_pause(struct loop *loop, int err, uint64_t now)
{
	__atomic_fetch_add(&loop->owner.counters[CONN_ACCEPT_PAUSED], 1, __ATOMIC_RELAXED);
	if (log_limit_ok(&loop->pause_limit, 1, 60 * NSEC_PER_SEC, now))
		log_warn("accept: %s; new connections wait or pass by", strerror(-err));
	epoll_ctl(loop->owner.epoll_fd, EPOLL_CTL_DEL, loop->listener_fd, NULL);
	loop->accept_paused = true;
	loop->accept_again_ns = now + ACCEPT_PAUSE_NS;
}

static void accept_resume(struct loop *loop)
{
	reserve(loop);
	if (watch(loop, loop->listener_fd, &loop->ref_listener) == 0)
		loop->accept_paused = false;
}

static int accept_one(const struct loop *loop, struct sockaddr_storage *ret_peer)
{
	socklen_t len = sizeof(*ret_peer);

	return accept4(loop->listener_fd, (struct sockaddr *)ret_peer, &len,
		       SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/*
 * Takes one while descriptors are short. With the one in reserve a connection can still be taken
 * and handed off, which frees it again: waiting in the accept queue is for when even that fails. A
 * worker that got none back is helped by whoever still waits for ClientHellos. 0: go on; -errno.
 */
static int accept_in_haste(struct loop *loop, uint64_t now)
{
	struct sockaddr_storage peer;
	bool last = false;
	int fd, err;

	pthread_mutex_lock(&haste.lock);
	fd = accept_one(loop, &peer);
	err = fd < 0 ? -errno : 0;
	if (are_short(err))
		__atomic_store_n(&haste.until_ns, now + HASTE_NS, __ATOMIC_RELAXED);
	if (are_short(err) && loop->spare_fd >= 0) {
		close(TAKE_FD(loop->spare_fd));
		fd = accept_one(loop, &peer);
		err = fd < 0 ? -errno : 0;
		last = true;
	}
	if (fd >= 0)
		conn_accept(&loop->owner, fd, &peer,
			    last || __atomic_load_n(&haste.n_lacking, __ATOMIC_RELAXED), now);
	reserve(loop);
	if (__atomic_load_n(&haste.n_lacking, __ATOMIC_RELAXED) &&
	    conn_make_room(&loop->owner, now))
		reserve(loop);
	/* There is one now. */
	if (are_short(err) && loop->spare_fd >= 0)
		err = 0;
	pthread_mutex_unlock(&haste.lock);
	return err;
}

/* Takes what is in the accept queue, at most @limit. True when the queue is empty. */
static bool accept_some(struct loop *loop, unsigned limit, uint64_t now)
{
	for (unsigned i = 0; i < limit; i++) {
		struct sockaddr_storage peer;
		int err = -EMFILE;

		if (now >= __atomic_load_n(&haste.until_ns, __ATOMIC_RELAXED)) {
			int fd = accept_one(loop, &peer);

			err = fd < 0 ? -errno : 0;
			if (fd >= 0)
				conn_accept(&loop->owner, fd, &peer, false, now);
		}
		if (are_short(err))
			err = accept_in_haste(loop, now);
		switch (-err) {
		case EAGAIN:
			return true;
		case EMFILE:
		case ENFILE:
		case ENOBUFS:
		case ENOMEM:
			accept_pause(loop, err, now);
			return false;
		default: /* taken; or that one is gone: ECONNABORTED, EPROTO ... */
			break;
		}
	}
	return false;
}

/* The main thread has put all of it in place. */
static void begin(struct loop *loop)
{
	loop->listener_fd = loop->next.listener_fd;
	loop->owner.handoff = loop->handoff = loop->next.handoff;
	loop->owner.steer = loop->next.steer;
	loop->guards = loop->next.guards;
	loop->owner.draining = false;
	__atomic_store_n(&loop->retired, false, __ATOMIC_RELEASE);
	__atomic_store_n(&loop->begin, false, __ATOMIC_RELEASE);
	if (watch(loop, loop->listener_fd, &loop->ref_listener) < 0) {
		/* No memory: as when accept() has none. */
		loop->accept_paused = true;
		loop->accept_again_ns = now_ns() + ACCEPT_PAUSE_NS;
	}
}

/* Whatever can still come does so now: the process has looked at the queues. */
static void retire(struct loop *loop)
{
	if (loop->listener_fd >= 0)
		close(loop->listener_fd);
	loop->listener_fd = -1;
	if (loop->guards)
		epoll_ctl(loop->owner.epoll_fd, EPOLL_CTL_DEL, guards_early_fd(loop->guards), NULL);
	loop->guards = NULL;
	loop->accept_paused = false;
	loop->owner.handoff = NULL;
	loop->owner.steer = NULL;
	handoff_worker_free(loop->handoff);
	loop->handoff = NULL;
	__atomic_store_n(&loop->retired, true, __ATOMIC_RELEASE);
	notify(loop);
}

/* The main thread has something to say. */
static void wake(struct loop *loop, uint64_t now)
{
	eventfd_t n;
	bool drain;

	eventfd_read(loop->wake_fd, &n);
	__atomic_store_n(&loop->pongs, __atomic_load_n(&loop->pings, __ATOMIC_ACQUIRE),
			 __ATOMIC_RELEASE);
	/* First: what was said before it no longer holds. */
	if (__atomic_load_n(&loop->begin, __ATOMIC_ACQUIRE))
		begin(loop);
	drain = __atomic_load_n(&loop->drain, __ATOMIC_ACQUIRE);
	if (!drain) {
		loop->owner.draining = false;
	} else if (!__atomic_load_n(&loop->drained, __ATOMIC_RELAXED)) {
		conn_drain(&loop->owner, now);
		if (loop->listener_fd >= 0)
			accept_some(loop, UINT32_MAX, now);
		__atomic_store_n(&loop->drained, true, __ATOMIC_RELEASE);
		notify(loop);
	}
	if (__atomic_exchange_n(&loop->kill, false, __ATOMIC_ACQUIRE))
		conn_kill(&loop->owner);
}

static void take_early(void *ctx, const struct early_event *event)
{
	conn_take_early(ctx, event, now_ns());
}

static void handle_event(struct loop *loop, const struct epoll_event *event, uint64_t now)
{
	uint8_t *ref = event->data.ptr;

	switch ((enum ref) * ref) {
	case REF_LISTENER:
		if (loop->listener_fd >= 0 && !loop->accept_paused)
			accept_some(loop, ACCEPTS_PER_EVENT, now);
		break;
	case REF_WAKE:
		wake(loop, now);
		break;
	case REF_EARLY:
		if (loop->guards)
			guards_early_events(loop->guards, take_early, &loop->owner);
		break;
	case REF_CONN:
		conn_event(&loop->owner, event->data.ptr, event->events, now);
		break;
	case REF_RELAY:
		relay_handle_event(&loop->owner.relay, event->data.ptr, event->events);
		break;
	}
}

/* Until the next timer; less than 0: for ever. */
static int64_t until_timer(const struct loop *loop, uint64_t now)
{
	const struct timer *first = timers_first(&loop->owner.timers);
	uint64_t at = first ? first->at_ns : UINT64_MAX;

	at = MIN(at, loop->relay_reap_ns);
	if (loop->accept_paused)
		at = MIN(at, loop->accept_again_ns);
	if (at == UINT64_MAX)
		return -1;
	return at > now ? (int64_t)(at - now) : 0;
}

static int wait_events(struct loop *loop, struct epoll_event *events, int max)
{
	int64_t ns = until_timer(loop, now_ns());
	struct timespec ts = { .tv_sec = ns / (int64_t)NSEC_PER_SEC,
			       .tv_nsec = ns % (int64_t)NSEC_PER_SEC };
	int n = epoll_pwait2(loop->owner.epoll_fd, events, max, ns < 0 ? NULL : &ts, NULL);

	if (n < 0 && errno == ENOSYS) /* before Linux 5.11 */
		n = epoll_wait(loop->owner.epoll_fd, events, max,
			       ns < 0 ? -1 : (int)((ns + 999999) / 1000000));
	return n;
}

static void run_timers(struct loop *loop, uint64_t now)
{
	struct timer *timer;

	while ((timer = timers_first(&loop->owner.timers)) && timer->at_ns <= now)
		conn_timeout(&loop->owner, timer, now);
	if (loop->accept_paused && loop->accept_again_ns <= now)
		accept_resume(loop);
}

static void *run(void *arg)
{
	struct loop *loop = arg;
	struct epoll_event events[EVENTS_PER_BATCH];

	/* Looks at the child of a hand-off are tens of microseconds apart; the default slack is 50.
	 */
	prctl(PR_SET_TIMERSLACK, 1);
	while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE)) {
		int n = wait_events(loop, events, EVENTS_PER_BATCH);
		uint64_t now = now_ns();
		unsigned before = conn_unsettled(&loop->owner);

		for (int i = 0; i < n; i++)
			handle_event(loop, &events[i], now);
		run_timers(loop, now);
		loop->relay_reap_ns = relay_worker_reap(&loop->owner.relay, now);
		conn_reap(&loop->owner);
		/* While draining the main thread waits for the last of them. */
		if (loop->owner.draining && before && !conn_unsettled(&loop->owner))
			notify(loop);
		/* The main thread may have looked when one was between two states. */
		if (__atomic_load_n(&loop->retire, __ATOMIC_ACQUIRE) && !loop->retired &&
		    !conn_unsettled(&loop->owner))
			retire(loop);
	}
	return NULL;
}

int loop_new(const struct loop_config *config, struct loop **ret_loop, char *error,
	     size_t error_size)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (!loop)
		return -ENOMEM;
	loop->ref_listener = REF_LISTENER;
	loop->ref_wake = REF_WAKE;
	loop->ref_early = REF_EARLY;
	loop->notify_fd = config->notify_fd;
	loop->owner.routes = config->routes;
	loop->owner.sniffer = config->index;
	loop->relay_reap_ns = UINT64_MAX;
	loop->retired = true;
	loop->wake_fd = loop->owner.epoll_fd = loop->listener_fd = loop->spare_fd = -1;
	snprintf(error, error_size, "a worker could not be started (memory, descriptors)");
	err = -ENOMEM;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->spare_fd = spare_fd();
	loop->owner.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->wake_fd < 0 || loop->spare_fd < 0 || loop->owner.epoll_fd < 0 ||
	    watch(loop, loop->wake_fd, &loop->ref_wake) < 0)
		goto fail;
	err = conn_owner_init(&loop->owner);
	if (err)
		goto fail;
	err = thread_start(&loop->thread, run, loop);
	if (err)
		goto fail;
	loop->started = true;
	*ret_loop = loop;
	return 0;
fail:
	loop_free(loop);
	return err;
}

static void tell(struct loop *loop)
{
	eventfd_write(loop->wake_fd, 1);
}

int loop_begin(struct loop *loop, struct steer *steer, struct guards *guards, int sniffer_fd,
	       char *error, size_t error_size)
{
	struct handoff_worker *handoff = NULL;
	bool hears = guards && loop->owner.sniffer == 0;
	int err = guards ? handoff_worker_new(guards, &handoff) : 0;

	if (!err && hears)
		err = watch(loop, guards_early_fd(guards), &loop->ref_early);
	if (err) {
		handoff_worker_free(handoff);
		snprintf(error, error_size, "what hands off could not be made: %s", strerror(-err));
		close(sniffer_fd);
		return err;
	}
	loop->next.listener_fd = sniffer_fd;
	loop->next.handoff = handoff;
	loop->next.steer = steer;
	loop->next.guards = hears ? guards : NULL;
	__atomic_store_n(&loop->drain, false, __ATOMIC_RELAXED);
	__atomic_store_n(&loop->drained, false, __ATOMIC_RELAXED);
	__atomic_store_n(&loop->retire, false, __ATOMIC_RELAXED);
	__atomic_store_n(&loop->begin, true, __ATOMIC_RELEASE);
	tell(loop);
	return 0;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->started) {
		__atomic_store_n(&loop->stop, true, __ATOMIC_RELEASE);
		tell(loop);
		pthread_join(loop->thread, NULL);
	}
	if (loop->begin) {
		close(loop->next.listener_fd);
		handoff_worker_free(loop->next.handoff);
	}
	conn_close_all(&loop->owner);
	timers_free(&loop->owner.timers);
	handoff_worker_free(loop->handoff);
	if (loop->listener_fd >= 0)
		close(loop->listener_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->spare_fd >= 0)
		close(loop->spare_fd);
	if (loop->lacks_spare)
		__atomic_fetch_sub(&haste.n_lacking, 1, __ATOMIC_RELAXED);
	if (loop->owner.epoll_fd >= 0)
		close(loop->owner.epoll_fd);
	free(loop);
}

void loop_drain(struct loop *loop, bool draining)
{
	__atomic_store_n(&loop->drained, false, __ATOMIC_RELEASE);
	__atomic_store_n(&loop->drain, draining, __ATOMIC_RELEASE);
	tell(loop);
}

bool loop_drained(const struct loop *loop)
{
	return __atomic_load_n(&loop->drained, __ATOMIC_ACQUIRE);
}

void loop_retire(struct loop *loop)
{
	__atomic_store_n(&loop->retire, true, __ATOMIC_RELEASE);
	tell(loop);
}

bool loop_retired(const struct loop *loop)
{
	return __atomic_load_n(&loop->retired, __ATOMIC_ACQUIRE);
}

void loop_kill(struct loop *loop)
{
	__atomic_store_n(&loop->kill, true, __ATOMIC_RELEASE);
	tell(loop);
}

void loop_ping(struct loop *loop)
{
	__atomic_fetch_add(&loop->pings, 1, __ATOMIC_RELEASE);
	tell(loop);
}

bool loop_alive(const struct loop *loop)
{
	return __atomic_load_n(&loop->pongs, __ATOMIC_ACQUIRE) ==
	       __atomic_load_n(&loop->pings, __ATOMIC_ACQUIRE);
}

unsigned loop_unsettled(const struct loop *loop)
{
	return conn_unsettled(&loop->owner);
}

unsigned loop_relayed(const struct loop *loop)
{
	return __atomic_load_n(&loop->owner.in_state[CONN_RELAYING], __ATOMIC_RELAXED);
}

void loop_numbers_add(const struct loop *loop, struct loop_numbers *sum)
{
	for (int i = 0; i < CONN_COUNTER_COUNT; i++)
		sum->counters[i] += __atomic_load_n(&loop->owner.counters[i], __ATOMIC_RELAXED);
	for (int i = 0; i < RELAY_REASONS; i++)
		sum->reasons[i] += __atomic_load_n(&loop->owner.reasons[i], __ATOMIC_RELAXED);
	for (int i = 0; i < CONN_STATES; i++)
		sum->in_state[i] += __atomic_load_n(&loop->owner.in_state[i], __ATOMIC_RELAXED);
}
