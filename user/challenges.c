// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The resident process's challenges.
 *
 * Theory of operation: the set of challenges is in the routes, where workers look it up. The first
 * challenge of a port opens a window for it, called "challenge:PORT" (a user's window can't be
 * called that), which is open until the latest deadline of the port's challenges; without
 * challenges it is closed. The window takes web server, plane and client address from the port's
 * other windows unless the user gave them with a challenge.
 *
 * Whoever adds a challenge is answered when the responder process has it. If no responder can be
 * started the challenge is taken away again. The last challenge ends the responder, when the engine
 * has given away what was meant for it.
 */
#include "challenges.h"

#include <stdio.h>
#include <string.h>

#include "log.h"
#include "resident.h"
#include "util.h"

static struct challenge_set *challenge_set(struct resident *resident)
{
	return &resident->routes.challenges;
}

/* A new responder process knows nothing. */
static void fill(void *ctx, struct keeper *keeper)
{
	const struct challenge_set *set = challenge_set(ctx);

	for (const struct challenge *c = NULL; (c = challenge_set_next(set, c));)
		keeper_add(keeper, &c->name, c->digest);
}

int challenges_init(struct resident *resident)
{
	return keeper_new(fill, resident, &resident->challenges.keeper);
}

void challenges_free(struct resident *resident)
{
	keeper_free(resident->challenges.keeper);
}

static void close_window_if_unused(struct resident *resident, struct ctl_conn *conn, uint16_t port,
				   const char *why)
{
	struct window *window = window_set_built_in(&resident->routes.windows, port);
	const struct challenge_port *left = challenge_set_port(challenge_set(resident), port);

	if (window && left)
		window->deadline_ns = left->deadline_ns;
	else if (window)
		resident_close_window(resident, conn, window, why);
}

static bool remove_challenge(struct resident *resident, const struct name *name)
{
	bool removed;

	pthread_rwlock_wrlock(&resident->routes.lock);
	removed = challenge_set_remove(challenge_set(resident), name->sni);
	pthread_rwlock_unlock(&resident->routes.lock);
	if (removed)
		keeper_remove(resident->challenges.keeper, name);
	return removed;
}

static void remove_from_keeper(void *ctx, const struct challenge *challenge)
{
	struct resident *resident = ctx;

	keeper_remove(resident->challenges.keeper, &challenge->name);
}

void challenges_forget(struct resident *resident, uint16_t port)
{
	struct challenge_set *set = challenge_set(resident);
	const struct challenge *next;

	pthread_rwlock_wrlock(&resident->routes.lock);
	for (const struct challenge *c = challenge_set_next(set, NULL); c; c = next) {
		next = challenge_set_next(set, c);
		if (c->port != port)
			continue;
		remove_from_keeper(resident, c);
		challenge_set_remove(set, c->name.sni);
	}
	pthread_rwlock_unlock(&resident->routes.lock);
}

static void expire(struct resident *resident, uint64_t now)
{
	const struct window_set *windows = &resident->routes.windows;

	pthread_rwlock_wrlock(&resident->routes.lock);
	challenge_set_expire(challenge_set(resident), now, remove_from_keeper, resident);
	pthread_rwlock_unlock(&resident->routes.lock);
	for (size_t i = windows->n; i-- > 0;)
		if (windows->windows[i]->options.built_in)
			close_window_if_unused(
				resident, NULL, windows->windows[i]->options.ports[0],
				"closed, its last challenge having reached its deadline");
}

/* What a request to add a challenge says. */
struct addition {
	struct name name;
	uint8_t digest[CHALLENGE_DIGEST];
	struct window_options options;
};

/* 0, or -1 with one line in @error (CTL_MAX_ERROR bytes). */
static int read_addition(const struct ctl_request *request, struct addition *ret_addition,
			 char *error)
{
	struct window_options *options = &ret_addition->options;
	bool has_name = false, has_digest = false;

	window_options_init(options);
	options->built_in = options->gives_way = true;
	for (size_t i = 0; i < request->n; i++) {
		const char *key = request->pairs[i].key;
		const char *value = request->pairs[i].value;
		int r;

		if (strcmp(key, "name") == 0) {
			const char *fault = name_parse(value, &ret_addition->name);

			if (fault)
				snprintf(error, CTL_MAX_ERROR, "\"%.80s\" %s", value, fault);
			r = fault ? -1 : 0;
			has_name = true;
		} else if (strcmp(key, "digest") == 0) {
			r = challenge_digest_parse(value, ret_addition->digest, error,
						   CTL_MAX_ERROR);
			has_digest = true;
		} else if (strcmp(key, "domain") == 0 || strcmp(key, "responder") == 0) {
			snprintf(error, CTL_MAX_ERROR, "%s: no such option of a challenge", key);
			r = -1;
		} else {
			r = window_options_set(options, key, value, error, CTL_MAX_ERROR);
			if (strcmp(key, "web-server") == 0 || strcmp(key, "plane") == 0 ||
			    strcmp(key, "client-ip") == 0)
				options->gives_way = false;
		}
		if (r < 0)
			return -1;
	}
	if (!has_name || !has_digest || options->n_ports != 1) {
		snprintf(error, CTL_MAX_ERROR,
			 "a challenge has a name, a digest and one port");
		return -1;
	}
	snprintf(options->name, sizeof(options->name), "challenge:%u", options->ports[0]);
	return 0;
}

/* The port's window is open, with the options that the user gave, if any. 0 or -errno. */
static int open_window(struct resident *resident, struct window_options *options, char *error)
{
	const struct window_set *windows = &resident->routes.windows;
	const struct window *other = window_set_of_port(windows, options->ports[0]);
	bool renewed;

	if (options->gives_way && window_set_built_in(windows, options->ports[0]))
		return 0;
	if (options->gives_way && other) {
		/* What is looked up on this host depends on them. */
		window_options_agree(options, &other->options);
	}
	return resident_open_window(resident, options, &renewed, error, CTL_MAX_ERROR);
}

/* Adds it, opens its window, starts the responder. *ret_wait: all but its conn. 0 or -errno. */
static int add(struct resident *resident, struct addition *addition,
	       struct challenge_wait *ret_wait, char *error)
{
	struct challenge_set *set = challenge_set(resident);
	uint16_t port = addition->options.ports[0];
	const struct challenge *old = challenge_set_find(set, addition->name.sni);
	uint16_t old_port = old ? old->port : port;
	struct endpoint at;
	int r;

	/* The responder first: it starts while the kernel checks our programs. */
	r = keeper_start(resident->challenges.keeper, &at, error, CTL_MAX_ERROR);
	if (r == 0)
		r = open_window(resident, &addition->options, error);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&resident->routes.lock);
	resident->routes.built_in = at;
	r = challenge_set_add(set, &addition->name, addition->digest, port,
			      now_ns() + addition->options.ttl_s * NSEC_PER_SEC,
			      &ret_wait->replaced, error, CTL_MAX_ERROR);
	pthread_rwlock_unlock(&resident->routes.lock);
	if (r == 0) {
		ret_wait->ticket =
			keeper_add(resident->challenges.keeper, &addition->name, addition->digest);
		ret_wait->name = addition->name;
	}
	close_window_if_unused(resident, NULL, port, "closed, its challenge not being added");
	if (old_port != port)
		close_window_if_unused(resident, NULL, old_port,
				       "closed, its last challenge having got another port");
	resident_settle(resident);
	return r;
}

static void handle_add(struct resident *resident, struct ctl_conn *conn,
		       const struct ctl_request *request)
{
	struct challenges *challenges = &resident->challenges;
	_cleanup_free_ struct addition *addition = calloc(1, sizeof(*addition));
	struct challenge_wait wait = { .conn = conn };
	char error[CTL_MAX_ERROR] = "no memory", text[NAME_MAX_LEN + 1];

	if (!addition || read_addition(request, addition, error) < 0 ||
	    add(resident, addition, &wait, error) < 0) {
		ctl_reply_error(conn, "%s", error);
		return;
	}
	log_info("challenge for %s %s by uid %u", name_format(&wait.name, text),
		 wait.replaced ? "replaced" : "added", request->uid);
	challenges->waits[challenges->n_waits++] = wait; /* one a conversation: there is room */
}

static void handle_remove(struct resident *resident, struct ctl_conn *conn,
			  const struct ctl_request *request)
{
	struct challenge_set *set = challenge_set(resident);
	const char *text = ctl_request_get(request, "name");
	const char *fault;
	const struct challenge *challenge;
	struct name name;
	uint16_t port;

	if (!text && ctl_request_get(request, "all")) {
		ctl_reply_line(conn, "removed-all %zu", set->n);
		while (set->n_ports > 0) {
			port = set->ports[0].port;
			challenges_forget(resident, port);
			close_window_if_unused(resident, conn, port, "closed");
		}
		closing_reply(resident, conn);
		return;
	}
	fault = text ? name_parse(text, &name) : "is missing";
	if (fault) {
		ctl_reply_error(conn, "\"%.80s\" %s", text ? text : "name", fault);
		return;
	}
	challenge = challenge_set_find(set, name.sni);
	if (!challenge) {
		ctl_reply_line(conn, "absent %s", text);
		closing_reply(resident, conn);
		return;
	}
	port = challenge->port;
	remove_challenge(resident, &name);
	log_info("challenge for %s removed by uid %u", text, request->uid);
	ctl_reply_line(conn, "removed %s", text);
	close_window_if_unused(resident, conn, port, "closed");
	closing_reply(resident, conn);
}

/* "NAME PORT SECONDS CONNECTIONS DIGEST" for each. */
static void handle_list(struct resident *resident, struct ctl_conn *conn)
{
	const struct challenge_set *set = challenge_set(resident);
	uint64_t now = now_ns();

	for (const struct challenge *c = NULL; (c = challenge_set_next(set, c));) {
		uint64_t left_ns = c->deadline_ns > now ? c->deadline_ns - now : 0;
		char name[NAME_MAX_LEN + 1], digest[CHALLENGE_DIGEST_STRLEN];

		ctl_reply_line(
			conn, "%s %u %.3f %llu %s", name_format(&c->name, name), c->port,
			(double)left_ns / (double)NSEC_PER_SEC,
			(unsigned long long)__atomic_load_n(&c->connections, __ATOMIC_RELAXED),
			challenge_digest_format(c->digest, digest));
	}
	ctl_reply_ok(conn);
}

bool challenges_handle(struct resident *resident, struct ctl_conn *conn,
		       const struct ctl_request *request)
{
	if (strcmp(request->verb, "challenge-add") == 0)
		handle_add(resident, conn, request);
	else if (strcmp(request->verb, "challenge-remove") == 0)
		handle_remove(resident, conn, request);
	else if (strcmp(request->verb, "challenge-list") == 0)
		handle_list(resident, conn);
	else
		return false;
	return true;
}

/* The responder can't be started: a challenge that nobody answers must not be there. */
static void give_up(struct resident *resident, const struct challenge_wait *wait)
{
	const struct challenge *challenge =
		challenge_set_find(challenge_set(resident), wait->name.sni);
	uint16_t port = challenge ? challenge->port : 0;

	if (remove_challenge(resident, &wait->name))
		close_window_if_unused(resident, NULL, port,
				       "closed, nobody answering its challenges");
	resident_settle(resident);
	ctl_reply_error(wait->conn, "%s", keeper_error(resident->challenges.keeper));
}

static void answer_waits(struct resident *resident)
{
	struct challenges *challenges = &resident->challenges;
	char text[NAME_MAX_LEN + 1];

	for (size_t i = 0; i < challenges->n_waits;) {
		const struct challenge_wait wait = challenges->waits[i];
		enum keeper_answer answer = keeper_done(challenges->keeper, wait.ticket);

		if (answer == KEEPER_NOT_YET) {
			i++;
			continue;
		}
		challenges->waits[i] = challenges->waits[--challenges->n_waits];
		if (answer == KEEPER_FAILED) {
			give_up(resident, &wait);
			continue;
		}
		ctl_reply_line(wait.conn, "%s %s", wait.replaced ? "replaced" : "added",
			       name_format(&wait.name, text));
		ctl_reply_ok(wait.conn);
	}
}

uint64_t challenges_tick(struct resident *resident, uint64_t now_ns)
{
	struct challenges *challenges = &resident->challenges;
	uint64_t next_ns;

	if (challenge_set_next_deadline(challenge_set(resident)) <= now_ns) {
		expire(resident, now_ns);
		resident_settle(resident);
	}
	next_ns = keeper_tick(challenges->keeper, now_ns);
	answer_waits(resident);
	return MIN(next_ns, challenge_set_next_deadline(challenge_set(resident)));
}

uint64_t challenges_stop_responder(struct resident *resident, uint64_t now_ns)
{
	struct challenges *challenges = &resident->challenges;
	struct engine *engine = resident->engine;

	if (challenge_set(resident)->n > 0 || challenges->n_waits > 0 ||
	    keeper_is_off(challenges->keeper)) {
		challenges->none_since_ns = 0;
		return UINT64_MAX;
	}
	if (!challenges->none_since_ns)
		challenges->none_since_ns = now_ns;
	if (engine && !engine_drained(engine) &&
	    now_ns - challenges->none_since_ns < CHALLENGES_LINGER_NS)
		return challenges->none_since_ns + CHALLENGES_LINGER_NS;
	keeper_stop(challenges->keeper);
	return UINT64_MAX;
}

bool challenges_are_idle(const struct resident *resident)
{
	return resident->challenges.n_waits == 0 && keeper_is_idle(resident->challenges.keeper);
}
