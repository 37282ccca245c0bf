/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * acme-steer close: closes a window.
 *
 * It stands in hooks, where a failure could make an ACME client throw a good certificate away. So
 * what can't be closed is a warning and exit 0: steering ends at the window's deadline in any case,
 * and without a resident process nothing is steered. Only --strict makes it exit 1; wrong usage
 * is 2.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "util.h"

enum { OPTION_NAME = 256, OPTION_ALL, OPTION_NETNS, OPTION_STRICT };

static const struct option long_options[] = {
	{ "name", required_argument, NULL, OPTION_NAME },
	{ "all", no_argument, NULL, OPTION_ALL },
	{ "netns", required_argument, NULL, OPTION_NETNS },
	{ "strict", no_argument, NULL, OPTION_STRICT },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{},
};

static const char usage[] =
	"Usage: acme-steer close [--name=NAME | --all] [OPTION...]\n\n"
	"Closes a window and returns when nothing new is steered for it. Other windows stay open. "
	"Closing what\n"
	"is not open is no error, nor is it that no resident process runs: then nothing is "
	"steered.\n\n"
	"  --name=NAME              window to close (" WINDOW_DEFAULT_NAME ")\n"
	"  --all                    close every window\n" CMD_NETNS_HELP
	"  --strict                 exit 1 when it can't be said that the window is closed\n"
	"  -q, --quiet              say nothing but warnings\n" CMD_HELP_HELP "\n"
	"Exit codes: 0 done; also 0, with a warning, when the window could not be closed (it "
	"closes by itself at\n"
	"its deadline), so that a hook never breaks a renewal; 1 in that case with --strict; 2 "
	"wrong usage.\n";

struct close_options {
	struct window_options window; /* its name */
	bool has_name, all, strict, quiet;
	const char *netns;
};

static enum cmd_parsed parse(int argc, char **argv, struct close_options *ret_options)
{
	char error[CTL_MAX_ERROR];
	int c;

	memset(ret_options, 0, sizeof(*ret_options));
	window_options_init(&ret_options->window);
	while ((c = cmd_getopt(argc, argv, long_options)) != -1) {
		switch (c) {
		case OPTION_NAME:
			if (window_options_set(&ret_options->window, "name", optarg, error,
					       sizeof(error)) < 0) {
				log_error("%s", error);
				return CMD_BAD_USAGE;
			}
			ret_options->has_name = true;
			break;
		case OPTION_ALL:
			ret_options->all = true;
			break;
		case OPTION_NETNS:
			ret_options->netns = optarg;
			break;
		case OPTION_STRICT:
			ret_options->strict = true;
			break;
		case 'q':
			ret_options->quiet = true;
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
	if (ret_options->has_name && ret_options->all) {
		cmd_usage_error(argv, "takes --name or --all, not both", "");
		return CMD_BAD_USAGE;
	}
	return CMD_GO;
}

/* "closed NAME" or "closed NAME and what it did". */
static void show(struct ctl_answer *answer, const struct close_options *options)
{
	char *rest = answer->lines;
	unsigned n = 0;
	char *line;

	while ((line = cmd_next_line(&rest))) {
		char *name;

		if (strncmp(line, "closed ", 7) != 0)
			continue;
		line += 7;
		name = strsep(&line, " ");
		printf("window \"%s\" closed%s%s\n", name, line ? ": " : "", line ? line : "");
		n++;
	}
	if (n == 0 && options->all)
		printf("no window was open\n");
	else if (n == 0)
		printf("window \"%s\" was not open\n", options->window.name);
}

int cmd_close(int argc, char **argv)
{
	struct close_options options;
	struct ctl_client client;
	struct ctl_message message;
	struct ctl_answer answer = {};
	char error[CTL_MAX_ERROR];
	int r;

	switch (parse(argc, argv, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}

	ctl_message_init(&message, "close");
	if (options.all)
		ctl_message_add(&message, "all", "yes");
	else
		ctl_message_add(&message, "name", options.window.name);
	ctl_message_end(&message);
	r = ctl_client_init(&client, options.netns, error);
	if (r == 0) {
		r = ctl_client_call(&client, &message, false, CTL_CLOSE_TIMEOUT_MS, &answer, error);
		if (r == -ENOENT) /* no resident process: nothing is steered */
			r = 0;
	}
	if (r < 0) {
		log_warn("close: %s; the window closes by itself at its deadline", error);
		return options.strict ? EXIT_FAILED : EXIT_DONE;
	}
	if (!options.quiet)
		show(&answer, &options);
	ctl_answer_free(&answer);
	return EXIT_DONE;
}
