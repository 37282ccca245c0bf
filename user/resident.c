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
#include "vrf.h"

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

/* May the guard read the ClientHellos of such a window's visitors, instead of a sniffer? */
static bool is_early(const struct window_options *options)
{
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
				     is_early(options));
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

/* May a window with these options be handed to @target? Says why not, unless a relay will do. */
static int check_target(struct resident *resident, const struct window_options *options,
			const struct endpoint *target, char *error, size_t error_size)
{
	struct guards *guards = engine_guards(resident->engine);
	char text[ENDPOINT_STRLEN];
	enum seize_result result;
	int err;

	if (!guards || options->plane == PLANE_RELAY)
		return 0;
	result = guards_preflight(guards, endpoint_is_v4(target), target, &err);
	if (err || result == SEIZE_OK || result == SEIZE_QUEUE_FULL)
		return 0;
	endpoint_format(target, text);
	if (options->plane == PLANE_HANDOFF) {
		snprintf(error, error_size,
			 "connections can't be handed off to %s: %s; without --plane=handoff they "
			 "are "
			 "relayed",
			 text, seize_texts[result]);
		return -EOPNOTSUPP;
	}
	log_info("connections to %s are relayed: %s", text, seize_texts[result]);
	return 0;
}

/* An address that a listener on a wildcard can be reached at. */
static struct endpoint reachable(const struct listener *listener)
{
	struct endpoint at = listener->address;

	if (IN6_IS_ADDR_UNSPECIFIED(&at.addr))
		at.addr = (struct in6_addr)IN6ADDR_LOOPBACK_INIT;
	else if (endpoint_is_v4(&at) && !memcmp(&at.addr.s6_addr[12], "\0\0\0", 4))
		memcpy(&at.addr.s6_addr[12], "\x7f\0\0\1", 4);
	return at;
}

/* Is there a web server behind each port, and which plane can it have? */
static int check_port(struct resident *resident, const struct window_options *options,
		      uint16_t port, char *error, size_t error_size)
{
	struct listener listeners[LISTENERS_MAX];
	int n = listeners_find(port, listeners);

	if (n < 0) {
		snprintf(error, error_size, "asking who listens on port %u: %s", port,
			 strerror(-n));
		return n;
	}
	if (n == 0) {
		snprintf(error, error_size,
			 "nothing listens on port %u in this network namespace; start the web "
			 "server "
			 "first, or name where it is with --web-server or --netns",
			 port);
		return -ENOENT;
	}
	for (int i = 0; i < n; i++) {
		struct endpoint at = reachable(&listeners[i]);
		int err = check_target(resident, options, &at, error, error_size);

		if (err)
			return err;
	}
	return 0;
}

/* When all of a window's connections are relayed: can the client's address be kept as asked for? */
static int check_client_ip(const struct window_options *options, char *error, size_t error_size)
{
	int err = options->client_ip == CLIENT_IP_TRANSPARENT ? policy_probe() : 0;

	if (err)
		snprintf(error, error_size,
			 "connections are relayed, and their addresses can't be kept: %s; give "
			 "CAP_NET_ADMIN, or choose --client-ip=proxy-v2 (the web server must "
			 "expect it) or "
			 "--client-ip=none (it sees this host's address)",
			 err == -EOPNOTSUPP ? "the kernel has no policy routing" : strerror(-err));
	return err;
}

/*
 * The web server is on another host, or in another network namespace: only a relay gets there. Its
 * answers to the clients' own addresses come by here only if we are its router; else every
 * connection would be lost, and there is no way to find out but to lose one.
 */
static int check_elsewhere(const struct window_options *options, char *error, size_t error_size)
{
	char at[ENDPOINT_STRLEN];

	endpoint_format(&options->web_server, at);
	if (options->plane == PLANE_HANDOFF) {
		snprintf(error, error_size,
			 "the web server at %s is not on this host; without --plane=handoff "
			 "connections are relayed",
			 at);
		return -EOPNOTSUPP;
	}
	if (options->client_ip != CLIENT_IP_TRANSPARENT || options->client_ip_chosen)
		return 0;
	snprintf(error, error_size,
		 "the web server at %s is not on this host, and would answer the clients past "
		 "it: say --client-ip=proxy-v2 (it must expect that), --client-ip=none (it sees "
		 "this host's address), or --client-ip=transparent if this host is its router",
		 at);
	return -EINVAL;
}

/* The sniffers are in no VRF: what comes in by one would be lost. */
static int check_vrf(uint16_t port, char *error, size_t error_size)
{
	struct listener listeners[LISTENERS_MAX];
	int n = listeners_find(port, listeners);
	char name[IF_NAMESIZE];

	if (n <= 0 || vrf_find(listeners, n, name) <= 0)
		return 0;
	snprintf(error, error_size,
		 "connections to port %u come in by the VRF %s, and would be lost: no window is "
		 "opened where the web server is bound to a VRF, or takes connections of all of "
		 "them (net.ipv4.tcp_l3mdev_accept)",
		 port, name);
	return -EOPNOTSUPP;
}

/* Everything about the options that depends on this host. 0, or -errno with one line in @error. */
static int check(struct resident *resident, const struct window_options *options, char *error,
		 size_t error_size)
{
	const char *no_handoff = engine_no_handoff(resident->engine);
	int err = 0;

	if (options->plane == PLANE_HANDOFF && no_handoff) {
		snprintf(error, error_size, "%s; without --plane=handoff connections are relayed",
			 no_handoff);
		return -EOPNOTSUPP;
	}
	for (size_t i = 0; i < options->n_ports && !err; i++)
		err = check_vrf(options->ports[i], error, error_size);
	if (!err && (no_handoff || options->plane == PLANE_RELAY))
		err = check_client_ip(options, error, error_size);
	if (err)
		return err;
	if (options->has_web_server) {
		if (!listeners_is_local(&options->web_server))
			return check_elsewhere(options, error, error_size);
		return check_target(resident, options, &options->web_server, error, error_size);
	}
	for (size_t i = 0; i < options->n_ports && !err; i++)
		err = check_port(resident, options, options->ports[i], error, error_size);
	return err;
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
		err = check(resident, options, error, error_size);
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
	if (!strcmp(request->verb, "open"))
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
