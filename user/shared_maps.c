// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "shared_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>

#include "steer_shared.h"
#include "util.h"

int shared_maps_new(struct shared_maps *ret_maps)
{
	const struct bpf_map_create_opts mmapable = { .sz = sizeof(mmapable),
						      .map_flags = BPF_F_MMAPABLE };
	struct shared_maps maps = { .early_syns_fd = -1 };
	int err = 0;

	maps.leases_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "leases", sizeof(uint32_t),
					sizeof(uint64_t), LEASE_PORTS, &mmapable);
	if (maps.leases_fd >= 0)
		maps.early_syns_fd =
			bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "early_syns", sizeof(struct flow_key),
				       sizeof(struct early_syn), EARLY_SYNS_MAX, NULL);
	if (maps.early_syns_fd < 0) {
		err = -errno;
		shared_maps_close(&maps);
	}
	*ret_maps = maps;
	return err;
}

void shared_maps_close(struct shared_maps *maps)
{
	if (maps->leases_fd >= 0)
		close(maps->leases_fd);
	if (maps->early_syns_fd >= 0)
		close(maps->early_syns_fd);
	*maps = (struct shared_maps){ -1, -1 };
}

int shared_maps_use(const struct shared_maps *maps, struct bpf_map *leases,
		    struct bpf_map *early_syns)
{
	int err;

	if (!maps)
		return 0;
	err = bpf_map__reuse_fd(leases, maps->leases_fd);
	return err ? err : bpf_map__reuse_fd(early_syns, maps->early_syns_fd);
}
