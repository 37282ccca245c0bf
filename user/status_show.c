/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The status document for people: in parts, with an empty line before each but the first. */
#include <string.h>
#include <time.h>

#include "cmd_options.h"
#include "status_doc.h"

/* "  ports: 443, 8443"; of an empty list, @none. */
static void show_list(FILE *to, const char *label, struct json_object *list, const char *none)
{
	size_t n = doc_length(list);

	fprintf(to, "  %s: %s", label, n ? "" : none);
	for (size_t i = 0; i < n; i++)
		fprintf(to, "%s%s", i ? ", " : "",
			json_object_get_string(json_object_array_get_idx(list, i)));
	fprintf(to, "\n");
}

/* "  plane: auto, steered connections are relayed: this kernel can't hand off" */
static void show_plane(FILE *to, struct json_object *window)
{
	const char *why = doc_string(window, "plane_reason", NULL);

	fprintf(to, "  plane: %s, steered connections are %s%s%s\n",
		doc_string(window, "plane", "?"),
		strcmp(doc_string(window, "plane_used", ""), "relay") == 0 ? "relayed"
									   : "handed off",
		why ? ": " : "", why ? why : "");
}

static void show_deadline(FILE *to, struct json_object *window)
{
	char text[CMD_DURATION_STRLEN], at[16] = "";
	time_t deadline = time(NULL) + (time_t)(doc_number(window, "remaining_s") + 0.5);
	struct tm tm;

	if (json_object_get_boolean(doc_member(window, "armed"))) {
		fprintf(to, "  closes: when nobody listens at %s\n",
			doc_string(window, "responder", "?"));
		return;
	}
	if (localtime_r(&deadline, &tm))
		strftime(at, sizeof(at), "%H:%M:%S", &tm);
	fprintf(to, "  closes in: %s, at %s\n",
		cmd_duration(doc_number(window, "remaining_s"), text), at);
}

static void show_names(FILE *to, struct json_object *window)
{
	struct json_object *names = doc_member(window, "names");
	uint64_t others = doc_count(window, "other_names");
	bool any = false;

	if (!json_object_is_type(names, json_type_object) || json_object_object_length(names) == 0)
		return;
	fprintf(to, "  challenges served: ");
	json_object_object_foreach(names, name, n)
	{
		fprintf(to, "%s%s %lld", any ? ", " : "", name,
			(long long)json_object_get_int64(n));
		any = true;
	}
	if (others)
		fprintf(to, ", other names %llu", (unsigned long long)others);
	fprintf(to, "\n");
}

static void show_window(FILE *to, struct json_object *window)
{
	struct json_object *total = doc_member(window, "total");
	char text[CMD_DURATION_STRLEN];

	fprintf(to, "window: %s\n", doc_string(window, "name", "?"));
	show_list(to, "ports", doc_member(window, "ports"), "none");
	if (doc_member(window, "challenges"))
		fprintf(to, "  challenges: %.0f\n", doc_number(window, "challenges"));
	else
		show_list(to, "domains", doc_member(window, "domains"), "every name");
	fprintf(to, "  responder: %s\n", doc_string(window, "responder", "?"));
	fprintf(to, "  web server: %s\n",
		doc_string(window, "web_server", "whoever listens where the client asked"));
	show_plane(to, window);
	if (strcmp(doc_string(window, "client_ip", "none"), "none") != 0)
		fprintf(to, "  client address in a relay: %s\n",
			doc_string(window, "client_ip", "none"));
	fprintf(to, "  open for: %s\n", cmd_duration(doc_number(window, "opened_s"), text));
	show_deadline(to, window);
	fprintf(to,
		"  steered connections: %.0f, of them %.0f handed off, %.0f relayed, %.0f timed "
		"out\n",
		doc_number(total, "accepted"), doc_number(total, "handed_off"),
		doc_number(total, "relayed"), doc_number(total, "timed_out"));
	fprintf(to, "  acme-tls/1 connections: %.0f\n", doc_number(window, "acme_connections"));
	show_names(to, window);
	fprintf(to, "  relayed now: %.0f\n", doc_number(window, "relayed"));
}

/* Closed windows whose connections are not over. */
static void show_closed(FILE *to, struct json_object *list)
{
	char text[CMD_DURATION_STRLEN];

	for (size_t i = 0; i < doc_length(list); i++) {
		struct json_object *window = json_object_array_get_idx(list, i);

		fprintf(to, "\nclosed window: %s\n", doc_string(window, "name", "?"));
		fprintf(to, "  closed for: %s\n",
			cmd_duration(doc_number(window, "closed_s"), text));
		fprintf(to, "  connections not over: %.0f, %.0f of them relayed\n",
			doc_number(window, "connections"), doc_number(window, "relayed"));
	}
}

static void show_reasons(FILE *to, struct json_object *list)
{
	if (doc_length(list))
		fprintf(to, "\nrelayed because:\n");
	for (size_t i = 0; i < doc_length(list); i++) {
		struct json_object *reason = json_object_array_get_idx(list, i);

		fprintf(to, "  %s: %.0f\n", doc_string(reason, "text", "?"),
			doc_number(reason, "connections"));
	}
}

static void show_planes(FILE *to, struct json_object *planes)
{
	if (!json_object_is_type(planes, json_type_object))
		return;
	fprintf(to, "\nplanes:\n");
	json_object_object_foreach(planes, name, plane)
	{
		if (json_object_get_boolean(doc_member(plane, "available")))
			fprintf(to, "  %s: available\n", name);
		else
			fprintf(to, "  %s: not available: %s\n", name,
				doc_string(plane, "reason", "no reason given"));
	}
}

/* The members of @numbers that are not 0, under a heading, nothing if all are. */
static void show_numbers(FILE *to, const char *heading, struct json_object *numbers)
{
	bool any = false;

	if (!json_object_is_type(numbers, json_type_object))
		return;
	json_object_object_foreach(numbers, key, value)
	{
		if (json_object_get_int64(value) == 0)
			continue;
		if (!any)
			fprintf(to, "\n%s:\n", heading);
		any = true;
		fprintf(to, "  ");
		for (const char *p = key; *p; p++)
			putc(*p == '_' ? ' ' : *p, to);
		fprintf(to, ": %lld\n", (long long)json_object_get_int64(value));
	}
}

/* The built-in one, unless it is off and was never on. */
static void show_responder(FILE *to, struct json_object *responder)
{
	if (!responder)
		return;
	if (doc_member(responder, "pid") || doc_member(responder, "error"))
		fprintf(to, "\n");
	if (doc_member(responder, "pid"))
		fprintf(to, "built-in responder: %s, %s\n", doc_string(responder, "pid", "?"),
			doc_string(responder, "state", "?"));
	if (doc_member(responder, "error"))
		fprintf(to, "built-in responder: %s\n", doc_string(responder, "error", "?"));
	show_numbers(to, "built-in responder's counters", doc_member(responder, "counters"));
}

/* "armed: 127.0.0.1:31443, waiting, windows so far: 0" */
static void show_armed(FILE *to, struct json_object *armed)
{
	size_t n = doc_length(armed);

	if (n)
		fprintf(to, "\n");
	for (size_t i = 0; i < n; i++) {
		struct json_object *one = json_object_array_get_idx(armed, i);

		fprintf(to, "armed: %s, %s, windows so far: %.0f\n",
			doc_string(one, "responder", "?"), doc_string(one, "state", "?"),
			doc_number(one, "opened"));
	}
}

static void show_errors(FILE *to, struct json_object *errors)
{
	size_t n = doc_length(errors);
	char text[CMD_DURATION_STRLEN];

	if (n)
		fprintf(to, "\nlast errors and warnings:\n");
	for (size_t i = 0; i < n; i++) {
		struct json_object *error = json_object_array_get_idx(errors, i);

		fprintf(to, "  %s ago: %s\n", cmd_duration(doc_number(error, "age_s"), text),
			doc_string(error, "text", "?"));
	}
}

void status_show(struct json_object *status, FILE *to)
{
	struct json_object *windows = doc_member(status, "windows");

	if (!doc_member(status, "pid")) {
		fprintf(to, "no window is open, no resident process runs\n");
		return;
	}
	for (size_t i = 0; i < doc_length(windows); i++) {
		if (i > 0)
			fprintf(to, "\n");
		show_window(to, json_object_array_get_idx(windows, i));
	}
	if (doc_length(windows) == 0)
		fprintf(to, "no window is open\n");
	show_closed(to, doc_member(status, "closed_windows"));
	fprintf(to, "\nresident process: %s, %s\n", doc_string(status, "pid", "?"),
		doc_string(status, "state", "?"));
	show_armed(to, doc_member(status, "armed"));
	show_responder(to, doc_member(status, "responder"));
	show_planes(to, doc_member(status, "planes"));
	show_numbers(to, "connections", doc_member(status, "connections"));
	show_numbers(to, "counters", doc_member(status, "counters"));
	show_reasons(to, doc_member(status, "relay_reasons"));
	show_errors(to, doc_member(status, "errors"));
}
