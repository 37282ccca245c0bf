// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hand-off: moving a live TCP connection from the sniffer's socket to another listener.
 *
 * The process runs these programs by BPF_PROG_TEST_RUN, in this order for one connection:
 *   handoff_seize   is the target able to take it? If so freeze: publish a guard entry,
 *                   and read all that the new socket has to know; (the process lets the old socket
 *                   go: TCP_REPAIR and close())
 *   handoff_inject  sends the client's bytes in once more, as segments from the wire;
 *   handoff_commit  is the new socket there, and has it all? Then the guard entry goes;
 *   handoff_replay  both in one test-run, which is all that most connections need.
 * and three are attached (guard.h), two of them to the devices that such connections use:
 *   guard_ingress   gives the first replayed segment to the target's listener, which makes an
 *                   established socket of it, and holds back what the client sends meanwhile;
 *   guard_egress    holds back what would tell the client otherwise: resets, and the old socket's
 *                   acknowledgements of bytes that it takes with it;
 *   guard_socket    holds, at the old socket, what had passed guard_ingress by then.
 * handoff_preflight asks the first question alone, for a window that is about to be opened.
 *
 * A connection has a guard entry exactly while it is in neither socket. Connections without one
 * pass all of them untouched.
 */
#include "guard.h"
#include "handoff_common.h"

/*
 * Can the target's listener adopt a connection of a client at @remote, to @local_port (0: not known
 * yet)? Without SO_REUSEADDR the connection, and its TIME-WAIT for a minute, would keep the web
 * server from binding that port anew: inet_csk_bind_conflict().
 */
static __always_inline enum seize_result
listener_check(struct __sk_buff *skb, const __u8 remote[16], __be16 local_port,
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
	else if (local_port && local_port != target_port &&
		 !BPF_CORE_READ_BITFIELD(&sk->__sk_common, skc_reuse))
		result = SEIZE_NO_REUSE;
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
	return options_permitted(ipv4, options) ? SEIZE_OK : SEIZE_OPTIONS;
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

/*
 * Are its packets to be protected by IPsec? What is replayed is not, and tcp_v4_rcv() would drop it:
 * xfrm4_policy_check(). Policies are for both ways, and the way out is the one that is known.
 */
static __always_inline bool is_protected(const struct dst_entry *dst)
{
	return bpf_core_field_exists(dst->xfrm) && dst->xfrm;
}

/* Is it still the connection that was meant, can it be moved as it stands, is its way guarded? */
static __always_inline enum seize_result connection_check(struct seize_block *block,
							  struct tcp_sock *tp)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	/* __rcu, which a kernel's BTF may say: then the verifier wants to see it checked. */
	const struct dst_entry *dst = sk->sk_dst_cache;
	__u32 on = block->ifindex;
	__u32 in = sk->sk_rx_dst_ifindex;
	__u32 out = dst ? dst->dev->ifindex : 0;

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
	if (dst && is_protected(dst))
		return SEIZE_IPSEC;
	block->filtered = is_filtered(sk->__sk_common.skc_net.net, is_v4(block->key.local));
	if (block->filtered && !block->untranslated)
		return SEIZE_TRANSLATED;
	/* The test-run is made on the device where packets come in: listeners can be bound to one.
	 */
	if (in != on || !bpf_map_lookup_elem(&guarded_devices, &in) ||
	    (out && !bpf_map_lookup_elem(&guarded_devices, &out)))
		return SEIZE_DEVICE;
	if (tp->rx_opt.num_sacks)
		return SEIZE_UNORDERED;
	return SEIZE_OK;
}

static __always_inline enum seize_result
connection_seize(struct __sk_buff *skb, struct seize_block *block, struct tcp_sock *tp)
{
	struct guard *guard = &block->guard;
	enum seize_result result = connection_check(block, tp);

	if (result == SEIZE_OK)
		result = listener_check(skb, block->key.remote, block->key.local_port,
					guard->target, guard->target_port);
	if (result == SEIZE_OK)
		result = options_read(tp, guard, is_v4(block->key.local));
	if (result != SEIZE_OK)
		return result;
	guard->cookie = block->cookie;
	guard->first_seq = tp->copied_seq;
	guard->snd_nxt = tp->snd_nxt;
	guard->parking = PARKING_ON;
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
	block->result = listener_check(skb, block->remote, 0, block->target, block->target_port);
	return 0;
}

/* The frame is the test-run's data; the device and the mark are those that the process gave. */
SEC("tc")
int handoff_inject(struct __sk_buff *skb)
{
	return bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
}

/* Looks at the socket that the connection has now; returns a COMMIT_ result. */
static __always_inline enum commit_result
child_check(struct __sk_buff *skb, struct commit_block *block, struct guard *guard)
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
	__u64 cookie = guard->cookie;

	/* Given up it has no new socket, and the one reset that follows is the process's own. */
	if (!(block->flags & COMMIT_GIVE_UP)) {
		bpf_map_update_elem(&released, &block->key, &moment, BPF_ANY);
		released_until_ns = moment.until_ns;
	}
	if (!bpf_map_delete_elem(&guards, &block->key))
		__sync_fetch_and_sub(&n_guards, 1);
	/* guard_ingress may have held one more meanwhile; see there. */
	if (guard->cookie == cookie)
		block->n_held = guard->n_held;
}

static __always_inline void commit(struct __sk_buff *skb, struct commit_block *block)
{
	struct guard *guard = bpf_map_lookup_elem(&guards, &block->key);

	if (!guard) {
		block->result = COMMIT_NO_GUARD;
		return;
	}
	block->seen = guard->seen;
	block->adopt_error = guard->adopt_error;
	block->adopt_cpu = guard->adopt_cpu;
	if (block->flags & COMMIT_STOP_PARKING)
		guard->parking = PARKING_DROP;
	if (block->flags & COMMIT_TO_SNIFFER)
		guard->to_sniffer = 1;
	if (block->flags & COMMIT_UNPRIMED)
		guard->unprimed = 1;
	block->result = child_check(skb, block, guard);
	if (block->result == COMMIT_DONE && guard->n_held > block->n_held &&
	    !(block->flags & COMMIT_RELEASE)) {
		block->result = COMMIT_HELD;
		guard->parking = PARKING_PASS;
	}
	block->n_held = guard->n_held;
	if (block->result == COMMIT_DONE || (block->flags & COMMIT_GIVE_UP))
		release(block, guard);
}

SEC("tc")
int handoff_commit(struct __sk_buff *skb)
{
	struct commit_block *block = (void *)(long)skb->data;

	if ((void *)(block + 1) <= (void *)(long)skb->data_end)
		commit(skb, block);
	return 0;
}

/*
 * For a test-run of two runs. The first one injects the frame, and by the second the packet has gone
 * all its way, since bottom halves were on between the two (bpf_test_run()); unless it takes the way
 * over another CPU. So the second run nearly always finds the new socket. Returns a REPLAY_ result.
 */
SEC("tc")
int handoff_replay(struct __sk_buff *skb)
{
	struct commit_block block = {};
	struct packet packet = {};
	__u32 end;

	if (!skb->cb[0]) {
		long err = bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);

		/* Not before: the clone has a copy. */
		skb->cb[0] = err ? REPLAY_FAILED + 1 : REPLAY_INJECTED + 1;
		return REPLAY_FAILED;
	}
	if (skb->cb[0] != REPLAY_INJECTED + 1)
		return REPLAY_FAILED;
	if (!packet_read(skb, AT_DEVICE, true, &packet))
		return REPLAY_INJECTED;
	block.key = packet.key;
	commit(skb, &block);
	if (block.result == COMMIT_DONE)
		return REPLAY_DONE + block.n_held;
	end = bpf_ntohl(packet.tcp.seq) + packet.len - packet.header_len;
	if (block.result == COMMIT_INCOMPLETE && block.rcv_nxt == end)
		return REPLAY_TAKEN;
	return REPLAY_INJECTED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
