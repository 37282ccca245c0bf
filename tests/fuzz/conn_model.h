/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel as conn.c sees it, and the modules below it, as a model: clients whose bytes arrive in
 * pieces, the sockets that we have of them, epoll, the hand-off, relays, the clock. All that the
 * fuzzer decides is in struct model; what must never happen ends the process, here or in check().
 *
 * Nothing may be read from a connection, so a client's bytes arrive whole, and once, wherever it
 * arrives; that it arrives in exactly one place is checked by arrive().
 */
#ifndef CONN_MODEL_H
#define CONN_MODEL_H

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "conn.h"
#include "conn_log.h"
#include "fuzz.h"
#include "log.h"
#include "relay.h"
#include "routes.h"
#include "tally.h"

#define MODEL_CLIENTS 48
#define MODEL_STREAM  2048
#define FIRST_FD      1000
#define SNIFF_NS      (3 * NSEC_PER_SEC)
#define HIS_NAME      "www.example.org" /* the responder's */

enum place {
	NOWHERE,    /* a client that has not come yet */
	QUEUE,	    /* in the sniffer's accept queue */
	OURS,	    /* we have a socket */
	GAP,	    /* in a hand-off, in neither socket */
	CONNECTING, /* a relay has our socket, and connects */
	/* From here on it is over for conn.c. */
	AT_WEB_SERVER,
	AT_RESPONDER,
	CLIENT_GONE,
	RESET,
	LOST,
};

/* How a target takes the next connection. */
enum taking {
	TAKES,
	TAKES_LATER,  /* a hand-off's child is not there at once */
	IS_ABSENT,    /* no listener; refused */
	IS_BUSY,      /* its queue is full; no port, no descriptor */
	CANT_HAVE_IT, /* the kernel can't hand it off; a relay can't keep its address */
	LOSES_IT,
	TAKINGS
};

struct client {
	enum place place;
	int fd; /* -1: none */
	uint64_t cookie;
	size_t arrived, len; /* of its bytes */
	uint8_t stream[MODEL_STREAM];
	bool fin, rst;
	struct sockaddr_storage address;
	bool relayed; /* a relay has it, connected */
	struct relay *relay;
	void *relay_user;

	/* The socket. */
	int lowat;
	bool linger;
	bool translated; /* its packets carry other addresses */
	uint32_t events; /* of epoll */
	bool news;	 /* since it was asked for, or reported */
	bool polled;
	bool unpolled; /* it could not be, at least once */
	void *data;

	/* For the oracle. */
	uint64_t came_ns;
	bool in_haste, drained, odd, window_was_closed;
	uint64_t busy_ns;	      /* a target was there the last time, and could not take it */
	uint64_t responder_failed_ns; /* 0: not yet */
	unsigned late_tries;	      /* to give it to the responder nevertheless */
	bool refused;		      /* by the kernel's hand-off: the relay is the same try */
	bool over_relays;
	bool needs_header; /* the web server would take its bytes for a PROXY header */
	bool to_responder; /* where it is on the way to */
};

static struct model {
	uint64_t now_ns;
	uint64_t late_ns; /* the clock is so much later than what a batch of events is told */
	struct client clients[MODEL_CLIENTS];
	size_t n;
	int next_fd;
	enum taking web_server, responder;
	enum seize_result refusal;
	bool epoll_fails, getsockopt_fails, window_closed, ending;
	struct route options; /* plane, client_ip, elsewhere of the window */
	struct tally tally;
	struct routes routes;
	const struct relay_callbacks *callbacks;
	void *ctx;
	uint64_t seen_down, seen_no_ip; /* the counters at the last close */
	uint64_t went_back, killed;
} model;

/* --- sockets --- */

static struct client *client_of(int fd)
{
	for (size_t i = 0; i < model.n; i++)
		if (fd >= 0 && model.clients[i].fd == fd)
			return &model.clients[i];
	abort(); /* closed already, or never ours */
}

static void drop_socket(struct client *client)
{
	client->fd = -1;
	client->polled = false;
}

static ssize_t model_recv(int fd, void *buf, size_t size, int flags)
{
	struct client *client = client_of(fd);
	size_t n = MIN(size, client->arrived);

	check(client->place == OURS);
	check(flags == (MSG_PEEK | MSG_DONTWAIT));
	if (client->rst) {
		errno = ECONNRESET;
		return -1;
	}
	if (n == 0 && !client->fin) {
		errno = EAGAIN;
		return -1;
	}
	memcpy(buf, client->stream, n);
	return (ssize_t)n;
}

static int model_getsockname(int fd, struct sockaddr *sa, socklen_t *len)
{
	struct sockaddr_in6 local = { .sin6_family = AF_INET6, .sin6_port = htons(443) };

	check(client_of(fd)->place == OURS);
	local.sin6_addr.s6_addr[10] = local.sin6_addr.s6_addr[11] = 0xff;
	local.sin6_addr.s6_addr[12] = 198;
	memcpy(sa, &local, sizeof(local));
	*len = sizeof(local);
	return 0;
}

static int model_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	struct client *client = client_of(fd);

	check(level == SOL_SOCKET && name == SO_COOKIE && *len == sizeof(uint64_t));
	if (model.getsockopt_fails) {
		client->odd = true;
		errno = EINVAL;
		return -1;
	}
	memcpy(value, &client->cookie, sizeof(client->cookie));
	return 0;
}

static int model_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	struct client *client = client_of(fd);

	check(client->place == OURS && level == SOL_SOCKET);
	if (name == SO_RCVLOWAT)
		memcpy(&client->lowat, value, sizeof(int));
	else
		check(name == SO_LINGER);
	client->linger |= name == SO_LINGER;
	return 0;
}

static int model_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
	struct client *client = client_of(fd);

	check(client->place == OURS);
	check(client->polled == (op != EPOLL_CTL_ADD));
	if (model.epoll_fails && op != EPOLL_CTL_DEL) {
		client->unpolled = true;
		errno = ENOMEM;
		return -1;
	}
	client->polled = op != EPOLL_CTL_DEL;
	if (event) {
		client->events = event->events;
		client->news = true;
		client->data = event->data.ptr;
	}
	return 0;
}

/* What epoll would report. */
static uint32_t ready_events(const struct client *client)
{
	uint32_t events = 0;

	if (!client->polled || ((client->events & EPOLLET) && !client->news))
		return 0;
	if (client->rst)
		return EPOLLERR | EPOLLHUP | (client->events & (EPOLLIN | EPOLLRDHUP));
	if (client->arrived >= (size_t)MAX(client->lowat, 1) || client->fin)
		events |= EPOLLIN;
	if (client->fin)
		events |= EPOLLRDHUP;
	return events & client->events;
}

void guards_let_be(int fd)
{
	check(client_of(fd)->place == OURS);
}

/* --- where connections end --- */

static bool is_his_hello(const struct client *client)
{
	struct hello hello;
	size_t need;

	return hello_parse(client->stream, client->arrived, &need, &hello) == HELLO_DONE &&
	       hello.acme_tls && strcmp(hello.sni, HIS_NAME) == 0;
}

/* May what asks for the responder be given to the web server? */
static bool has_excuse(const struct client *client)
{
	return client->in_haste || client->drained || client->window_was_closed ||
	       client->over_relays || model.routes.relays >= model.routes.max_relays ||
	       model.now_ns - client->came_ns >= SNIFF_NS ||
	       (client->responder_failed_ns &&
		model.now_ns - client->responder_failed_ns >= CONN_RESPONDER_WAIT_NS);
}

static void arrive(struct client *client, enum place place)
{
	check(client->place == OURS || client->place == GAP || client->place == CONNECTING);
	client->place = place;
}

static uint64_t server_down(void);
static uint64_t no_client_ip(void);

/* Ours to close: only of a client that has gone, or that nobody has taken for long. */
static int model_close(int fd)
{
	struct client *client = client_of(fd);
	bool down = server_down() != model.seen_down, no_ip = no_client_ip() != model.seen_no_ip;

	check(client->place == OURS);
	model.seen_down = server_down();
	model.seen_no_ip = no_client_ip();
	drop_socket(client);
	if (client->linger && !down && !no_ip && !model.ending) {
		check(tally_killed(&model.tally));
		model.killed++;
	}
	client->place = CLIENT_GONE;
	if (model.ending || client->rst || client->odd)
		return 0;
	check(client->linger);
	check(!down || model.now_ns - client->came_ns >= CONN_SERVER_WAIT_NS);
	/* Busy for long, and gone just now: it may be being restarted. */
	check(!down || model.now_ns + model.late_ns - client->busy_ns >= CONN_SERVER_WAIT_NS ||
	      model.now_ns + model.late_ns - client->came_ns >= CONN_QUEUE_WAIT_NS);
	client->place = RESET;
	return 0;
}

/*
 * It can't have this client, which is told at @now: how long that may be waited for begins with the
 * first time.
 */
static void target_failed(struct client *client, uint64_t now, bool busy)
{
	if (busy)
		client->busy_ns = now;
	if (client->to_responder && !client->responder_failed_ns)
		client->responder_failed_ns = now;
}

static enum taking taking_of(struct client *client, const struct endpoint *target)
{
	client->to_responder = target->port == 31443;
	/* By what has come until now. */
	if (client->place == OURS)
		check(client->to_responder ? is_his_hello(client)
					   : !is_his_hello(client) || has_excuse(client));
	if (client->place == OURS && client->to_responder && !client->refused &&
	    client->responder_failed_ns &&
	    model.now_ns - client->responder_failed_ns > CONN_RESPONDER_WAIT_NS)
		check(client->late_tries++ == 0);
	client->refused = false;
	return client->to_responder ? model.responder : model.web_server;
}

/* --- the hand-off --- */

const char *const seize_texts[SEIZE_RESULTS] = {};

static enum handoff_answer done(struct client *client, struct handoff_job *job)
{
	drop_socket(client);
	check(client->to_responder || !client->needs_header);
	arrive(client, client->to_responder ? AT_RESPONDER : AT_WEB_SERVER);
	job->went_back = false;
	return HANDOFF_DONE;
}

static enum handoff_answer lost(struct client *client)
{
	drop_socket(client);
	arrive(client, LOST);
	return HANDOFF_LOST;
}

enum handoff_answer handoff_begin(struct handoff_worker *worker, struct handoff_job *job, int fd)
{
	struct client *client = client_of(fd);

	check(worker && client->place == OURS && job->cookie == client->cookie);
	client->refused = false;
	if (client->rst)
		return HANDOFF_GONE;
	if (client->translated) {
		job->result = SEIZE_TRANSLATED;
		return HANDOFF_REFUSED;
	}
	job->result = SEIZE_OK;
	switch (taking_of(client, &job->target)) {
	case TAKES:
		return done(client, job);
	case TAKES_LATER:
		drop_socket(client);
		client->place = GAP;
		job->next_ns = model.now_ns + 50 * NSEC_PER_USEC;
		return HANDOFF_PENDING;
	case IS_ABSENT:
		job->result = SEIZE_NO_LISTENER;
		target_failed(client, model.now_ns, false);
		return HANDOFF_AGAIN;
	case IS_BUSY:
		job->result = SEIZE_QUEUE_FULL;
		target_failed(client, model.now_ns, true);
		return HANDOFF_AGAIN;
	case CANT_HAVE_IT:
		job->result = model.refusal;
		client->refused = true;
		return HANDOFF_REFUSED;
	case LOSES_IT:
	case TAKINGS:
		break;
	}
	return lost(client);
}

/* A target that is gone gives the connection back to the sniffer. */
enum handoff_answer handoff_continue(struct handoff_worker *worker, struct handoff_job *job,
				     uint64_t now_ns)
{
	struct client *client = &model.clients[job->cookie - 1];

	check(worker && client->place == GAP && now_ns >= job->next_ns);
	switch (taking_of(client, &job->target)) {
	case TAKES:
		return done(client, job);
	case IS_ABSENT:
		client->place = QUEUE;
		model.went_back++;
		job->went_back = true;
		return HANDOFF_DONE;
	case LOSES_IT:
		return lost(client);
	default:
		job->next_ns = model.now_ns + NSEC_PER_MSEC;
		return HANDOFF_PENDING;
	}
}

/* --- relays --- */

int relay_worker_init(struct relay_worker *w, int epoll_fd, uint8_t ref_type,
		      const struct relay_callbacks *callbacks, void *ctx)
{
	model.callbacks = callbacks;
	model.ctx = ctx;
	return 0;
}

int relay_start(struct relay_worker *w, int client_fd, const struct endpoint *client_address,
		const struct endpoint *asked, const struct endpoint *target,
		const struct relay_options *options, void *user, struct relay **ret_relay)
{
	struct client *client = client_of(client_fd);

	check(client->place == OURS && !client->polled && client->lowat == 1);
	check(model.routes.relays < model.routes.max_relays);
	switch (taking_of(client, target)) {
	case IS_BUSY:
		target_failed(client, model.now_ns, true);
		return -EADDRNOTAVAIL;
	case LOSES_IT:
		target_failed(client, model.now_ns, true);
		return -EMFILE;
	case CANT_HAVE_IT:
		if (options->client_ip == CLIENT_IP_TRANSPARENT)
			return -EOPNOTSUPP;
		break;
	default:
		break;
	}
	client->place = CONNECTING;
	client->relay_user = user;
	*ret_relay = client->relay = (struct relay *)client;
	return 0;
}

/* It connects or, @error, it can't. Its socket is the relay's, or conn.c's again. */
static void relay_news(struct client *client, int error)
{
	check(client->place == CONNECTING);
	if (error) {
		target_failed(client, model.now_ns + model.late_ns,
			      error == -ETIMEDOUT || error == -EACCES);
		client->place = OURS;
		model.callbacks->on_failed(model.ctx, client->relay_user, client->fd, error);
		return;
	}
	arrive(client, client->to_responder ? AT_RESPONDER : AT_WEB_SERVER);
	client->relayed = true;
	model.callbacks->on_connected(model.ctx, client->relay_user);
}

static void relay_end(struct client *client)
{
	check(client->relayed);
	client->relayed = false;
	drop_socket(client);
	model.callbacks->on_ended(model.ctx, client->relay_user);
}

void relay_kill(struct relay_worker *w, struct relay *relay)
{
	struct client *client = (struct client *)relay;

	if (client->relayed)
		relay_end(client);
	else
		relay_news(client, -ECANCELED);
}

void relay_worker_done(struct relay_worker *w)
{
	for (size_t i = 0; i < model.n; i++)
		if (model.clients[i].relayed || model.clients[i].place == CONNECTING)
			relay_kill(w, model.clients[i].relay);
}

/* --- windows, programs, the log --- */

static struct route route_for(bool to_responder)
{
	struct route route = model.options;

	memset(&route.target.addr.s6_addr[10], 0xff, 2);
	route.target.addr.s6_addr[12] = to_responder ? 127 : 198;
	route.target.port = to_responder ? 31443 : 443;
	route.to_responder = to_responder;
	route.tally = &model.tally;
	tally_hold(&model.tally);
	return route;
}

struct route routes_web_server(struct routes *routes, const struct endpoint *local,
			       uint64_t *ret_sniff_ns)
{
	check(routes == &model.routes);
	*ret_sniff_ns = SNIFF_NS;
	return route_for(false);
}

bool routes_responder(struct routes *routes, const struct endpoint *local, const char *sni,
		      struct route *ret_route)
{
	check(routes == &model.routes && local->port == 443);
	if (model.window_closed || strcmp(sni, HIS_NAME) != 0)
		return false;
	*ret_route = route_for(true);
	ret_route->client_ip = CLIENT_IP_NONE;
	return true;
}

void routes_relay(struct routes *routes, bool on)
{
	routes->relays += on ? 1 : UINT32_MAX;
}

uint32_t routes_relays(const struct routes *routes)
{
	return routes->relays;
}

void routes_no_ports(struct routes *routes, uint64_t now_ns)
{
	check(now_ns > 0);
}

int steer_exempt(struct steer *steer, const struct endpoint *source, bool add)
{
	return 0;
}

void log_line(enum log_level level, const char *fmt, ...)
{
}

/* What conn_log.c says of a connection: read, as a log would. */
void log_event(enum log_level level, const struct log_fields *fields, const char *fmt, ...)
{
	char text[4096];
	va_list args;

	va_start(args, fmt);
	check(vsnprintf(text, sizeof(text), fmt, args) >= 0);
	va_end(args);
	for (int i = 0; i < LOG_FIELD_COUNT; i++)
		check(!fields->value[i] || strlen(fields->value[i]) < sizeof(text));
}

bool log_limit_ok(struct log_limit *limit, unsigned burst, unsigned long long interval_ns,
		  unsigned long long now_ns)
{
	return true;
}

#endif
