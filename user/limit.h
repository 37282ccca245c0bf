/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every size, count and time that somebody else controls, and what happens there. At a limit of
 * connections the new one goes to the web server, and is counted; the manual's section LIMITS has
 * the same table. What the BPF programs share is in steer_shared.h: STEER_BACKLOG_LIMIT,
 * HANDOFF_MAX_GUARDS, HELD_MAX.
 */
#ifndef LIMIT_H
#define LIMIT_H

#include <stdint.h>

/* --- connections --- */

/*
 * Connections of one worker that are waited for, their ClientHello being incomplete. One more is
 * classified by what has come, and the web server has it if that is not enough: over_limit.
 */
#define CONN_MAX_UNCLASSIFIED 4096
/* Those of them from one address; an IPv6 /64 counts as one. The same: over_share. */
#define CONN_MAX_UNCLASSIFIED_PER_SOURCE 64

/* Bytes of a ClientHello that are put together, from any number of records. A longer one is none
 * to us: the web server has it. */
#define HELLO_MAX_HANDSHAKE 16384
/* Bytes of stream that are looked at for that: the message, and the headers of its records. */
#define HELLO_MAX_STREAM (HELLO_MAX_HANDSHAKE + 4096)
/* Bytes of a host name in SNI (RFC 6066 names are DNS names). A longer one makes it none, too. */
#define HELLO_MAX_SNI 255

/* Most milliseconds that a window may have its clients' ClientHello waited for: --sniff-timeout.
 * Then the web server has the connection: timed_out. */
#define WINDOW_MAX_SNIFF_MS 60000

/* A responder that refuses is asked again for so long; then the web server has the connection:
 * responder_down. */
#define CONN_RESPONDER_WAIT_NS (UINT64_C(5) * 1000000000)
/* The same for a web server that is not there (it is restarting, or has been stopped); then the
 * client is reset, as a closed port would: server_down. */
#define CONN_SERVER_WAIT_NS (UINT64_C(10) * 1000000000)
/* A full accept queue, segments missing, no room for one more relay: a client that comes directly
 * tries for as long. Then the same. */
#define CONN_QUEUE_WAIT_NS (UINT64_C(120) * 1000000000)

/* Bytes of the client's that move with a connection. With more it is relayed. */
#define HANDOFF_MAX_BYTES (8u << 20)
/* A connection whose new socket the kernel won't make is given up after this: lost. */
#define HANDOFF_DEADLINE_NS (UINT64_C(60) * 1000000000)
/* Devices that connections of one window come by. One that comes by another is relayed. */
#define GUARDS_MAX_DEVICES 256

/*
 * Connections that are relayed at once; and not more than take, by two descriptors each, seven
 * eighths of those that there may be. At fifteen sixteenths of it nothing new is steered, until
 * there are seven eighths: passed_lease_over. One that is among us already, and that only a relay
 * could take, is handed to the web server if this can be, or waits for a relay to end: over_relays.
 */
#define RELAY_MAX_CONNS 65536
#define RELAY_FDS_16THS 7
/* Nothing new is steered for so long after a relay found no source port to connect from. */
#define ROUTES_NO_PORTS_NS (UINT64_C(1) * 1000000000)

/* --- windows and challenges: one more is refused, with a line --- */

#define WINDOW_MAX	   64	/* open at once */
#define WINDOW_MAX_PORTS   8	/* of one window */
#define WINDOW_MAX_DOMAINS 100	/* of one window */
#define WINDOW_NAME_MAX	   63	/* bytes of a window's name: [A-Za-z0-9._-] */
#define WINDOW_MAX_TTL_S   3600 /* seconds that a window may stay open without being renewed */

#define CHALLENGE_MAX	    10000 /* at once */
#define CHALLENGE_MAX_PORTS 32	  /* different ones at once */

/* --- the built-in responder --- */

/* Handshakes at once; the one that has taken longest makes room for a new one. */
#define ANSWER_MAX_CONNS 1024
/* For a handshake; and for the client to close as well. Then the connection is closed. */
#define ANSWER_HANDSHAKE_NS (UINT64_C(10) * 1000000000)
#define ANSWER_CLOSING_NS   (UINT64_C(2) * 1000000000)

/* --- the control socket --- */

#define CTL_MAX_CONNS	      64	/* conversations at once; more wait in the accept queue */
#define CTL_MAX_REQUEST	      65536	/* bytes, the empty line included: longer is refused */
#define CTL_MAX_PAIRS	      256	/* key=value lines: more are refused */
/* bytes; 64 windows, each of 100 long names and with 64 asked for, are under 3 MiB */
#define CTL_MAX_ANSWER	      (4 << 20)
#define CTL_MAX_GROUPS	      65536	/* of a peer; the kernel's NGROUPS_MAX: more are refused */
#define CTL_REQUEST_TIMEOUT_S 5		/* to send the request, again to take the answer: dropped */
#define CTL_MAX_DRAIN_S	      86400 /* that a close waits for connections, when it says how long */

#define CLOSING_MAX	  CTL_MAX_CONNS
#define CLOSING_MAX_DRAIN 16 /* of them, those that may wait for long: one more is refused */

#endif
