/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Virtual routing and forwarding domains of this network namespace. */
#ifndef VRF_H
#define VRF_H

#include <net/if.h>

#include "listeners.h"

/*
 * Connections that come in by a VRF can't be taken by a sniffer, which is not in it, and would be
 * lost: is there somebody among the @n @listeners who gets such? 1 with the VRF's name, 0, or
 * -errno.
 */
int vrf_find(const struct listener *listeners, int n, char ret_name[IF_NAMESIZE]);

#endif
