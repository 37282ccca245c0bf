/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One steered connection, from accept() until somebody else has it. */
#ifndef CONN_H
#define CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "conn_log.h"
#include "guards.h"
#include "handoff.h"
#include "hello.h"
#include "limit.h"
#include "relay.h"
#include "routes.h"
#include "shares.h"
#include "steer.h"
#include "timers.h"

/* clang-format off */
#define CONN_COUNTERS(X)                                                                           \
	X(ACCEPTED, "accepted", "connections that reached a sniffer")                              \
	X(HANDED_WEB, "handed_off_web", "handed off to the web server")                            \
	X(HANDED_RESPONDER, "handed_off_responder", "handed off to a responder")                   \
	X(RELAYED_WEB, "relayed_web", "relayed to the web server")                                 \
	X(RELAYED_RESPONDER, "relayed_responder", "relayed to a responder")                        \
	X(CLIENT_IP_LOST, "client_ip_lost", "relayed without the address that was to be kept")     \
	X(NO_CLIENT_IP, "no_client_ip", "reset: their address can't be kept, nor given up safely") \
	X(TIMED_OUT, "timed_out", "given to the web server without a whole ClientHello in time")   \
	X(OVER_LIMIT, "over_limit", "not waited for: so many are unclassified already")            \
	X(OVER_SHARE, "over_share", "not waited for: so many of its source are unclassified")      \
	X(OVER_RELAYS, "over_relays", "not relayed at once: so many are relayed already")          \
	X(NO_DESCRIPTOR, "no_descriptor", "not waited for: descriptors have run out")              \
	X(PASSED_ON, "passed_on", "given to the web server unclassified, the window being closed") \
	X(CLIENT_GONE, "client_gone", "closed: the client went away first")                        \
	X(WAITED, "waited", "waited for a target that was not ready at once")                      \
	X(RESPONDER_DOWN, "responder_down", "given to the web server, the responder not answering") \
	X(SERVER_DOWN, "server_down", "reset: no web server has taken it for seconds")             \
	X(LOST, "lost", "given up in a hand-off")                                                  \
	X(ACCEPT_PAUSED, "accept_paused", "times that accept() paused, descriptors having run out") \
	X(NOT_LOGGED, "not_logged", "without a line in the log: too many in a second")
/* clang-format on */

#define CONN_COUNTER_ENUM(id, name, text) CONN_##id,
enum conn_counter { CONN_COUNTERS(CONN_COUNTER_ENUM) CONN_COUNTER_COUNT };
extern const char *const conn_counter_names[CONN_COUNTER_COUNT];

enum conn_state {
	CONN_SNIFFING,	 /* waiting for a whole ClientHello */
	CONN_WAITING,	 /* classified; the target is not ready */
	CONN_ADOPTING,	 /* in neither socket: handoff_continue() */
	CONN_CONNECTING, /* the relay has it, and connects to the target */
	CONN_RELAYING,	 /* the relay has it */
	CONN_CLOSED,	 /* freed after the batch of events */
	CONN_STATES
};
extern const char *const conn_state_names[CONN_STATES];

/* What epoll points at begins with one of these. */
enum ref { REF_LISTENER, REF_WAKE, REF_EARLY, REF_CONN, REF_RELAY };

/* Why a connection was relayed: what seize found, or one of these. */
enum relay_reason {
	REASON_ASKED = SEIZE_RESULTS, /* --plane=relay */
	REASON_NO_HANDOFF,	      /* this kernel can't */
	REASON_ELSEWHERE,	      /* the target is on another host, or in another netns */
	RELAY_REASONS
};
extern const char *const conn_reason_names[RELAY_REASONS]; /* for programs */
const char *conn_reason_text(unsigned reason);

struct conn;

/* What the connections of one worker share. Only that worker's thread uses it, but for reading
 * numbers. */
struct conn_owner {
	struct routes *routes;
	struct handoff_worker *handoff; /* NULL: this kernel can't */
	struct relay_worker relay;
	struct steer
		*steer;	  /* to exempt the relay's connections; NULL: nothing is steered any more */
	unsigned sniffer; /* index */
	int epoll_fd;
	bool draining; /* the last window is closed: nothing is classified any more */
	struct timers timers;
	unsigned n_waited_for; /* unclassified connections that have a place */
	struct shares shares;  /* of the places */
	struct conn_log log;
	struct conn *first; /* all that are not closed */
	struct conn *closed;
	uint64_t counters[CONN_COUNTER_COUNT]; /* read by others: __atomic */
	uint64_t reasons[RELAY_REASONS];       /* why connections were relayed; likewise */
	uint32_t in_state[CONN_STATES];	       /* likewise */
	uint8_t peek[HELLO_MAX_STREAM];
};

/* Makes the relay ready; epoll_fd is set. 0 or -errno. */
int conn_owner_init(struct conn_owner *owner);

/*
 * A connection has been accepted: takes @fd. @in_haste: with the last descriptor, so it is
 * classified by what has come and given away at once.
 */
void conn_accept(struct conn_owner *owner, int fd, const struct sockaddr_storage *peer,
		 bool in_haste, uint64_t now);

/*
 * The guard has taken a connection before its handshake was over: has this worker's sniffer adopt
 * it. It is accepted then, like any other.
 */
void conn_take_early(struct conn_owner *owner, const struct early_event *event, uint64_t now);

/* epoll has @events (EPOLLIN ...) for it. */
void conn_event(struct conn_owner *owner, struct conn *conn, uint32_t events, uint64_t now);

/* Its timer has run out. */
void conn_timeout(struct conn_owner *owner, struct timer *timer, uint64_t now);

/* From now on nothing is classified: all that is being sniffed goes to the web server. */
void conn_drain(struct conn_owner *owner, uint64_t now);

/*
 * Descriptors have run out: the web server gets the one that has been waited for longest without a
 * ClientHello, which frees its descriptor if it can be handed off at once. False: there is none.
 */
bool conn_make_room(struct conn_owner *owner, uint64_t now);

/* Ends what is, or will be, relayed of windows whose tally is marked as killed. */
void conn_kill(struct conn_owner *owner);

/* Connections that are neither closed nor relayed. */
unsigned conn_unsettled(const struct conn_owner *owner);

/* Frees what was closed; no event may point there any more. */
void conn_reap(struct conn_owner *owner);

/* Closes all, for the end of the process. */
void conn_close_all(struct conn_owner *owner);

#endif
