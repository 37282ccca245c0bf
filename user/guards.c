// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel's half of a hand-off. The only user of the skeleton of handoff.bpf.c.
 *
 * Devices are guarded when a window opens, as far as it can be told which will be used, and else
 * when the first connection that uses them is handed off. They stay so until the last window is
 * closed, or they go themselves: guard_devices.c.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "bpf_util.h"
#include "devices.h"
#include "guards.h"
#include "handoff.skel.h"
#include "log.h"
#include "requests.h"
#include "thread.h"
#include "util.h"

#define GUESSES_MAX    2 /* a default route of each family */
#define EXPECT_MAX     8
#define EVENTS_AT_ONCE 64 /* of the guard; then connections have their turn */

struct guards {
	struct handoff_bpf *bpf;
	/* What guards_prepare() does. */
	pthread_t thread;
	bool preparing; /* the thread has not been joined */
	bool prepared;
	bool stop; /* __atomic */
	size_t n_expected;
	unsigned expected[EXPECT_MAX];
	struct requests *requests;
	struct ring_buffer *early_ring; /* NULL: all connections are steered */
	void (*early_each)(void *ctx, const struct early_event *event);
	void *early_ctx;
	unsigned early_left; /* of EVENTS_AT_ONCE */
	struct guard_devices devices;
};

#define COUNTER_NAME(id, name, text) name,
const char *const guard_counter_names[] = { GUARD_COUNTERS(COUNTER_NAME) };
_Static_assert(ARRAY_SIZE(guard_counter_names) == GUARD_COUNTER_COUNT, "a name for each counter");

const char *const seize_texts[] = {
	[SEIZE_OK] = "ready",
	[SEIZE_GONE] = "the client is gone",
	[SEIZE_STATE] = "the connection is in a state that the kernel can't move",
	[SEIZE_UNORDERED] = "segments are missing",
	[SEIZE_DEVICE] = "a network device can't be guarded (tcx, Linux 6.6)",
	[SEIZE_NO_LISTENER] = "nobody listens there",
	[SEIZE_QUEUE_FULL] = "the accept queue is full",
	[SEIZE_MPTCP] = "the listener is MPTCP",
	[SEIZE_FAMILY] = "an IPv6 client, and the listener takes IPv4 only",
	[SEIZE_MSS] = "the client's MSS is below 536 (IPv4) or 1220 (IPv6)",
	[SEIZE_SYNCOOKIES] = "net.ipv4.tcp_syncookies is 0",
	[SEIZE_OPTIONS] = "a TCP option in use was switched off by sysctl meanwhile",
	[SEIZE_FULL] = "too many connections are between two sockets",
	[SEIZE_NO_REUSE] = "the listener lacks SO_REUSEADDR, and would bar the web server's port",
	[SEIZE_TRANSLATED] = "NAT on this host (DNAT or redirect, SNAT of what comes in)",
	[SEIZE_IPSEC] = "they come by an IPsec policy",
};
_Static_assert(ARRAY_SIZE(seize_texts) == SEIZE_RESULTS, "a text for each result");

static int early_event(void *ctx, void *data, size_t size)
{
	struct guards *guards = ctx;

	if (size >= sizeof(struct early_event))
		guards->early_each(guards->early_ctx, data);
	/* Less than 0: libbpf stops here, behind this one. */
	return --guards->early_left ? 0 : -EAGAIN;
}

/* Whatever fails: then every connection is steered. */
static void early_init(struct guards *guards)
{
	int err = requests_new(&guards->requests);

	if (err) {
		log_debug("handshakes can't be ended: %s; all connections are steered",
			  strerror(-err));
		return;
	}
	guards->early_ring = ring_buffer__new(bpf_map__fd(guards->bpf->maps.early_events),
					      early_event, guards, NULL);
}

int guards_new(struct guards **ret_guards, const struct shared_maps *maps, char *error,
	       size_t error_size)
{
	struct guards *guards = calloc(1, sizeof(*guards));
	int err;

	if (!guards)
		return -ENOMEM;
	err = guard_devices_init(&guards->devices);
	if (err) {
		snprintf(error, error_size, "a socket: %s", strerror(-err));
		goto fail;
	}
	bpf_util_quiet();
	guards->bpf = handoff_bpf__open();
	if (!guards->bpf) {
		err = -errno;
		snprintf(error, error_size, "opening the hand-off programs: %s", strerror(-err));
		goto fail;
	}
	err = shared_maps_use(maps, guards->bpf->maps.leases, guards->bpf->maps.early_syns);
	if (!err)
		err = handoff_bpf__load(guards->bpf);
	if (err) {
		snprintf(error, error_size, "%s",
			 err == -EPERM ? bpf_util_remedy(err)
				       : "hand-off needs Linux 6.9 or later (kfunc "
					 "bpf_sk_assign_tcp_reqsk, with CONFIG_SYN_COOKIES)");
		goto fail;
	}
	guards->devices.ingress = bpf_program__fd(guards->bpf->progs.guard_ingress);
	guards->devices.egress = bpf_program__fd(guards->bpf->progs.guard_egress);
	guards->devices.map = bpf_map__fd(guards->bpf->maps.guarded_devices);
	if (maps)
		early_init(guards);
	*ret_guards = guards;
	return 0;
fail:
	guards_free(guards);
	return err;
}

/* Joins the thread, if there is one. @now: it does not go on to its next device. */
static void prepare_end(struct guards *guards, bool now)
{
	__atomic_store_n(&guards->stop, now, __ATOMIC_RELAXED);
	if (guards->preparing)
		pthread_join(guards->thread, NULL);
	guards->preparing = false;
}

void guards_reset(struct guards *guards)
{
	prepare_end(guards, true);
	guards->prepared = false;
	guards->n_expected = guard_devices_reset(&guards->devices, guards->expected, EXPECT_MAX);
	guards->bpf->bss->n_early_ports = 0;
}

void guards_free(struct guards *guards)
{
	if (!guards)
		return;
	if (guards->bpf)
		guards_reset(guards);
	guard_devices_free(&guards->devices);
	ring_buffer__free(guards->early_ring);
	requests_free(guards->requests);
	handoff_bpf__destroy(guards->bpf);
	free(guards);
}

bool guards_can_read(const struct guards *guards)
{
	return guards->early_ring != NULL;
}

void guards_read(struct guards *guards, unsigned n_ports)
{
	__atomic_store_n(&guards->bpf->bss->n_early_ports, n_ports, __ATOMIC_RELEASE);
}

int guards_early_fd(const struct guards *guards)
{
	return bpf_map__fd(guards->bpf->maps.early_events);
}

void guards_early_events(struct guards *guards,
			 void (*each)(void *ctx, const struct early_event *event), void *ctx)
{
	if (!guards->early_ring)
		return;
	guards->early_each = each;
	guards->early_ctx = ctx;
	guards->early_left = EVENTS_AT_ONCE;
	ring_buffer__consume(guards->early_ring);
}

int guards_end_request(struct guards *guards, const struct flow_key *key, unsigned ifindex)
{
	return requests_end(guards->requests, key, ifindex);
}

int guards_set_sniffer(struct guards *guards, unsigned index, int fd)
{
	int program = bpf_program__fd(guards->bpf->progs.guard_socket);
	uint64_t value = (uint64_t)fd;

	/* What it accepts inherits that: sk_clone(). */
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) < 0)
		return -errno;
	return bpf_map__update_elem(guards->bpf->maps.own_sniffers, &index, sizeof(index), &value,
				    sizeof(value), BPF_ANY);
}

enum seize_result guards_preflight(struct guards *guards, bool v4_client,
				   const struct endpoint *target, int *ret_err)
{
	static const uint8_t v4_prefix[12] = { [10] = 0xff, [11] = 0xff };
	struct preflight_block block = { .target_port = htons(target->port),
					 .result = SEIZE_NO_LISTENER };

	if (v4_client)
		memcpy(block.remote, v4_prefix, sizeof(v4_prefix));
	memcpy(block.target, &target->addr, sizeof(block.target));
	bpf_util_run(bpf_program__fd(guards->bpf->progs.handoff_preflight), &block, sizeof(block),
		     &block, target->scope_id, 0, ret_err);
	return block.result;
}

const struct guards_device *guards_device(struct guards *guards, unsigned ifindex, int *ret_err)
{
	struct guards_device *device = guard_devices_get(&guards->devices, ifindex, ret_err);

	if (device && !__atomic_load_n(&device->used, __ATOMIC_RELAXED))
		__atomic_store_n(&device->used, true, __ATOMIC_RELAXED);
	return device;
}

static void *prepare(void *arg)
{
	struct guards *guards = arg;
	int err;

	if (!guards->n_expected)
		guards->n_expected = devices_expected(guards->expected, GUESSES_MAX);
	for (size_t i = 0; i < guards->n_expected; i++)
		if (!__atomic_load_n(&guards->stop, __ATOMIC_RELAXED))
			guard_devices_get(&guards->devices, guards->expected[i], &err);
	return NULL;
}

void guards_prepare(struct guards *guards, bool wait)
{
	if (guards->prepared)
		return;
	guards->prepared = true;
	guards->stop = false;
	guards->preparing = thread_start(&guards->thread, prepare, guards) == 0;
	if (wait)
		prepare_end(guards, false);
}

void guards_look_at_devices(struct guards *guards)
{
	guard_devices_look(&guards->devices);
}

int guards_seize(struct guards *guards, struct seize_block *block, unsigned ifindex)
{
	int err;

	block->ifindex = ifindex;
	bpf_util_run(bpf_program__fd(guards->bpf->progs.handoff_seize), block, sizeof(*block),
		     block, ifindex, 0, &err);
	return err;
}

int guards_inject(struct guards *guards, const struct guards_device *device, const uint8_t *frame,
		  size_t len, uint32_t mark)
{
	int err;
	int answer = bpf_util_run(bpf_program__fd(guards->bpf->progs.handoff_inject), frame, len,
				  NULL, device->ifindex, mark, &err);

	if (err)
		return err;
	return answer == 0 ? 0 : -EIO;
}

int guards_replay(struct guards *guards, const struct guards_device *device, const uint8_t *frame,
		  size_t len, uint32_t *ret_n_held)
{
	int err;
	int answer = bpf_util_run_twice(bpf_program__fd(guards->bpf->progs.handoff_replay), frame,
					len, device->ifindex, MARK_INJECT, &err);

	if (err || answer < REPLAY_DONE)
		return err ? err : answer;
	*ret_n_held = (uint32_t)answer - REPLAY_DONE;
	return REPLAY_DONE;
}

void guards_let_be(int fd)
{
	int unused = 0;

	setsockopt(fd, SOL_SOCKET, SO_DETACH_BPF, &unused, sizeof(unused));
}

bool guards_passed(const struct guards *guards, uint64_t cookie, uint32_t *ret_end)
{
	const __u64 *slot = &guards->bpf->bss->passed[PASSED_SLOT(cookie)];
	uint64_t noted = __atomic_load_n(slot, __ATOMIC_ACQUIRE);

	*ret_end = (uint32_t)noted;
	return noted && noted >> 32 == (uint32_t)cookie;
}

int guards_take_held(struct guards *guards, const struct flow_key *key, uint32_t number,
		     struct held *ret_held)
{
	struct held_key held_key = { .flow = *key, .number = number };

	return bpf_map__lookup_and_delete_elem(guards->bpf->maps.held, &held_key, sizeof(held_key),
					       ret_held, sizeof(*ret_held), 0);
}

int guards_commit(struct guards *guards, struct commit_block *block, unsigned ifindex)
{
	int err;

	bpf_util_run(bpf_program__fd(guards->bpf->progs.handoff_commit), block, sizeof(*block),
		     block, ifindex, 0, &err);
	/* The device has gone: the guard entry can be taken away from anywhere. */
	if (err == -ENODEV && ifindex)
		bpf_util_run(bpf_program__fd(guards->bpf->progs.handoff_commit), block,
			     sizeof(*block), block, 0, 0, &err);
	return err;
}

unsigned guards_count(const struct guards *guards)
{
	return __atomic_load_n(&guards->bpf->bss->n_guards, __ATOMIC_RELAXED);
}

void guards_counters(struct guards *guards, uint64_t ret_counters[GUARD_COUNTER_COUNT])
{
	bpf_util_sum(bpf_map__fd(guards->bpf->maps.guard_counters), GUARD_COUNTER_COUNT,
		     ret_counters);
}
