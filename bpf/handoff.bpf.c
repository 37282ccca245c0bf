// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hand-off: moving a live TCP connection from the sniffer's socket to another listener.
 *
 * The process runs four programs by BPF_PROG_TEST_RUN, in this order for one connection:
 *   handoff_seize   is the target able to take it? If so freeze: publish a guard entry, and read all
 *                   that the new socket has to know;
 *   (the process lets the old socket go: TCP_REPAIR and close())
 *   handoff_inject  sends the client's bytes in once more, as segments from the wire;
 *   handoff_commit  is the new socket there, and has it all? Then the guard entry goes.
 * and two are attached to the devices that such connections use:
 *   guard_ingress   gives the first replayed segment to the target's listener, which makes an
 *                   established socket of it, and holds back what the client sends meanwhile;
 *   guard_egress    holds back what would tell the client otherwise: resets, and the old socket's
 *                   acknowledgements of bytes that it takes with it.
 * handoff_preflight asks the first question alone, for a window that is about to be opened.
 *
 * A connection has a guard entry exactly while it is in neither socket. Connections without one
 * pass both attached programs untouched.
 */
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
#include "steer_shared.h"

#define AF_INET	     2
#define TCX_NEXT     (-1) /* enum tcx_action_base, Linux 6.6 */
#define TCX_DROP     2
#define SOCK_STREAM  1
#define CHECKSUM_PARTIAL 3
#define ECN_MODE     0x01 /* tcp_sock.ecn_flags: RFC 3168 was agreed on */
#define ECN_ACCURATE 0x10 /* AccECN was: the kfunc can't make such a socket */
#define MSS_MIN_V4   536  /* bpf_sk_assign_tcp_reqsk(): TCP_MSS_DEFAULT */
#define MSS_MIN_V6   1220 /* IPV6_MIN_MTU - 60 */

/* include/net/tcp_states.h */
#define STATE_ESTABLISHED  1
#define STATE_CLOSE_WAIT   8
#define STATE_LISTEN	   10
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

/* Devices (ifindex) that both guard programs are attached to. */
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

static __always_inline bool is_v4(const __u8 addr[16])
{
	const __u32 *word = (const __u32 *)addr;

	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

/* Fills in a look-up tuple; returns its size, which tells the helper the family. */
static __always_inline __u32 tuple_fill(struct bpf_sock_tuple *tuple, bool v4, const __u8 remote[16],
					__be16 remote_port, const __u8 local[16], __be16 local_port)
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

/* The socket of a connection: established, closing, or else whoever listens. Release it. */
static __always_inline struct bpf_sock *connection_lookup(struct __sk_buff *skb,
							  const struct flow_key *key)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = tuple_fill(&tuple, is_v4(key->local), key->remote, key->remote_port, key->local,
				key->local_port);

	return bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
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

/* Can the target's listener adopt a connection of a client at @remote? */
static __always_inline enum seize_result listener_check(struct __sk_buff *skb,
							const __u8 remote[16],
							const __u8 target[16], __be16 target_port)
{
	struct bpf_sock *listener = listener_lookup(skb, remote, target, target_port);
	enum seize_result result = SEIZE_OK;
	struct tcp_sock *tp;
	struct sock *sk;

	if (!listener)
		return SEIZE_NO_LISTENER;
	tp = listener->state == STATE_LISTEN ? bpf_skc_to_tcp_sock(listener) : NULL;
	if (!tp) {
		bpf_sk_release(listener);
		return SEIZE_NO_LISTENER;
	}
	sk = &tp->inet_conn.icsk_inet.sk;
	/* tcp_v6_rcv() on an AF_INET listener would read IPv6 state that is not there. */
	if (!is_v4(remote) && sk->__sk_common.skc_family == AF_INET)
		result = SEIZE_FAMILY;
	else if (bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp)
		result = SEIZE_MPTCP;
	else if (sk->__sk_common.skc_net.net->ipv4.sysctl_tcp_syncookies == 0)
		result = SEIZE_SYNCOOKIES;
	else if (sk->sk_ack_backlog > sk->sk_max_ack_backlog) /* sk_acceptq_is_full() */
		result = SEIZE_QUEUE_FULL;
	bpf_sk_release(listener);
	return result;
}

/* What the new socket is told of the old one; may the kernel still make such a socket? */
static __always_inline enum seize_result options_read(struct tcp_sock *tp, struct guard *guard,
						      bool v4)
{
	struct netns_ipv4 *ipv4 = &tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ipv4;
	struct tcp_options_received *rx = &tp->rx_opt;
	__u8 options = 0;

	if (BPF_CORE_READ_BITFIELD(rx, tstamp_ok))
		options |= OPTION_TSTAMP;
	if (BPF_CORE_READ_BITFIELD(rx, sack_ok))
		options |= OPTION_SACK;
	if (BPF_CORE_READ_BITFIELD(rx, wscale_ok))
		options |= OPTION_WSCALE;
	if (tp->ecn_flags & ECN_MODE)
		options |= OPTION_ECN;
	if (bpf_core_field_exists(tp->tcp_usec_ts) && BPF_CORE_READ_BITFIELD(tp, tcp_usec_ts))
		options |= OPTION_USEC_TS;
	guard->options = options;
	guard->snd_wscale = BPF_CORE_READ_BITFIELD(rx, snd_wscale);
	guard->rcv_wscale = BPF_CORE_READ_BITFIELD(rx, rcv_wscale);
	guard->mss = rx->mss_clamp;
	guard->ts_recent = rx->ts_recent;
	guard->tsoffset = tp->tsoffset;

	if (tp->ecn_flags & ECN_ACCURATE)
		return SEIZE_STATE;
	if (guard->mss < (v4 ? MSS_MIN_V4 : MSS_MIN_V6))
		return SEIZE_MSS;
	if (((options & OPTION_TSTAMP) && !ipv4->sysctl_tcp_timestamps) ||
	    ((options & OPTION_SACK) && !ipv4->sysctl_tcp_sack) ||
	    ((options & OPTION_WSCALE) && !ipv4->sysctl_tcp_window_scaling))
		return SEIZE_OPTIONS;
	return SEIZE_OK;
}

/*
 * Publishes the guard entry. From then on guard_egress lets no acknowledgement beyond guard.rcv_nxt
 * out, so a byte that the old socket takes after the second reading was never acknowledged and
 * the client sends it again; one that it took before is part of the replay.
 */
static __always_inline enum seize_result freeze(struct tcp_sock *tp, struct seize_block *block)
{
	struct guard *guard = &block->guard;
	struct guard *published;
	__u32 rcv_nxt;

	guard->rcv_nxt = tp->rcv_nxt;
	if (bpf_map_update_elem(&guards, &block->key, guard, BPF_NOEXIST))
		return SEIZE_FULL;
	__sync_fetch_and_add(&n_guards, 1);
	published = bpf_map_lookup_elem(&guards, &block->key);
	if (!published)
		return SEIZE_FULL;
	rcv_nxt = tp->rcv_nxt;
	if (rcv_nxt != guard->rcv_nxt) {
		published->rcv_nxt = rcv_nxt;
		guard->rcv_nxt = rcv_nxt;
	}
	return SEIZE_OK;
}

/* Is it still the connection that was meant, can it be moved as it stands, is its way guarded? */
static __always_inline enum seize_result connection_check(struct seize_block *block,
							  struct tcp_sock *tp)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	__u32 on = block->ifindex;
	__u32 in = sk->sk_rx_dst_ifindex;
	__u32 out = BPF_CORE_READ(sk, sk_dst_cache, dev, ifindex);

	block->state = sk->__sk_common.skc_state;
	block->snd_wnd = tp->snd_wnd;
	block->ifindex = in;
	block->ifindex_out = out;
	if ((__u64)sk->__sk_common.skc_cookie.counter != block->cookie)
		return SEIZE_GONE;
	if (block->state != STATE_ESTABLISHED && block->state != STATE_CLOSE_WAIT)
		return SEIZE_GONE;
	if (tp->snd_una != tp->snd_nxt)
		return SEIZE_STATE;
	/* The test-run is made on the device where packets come in: listeners can be bound to one. */
	if (in != on || !bpf_map_lookup_elem(&guarded_devices, &in) ||
	    (out && !bpf_map_lookup_elem(&guarded_devices, &out)))
		return SEIZE_DEVICE;
	if (tp->rx_opt.num_sacks)
		return SEIZE_UNORDERED;
	return SEIZE_OK;
}

static __always_inline enum seize_result connection_seize(struct __sk_buff *skb,
							  struct seize_block *block,
							  struct tcp_sock *tp)
{
	struct guard *guard = &block->guard;
	enum seize_result result = connection_check(block, tp);

	if (result == SEIZE_OK)
		result = listener_check(skb, block->key.remote, guard->target, guard->target_port);
	if (result == SEIZE_OK)
		result = options_read(tp, guard, is_v4(block->key.local));
	if (result != SEIZE_OK)
		return result;
	guard->cookie = block->cookie;
	guard->first_seq = tp->copied_seq;
	guard->snd_nxt = tp->snd_nxt;
	guard->parking = 1;
	return freeze(tp, block);
}

SEC("tc")
int handoff_seize(struct __sk_buff *skb)
{
	struct seize_block *block = (void *)(long)skb->data;
	struct bpf_sock *connection;
	struct tcp_sock *tp;

	if ((void *)(block + 1) > (void *)(long)skb->data_end)
		return 0;
	connection = connection_lookup(skb, &block->key);
	if (!connection) {
		block->result = SEIZE_GONE;
		return 0;
	}
	tp = connection->state == STATE_LISTEN ? NULL : bpf_skc_to_tcp_sock(connection);
	block->result = tp ? connection_seize(skb, block, tp) : SEIZE_GONE;
	bpf_sk_release(connection);
	return 0;
}

SEC("tc")
int handoff_preflight(struct __sk_buff *skb)
{
	struct preflight_block *block = (void *)(long)skb->data;

	if ((void *)(block + 1) > (void *)(long)skb->data_end)
		return 0;
	block->result = listener_check(skb, block->remote, block->target, block->target_port);
	return 0;
}

/* The frame is the test-run's data; the device and the mark are those that the process gave. */
SEC("tc")
int handoff_inject(struct __sk_buff *skb)
{
	return bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
}

static __always_inline bool child_seen(const struct guard *guard)
{
	return guard->child_of == guard->cookie;
}

/* Looks at the socket that the connection has now; returns a COMMIT_ result. */
static __always_inline enum commit_result child_check(struct __sk_buff *skb,
						      struct commit_block *block,
						      struct guard *guard)
{
	/* It may have answered and gone already: then it has sent something. */
	enum commit_result none = child_seen(guard) ? COMMIT_DONE : COMMIT_NO_CHILD;
	enum commit_result result = COMMIT_DONE;
	struct bpf_sock *child = connection_lookup(skb, &block->key);
	struct tcp_sock *tp;

	if (!child)
		return none;
	block->state = child->state;
	if (child->state == STATE_LISTEN || child->state == STATE_NEW_SYN_RECV) {
		bpf_sk_release(child);
		return none;
	}
	tp = bpf_skc_to_tcp_sock(child); /* NULL: TIME_WAIT, so it had everything */
	if (tp) {
		block->rcv_nxt = tp->rcv_nxt;
		if ((__s32)(block->rcv_nxt - guard->rcv_nxt) < 0)
			result = COMMIT_INCOMPLETE;
	}
	bpf_sk_release(child);
	return result;
}

/*
 * Takes the guard entry away. A packet that passed guard_ingress before the entry was there may
 * have found the old socket gone and the new one not there yet, and its CPU may be late with the
 * reset that follows from that: guard_egress goes on looking for one.
 */
static __always_inline void release(struct commit_block *block, struct guard *guard)
{
	struct released moment = { .until_ns = bpf_ktime_get_coarse_ns() + RELEASED_NS,
				   .snd_nxt = guard->snd_nxt };

	bpf_map_update_elem(&released, &block->key, &moment, BPF_ANY);
	released_until_ns = moment.until_ns;
	if (!bpf_map_delete_elem(&guards, &block->key))
		__sync_fetch_and_sub(&n_guards, 1);
}

SEC("tc")
int handoff_commit(struct __sk_buff *skb)
{
	struct commit_block *block = (void *)(long)skb->data;
	struct guard *guard;

	if ((void *)(block + 1) > (void *)(long)skb->data_end)
		return 0;
	guard = bpf_map_lookup_elem(&guards, &block->key);
	if (!guard) {
		block->result = COMMIT_NO_GUARD;
		return 0;
	}
	block->seen = guard->seen;
	block->adopt_error = guard->adopt_error;
	if (block->flags & COMMIT_STOP_PARKING)
		guard->parking = 0;
	if (block->flags & COMMIT_TO_SNIFFER)
		guard->to_sniffer = 1;
	block->result = child_check(skb, block, guard);
	if (block->result == COMMIT_DONE && guard->n_held > block->n_held &&
	    !(block->flags & COMMIT_RELEASE))
		block->result = COMMIT_HELD;
	block->n_held = guard->n_held;
	if (block->result == COMMIT_DONE || (block->flags & COMMIT_GIVE_UP))
		release(block, guard);
	return 0;
}

/* A TCP packet as both attached programs need it. */
struct packet {
	struct flow_key key;
	__u32 len;	  /* from the IP header on */
	__u32 header_len; /* IP and TCP, with options */
	struct tcphdr tcp;
};

/*
 * Reads a packet's addresses and TCP header, relative to the network header: devices without a link
 * header are the same. @ingress: we are the destination. False: not TCP, a fragment, or TCP behind an
 * IPv6 extension header; no connection is guarded on such.
 */
static __always_inline bool packet_read(struct __sk_buff *skb, bool ingress, struct packet *packet)
{
	__u8 *source = ingress ? packet->key.remote : packet->key.local;
	__u8 *dest = ingress ? packet->key.local : packet->key.remote;
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) ||
		    ip.protocol != IPPROTO_TCP || (ip.frag_off & bpf_htons(0x3fff)))
			return false;
		*(__u16 *)(source + 10) = 0xffff;
		*(__u16 *)(dest + 10) = 0xffff;
		*(__u32 *)(source + 12) = ip.saddr;
		*(__u32 *)(dest + 12) = ip.daddr;
		offset = ip.ihl * 4;
		packet->len = bpf_ntohs(ip.tot_len);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip6;

		if (bpf_skb_load_bytes_relative(skb, 0, &ip6, sizeof(ip6), BPF_HDR_START_NET) ||
		    ip6.nexthdr != IPPROTO_TCP)
			return false;
		__builtin_memcpy(source, &ip6.saddr, 16);
		__builtin_memcpy(dest, &ip6.daddr, 16);
		offset = sizeof(ip6);
		packet->len = bpf_ntohs(ip6.payload_len) + sizeof(ip6);
	} else {
		return false;
	}
	if (bpf_skb_load_bytes_relative(skb, offset, &packet->tcp, sizeof(packet->tcp),
					BPF_HDR_START_NET))
		return false;
	packet->header_len = offset + packet->tcp.doff * 4;
	packet->key.remote_port = ingress ? packet->tcp.source : packet->tcp.dest;
	packet->key.local_port = ingress ? packet->tcp.dest : packet->tcp.source;
	return true;
}

static __always_inline void attrs_fill(struct bpf_tcp_req_attrs *attrs, const struct guard *guard)
{
	__u64 unit = guard->options & OPTION_USEC_TS ? 1000 : 1000000;

	attrs->mss = guard->mss;
	attrs->snd_wscale = guard->snd_wscale;
	attrs->rcv_wscale = guard->rcv_wscale;
	attrs->ecn_ok = !!(guard->options & OPTION_ECN);
	attrs->wscale_ok = !!(guard->options & OPTION_WSCALE);
	attrs->sack_ok = !!(guard->options & OPTION_SACK);
	attrs->tstamp_ok = !!(guard->options & OPTION_TSTAMP);
	attrs->usec_ts_ok = !!(guard->options & OPTION_USEC_TS);
	attrs->rcv_tsval = guard->ts_recent;
	/* The kernel takes its clock off again; what is left is the offset. */
	attrs->rcv_tsecr = (__u32)(bpf_ktime_get_ns() / unit) + guard->tsoffset;
}

/* Gives the first replayed segment to @listener, which makes the new socket of it. Releases it. */
#define ADOPT_ON(listener)                                                                         \
	({                                                                                         \
		struct tcp_sock *_tp = (listener)->state == STATE_LISTEN ?                         \
					       bpf_skc_to_tcp_sock(listener) :                     \
					       NULL;                                               \
		int _err = -2 /* ENOENT */;                                                        \
		if (_tp)                                                                           \
			_err = bpf_sk_assign_tcp_reqsk(skb, (struct sock *)_tp, &attrs,            \
						       sizeof(attrs));                             \
		bpf_sk_release(listener);                                                          \
		_err;                                                                              \
	})

static __always_inline int adopt(struct __sk_buff *skb, struct packet *packet, struct guard *guard)
{
	struct bpf_tcp_req_attrs attrs = {};
	struct bpf_sock *sk;
	int err = -2; /* ENOENT */

	/* Injected twice: perhaps the first made the socket, and this is a repeated segment to it. */
	sk = guard->seen ? connection_lookup(skb, &packet->key) : NULL;
	if (sk) {
		__u32 state = sk->state;

		bpf_sk_release(sk);
		if (state != STATE_LISTEN)
			return TCX_NEXT;
	}
	if (child_seen(guard))
		return TCX_DROP;

	attrs_fill(&attrs, guard);
	if (guard->to_sniffer) {
		__u32 index = guard->sniffer;

		sk = bpf_map_lookup_elem(&own_sniffers, &index);
		if (sk)
			err = ADOPT_ON(sk);
	} else {
		sk = listener_lookup(skb, packet->key.remote, guard->target, guard->target_port);
		if (sk)
			err = ADOPT_ON(sk);
	}
	guard->adopt_error = err;
	__sync_fetch_and_add(&guard->seen, 1);
	count(err ? COUNTER_ADOPT_ERROR : COUNTER_ADOPTED);
	return err ? TCX_DROP : TCX_NEXT;
}

/* What the pieces of one packet have in common. */
struct holding {
	struct __sk_buff *skb;
	struct packet *packet;
	struct guard *guard;
	struct held *piece;
	__u32 start; /* of the IP header in the skb */
	bool done;
};

/* Keeps one piece. Returns 1 when there are no more, or no room for this one. */
static long hold_piece(__u32 i, struct holding *holding)
{
	struct packet *packet = holding->packet;
	struct held *piece = holding->piece;
	struct held_key key = { .flow = packet->key };
	__u32 header_len = packet->header_len;
	__u32 offset = i * HELD_PIECE;
	__u32 n = packet->len - header_len - offset;

	if (header_len < 40 || header_len > 120)
		return 1;
	if (n > HELD_PIECE)
		n = HELD_PIECE;
	if (n > 0 && bpf_skb_load_bytes(holding->skb, holding->start + header_len + offset,
					piece->packet + header_len, n))
		return 1;
	piece->offset = offset;
	piece->len = header_len + n;
	piece->more = header_len + offset + n < packet->len;
	key.number = __sync_fetch_and_add(&holding->guard->n_held, 1);
	if (key.number >= HELD_PER_GUARD || bpf_map_update_elem(&held, &key, piece, BPF_ANY))
		return 1;
	holding->done = !piece->more;
	return holding->done;
}

/*
 * Keeps a copy of what the client sends in the gap. A packet that was merged (GRO, or a sender's GSO on
 * this host) is kept in pieces that can be injected. False: no room for all of it.
 */
static __always_inline bool hold(struct __sk_buff *skb, struct packet *packet, struct guard *guard)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	struct holding holding = { .skb = skb, .packet = packet, .guard = guard };
	__u32 header_len = packet->header_len;
	struct held *piece;
	__u32 zero = 0;

	piece = bpf_map_lookup_elem(&held_scratch, &zero);
	if (!piece || header_len < 40 || header_len > 120 || packet->len < header_len)
		return false;
	/* bpf_skb_load_bytes_relative() reads linear packets only. */
	holding.start = BPF_CORE_READ(kernel_skb, head) +
			BPF_CORE_READ(kernel_skb, network_header) - BPF_CORE_READ(kernel_skb, data);
	if (bpf_skb_load_bytes(skb, holding.start, piece->packet, header_len))
		return false;
	piece->cookie = guard->cookie;
	piece->no_checksum =
		skb->gso_segs > 1 ||
		BPF_CORE_READ_BITFIELD_PROBED(kernel_skb, ip_summed) == CHECKSUM_PARTIAL;
	holding.piece = piece;
	bpf_loop(HELD_PER_GUARD, hold_piece, &holding, 0);
	if (holding.done)
		count(COUNTER_HELD);
	return holding.done;
}

/* A packet that can't be held goes round until the gap is over. */
static __always_inline int park(struct __sk_buff *skb, struct guard *guard, bool parked)
{
	__u32 rounds = parked ? (skb->mark & ~MARK_MASK) + 1 : 0;

	/* A mark of somebody else's could not be given back: TCP repeats the packet. */
	if (!guard->parking || rounds >= PARK_MAX_ROUNDS || (skb->mark && !parked)) {
		count(COUNTER_PARK_DROPPED);
		return TCX_DROP;
	}
	count(parked ? COUNTER_PARK_ROUNDS : COUNTER_PARKED);
	skb->mark = MARK_PARK | rounds;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

SEC("tc")
int guard_ingress(struct __sk_buff *skb)
{
	bool ours = skb->mark == MARK_INJECT;
	bool parked = (skb->mark & MARK_MASK) == MARK_PARK;
	struct packet packet = {};
	struct guard *guard;

	if (!ours && !parked && n_guards == 0)
		return TCX_NEXT;
	if (!packet_read(skb, true, &packet))
		return TCX_NEXT;
	guard = bpf_map_lookup_elem(&guards, &packet.key);
	if (ours) {
		skb->mark = 0;
		if (guard && packet.tcp.seq == bpf_htonl(guard->first_seq))
			return adopt(skb, &packet, guard);
		if (guard)
			return TCX_NEXT;
		/* The gap is over; whoever has the connection now must not see this. */
		count(COUNTER_STALE);
		return TCX_DROP;
	}
	if (guard && !parked && hold(skb, &packet, guard))
		return TCX_DROP;
	if (guard)
		return park(skb, guard, parked);
	if (parked)
		skb->mark = 0;
	return TCX_NEXT;
}

/* Is this the late reset that release() is about? The new socket's own would come from a stream. */
static __always_inline bool is_late_reset(const struct packet *packet)
{
	struct released *moment = bpf_map_lookup_elem(&released, &packet->key);

	return moment && bpf_ktime_get_coarse_ns() < moment->until_ns &&
	       bpf_ntohl(packet->tcp.seq) == moment->snd_nxt;
}

SEC("tc")
int guard_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct packet packet = {};
	struct guard *guard;
	__u64 cookie;

	if (n_guards == 0 && bpf_ktime_get_coarse_ns() >= released_until_ns)
		return TCX_NEXT;
	if (!packet_read(skb, false, &packet))
		return TCX_NEXT;
	/*
	 * The new socket's packets are told by their owner. A reset for a packet that found no
	 * connection is owned by the kernel's own raw socket or, from Linux 6.13 on, by the listener.
	 */
	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (sk && (sk->type != SOCK_STREAM || sk->state == STATE_LISTEN))
		sk = NULL;
	guard = bpf_map_lookup_elem(&guards, &packet.key);
	if (!guard) {
		if (sk || !packet.tcp.rst || !is_late_reset(&packet))
			return TCX_NEXT;
		count(COUNTER_LATE_RST);
		return TCX_DROP;
	}
	cookie = guard->cookie;
	if (sk && bpf_get_socket_cookie(skb) != cookie) {
		guard->child_of = cookie;
		return TCX_NEXT;
	}
	if (packet.tcp.rst) {
		count(COUNTER_EGRESS_RST);
		return TCX_DROP;
	}
	if ((__s32)(bpf_ntohl(packet.tcp.ack_seq) - guard->rcv_nxt) > 0) {
		count(COUNTER_EGRESS_ACK);
		return TCX_DROP;
	}
	return TCX_NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
