// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* acme-steer doctor: can this host do it, what is in the way, what is to be done? */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "check.h"
#include "cmd.h"
#include "cmd_options.h"
#include "guards.h"
#include "log.h"
#include "util.h"

static const char usage[] =
	"Usage: acme-steer doctor [OPTION...]\n\n"
	"Looks whether this host can answer TLS-ALPN-01 beside its web server, what is in the way, "
	"and says what\n"
	"to do. Changes nothing. As root it sees more.\n\n"
	"  --port=PORT              port that is to be steered (443)\n"
	"  --responder=ADDRESS      where the ACME client's responder listens (127.0.0.1:31443)\n"
	"  --json                   as a JSON document\n" CMD_NETNS_HELP CMD_HELP_HELP "\n"
	"Exit codes: 0 nothing fails (there may be warnings), 1 something does, 2 wrong usage.\n";

enum { OPTION_PORT = 256, OPTION_RESPONDER, OPTION_JSON, OPTION_NETNS };

static const struct option long_options[] = {
	{ "port", required_argument, NULL, OPTION_PORT },
	{ "responder", required_argument, NULL, OPTION_RESPONDER },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "netns", required_argument, NULL, OPTION_NETNS },
	{ "help", no_argument, NULL, 'h' },
	{},
};

/* In the order of the table that is shown; the first ones find what later ones need. */
static void (*const all_checks[])(struct doctor *doctor) = {
	checks_capabilities,   checks_btf,	   checks_bpf_sysctls, checks_lockdown,
	checks_other_steering, checks_steering,	   checks_handoff,     checks_syncookies,
	checks_web_server,     checks_families,	   checks_target,      checks_rules,
	checks_responder,      checks_tls_program, checks_resident,    checks_clock,
};

struct doctor_options {
	struct window_options window; /* port and responder are checked there */
	bool responder_given, json;
	const char *netns;
};

static enum cmd_parsed parse(int argc, char **argv, struct doctor_options *options)
{
	char error[CTL_MAX_ERROR];
	int c;

	window_options_init(&options->window);
	while ((c = cmd_getopt(argc, argv, long_options)) != -1) {
		switch (c) {
		case OPTION_PORT:
		case OPTION_RESPONDER:
			options->window.ports_given = false; /* one; the last counts */
			if (window_options_set(&options->window,
					       c == OPTION_PORT ? "port" : "responder", optarg,
					       error, sizeof(error)) < 0) {
				log_error("%s", error);
				return CMD_BAD_USAGE;
			}
			options->responder_given |= c == OPTION_RESPONDER;
			break;
		case OPTION_JSON:
			options->json = true;
			break;
		case OPTION_NETNS:
			options->netns = optarg;
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
	return CMD_GO;
}

/* What the resident process says of itself, or why it says nothing. */
static void ask(struct doctor *doctor, const char *netns)
{
	struct ctl_client client;
	struct ctl_message message;
	struct ctl_answer answer;
	int r = ctl_client_init(&client, netns, doctor->no_status);

	ctl_message_init(&message, "status");
	ctl_message_end(&message);
	if (r == 0)
		r = ctl_client_call(&client, &message, false, CTL_STATUS_TIMEOUT_MS, &answer,
				    doctor->no_status);
	/* None runs; or it is not for us to ask, and that is no illness. */
	if (r == -ENOENT || r == -EACCES)
		doctor->no_status[0] = '\0';
	if (r < 0)
		return;
	doctor->no_status[0] = '\0';
	doctor->status = json_tokener_parse(answer.lines);
	ctl_answer_free(&answer);
}

static size_t count(const struct doctor *doctor, enum check_level level)
{
	size_t n = 0;

	for (size_t i = 0; i < doctor->n; i++)
		n += doctor->checks[i].level == level;
	return n;
}

static void print_table(const struct doctor *doctor)
{
	size_t failed = count(doctor, CHECK_FAIL), warned = count(doctor, CHECK_WARN);

	for (size_t i = 0; i < doctor->n; i++) {
		const struct check *check = &doctor->checks[i];

		printf("%-4s  %-17s %s\n", check_level_names[check->level], check->id,
		       check->finding);
		if (check->remedy[0])
			printf("%-23s -> %s\n", "", check->remedy);
	}
	if (failed)
		printf("\n%zu of %zu checks failed\n", failed, doctor->n);
	else
		printf("\nnothing is in the way%s\n",
		       warned ? "; see the warnings for what to know" : "");
}

static void print_json(const struct doctor *doctor)
{
	struct json_object *document = json_object_new_object();
	struct json_object *list = json_object_new_array();
	struct utsname name = {};

	uname(&name);
	for (size_t i = 0; i < doctor->n; i++) {
		const struct check *check = &doctor->checks[i];
		struct json_object *object = json_object_new_object();

		json_object_object_add(object, "id", json_object_new_string(check->id));
		json_object_object_add(object, "level",
				       json_object_new_string(check_level_names[check->level]));
		json_object_object_add(object, "finding", json_object_new_string(check->finding));
		json_object_object_add(object, "remedy",
				       check->remedy[0] ? json_object_new_string(check->remedy)
							: NULL);
		json_object_array_add(list, object);
	}
	json_object_object_add(document, "version", json_object_new_string(ACME_STEER_VERSION));
	json_object_object_add(document, "kernel", json_object_new_string(name.release));
	json_object_object_add(document, "netns",
			       json_object_new_int64((int64_t)doctor->netns_inode));
	json_object_object_add(document, "port", json_object_new_int(doctor->port));
	json_object_object_add(document, "ok",
			       json_object_new_boolean(count(doctor, CHECK_FAIL) == 0));
	json_object_object_add(document, "checks", list);
	cmd_print_json(document);
	json_object_put(document);
}

int cmd_doctor(int argc, char **argv)
{
	static struct doctor doctor; /* large */
	struct doctor_options options = {};
	char path[PATH_MAX], error[CTL_MAX_ERROR];

	switch (parse(argc, argv, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	if (ctl_netns(options.netns, &doctor.netns_inode, path, error) < 0) {
		log_error("%s", error);
		return EXIT_FAILED;
	}
	doctor.port = options.window.ports[0];
	doctor.responder = options.window.responder;
	doctor.responder_given = options.responder_given;
	/* Shown in the host's network namespace only, though it is for all. */
	check_read("/proc/sys/net/core/bpf_jit_enable", doctor.jit, sizeof(doctor.jit));
	ask(&doctor, options.netns);
	if (options.netns && cmd_enter_netns(path) < 0)
		return EXIT_FAILED;
	for (size_t i = 0; i < ARRAY_SIZE(all_checks); i++)
		all_checks[i](&doctor);
	guards_free(doctor.guards);
	json_object_put(doctor.status);
	if (options.json)
		print_json(&doctor);
	else
		print_table(&doctor);
	if (fflush(stdout) != 0)
		return EXIT_FAILED;
	return count(&doctor, CHECK_FAIL) ? EXIT_FAILED : EXIT_DONE;
}
