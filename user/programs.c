// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Loads the programs of both planes.
 *
 * Nearly all of the time goes into reading the kernel's BTF, which libbpf does for each object
 * anew: so both are loaded at once, and a resident process that stays keeps them for its next
 * window.
 */
#include "programs.h"

#include <string.h>

#include "log.h"
#include "thread.h"
#include "util.h"

/* What both are loaded with. */
struct loading {
	struct programs programs;
	struct shared_maps maps;
	bool sharing; /* else visitors are all steered */
};

/* Without it everything is relayed. */
static void *load_guards(void *arg)
{
	struct loading *loading = arg;
	struct programs *programs = &loading->programs;

	if (guards_new(&programs->guards, loading->sharing ? &loading->maps : NULL,
		       programs->no_handoff, sizeof(programs->no_handoff)) < 0)
		programs->guards = NULL;
	return NULL;
}

int programs_load(unsigned n_sniffers, struct programs *ret_programs, char *error,
		  size_t error_size)
{
	struct loading loading = {};
	struct programs programs;
	pthread_t thread;
	int no_thread, err;

	loading.sharing = shared_maps_new(&loading.maps) == 0;
	no_thread = thread_start(&thread, load_guards, &loading);
	err = steer_new(n_sniffers, loading.sharing ? &loading.maps : NULL, &loading.programs.steer,
			error, error_size);
	if (no_thread)
		load_guards(&loading);
	else
		pthread_join(thread, NULL);
	shared_maps_close(&loading.maps);
	programs = loading.programs;
	if (err) {
		programs_free(&programs);
		*ret_programs = (struct programs){};
		return err;
	}
	if (!programs.guards)
		log_info("%s; connections are relayed", programs.no_handoff);
	*ret_programs = programs;
	return 0;
}

void programs_reset(struct programs *programs)
{
	steer_reset(programs->steer);
	if (programs->guards)
		guards_reset(programs->guards);
}

void programs_free(struct programs *programs)
{
	guards_free(programs->guards);
	steer_free(programs->steer);
	*programs = (struct programs){};
}
