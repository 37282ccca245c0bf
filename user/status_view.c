/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The status document as one screen, or one line, that comes again and again. */
#include <string.h>
#include <time.h>

#include "cmd_options.h"
#include "status_doc.h"
#include "util.h"

#define ERRORS_SHOWN 3 /* of the latest */

static void put_time(const char *format, bool utc, FILE *to)
{
	time_t now = time(NULL);
	char text[32] = "";
	struct tm tm;

	if (utc ? gmtime_r(&now, &tm) : localtime_r(&now, &tm))
		strftime(text, sizeof(text), format, &tm);
	fputs(text, to);
}

/* "443, 8443" */
static const char *join_ports(struct json_object *ports, char *buf, size_t size)
{
	size_t len = 0;

	*buf = '\0';
	for (size_t i = 0; i < doc_length(ports) && len < size; i++)
		len += (size_t)snprintf(
			buf + len, size - len, "%s%s", i ? "," : "",
			json_object_get_string(json_object_array_get_idx(ports, i)));
	return buf;
}

static void put_window(struct json_object *window, FILE *to)
{
	struct json_object *total = doc_member(window, "total");
	char ports[64], left[CMD_DURATION_STRLEN];
	bool armed = json_object_get_boolean(doc_member(window, "armed"));

	fprintf(to, "%-24.24s %-9.9s %10s  %-7s %8.0f %7.0f %7.0f\n",
		doc_string(window, "name", "?"),
		join_ports(doc_member(window, "ports"), ports, sizeof(ports)),
		armed ? "armed" : cmd_duration(doc_number(window, "remaining_s"), left),
		doc_string(window, "plane_used", "?"), doc_number(total, "accepted"),
		doc_number(window, "relayed"), doc_number(total, "challenges"));
}

/* "  www.example.org 6, blog.example.org 5" */
static void put_names(struct json_object *names, FILE *to)
{
	const char *separator = "  ";

	if (!json_object_is_type(names, json_type_object) || json_object_object_length(names) == 0)
		return;
	fputc(STATUS_DIM, to);
	json_object_object_foreach(names, name, n)
	{
		fprintf(to, "%s%s %s", separator, name, json_object_get_string(n));
		separator = ", ";
	}
	fputc('\n', to);
}

static void put_windows(struct json_object *status, FILE *to)
{
	struct json_object *windows = doc_member(status, "windows");
	struct json_object *closed = doc_member(status, "closed_windows");

	if (doc_length(windows))
		fprintf(to, "%c%-24s %-9s %10s  %-7s %8s %7s %7s\n", STATUS_BOLD, "window", "ports",
			"closes in", "plane", "accepted", "relays", "served");
	else
		fprintf(to, "%cno window is open\n", STATUS_BOLD);
	for (size_t i = 0; i < doc_length(windows); i++) {
		struct json_object *window = json_object_array_get_idx(windows, i);

		put_window(window, to);
		put_names(doc_member(window, "names"), to);
	}
	for (size_t i = 0; i < doc_length(closed); i++) {
		struct json_object *window = json_object_array_get_idx(closed, i);
		char text[CMD_DURATION_STRLEN];

		fprintf(to, "%c%-24.24s closed %s ago, connections not over: %.0f, relayed: %.0f\n",
			STATUS_DIM, doc_string(window, "name", "?"),
			cmd_duration(doc_number(window, "closed_s"), text),
			doc_number(window, "connections"), doc_number(window, "relayed"));
	}
	fputc('\n', to);
}

#define RATES 8
struct rate {
	const char *label, *word; /* for people, for programs */
	uint64_t total;
	double per_s; /* below 0: not known */
};

static void make_rates(const struct status_sample *now, const struct status_sample *before,
		       struct rate ret_rates[RATES])
{
	static const struct status_sample none;
	bool known = status_samples_match(now, before);
	const struct status_sample *old = known ? before : &none;
	const double seconds = known ? (double)(now->at_ns - old->at_ns) / 1e9 : 1;
	const struct {
		const char *label, *word;
		uint64_t now, old;
	} all[RATES] = {
		{ "steered", "steered", now->steered, old->steered },
		{ "handed off", "handed_off", now->handed_off, old->handed_off },
		{ "relayed", "relayed", now->relayed, old->relayed },
		{ "challenges served", "challenges", now->challenges, old->challenges },
		{ "timed out", "timed_out", now->timed_out, old->timed_out },
		{ "passed by", "passed_by", now->passed_by, old->passed_by },
		{ "read in passing", "read_in_passing", now->read_in_passing,
		  old->read_in_passing },
		{ "lost", "lost", now->lost, old->lost },
	};

	for (size_t i = 0; i < RATES; i++) {
		uint64_t more = all[i].now > all[i].old ? all[i].now - all[i].old : 0;

		ret_rates[i] = (struct rate){ all[i].label, all[i].word, all[i].now,
					      known ? (double)more / seconds : -1 };
	}
}

static void put_rates(const struct status_sample *now, const struct status_sample *before, FILE *to)
{
	struct rate rates[RATES];

	make_rates(now, before, rates);
	fprintf(to, "%c%-24s %9s  %12s\n", STATUS_BOLD, "connections", "total", "per second");
	for (size_t i = 0; i < RATES; i++) {
		fprintf(to, "%-24s %9llu", rates[i].label, (unsigned long long)rates[i].total);
		if (rates[i].per_s < 0)
			fprintf(to, "  %12s\n", "-");
		else
			fprintf(to, "  %12.1f\n", rates[i].per_s);
	}
	fputc('\n', to);
}

/* "now: 3 sniffing, 0 waiting, ..." */
static void put_states(struct json_object *connections, FILE *to)
{
	const char *separator = "";

	if (!json_object_is_type(connections, json_type_object))
		return;
	fprintf(to, "now: ");
	json_object_object_foreach(connections, state, n)
	{
		fprintf(to, "%s%s %s", separator, json_object_get_string(n), state);
		separator = ", ";
	}
	fputc('\n', to);
}

static void put_planes(struct json_object *status, FILE *to)
{
	struct json_object *reasons = doc_member(status, "relay_reasons");
	struct json_object *handoff = doc_member(doc_member(status, "planes"), "handoff");

	if (doc_member(handoff, "reason"))
		fprintf(to, "no hand-off: %s\n", doc_string(handoff, "reason", "?"));
	for (size_t i = 0; i < doc_length(reasons); i++) {
		struct json_object *reason = json_object_array_get_idx(reasons, i);

		fprintf(to, "relayed, %.0f: %s\n", doc_number(reason, "connections"),
			doc_string(reason, "text", "?"));
	}
}

static void put_responder(struct json_object *responder, FILE *to)
{
	if (doc_member(responder, "pid"))
		fprintf(to, "built-in responder: %s, answered %.0f\n",
			doc_string(responder, "state", "?"),
			doc_number(doc_member(responder, "counters"), "answered"));
	if (doc_member(responder, "error"))
		fprintf(to, "%s\n", doc_string(responder, "error", "?"));
}

static void put_armed(struct json_object *armed, FILE *to)
{
	for (size_t i = 0; i < doc_length(armed); i++) {
		struct json_object *one = json_object_array_get_idx(armed, i);

		fprintf(to, "armed: %s, %s, windows so far: %.0f\n",
			doc_string(one, "responder", "?"), doc_string(one, "state", "?"),
			doc_number(one, "opened"));
	}
}

/* Above what may not fit: they are what one looks for. */
static void put_errors(struct json_object *errors, FILE *to)
{
	char text[CMD_DURATION_STRLEN];
	size_t n = MIN(doc_length(errors), (size_t)ERRORS_SHOWN);

	if (!n)
		return;
	fprintf(to, "%clast errors and warnings\n", STATUS_BOLD);
	for (size_t i = 0; i < n; i++) {
		struct json_object *error = json_object_array_get_idx(errors, i);

		fprintf(to, "%s ago: %s\n", cmd_duration(doc_number(error, "age_s"), text),
			doc_string(error, "text", "?"));
	}
	fputc('\n', to);
}

void status_view(struct json_object *status, const struct status_sample *now,
		 const struct status_sample *before, const char *error, FILE *to)
{
	char text[CMD_DURATION_STRLEN];

	fprintf(to, "%cacme-steer %s   ", STATUS_BOLD, doc_string(status, "version", ""));
	if (error)
		fputs("", to);
	else if (!doc_member(status, "pid"))
		fputs("no resident process   ", to);
	else
		fprintf(to, "%s   process %s, up %s   ", doc_string(status, "state", "?"),
			doc_string(status, "pid", "?"),
			cmd_duration(doc_number(status, "uptime_s"), text));
	put_time("%H:%M:%S", false, to);
	fprintf(to, "\n%c%s\n", STATUS_DIM, error ? error : "q or Ctrl-C ends this");
	fputc('\n', to);
	if (!doc_member(status, "pid")) {
		if (!error)
			fputs("no window is open; open or run starts a process, and it is shown "
			      "here\n",
			      to);
		return;
	}
	put_windows(status, to);
	put_errors(doc_member(status, "errors"), to);
	put_rates(now, before, to);
	put_states(doc_member(status, "connections"), to);
	put_planes(status, to);
	put_responder(doc_member(status, "responder"), to);
	put_armed(doc_member(status, "armed"), to);
}

void status_line(struct json_object *status, const struct status_sample *now,
		 const struct status_sample *before, const char *error, FILE *to)
{
	struct json_object *connections = doc_member(status, "connections");
	struct rate rates[RATES];
	uint64_t held = 0;

	put_time("%Y-%m-%dT%H:%M:%SZ", true, to);
	if (error || !now->pid) {
		fprintf(to, " state=%s windows=0\n", error ? "unknown" : "none");
		return;
	}
	make_rates(now, before, rates);
	fprintf(to, " state=%s windows=%zu", doc_string(status, "state", "?"),
		doc_length(doc_member(status, "windows")));
	for (size_t i = 0; i < RATES; i++) {
		fprintf(to, " %s=%llu", rates[i].word, (unsigned long long)rates[i].total);
		if (rates[i].per_s >= 0)
			fprintf(to, " %s_per_s=%.1f", rates[i].word, rates[i].per_s);
	}
	if (json_object_is_type(connections, json_type_object)) {
		json_object_object_foreach(connections, state, n)
		{
			(void)state;
			held += (uint64_t)json_object_get_int64(n);
		}
	}
	fprintf(to, " held=%llu relayed_now=%.0f\n", (unsigned long long)held,
		doc_number(connections, "relayed"));
}
