/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Steering new connections to the sniffers: the sk_lookup program, its leases and its counters. */
#ifndef STEER_H
#define STEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "shared_maps.h"
#include "steer_shared.h"

/* How long a lease lasts when nobody renews it, and how often it is renewed. */
#define STEER_LEASE_NS 900000000u
/* A lease that is over: what comes is passed by, and counted. */
#define STEER_LEASE_PAST 2u
#define STEER_RENEW_NS	 200000000u

struct steer;

extern const char *const steer_counter_names[STEER_COUNTER_COUNT];

/*
 * Loads the program for @n_sniffers sockets into the kernel. @maps: those that it shares with the
 * guard; NULL: none. Returns 0, or -errno with one line in @error that says what is missing and
 * what to do.
 */
int steer_new(unsigned n_sniffers, const struct shared_maps *maps, struct steer **ret_steer,
	      char *error, size_t error_size);

/* Detaches and unloads. NULL is fine. */
void steer_free(struct steer *steer);

/* Makes @fd, a listening AF_INET6 socket that is not v6-only, sniffer @index. 0 or -errno. */
int steer_set_sniffer(struct steer *steer, unsigned index, int fd);

/*
 * Steers new connections to @port (host order) until @until_ns (CLOCK_MONOTONIC), or no longer
 * when it is 0: one 64-bit store. @early: of visitors the guard may read the ClientHello instead,
 * see bpf/early.h.
 */
void steer_lease(struct steer *steer, uint16_t port, uint64_t until_ns, bool early);

/* How many ports have an early lease, running or over. */
unsigned steer_early_ports(const struct steer *steer);

/*
 * Attaches the program to this network namespace, if it is not; nothing is steered before a lease
 * is given. 0, or -errno with one line in @error.
 */
int steer_attach(struct steer *steer, char *error, size_t error_size);

/* Is a lease given for @port, running or over? */
bool steer_is_leased(const struct steer *steer, uint16_t port);

/* Detaches the program: new connections don't reach it any more. Ends no lease. */
void steer_detach(struct steer *steer);

/*
 * As steer_new() made it, but for the counters. Its sniffers are closed already, and all leases
 * have been ended.
 */
void steer_reset(struct steer *steer);

/*
 * Returns when every CPU that was in the program has left it: after steer_detach() the sniffers get
 * no new handshake from then on. Takes some milliseconds. 0 or -errno.
 */
int steer_synchronize(void);

/*
 * How much waits at sniffer @index: connections to accept, handshakes under way. 0 or -errno. From
 * any thread.
 */
int steer_queue(struct steer *steer, unsigned index, unsigned *ret_accept, unsigned *ret_syn);

/*
 * Asks of whoever listens at @address, which may be a wildcard, on device @ifindex (0: bound to
 * none), what it is about SYN cookies; where net.ipv4.tcp_syncookies is 2 it takes those of others
 * afterwards. 0 or -errno.
 */
int steer_cookies(struct steer *steer, const struct endpoint *address, unsigned ifindex,
		  struct syn_cookies_block *ret_block);

/* What the program goes by; __atomic. */
struct syn_cookie_times *steer_syn_cookie_times(struct steer *steer, enum family family);

/* Exempts the relay's own connection from @source while it is made; or no longer. Any thread. */
int steer_exempt(struct steer *steer, const struct endpoint *source, bool add);

/* Sums over the CPUs. */
void steer_counters(struct steer *steer, uint64_t ret_counters[STEER_COUNTER_COUNT]);

#endif
