/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* acme-steer open: opens or renews a window; starts the resident process when there is none. */
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "util.h"

static const char usage[] =
	"Usage: acme-steer open [OPTION...]\n\n"
	"Opens a window, or renews the one of that name with the options given "
	"now. Returns when steering is\n"
	"live: from then on a new connection that asks for acme-tls/1 reaches "
	"the responder, every\n"
	"other one the web server. For an ACME client's pre hook, with "
	"`acme-steer close` in its post hook.\n\n"
	"Exit codes: 0 steering is live, 1 the window could not be opened, 2 wrong "
	"usage.\n";

int cmd_open(int argc, char **argv)
{
	struct ctl_client client;
	struct cmd_options options;
	struct ctl_message message;
	struct ctl_answer answer;
	char error[CTL_MAX_ERROR], text[512];
	const char *verb = "open";
	char *rest, *line;

	switch (cmd_options_parse(argc, argv, usage, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	if (optind < argc)
		return cmd_usage_error(argv, "takes options only, not ", argv[optind]);

	if (ctl_client_init(&client, options.netns, error) < 0) {
		log_error("%s", error);
		return EXIT_FAILED;
	}
	cmd_options_resident(&options, &client);
	if (cmd_options_request(&options, &message) < 0) {
		log_error("open: the options are too long for one request");
		return EXIT_FAILED;
	}
	if (ctl_client_call(&client, &message, true, CTL_OPEN_TIMEOUT_MS, &answer, error) < 0) {
		log_error("%s", error);
		return EXIT_FAILED;
	}

	for (rest = answer.lines; (line = cmd_next_line(&rest));) {
		if (strcmp(line, "renewed") == 0)
			verb = "renewed";
		else if (strncmp(line, "warning: ", 9) == 0)
			log_warn("%s", line);
	}
	ctl_answer_free(&answer);
	if (!options.quiet) {
		cmd_describe(&options.window, verb, text, sizeof(text));
		printf("%s\n", text);
	}
	return EXIT_DONE;
}
