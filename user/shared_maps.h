/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps that the steering program and the guard have in common: leases, and who is not steered. */
#ifndef SHARED_MAPS_H
#define SHARED_MAPS_H

struct bpf_map;

struct shared_maps {
	int leases_fd;	   /* bpf/leases.h */
	int early_syns_fd; /* bpf/early_syns.h */
};

/* 0, or -errno and both are -1. */
int shared_maps_new(struct shared_maps *ret_maps);

/* Programs that have been loaded with them keep them. */
void shared_maps_close(struct shared_maps *maps);

/*
 * Before a skeleton is loaded: has its own maps be these. NULL: it has some of its own. 0 or
 * -errno.
 */
int shared_maps_use(const struct shared_maps *maps, struct bpf_map *leases,
		    struct bpf_map *early_syns);

#endif
