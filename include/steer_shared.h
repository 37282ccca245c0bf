/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the BPF programs and the process agree on: map keys and values, test-run blocks, counters.
 */
#ifndef STEER_SHARED_H
#define STEER_SHARED_H

#ifndef __bpf__
#include <linux/types.h>
#endif

/* Sniffer sockets: one per worker. */
#define STEER_MAX_SNIFFERS 64

/*
 * Steering passes new connections by while a sniffer's accept queue holds more than this, or than a
 * quarter of what it can: the process is behind, and the web server has room.
 */
#define STEER_BACKLOG_LIMIT 256

/* Ports that are watched for listeners. */
#define WATCH_MAX_PORTS 16
/* A page, on most machines the least there can be. */
#define WATCH_RING_BYTES 4096

/* A socket begins to listen on one of them, or ceases to. */
struct watch_event {
	__u64 at_ns; /* bpf_ktime_get_ns() */
	__u64 begins;
};

/* Connections between two sockets at one time. */
#define HANDOFF_MAX_GUARDS 16384

/*
 * skb->mark of our own packets, for the few microseconds between injection and the tcx program,
 * which clears it. No packet from the wire has a mark when it gets there.
 */
#define MARK_INJECT 0xac3e0000u
/* The same for what was held: the client's own packet, good for whoever has the connection by then.
 */
#define MARK_HELD 0xac3e0001u
/*
 * The same for packets of a guarded connection that are not held, and go round instead:
 * the low 16 bits count the rounds.
 */
#define MARK_PARK 0xac3f0000u
#define MARK_MASK 0xffff0000u

/*
 * Rounds before a parked packet is dropped (TCP repeats it). A round is some 0.3 microseconds of
 * softirq; a hand-off takes tens.
 */
#define PARK_MAX_ROUNDS 2000

/* One TCP connection as this host sees it. IPv4 is v4-mapped; ports in network order. */
struct flow_key {
	__u8 remote[16];
	__u8 local[16];
	__be16 remote_port;
	__be16 local_port;
};

/* Where one of the relay's own connections comes from. IPv4 is v4-mapped. */
struct relay_source {
	__u32 addr[4]; /* network order */
	__be16 port_be;
	__u16 pad;
};

/* TCP options that both ends agreed on, as bits of guard.options. */
#define OPTION_TSTAMP  0x01
#define OPTION_SACK    0x02
#define OPTION_WSCALE  0x04
#define OPTION_ECN     0x08
#define OPTION_USEC_TS 0x10

/* What becomes of a packet that can't be held. */
enum parking {
	PARKING_DROP, /* TCP repeats it: the wait is long */
	PARKING_ON,   /* it goes round */
	PARKING_PASS, /* the new socket has all that came before: it can have this one, too */
};

/* A connection that is in neither socket, or about to be. */
struct guard {
	__u64 cookie; /* SO_COOKIE of the socket that lets go; its late packets are told apart by it
		       */
	__u64 child_of;	 /* the same number once the new socket has sent something */
	__u32 rcv_nxt;	 /* frozen: nothing beyond may be acknowledged by that socket */
	__u32 first_seq; /* the replay's first sequence number */
	__u32 snd_nxt;	 /* the old socket's: where a reset of the connection would stand */
	__u32 ts_recent; /* newest timestamp value from the client */
	__u32 tsoffset;	 /* of the socket's own timestamps, in their unit */
	__u32 n_held;	 /* packets in the map of held packets, more if some found no room */
	__u8 target[16]; /* address to look the listener up by, v4-mapped */
	__be16 target_port;
	__u16 mss; /* the client's MSS */
	__u8 snd_wscale;
	__u8 rcv_wscale;
	__u8 options;	   /* OPTION_* */
	__u8 parking;	   /* enum parking */
	__u32 seen;	   /* first segments that the tcx program has looked at */
	__s32 adopt_error; /* of the last one: 0, the kfunc's -errno, or ADOPT_* */
	__u32 adopt_cpu;   /* where that was */
	__u32 unprimed;	   /* adopt also with a request that NAT may not leave in place */
	__u32 to_sniffer;  /* adopt back: the target's listener is gone */
	__u32 sniffer;	   /* index into the sniffers, for that */
};

/* A connection that the guard has taken before its handshake was over: a sniffer is to have it. */
struct early_event {
	struct guard guard; /* as it was published; guard.cookie is no socket's */
	struct flow_key key;
	__u32 ifindex; /* where its packets come in */
	__u32 snd_wnd; /* bytes, unscaled */
	__u32 pad;
};

#define ADOPT_NO_LISTENER (-2)	/* ENOENT */
#define ADOPT_UNPRIMED	  (-11) /* EAGAIN: NAT would take the new request away, see primer.h */

/* Packets, or pieces, of one connection that are held: more than a first receive window. */
#define HELD_PER_GUARD 128
/* Of all connections. */
#define HELD_MAX 4096
/*
 * A packet that the kernel has merged of several is held in pieces with so much payload: all that
 * fits behind the longest headers, so that one Ethernet packet stays whole, and keeps its checksum.
 */
#define HELD_PIECE 1464

struct held_key {
	struct flow_key flow;
	__u32 number; /* from 0, in the order they came */
};

/* A packet from the client that came in the gap, or a piece of one: the new socket gets it. */
struct held {
	__u64 cookie;	  /* guard.cookie: which connection of that name */
	__u32 offset;	  /* of this piece's payload in the whole packet's */
	__u16 len;	  /* bytes of packet */
	__u8 more;	  /* pieces follow; the headers are the whole packet's */
	__u8 no_checksum; /* it came from this host, or was merged: its TCP checksum is not there */
	__u8 packet[1584]; /* from the IP header on: what an Ethernet device carries, and some more
			    */
};

/*
 * The last packet that guard_socket let pass to each of so many sockets that sniffers accepted.
 * Above 32 bits the cookie's lower half, below them the sequence number that the packet reaches to.
 * 0: none.
 */
#define PASSED_SOCKETS 4096
/* Cookies go up side by side, one CPU's some thousands ahead of another's: gen_cookie_next(). */
#define PASSED_SLOT(cookie) ((__u32)((__u32)(cookie) * 2654435761u) >> 20)

/* A connection that was handed off a moment ago. */
struct released {
	__u64 until_ns; /* bpf_ktime_get_coarse_ns(): forget it then */
	__u32 snd_nxt;	/* guard.snd_nxt */
	__u32 pad;
};

/*
 * A lease: until when connections to a port are steered. Its lowest bit, of a nanosecond: the guard
 * may read visitors' ClientHellos on their way instead, see bpf/early.h.
 */
#define LEASE_PORTS 65536
#define LEASE_EARLY 1ull

/* Of a guarded device. */
#define DEVICE_GUARDED 1
#define DEVICE_USED    2 /* and a client came by it whose ClientHello the guard was to read */

/* Handshakes that the guard follows, see bpf/early.h: the oldest make room for new ones. */
#define EARLY_SYNS_MAX 16384
/*
 * What is known of such a handshake. It is written to where it was found: in a flood the entry may be
 * another's by then, a microsecond later, who is taken for what it is not, and is the web server's.
 */
struct early_syn {
	__u64 at_ns;	/* when the SYN passed its device, bpf_ktime_get_ns() */
	__be32 hello_seq; /* passed: where the ClientHello begins */
	__u8 passed;	/* the ClientHello was a visitor's; what comes behind it is let be */
	__u8 acked;	/* the client has answered a SYN-ACK, without saying anything */
	__u8 timeouts;	/* then, those that the request had had by then */
	__u8 pad[1];
};

/* A SYN is on its way from the device to the look-up of a listener for less than that. */
#define EARLY_SYN_NS 1000000000ull
/* Connections that were taken and that the process has not heard of yet: 64 KiB. */
#define EARLY_RING_BYTES 65536

/* How long a connection is a moment ago. */
#define RELEASED_NS 100000000ull

enum seize_result {
	SEIZE_OK,
	SEIZE_GONE,	   /* no such connection any more */
	SEIZE_STATE,	   /* not in a state to be moved (something in flight, AccECN ...) */
	SEIZE_UNORDERED,   /* segments wait out of order; soon they won't */
	SEIZE_DEVICE,	   /* a device it uses is not guarded yet: ret.ifindex, ret.ifindex_out */
	SEIZE_NO_LISTENER, /* nobody listens at the target */
	SEIZE_QUEUE_FULL,  /* the target's accept queue is full */
	SEIZE_MPTCP,	   /* the target's listener is MPTCP */
	SEIZE_FAMILY,	   /* an IPv6 client and a listener for IPv4 only */
	SEIZE_MSS,	   /* the client's MSS is below what the kernel adopts */
	SEIZE_SYNCOOKIES,  /* net.ipv4.tcp_syncookies is 0 */
	SEIZE_OPTIONS,	   /* sysctls no longer permit an option that was negotiated */
	SEIZE_FULL,	   /* no room for another guard entry */
	SEIZE_NO_REUSE,	   /* the target's listener, on another port, is without SO_REUSEADDR */
	SEIZE_TRANSLATED,  /* DNAT or redirect, or the process is yet to look for that */
	SEIZE_IPSEC,	   /* it comes by an IPsec policy, which would drop what is replayed */
	SEIZE_RESULTS
};

/* Test-run blocks begin like a frame: BPF_PROG_TEST_RUN wants an Ethernet header. */
struct run_header {
	__u8 ethernet[14];
	__u8 pad[2];
};

/* In and out of handoff_seize. */
struct seize_block {
	struct run_header header;
	struct flow_key key;
	__u32 ifindex; /* in: the device the test-run is made on; out: where packets come in */
	__u64 cookie;
	struct guard guard; /* in: target, sniffer; out: all of it */
	__u32 result;	    /* enum seize_result; the rest is written from here on */
	__u32 ifindex_out;  /* where packets go out; 0: not known yet */
	__u32 snd_wnd;	    /* bytes, unscaled */
	__u32 state;	    /* TCP_ESTABLISHED or TCP_CLOSE_WAIT */
	__u32 filtered;	    /* netfilter looks at packets to this host */
	__u32 untranslated; /* in: the process has looked, and that leaves the addresses alone */
};

enum commit_result {
	COMMIT_DONE,	 /* the new socket has everything; the guard entry is gone */
	COMMIT_HELD,	 /* the same, but packets are held, and so the guard entry is still there */
	COMMIT_NO_GUARD, /* there is no such entry */
	COMMIT_NO_CHILD, /* not there yet */
	COMMIT_INCOMPLETE, /* there, but part of the bytes is still with us */
};

#define COMMIT_STOP_PARKING 0x1 /* drop what comes in from now on: this takes longer */
#define COMMIT_TO_SNIFFER   0x2 /* adopt onto the sniffer from now on */
#define COMMIT_GIVE_UP	    0x4 /* remove the entry whatever is found */
#define COMMIT_RELEASE	    0x8 /* remove it although packets are held */
#define COMMIT_UNPRIMED	    0x10 /* set guard.unprimed */

/* In and out of handoff_commit. */
struct commit_block {
	struct run_header header;
	struct flow_key key;
	__u32 flags;	   /* COMMIT_* */
	__u32 result;	   /* enum commit_result */
	__u32 state;	   /* of the socket found; 0: none */
	__u32 rcv_nxt;	   /* the new socket's */
	__u32 seen;	   /* guard.seen */
	__s32 adopt_error; /* guard.adopt_error */
	__u32 adopt_cpu;   /* guard.adopt_cpu */
	__u32 n_held;	   /* in: those that the process has taken; out: guard.n_held */
};

/* What handoff_replay returns. */
enum replay_result {
	REPLAY_INJECTED, /* handoff_commit is to look further */
	REPLAY_FAILED,	 /* the segment surely did not arrive */
	REPLAY_TAKEN,	 /* the new socket has it, and is to have more */
	REPLAY_DONE,	 /* COMMIT_DONE; what is added to it is n_held */
};

/* In and out of handoff_preflight: what listens at an address? */
struct preflight_block {
	struct run_header header;
	__u8 remote[16]; /* only its family counts */
	__u8 target[16];
	__be16 target_port;
	__u16 pad;
	__u32 result; /* enum seize_result: SEIZE_OK or what is in the way */
};

/* A listener takes SYN cookies so long after it, or its group, has sent one: TCP_SYNCOOKIE_VALID. */
#define SYN_COOKIE_VALID_NS 120000000000ull

enum family {
	FAMILY_V4,
	FAMILY_V6,
	FAMILIES,
};

/*
 * When SYN cookies are sent and who takes them, in one family: see user/syn_cookies.c. Times of
 * bpf_ktime_get_ns(); 0: never.
 */
struct syn_cookie_times {
	__u64 flood_ns;		/* they may last have been sent; written by both sides */
	__u64 sniffers_take_ns; /* until then the sniffers take those of the web server */
	__u64 server_takes_ns;	/* until then the web server takes those of the sniffers */
};

/* In and out of steer_cookies: of whoever listens at an address. */
struct syn_cookies_block {
	struct run_header header;
	__u8 address[16]; /* v4-mapped; a wildcard is itself */
	__be16 port;
	__u16 pad;
	__u32 found;  /* somebody listens */
	__u32 sysctl; /* net.ipv4.tcp_syncookies */
	__u32 sent;   /* cookies may be under way that it has sent */
	__u32 takes;  /* it takes those of others, for at least another minute */
};

/* In and out of steer_queue. */
struct queue_block {
	struct run_header header;
	__u32 sniffer;
	__u32 accept_queue; /* connections to accept() */
	__u32 syn_queue;    /* handshakes under way */
	__u32 found;
};

/* clang-format off */
/* Per-CPU counters of steer.bpf.c. */
#define STEER_COUNTERS(X)                                                                         \
	X(STEERED, "steered", "new connections given to a sniffer")                               \
	X(PASSED_LEASE, "passed_lease_over", "passed by: no window, or its lease is over")        \
	X(PASSED_OVERLOAD, "passed_overload", "passed by: a sniffer's queue was long")            \
	X(PASSED_COOKIES, "passed_cookies", "passed by: not every listener takes SYN cookies")    \
	X(EARLY, "not_steered", "left to the web server, which their ClientHello is read on the way to")  \
	X(PASSED_RELAY, "passed_own", "passed by: the relay's own connection")                    \
	X(PASSED_NO_SNIFFER, "passed_no_sniffer", "passed by: no sniffer socket")                 \
	X(PASSED_ASSIGN, "passed_assign_error", "passed by: bpf_sk_assign refused the sniffer")
/* clang-format on */

/* clang-format off */
/* Per-CPU counters of handoff.bpf.c. */
#define GUARD_COUNTERS(X)                                                                         \
	X(ADOPTED, "adopted", "first segments given to a listener")                               \
	X(ADOPT_ERROR, "adopt_errors", "first segments that no listener took")                    \
	X(HELD, "held_packets", "packets that came in the gap and were given to the new socket")  \
	X(PARKED, "parked_packets", "packets that found no room and went round in the gap")                    \
	X(PARK_ROUNDS, "park_rounds", "rounds that those packets made")                           \
	X(PARK_DROPPED, "dropped_in_gap", "packets in the gap that TCP has to repeat")            \
	X(EGRESS_RST, "held_rst", "resets held back in the gap")                                  \
	X(LATE_RST, "held_late_rst", "resets held back right behind the gap")                     \
	X(EGRESS_ACK, "held_ack", "acknowledgements held back in the gap")                        \
	X(STALE, "stale_segments", "own segments that came too late and were dropped")             \
	X(EARLY_DEFERRED, "deferred_acks", "handshakes that wait for what the client says") \
	X(EARLY_PASSED, "read_in_passing", "ClientHellos read on their way, which is the web server's")      \
	X(EARLY_TAKEN, "taken_early", "connections given to a sniffer before the web server had them") \
	X(EARLY_UNREAD, "unread", "handshakes that the guard lost sight of")
/* clang-format on */

#define COUNTER_ENUM(id, name, text) COUNTER_##id,
enum steer_counter { STEER_COUNTERS(COUNTER_ENUM) STEER_COUNTER_COUNT };
enum guard_counter { GUARD_COUNTERS(COUNTER_ENUM) GUARD_COUNTER_COUNT };

_Static_assert(sizeof(struct flow_key) == 36, "flow_key is a map key: no padding");
_Static_assert(sizeof(struct guard) == 88, "guard is a map value: no padding");
_Static_assert(sizeof(struct early_event) % 8 == 0, "early_event: no padding");
_Static_assert(sizeof(struct run_header) == 16, "blocks are aligned behind the frame header");
_Static_assert(sizeof(struct seize_block) % 8 == 0, "seize_block: no padding");

#endif
