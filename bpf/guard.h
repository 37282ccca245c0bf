/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: two programs that are attached to devices, and one to the old socket. They adopt, hold
 * what the client sends in the gap, and keep back what it must not hear. Part of handoff.bpf.c.
 */
#ifndef GUARD_H
#define GUARD_H

#include "early.h"
#include "guard_packet.h"
#include "handoff_common.h"

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
	struct sock *sk = kernel_skb->sk;
	struct inet_request_sock *request = (void *)sk;

	if (!bpf_core_field_exists(request->no_srccheck) || !sk ||
	    !is_filtered(sk->__sk_common.skc_net.net, skb->protocol == bpf_htons(ETH_P_IP)))
		return true;
	return BPF_CORE_READ_BITFIELD_PROBED(request, no_srccheck) ||
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

/* One of ours. The device may have got another address since it was asked for the frame's. */
static __always_inline void for_this_host(struct __sk_buff *skb)
{
	skb->mark = 0;
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
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
		for_this_host(skb);
		return TCX_NEXT;
	}
	if (!ours && !parked && n_guards == 0 && n_early_ports == 0)
		return TCX_NEXT;
	if (!packet_read(skb, AT_DEVICE, true, &packet))
		return TCX_NEXT;
	if (!ours && !parked && n_guards == 0)
		return early(skb, &packet);
	guard = bpf_map_lookup_elem(&guards, &packet.key);
	if (ours) {
		for_this_host(skb);
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
	if (parked) {
		skb->mark = 0;
		return TCX_NEXT;
	}
	return n_early_ports ? early(skb, &packet) : TCX_NEXT;
}

/* Was any connection released a moment ago? It is forgotten here, so that packets cost no look at
 * the clock. */
static __always_inline bool is_released_lately(void)
{
	__u64 until_ns = released_until_ns;

	if (!until_ns)
		return false;
	if (bpf_ktime_get_coarse_ns() < until_ns)
		return true;
	__sync_val_compare_and_swap(&released_until_ns, until_ns, 0);
	return false;
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

	if (n_guards == 0 && !is_released_lately())
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
