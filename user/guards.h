/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's half of a hand-off: loads handoff.bpf.c, guards devices, runs its programs. */
#ifndef GUARDS_H
#define GUARDS_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "guard_devices.h"
#include "shared_maps.h"
#include "steer_shared.h"

struct guards;

extern const char *const guard_counter_names[GUARD_COUNTER_COUNT];
/* What a seize_result means, as a phrase for "status" and the log. */
extern const char *const seize_texts[SEIZE_RESULTS];

/*
 * Loads the programs: this is how it is found out whether the kernel can hand off. Nothing is
 * attached yet. @maps: those that they share with the steering program; NULL: none. Returns 0, or
 * -errno with one line in @error.
 */
int guards_new(struct guards **ret_guards, const struct shared_maps *maps, char *error,
	       size_t error_size);

/*
 * Begins to guard the devices that connections will probably come by: those that any came by in the
 * last window, or else devices_expected(). A thread of its own does it. To attach to a device takes
 * some ten milliseconds, an RCU grace period for each direction, tcx_entry_sync(), with the
 * kernel's lock of all devices held. The first connection that needs the device would have to wait
 * for that. @wait: returns when it is done. What fails is tried again for the first
 * connection. Until guards_reset() a second call does nothing.
 */
void guards_prepare(struct guards *guards, bool wait);

/* Detaches from all devices. No other thread may use it meanwhile, and no connection be guarded. */
void guards_reset(struct guards *guards);

/* Detaches from all devices and unloads. NULL is fine. */
void guards_free(struct guards *guards);

/* Can they read ClientHellos on their way? Not where handshakes can't be ended: user/requests.c. */
bool guards_can_read(const struct guards *guards);

/* There are @n_ports ports with an early lease, see steer_lease(). */
void guards_read(struct guards *guards, unsigned n_ports);

/* Becomes readable when the guard has taken a connection early. */
int guards_early_fd(const struct guards *guards);

/*
 * Calls @each for what it has taken since; if that is much, for some of it, and the descriptor
 * stays readable. One thread.
 */
void guards_early_events(struct guards *guards,
			 void (*each)(void *ctx, const struct early_event *event), void *ctx);

/* requests_end(); the thread of guards_early_events(). */
int guards_end_request(struct guards *guards, const struct flow_key *key, unsigned ifindex);

/* Tells where to adopt back to: as steer_set_sniffer(). */
int guards_set_sniffer(struct guards *guards, unsigned index, int fd);

/*
 * Could a client of this family be handed off to whoever listens at @target now? SEIZE_OK, or what
 * is in the way. *ret_err: 0, or -errno of the test-run.
 */
enum seize_result guards_preflight(struct guards *guards, bool v4_client,
				   const struct endpoint *target, int *ret_err);

/*
 * The device that a connection comes by, with the guard on it: attached now if it was not yet. Any
 * thread; for how long the result is valid, guard_devices_get() says. NULL with -errno in *ret_err
 * when it can't be attached.
 */
const struct guards_device *guards_device(struct guards *guards, unsigned ifindex, int *ret_err);

/* guard_devices_look(). The thread that opens and closes windows, now and then. */
void guards_look_at_devices(struct guards *guards);

/* Runs handoff_seize on device @ifindex. 0 or -errno; the answer is in the block. */
int guards_seize(struct guards *guards, struct seize_block *block, unsigned ifindex);

/* Lets @frame arrive on the device with skb->mark @mark. 0, or -errno when it surely did not. */
int guards_inject(struct guards *guards, const struct guards_device *device, const uint8_t *frame,
		  size_t len, uint32_t mark);

/*
 * Lets a segment of the client's, @frame, arrive on the device with MARK_INJECT, and looks at once
 * if that was all, as guards_commit() would. Returns an enum replay_result, or -errno. *ret_n_held,
 * when it is REPLAY_DONE: as commit_block.n_held.
 */
int guards_replay(struct guards *guards, const struct guards_device *device, const uint8_t *frame,
		  size_t len, uint32_t *ret_n_held);

/* @fd, a connection that a sniffer accepted, stays with this process: guard_socket is taken off. */
void guards_let_be(int fd);

/*
 * Up to which sequence number (*ret_end) the kernel has given the client's bytes to the socket with
 * @cookie, or is about to. With a guard entry there it goes no further: later packets are held.
 * False: not known.
 */
bool guards_passed(const struct guards *guards, uint64_t cookie, uint32_t *ret_end);

/* Takes packet @number of those that are held for a connection. 0 or -ENOENT. */
int guards_take_held(struct guards *guards, const struct flow_key *key, uint32_t number,
		     struct held *ret_held);

/*
 * Runs handoff_commit on device @ifindex, where the connection's packets come in: a socket that is
 * bound to a device is not found from another. 0 or -errno; the answer is in the block.
 */
int guards_commit(struct guards *guards, struct commit_block *block, unsigned ifindex);

/* Entries that exist now: connections in the gap. */
unsigned guards_count(const struct guards *guards);

/* Sums over the CPUs. */
void guards_counters(struct guards *guards, uint64_t ret_counters[GUARD_COUNTER_COUNT]);

#endif
