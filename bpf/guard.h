/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: two programs that are attached to devices, and one to the old socket. They adopt, hold
 * what the client sends in the gap, and keep back what it must not hear. Part of handoff.bpf.c.
 */
#ifndef GUARD_H
#define GUARD_H

#include "handoff_common.h"

/* Where a program sees packets: what skb->data points to is different. */
enum place {
	AT_DEVICE, /* the link header, if the device has one; headers may be in fragments */
	AT_SOCKET, /* the TCP header; all headers are linear */
};

/* A TCP packet as the attached programs need it. */
struct packet {
	struct flow_key key;
	__u32 len;	  /* from the IP header on */
	__u32 header_len; /* IP and TCP, with options */
	struct tcphdr tcp;
};

/*
 * Where the IP header is, from skb->data on: behind the link header. That begins at skb->data both
 * ways, see __dev_queue_xmit() and sch_handle_ingress(), and has no length if the device has none.
 */
static __always_inline __u32 ip_offset(struct __sk_buff *skb)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);

	return kernel_skb->network_header - kernel_skb->mac_header;
}

/* Reads @len bytes of a packet's headers from @offset behind the beginning of its IP header. */
static __always_inline long header_read(struct __sk_buff *skb, enum place place, __u32 offset,
					void *to, __u32 len)
{
	/* Reads linear packets only. */
	if (place == AT_SOCKET)
		return bpf_skb_load_bytes_relative(skb, offset, to, len, BPF_HDR_START_NET);
	return bpf_skb_load_bytes(skb, ip_offset(skb) + offset, to, len);
}

/*
 * Reads a packet's addresses and TCP header. @ingress: we are the destination. False: not TCP, a
 * fragment, or TCP behind an IPv6 extension header; no connection is guarded on such.
 */
static __always_inline bool packet_read(struct __sk_buff *skb, enum place place, bool ingress,
					struct packet *packet)
{
	__u8 *source = ingress ? packet->key.remote : packet->key.local;
	__u8 *dest = ingress ? packet->key.local : packet->key.remote;
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (header_read(skb, place, 0, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP ||
		    (ip.frag_off & bpf_htons(0x3fff)))
			return false;
		*(__u16 *)(source + 10) = 0xffff;
		*(__u16 *)(dest + 10) = 0xffff;
		*(__u32 *)(source + 12) = ip.saddr;
		*(__u32 *)(dest + 12) = ip.daddr;
		offset = ip.ihl * 4;
		packet->len = bpf_ntohs(ip.tot_len);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip6;

		if (header_read(skb, place, 0, &ip6, sizeof(ip6)) || ip6.nexthdr != IPPROTO_TCP)
			return false;
		__builtin_memcpy(source, &ip6.saddr, 16);
		__builtin_memcpy(dest, &ip6.daddr, 16);
		offset = sizeof(ip6);
		packet->len = bpf_ntohs(ip6.payload_len) + sizeof(ip6);
	} else {
		return false;
	}
	if (header_read(skb, place, offset, &packet->tcp, sizeof(packet->tcp)))
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
#define ADOPT_ON(listener)                                                                        \
	({                                                                                        \
		struct tcp_sock *_tp =                                                            \
			(listener)->state == STATE_LISTEN ? bpf_skc_to_tcp_sock(listener) : NULL; \
		int _err = ADOPT_NO_LISTENER;                                                     \
		if (_tp)                                                                          \
			_err = bpf_sk_assign_tcp_reqsk(skb, (struct sock *)_tp, &attrs,           \
						       sizeof(attrs));                            \
		bpf_sk_release(listener);                                                         \
		_err;                                                                             \
	})

/*
 * Will NAT leave the request that the packet has just been given in place? See user/primer.h. What
 * is asked here is what inet_sk_transparent() and nf_nat_inet_port_was_mangled() ask.
 */
static __always_inline bool request_survives(struct __sk_buff *skb, const struct packet *packet)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	struct inet_request_sock *request = (void *)BPF_CORE_READ(kernel_skb, sk);
	struct net *net = BPF_CORE_READ(request, req.__req_common.skc_net.net);

	return !bpf_core_field_exists(request->no_srccheck) ||
	       !is_filtered(net, skb->protocol == bpf_htons(ETH_P_IP)) ||
	       BPF_CORE_READ_BITFIELD_PROBED(request, no_srccheck) ||
	       BPF_CORE_READ(request, req.__req_common.skc_dport) == packet->tcp.source;
}

static __always_inline int adopt(struct __sk_buff *skb, struct packet *packet, struct guard *guard)
{
	struct bpf_tcp_req_attrs attrs = {};
	struct bpf_sock *sk;
	int err = ADOPT_NO_LISTENER;

	/* Injected twice: perhaps the first made the socket, and this is a repeated segment to it.
	 */
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
	if (!err && !guard->unprimed && !request_survives(skb, packet))
		err = ADOPT_UNPRIMED; /* and it goes with the packet */
	guard->adopt_error = err;
	guard->adopt_cpu = bpf_get_smp_processor_id();
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
	__u32 start; /* of the payload, from skb->data on */
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
	if (n > 0 && bpf_skb_load_bytes(holding->skb, holding->start + offset,
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
 * Keeps a copy of what the client sends in the gap. A packet that was merged (GRO, or a sender's
 * GSO on this host) is kept in pieces that can be injected. False: no room for all of it.
 */
static __always_inline bool hold(struct __sk_buff *skb, enum place place, struct packet *packet,
				 struct guard *guard)
{
	struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	struct holding holding = { .skb = skb, .packet = packet, .guard = guard };
	__u32 header_len = packet->header_len;
	struct held *piece;
	__u32 zero = 0;
	__u8 ip_summed;

	piece = bpf_map_lookup_elem(&held_scratch, &zero);
	if (!piece || header_len < 40 || header_len > 120 || packet->len < header_len)
		return false;
	if (header_read(skb, place, 0, piece->packet, header_len))
		return false;
	holding.start = place == AT_SOCKET ? packet->tcp.doff * 4 : ip_offset(skb) + header_len;
	piece->cookie = guard->cookie;
	ip_summed = BPF_CORE_READ_BITFIELD_PROBED(kernel_skb, ip_summed);
	piece->no_checksum = skb->gso_segs > 1 || ip_summed == CHECKSUM_PARTIAL;
	/* Pieces get new checksums: not of what may have been damaged, and nobody has looked yet. */
	if (packet->len - header_len > HELD_PIECE && !piece->no_checksum &&
	    ip_summed != CHECKSUM_UNNECESSARY)
		return false;
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

	if (guard->parking == PARKING_PASS) {
		if (parked)
			skb->mark = 0;
		return TCX_NEXT;
	}
	/* A mark of somebody else's could not be given back: TCP repeats the packet. */
	if (guard->parking == PARKING_DROP || rounds >= PARK_MAX_ROUNDS || (skb->mark && !parked)) {
		count(COUNTER_PARK_DROPPED);
		return TCX_DROP;
	}
	count(parked ? COUNTER_PARK_ROUNDS : COUNTER_PARKED);
	skb->mark = MARK_PARK | rounds;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* For guards_passed(). Where it is noted, to be forgotten; NULL: it is not. */
static __always_inline __u64 *pass_note(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	__u64 *slot = &passed[PASSED_SLOT(cookie)];
	struct tcphdr tcp;
	__u32 end;

	if (bpf_skb_load_bytes(skb, 0, &tcp, sizeof(tcp)))
		return NULL;
	end = bpf_ntohl(tcp.seq) + skb->len - tcp.doff * 4 + tcp.fin;
	/* Ordered: whoever publishes a guard entry that is not seen from here on sees the note. */
	__sync_lock_test_and_set(slot, cookie << 32 | end);
	return slot;
}

/*
 * Attached to the sniffers, and so to all that they accept: a packet that was on its way from
 * guard_ingress to the old socket when the guard entry appeared is held like those that come later.
 * One that had got past here by then is noted.
 */
SEC("socket")
int guard_socket(struct __sk_buff *skb)
{
	__u64 *noted = pass_note(skb);
	struct packet packet = {};
	struct guard *guard;

	if (n_guards == 0 || !packet_read(skb, AT_SOCKET, true, &packet))
		return skb->len;
	guard = bpf_map_lookup_elem(&guards, &packet.key);
	/* Adopted back it comes to a sniffer once more, which is to have it. */
	if (!guard || guard->to_sniffer || !hold(skb, AT_SOCKET, &packet, guard))
		return skb->len;
	if (noted)
		*noted = 0;
	return 0;
}

SEC("tc")
int guard_ingress(struct __sk_buff *skb)
{
	bool ours = skb->mark == MARK_INJECT;
	bool parked = (skb->mark & MARK_MASK) == MARK_PARK;
	struct packet packet = {};
	struct guard *guard;

	/* With RPS it comes from another CPU, and the guard entry may be gone by then, or not. */
	if (skb->mark == MARK_HELD) {
		skb->mark = 0;
		return TCX_NEXT;
	}
	if (!ours && !parked && n_guards == 0)
		return TCX_NEXT;
	if (!packet_read(skb, AT_DEVICE, true, &packet))
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
	if (guard && !parked && hold(skb, AT_DEVICE, &packet, guard)) {
		/*
		 * If the entry went meanwhile the process may have counted without this one: then it
		 * passes. Twice does no harm, TCP knows that it has it.
		 */
		return bpf_map_lookup_elem(&guards, &packet.key) ? TCX_DROP : TCX_NEXT;
	}
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
	/*
	 * The new socket's packets are told by their owner. A reset for a packet that found no
	 * connection is owned by the kernel's own raw socket or, from Linux 6.13 on, by the
	 * listener.
	 */
	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (sk && (sk->type != SOCK_STREAM || sk->state == STATE_LISTEN))
		sk = NULL;
	if (n_guards == 0 && sk)
		return TCX_NEXT;
	if (!packet_read(skb, AT_DEVICE, false, &packet) || (n_guards == 0 && !packet.tcp.rst))
		return TCX_NEXT;
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

#endif
