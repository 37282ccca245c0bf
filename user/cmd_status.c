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
#include "status_doc.h"
#include "status_watch.h"
#include "util.h"

enum { OPTION_JSON = 256, OPTION_PROMETHEUS, OPTION_WATCH, OPTION_NETNS };

static const struct option long_options[] = {
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "prometheus", no_argument, NULL, OPTION_PROMETHEUS },
	{ "watch", optional_argument, NULL, OPTION_WATCH },
	{ "netns", required_argument, NULL, OPTION_NETNS },
	{ "help", no_argument, NULL, 'h' },
	{},
};

static const char usage[] =
	"Usage: acme-steer status [OPTION...]\n\n"
	"Shows the open windows, the connections under way, the counters that are not 0 and the "
	"last errors.\n\n"
	"  --json                   the whole, as a JSON document\n"
	"  --prometheus             as metrics, in Prometheus' text format\n"
	"  --watch[=INTERVAL]       again and again, with rates: every second, or 0.5, 500ms, 10s, "
	"5m; where\n"
	"                           stdout is no terminal a line each, with --json a document "
	"each\n" CMD_NETNS_HELP CMD_HELP_HELP "\n"
	"Exit codes: 0 a window is open, 3 none is (or no resident process runs), 1 failed, 2 "
	"wrong usage;\n"
	"with --prometheus or --watch 0 in either case.\n";

static void cleanup_json(struct json_object **object)
{
	json_object_put(*object);
}
#define _cleanup_json_ __attribute__((cleanup(cleanup_json)))

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
static int ask(const struct ctl_client *client, struct json_object **ret_status, char *error)
{
	struct ctl_message message;
	struct ctl_answer answer;
	int r;

	ctl_message_init(&message, "status");
	ctl_message_end(&message);
	r = ctl_client_call(client, &message, false, CTL_STATUS_TIMEOUT_MS, &answer, error);
	if (r == -ENOENT) {
		*ret_status = nobody(client);
		return 0;
	}
	if (r < 0)
		return r;
	*ret_status = json_tokener_parse(answer.lines);
	ctl_answer_free(&answer);
	if (!json_object_is_type(*ret_status, json_type_object)) {
		snprintf(error, CTL_MAX_ERROR, "the answer from %s is not understood",
			 client->path);
		return -EPROTO;
	}
	return 0;
}

struct status_options {
	bool json, prometheus, watch;
	uint64_t interval_ns;
	const char *netns;
};

static enum cmd_parsed parse(int argc, char **argv, struct status_options *ret_options)
{
	int c;

	*ret_options = (struct status_options){ .interval_ns = WATCH_DEFAULT_NS };
	while ((c = cmd_getopt(argc, argv, long_options)) != -1) {
		switch (c) {
		case OPTION_JSON:
			ret_options->json = true;
			break;
		case OPTION_PROMETHEUS:
			ret_options->prometheus = true;
			break;
		case OPTION_WATCH:
			ret_options->watch = true;
			if (optarg && watch_interval_parse(optarg, &ret_options->interval_ns) < 0) {
				log_error("watch: \"%.40s\" is no interval of 0.1s to 1h; use for "
					  "example 2, 0.5, 500ms, 10s or 5m",
					  optarg);
				return CMD_BAD_USAGE;
			}
			break;
		case OPTION_NETNS:
			ret_options->netns = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return CMD_HELP_SHOWN;
		default:
			return CMD_BAD_USAGE;
		}
	}
	if (optind < argc) {
		cmd_usage_error(argv, "takes options only, not ", argv[optind]);
		return CMD_BAD_USAGE;
	}
	if (ret_options->prometheus && (ret_options->json || ret_options->watch)) {
		cmd_usage_error(argv, "--prometheus is for a scrape: it does not go with ",
				ret_options->json ? "--json" : "--watch");
		return CMD_BAD_USAGE;
	}
	return CMD_GO;
}

int cmd_status(int argc, char **argv)
{
	_cleanup_json_ struct json_object *status = NULL;
	struct status_options options;
	struct ctl_client client;
	char error[CTL_MAX_ERROR];

	switch (parse(argc, argv, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	if (ctl_client_init(&client, options.netns, error) < 0) {
		log_error("status: %s", error);
		return EXIT_FAILED;
	}
	if (options.watch)
		return status_watch(&client, options.interval_ns, options.json, nobody);
	if (ask(&client, &status, error) < 0) {
		log_error("status: %s", error);
		return EXIT_FAILED;
	}
	if (options.prometheus)
		status_prometheus(status, stdout);
	else if (options.json)
		cmd_print_json(status);
	else
		status_show(status, stdout);
	if (fflush(stdout) != 0) {
		log_error("status: writing: %s", strerror(errno));
		return EXIT_FAILED;
	}
	if (options.prometheus)
		return EXIT_DONE;
	return doc_length(doc_member(status, "windows")) > 0 ? EXIT_DONE : EXIT_NO_WINDOW;
}
