// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The request `close`, and the conversations that wait for what it asks to be done.
 *
 * Windows are closed at once. What the answer then waits for:
 *
 *   plainly     nothing is in the accept queues any more (of no interest while other windows are
 *               open: they go on accepting);
 *   drain       and we have no connection of the window any more, in whatever state, and, when it
 *               was the last one, no handshake is under way that could bring another;
 *   kill        and the relay has none: they are reset. With drain, when the time is over.
 *
 * A window that was closed before still counts: tallies outlive their windows.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "closing.h"
#include "log.h"
#include "resident.h"
#include "util.h"

#define LOOK_NS (20 * NSEC_PER_MSEC)

static bool is_of(const struct closing *closing, const struct tally *tally)
{
	return !closing->name[0] || !strcmp(closing->name, tally->name);
}

/* The closed windows, and what belongs to none: the next one after @tally; NULL: begin, or end. */
static struct tally *next_of(struct resident *resident, const struct closing *closing,
			     struct tally *tally)
{
	struct tally *stray = &resident->routes.stray;

	if (tally == stray)
		return NULL;
	tally = tally ? tally->next : resident->routes.closed;
	while (tally && !is_of(closing, tally))
		tally = tally->next;
	return tally || closing->name[0] ? tally : stray;
}

static uint32_t sum(struct resident *resident, const struct closing *closing,
		    uint32_t (*number)(const struct tally *tally))
{
	struct tally *tally = NULL;
	uint32_t n = 0;

	while ((tally = next_of(resident, closing, tally)))
		n += number(tally);
	return n;
}

static bool queues_are_empty(const struct resident *resident)
{
	return resident->routes.windows.n > 0 || !resident->engine ||
	       engine_drained(resident->engine);
}

static bool handshakes_are_over(const struct resident *resident)
{
	return resident->routes.windows.n > 0 || !resident->engine ||
	       engine_state(resident->engine) > ENGINE_DRAINING;
}

static void kill_relayed(struct resident *resident, struct closing *closing, uint64_t now)
{
	struct tally *tally = NULL;

	closing->killing = true;
	closing->until_ns = now + CLOSING_KILL_WAIT_NS;
	while ((tally = next_of(resident, closing, tally))) {
		uint32_t n = tally_relayed(tally);

		tally_kill(tally, true);
		if (!n)
			continue;
		log_info("window \"%s\": %u relayed connections are ended", tally->name, n);
		ctl_reply_line(closing->conn, "ended %s %u", tally->name, n);
	}
	if (resident->engine)
		engine_kill(resident->engine);
}

static bool reply(struct closing *closing)
{
	ctl_reply_ok(closing->conn);
	return true;
}

/* The time is over: says what is left. */
static bool reply_left(struct resident *resident, const struct closing *closing)
{
	struct tally *tally = NULL;
	bool any = false;

	while ((tally = next_of(resident, closing, tally))) {
		uint32_t n = closing->drain ? tally_held(tally) : tally_relayed(tally);

		if (n)
			ctl_reply_line(closing->conn, "left %s %u", tally->name, n);
		any |= n > 0;
	}
	if (!any && closing->drain && !handshakes_are_over(resident))
		ctl_reply_line(closing->conn, "handshakes");
	ctl_reply_ok(closing->conn);
	return true;
}

/* Goes on with one. True when it has its answer. */
static bool advance(struct resident *resident, struct closing *closing, uint64_t now)
{
	if (ctl_conn_is_gone(closing->conn) && !closing->kill)
		return reply(closing);
	if (!queues_are_empty(resident))
		return false;
	if (closing->drain && !sum(resident, closing, tally_held) && handshakes_are_over(resident))
		return reply(closing);
	if (closing->drain && !closing->killing && now < closing->until_ns)
		return false;
	if (!closing->kill)
		return closing->drain ? reply_left(resident, closing) : reply(closing);
	if (!closing->killing)
		kill_relayed(resident, closing, now);
	if (sum(resident, closing, tally_relayed) && now < closing->until_ns)
		return false;
	return reply_left(resident, closing);
}

static void closing_begin(struct resident *resident, struct closing *closing)
{
	struct closings *all = &resident->closings;

	resident_settle(resident);
	if (!advance(resident, closing, now_ns()))
		all->waiting[all->n++] = *closing;
}

void closing_reply(struct resident *resident, struct ctl_conn *conn)
{
	struct closing closing = { .conn = conn };

	if (resident->closings.n == CLOSING_MAX) {
		resident_settle(resident);
		ctl_reply_ok(conn);
		return;
	}
	closing_begin(resident, &closing);
}

uint64_t closing_tick(struct resident *resident, uint64_t now_ns)
{
	struct closings *all = &resident->closings;
	struct tally *stray = &resident->routes.stray;
	size_t n = 0;

	if (handshakes_are_over(resident))
		routes_reap_tallies(&resident->routes, now_ns);
	/* It outlives what it was killed for. */
	if (!tally_held(stray))
		tally_kill(stray, false);
	for (size_t i = 0; i < all->n; i++)
		if (!advance(resident, &all->waiting[i], now_ns))
			all->waiting[n++] = all->waiting[i];
	all->n = n;
	return n ? now_ns + LOOK_NS : UINT64_MAX;
}

/* Reads drain= and kill=. 0, or -EINVAL with one line in @error. */
static int read_wait(const struct ctl_request *request, struct closing *closing, char *error)
{
	const char *drain = ctl_request_get(request, "drain");
	uint64_t seconds;

	closing->kill = ctl_request_get(request, "kill");
	closing->drain = drain;
	if (!drain || !strcmp(drain, "yes")) {
		closing->until_ns = UINT64_MAX;
		return 0;
	}
	if (window_time_parse(drain, &seconds) < 0 || seconds > CTL_MAX_DRAIN_S) {
		snprintf(error, CTL_MAX_ERROR,
			 "drain: \"%.40s\" is no time up to 24h; use for example 30s or 5m", drain);
		return -EINVAL;
	}
	closing->until_ns = now_ns() + seconds * NSEC_PER_SEC;
	return 0;
}

static unsigned count_drains(const struct closings *all)
{
	unsigned n = 0;

	for (size_t i = 0; i < all->n; i++)
		n += all->waiting[i].drain;
	return n;
}

void closing_handle(struct resident *resident, struct ctl_conn *conn,
		    const struct ctl_request *request)
{
	const struct window_set *set = &resident->routes.windows;
	const char *name = ctl_request_get(request, "name");
	struct closing closing = { .conn = conn };
	char error[CTL_MAX_ERROR];

	if (!ctl_request_get(request, "all") && !(name && *name)) {
		ctl_reply_error(conn, "close: give the window's name, or all=yes");
		return;
	}
	if (ctl_request_get(request, "all"))
		name = NULL;
	if (read_wait(request, &closing, error) < 0) {
		ctl_reply_error(conn, "%s", error);
		return;
	}
	if (name)
		snprintf(closing.name, sizeof(closing.name), "%s", name);
	while (!name && set->n > 0)
		resident_close_window(resident, conn, set->windows[0], "closed");
	if (name && window_set_find(set, name))
		resident_close_window(resident, conn, window_set_find(set, name), "closed");
	arms_closed(resident);
	if (resident->closings.n == CLOSING_MAX ||
	    (closing.drain && count_drains(&resident->closings) == CLOSING_MAX_DRAIN)) {
		resident_settle(resident);
		ctl_reply_error(conn, "closed, but too many others wait for connections to end");
		return;
	}
	closing_begin(resident, &closing);
}
