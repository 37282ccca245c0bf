/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes a CPU ready to adopt a connection where NAT is in use.
 *
 * nf_nat_inet_port_was_mangled() looks at the socket that a packet was given before it came to NAT,
 * and takes it away when its remote port is not the connection's. To the request socket that
 * bpf_sk_assign_tcp_reqsk() makes, the kernel gives no port: there is what its piece of memory held
 * last, and so a replayed segment would nearly always find no new socket. Requests of transparent
 * listeners are spared, and the mark of those, too, stays in the memory. So a connection is made to
 * such a listener: its request's memory is the one that is used next. guard_ingress sees
 * (request_survives()) when that is needed, and that it worked.
 */
#ifndef PRIMER_H
#define PRIMER_H

#include <stdbool.h>

/*
 * Makes and ends one connection on the loopback device, on @cpu. @v4: the request is to be one of
 * IPv4. The caller's thread is on any CPU that it may be on afterwards, and the connection is gone.
 * Without success (no loopback device, a packet filter) nothing is different from before.
 */
void primer_run(unsigned cpu, bool v4);

#endif
