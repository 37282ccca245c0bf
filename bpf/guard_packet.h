/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A TCP packet as the attached programs see it: read, and held. Part of handoff.bpf.c. */
#ifndef GUARD_PACKET_H
#define GUARD_PACKET_H

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
	/* Pieces get new checksums: not of what may have been damaged, and nobody has looked yet.
	 */
	if (packet->len - header_len > HELD_PIECE && !piece->no_checksum &&
	    ip_summed != CHECKSUM_UNNECESSARY)
		return false;
	holding.piece = piece;
	bpf_loop(HELD_PER_GUARD, hold_piece, &holding, 0);
	if (holding.done)
		count(COUNTER_HELD);
	return holding.done;
}

#endif
