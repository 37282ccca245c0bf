// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The resident process's armed addresses.
 *
 * Theory of operation: the kernel tells when a listener comes or goes on one of the ports
 * (watch.c); where it can't, a timer does. Either is only a reason to look who listens at each
 * address, and what is seen then decides (arm.c). A listener that comes is told of a moment before
 * connections find it, so then it is looked for again for a while. A responder is never connected
 * to: some take one connection at a time.
 *
 * The windows are like any others, but have no deadline.
 */
#include "arms.h"

#include <assert.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <stdio.h>
#include <string.h>

#include "listeners.h"
#include "log.h"
#include "resident.h"
#include "util.h"
#include "watch.h"

/* For somebody who is about to listen: doubled each time, up to the longest. */
#define FIRST_WAIT_NS	(NSEC_PER_MSEC / 4)
#define LONGEST_WAIT_NS (64 * NSEC_PER_MSEC)

const char *const notice_names[] = {
	[NOTICE_AUTO] = "auto",
	[NOTICE_BPF] = "bpf",
	[NOTICE_POLL] = "poll",
};
static_assert(ARRAY_SIZE(notice_names) == NOTICE_COUNT, "a name for each way");

/* The windows are somebody's at all times: a contradiction is not the other's fault. */
static void adapt(const struct resident *resident, struct window_options *options)
{
	for (size_t i = 0; options->gives_way && i < options->n_ports; i++) {
		const struct window *other =
			window_set_of_port(&resident->routes.windows, options->ports[i]);

		/* What is looked up on this host depends on them. */
		if (other)
			window_options_agree(options, &other->options);
	}
}

static void open_window(struct resident *resident, struct arm *arm, uint64_t now)
{
	static struct log_limit limit;
	_cleanup_free_ struct window_options *options = malloc(sizeof(*options));
	char error[CTL_MAX_ERROR] = "no memory";
	bool renewed, first = arm->state != ARM_FAILED;
	int err = options ? 0 : -ENOMEM;

	if (!err) {
		*options = *resident->arms.window;
		strcpy(options->name, arm->window);
		options->responder = arm->responder;
		adapt(resident, options);
		err = resident_open_window(resident, options, &renewed, error, sizeof(error));
	}
	arm_opened(arm, !err, now);
	if (err && first && log_limit_ok(&limit, 5, 60 * NSEC_PER_SEC, now))
		log_warn("window \"%s\": %s; tried again while somebody listens there", arm->window,
			 error);
}

static enum arm_listener who_listens(struct resident *resident, const struct arm *arm, uint64_t now)
{
	static struct log_limit limit;
	struct listening_sockets sockets;
	int listening = listeners_at(resident->arms.netlink, &arm->responder);

	if (listening < 0 && log_limit_ok(&limit, 5, 60 * NSEC_PER_SEC, now))
		log_warn("asking who listens for \"%s\": %s", arm->window, strerror(-listening));
	/* Without an answer nothing is steered, and it is asked for again: nothing need happen
	 * there. */
	if (listening < 0)
		resident->arms.look_ns = MIN(resident->arms.look_ns, now + ARMS_POLL_NS);
	if (listening != 1)
		return ARM_NOBODY;
	if (arm->state != ARM_SHUT || arm->shut_for.n == 0)
		return ARM_SOMEBODY;
	if (listeners_sockets(arm->responder.port, &sockets) < 0 ||
	    listeners_overlap(&sockets, &arm->shut_for))
		return ARM_SOMEBODY;
	return ARM_OTHERS;
}

/* When they go and others come at once, nobody may ever be seen not to listen. */
static void note_who_listens(struct arm *arm)
{
	if (listeners_sockets(arm->responder.port, &arm->shut_for) < 0)
		arm->shut_for.n = 0;
}

/* One address. True: somebody listens there. *ret_changed: a window was opened or closed. */
static bool look_at(struct resident *resident, struct arm *arm, uint64_t now, bool *ret_changed)
{
	const struct window *window = window_set_find(&resident->routes.windows, arm->window);
	enum arm_listener listener = who_listens(resident, arm, now);
	enum arm_state before = arm->state;
	enum arm_act act = arm_step(arm, listener, window, now);

	if (arm->state == ARM_SHUT && before != ARM_SHUT)
		note_who_listens(arm);
	*ret_changed = act != ARM_STAY;
	switch (act) {
	case ARM_OPEN_WINDOW:
		open_window(resident, arm, now);
		break;
	case ARM_CLOSE_WINDOW:
		resident_close_window(resident, NULL, window,
				      "closed, nobody listening there any more");
		break;
	case ARM_STAY:
		break;
	}
	return listener != ARM_NOBODY;
}

/* All of them. True: somebody listens at each. Sets when to look again. */
static bool look(struct resident *resident, uint64_t now)
{
	struct arms *arms = &resident->arms;
	bool changed[ARM_MAX], any = false, all = true;

	arms->look_ns = arms->watch ? UINT64_MAX : now + ARMS_POLL_NS;
	for (size_t i = 0; i < arms->n; i++) {
		all &= look_at(resident, &arms->arms[i], now, &changed[i]);
		any |= changed[i];
		if (arms->arms[i].state == ARM_FAILED)
			arms->look_ns = MIN(arms->look_ns, arms->arms[i].again_ns);
	}
	if (!any)
		return all;
	resident_settle(resident);
	for (size_t i = 0; i < arms->n; i++)
		if (changed[i])
			arms->arms[i].reaction_ns = arms->news_ns ? now_ns() - arms->news_ns : 0;
	return all;
}

void arms_closed(struct resident *resident)
{
	struct arms *arms = &resident->arms;
	uint64_t again_ns = arms->look_ns;

	if (arms->n == 0)
		return;
	look(resident, now_ns());
	/* Somebody may be about to listen. */
	arms->look_ns = MIN(arms->look_ns, again_ns);
}

uint64_t arms_tick(struct resident *resident, uint64_t now)
{
	struct arms *arms = &resident->arms;
	enum watch_news news = WATCH_NOTHING;
	bool all;

	if (arms->n == 0)
		return UINT64_MAX;
	if (arms->watch)
		news = watch_take(arms->watch, &arms->news_ns);
	if (news == WATCH_NOTHING && now < arms->look_ns)
		return arms->look_ns;
	if (news == WATCH_BEGINS)
		arms->wait_ns = FIRST_WAIT_NS;
	all = look(resident, now);
	if (all || arms->wait_ns > LONGEST_WAIT_NS)
		arms->wait_ns = 0;
	if (arms->wait_ns) {
		arms->look_ns = MIN(arms->look_ns, now + arms->wait_ns);
		arms->wait_ns *= 2;
	}
	return arms->look_ns;
}

static int watch_ports(struct arms *arms, enum notice notice, char *error, size_t error_size)
{
	uint16_t ports[ARM_MAX];
	int err;

	if (notice == NOTICE_POLL)
		return 0;
	for (size_t i = 0; i < arms->n; i++)
		ports[i] = arms->arms[i].responder.port;
	err = watch_new(ports, arms->n, &arms->watch, error, error_size);
	if (!err || notice == NOTICE_BPF)
		return err;
	log_info("%s; who listens is looked up every %u ms instead", error,
		 (unsigned)(ARMS_POLL_NS / NSEC_PER_MSEC));
	return 0;
}

/* Is each an address of this host, and can it be asked who listens? */
static int check(const struct arms *arms, char *error, size_t error_size)
{
	struct listener listeners[LISTENERS_MAX];
	char text[ENDPOINT_STRLEN];

	for (size_t i = 0; i < arms->n; i++) {
		const struct endpoint *responder = &arms->arms[i].responder;
		int n = listeners_find(responder->port, listeners);

		if (n < 0) {
			snprintf(error, error_size, "asking who listens (sock_diag): %s",
				 strerror(-n));
			return n;
		}
		if (!listeners_is_local(responder)) {
			snprintf(error, error_size,
				 "arm: %s is no address of this network namespace",
				 endpoint_format(responder, text));
			return -EADDRNOTAVAIL;
		}
	}
	return 0;
}

int arms_start(struct resident *resident, const struct arms_config *config, char *error,
	       size_t error_size)
{
	struct arms *arms = &resident->arms;
	int err;

	if (config->n == 0)
		return 0;
	memcpy(arms->arms, config->arms, sizeof(arms->arms));
	arms->n = config->n;
	arms->window = malloc(sizeof(*arms->window));
	arms->netlink = listeners_socket();
	err = check(arms, error, error_size);
	if (!err && (!arms->window || !arms->netlink)) {
		err = -ENOMEM;
		snprintf(error, error_size, "arming: %s", strerror(errno));
	}
	/* Watching before the first look: nobody comes in between. */
	if (!err)
		err = watch_ports(arms, config->notice, error, error_size);
	if (err) {
		arms_stop(resident);
		return err;
	}
	*arms->window = config->window;
	arms->window->armed = true;
	look(resident, now_ns());
	return 0;
}

void arms_stop(struct resident *resident)
{
	struct arms *arms = &resident->arms;

	watch_free(arms->watch);
	if (arms->netlink)
		mnl_socket_close(arms->netlink);
	free(arms->window);
	*arms = (struct arms){};
}

int arms_fd(const struct resident *resident)
{
	return resident->arms.watch ? watch_fd(resident->arms.watch) : -1;
}

struct json_object *arms_report(const struct resident *resident)
{
	const struct arms *arms = &resident->arms;
	struct json_object *report = json_object_new_array();

	for (size_t i = 0; i < arms->n; i++) {
		const struct arm *arm = &arms->arms[i];
		struct json_object *one = json_object_new_object();
		char text[ENDPOINT_STRLEN];

		json_object_object_add(
			one, "responder",
			json_object_new_string(endpoint_format(&arm->responder, text)));
		json_object_object_add(one, "state",
				       json_object_new_string(arm_state_names[arm->state]));
		json_object_object_add(one, "opened", json_object_new_int64((int64_t)arm->opened));
		json_object_object_add(
			one, "notice",
			json_object_new_string(
				notice_names[arms->watch ? NOTICE_BPF : NOTICE_POLL]));
		/* Of a failed attempt to open as well. */
		snprintf(text, sizeof(text), "%.3f", (double)arm->reaction_ns / 1e6);
		json_object_object_add(
			one, "reaction_ms",
			arm->reaction_ns
				? json_object_new_double_s((double)arm->reaction_ns / 1e6, text)
				: NULL);
		json_object_array_add(report, one);
	}
	return report;
}
