/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel structs that the programs read, and of those the few members. The offsets are
 * found when the programs are loaded (CO-RE), so order and gaps mean nothing here.
 */
#ifndef KERNEL_TYPES_H
#define KERNEL_TYPES_H

#include <linux/types.h>
#include <stdbool.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct netns_ipv4 {
	__u8 sysctl_tcp_syncookies;
	__u8 sysctl_tcp_synack_retries;
	__u8 sysctl_tcp_sack;
	__u8 sysctl_tcp_timestamps;
	__u8 sysctl_tcp_window_scaling;
};

struct ns_common {
	unsigned int inum;
};

struct nf_hook_entries;

struct netns_xfrm {
	unsigned int policy_count[6]; /* XFRM_POLICY_IN first */
};

struct netns_nf {
	struct nf_hook_entries *hooks_ipv4[5]; /* NF_INET_NUMHOOKS */
	struct nf_hook_entries *hooks_ipv6[5];
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
	struct netns_nf nf;
	struct netns_xfrm xfrm; /* not there without CONFIG_XFRM */
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device;

struct sk_buff {
	struct net_device *dev;
	__u8 ip_summed : 2;
	__u16 network_header;
	__u16 mac_header;
	struct sock *sk;
};

/* Of the names of its bits, the one that is asked for. */
enum netdev_priv_flags {
	IFF_L3MDEV_SLAVE = 2097152,
};

struct net_device {
	int ifindex;
	unsigned long priv_flags : 32; /* a member like others before Linux 6.8 */
};

struct xfrm_state;

struct dst_entry {
	struct net_device *dev;
	struct xfrm_state *xfrm; /* not there without CONFIG_XFRM */
};

struct sock;

struct sock_common {
	struct sock *skc_listener; /* of a request */
	__be16 skc_dport;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_reuse : 4;
	possible_net_t skc_net;
	atomic64_t skc_cookie;
};

struct sock_reuseport {
	unsigned int synq_overflow_ts;
};

struct sock {
	struct sock_common __sk_common;
	struct sock_reuseport *sk_reuseport_cb;
	int sk_rx_dst_ifindex;
	struct dst_entry *sk_dst_cache;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct request_sock {
	struct sock_common __req_common;
	__u16 mss;
	__u8 num_timeout : 7;
	__u32 ts_recent;
};

struct inet_request_sock {
	struct request_sock req;
	__u16 snd_wscale : 4;
	__u16 rcv_wscale : 4;
	__u16 tstamp_ok : 1;
	__u16 sack_ok : 1;
	__u16 wscale_ok : 1;
	__u16 ecn_ok : 1;
	__u16 no_srccheck : 1;
};

struct tcp_request_sock {
	struct inet_request_sock req;
	bool is_mptcp;
	bool req_usec_ts; /* Linux 6.8 */
	bool accecn_ok;	  /* Linux 6.18 */
	__u32 rcv_isn;
	__u32 snt_isn;
	__u32 ts_off;
};

/* A request whose tcp_request_sock.is_mptcp is set: that of an MPTCP listener. */
struct mptcp_subflow_request_sock {
	struct tcp_request_sock sk;
	__u16 mp_capable : 1;
	__u16 mp_join : 1;
};

struct request_sock_queue {
	atomic_t qlen;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	__u8 icsk_syn_retries; /* TCP_SYNCNT; 0: the sysctl's */
	struct request_sock_queue icsk_accept_queue;
};

struct tcp_options_received {
	int ts_recent_stamp; /* of a listener: tcp_synq_overflow() */
	__u32 ts_recent;
	__u16 tstamp_ok : 1;
	__u16 wscale_ok : 1;
	__u16 sack_ok : 3;
	__u16 snd_wscale : 4;
	__u16 rcv_wscale : 4;
	__u8 num_sacks;
	__u16 mss_clamp;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 snd_wnd;
	__u32 tsoffset;
	__u8 ecn_flags;
	__u8 tcp_usec_ts : 1;
	struct tcp_options_received rx_opt;
	bool is_mptcp;
};

/* Argument of bpf_sk_assign_tcp_reqsk(), Linux 6.9 net/core/filter.c. */
struct bpf_tcp_req_attrs {
	__u32 rcv_tsval;
	__u32 rcv_tsecr;
	__u16 mss;
	__u8 rcv_wscale;
	__u8 snd_wscale;
	__u8 ecn_ok;
	__u8 wscale_ok;
	__u8 sack_ok;
	__u8 tstamp_ok;
	__u8 usec_ts_ok;
	__u8 reserved[3];
};

#pragma clang attribute pop

#endif
