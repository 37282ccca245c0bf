/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel programs of an engine, loaded: to steer with, and to hand off with if it can. */
#ifndef PROGRAMS_H
#define PROGRAMS_H

#include <stddef.h>

#include "guards.h"
#include "steer.h"

struct programs {
	struct steer *steer;   /* NULL: nothing is loaded */
	struct guards *guards; /* NULL: this kernel can't hand off */
	char no_handoff[256];  /* then, one line that says what is missing */
};

/*
 * Loads everything for @n_sniffers sniffers; attaches nothing. Takes a tenth of a second. 0, or
 * -errno with one line in @error and @ret_programs empty. Afterwards the caller's, for
 * programs_free().
 */
int programs_load(unsigned n_sniffers, struct programs *ret_programs, char *error,
		  size_t error_size);

/* Detaches and forgets sniffers, devices and connections: ready for another engine. The counters go
 * on. */
void programs_reset(struct programs *programs);

/* Detaches and unloads; empty programs are fine. */
void programs_free(struct programs *programs);

#endif
