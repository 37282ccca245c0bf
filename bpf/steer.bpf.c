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
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "early_syns.h"
#include "kernel_types.h"
#include "leases.h"
#include "lookup.h"
#include "steer_shared.h"

#define AF_INET	  2
#define TC_ACT_OK 0

/*
 * The kernel's clock ticks 100 to 1000 times a second, and what has been since it last marked a
 * listener (tcp_synq_overflow()) is known in ticks. So two bounds: after MARK_OVER_TICKS its mark
 * is surely over, before MARK_GOOD_TICKS it surely has a minute left.
 */
#define MARK_OVER_TICKS 120000
#define MARK_GOOD_TICKS 6000

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

/* Of each family. */
volatile struct syn_cookie_times syn_cookie_times[FAMILIES];

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

/* Does the guard read its ClientHello on the way to the web server? */
static __always_inline bool is_read_early(const struct bpf_sk_lookup *ctx, __u16 remote_port_be)
{
	struct flow_key key = { .remote_port = remote_port_be,
				.local_port = bpf_htons((__u16)ctx->local_port) };
	__u32 *remote = (__u32 *)key.remote;
	__u32 *local = (__u32 *)key.local;

	if (ctx->family == AF_INET) {
		remote[2] = local[2] = bpf_htonl(0xffff);
		/* volatile: as in is_relay_source() */
		remote[3] = *(const volatile __u32 *)&ctx->remote_ip4;
		local[3] = *(const volatile __u32 *)&ctx->local_ip4;
	} else {
		remote[0] = ctx->remote_ip6[0];
		remote[1] = ctx->remote_ip6[1];
		remote[2] = ctx->remote_ip6[2];
		remote[3] = ctx->remote_ip6[3];
		local[0] = ctx->local_ip6[0];
		local[1] = ctx->local_ip6[1];
		local[2] = ctx->local_ip6[2];
		local[3] = ctx->local_ip6[3];
	}
	return is_early(&key);
}

/* Is the room for handshakes nearly taken? Beyond it the kernel sends cookies, or, without,
 * nothing.
 */
static __always_inline bool is_flooded(const struct tcp_sock *sniffer)
{
	__u32 max = sniffer->inet_conn.icsk_inet.sk.sk_max_ack_backlog;

	return (__u32)sniffer->inet_conn.icsk_accept_queue.qlen.counter > max - max / 4;
}

static __always_inline __u8 syncookies(const struct tcp_sock *listener)
{
	return listener->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ipv4.sysctl_tcp_syncookies;
}

/*
 * Is it a packet that @sniffer had better not get? It may be a SYN that is answered by a cookie
 * which the web server does not take, should it be the one to get the ACK; or such an ACK, to a
 * cookie that the web server has sent, and which the sniffer does not take. With
 * net.ipv4.tcp_syncookies at 0 nobody sends or takes any.
 */
static __always_inline bool cookie_is_lost(const struct tcp_sock *sniffer,
					   volatile struct syn_cookie_times *times, __u64 now)
{
	__u8 sysctl = syncookies(sniffer);

	if (!sysctl)
		return false;
	if ((sysctl == 2 || is_flooded(sniffer)) && now >= times->server_takes_ns) {
		times->flood_ns = now;
		return true;
	}
	return times->flood_ns && now < times->flood_ns + SYN_COOKIE_VALID_NS &&
	       now >= times->sniffers_take_ns;
}

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	__u16 remote_port_be = (__u16)ctx->remote_port;
	__u32 port = ctx->local_port;
	__u32 index = bpf_get_smp_processor_id() % n_sniffers;
	struct bpf_sock *sniffer;
	struct tcp_sock *tp;
	__u64 *until_ns, lease, now;
	long err;

	/* Port 0 is nobody's: the hand-off itself is looking for the web server's listener. */
	if (ctx->protocol != IPPROTO_TCP || remote_port_be == 0)
		return SK_PASS;

	until_ns = bpf_map_lookup_elem(&leases, &port);
	lease = until_ns ? *until_ns : 0;
	if (!lease)
		return SK_PASS;
	now = bpf_ktime_get_ns();
	if (now >= lease)
		return pass(COUNTER_PASSED_LEASE);
	if (is_relay_source(ctx, remote_port_be))
		return pass(COUNTER_PASSED_RELAY);
	if ((lease & LEASE_EARLY) && is_read_early(ctx, remote_port_be))
		return pass(COUNTER_EARLY);

	sniffer = bpf_map_lookup_elem(&sniffers, &index);
	if (!sniffer)
		return pass(COUNTER_PASSED_NO_SNIFFER);
	tp = bpf_skc_to_tcp_sock(sniffer);
	if (!tp || is_behind(&tp->inet_conn.icsk_inet.sk) || (is_flooded(tp) && !syncookies(tp))) {
		bpf_sk_release(sniffer);
		return pass(COUNTER_PASSED_OVERLOAD);
	}
	if (cookie_is_lost(tp, &syn_cookie_times[ctx->family == AF_INET ? FAMILY_V4 : FAMILY_V6],
			   now)) {
		bpf_sk_release(sniffer);
		return pass(COUNTER_PASSED_COOKIES);
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

/* Has the kernel make a cookie for a SYN to @listener, which it marks by that. */
static __always_inline void cookie_make(struct bpf_sock *listener, bool v4)
{
	struct tcphdr tcp = { .source = bpf_htons(1), .dest = bpf_htons(1), .doff = 5, .syn = 1 };

	if (v4) {
		struct iphdr ip = { .version = 4, .ihl = 5, .protocol = IPPROTO_TCP };

		bpf_tcp_gen_syncookie(listener, &ip, sizeof(ip), &tcp, sizeof(tcp));
	} else {
		struct ipv6hdr ip = { .version = 6, .nexthdr = IPPROTO_TCP };

		bpf_tcp_gen_syncookie(listener, &ip, sizeof(ip), &tcp, sizeof(tcp));
	}
}

/* Since when a listener, or its group, has sent no cookie: tcp_synq_no_recent_overflow(). */
static __always_inline __u32 ticks_since_cookie(struct tcp_sock *tp)
{
	struct sock_reuseport *group = tp->inet_conn.icsk_inet.sk.sk_reuseport_cb;
	__u32 last = group ? group->synq_overflow_ts : (__u32)tp->rx_opt.ts_recent_stamp;

	return last ? (__u32)bpf_jiffies64() - last : ~0u;
}

static __always_inline void syn_cookies_look(struct syn_cookies_block *block,
					     struct bpf_sock *listener)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(listener);
	__u32 ticks;

	if (!tp)
		return;
	block->found = 1;
	block->sysctl = syncookies(tp);
	/* With 1 no mark can be made unless the SYN queue is full, and then there is one. */
	if (block->sysctl == 2)
		cookie_make(listener, tp->inet_conn.icsk_inet.sk.__sk_common.skc_family == AF_INET);
	ticks = ticks_since_cookie(tp);
	block->sent = ticks < MARK_OVER_TICKS;
	block->takes = ticks < MARK_GOOD_TICKS;
}

/* Test-run only: does who listens at an address send SYN cookies, does it take those of others? */
SEC("tc")
int steer_cookies(struct __sk_buff *skb)
{
	struct syn_cookies_block *block = (void *)(long)skb->data;
	struct bpf_sock *listener;

	if ((void *)(block + 1) > (void *)(long)skb->data_end)
		return TC_ACT_OK;
	listener = listener_lookup(skb, block->address, block->address, block->port);
	if (!listener)
		return TC_ACT_OK;
	if (listener->state == STATE_LISTEN)
		syn_cookies_look(block, listener);
	bpf_sk_release(listener);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
