/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses as the programs keep them, who listens there, and whether a sniffer is behind. */
#ifndef LOOKUP_H
#define LOOKUP_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "kernel_types.h"
#include "steer_shared.h"

#define STATE_LISTEN 10 /* include/net/tcp_states.h */

static __always_inline bool is_v4(const __u8 addr[16])
{
	const __u32 *word = (const __u32 *)addr;

	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

/* Fills in a look-up tuple; returns its size, which tells the helper the family. */
static __always_inline __u32 tuple_fill(struct bpf_sock_tuple *tuple, bool v4,
					const __u8 remote[16], __be16 remote_port,
					const __u8 local[16], __be16 local_port)
{
	if (v4) {
		tuple->ipv4.saddr = *(const __u32 *)(remote + 12);
		tuple->ipv4.daddr = *(const __u32 *)(local + 12);
		tuple->ipv4.sport = remote_port;
		tuple->ipv4.dport = local_port;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, remote, 16);
	__builtin_memcpy(tuple->ipv6.daddr, local, 16);
	tuple->ipv6.sport = remote_port;
	tuple->ipv6.dport = local_port;
	return sizeof(tuple->ipv6);
}

/*
 * Is the process behind with this sniffer? Long before its accept queue, which net.core.somaxconn
 * can keep short, is full: handshakes that have begun will want a place in it.
 */
static __always_inline bool is_behind(const struct sock *sniffer)
{
	__u32 limit = sniffer->sk_max_ack_backlog / 4;

	if (limit > STEER_BACKLOG_LIMIT)
		limit = STEER_BACKLOG_LIMIT;
	return sniffer->sk_ack_backlog > limit;
}

/*
 * Whoever listens at the target. The remote port 0 tells steer() to stand aside. The look-up has
 * the target's family: a listener on ::1 can take an IPv4 connection.
 */
static __always_inline struct bpf_sock *listener_lookup(struct __sk_buff *skb,
							const __u8 remote[16],
							const __u8 target[16], __be16 target_port)
{
	struct bpf_sock_tuple tuple = {};
	const __u8 nobody[16] = {};
	bool v4 = is_v4(target);
	__u32 size;

	/* An IPv6 client has no address to look up an IPv4 listener with. */
	if (v4 && !is_v4(remote))
		remote = nobody;
	size = tuple_fill(&tuple, v4, remote, 0, target, target_port);
	return bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
}

#endif
