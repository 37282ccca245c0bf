// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The decision: does this new connection go to a sniffer?
 *
 * An sk_lookup program sees each packet for which the kernel looks for a listening TCP socket:
 * SYNs, in practice. It steers while the port's lease has not run out, and in every other case and
 * every doubt it returns SK_PASS without a choice, which is what happens when it is not there at
 * all. The lease is one 64-bit number that the process renews several times a second: a process
 * that is stopped, starved or stuck loses the port within a second, and one that dies takes the
 * program's link with it.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "kernel_types.h"
#include "steer_shared.h"

#define AF_INET	  2
#define TC_ACT_OK 0

/* Until when connections to a port (host order) are steered, bpf_ktime_get_ns(); 0: not at all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} leases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, STEER_MAX_SNIFFERS);
	__type(key, __u32);
	__type(value, __u64);
} sniffers SEC(".maps");

/* Source addresses of the relay's own connections while they are being made. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HANDOFF_MAX_GUARDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct relay_source);
	__type(value, __u8);
} relay_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} steer_counters SEC(".maps");

volatile const __u32 n_sniffers = 1;

static __always_inline int pass(enum steer_counter why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&steer_counters, &key);

	if (n)
		(*n)++;
	return SK_PASS;
}

static __always_inline bool is_relay_source(const struct bpf_sk_lookup *ctx, __u16 port_be)
{
	struct relay_source source = {};

	if (ctx->family == AF_INET) {
		source.addr[2] = bpf_htonl(0xffff);
		/* volatile: or the compiler makes one load of both branches, at an address it
		 * computed */
		source.addr[3] = *(const volatile __u32 *)&ctx->remote_ip4;
	} else {
		source.addr[0] = ctx->remote_ip6[0];
		source.addr[1] = ctx->remote_ip6[1];
		source.addr[2] = ctx->remote_ip6[2];
		source.addr[3] = ctx->remote_ip6[3];
	}
	source.port_be = port_be;
	return bpf_map_lookup_elem(&relay_sources, &source);
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

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	__u16 remote_port_be = (__u16)ctx->remote_port;
	__u32 port = ctx->local_port;
	__u32 index = bpf_get_smp_processor_id() % n_sniffers;
	struct bpf_sock *sniffer;
	struct tcp_sock *tp;
	__u64 *lease;
	long err;

	/* Port 0 is nobody's: the hand-off itself is looking for the web server's listener. */
	if (ctx->protocol != IPPROTO_TCP || remote_port_be == 0)
		return SK_PASS;

	lease = bpf_map_lookup_elem(&leases, &port);
	if (!lease || *lease == 0)
		return SK_PASS;
	if (bpf_ktime_get_ns() >= *lease)
		return pass(COUNTER_PASSED_LEASE);
	if (is_relay_source(ctx, remote_port_be))
		return pass(COUNTER_PASSED_RELAY);

	sniffer = bpf_map_lookup_elem(&sniffers, &index);
	if (!sniffer)
		return pass(COUNTER_PASSED_NO_SNIFFER);
	tp = bpf_skc_to_tcp_sock(sniffer);
	if (!tp || is_behind(&tp->inet_conn.icsk_inet.sk)) {
		bpf_sk_release(sniffer);
		return pass(COUNTER_PASSED_OVERLOAD);
	}
	err = bpf_sk_assign(ctx, sniffer, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(sniffer);
	return pass(err ? COUNTER_PASSED_ASSIGN : COUNTER_STEERED);
}

/* Test-run only: how much is in a sniffer's queues? Closing waits until nothing is. */
SEC("tc")
int steer_queue(struct __sk_buff *skb)
{
	struct queue_block *block = (void *)(long)skb->data;
	struct bpf_sock *sniffer;
	struct tcp_sock *tp;
	__u32 index;

	if ((void *)(block + 1) > (void *)(long)skb->data_end)
		return TC_ACT_OK;
	index = block->sniffer;
	sniffer = bpf_map_lookup_elem(&sniffers, &index);
	if (!sniffer)
		return TC_ACT_OK;
	tp = bpf_skc_to_tcp_sock(sniffer);
	if (tp) {
		block->accept_queue = tp->inet_conn.icsk_inet.sk.sk_ack_backlog;
		block->syn_queue = tp->inet_conn.icsk_accept_queue.qlen.counter;
		block->found = 1;
	}
	bpf_sk_release(sniffer);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
