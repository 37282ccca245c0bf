/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * acme-steer close: closes a window.
 *
 * It stands in hooks, where a failure could make an ACME client throw a good certificate away. So
 * what can't be closed is a warning and exit 0: steering ends at the window's deadline in any case,
 * and without a resident process nothing is steered. The same goes for relayed connections that are
 * left when the time of --drain is over. Only --strict makes it exit 1; wrong usage is 2.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "util.h"

enum {
	OPTION_NAME = 256,
	OPTION_ALL,
	OPTION_DRAIN,
	OPTION_KILL,
	OPTION_NETNS,
	OPTION_STRICT,
};

static const struct option long_options[] = {
	{ "name", required_argument, NULL, OPTION_NAME },
	{ "all", no_argument, NULL, OPTION_ALL },
	{ "drain", optional_argument, NULL, OPTION_DRAIN },
	{ "kill", no_argument, NULL, OPTION_KILL },
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
	"  --all                    close every window\n"
	"  --drain[=TIME]           then wait until no relayed connection of the window is left, "
	"at most\n"
	"                           TIME (30s, 5m; up to 24h)\n"
	"  --kill                   reset relayed connections of the window; with --drain, those "
	"left after TIME\n" CMD_NETNS_HELP
	"  --strict                 exit 1 when it can't be said that the window is closed, or "
	"when --drain\n"
	"                           leaves connections\n" CMD_QUIET_HELP CMD_HELP_HELP "\n"
	"Exit codes: 0 done; also 0, with a warning, when the window could not be closed (it "
	"closes by itself at\n"
	"its deadline) or connections are left, so that a hook never breaks a renewal; 1 in that "
	"case with --strict;\n"
	"2 wrong usage.\n";

struct close_options {
	struct window_options window; /* its name */
	bool has_name, all, strict, quiet, drain, kill;
	uint64_t drain_s; /* UINT64_MAX: without limit */
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
		case OPTION_DRAIN:
			ret_options->drain = true;
			ret_options->drain_s = UINT64_MAX;
			if (optarg && (window_time_parse(optarg, &ret_options->drain_s) < 0 ||
				       ret_options->drain_s > CTL_MAX_DRAIN_S)) {
				log_error("drain: \"%.40s\" is no time up to 24h; use for example "
					  "30s or 5m",
					  optarg);
				return CMD_BAD_USAGE;
			}
			break;
		case OPTION_KILL:
			ret_options->kill = true;
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

/* Shows what was closed, and what is left; returns of how many windows. */
static unsigned show(struct ctl_answer *answer, const struct close_options *options)
{
	char *rest = answer->lines;
	unsigned n = 0, left = 0;
	char *line;

	while ((line = cmd_next_line(&rest))) {
		const char *word = strsep(&line, " ");
		const char *name = strsep(&line, " ");

		if (!strcmp(word, "handshakes")) {
			log_warn("close: handshakes that began in a window are still under way");
			left++;
		} else if (name && line && !strcmp(word, "left")) {
			log_warn("close: window \"%s\": %s connections are still held or relayed",
				 name, line);
			left++;
		} else if (options->quiet) {
			continue;
		} else if (name && line && !strcmp(word, "ended")) {
			printf("window \"%s\": %s relayed connections ended\n", name, line);
		} else if (name && !strcmp(word, "closed")) {
			printf("window \"%s\" closed%s%s\n", name, line ? ": " : "",
			       line ? line : "");
			n++;
		}
	}
	if (n > 0 || options->quiet)
		return left;
	if (options->all)
		printf("no window was open\n");
	else
		printf("window \"%s\" was not open\n", options->window.name);
	return left;
}

/* Adds what to wait for; returns how long the answer may take, in ms. */
static unsigned add_wait(const struct close_options *options, struct ctl_message *message)
{
	char text[24];

	if (options->kill)
		ctl_message_add(message, "kill", "yes");
	if (!options->drain)
		return CTL_CLOSE_TIMEOUT_MS;
	if (options->drain_s == UINT64_MAX) {
		ctl_message_add(message, "drain", "yes");
		return CTL_NO_TIMEOUT;
	}
	snprintf(text, sizeof(text), "%u", (unsigned)options->drain_s);
	ctl_message_add(message, "drain", text);
	return (unsigned)options->drain_s * 1000 + CTL_CLOSE_TIMEOUT_MS;
}

int cmd_close(int argc, char **argv)
{
	struct close_options options;
	struct ctl_client client;
	struct ctl_message message;
	struct ctl_answer answer = {};
	char error[CTL_MAX_ERROR];
	unsigned timeout_ms, left;
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
	timeout_ms = add_wait(&options, &message);
	ctl_message_end(&message);
	r = ctl_client_init(&client, options.netns, error);
	if (r == 0) {
		r = ctl_client_call(&client, &message, false, timeout_ms, &answer, error);
		if (r == -ENOENT) /* no resident process: nothing is steered */
			r = 0;
	}
	if (r < 0) {
		log_warn("close: %s; the window closes by itself at its deadline", error);
		return options.strict ? EXIT_FAILED : EXIT_DONE;
	}
	left = show(&answer, &options);
	ctl_answer_free(&answer);
	return left && options.strict ? EXIT_FAILED : EXIT_DONE;
}
