// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The status document: what is open, what was done, and why it was done that way. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "resident.h"
#include "util.h"

/* Every json_object_object_add() takes its value over; a NULL one, without memory, becomes null. */
static void add_string(struct json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

static void add_number(struct json_object *to, const char *key, uint64_t n)
{
	json_object_object_add(to, key, json_object_new_int64((int64_t)n));
}

static void add_endpoint(struct json_object *to, const char *key, const struct endpoint *endpoint)
{
	char text[ENDPOINT_STRLEN];

	add_string(to, key, endpoint_format(endpoint, text));
}

static void add_seconds(struct json_object *to, const char *key, uint64_t ns)
{
	char text[32];
	double seconds = (double)ns / (double)NSEC_PER_SEC;

	snprintf(text, sizeof(text), "%.3f", seconds);
	json_object_object_add(to, key, json_object_new_double_s(seconds, text));
}

/* When @ns of CLOCK_MONOTONIC will be, or was, by the clock on the wall as it is set now. */
static void add_time(struct json_object *to, const char *key, uint64_t ns)
{
	char text[32] = "";
	struct timespec wall;
	uint64_t at_ns;
	time_t at;
	struct tm tm;

	/* Both clocks at once: the same moment gives the same text every time. */
	clock_gettime(CLOCK_REALTIME, &wall);
	at_ns = (uint64_t)wall.tv_sec * NSEC_PER_SEC + (uint64_t)wall.tv_nsec + ns - now_ns();
	at = (time_t)((at_ns + NSEC_PER_SEC / 2) / NSEC_PER_SEC);
	if (gmtime_r(&at, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	add_string(to, key, text);
}

static const char *const tally_number_names[] = {
	[TALLY_ACCEPTED] = "accepted",	   [TALLY_HANDED_OFF] = "handed_off",
	[TALLY_RELAYED] = "relayed",	   [TALLY_TIMED_OUT] = "timed_out",
	[TALLY_CHALLENGES] = "challenges",
};
_Static_assert(ARRAY_SIZE(tally_number_names) == TALLY_NUMBERS, "a name for each number");

static void add_name(void *to, const char *name, uint64_t n)
{
	add_number(to, name, n);
}

/* What became of its connections so far, and whom challenges were for. */
static void add_tally(struct json_object *report, const struct tally *tally)
{
	struct json_object *total = json_object_new_object();
	struct json_object *names = json_object_new_object();

	for (int i = 0; i < TALLY_NUMBERS; i++)
		add_number(total, tally_number_names[i], tally_number(tally, i));
	add_number(report, "other_names", tally_names(tally, add_name, names));
	json_object_object_add(report, "total", total);
	json_object_object_add(report, "names", names);
}

/* How its connections are given to the web server, as a rule; and why they have to be relayed. */
static void add_plane(struct json_object *report, const struct resident *resident,
		      const struct window *window)
{
	const char *why = NULL;

	if (window->options.plane == PLANE_RELAY)
		why = conn_reason_text(REASON_ASKED);
	else if (resident->last_no_handoff[0])
		why = resident->last_no_handoff;
	else if (window->web_server_elsewhere)
		why = conn_reason_text(REASON_ELSEWHERE);
	add_string(report, "plane", plane_names[window->options.plane]);
	add_string(report, "plane_used", plane_names[why ? PLANE_RELAY : PLANE_HANDOFF]);
	json_object_object_add(report, "plane_reason", why ? json_object_new_string(why) : NULL);
}

static struct json_object *window_report(const struct resident *resident,
					 const struct window *window, uint64_t now)
{
	const struct window_options *options = &window->options;
	struct json_object *report = json_object_new_object();
	struct json_object *ports = json_object_new_array();
	struct json_object *domains = json_object_new_array();

	for (size_t i = 0; i < options->n_ports; i++)
		json_object_array_add(ports, json_object_new_int(options->ports[i]));
	for (size_t i = 0; i < options->n_domains; i++)
		json_object_array_add(domains, json_object_new_string(options->domains[i]));
	add_string(report, "name", options->name);
	json_object_object_add(report, "ports", ports);
	json_object_object_add(report, "domains", domains);
	if (options->built_in) {
		const struct challenge_port *port =
			challenge_set_port(&resident->routes.challenges, options->ports[0]);

		add_string(report, "responder", "built-in");
		add_number(report, "challenges", port ? port->n : 0);
	} else {
		add_endpoint(report, "responder", &options->responder);
	}
	if (options->has_web_server)
		add_endpoint(report, "web_server", &options->web_server);
	else
		json_object_object_add(report, "web_server", NULL);
	add_plane(report, resident, window);
	add_string(report, "client_ip", client_ip_names[options->client_ip]);
	add_seconds(report, "opened_s", now - window->opened_ns);
	if (options->armed) {
		json_object_object_add(report, "remaining_s", NULL);
		json_object_object_add(report, "deadline", NULL);
	} else {
		add_seconds(report, "remaining_s",
			    window->deadline_ns > now ? window->deadline_ns - now : 0);
		add_time(report, "deadline", window->deadline_ns);
	}
	json_object_object_add(report, "armed", json_object_new_boolean(options->armed));
	add_number(report, "acme_connections",
		   __atomic_load_n(&window->acme_connections, __ATOMIC_RELAXED));
	add_number(report, "connections", tally_held(window->tally));
	add_number(report, "relayed", tally_relayed(window->tally));
	add_tally(report, window->tally);
	return report;
}

/* Closed windows with connections that are not over. */
static struct json_object *closed_report(const struct tally *tally, uint64_t now)
{
	struct json_object *list = json_object_new_array();

	for (; tally; tally = tally->next) {
		struct json_object *report;

		if (!tally_held(tally))
			continue;
		report = json_object_new_object();
		add_string(report, "name", tally->name);
		add_seconds(report, "closed_s", now - tally->closed_ns);
		add_number(report, "connections", tally_held(tally));
		add_number(report, "relayed", tally_relayed(tally));
		json_object_array_add(list, report);
	}
	return list;
}

/* Why connections were relayed: a name for programs, a text for people, how many. */
static struct json_object *reasons_report(const uint64_t reasons[RELAY_REASONS])
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < RELAY_REASONS; i++) {
		struct json_object *report;

		if (!reasons[i])
			continue;
		report = json_object_new_object();
		add_string(report, "reason", conn_reason_names[i]);
		add_string(report, "text", conn_reason_text(i));
		add_number(report, "connections", reasons[i]);
		json_object_array_add(list, report);
	}
	return list;
}

static struct json_object *plane_report(const char *why_not)
{
	struct json_object *report = json_object_new_object();

	json_object_object_add(report, "available", json_object_new_boolean(!why_not));
	if (why_not)
		add_string(report, "reason", why_not);
	return report;
}

static const char *state_name(const struct resident *resident)
{
	static const char *const names[] = {
		[ENGINE_STEERING] = "open",
		[ENGINE_DRAINING] = "draining",
		[ENGINE_LINGERING] = "lingering",
		[ENGINE_FINISHED] = "idle",
	};

	return resident->engine ? names[engine_state(resident->engine)] : "idle";
}

static struct json_object *counters_report(const struct engine_numbers *numbers)
{
	struct json_object *report = json_object_new_object();

	for (int i = 0; i < STEER_COUNTER_COUNT; i++)
		add_number(report, steer_counter_names[i], numbers->steer[i]);
	for (int i = 0; i < CONN_COUNTER_COUNT; i++)
		add_number(report, conn_counter_names[i], numbers->loop.counters[i]);
	for (int i = 0; i < GUARD_COUNTER_COUNT; i++)
		add_number(report, guard_counter_names[i], numbers->guard[i]);
	return report;
}

/* Of relays at once: how many there are, how many may be, and what that has led to. */
static struct json_object *relay_limit_report(const struct resident *resident)
{
	struct json_object *report = json_object_new_object();

	add_number(report, "connections", routes_relays(&resident->routes));
	add_number(report, "max", resident->routes.max_relays);
	json_object_object_add(report, "reached", json_object_new_boolean(resident->relays_full));
	add_number(report, "times", resident->times_full);
	return report;
}

/* The latest errors and warnings, newest first. */
static struct json_object *errors_report(uint64_t now)
{
	struct json_object *list = json_object_new_array();
	struct log_recent recent[LOG_RECENT_MAX];
	unsigned n = log_recent(recent);

	for (unsigned i = 0; i < n; i++) {
		struct json_object *report = json_object_new_object();

		add_string(report, "level", log_level_names[recent[i].level]);
		add_seconds(report, "age_s", now > recent[i].at_ns ? now - recent[i].at_ns : 0);
		add_string(report, "text", recent[i].text);
		json_object_array_add(list, report);
	}
	return list;
}

static struct json_object *log_report(void)
{
	struct json_object *report = json_object_new_object();

	add_number(report, "errors", log_count(LOG_LEVEL_ERROR));
	add_number(report, "warnings", log_count(LOG_LEVEL_WARN));
	return report;
}

struct json_object *resident_report(const struct resident *resident, uint64_t now_ns)
{
	const struct window_set *set = &resident->routes.windows;
	struct engine_numbers numbers;
	struct json_object *report = json_object_new_object();
	struct json_object *windows = json_object_new_array();
	struct json_object *planes = json_object_new_object();
	struct json_object *connections = json_object_new_object();

	resident_numbers(resident, &numbers);
	for (size_t i = 0; i < set->n; i++)
		json_object_array_add(windows, window_report(resident, set->windows[i], now_ns));
	json_object_object_add(
		planes, "handoff",
		plane_report(resident->last_no_handoff[0] ? resident->last_no_handoff : NULL));
	json_object_object_add(planes, "relay", plane_report(NULL));
	for (int i = 0; i < CONN_CLOSED; i++)
		add_number(connections, conn_state_names[i], numbers.loop.in_state[i]);

	add_string(report, "version", ACME_STEER_VERSION);
	add_number(report, "pid", (uint64_t)getpid());
	add_number(report, "netns", resident->netns_inode);
	add_string(report, "state", state_name(resident));
	add_seconds(report, "uptime_s", now_ns - resident->started_ns);
	json_object_object_add(report, "planes", planes);
	json_object_object_add(report, "windows", windows);
	json_object_object_add(report, "armed", arms_report(resident));
	json_object_object_add(report, "closed_windows",
			       closed_report(resident->routes.closed, now_ns));
	add_number(report, "challenges", resident->routes.challenges.n);
	json_object_object_add(report, "responder", keeper_report(resident->challenges.keeper));
	json_object_object_add(report, "connections", connections);
	json_object_object_add(report, "counters", counters_report(&numbers));
	json_object_object_add(report, "relay_limit", relay_limit_report(resident));
	json_object_object_add(report, "relay_reasons", reasons_report(numbers.loop.reasons));
	json_object_object_add(report, "log", log_report());
	json_object_object_add(report, "errors", errors_report(now_ns));
	return report;
}
