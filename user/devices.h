/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which network devices clients will come by, as far as it can be told before they do. */
#ifndef DEVICES_H
#define DEVICES_H

#include <stddef.h>

/*
 * Fills in the numbers of at most @max devices: those that the default routes of both families lead
 * to; where there are none, the first that have an address which other hosts can ask for. Returns
 * how many.
 */
size_t devices_expected(unsigned *ret_ifindexes, size_t max);

#endif
