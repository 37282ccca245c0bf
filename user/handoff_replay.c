// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a hand-off says in the client's name, on the device that its packets come in by: the bytes
 * that the old socket had, and what was held in the gap; and in the old socket's, if that fails.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "handoff_parts.h"
#include "util.h"

#define SEGMENTS_AT_ONCE 4  /* of a ClientHello, mostly; more go in bursts */
#define BURST_SEGMENTS	 48 /* replayed before the new socket is looked at again */

/* Sends a frame's IP packet through a raw socket. 0 or -errno. */
static int raw_send(const struct handoff_worker *worker, const struct handoff_job *job,
		    const uint8_t *frame, size_t len, const struct endpoint *to, uint32_t mark)
{
	struct sockaddr_storage sa;
	socklen_t sa_len;
	bool v4 = endpoint_is_v4(&job->local);

	if (v4) {
		struct sockaddr_in *sin = (struct sockaddr_in *)&sa;

		*sin = (struct sockaddr_in){ .sin_family = AF_INET };
		memcpy(&sin->sin_addr, &to->addr.s6_addr[12], 4);
		sa_len = sizeof(*sin);
	} else {
		struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)&sa;

		*sin6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
					       .sin6_addr = to->addr,
					       .sin6_scope_id = to->scope_id };
		sa_len = sizeof(*sin6);
	}
	setsockopt(worker->raw[v4 ? 0 : 1], SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	if (sendto(worker->raw[v4 ? 0 : 1], frame + SEGMENT_ETHERNET_LEN,
		   len - SEGMENT_ETHERNET_LEN, 0, (struct sockaddr *)&sa, sa_len) < 0)
		return -errno;
	return 0;
}

/* On lo IPv4 does: a packet from a local address that did not leave by lo is a martian. */
static bool needs_raw(const struct handoff_job *job)
{
	return job->device->ifindex == 1 && endpoint_is_v4(&job->local);
}

/* Lets a frame arrive on the device that the client's packets come in by. */
static int inject(const struct handoff_worker *worker, const struct handoff_job *job, size_t len,
		  uint32_t mark)
{
	if (needs_raw(job))
		return raw_send(worker, job, worker->frame, len, &job->local, mark);
	return guards_inject(worker->guards, job->device, worker->frame, len, mark);
}

/* Fills in a segment of the client's, but for what it carries. */
static struct segment client_segment(const struct handoff_job *job, uint64_t now)
{
	const struct guard *guard = &job->guard;
	uint64_t unit = guard->options & OPTION_USEC_TS ? NSEC_PER_USEC : NSEC_PER_MSEC;
	uint32_t window = job->snd_wnd >> guard->snd_wscale;

	return (struct segment){
		.key = &job->key,
		.mac = job->device->mac,
		.ack = job->guard.snd_nxt,
		.window = (uint16_t)MIN(window, UINT16_MAX),
		.timestamps = guard->options & OPTION_TSTAMP,
		.tsval = guard->ts_recent,
		.tsecr = (uint32_t)(now / unit) + guard->tsoffset,
	};
}

/*
 * Makes worker.frame what the client sent from sequence number @seq on, one segment. The frame's
 * length, or 0; *ret_len: how much of the sequence it is.
 */
static size_t client_frame(struct handoff_worker *worker, const struct handoff_job *job,
			   uint32_t seq, uint64_t now, uint32_t *ret_len)
{
	size_t offset = (uint32_t)(seq - job->guard.first_seq);
	size_t room = MIN(job->device->mtu, FRAME_MAX) - 40 - 32;
	struct segment segment = client_segment(job, now);

	if (offset > job->len)
		offset = job->len;
	segment.seq = seq;
	segment.payload = job->bytes + offset;
	segment.len = MIN(room, job->len - offset);
	segment.fin = job->fin && offset + segment.len == job->len;
	*ret_len = (uint32_t)segment.len + segment.fin;
	return segment_build(&segment, worker->frame, sizeof(worker->frame));
}

void replay_first(struct handoff_worker *worker, struct handoff_job *job, uint64_t now)
{
	uint32_t unused;
	size_t len = client_frame(worker, job, job->guard.first_seq, now_ns(), &unused);

	/* A failure is seen as a segment that nobody saw, and repeated. */
	if (len && inject(worker, job, len, MARK_INJECT) == 0)
		job->injections++;
	job->injected_ns = now;
}

void replay_rest(struct handoff_worker *worker, const struct handoff_job *job, uint32_t seq)
{
	for (int i = 0; i < BURST_SEGMENTS && (int32_t)(job->guard.rcv_nxt - seq) > 0; i++) {
		uint32_t n;
		size_t len = client_frame(worker, job, seq, now_ns(), &n);

		if (!n || !len || inject(worker, job, len, MARK_INJECT) < 0)
			return;
		seq += n;
	}
}

void replay_held(struct handoff_worker *worker, struct handoff_job *job, uint32_t n)
{
	struct held held;

	for (; job->held_taken < MIN(n, HELD_PER_GUARD); job->held_taken++) {
		size_t len;

		if (guards_take_held(worker->guards, &job->key, job->held_taken, &held) < 0 ||
		    held.cookie != job->cookie)
			continue;
		len = segment_from_held(&held, job->device->mac, worker->frame,
					sizeof(worker->frame));
		/* If it fails the client sends it again. */
		if (len)
			inject(worker, job, len, MARK_HELD);
	}
	job->held_taken = n;
}

bool replay_and_commit(struct handoff_worker *worker, struct handoff_job *job)
{
	uint32_t seq = job->guard.first_seq, n, n_held;
	int r = REPLAY_TAKEN;

	if (needs_raw(job)) {
		replay_first(worker, job, job->began_ns);
		return false;
	}
	job->injected_ns = job->began_ns;
	for (int i = 0; i < SEGMENTS_AT_ONCE && r == REPLAY_TAKEN; i++, seq += n) {
		size_t len = client_frame(worker, job, seq, job->began_ns, &n);

		r = len ? guards_replay(worker->guards, job->device, worker->frame, len, &n_held)
			: REPLAY_FAILED;
		if (i == 0 && (r == REPLAY_INJECTED || r == REPLAY_TAKEN))
			job->injections++;
	}
	if (r != REPLAY_DONE)
		return false;
	replay_held(worker, job, n_held);
	return true;
}

void replay_reset(struct handoff_worker *worker, const struct handoff_job *job)
{
	struct flow_key reverse = { .remote_port = job->key.local_port,
				    .local_port = job->key.remote_port };
	struct segment reset = { .key = &reverse,
				 .mac = job->device->mac,
				 .seq = job->guard.snd_nxt,
				 .ack = job->guard.rcv_nxt,
				 .rst = true };
	size_t len;

	memcpy(reverse.remote, job->key.local, 16);
	memcpy(reverse.local, job->key.remote, 16);
	len = segment_build(&reset, worker->frame, sizeof(worker->frame));
	/* Without the mark: to a client on this host it is a packet like any other. */
	if (len)
		raw_send(worker, job, worker->frame, len, &job->remote, 0);
}
