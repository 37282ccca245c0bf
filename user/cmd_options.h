/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the subcommands' options have in common; the window options are described in one place. */
#ifndef CMD_OPTIONS_H
#define CMD_OPTIONS_H

#include <getopt.h>
#include <json-c/json.h>
#include <stdbool.h>

#include "ctl_client.h"
#include "log.h"
#include "window.h"

/* Options of a command that opens a window. */
struct cmd_options {
	struct window_options window;
	bool has_name;
	const char *netns; /* as given, or NULL */
	unsigned workers;  /* 0: not given */
	bool quiet;
	enum log_format log_format;
	bool log_visitors;
};

enum cmd_parsed { CMD_GO, CMD_HELP_SHOWN, CMD_BAD_USAGE };

/*
 * Reads window options, --netns, --workers, --quiet and --help up to the first word that is no
 * option, where optind is left. @usage: what `--help` shows in front of the options.
 */
enum cmd_parsed cmd_options_parse(int argc, char **argv, const char *usage,
				  struct cmd_options *ret_options);

/* The `open` request for these options. 0 or -errno of ctl_message_add(). */
int cmd_options_request(const struct cmd_options *options, struct ctl_message *ret_message);

/* What a resident process that @client starts is told. */
void cmd_options_resident(const struct cmd_options *options, struct ctl_client *client);

/*
 * getopt_long() that stops at the first word that is no option and logs one line for what it
 * refuses; '?' then. argv[0] is the subcommand's name. Only long options, -h, and -q if --quiet is
 * one of them.
 */
int cmd_getopt(int argc, char **argv, const struct option *options);

/*
 * --log-format: reads @text, and from then on this process logs so. 0, or -1 after one line.
 * --log-format=journal without a journal is refused.
 */
int cmd_log_format(char **argv, const char *text, enum log_format *ret_format);

/* Logs one line and returns EXIT_USAGE. */
int cmd_usage_error(char **argv, const char *text, const char *word);

/*
 * Enters the network namespace at @path (of ctl_netns()). Before any thread or socket: both belong
 * to the namespace that the process is in then. 0, or -errno after one line of error.
 */
int cmd_enter_netns(const char *path);

/* Answers in lines: the next one of *@rest without its newline, or NULL. Cuts the text. */
char *cmd_next_line(char **rest);

/* Prints @document for programs, and a newline. */
void cmd_print_json(struct json_object *document);

#define CMD_DURATION_STRLEN 24
/* "10m", "9m58s", "1h", "0s"; returns @buf. */
const char *cmd_duration(double seconds, char buf[CMD_DURATION_STRLEN]);

/* 'window "NAME" open on port 443 for 10m, responder 127.0.0.1:31443'; @verb: "open" or "renewed".
 */
void cmd_describe(const struct window_options *window, const char *verb, char *buf, size_t size);

#define CMD_NETNS_HELP "  --netns=PATH|NAME|PID    network namespace to work in (ours)\n"
#define CMD_LOG_HELP                                                                             \
	"  --log-format=FORMAT      auto, plain, json or journal (auto: the journal, with its "  \
	"fields,\n"                                                                              \
	"                           where there is one to write to; else plain)\n"               \
	"  --log-visitors           log a line for each connection, not only those for "         \
	"acme-tls/1:\n"                                                                          \
	"                           all are steered then, none is read in passing\n"
#define CMD_QUIET_HELP "  -q, --quiet              say nothing but errors and warnings\n"
#define CMD_HELP_HELP  "  -h, --help               this text\n"

#endif
