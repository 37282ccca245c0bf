// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Loads and attaches steer.bpf.c; the lease. The only user of its skeleton.
 *
 * Nothing is pinned: the program, its maps and its link live as long as this process's descriptors,
 * so however the process ends, the port is as if it had never been there.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "bpf_util.h"
#include "log.h"
#include "steer.h"
#include "steer.skel.h"
#include "util.h"

struct steer {
	struct steer_bpf *bpf;
	struct bpf_link *link;
	uint64_t *leases; /* mapped: one for each port */
	unsigned n_early; /* of them */
};

#define COUNTER_NAME(id, name, text) name,
const char *const steer_counter_names[] = { STEER_COUNTERS(COUNTER_NAME) };
_Static_assert(ARRAY_SIZE(steer_counter_names) == STEER_COUNTER_COUNT, "a name for each counter");

int steer_new(unsigned n_sniffers, const struct shared_maps *maps, struct steer **ret_steer,
	      char *error, size_t error_size)
{
	struct steer *steer = calloc(1, sizeof(*steer));
	int err;

	if (!steer)
		return -ENOMEM;
	steer->leases = MAP_FAILED;
	bpf_util_quiet();
	steer->bpf = steer_bpf__open();
	if (!steer->bpf) {
		err = -errno;
		snprintf(error, error_size, "opening the steering program: %s", strerror(-err));
		goto fail;
	}
	steer->bpf->rodata->n_sniffers = n_sniffers;
	err = shared_maps_use(maps, steer->bpf->maps.leases, steer->bpf->maps.early_syns);
	if (!err)
		err = steer_bpf__load(steer->bpf);
	if (err) {
		snprintf(error, error_size, "loading the steering program: %s; %s", strerror(-err),
			 bpf_util_remedy(err));
		goto fail;
	}
	steer->leases = mmap(NULL, LEASE_PORTS * sizeof(uint64_t), PROT_READ | PROT_WRITE,
			     MAP_SHARED, bpf_map__fd(steer->bpf->maps.leases), 0);
	if (steer->leases == MAP_FAILED) {
		err = -errno;
		snprintf(error, error_size, "mapping the leases: %s", strerror(-err));
		goto fail;
	}
	*ret_steer = steer;
	return 0;
fail:
	steer_free(steer);
	return err;
}

void steer_free(struct steer *steer)
{
	if (!steer)
		return;
	bpf_link__destroy(steer->link);
	if (steer->leases != MAP_FAILED)
		munmap(steer->leases, LEASE_PORTS * sizeof(uint64_t));
	steer_bpf__destroy(steer->bpf);
	free(steer);
}

int steer_set_sniffer(struct steer *steer, unsigned index, int fd)
{
	uint64_t value = (uint64_t)fd;

	return bpf_map__update_elem(steer->bpf->maps.sniffers, &index, sizeof(index), &value,
				    sizeof(value), BPF_ANY);
}

void steer_lease(struct steer *steer, uint16_t port, uint64_t until_ns, bool early)
{
	uint64_t before;

	early = early && until_ns;
	until_ns = early ? until_ns | LEASE_EARLY : until_ns & ~LEASE_EARLY;
	before = __atomic_exchange_n(&steer->leases[port], until_ns, __ATOMIC_RELEASE);
	if ((before & LEASE_EARLY) != (until_ns & LEASE_EARLY))
		steer->n_early += early ? 1 : -1;
}

unsigned steer_early_ports(const struct steer *steer)
{
	return steer->n_early;
}

bool steer_is_leased(const struct steer *steer, uint16_t port)
{
	return __atomic_load_n(&steer->leases[port], __ATOMIC_RELAXED) != 0;
}

int steer_attach(struct steer *steer, char *error, size_t error_size)
{
	_cleanup_close_ int netns_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int err;

	if (steer->link)
		return 0;
	if (netns_fd >= 0)
		steer->link = bpf_program__attach_netns(steer->bpf->progs.steer, netns_fd);
	if (steer->link)
		return 0;
	err = -errno;
	snprintf(error, error_size, "attaching the steering program: %s; %s", strerror(-err),
		 bpf_util_remedy(err));
	return err;
}

void steer_detach(struct steer *steer)
{
	bpf_link__destroy(steer->link);
	steer->link = NULL;
}

void steer_reset(struct steer *steer)
{
	int sources = bpf_map__fd(steer->bpf->maps.relay_sources);
	struct relay_source key;

	steer_detach(steer);
	/* A window that was renewed without one of its ports has left that one's lease to run out.
	 */
	if (steer->n_early)
		memset(steer->leases, 0, LEASE_PORTS * sizeof(*steer->leases));
	steer->n_early = 0;
	memset((void *)steer->bpf->bss->syn_cookie_times, 0,
	       sizeof(steer->bpf->bss->syn_cookie_times));
	while (bpf_map_get_next_key(sources, NULL, &key) == 0)
		if (bpf_map_delete_elem(sources, &key) < 0)
			break;
}

/*
 * synchronize_rcu() by another name, for packets are looked up under rcu_read_lock(): the kernel
 * waits for one grace period when a map in a map is replaced, maybe_wait_bpf_programs(). (There is
 * membarrier(2), too, but not with nohz_full.)
 */
int steer_synchronize(void)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts);
	_cleanup_close_ int outer = -1;
	_cleanup_close_ int inner = -1;
	uint32_t zero = 0;

	inner = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, sizeof(zero), sizeof(zero), 1, NULL);
	if (inner < 0)
		return inner;
	opts.inner_map_fd = (uint32_t)inner;
	outer = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, NULL, sizeof(zero), sizeof(zero), 1,
			       &opts);
	return outer < 0 ? outer : bpf_map_update_elem(outer, &zero, &inner, BPF_ANY);
}

int steer_queue(struct steer *steer, unsigned index, unsigned *ret_accept, unsigned *ret_syn)
{
	struct queue_block block = { .sniffer = index };
	int err;

	bpf_util_run(bpf_program__fd(steer->bpf->progs.steer_queue), &block, sizeof(block), &block,
		     0, 0, &err);
	if (err)
		return err;
	if (!block.found)
		return -ENOENT;
	*ret_accept = block.accept_queue;
	*ret_syn = block.syn_queue;
	return 0;
}

int steer_cookies(struct steer *steer, const struct endpoint *address, unsigned ifindex,
		  struct syn_cookies_block *ret_block)
{
	int err;

	*ret_block = (struct syn_cookies_block){ .port = htons(address->port) };
	memcpy(ret_block->address, &address->addr, sizeof(ret_block->address));
	bpf_util_run(bpf_program__fd(steer->bpf->progs.steer_cookies), ret_block,
		     sizeof(*ret_block), ret_block, ifindex, 0, &err);
	return err;
}

struct syn_cookie_times *steer_syn_cookie_times(struct steer *steer, enum family family)
{
	return (struct syn_cookie_times *)&steer->bpf->bss->syn_cookie_times[family];
}

int steer_exempt(struct steer *steer, const struct endpoint *source, bool add)
{
	struct relay_source key = { .port_be = htons(source->port) };
	uint8_t one = 1;

	memcpy(key.addr, &source->addr, sizeof(key.addr));
	if (add)
		return bpf_map__update_elem(steer->bpf->maps.relay_sources, &key, sizeof(key), &one,
					    sizeof(one), BPF_NOEXIST);
	return bpf_map__delete_elem(steer->bpf->maps.relay_sources, &key, sizeof(key), 0);
}

void steer_counters(struct steer *steer, uint64_t ret_counters[STEER_COUNTER_COUNT])
{
	bpf_util_sum(bpf_map__fd(steer->bpf->maps.steer_counters), STEER_COUNTER_COUNT,
		     ret_counters);
}
