/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Options of the subcommands: the one table of window options, getopt with one-line errors. */
#include "cmd_options.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "log.h"
#include "util.h"

#define MAX_WORKERS 64

/* Each is set by window_options_set(), which knows what is allowed. */
static const struct {
	const char *name, *metavar, *help;
} window_options[] = {
	{ "name", "NAME", "name of the window (default; of `run`: run-PID)" },
	{ "ttl", "TIME", "it closes by itself after this: 90s, 10m, 1h (10m; at most 1h)" },
	{ "domain", "NAME", "name or IP address that is validated; again for more (every name)" },
	{ "responder", "ADDRESS", "who answers acme-tls/1 (127.0.0.1:31443)" },
	{ "web-server", "ADDRESS", "who gets all else (whoever listens where the client asked)" },
	{ "port", "PORT", "port to steer; again for more (443)" },
	{ "plane", "PLANE", "auto, handoff or relay (auto)" },
	{ "client-ip", "WAY",
	  "client's address in a relay: transparent, proxy-v1, proxy-v2, none (transparent)" },
	{ "sniff-timeout", "TIME", "longest wait for a ClientHello: 500ms, 3s (3s)" },
};

enum {
	OPTION_WINDOW = 256,
	OPTION_NETNS = OPTION_WINDOW + ARRAY_SIZE(window_options),
	OPTION_WORKERS,
	OPTION_LOG_FORMAT,
	OPTION_LOG_VISITORS
};

int cmd_usage_error(char **argv, const char *text, const char *word)
{
	log_error("%s: %s%s; see `acme-steer %s --help`", argv[0], text, word, argv[0]);
	return EXIT_USAGE;
}

static bool has_letter(const struct option *options, int letter)
{
	for (; options->name; options++)
		if (options->val == letter)
			return true;
	return false;
}

int cmd_getopt(int argc, char **argv, const struct option *options)
{
	const char *word = argv[MAX(optind, 1)];
	char letter[] = "-?";
	int c;

	opterr = 0;
	c = getopt_long(argc, argv, has_letter(options, 'q') ? "+:hq" : "+:h", options, NULL);
	if (c == ':') {
		cmd_usage_error(argv, "a value is missing after ", argv[optind - 1]);
		return '?';
	}
	if (c == '?' && optopt >= OPTION_WINDOW) /* it has one: a flag with =VALUE */
		cmd_usage_error(argv, "no value is allowed in ", argv[optind - 1]);
	else if (c == '?' && optopt && word && strncmp(word, "--", 2) == 0)
		cmd_usage_error(argv, "no value is allowed in ", word);
	else if (c == '?' && optopt) {
		letter[1] = (char)optopt;
		cmd_usage_error(argv, "unknown option ", letter);
	} else if (c == '?')
		cmd_usage_error(argv, "unknown option ", argv[optind - 1]);
	return c;
}

static void show_help(const char *usage)
{
	fputs(usage, stdout);
	printf("\nWindow options (default in parentheses; given twice, the last counts, --domain "
	       "and --port add up):\n");
	for (size_t i = 0; i < ARRAY_SIZE(window_options); i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s=%s", window_options[i].name,
			 window_options[i].metavar);
		printf("  %-24s %s\n", left, window_options[i].help);
	}
	printf("\nOther options:\n" CMD_NETNS_HELP
	       "  --workers=N              workers of a resident process that this starts (the "
	       "CPUs, up to 4)\n" CMD_LOG_HELP CMD_QUIET_HELP CMD_HELP_HELP);
}

int cmd_log_format(char **argv, const char *text, enum log_format *ret_format)
{
	if (log_format_parse(text, ret_format) < 0) {
		cmd_usage_error(argv, "--log-format: auto, plain, json or journal is wanted, not ",
				text);
		return -1;
	}
	if (log_set_format(*ret_format) < 0) {
		cmd_usage_error(argv,
				"--log-format: there is no journal here; plain and json are "
				"possible, not ",
				text);
		return -1;
	}
	return 0;
}

void cmd_print_json(struct json_object *document)
{
	puts(json_object_to_json_string_ext(document, JSON_C_TO_STRING_PRETTY |
							      JSON_C_TO_STRING_SPACED |
							      JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int parse_workers(const char *text, unsigned *ret_workers)
{
	size_t len = strlen(text);
	unsigned long n = len >= 1 && len <= 3 && strspn(text, "0123456789") == len
				  ? strtoul(text, NULL, 10)
				  : 0;

	if (n < 1 || n > MAX_WORKERS) {
		log_error("workers: \"%.40s\" is no number of workers; use 1 to %d", text,
			  MAX_WORKERS);
		return -1;
	}
	*ret_workers = (unsigned)n;
	return 0;
}

enum cmd_parsed cmd_options_parse(int argc, char **argv, const char *usage,
				  struct cmd_options *ret_options)
{
	struct option options[ARRAY_SIZE(window_options) + 7] = {
		{ "netns", required_argument, NULL, OPTION_NETNS },
		{ "workers", required_argument, NULL, OPTION_WORKERS },
		{ "log-format", required_argument, NULL, OPTION_LOG_FORMAT },
		{ "log-visitors", no_argument, NULL, OPTION_LOG_VISITORS },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
	};
	char error[CTL_MAX_ERROR];
	int c;

	for (size_t i = 0; i < ARRAY_SIZE(window_options); i++)
		options[6 + i] = (struct option){ window_options[i].name, required_argument, NULL,
						  OPTION_WINDOW + (int)i };
	memset(ret_options, 0, sizeof(*ret_options));
	window_options_init(&ret_options->window);
	log_set_format(LOG_FORMAT_AUTO);

	while ((c = cmd_getopt(argc, argv, options)) != -1) {
		switch (c) {
		case 'h':
			show_help(usage);
			return CMD_HELP_SHOWN;
		case 'q':
			ret_options->quiet = true;
			break;
		case OPTION_NETNS:
			ret_options->netns = optarg;
			break;
		case OPTION_WORKERS:
			if (parse_workers(optarg, &ret_options->workers) < 0)
				return CMD_BAD_USAGE;
			break;
		case OPTION_LOG_FORMAT:
			if (cmd_log_format(argv, optarg, &ret_options->log_format) < 0)
				return CMD_BAD_USAGE;
			break;
		case OPTION_LOG_VISITORS:
			ret_options->log_visitors = true;
			break;
		case '?':
			return CMD_BAD_USAGE;
		default: {
			const char *name = window_options[c - OPTION_WINDOW].name;

			if (window_options_set(&ret_options->window, name, optarg, error,
					       sizeof(error)) < 0) {
				log_error("%s", error);
				return CMD_BAD_USAGE;
			}
			ret_options->has_name |= strcmp(name, "name") == 0;
		}
		}
	}
	return CMD_GO;
}

int cmd_options_request(const struct cmd_options *options, struct ctl_message *ret_message)
{
	const struct window_options *window = &options->window;
	char ttl[16], sniff[16], port[8], responder[ENDPOINT_STRLEN], web_server[ENDPOINT_STRLEN];
	const struct {
		const char *key, *value;
	} pairs[] = {
		{ "name", window->name },
		{ "ttl", ttl },
		{ "responder", endpoint_format(&window->responder, responder) },
		{ "plane", plane_names[window->plane] },
		{ "sniff-timeout", sniff },
		/* NULL: not given, which may be something else than the default */
		{ "client-ip",
		  window->client_ip_chosen ? client_ip_names[window->client_ip] : NULL },
		{ "web-server", window->has_web_server
					? endpoint_format(&window->web_server, web_server)
					: NULL },
	};
	int r = 0;

	snprintf(ttl, sizeof(ttl), "%u", window->ttl_s);
	snprintf(sniff, sizeof(sniff), "%ums", window->sniff_timeout_ms);

	ctl_message_init(ret_message, "open");
	for (size_t i = 0; i < ARRAY_SIZE(pairs) && r == 0; i++)
		if (pairs[i].value)
			r = ctl_message_add(ret_message, pairs[i].key, pairs[i].value);
	for (size_t i = 0; i < window->n_ports && r == 0; i++) {
		snprintf(port, sizeof(port), "%u", window->ports[i]);
		r = ctl_message_add(ret_message, "port", port);
	}
	for (size_t i = 0; i < window->n_domains && r == 0; i++)
		r = ctl_message_add(ret_message, "domain", window->domains[i]);
	ctl_message_end(ret_message);
	return r;
}

void cmd_options_resident(const struct cmd_options *options, struct ctl_client *client)
{
	client->workers = options->workers;
	if (options->log_format != LOG_FORMAT_AUTO)
		client->log_format = log_format_names[options->log_format];
	client->log_visitors = options->log_visitors;
}

int cmd_enter_netns(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) {
		int err = -errno;

		log_error("entering the network namespace %s: %s%s", path, strerror(-err),
			  err == -EPERM ? "; run it as root, or give it CAP_SYS_ADMIN" : "");
		return err;
	}
	return 0;
}

char *cmd_next_line(char **rest)
{
	if (!*rest || !**rest)
		return NULL;
	return strsep(rest, "\n");
}

const char *cmd_duration(double seconds, char buf[CMD_DURATION_STRLEN])
{
	unsigned s = seconds > 0 && seconds < 1e9 ? (unsigned)(seconds + 0.5) : 0;
	unsigned parts[] = { s / 3600, s / 60 % 60, s % 60 };
	size_t len = 0;

	strcpy(buf, "0s");
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (parts[i])
			len += (size_t)snprintf(buf + len, CMD_DURATION_STRLEN - len, "%u%c",
						parts[i], "hms"[i]);
	return buf;
}

void cmd_describe(const struct window_options *window, const char *verb, char *buf, size_t size)
{
	char ttl[CMD_DURATION_STRLEN], responder[ENDPOINT_STRLEN], ports[8 * WINDOW_MAX_PORTS] = "";
	size_t len = 0;

	for (size_t i = 0; i < window->n_ports; i++)
		len += (size_t)snprintf(ports + len, sizeof(ports) - len, "%s%u", i ? ", " : "",
					window->ports[i]);
	snprintf(buf, size, "window \"%s\" %s on port%s %s for %s, responder %s", window->name,
		 verb, window->n_ports > 1 ? "s" : "", ports, cmd_duration(window->ttl_s, ttl),
		 endpoint_format(&window->responder, responder));
}
