/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Visitors that need no hand-off: the handshake is the web server's own, and the guard reads the
 * ClientHello that it ends with. Part of guard_ingress.
 *
 *   SYN          goes to the web server's listener, not to a sniffer (early_syns), if a connection
 *                could be taken from there later;
 *   ACK          without data is dropped, as a listener with TCP_DEFER_ACCEPT would: the handshake
 *                ends with what the client says. The kernel's request goes on to wait;
 *   ClientHello  surely not for acme-tls/1: it passes, and ends the handshake. Anything else that a
 *                ClientHello may yet come of is held, with a guard entry, and the process has a
 *                sniffer adopt the connection.
 *
 * The web server gets a client that is silent until its SYN-ACK is repeated, a second later, or for
 * which there is no room by then; what is no TLS; and who speaks MPTCP with it. What a handshake
 * needs is the kernel's own request, so when the lease ends, or the process, nothing is left to be
 * undone: the client's next packet ends the handshake.
 */
#ifndef EARLY_H
#define EARLY_H

#include "early_hello.h"
#include "early_syns.h"
#include "guard_packet.h"
#include "leases.h"

#define AF_INET6	 10
#define PACKET_HOST	 0
#define LOOPBACK_IFINDEX 1
#define OPTION_END	 0
#define OPTION_NOP	 1
#define OPTION_MSS	 2
#define OPTION_FAST_OPEN 34
#define OPTIONS_MAX	 40
#define XFRM_POLICY_IN	 0
/*
 * So often a SYN-ACK may have been repeated when the ClientHello is still waited for. Under
 * pressure the kernel repeats it twice only: reqsk_timer_handler().
 */
#define MAX_PATIENT_TIMEOUTS 1
/* After a handshake that was lost sight of, so long all are steered. */
#define EARLY_SHUT_NS 10000000000ull

/* To the process: struct early_event. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EARLY_RING_BYTES);
} early_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hello_room);
} hello_rooms SEC(".maps");

/* How many ports have such a lease: while it is 0 no packet costs a look-up. */
__u32 n_early_ports = 0;
/* Until then all are steered, bpf_ktime_get_ns(). */
__u64 early_shut_until_ns = 0;

/* Linux 6.2: what is at an address, to be read only. */
extern void *bpf_rdonly_cast(const void *what, __u32 btf_id) __ksym;

static __always_inline enum hello_kind hello_look(struct __sk_buff *skb, __u32 offset, __u32 len)
{
	struct hello_room *room;
	__u32 zero = 0;

	room = bpf_map_lookup_elem(&hello_rooms, &zero);
	if (!room || len < 1 || len > HELLO_ROOM ||
	    bpf_skb_load_bytes(skb, offset, room->bytes, len))
		return HELLO_UNSURE;
	return hello_kind_of(room, len);
}

/* The lease of this packet's port, if ClientHellos may be read by it, or 0. */
static __always_inline __u64 early_lease(const struct packet *packet)
{
	__u32 port = bpf_ntohs(packet->key.local_port);
	__u64 *until_ns, lease;

	until_ns = bpf_map_lookup_elem(&leases, &port);
	lease = until_ns ? *until_ns : 0;
	return lease & LEASE_EARLY ? lease : 0;
}

/*
 * Is there room for one more? With a full accept queue the kernel resets some in the end, and with
 * as many handshakes under way it sends SYN cookies. A sniffer waits until the web server has room.
 */
static __always_inline bool has_room(const struct tcp_sock *listener)
{
	const struct sock *sk = &listener->inet_conn.icsk_inet.sk;
	__u32 handshakes = listener->inet_conn.icsk_accept_queue.qlen.counter;

	return handshakes + sk->sk_ack_backlog <= sk->sk_max_ack_backlog / 2;
}

/* Could connections of @listener be taken from it before it has them, and adopted by a sniffer? */
static __always_inline bool early_possible(struct __sk_buff *skb, struct tcp_sock *listener)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	const struct net_device *device = BPF_CORE_READ(kernel_skb, dev);
	const struct net *net = listener->inet_conn.icsk_inet.sk.__sk_common.skc_net.net;
	__u8 retries;

	/* A cookie leaves no request behind, and without them nothing can be adopted. */
	if (net->ipv4.sysctl_tcp_syncookies != 1 || !has_room(listener))
		return false;
	/* MAX_PATIENT_TIMEOUTS must not be the last one: the request would be gone then. */
	retries = listener->inet_conn.icsk_syn_retries;
	if ((retries ? retries : net->ipv4.sysctl_tcp_synack_retries) <= MAX_PATIENT_TIMEOUTS)
		return false;
	/* The request is the VRF's, and is not found from here. */
	if (bpf_core_enum_value_exists(enum netdev_priv_flags, IFF_L3MDEV_SLAVE) &&
	    (BPF_CORE_READ_BITFIELD_PROBED(device, priv_flags) &
	     bpf_core_enum_value(enum netdev_priv_flags, IFF_L3MDEV_SLAVE)))
		return false;
	/* What a sniffer would adopt is not protected by IPsec. */
	return !bpf_core_field_exists(net->xfrm.policy_count) ||
	       !BPF_CORE_READ(net, xfrm.policy_count[XFRM_POLICY_IN]);
}

/*
 * Does it stay on this host? A listener on a wildcard would be found for any address. Where nothing
 * is forwarded the kernel says so instead.
 */
static __always_inline bool is_for_us(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_fib_lookup fib = { .l4_protocol = IPPROTO_TCP, .ifindex = skb->ifindex };
	long found;

	if (is_v4(packet->key.local)) {
		fib.family = AF_INET;
		fib.ipv4_src = *(const __u32 *)(packet->key.remote + 12);
		fib.ipv4_dst = *(const __u32 *)(packet->key.local + 12);
	} else {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, packet->key.remote, 16);
		__builtin_memcpy(fib.ipv6_dst, packet->key.local, 16);
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return found == BPF_FIB_LKUP_RET_NOT_FWDED || found == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* RFC 9768, accurate ECN: AE, CWR and ECE. No socket could be made of such a request. */
static __always_inline bool asks_accecn(const struct packet *packet)
{
	return (packet->tcp.res1 & 1) && packet->tcp.cwr && packet->tcp.ece;
}

/* Looks at one of the SYN's options, which are in the room. Returns 1 at the end. */
static long syn_option(__u32 i, struct hello_room **arg)
{
	struct hello_room *room = *arg;
	__u32 pos = room->pos;
	__u32 kind, len;

	if (pos >= room->end)
		return 1;
	kind = hello_u8(room, pos);
	if (kind == OPTION_END)
		return 1;
	if (kind == OPTION_NOP) {
		room->pos = pos + 1;
		return 0;
	}
	len = hello_u8(room, pos + 1);
	if (len < 2)
		return 1;
	if (kind == OPTION_MSS)
		room->mss = hello_u16(room, pos + 2);
	/* With a cookie it may be a connection at once: RFC 7413. */
	if (kind == OPTION_FAST_OPEN && len > 2)
		room->fast_open = true;
	room->pos = pos + len;
	return 0;
}

/* Could a socket be made of the request for such a SYN? */
static __always_inline bool syn_fits(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 len = packet->tcp.doff * 4 - sizeof(struct tcphdr);
	struct hello_room *room;
	__u32 zero = 0;

	room = bpf_map_lookup_elem(&hello_rooms, &zero);
	if (!room || len < 1 || len > OPTIONS_MAX ||
	    bpf_skb_load_bytes(skb, ip_offset(skb) + packet->header_len - len, room->bytes, len))
		return false;
	room->pos = room->mss = room->fast_open = 0;
	room->end = len;
	bpf_loop(OPTIONS_MAX, syn_option, &room, 0);
	return !room->fast_open &&
	       room->mss >= (is_v4(packet->key.local) ? MSS_MIN_V4 : MSS_MIN_V6);
}

/* Is the worker behind that would have to sniff what is taken? */
static __always_inline bool is_sniffer_behind(void)
{
	struct bpf_sock *sniffer;
	struct tcp_sock *tp;
	bool behind = true;
	__u32 zero = 0;

	sniffer = bpf_map_lookup_elem(&own_sniffers, &zero);
	if (!sniffer)
		return true;
	tp = bpf_skc_to_tcp_sock(sniffer);
	if (tp)
		behind = is_behind(&tp->inet_conn.icsk_inet.sk);
	bpf_sk_release(sniffer);
	return behind;
}

/* A SYN: is the handshake the web server's? */
static __always_inline bool early_syn(struct __sk_buff *skb, const struct packet *packet)
{
	struct early_syn syn = { .at_ns = bpf_ktime_get_ns() };
	__u32 ifindex = skb->ifindex;
	struct bpf_sock *listener;
	struct tcp_sock *tp;
	bool possible;
	__u8 *device;

	/* With data it may be a connection at once, too. */
	if (ifindex == LOOPBACK_IFINDEX || packet->len > packet->header_len ||
	    asks_accecn(packet) || !syn_fits(skb, packet))
		return false;
	if (syn.at_ns < early_shut_until_ns || !is_for_us(skb, packet) || is_sniffer_behind())
		return false;
	listener =
		listener_lookup(skb, packet->key.remote, packet->key.local, packet->key.local_port);
	if (!listener)
		return false;
	tp = listener->state == STATE_LISTEN ? bpf_skc_to_tcp_sock(listener) : NULL;
	possible = tp && early_possible(skb, tp);
	bpf_sk_release(listener);
	if (!possible || bpf_map_update_elem(&early_syns, &packet->key, &syn, BPF_ANY))
		return false;
	device = bpf_map_lookup_elem(&guarded_devices, &ifindex);
	if (device)
		*device = DEVICE_USED;
	return true;
}

/* Has the client agreed to MPTCP? That a listener would have is not enough. */
static __always_inline bool speaks_mptcp(const struct tcp_request_sock *request)
{
	const struct mptcp_subflow_request_sock *subflow;

	if (!bpf_core_type_exists(struct mptcp_subflow_request_sock) || !request->is_mptcp)
		return false;
	subflow = bpf_rdonly_cast(request,
				  bpf_core_type_id_kernel(struct mptcp_subflow_request_sock));
	return BPF_CORE_READ_BITFIELD(subflow, mp_capable) ||
	       BPF_CORE_READ_BITFIELD(subflow, mp_join);
}

enum take {
	TAKEN,
	TAKE_LATER, /* there is no room: TCP repeats the packet */
	TAKE_NEVER, /* no socket can be made of such a request */
};

/* What a socket has to know that is made of this request. */
static __always_inline enum take request_read(const struct tcp_request_sock *request, bool v4,
					      struct guard *guard)
{
	const struct inet_request_sock *inet = &request->req;
	const struct netns_ipv4 *ipv4 = &inet->req.__req_common.skc_net.net->ipv4;
	__u8 options = 0;

	if (BPF_CORE_READ_BITFIELD(inet, tstamp_ok))
		options |= OPTION_TSTAMP;
	if (BPF_CORE_READ_BITFIELD(inet, sack_ok))
		options |= OPTION_SACK;
	if (BPF_CORE_READ_BITFIELD(inet, wscale_ok))
		options |= OPTION_WSCALE;
	if (BPF_CORE_READ_BITFIELD(inet, ecn_ok))
		options |= OPTION_ECN;
	if (bpf_core_field_exists(request->req_usec_ts) && request->req_usec_ts)
		options |= OPTION_USEC_TS;
	guard->options = options;
	guard->snd_wscale = BPF_CORE_READ_BITFIELD(inet, snd_wscale);
	guard->rcv_wscale = BPF_CORE_READ_BITFIELD(inet, rcv_wscale);
	guard->mss = inet->req.mss;
	guard->ts_recent = inet->req.ts_recent;
	guard->tsoffset = request->ts_off;
	guard->rcv_nxt = guard->first_seq = request->rcv_isn + 1;
	guard->snd_nxt = request->snt_isn + 1;

	if (bpf_core_field_exists(request->accecn_ok) && request->accecn_ok)
		return TAKE_NEVER;
	if (guard->mss < (v4 ? MSS_MIN_V4 : MSS_MIN_V6))
		return TAKE_NEVER;
	return ipv4->sysctl_tcp_syncookies && options_permitted(ipv4, options) ? TAKEN : TAKE_LATER;
}

/* Holds the packet, and tells the process. */
static __always_inline enum take early_take(struct __sk_buff *skb, struct packet *packet,
					    const struct tcp_request_sock *request)
{
	enum take result = TAKE_LATER;
	struct early_event *event;
	struct guard *guard;

	event = bpf_ringbuf_reserve(&early_events, sizeof(*event), 0);
	if (!event)
		return TAKE_LATER;
	__builtin_memset(event, 0, sizeof(*event));
	event->key = packet->key;
	event->ifindex = skb->ifindex;
	result = request_read(request, is_v4(packet->key.local), &event->guard);
	if (result != TAKEN)
		goto discard;
	result = TAKE_LATER;
	event->snd_wnd = (__u32)bpf_ntohs(packet->tcp.window) << event->guard.snd_wscale;
	/* No socket's: those are counted up from 1. */
	event->guard.cookie =
		1ull << 63 | (__u64)bpf_get_prandom_u32() << 31 | bpf_get_prandom_u32() >> 1;
	event->guard.parking = PARKING_ON;
	event->guard.to_sniffer = 1;
	if (bpf_map_update_elem(&guards, &packet->key, &event->guard, BPF_NOEXIST))
		goto discard;
	__sync_fetch_and_add(&n_guards, 1);
	guard = bpf_map_lookup_elem(&guards, &packet->key);
	/* What can't be held TCP repeats, to the sniffer. */
	if (guard && !hold(skb, AT_DEVICE, packet, guard))
		count(COUNTER_PARK_DROPPED);
	bpf_ringbuf_submit(event, 0);
	count(COUNTER_EARLY_TAKEN);
	return TAKEN;
discard:
	bpf_ringbuf_discard(event, 0);
	return result;
}

/* The request is not there: a SYN cookie, or the packet had another name here than it gets. */
static __always_inline void early_lost_sight(const struct early_syn *syn)
{
	if (!is_fresh(syn))
		return;
	count(COUNTER_EARLY_UNREAD);
	early_shut_until_ns = bpf_ktime_get_ns() + EARLY_SHUT_NS;
}

/*
 * The client has answered a SYN-ACK, and says nothing with that: is it waited for what it says?
 * Until the next SYN-ACK, if it was silent before it; longer, if what it has said is lost.
 */
static __always_inline bool early_waits(const struct packet *packet, struct early_syn *syn,
					const struct tcp_request_sock *request)
{
	__u8 timeouts = BPF_CORE_READ_BITFIELD(&request->req.req, num_timeout);

	if (packet->tcp.fin || timeouts > MAX_PATIENT_TIMEOUTS)
		return false;
	if (bpf_ntohl(packet->tcp.seq) != request->rcv_isn + 1)
		return true;
	if (!syn->acked) {
		syn->acked = true;
		syn->timeouts = timeouts;
	}
	return timeouts == syn->timeouts;
}

/* Has whoever made this request gone since? */
static __always_inline bool is_orphan(const struct tcp_request_sock *request)
{
	return BPF_CORE_READ(request, req.req.__req_common.skc_listener, __sk_common.skc_state) !=
	       STATE_LISTEN;
}

/* A packet to whoever has made this request: does it go on? */
static __always_inline int early_judge(struct __sk_buff *skb, struct packet *packet,
				       struct early_syn *syn,
				       const struct tcp_request_sock *request)
{
	__u32 payload = packet->len - packet->header_len;

	if (bpf_ntohl(packet->tcp.ack_seq) != request->snt_isn + 1 || !packet->tcp.ack ||
	    packet->len < packet->header_len || speaks_mptcp(request))
		return TCX_NEXT;
	if (!payload) {
		if (!early_waits(packet, syn, request))
			return TCX_NEXT;
		count(COUNTER_EARLY_DEFERRED);
		return TCX_DROP;
	}
	/* A web server that is being restarted: a sniffer waits for it. */
	if (!is_orphan(request) && bpf_ntohl(packet->tcp.seq) == request->rcv_isn + 1 &&
	    hello_look(skb, ip_offset(skb) + packet->header_len, payload) == HELLO_VISITOR) {
		syn->hello_seq = packet->tcp.seq;
		syn->passed = true;
		count(COUNTER_EARLY_PASSED);
		return TCX_NEXT;
	}
	switch (early_take(skb, packet, request)) {
	case TAKEN:
		return TCX_DROP;
	case TAKE_LATER:
		return BPF_CORE_READ_BITFIELD(&request->req.req, num_timeout) <=
				       MAX_PATIENT_TIMEOUTS
			       ? TCX_DROP
			       : TCX_NEXT;
	default:
		return TCX_NEXT;
	}
}

/* Is the lease good, and the packet one to be looked at? With a tag it comes by here again, on the
 * device that it is for. */
static __always_inline bool is_early_packet(struct __sk_buff *skb, const struct packet *packet,
					    __u64 lease)
{
	return !packet->tcp.rst && !skb->vlan_present && skb->pkt_type == PACKET_HOST &&
	       bpf_ktime_get_ns() < lease;
}

/*
 * A packet of a connection without a guard entry. Only what was asked of its SYN makes sure that
 * the connection may be taken: another's handshake is let be. Nearly all packets are none of a
 * handshake: for those it is a look-up or two.
 */
static __always_inline int early(struct __sk_buff *skb, struct packet *packet)
{
	struct tcp_request_sock *request;
	struct early_syn *syn;
	struct bpf_sock *sk;
	int verdict = TCX_NEXT;
	__u64 lease;

	lease = early_lease(packet);
	if (!lease)
		return TCX_NEXT;
	if (packet->tcp.syn) {
		/* One of that name may have been the web server's before. */
		if (!packet->tcp.ack && is_early_packet(skb, packet, lease) &&
		    !early_syn(skb, packet))
			bpf_map_delete_elem(&early_syns, &packet->key);
		return TCX_NEXT;
	}
	syn = bpf_map_lookup_elem(&early_syns, &packet->key);
	if (!syn || (syn->passed && packet->tcp.seq != syn->hello_seq) ||
	    !is_early_packet(skb, packet, lease))
		return TCX_NEXT;
	sk = connection_lookup(skb, &packet->key);
	if (!sk)
		return TCX_NEXT;
	if (sk->state == STATE_LISTEN) {
		early_lost_sight(syn);
	} else if (sk->state == STATE_NEW_SYN_RECV) {
		/* Not bpf_skc_to_tcp_request_sock(): it has none for an MPTCP listener. */
		request = bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_request_sock));
		verdict = early_judge(skb, packet, syn, request);
	} else {
		/* Somebody has the connection: no more is asked. */
		bpf_map_delete_elem(&early_syns, &packet->key);
	}
	bpf_sk_release(sk);
	return verdict;
}

#endif
