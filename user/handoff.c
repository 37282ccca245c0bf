// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hands a live TCP connection off to another listener.
 *
 *   seize    the kernel's side checks target and connection, and freezes it: from here a guard
 *            entry holds back what the client sends and what the old socket would answer.
 *   peek     all bytes that the old socket has acknowledged: only we have them now. What reaches it
 *            later is held at its door.
 *   let go   TCP_REPAIR and close(): the old socket goes without FIN or RST. The way back ends here:
 *            whatever fails later is tried again until it works or HANDOFF_DEADLINE_NS is over.
 *   replay   the first segment is injected, and guard_ingress gives it to the target's listener. The
 *            rest follows when the new socket is seen, from its own rcv_nxt on.
 *   commit   the new socket has everything: the guard entry goes. For the first segments replay and
 *            commit are one call.
 *
 * A connection for which the new socket is not there at once is pending: packets may take the way
 * over another CPU (RPS), the accept queue may have filled up meanwhile, the new socket's window
 * may be smaller than what is to be replayed. It is looked at again at job.next_ns. If the target's
 * listener has gone meanwhile, our own sniffer adopts it back, and all begins anew.
 *
 * A connection that the guard took before its handshake was over (bpf/early.h) has no old socket,
 * but the kernel's request: that is ended, and our own sniffer adopts it in the same way.
 *
 * handoff_replay.c says what the client said; this file, when, and what follows.
 *
 * What never happens: a guard entry goes while the new socket lacks bytes; two new sockets.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "handoff_parts.h"
#include "primer.h"
#include "util.h"

/* include/net/tcp_states.h */
#define STATE_ESTABLISHED 1
#define STATE_SYN_RECV	  3
#define STATE_CLOSE_WAIT  8

#define SCRATCH_SIZE	 (256u << 10) /* grows when a client has sent more */
#define SCRATCH_SPARE	 (64u << 10)
#define SEIZE_TRIES	 5    /* netfilter, a device to be guarded first, perhaps two */
#define LATE_NS		 (50 * NSEC_PER_USEC) /* for a packet that was noted and has not come, at once */
#define LATEST_NS	 (50 * NSEC_PER_MSEC) /* and in all */
#define BURSTS		 64   /* of segments, before other connections get their turn */
#define FIRST_LOOK_NS	 (20 * NSEC_PER_USEC)
#define LONGEST_LOOK_NS	 (50 * NSEC_PER_MSEC)
#define PARK_NS		 (20 * NSEC_PER_MSEC) /* then packets in the gap are dropped, not parked */
#define LOST_PACKET_NS	 (50 * NSEC_PER_MSEC) /* an injected segment that nobody saw by then */
#define FIRST_RETRY_NS	 (5 * NSEC_PER_MSEC)
#define LONGEST_RETRY_NS (100 * NSEC_PER_MSEC)
#define PRIMINGS	 8 /* then it is tried without */
#define GO_BACK_NS	 (500 * NSEC_PER_MSEC) /* no listener for so long: adopt back */

static int raw_socket(int family)
{
	const int one = 1;
	_cleanup_close_ int fd =
		socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW);

	if (fd < 0)
		return -errno;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &one, sizeof(one)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int handoff_worker_new(struct guards *guards, struct handoff_worker **ret_worker)
{
	struct handoff_worker *worker = calloc(1, sizeof(*worker));
	int err;

	if (!worker)
		return -ENOMEM;
	worker->guards = guards;
	worker->raw[1] = -1;
	worker->raw[0] = err = raw_socket(AF_INET);
	if (err < 0)
		goto fail;
	worker->raw[1] = err = raw_socket(AF_INET6);
	if (err == -EAFNOSUPPORT)
		worker->raw[1] = -1; /* a host without IPv6 */
	else if (err < 0)
		goto fail;
	worker->scratch_size = SCRATCH_SIZE;
	worker->scratch = malloc(worker->scratch_size);
	err = -ENOMEM;
	if (!worker->scratch)
		goto fail;
	*ret_worker = worker;
	return 0;
fail:
	handoff_worker_free(worker);
	return err;
}

void handoff_worker_free(struct handoff_worker *worker)
{
	if (!worker)
		return;
	for (int i = 0; i < 2; i++)
		if (worker->raw[i] >= 0)
			close(worker->raw[i]);
	conntrack_close(&worker->conntrack);
	free(worker->scratch);
	free(worker);
}

static void held_drop(struct handoff_worker *worker, const struct handoff_job *job, uint32_t n)
{
	struct held held;

	for (uint32_t i = 0; i < MIN(n, HELD_PER_GUARD); i++)
		guards_take_held(worker->guards, &job->key, i, &held);
}

/* We can't do any more for it: the client is told, in the old socket's name. */
static void give_up(struct handoff_worker *worker, struct handoff_job *job)
{
	struct commit_block block = { .key = job->key, .flags = COMMIT_GIVE_UP };

	guards_commit(worker->guards, &block, job->device->ifindex);
	replay_reset(worker, job);
	held_drop(worker, job, block.n_held);
}

/* Nothing happened to the connection after all: the guard entry goes, the old socket stays. */
static void unfreeze(struct handoff_worker *worker, struct handoff_job *job)
{
	struct commit_block block = { .key = job->key, .flags = COMMIT_GIVE_UP };

	guards_commit(worker->guards, &block, job->device->ifindex);
	replay_held(worker, job, block.n_held);
}

/* The same, on a device that has gone, and so has the client. */
static void let_be(struct handoff_worker *worker, struct handoff_job *job)
{
	struct commit_block block = { .key = job->key, .flags = COMMIT_GIVE_UP };

	guards_commit(worker->guards, &block, 0);
	held_drop(worker, job, block.n_held);
}

/*
 * Runs the seizing program until it has an answer that is not about devices. Where netfilter has
 * something to say it wants to know first if that changes the connection's addresses.
 */
static int seize(struct handoff_worker *worker, struct handoff_job *job, struct seize_block *block,
		 int fd)
{
	unsigned ifindex = job->local.scope_id ? job->local.scope_id : worker->ifindex;
	int err;

	for (int i = 0; i < SEIZE_TRIES; i++) {
		if (worker->filtered && !block->untranslated)
			block->untranslated = !translated(&worker->conntrack, fd,
							  &job->remote, &job->local);
		block->result = SEIZE_GONE;
		err = guards_seize(worker->guards, block, ifindex);
		if (err == -ENODEV && ifindex) {
			/* The device of an earlier connection, which has gone meanwhile. */
			worker->ifindex = ifindex = 0;
			continue;
		}
		if (err)
			return err;
		if (block->result == SEIZE_TRANSLATED && !worker->filtered) {
			worker->filtered = true;
			continue;
		}
		worker->filtered = block->filtered;
		if (block->result != SEIZE_DEVICE)
			break;
		ifindex = block->ifindex;
		if (!guards_device(worker->guards, ifindex, &err) ||
		    (block->ifindex_out &&
		     !guards_device(worker->guards, block->ifindex_out, &err)))
			break;
	}
	worker->ifindex = ifindex;
	job->result = block->result;
	if (block->result == SEIZE_OK)
		job->device = guards_device(worker->guards, block->ifindex, &err);
	if (block->result == SEIZE_OK && !job->device) {
		let_be(worker, job);
		job->result = SEIZE_GONE;
	}
	return 0;
}

/* Does its client still wait for an answer? */
static bool is_alive(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
	       (info.tcpi_state == STATE_ESTABLISHED || info.tcpi_state == STATE_SYN_RECV ||
		info.tcpi_state == STATE_CLOSE_WAIT);
}

static enum handoff_answer seize_answer(enum seize_result result)
{
	switch (result) {
	case SEIZE_GONE:
		return HANDOFF_GONE;
	case SEIZE_NO_LISTENER:
	case SEIZE_QUEUE_FULL:
	case SEIZE_UNORDERED:
	case SEIZE_FULL:
		return HANDOFF_AGAIN;
	default:
		return HANDOFF_REFUSED;
	}
}

/* Room for @len bytes and some that may have come meanwhile. 0 or -errno. */
static int scratch_reserve(struct handoff_worker *worker, size_t len)
{
	uint8_t *bigger;

	if (len > HANDOFF_MAX_BYTES)
		return -E2BIG;
	if (len + SCRATCH_SPARE <= worker->scratch_size)
		return 0;
	bigger = realloc(worker->scratch, len + SCRATCH_SPARE);
	if (!bigger)
		return -ENOMEM;
	worker->scratch = bigger;
	worker->scratch_size = len + SCRATCH_SPARE;
	return 0;
}

/*
 * Makes job.bytes all that the old socket has. It may be more than it has acknowledged: a packet
 * that had passed guard_ingress when the entry appeared. That the client would send again, after a
 * timeout; replayed it need not. 0 or -errno.
 */
static int peek(struct handoff_worker *worker, struct handoff_job *job, int fd)
{
	int err = scratch_reserve(worker, job->len);
	ssize_t n;

	if (err)
		return err;
	n = recv(fd, worker->scratch, worker->scratch_size, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0)
		n = errno == EAGAIN ? 0 : -errno;
	if (n < 0)
		return (int)n;
	if ((size_t)n < job->len)
		return -EIO;
	/* What came behind a FIN can't be data. */
	if (!job->fin)
		job->len = (size_t)n;
	job->bytes = worker->scratch;
	return 0;
}

/*
 * The same, with what was about to get there when the entry appeared: its CPU may have been
 * interrupted, or not be there for a while, being virtual. -EAGAIN: it has not come yet.
 */
static int peek_all(struct handoff_worker *worker, struct handoff_job *job, int fd)
{
	uint64_t until = 0;

	for (;;) {
		int err = peek(worker, job, fd);
		uint32_t end, have = job->guard.first_seq + (uint32_t)job->len + job->fin;
		uint64_t now;

		if (err || !guards_passed(worker->guards, job->cookie, &end) ||
		    (int32_t)(end - have) <= 0)
			return err;
		now = now_ns();
		if (!until) {
			until = now + LATE_NS;
			if (end != job->late_end)
				job->late_since_ns = now;
			job->late_end = end;
		}
		/* It never comes: the socket would not have it. */
		if (now - job->late_since_ns > LATEST_NS)
			return 0;
		if (now > until)
			return -EAGAIN;
	}
}

/* Then close() sends nothing. 0 or -errno. Bytes can't be peeked at any more. */
static int repair_on(int fd)
{
	const int on = TCP_REPAIR_ON;

	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0 ? -errno : 0;
}

static void key_fill(struct flow_key *key, const struct endpoint *remote,
		     const struct endpoint *local)
{
	memcpy(key->remote, &remote->addr, 16);
	memcpy(key->local, &local->addr, 16);
	key->remote_port = htons(remote->port);
	key->local_port = htons(local->port);
}

/* After a step: pending jobs own their bytes, others have none. */
static enum handoff_answer settle(struct handoff_worker *worker, struct handoff_job *job,
				  enum handoff_answer answer, bool bytes_owned)
{
	uint8_t *copy;

	if (answer != HANDOFF_PENDING) {
		if (bytes_owned)
			free(job->bytes);
		job->bytes = NULL;
		return answer;
	}
	if (bytes_owned)
		return answer;
	copy = malloc(job->len + 1);
	if (!copy) {
		give_up(worker, job);
		return HANDOFF_LOST;
	}
	if (job->len)
		memcpy(copy, job->bytes, job->len);
	job->bytes = copy;
	return answer;
}

/* The new socket is not there (yet). */
static void wait_for_child(struct handoff_worker *worker, struct handoff_job *job,
			   const struct commit_block *block, uint64_t now)
{
	bool seen = block->seen >= job->injections;
	uint64_t since = now - job->injected_ns;

	if (!seen && since < LOST_PACKET_NS)
		return;
	/* Seen by guard_ingress and no socket: its accept queue was full, or there is no listener.
	 */
	if (seen && since < job->backoff_ns)
		return;
	if (seen && block->adopt_error && now - job->began_ns > GO_BACK_NS)
		job->went_back = true;
	job->backoff_ns = MIN(job->backoff_ns * 2, LONGEST_RETRY_NS);
	job->injections = block->seen;
	replay_first(worker, job, now);
}

/* The segment was seen, but NAT would have taken its new socket away: again, on a primed CPU. */
static bool prime(struct handoff_worker *worker, struct handoff_job *job,
		  const struct commit_block *block, uint64_t now)
{
	if (block->adopt_error != ADOPT_UNPRIMED || block->seen < job->injections ||
	    job->primings >= PRIMINGS)
		return false;
	job->primings++;
	primer_run(block->adopt_cpu, endpoint_is_v4(&job->local));
	job->injections = block->seen;
	replay_first(worker, job, now);
	return true;
}

/* Looks at the new socket as long as that helps. */
static enum handoff_answer advance(struct handoff_worker *worker, struct handoff_job *job,
				   uint64_t now)
{
	uint32_t got = 0;

	for (int i = 0; i < BURSTS; i++) {
		struct commit_block block = { .key = job->key,
					      .result = COMMIT_NO_CHILD,
					      .n_held = job->held_taken };

		if (job->held_taken)
			block.flags |= COMMIT_RELEASE;
		if (now - job->began_ns > PARK_NS)
			block.flags |= COMMIT_STOP_PARKING;
		if (job->went_back)
			block.flags |= COMMIT_TO_SNIFFER;
		if (job->primings >= PRIMINGS)
			block.flags |= COMMIT_UNPRIMED;
		if (guards_commit(worker->guards, &block, job->device->ifindex) < 0)
			break;
		if (block.result == COMMIT_DONE || block.result == COMMIT_NO_GUARD) {
			replay_held(worker, job, block.n_held);
			return HANDOFF_DONE;
		}
		if (block.result == COMMIT_HELD) {
			/* Once: the new socket acknowledges these, and so the client sends more. */
			replay_held(worker, job, block.n_held);
			continue;
		}
		if (block.result == COMMIT_NO_CHILD) {
			if (prime(worker, job, &block, now))
				continue;
			if (i > 0)
				break;
			wait_for_child(worker, job, &block, now);
			break;
		}
		/* No progress since the last burst: its window is full, or the packets are on the
		 * way. */
		if (i > 0 && block.rcv_nxt == got)
			break;
		got = block.rcv_nxt;
		replay_rest(worker, job, got);
	}
	if (now - job->began_ns > HANDOFF_DEADLINE_NS) {
		give_up(worker, job);
		return HANDOFF_LOST;
	}
	/* The longer it takes, the less often it is looked at. */
	job->next_ns = now + MIN(MAX((now - job->began_ns) / 4, FIRST_LOOK_NS), LONGEST_LOOK_NS);
	return HANDOFF_PENDING;
}

/* It is in neither socket from now on. */
static void begin(struct handoff_job *job, uint64_t now)
{
	job->began_ns = now;
	job->backoff_ns = FIRST_RETRY_NS;
	job->injections = 0;
	job->held_taken = 0;
	job->primings = 0;
}

enum handoff_answer handoff_begin(struct handoff_worker *worker, struct handoff_job *job, int fd)
{
	struct seize_block block = { .cookie = job->cookie };
	enum handoff_answer answer;
	int err;

	key_fill(&job->key, &job->remote, &job->local);
	block.key = job->key;
	memcpy(block.guard.target, &job->target.addr, sizeof(block.guard.target));
	block.guard.target_port = htons(job->target.port);
	block.guard.sniffer = job->sniffer;
	err = seize(worker, job, &block, fd);
	if (err) {
		job->result = SEIZE_STATE;
		return HANDOFF_REFUSED;
	}
	/* Not found, but there: its handshake is not over (TCP Fast Open), or it is bound to a VRF. */
	if (job->result == SEIZE_GONE && is_alive(fd))
		job->result = SEIZE_STATE;
	if (job->result != SEIZE_OK)
		return seize_answer(job->result);

	job->guard = block.guard;
	job->held_taken = 0;
	job->snd_wnd = block.snd_wnd;
	job->fin = block.state == STATE_CLOSE_WAIT;
	job->len = block.guard.rcv_nxt - block.guard.first_seq - job->fin;
	err = peek_all(worker, job, fd);
	if (!err)
		err = repair_on(fd);
	if (err) {
		unfreeze(worker, job);
		job->bytes = NULL;
		job->result = err == -EAGAIN ? SEIZE_UNORDERED : SEIZE_STATE;
		if (err == -EAGAIN)
			return HANDOFF_AGAIN;
		return err == -ECONNRESET || err == -EPIPE ? HANDOFF_GONE : HANDOFF_REFUSED;
	}
	close(fd);

	begin(job, now_ns());
	job->went_back = false;
	answer = replay_and_commit(worker, job) ? HANDOFF_DONE
						: advance(worker, job, job->began_ns);
	return settle(worker, job, answer, false);
}

/* What handoff_begin() finds out by itself. False: its device has gone, and so its client. */
static bool read_event(struct handoff_worker *worker, struct handoff_job *job,
		       const struct early_event *event)
{
	int err;

	job->key = event->key;
	job->guard = event->guard;
	job->cookie = event->guard.cookie;
	job->sniffer = (uint16_t)event->guard.sniffer;
	job->snd_wnd = event->snd_wnd;
	job->bytes = worker->scratch; /* none of them */
	job->device = guards_device(worker->guards, event->ifindex, &err);
	return job->device;
}

void handoff_give_back(struct handoff_worker *worker, struct handoff_job *job,
		       const struct early_event *event)
{
	if (read_event(worker, job, event))
		unfreeze(worker, job);
	else
		let_be(worker, job);
	job->bytes = NULL;
}

enum handoff_answer handoff_adopt_early(struct handoff_worker *worker, struct handoff_job *job,
					const struct early_event *event, uint64_t now)
{
	if (!read_event(worker, job, event) ||
	    guards_end_request(worker->guards, &event->key, event->ifindex) < 0) {
		handoff_give_back(worker, job, event);
		return HANDOFF_REFUSED;
	}
	begin(job, now);
	job->went_back = true;
	replay_first(worker, job, now);
	return settle(worker, job, advance(worker, job, now), false);
}

enum handoff_answer handoff_continue(struct handoff_worker *worker, struct handoff_job *job,
				     uint64_t now)
{
	return settle(worker, job, advance(worker, job, now), true);
}
