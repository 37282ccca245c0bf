// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The resident process's mind. Windows are what users open and close; an engine is what steers
 * while any is open. The first window makes the engine or revives the one that still drains or
 * relays; when the last one closes, by a user's word or by its deadline, the engine drains and in
 * the end is freed.
 *
 * Leases: every STEER_RENEW_NS each steered port gets a new one, never beyond the deadline of the
 * port's last window. Should this thread or a worker stop, the leases run out.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "conn_log.h"
#include "listeners.h"
#include "log.h"
#include "policy.h"
#include "resident.h"
#include "summary.h"
#include "util.h"
#include "window_check.h"

/* Rules and routes that a killed process has left. */
static void clean_policy(void)
{
	unsigned removed = 0;

	if (policy_clean(&removed) == 0 && removed)
		log_info("removed %u policy rules and routes that an earlier process left",
			 removed);
}

/* A relay has descriptors, and others must be left. */
static uint32_t max_relays(void)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };

	getrlimit(RLIMIT_NOFILE, &limit);
	return (uint32_t)MIN(limit.rlim_cur / 16 * RELAY_FDS_16THS, (rlim_t)RELAY_MAX_CONNS);
}

int resident_init(struct resident *resident, unsigned workers)
{
	struct stat st;
	int err;

	*resident = (struct resident){ .workers = workers, .started_ns = now_ns() };
	if (stat("/proc/self/ns/net", &st) == 0)
		resident->netns_inode = st.st_ino;
	resident->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (resident->notify_fd < 0)
		return -errno;
	err = challenges_init(resident);
	if (err) {
		close(resident->notify_fd);
		return err;
	}
	routes_init(&resident->routes, max_relays());
	clean_policy();
	return 0;
}

void resident_free(struct resident *resident)
{
	/* First: connections are counted where their windows are. */
	engine_free(resident->engine);
	programs_free(&resident->spare);
	arms_stop(resident);
	challenges_free(resident);
	routes_free(&resident->routes);
	close(resident->notify_fd);
}

void resident_stay(struct resident *resident)
{
	char error[CTL_MAX_ERROR];

	resident->stays = true;
	if (programs_load(MIN(resident->workers, STEER_MAX_SNIFFERS), &resident->spare, error,
			  sizeof(error)) < 0)
		log_warn("no window can be opened: %s", error);
}

static void warn_full(uint64_t n, uint64_t max, bool no_ports)
{
	if (no_ports)
		log_warn("%llu connections are relayed, and there is no source port for one more: "
			 "new ones are not steered until some have ended",
			 (unsigned long long)n);
	else
		log_warn("%llu connections are relayed, of %llu that may be: new ones are not "
			 "steered until some have ended; more descriptors (ulimit -n) allow more",
			 (unsigned long long)n, (unsigned long long)max);
}

/* Are so many relayed that what is new had better not be steered? */
static bool look_at_relays(struct resident *resident, uint64_t now)
{
	const uint64_t max = resident->routes.max_relays;
	const uint64_t n = routes_relays(&resident->routes);
	bool no_ports = routes_lack_ports(&resident->routes, now);
	bool full = no_ports || n >= (resident->relays_full ? max * 7 / 8 : max * 15 / 16);

	if (full && !resident->relays_full) {
		resident->times_full++;
		if (log_limit_ok(&resident->full_limit, 1, 60 * NSEC_PER_SEC, now))
			warn_full(n, max, no_ports);
	}
	return resident->relays_full = full;
}

/* Before leases are given, and before those of a @closed window end: it is out of the set. */
static void look_at_syn_cookies(struct resident *resident, const struct window_options *closed,
				uint64_t now)
{
	uint16_t ports[WINDOW_SET_MAX_PORTS + WINDOW_MAX_PORTS];
	size_t n = window_set_ports(&resident->routes.windows, ports);

	for (size_t i = 0; closed && i < closed->n_ports; i++)
		ports[n++] = closed->ports[i];
	engine_look_at_syn_cookies(resident->engine, ports, n, closed, now);
}

/* May the guard read the ClientHellos of this port's visitors, instead of a sniffer? */
static bool is_early(const struct window_set *set, uint16_t port)
{
	const struct window_options *options = &window_set_of_port(set, port)->options;

	return options->plane == PLANE_AUTO && !options->has_web_server && !conn_log_wants(false);
}

/* Gives every port the lease that its windows are good for now: none for a port without. */
static void renew(struct resident *resident, uint64_t now)
{
	const struct window_set *set = &resident->routes.windows;
	struct engine *engine = resident->engine;
	bool full = look_at_relays(resident, now);

	look_at_syn_cookies(resident, NULL, now);
	for (size_t i = 0; i < set->n; i++) {
		const struct window_options *options = &set->windows[i]->options;

		for (size_t k = 0; k < options->n_ports; k++) {
			uint16_t port = options->ports[k];
			uint64_t deadline = window_set_port_deadline(set, port);

			engine_lease(engine, port,
				     full ? STEER_LEASE_PAST : MIN(deadline, now + STEER_LEASE_NS),
				     is_early(set, port));
		}
	}
	resident->renewed_ns = now;
}

/* Ends the leases of ports of @window that no window has any more. The window is out of the set. */
static void end_leases(struct resident *resident, const struct window_options *options)
{
	look_at_syn_cookies(resident, options, now_ns());
	for (size_t i = 0; i < options->n_ports; i++)
		if (!window_set_of_port(&resident->routes.windows, options->ports[i]))
			engine_lease(resident->engine, options->ports[i], 0, false);
}

static void drain_if_unused(struct resident *resident)
{
	if (resident->routes.windows.n > 0)
		return;
	resident->relays_full = false;
	if (resident->engine)
		engine_drain(resident->engine, resident->stays ? RESIDENT_REVIVABLE_NS : 0);
}

/* Makes the engine steer, if it does not. 0, or -errno with one line in @error. */
static int engine_ready(struct resident *resident, char *error, size_t error_size)
{
	const struct engine_config config = {
		.routes = &resident->routes,
		.n_workers = resident->workers,
		.notify_fd = resident->notify_fd,
		.spare = resident->stays ? &resident->spare : NULL,
	};
	const char *why;
	int err;

	if (resident->engine)
		err = engine_revive(resident->engine, error, error_size);
	else
		err = engine_new(&config, &resident->engine, error, error_size);
	if (err)
		return err;
	why = engine_no_handoff(resident->engine);
	snprintf(resident->last_no_handoff, sizeof(resident->last_no_handoff), "%s",
		 why ? why : "");
	return 0;
}

void resident_numbers(const struct resident *resident, struct engine_numbers *ret_numbers)
{
	*ret_numbers = resident->past;
	if (resident->engine)
		engine_numbers_add(resident->engine, ret_numbers);
}

/* What went to the web server without us so far. The relay's own connections are not meant. */
static struct window_others count_others(const struct resident *resident)
{
	struct engine_numbers numbers;
	const uint64_t *n = numbers.steer;

	resident_numbers(resident, &numbers);
	return (struct window_others){
		.passed_by = n[COUNTER_PASSED_LEASE] + n[COUNTER_PASSED_OVERLOAD] +
			     n[COUNTER_PASSED_COOKIES] + n[COUNTER_PASSED_NO_SNIFFER] +
			     n[COUNTER_PASSED_ASSIGN],
		.read_in_passing = numbers.guard[COUNTER_EARLY_PASSED],
	};
}

/* What of a window just opened is on other hosts; and of those that took its options over. */
static void find_elsewhere(const struct window_set *set, struct window *opened)
{
	opened->responder_elsewhere =
		!opened->options.built_in && !listeners_is_local(&opened->options.responder);
	for (size_t i = 0; i < set->n; i++) {
		struct window *window = set->windows[i];
		const struct window_options *options = &window->options;

		if (window == opened || options->gives_way)
			window->web_server_elsewhere = options->has_web_server &&
						       !listeners_is_local(&options->web_server);
	}
}

static void log_opened(const struct window_options *options)
{
	const struct log_fields fields = { {
		[LOG_FIELD_EVENT] = "opened",
		[LOG_FIELD_WINDOW] = options->name,
	} };

	log_event(LOG_LEVEL_INFO, &fields, "window \"%s\" opened", options->name);
}

int resident_open_window(struct resident *resident, const struct window_options *options,
			 bool *ret_renewed, char *error, size_t error_size)
{
	struct tally *tally = tally_new(options->name);
	struct window *window;
	int err;

	snprintf(error, error_size, "no memory");
	if (!tally)
		return -ENOMEM;
	err = engine_ready(resident, error, error_size);
	if (!err)
		err = window_check(options, &resident->routes.windows, resident->engine, error,
				   error_size);
	if (!err) {
		pthread_rwlock_wrlock(&resident->routes.lock);
		err = window_set_open(&resident->routes.windows, options, now_ns(), ret_renewed,
				      error, error_size);
		window = err ? NULL : window_set_find(&resident->routes.windows, options->name);
		if (window && !*ret_renewed)
			window->tally = TAKE_PTR(tally);
		if (window)
			find_elsewhere(&resident->routes.windows, window);
		pthread_rwlock_unlock(&resident->routes.lock);
	}
	if (!err)
		engine_opened(resident->engine,
			      options->plane != PLANE_RELAY && (!window->web_server_elsewhere ||
								!window->responder_elsewhere));
	if (!err && !*ret_renewed)
		window->others_before = count_others(resident);
	if (err)
		drain_if_unused(resident);
	else if (!*ret_renewed)
		log_opened(options);
	tally_free(tally);
	return err;
}

void resident_settle(struct resident *resident)
{
	if (resident->routes.windows.n > 0)
		renew(resident, now_ns());
	else
		drain_if_unused(resident);
}

static void reply_open(struct resident *resident, struct ctl_conn *conn,
		       const struct window_options *options)
{
	char error[CTL_MAX_ERROR];
	bool renewed;

	if (resident_open_window(resident, options, &renewed, error, sizeof(error)) < 0) {
		ctl_reply_error(conn, "%s", error);
		return;
	}
	resident_settle(resident);
	ctl_reply_line(conn, renewed ? "renewed" : "opened");
	ctl_reply_ok(conn);
}

static void handle_open(struct resident *resident, struct ctl_conn *conn,
			const struct ctl_request *request)
{
	_cleanup_free_ struct window_options *options = malloc(sizeof(*options));
	char error[CTL_MAX_ERROR];

	if (!options) {
		ctl_reply_error(conn, "no memory");
		return;
	}
	window_options_init(options);
	for (size_t i = 0; i < request->n; i++) {
		int err = window_options_set(options, request->pairs[i].key,
					     request->pairs[i].value, error, sizeof(error));

		if (err == -ENOKEY) {
			ctl_reply_error(conn, "%s: no such option of a window",
					request->pairs[i].key);
			return;
		}
		if (err) {
			ctl_reply_error(conn, "%s", error);
			return;
		}
	}
	reply_open(resident, conn, options);
}

void resident_close_window(struct resident *resident, struct ctl_conn *conn,
			   const struct window *window, const char *why)
{
	const struct window_options options = window->options;
	struct summary summary;

	summary_make(window, count_others(resident), now_ns(), &summary);
	routes_close_window(&resident->routes, window, now_ns());
	end_leases(resident, &options);
	summary.fields.value[LOG_FIELD_WINDOW] = options.name;
	log_event(LOG_LEVEL_INFO, &summary.fields, "window \"%s\" %s: %s", options.name, why,
		  summary.text);
	if (conn)
		ctl_reply_line(conn, "closed %s %s", options.name, summary.text);
	if (options.built_in)
		challenges_forget(resident, options.ports[0]);
}

static void handle_status(struct resident *resident, struct ctl_conn *conn)
{
	struct json_object *report = resident_report(resident, now_ns());

	if (!report) {
		ctl_reply_error(conn, "no memory");
		return;
	}
	ctl_reply_line(conn, "%s", json_object_to_json_string_ext(report, JSON_C_TO_STRING_PLAIN));
	ctl_reply_ok(conn);
	json_object_put(report);
}

void resident_handle(void *ctx, struct ctl_conn *conn, const struct ctl_request *request)
{
	struct resident *resident = ctx;

	resident->had_request = true;
	/* Whoever has begun to listen before asking is known. */
	arms_tick(resident, now_ns());
	/* What is relayed may keep it for long, or until somebody kills it: no window has that. */
	if (resident->stopping &&
	    (!strcmp(request->verb, "open") || !strcmp(request->verb, "challenge-add")))
		ctl_reply_stopping(conn);
	else if (!strcmp(request->verb, "open"))
		handle_open(resident, conn, request);
	else if (!strcmp(request->verb, "close"))
		closing_handle(resident, conn, request);
	else if (!strcmp(request->verb, "status"))
		handle_status(resident, conn);
	else if (!strcmp(request->verb, "ping"))
		ctl_reply_ok(conn);
	else if (!challenges_handle(resident, conn, request))
		ctl_reply_error(conn,
				"%s: no such request (open, close, status, ping, challenge-add, "
				"challenge-remove, challenge-list)",
				request->verb);
}

static void expire(struct resident *resident, uint64_t now)
{
	struct window_set *set = &resident->routes.windows;
	bool closed = false;

	for (size_t i = 0; i < set->n;) {
		if (set->windows[i]->deadline_ns > now) {
			i++;
			continue;
		}
		resident_close_window(resident, NULL, set->windows[i], "reached its deadline");
		closed = true;
	}
	if (closed)
		drain_if_unused(resident);
}

uint64_t resident_tick(struct resident *resident, uint64_t now_ns)
{
	uint64_t again = challenges_tick(resident, now_ns);
	uint64_t armed_again = arms_tick(resident, now_ns);
	uint64_t next = window_set_next_deadline(&resident->routes.windows);
	eventfd_t n;

	eventfd_read(resident->notify_fd, &n);
	if (next <= now_ns)
		expire(resident, now_ns);
	next = window_set_next_deadline(&resident->routes.windows);
	if (resident->routes.windows.n > 0) {
		if (now_ns - resident->renewed_ns >= STEER_RENEW_NS) {
			renew(resident, now_ns);
			engine_ping(resident->engine);
		}
		next = MIN(next, resident->renewed_ns + STEER_RENEW_NS);
	}
	if (resident->engine) {
		uint64_t again_ns;

		if (engine_progress(resident->engine, now_ns, &again_ns) == ENGINE_FINISHED) {
			engine_numbers_add(resident->engine, &resident->past);
			engine_free(resident->engine);
			resident->engine = NULL;
		}
		next = MIN(next, again_ns);
	}
	next = MIN(next, again);
	again = closing_tick(resident, now_ns);
	next = MIN(next, again);
	next = MIN(next, armed_again);
	again = challenges_stop_responder(resident, now_ns);
	return MIN(next, again);
}

void resident_close_all(struct resident *resident)
{
	arms_stop(resident);
	resident->stopping = true;
	resident->stays = false;
	while (resident->routes.windows.n > 0)
		resident_close_window(resident, NULL, resident->routes.windows.windows[0],
				      "closed, the resident process being stopped");
	if (resident->engine)
		drain_if_unused(resident);
}

bool resident_is_idle(const struct resident *resident)
{
	return !resident->engine && resident->routes.windows.n == 0 && resident->closings.n == 0 &&
	       challenges_are_idle(resident);
}
