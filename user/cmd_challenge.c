/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * acme-steer challenge: adds, removes and lists challenges of the built-in responder.
 *
 * `remove` stands in hooks, as `close` does, and takes failures as lightly: a challenge that is
 * left ends at its deadline.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "challenge.h"
#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "util.h"

/* The answer comes when the responder has it; starting that takes its time on a loaded machine. */
#define ADD_TIMEOUT_MS 40000

#define MAX_WORDS 3 /* add NAME DIGEST */

static const char usage[] =
	"Usage: acme-steer challenge add NAME DIGEST [OPTION...]\n"
	"       acme-steer challenge add NAME --key-authorization=KA [OPTION...]\n"
	"       acme-steer challenge remove NAME | --all [OPTION...]\n"
	"       acme-steer challenge list [--json] [OPTION...]\n\n"
	"A challenge is answered by the built-in responder: connections that ask for acme-tls/1 "
	"and NAME get its\n"
	"certificate, all others the web server. The first challenge opens a window, the last "
	"one's end closes it.\n"
	"`add` returns when the challenge is answered. Added again, a challenge is replaced. "
	"`remove` of one\n"
	"that is not there is no error.\n\n"
	"  NAME                     host name or IP address, as the CA was asked for it\n"
	"  DIGEST                   SHA-256 of the key authorization: base64url, or hexadecimal "
	"with or without colons\n"
	"  --key-authorization=KA   the key authorization itself, instead of DIGEST\n"
	"  --ttl=TIME               the challenge ends by itself after this: 90s, 10m, 1h (10m; at "
	"most 1h)\n"
	"  --port=PORT              port to steer (443)\n"
	"  --web-server=ADDRESS     who gets all else (as the port's other windows, or whoever "
	"listens there)\n"
	"  --plane=PLANE            auto, handoff or relay (as the port's other windows, or auto)\n"
	"  --client-ip=WAY          client's address in a relay (as the port's other windows, or "
	"transparent)\n"
	"  --sniff-timeout=TIME     longest wait for a ClientHello (3s)\n"
	"  --all                    remove: every challenge\n"
	"  --strict                 remove: exit 1 when it can't be said that the challenge is "
	"gone\n"
	"  --json                   list: as a JSON document\n" CMD_NETNS_HELP CMD_QUIET_HELP
		CMD_HELP_HELP "\n"
	"Exit codes: 0 done (remove: also, with a warning, when it failed, so that a hook never "
	"breaks a renewal),\n"
	"1 failed, 2 wrong usage.\n";

enum option_id {
	OPTION_WINDOW = 256,
	OPTION_KEY_AUTHORIZATION = 300,
	OPTION_ALL,
	OPTION_STRICT,
	OPTION_JSON,
	OPTION_NETNS
};

static const struct option long_options[] = {
	{ "ttl", required_argument, NULL, OPTION_WINDOW },
	{ "port", required_argument, NULL, OPTION_WINDOW },
	{ "web-server", required_argument, NULL, OPTION_WINDOW },
	{ "plane", required_argument, NULL, OPTION_WINDOW },
	{ "client-ip", required_argument, NULL, OPTION_WINDOW },
	{ "sniff-timeout", required_argument, NULL, OPTION_WINDOW },
	{ "key-authorization", required_argument, NULL, OPTION_KEY_AUTHORIZATION },
	{ "all", no_argument, NULL, OPTION_ALL },
	{ "strict", no_argument, NULL, OPTION_STRICT },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "netns", required_argument, NULL, OPTION_NETNS },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{},
};

struct challenge_options {
	const char *words[MAX_WORDS];
	size_t n_words;
	struct window_options window; /* checked there; sent as given */
	struct ctl_message *message;  /* its options, as they come */
	const char *key_authorization, *netns;
	const char *window_option, *all, *strict,
		*json; /* as on the command line; NULL: not given */
	bool quiet;
};

/* cmd_getopt() tells only the value of an OPTION_WINDOW; its name is what is before it. */
static enum cmd_parsed take_window_option(char **argv, struct challenge_options *options)
{
	char error[CTL_MAX_ERROR];
	const char *word = argv[optind - 1];
	char name[32];

	/* "--ttl=5m", or "--ttl" "5m". */
	if (optarg == word)
		word = argv[optind - 2];
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="), word + 2);
	/* getopt takes an option's beginning for the whole. */
	for (const struct option *o = long_options; o->name; o++)
		if (o->val == OPTION_WINDOW && strncmp(o->name, name, strlen(name)) == 0)
			snprintf(name, sizeof(name), "%s", o->name);
	if (strcmp(name, "port") == 0)
		options->window.ports_given = false; /* one; the last counts */
	if (window_options_set(&options->window, name, optarg, error, sizeof(error)) < 0) {
		log_error("%s", error);
		return CMD_BAD_USAGE;
	}
	options->window_option = name[0] ? "--ttl, --port and other options of a window" : NULL;
	if (strcmp(name, "port") != 0)
		ctl_message_add(options->message, name, optarg);
	return CMD_GO;
}

static enum cmd_parsed take_option(char **argv, int c, struct challenge_options *options)
{
	switch (c) {
	case OPTION_WINDOW:
		return take_window_option(argv, options);
	case OPTION_KEY_AUTHORIZATION:
		options->key_authorization = optarg;
		return CMD_GO;
	case OPTION_ALL:
		options->all = "--all";
		return CMD_GO;
	case OPTION_STRICT:
		options->strict = "--strict";
		return CMD_GO;
	case OPTION_JSON:
		options->json = "--json";
		return CMD_GO;
	case OPTION_NETNS:
		options->netns = optarg;
		return CMD_GO;
	case 'q':
		options->quiet = true;
		return CMD_GO;
	case 'h':
		fputs(usage, stdout);
		return CMD_HELP_SHOWN;
	default:
		return CMD_BAD_USAGE;
	}
}

/* Options may stand before, between and after the words. A digest may begin with a hyphen. */
static enum cmd_parsed parse(int argc, char **argv, struct challenge_options *options)
{
	bool words_only = false;

	optind = 1;
	while (optind < argc) {
		uint8_t digest[CHALLENGE_DIGEST];
		char error[CTL_MAX_ERROR];
		bool is_digest =
			challenge_digest_parse(argv[optind], digest, error, sizeof(error)) == 0;
		int before = optind;
		int c = words_only || is_digest ? -1 : cmd_getopt(argc, argv, long_options);

		if (c == -1 && optind > before) {
			words_only = true; /* "--" */
		} else if (c == -1 && options->n_words == MAX_WORDS) {
			cmd_usage_error(argv, "too many words, at ", argv[optind]);
			return CMD_BAD_USAGE;
		} else if (c == -1) {
			options->words[options->n_words++] = argv[optind++];
		} else {
			enum cmd_parsed parsed = take_option(argv, c, options);

			if (parsed != CMD_GO)
				return parsed;
		}
	}
	return CMD_GO;
}

static int call(const struct challenge_options *options, bool start, unsigned timeout_ms,
		struct ctl_answer *ret_answer, char *error)
{
	struct ctl_client client;
	int r = ctl_client_init(&client, options->netns, error);

	ctl_message_end(options->message);
	if (r == 0)
		r = ctl_client_call(&client, options->message, start, timeout_ms, ret_answer,
				    error);
	return r;
}

/* The name, checked; NULL after one line of error. */
static const char *take_name(char **argv, const struct challenge_options *options,
			     struct name *ret_name)
{
	const char *fault;

	if (options->n_words < 2) {
		cmd_usage_error(argv, options->words[0], ": a name is missing");
		return NULL;
	}
	fault = name_parse(options->words[1], ret_name);
	if (fault) {
		log_error("challenge: \"%.80s\" %s", options->words[1], fault);
		return NULL;
	}
	return options->words[1];
}

/* Adds the digest to the request, whichever way it was given. */
static enum cmd_parsed add_digest(char **argv, struct challenge_options *options)
{
	char error[CTL_MAX_ERROR], text[CHALLENGE_DIGEST_STRLEN];
	uint8_t digest[CHALLENGE_DIGEST];
	int r;

	if ((options->n_words == 3) == (options->key_authorization != NULL)) {
		cmd_usage_error(argv, "add: give a digest or --key-authorization, one of them", "");
		return CMD_BAD_USAGE;
	}
	if (options->key_authorization)
		r = challenge_digest_of(options->key_authorization, digest, error, sizeof(error));
	else
		r = challenge_digest_parse(options->words[2], digest, error, sizeof(error));
	if (r < 0) {
		log_error("challenge: %s", error);
		return CMD_BAD_USAGE;
	}
	ctl_message_add(options->message, "digest", challenge_digest_format(digest, text));
	return CMD_GO;
}

static int add(char **argv, struct challenge_options *options)
{
	char error[CTL_MAX_ERROR], port[8], ttl[CMD_DURATION_STRLEN];
	struct ctl_answer answer;
	const char *name;
	struct name parsed;

	name = take_name(argv, options, &parsed);
	if (!name || add_digest(argv, options) != CMD_GO)
		return EXIT_USAGE;
	snprintf(port, sizeof(port), "%u", options->window.ports[0]);
	ctl_message_add(options->message, "port", port);
	ctl_message_add(options->message, "name", name);
	if (call(options, true, ADD_TIMEOUT_MS, &answer, error) < 0) {
		log_error("challenge: %s", error);
		return EXIT_FAILED;
	}
	if (!options->quiet)
		printf("challenge for %s %s on port %s for %s\n", name,
		       strncmp(answer.lines, "replaced ", 9) == 0 ? "replaced" : "added", port,
		       cmd_duration(options->window.ttl_s, ttl));
	ctl_answer_free(&answer);
	return EXIT_DONE;
}

static void show_removed(const struct ctl_answer *answer, const char *name)
{
	char *rest = answer->lines;
	char *line;
	bool any = false;

	while ((line = cmd_next_line(&rest))) {
		if (strncmp(line, "removed-all ", 12) == 0)
			printf("%s challenge%s removed\n", line + 12,
			       strcmp(line + 12, "1") == 0 ? "" : "s");
		else if (strncmp(line, "removed ", 8) == 0)
			printf("challenge for %s removed\n", line + 8);
		else if (strncmp(line, "absent ", 7) == 0)
			printf("there was no challenge for %s\n", line + 7);
		else
			continue;
		any = true;
	}
	if (!any && name)
		printf("there was no challenge for %s\n", name);
	else if (!any)
		printf("there was no challenge\n");
}

static int remove_one_or_all(char **argv, struct challenge_options *options)
{
	struct ctl_answer answer = {};
	char error[CTL_MAX_ERROR];
	const char *name = NULL;
	struct name parsed;
	int r;

	if (options->all && options->n_words > 1)
		return cmd_usage_error(argv, "remove: takes a name or --all, not both", "");
	if (options->n_words > 2)
		return cmd_usage_error(argv, "remove: takes one name, not ", options->words[2]);
	if (!options->all) {
		name = take_name(argv, options, &parsed);
		if (!name)
			return EXIT_USAGE;
		ctl_message_add(options->message, "name", name);
	} else {
		ctl_message_add(options->message, "all", "yes");
	}
	r = call(options, false, CTL_CLOSE_TIMEOUT_MS, &answer, error);
	if (r < 0 && r != -ENOENT) { /* ENOENT: without a resident process there is no challenge */
		log_warn("challenge: remove: %s; the challenge ends by itself at its deadline",
			 error);
		return options->strict ? EXIT_FAILED : EXIT_DONE;
	}
	if (!options->quiet)
		show_removed(&answer, name);
	ctl_answer_free(&answer);
	return EXIT_DONE;
}

struct row {
	char *name;
	unsigned port;
	double seconds;
	unsigned long long connections;
	char *digest;
};

static int compare_rows(const void *a, const void *b)
{
	return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

/* Cuts the answer's lines into rows, sorted by name. Returns how many. The caller frees them. */
static size_t read_rows(char *lines, struct row **ret_rows)
{
	struct row *rows = calloc(CHALLENGE_MAX, sizeof(*rows));
	char *line;
	size_t n = 0;

	while (rows && n < CHALLENGE_MAX && (line = cmd_next_line(&lines))) {
		struct row *row = &rows[n];

		row->name = strsep(&line, " ");
		if (!line ||
		    sscanf(line, "%u %lf %llu", &row->port, &row->seconds, &row->connections) != 3)
			continue;
		row->digest = strrchr(line, ' ') + 1;
		n++;
	}
	if (n > 0)
		qsort(rows, n, sizeof(*rows), compare_rows);
	*ret_rows = rows;
	return n;
}

static void print_json(const struct row *rows, size_t n)
{
	struct json_object *document = json_object_new_object();
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < n; i++) {
		struct json_object *challenge = json_object_new_object();
		char seconds[32];

		snprintf(seconds, sizeof(seconds), "%.3f", rows[i].seconds);
		json_object_object_add(challenge, "name", json_object_new_string(rows[i].name));
		json_object_object_add(challenge, "port", json_object_new_int((int)rows[i].port));
		json_object_object_add(challenge, "digest", json_object_new_string(rows[i].digest));
		json_object_object_add(challenge, "remaining_s",
				       json_object_new_double_s(rows[i].seconds, seconds));
		json_object_object_add(challenge, "connections",
				       json_object_new_int64((int64_t)rows[i].connections));
		json_object_array_add(list, challenge);
	}
	json_object_object_add(document, "challenges", list);
	cmd_print_json(document);
	json_object_put(document);
}

static void print_table(const struct row *rows, size_t n)
{
	char left[CMD_DURATION_STRLEN];

	for (size_t i = 0; i < n; i++)
		printf("%-39s port %u, %s left, %llu connections, %s\n", rows[i].name, rows[i].port,
		       cmd_duration(rows[i].seconds, left), rows[i].connections, rows[i].digest);
	if (n == 0)
		printf("there is no challenge\n");
}

static int list(char **argv, struct challenge_options *options)
{
	_cleanup_free_ struct row *rows = NULL;
	struct ctl_answer answer = {};
	char error[CTL_MAX_ERROR];
	size_t n;
	int r;

	if (options->n_words > 1)
		return cmd_usage_error(argv, "list: takes options only, not ", options->words[1]);
	r = call(options, false, CTL_STATUS_TIMEOUT_MS, &answer, error);
	if (r < 0 && r != -ENOENT) {
		log_error("challenge: list: %s", error);
		return EXIT_FAILED;
	}
	n = read_rows(answer.lines, &rows);
	if (options->json)
		print_json(rows, n);
	else
		print_table(rows, n);
	ctl_answer_free(&answer);
	return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}

int cmd_challenge(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*function)(char **argv, struct challenge_options *options);
		bool adds, removes, lists;
	} verbs[] = {
		{ .name = "add", .function = add, .adds = true },
		{ .name = "remove", .function = remove_one_or_all, .removes = true },
		{ .name = "list", .function = list, .lists = true },
	};
	static struct ctl_message message; /* large */
	struct challenge_options options = { .message = &message };

	/* The verb's line comes first, before the options are known: any of the three is as long as
	 * is allowed. */
	ctl_message_init(&message, "challenge-add");
	window_options_init(&options.window);
	switch (parse(argc, argv, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	if (options.n_words == 0)
		return cmd_usage_error(argv, "say what to do: add, remove or list", "");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		char verb[CTL_WORD_MAX + 1];
		const char *misplaced;

		if (strcmp(options.words[0], verbs[i].name) != 0)
			continue;
		misplaced = !verbs[i].removes && options.all		  ? options.all
			    : !verbs[i].removes && options.strict	  ? options.strict
			    : !verbs[i].lists && options.json		  ? options.json
			    : !verbs[i].adds && options.key_authorization ? "--key-authorization"
			    : !verbs[i].adds && options.window_option	  ? options.window_option
									  : NULL;
		if (misplaced) {
			log_error("%s: %s doesn't take %s; see `acme-steer challenge --help`",
				  argv[0], verbs[i].name, misplaced);
			return EXIT_USAGE;
		}
		if (!verbs[i].adds) {
			snprintf(verb, sizeof(verb), "challenge-%s", verbs[i].name);
			ctl_message_init(&message, verb);
		}
		return verbs[i].function(argv, &options);
	}
	return cmd_usage_error(argv, "takes add, remove or list, not ", options.words[0]);
}
