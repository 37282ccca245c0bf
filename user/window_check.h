/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Can a window with these options be opened on this host? */
#ifndef WINDOW_CHECK_H
#define WINDOW_CHECK_H

#include <stddef.h>

#include "engine.h"
#include "window.h"

/*
 * Everything about the options that depends on this host: is there a web server, can it be reached
 * by the plane that they ask for, with the clients' addresses? What will do, but not as well as it
 * could, the log says. @set: the windows that are open; @engine steers already. 0, or -errno with one
 * line in @error.
 */
int window_check(const struct window_options *options, const struct window_set *set,
		 struct engine *engine, char *error, size_t error_size);

#endif
