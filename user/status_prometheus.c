/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The status document in Prometheus' text exposition format. Every counter is in it: those that say
 * the same thing of different targets or reasons are one metric with a label, each other one is a
 * metric of its own, with its description as HELP.
 */
#include <assert.h>
#include <string.h>
#include <time.h>

#include "answer_counters.h"
#include "conn.h"
#include "status_doc.h"
#include "steer_shared.h"
#include "util.h"

#define PREFIX "acme_steer_"

static void put_head(FILE *to, const char *name, const char *type, const char *help)
{
	fprintf(to, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s %s\n", name, help, name, type);
}

/* The value of a label: everything but these three characters stands for itself. */
static void put_quoted(FILE *to, const char *text)
{
	putc('"', to);
	for (; *text; text++) {
		if (*text == '\n')
			fputs("\\n", to);
		else if (*text == '"' || *text == '\\')
			fprintf(to, "\\%c", *text);
		else
			putc(*text, to);
	}
	putc('"', to);
}

/* @label NULL: none. */
static void put_sample(FILE *to, const char *name, const char *label, const char *text,
		       double value)
{
	fprintf(to, PREFIX "%s", name);
	if (label) {
		fprintf(to, "{%s=", label);
		put_quoted(to, text);
		putc('}', to);
	}
	fprintf(to, " %.17g\n", value);
}

static void put_one(FILE *to, const char *name, const char *type, const char *help, double value)
{
	put_head(to, name, type, help);
	put_sample(to, name, NULL, NULL, value);
}

/* One counter of the document. */
struct counter {
	const char *name, *help;
};

/* Counters that are one metric: rows that follow each other, the first one has the help. */
static const struct {
	const char *metric, *label, *value, *counter, *help;
} grouped[] = {
	{ "handed_off_connections_total", "target", "web_server", "handed_off_web",
	  "Connections handed off." },
	{ "handed_off_connections_total", "target", "responder", "handed_off_responder", NULL },
	{ "relayed_connections_total", "target", "web_server", "relayed_web",
	  "Connections relayed." },
	{ "relayed_connections_total", "target", "responder", "relayed_responder", NULL },
	{ "passed_by_connections_total", "reason", "lease_over", "passed_lease_over",
	  "New connections that were not steered although their port was." },
	{ "passed_by_connections_total", "reason", "overload", "passed_overload", NULL },
	{ "passed_by_connections_total", "reason", "syn_cookies", "passed_cookies", NULL },
	{ "passed_by_connections_total", "reason", "own", "passed_own", NULL },
	{ "passed_by_connections_total", "reason", "no_sniffer", "passed_no_sniffer", NULL },
	{ "passed_by_connections_total", "reason", "assign_error", "passed_assign_error", NULL },
	{ "not_waited_for_connections_total", "reason", "limit", "over_limit",
	  "Connections given to the web server at once, with an incomplete ClientHello." },
	{ "not_waited_for_connections_total", "reason", "share", "over_share", NULL },
	{ "not_waited_for_connections_total", "reason", "descriptors", "no_descriptor", NULL },
};

#define COUNTER(id, name, text) { name, text },
static const struct counter connection_counters[] = { STEER_COUNTERS(COUNTER)
							      CONN_COUNTERS(COUNTER) };
static const struct counter guard_counters[] = { GUARD_COUNTERS(COUNTER) };
static const struct counter answer_counters[] = { ANSWER_COUNTERS(COUNTER) };

static bool is_grouped(const char *counter)
{
	for (size_t i = 0; i < ARRAY_SIZE(grouped); i++)
		if (strcmp(grouped[i].counter, counter) == 0)
			return true;
	return false;
}

static void put_grouped(FILE *to, struct json_object *counters)
{
	for (size_t i = 0; i < ARRAY_SIZE(grouped); i++) {
		if (grouped[i].help)
			put_head(to, grouped[i].metric, "counter", grouped[i].help);
		put_sample(to, grouped[i].metric, grouped[i].label, grouped[i].value,
			   (double)doc_count(counters, grouped[i].counter));
	}
}

/* "acme_steer_", @prefix, the counter's own name, "_total". */
static void put_counters(FILE *to, struct json_object *values, const char *prefix,
			 const struct counter *counters, size_t n)
{
	char name[64], help[160];

	for (size_t i = 0; i < n; i++) {
		if (is_grouped(counters[i].name))
			continue;
		snprintf(name, sizeof(name), "%s%s_total", prefix, counters[i].name);
		snprintf(help, sizeof(help), "%c%s.",
			 counters[i].help[0] >= 'a' && counters[i].help[0] <= 'z'
				 ? counters[i].help[0] - 'a' + 'A'
				 : counters[i].help[0],
			 counters[i].help + 1);
		put_one(to, name, "counter", help, (double)doc_count(values, counters[i].name));
	}
}

/* Of each member of @numbers, with its name as the label. */
static void put_members(FILE *to, const char *name, const char *label, struct json_object *numbers)
{
	if (!json_object_is_type(numbers, json_type_object))
		return;
	json_object_object_foreach(numbers, key, value)
		put_sample(to, name, label, key, json_object_get_double(value));
}

/* Of each object in @list, by one of its strings. */
static void put_list(FILE *to, const char *name, const char *type, const char *help,
		     struct json_object *list, const char *label, const char *key,
		     const char *number)
{
	size_t n = doc_length(list);

	if (n)
		put_head(to, name, type, help);
	for (size_t i = 0; i < n; i++) {
		struct json_object *one = json_object_array_get_idx(list, i);

		/* An armed window has no time left to count. */
		if (doc_member(one, number))
			put_sample(to, name, label, doc_string(one, key, ""),
				   doc_number(one, number));
	}
}

static void put_windows(FILE *to, struct json_object *windows)
{
	put_one(to, "windows", "gauge", "Open windows.", (double)doc_length(windows));
	put_list(to, "window_open_seconds", "gauge", "For how long a window has been open.",
		 windows, "window", "name", "opened_s");
	put_list(to, "window_remaining_seconds", "gauge",
		 "Until a window's deadline; an armed one has none.", windows, "window", "name",
		 "remaining_s");
	put_list(to, "window_acme_connections_total", "counter",
		 "Connections with a challenge for a window's responder.", windows, "window",
		 "name", "acme_connections");
	put_list(to, "window_held_connections", "gauge",
		 "Connections of a window that are not handed off, and not over.", windows,
		 "window", "name", "connections");
	put_list(to, "window_relayed_connections", "gauge", "Those of them that are being relayed.",
		 windows, "window", "name", "relayed");
}

static void put_planes(FILE *to, struct json_object *planes)
{
	if (!json_object_is_type(planes, json_type_object))
		return;
	put_head(to, "plane_available", "gauge", "Can connections be given on in this way?");
	json_object_object_foreach(planes, name, plane)
		put_sample(to, "plane_available", "plane", name,
			   json_object_get_boolean(doc_member(plane, "available")));
}

static void put_responder(FILE *to, struct json_object *responder)
{
	struct json_object *counters = doc_member(responder, "counters");

	put_one(to, "responder_up", "gauge", "Does the built-in responder run?",
		strcmp(doc_string(responder, "state", ""), "running") == 0);
	put_one(to, "responder_restarts_total", "counter",
		"Times that the built-in responder had to be started again.",
		doc_number(responder, "restarts"));
	put_head(to, "responder_handshakes_total", "counter",
		 "Handshakes with the built-in responder, by what became of them.");
	for (size_t i = 0; i < ARRAY_SIZE(answer_counters); i++)
		put_sample(to, "responder_handshakes_total", "result", answer_counters[i].name,
			   (double)doc_count(counters, answer_counters[i].name));
}

static void put_reasons(FILE *to, struct json_object *reasons)
{
	put_list(to, "relay_reasons_total", "counter", "Connections relayed, by the reason.",
		 reasons, "reason", "reason", "connections");
}

static void put_log(FILE *to, struct json_object *log)
{
	put_head(to, "log_messages_total", "counter", "Errors and warnings of the process.");
	put_sample(to, "log_messages_total", "level", "error", doc_number(log, "errors"));
	put_sample(to, "log_messages_total", "level", "warning", doc_number(log, "warnings"));
}

void status_prometheus(struct json_object *status, FILE *to)
{
	struct json_object *counters = doc_member(status, "counters");

	put_one(to, "up", "gauge", "Does a resident process run in this network namespace?",
		doc_member(status, "pid") != NULL);
	put_head(to, "build_info", "gauge", "The version, as a label.");
	put_sample(to, "build_info", "version", doc_string(status, "version", ""), 1);
	put_windows(to, doc_member(status, "windows"));
	if (!doc_member(status, "pid"))
		return;
	put_one(to, "start_time_seconds", "gauge", "When the resident process was started.",
		(double)(time(NULL) - (time_t)doc_number(status, "uptime_s")));
	put_one(to, "challenges", "gauge", "Challenges that the built-in responder answers.",
		doc_number(status, "challenges"));
	put_list(to, "arm_windows_total", "counter", "Windows opened by a listener at the address.",
		 doc_member(status, "armed"), "responder", "responder", "opened");
	put_planes(to, doc_member(status, "planes"));
	put_head(to, "connections", "gauge", "Connections that the process has now, by state.");
	put_members(to, "connections", "state", doc_member(status, "connections"));
	put_grouped(to, counters);
	put_counters(to, counters, "", connection_counters, ARRAY_SIZE(connection_counters));
	put_counters(to, counters, "guard_", guard_counters, ARRAY_SIZE(guard_counters));
	put_reasons(to, doc_member(status, "relay_reasons"));
	put_responder(to, doc_member(status, "responder"));
	put_log(to, doc_member(status, "log"));
}
