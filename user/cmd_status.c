/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* acme-steer status: what is open, for people (made from the document) and for programs (the
 * document). */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "util.h"

enum { OPTION_JSON = 256, OPTION_NETNS };

static const struct option long_options[] = {
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "netns", required_argument, NULL, OPTION_NETNS },
	{ "help", no_argument, NULL, 'h' },
	{},
};

static const char usage[] =
	"Usage: acme-steer status [OPTION...]\n\n"
	"Shows the open windows, the connections under way and the counters that are not 0.\n\n"
	"  --json                   the whole, as a JSON document\n" CMD_NETNS_HELP CMD_HELP_HELP
	"\n"
	"Exit codes: 0 a window is open, 3 none is (or no resident process runs), 1 failed, 2 "
	"wrong usage.\n";

static void cleanup_json(struct json_object **object)
{
	json_object_put(*object);
}
#define _cleanup_json_ __attribute__((cleanup(cleanup_json)))

static const char *string_of(struct json_object *object, const char *key, const char *missing)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, key, &value) || !value)
		return missing;
	return json_object_get_string(value);
}

static double number_of(struct json_object *object, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(object, key, &value) ? json_object_get_double(value) : 0;
}

static struct json_object *member(struct json_object *object, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(object, key, &value) ? value : NULL;
}

static size_t length(struct json_object *list)
{
	return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

/* "  ports: 443, 8443"; of an empty list, @none. */
static void show_list(const char *label, struct json_object *list, const char *none)
{
	size_t n = length(list);

	printf("  %s: %s", label, n ? "" : none);
	for (size_t i = 0; i < n; i++)
		printf("%s%s", i ? ", " : "",
		       json_object_get_string(json_object_array_get_idx(list, i)));
	printf("\n");
}

static void show_window(struct json_object *window)
{
	char text[CMD_DURATION_STRLEN];

	printf("window: %s\n", string_of(window, "name", "?"));
	show_list("ports", member(window, "ports"), "none");
	if (member(window, "challenges"))
		printf("  challenges: %.0f\n", number_of(window, "challenges"));
	else
		show_list("domains", member(window, "domains"), "every name");
	printf("  responder: %s\n", string_of(window, "responder", "?"));
	printf("  web server: %s\n",
	       string_of(window, "web_server", "whoever listens where the client asked"));
	printf("  plane: %s\n", string_of(window, "plane", "?"));
	if (strcmp(string_of(window, "client_ip", "none"), "none") != 0)
		printf("  client address in a relay: %s\n", string_of(window, "client_ip", "none"));
	printf("  open for: %s\n", cmd_duration(number_of(window, "opened_s"), text));
	if (json_object_get_boolean(member(window, "armed")))
		printf("  closes: when nobody listens at %s\n",
		       string_of(window, "responder", "?"));
	else
		printf("  closes in: %s\n", cmd_duration(number_of(window, "remaining_s"), text));
	printf("  acme-tls/1 connections: %.0f\n", number_of(window, "acme_connections"));
	printf("  relayed now: %.0f\n\n", number_of(window, "relayed"));
}

/* Closed windows whose connections are not over. */
static void show_closed(struct json_object *list)
{
	char text[CMD_DURATION_STRLEN];

	for (size_t i = 0; i < length(list); i++) {
		struct json_object *window = json_object_array_get_idx(list, i);

		printf("closed window: %s\n", string_of(window, "name", "?"));
		printf("  closed for: %s\n", cmd_duration(number_of(window, "closed_s"), text));
		printf("  connections not over: %.0f, %.0f of them relayed\n\n",
		       number_of(window, "connections"), number_of(window, "relayed"));
	}
}

static void show_reasons(struct json_object *list)
{
	if (length(list))
		printf("relayed because:\n");
	for (size_t i = 0; i < length(list); i++) {
		struct json_object *reason = json_object_array_get_idx(list, i);

		printf("  %s: %.0f\n", string_of(reason, "text", "?"),
		       number_of(reason, "connections"));
	}
	if (length(list))
		printf("\n");
}

static void show_planes(struct json_object *planes)
{
	if (!json_object_is_type(planes, json_type_object))
		return;
	printf("planes:\n");
	json_object_object_foreach(planes, name, plane)
	{
		if (json_object_get_boolean(member(plane, "available")))
			printf("  %s: available\n", name);
		else
			printf("  %s: not available: %s\n", name,
			       string_of(plane, "reason", "no reason given"));
	}
	printf("\n");
}

/* The members of @numbers that are not 0, under a heading, nothing if all are. */
static void show_numbers(const char *heading, struct json_object *numbers)
{
	bool any = false;

	if (!json_object_is_type(numbers, json_type_object))
		return;
	json_object_object_foreach(numbers, key, value)
	{
		if (json_object_get_int64(value) == 0)
			continue;
		if (!any)
			printf("%s:\n", heading);
		any = true;
		printf("  ");
		for (const char *p = key; *p; p++)
			putchar(*p == '_' ? ' ' : *p);
		printf(": %lld\n", (long long)json_object_get_int64(value));
	}
	if (any)
		printf("\n");
}

/* The built-in one, unless it is off and was never on. */
static void show_responder(struct json_object *responder)
{
	if (!responder)
		return;
	if (member(responder, "pid"))
		printf("built-in responder: %s, %s\n", string_of(responder, "pid", "?"),
		       string_of(responder, "state", "?"));
	if (member(responder, "error"))
		printf("built-in responder: %s\n", string_of(responder, "error", "?"));
	if (member(responder, "pid") || member(responder, "error"))
		printf("\n");
	show_numbers("built-in responder's counters", member(responder, "counters"));
}

/* "armed: 127.0.0.1:31443, waiting, windows so far: 0" */
static void show_armed(struct json_object *armed)
{
	size_t n = length(armed);

	for (size_t i = 0; i < n; i++) {
		struct json_object *one = json_object_array_get_idx(armed, i);

		printf("armed: %s, %s, windows so far: %.0f\n", string_of(one, "responder", "?"),
		       string_of(one, "state", "?"), number_of(one, "opened"));
	}
	if (n)
		printf("\n");
}

static size_t count_windows(struct json_object *status)
{
	return length(member(status, "windows"));
}

static void show_all(struct json_object *status)
{
	size_t n = count_windows(status);

	for (size_t i = 0; i < n; i++)
		show_window(json_object_array_get_idx(member(status, "windows"), i));
	if (n == 0)
		printf("no window is open\n\n");
	show_closed(member(status, "closed_windows"));
	printf("resident process: %s, %s\n\n", string_of(status, "pid", "?"),
	       string_of(status, "state", "?"));
	show_armed(member(status, "armed"));
	show_responder(member(status, "responder"));
	show_planes(member(status, "planes"));
	show_numbers("connections", member(status, "connections"));
	show_numbers("counters", member(status, "counters"));
	show_reasons(member(status, "relay_reasons"));
}

/* The document for when nobody runs, so that --json always prints one. */
static struct json_object *nobody(const struct ctl_client *client)
{
	struct json_object *status = json_object_new_object();

	json_object_object_add(status, "version", json_object_new_string(ACME_STEER_VERSION));
	json_object_object_add(status, "pid", NULL);
	json_object_object_add(status, "netns",
			       json_object_new_int64((int64_t)client->netns_inode));
	json_object_object_add(status, "state", json_object_new_string("idle"));
	json_object_object_add(status, "windows", json_object_new_array());
	json_object_object_add(status, "armed", json_object_new_array());
	return status;
}

/* 0 and the document, made up when nobody runs; else -errno and @error. */
static int ask(const char *netns, struct json_object **ret_status, char *error)
{
	struct ctl_client client;
	struct ctl_message message;
	struct ctl_answer answer;
	int r;

	r = ctl_client_init(&client, netns, error);
	if (r < 0)
		return r;
	ctl_message_init(&message, "status");
	ctl_message_end(&message);
	r = ctl_client_call(&client, &message, false, CTL_STATUS_TIMEOUT_MS, &answer, error);
	if (r == -ENOENT) {
		*ret_status = nobody(&client);
		return 0;
	}
	if (r < 0)
		return r;
	*ret_status = json_tokener_parse(answer.lines);
	ctl_answer_free(&answer);
	if (!json_object_is_type(*ret_status, json_type_object)) {
		snprintf(error, CTL_MAX_ERROR, "the answer from %s is not understood", client.path);
		return -EPROTO;
	}
	return 0;
}

int cmd_status(int argc, char **argv)
{
	_cleanup_json_ struct json_object *status = NULL;
	const char *netns = NULL;
	char error[CTL_MAX_ERROR];
	bool json = false;
	int c;

	while ((c = cmd_getopt(argc, argv, long_options)) != -1) {
		switch (c) {
		case OPTION_JSON:
			json = true;
			break;
		case OPTION_NETNS:
			netns = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_DONE;
		case 'q':
			return cmd_usage_error(argv, "unknown option ", "-q");
		default:
			return EXIT_USAGE;
		}
	}
	if (optind < argc)
		return cmd_usage_error(argv, "takes options only, not ", argv[optind]);

	if (ask(netns, &status, error) < 0) {
		log_error("status: %s", error);
		return EXIT_FAILED;
	}
	if (json)
		printf("%s\n", json_object_to_json_string_ext(
				       status, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (!member(status, "pid"))
		printf("no window is open, no resident process runs\n");
	else
		show_all(status);
	return count_windows(status) > 0 ? EXIT_DONE : EXIT_NO_WINDOW;
}
