/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs of handoff.bpf.c share: the kernel's numbers, the maps, look-ups. */
#ifndef HANDOFF_COMMON_H
#define HANDOFF_COMMON_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "kernel_types.h"
#include "lookup.h"
#include "steer_shared.h"

#define AF_INET		 2
#define TCX_NEXT	 (-1) /* enum tcx_action_base, Linux 6.6 */
#define TCX_DROP	 2
#define SOCK_STREAM	 1
/* enum nf_inet_hooks */
#define NETFILTER_PRE_ROUTING 0
#define NETFILTER_LOCAL_IN    1
#define CHECKSUM_UNNECESSARY 1
#define CHECKSUM_PARTIAL 3
#define ECN_MODE	 0x01 /* tcp_sock.ecn_flags: RFC 3168 was agreed on */
#define ECN_ACCURATE	 0x10 /* AccECN was: the kfunc can't make such a socket */
#define MSS_MIN_V4	 536  /* bpf_sk_assign_tcp_reqsk(): TCP_MSS_DEFAULT */
#define MSS_MIN_V6	 1220 /* IPV6_MIN_MTU - 60 */

/* include/net/tcp_states.h */
#define STATE_ESTABLISHED  1
#define STATE_CLOSE_WAIT   8
#define STATE_NEW_SYN_RECV 12

/* Linux 6.2: the sk_buff behind the context. */
extern void *bpf_cast_to_kern_ctx(void *skb) __ksym;
extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk,
				   struct bpf_tcp_req_attrs *attrs, int attrs__sz) __ksym;

/*
 * An entry's memory may be given to another one at once when it is deleted: who writes to an entry
 * that was looked up must do no harm to another one.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HANDOFF_MAX_GUARDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct guard);
} guards SEC(".maps");

/*
 * What clients sent meanwhile. The process takes them out; one that came just too late for that is
 * left behind, and in time makes room. The memory is there from the beginning: the allocator that
 * programs have keeps two or three pieces of this size at hand, and packets come in bursts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HELD_MAX);
	__type(key, struct held_key);
	__type(value, struct held);
} held SEC(".maps");

/* To put one together. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held);
} held_scratch SEC(".maps");

/* Connections whose guard entry went a moment ago. The oldest make room for new ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HANDOFF_MAX_GUARDS);
	__type(key, struct flow_key);
	__type(value, struct released);
} released SEC(".maps");

/* Devices (ifindex) that both guard programs are attached to: DEVICE_GUARDED, DEVICE_USED. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} guarded_devices SEC(".maps");

/* The sniffers' sockets, in the order of steer.bpf.c: where to adopt back to. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, STEER_MAX_SNIFFERS);
	__type(key, __u32);
	__type(value, __u64);
} own_sniffers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GUARD_COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} guard_counters SEC(".maps");

/* See PASSED_SOCKETS. */
__u64 passed[PASSED_SOCKETS];
/* How many entries guards has: while it is 0 no packet costs a look-up. */
__u32 n_guards = 0;
/* Until when something in released counts, bpf_ktime_get_coarse_ns(). */
__u64 released_until_ns = 0;

static __always_inline void count(enum guard_counter what)
{
	__u32 key = what;
	__u64 *n = bpf_map_lookup_elem(&guard_counters, &key);

	if (n)
		(*n)++;
}

/* The socket of a connection: established, closing, or else whoever listens. Release it. */
static __always_inline struct bpf_sock *connection_lookup(struct __sk_buff *skb,
							  const struct flow_key *key)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = tuple_fill(&tuple, is_v4(key->local), key->remote, key->remote_port,
				key->local, key->local_port);

	return bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
}

/* Do the sysctls still permit what was agreed on? OPTION_* bits. */
static __always_inline bool options_permitted(const struct netns_ipv4 *ipv4, __u8 options)
{
	return (!(options & OPTION_TSTAMP) || ipv4->sysctl_tcp_timestamps) &&
	       (!(options & OPTION_SACK) || ipv4->sysctl_tcp_sack) &&
	       (!(options & OPTION_WSCALE) || ipv4->sysctl_tcp_window_scaling);
}

/* Does netfilter look at packets to this host: rules, connection tracking, NAT? */
static __always_inline bool is_filtered(struct net *net, bool v4)
{
	if (!bpf_core_field_exists(net->nf.hooks_ipv4))
		return false;
	if (v4)
		return net->nf.hooks_ipv4[NETFILTER_PRE_ROUTING] ||
		       net->nf.hooks_ipv4[NETFILTER_LOCAL_IN];
	return net->nf.hooks_ipv6[NETFILTER_PRE_ROUTING] || net->nf.hooks_ipv6[NETFILTER_LOCAL_IN];
}

/* Has the new socket sent something? */
static __always_inline bool child_seen(const struct guard *guard)
{
	return guard->child_of == guard->cookie;
}

#endif
