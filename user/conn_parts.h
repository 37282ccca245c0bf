/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the files of conn*.c share: a connection's insides, and the ways that it can go. */
#ifndef CONN_PARTS_H
#define CONN_PARTS_H

#include "conn.h"

struct conn {
	uint8_t ref; /* REF_CONN; first */
	uint8_t state;
	bool polled;	  /* in epoll */
	bool lowat;	  /* its SO_RCVLOWAT is not 1 */
	bool client_done; /* it sent FIN */
	bool in_haste;	  /* see conn_accept() */
	bool waited_for;  /* it has a place among the unclassified */
	bool over_relays; /* it could not be relayed at once, and was counted */
	bool acme;	  /* it asks for acme-tls/1 */
	bool responder_down;
	uint16_t reason; /* why it is relayed */
	int fd;
	size_t need; /* SNIFFING: waits for so many bytes; 0: for nothing so far */
	struct timer timer;
	struct conn *next;
	struct conn **link;	   /* what points at us */
	uint64_t deadline_ns;	   /* SNIFFING: then it goes as it stands */
	uint64_t waiting_since_ns; /* 0: the target was not tried yet */
	uint64_t absent_since_ns;  /* 0: somebody was there the last time */
	uint64_t retry_ns;
	char *sni;	     /* for the log and the tally, owned; NULL: not known, or not needed */
	struct tally *tally; /* of the window that it belongs to */
	struct relay *relay; /* CONNECTING, RELAYING */
	struct route web_server;
	struct route route;
	struct handoff_job job;
};

/* Has the relay got it? */
static inline bool conn_in_relay(enum conn_state state)
{
	return state == CONN_CONNECTING || state == CONN_RELAYING;
}

/* A new one in the owner's list: SNIFFING with @fd, or without one (-1). NULL: no memory. */
struct conn *conn_new(struct conn_owner *owner, int fd);

/* What follows from an attempt to hand off, or to go on with one. */
void conn_handoff_answered(struct conn_owner *owner, struct conn *conn, enum handoff_answer answer,
			   uint64_t now);

void conn_count(struct conn_owner *owner, enum conn_counter what);

/* What has become of it, said once: to the log, and to its window's tally. */
void conn_report(struct conn_owner *owner, const struct conn *conn, enum conn_outcome outcome);

void conn_set_state(struct conn_owner *owner, struct conn *conn, enum conn_state state);

/* It is over for us; freed by conn_reap(). */
void conn_close(struct conn_owner *owner, struct conn *conn);

/* Nobody can take it: the client is told at once, as a closed port would. */
void conn_reset(struct conn_owner *owner, struct conn *conn);

/*
 * The target is not ready: the connection stays where it is and is tried again. @absent: nobody is
 * there; else there is, but can't take it now.
 */
void conn_wait_for_target(struct conn_owner *owner, struct conn *conn, bool absent, uint64_t now);

/* Gives the connection to conn->route. */
void conn_dispatch(struct conn_owner *owner, struct conn *conn, uint64_t now);

/* Relays it instead; @reason: enum seize_result or relay_reason. */
void conn_relay(struct conn_owner *owner, struct conn *conn, unsigned reason, uint64_t now);

/* Makes owner->relay ready. 0 or -errno. */
int conn_relay_init(struct conn_owner *owner);

#endif
