// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* acme-steer probe: what a CA's validator sees when it connects to a name. */
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "cmd_options.h"
#include "log.h"
#include "resolve.h"
#include "util.h"
#include "verdict.h"

#define MAX_ADDRESSES (2 * RESOLVE_MAX)
#define TIMEOUT_S     10 /* Let's Encrypt's */
#define MAX_TIMEOUT_S 60

static const char usage[] =
	"Usage: acme-steer probe NAME [OPTION...]\n\n"
	"Connects to NAME as a CA's validator does, over IPv6 and IPv4, says what answers, and "
	"explains.\n"
	"Needs no rights, and no resident process on this machine or that one. Best tried from "
	"outside.\n\n"
	"  NAME                     host name or IP address that is to be validated\n"
	"  --address=ADDRESS        connect there instead of asking the DNS; again for more\n"
	"  --port=PORT              port to connect to (443; CAs use no other)\n"
	"  --expect=DIGEST          fail unless this is the digest that is answered: base64url, or "
	"hexadecimal\n"
	"  --timeout=SECONDS        for each connection, and again for its answer (10)\n"
	"  --json                   as a JSON document\n" CMD_HELP_HELP "\n"
	"Exit codes: 0 a CA finds the challenge answered, 1 it doesn't, 2 wrong usage.\n";

enum { OPTION_ADDRESS = 256, OPTION_PORT, OPTION_EXPECT, OPTION_TIMEOUT, OPTION_JSON };

static const struct option long_options[] = {
	{ "address", required_argument, NULL, OPTION_ADDRESS },
	{ "port", required_argument, NULL, OPTION_PORT },
	{ "expect", required_argument, NULL, OPTION_EXPECT },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "help", no_argument, NULL, 'h' },
	{},
};

struct probe_options {
	const char *word;
	struct name name;
	const char *addresses[MAX_ADDRESSES];
	size_t n_addresses;
	unsigned port, timeout_s;
	bool expect, json;
	uint8_t digest[CHALLENGE_DIGEST];
};

struct all {
	size_t n;
	struct verdict verdicts[MAX_ADDRESSES];
	bool asked_dns;
	const char *dns_problem;
	bool ready;
	char text[256];
};

static int number(const char *what, const char *text, unsigned max, unsigned *ret_number)
{
	size_t len = strlen(text);
	unsigned long n = len >= 1 && len <= 5 && strspn(text, "0123456789") == len
				  ? strtoul(text, NULL, 10)
				  : 0;

	if (n < 1 || n > max) {
		log_error("%s: \"%.40s\" is not a number from 1 to %u", what, text, max);
		return -EINVAL;
	}
	*ret_number = (unsigned)n;
	return 0;
}

static enum cmd_parsed take_option(char **argv, int c, struct probe_options *options)
{
	char error[CTL_MAX_ERROR];

	switch (c) {
	case OPTION_ADDRESS:
		if (options->n_addresses == MAX_ADDRESSES) {
			cmd_usage_error(argv, "too many addresses, at ", optarg);
			return CMD_BAD_USAGE;
		}
		options->addresses[options->n_addresses++] = optarg;
		return CMD_GO;
	case OPTION_PORT:
		return number("port", optarg, UINT16_MAX, &options->port) < 0 ? CMD_BAD_USAGE
									      : CMD_GO;
	case OPTION_TIMEOUT:
		return number("timeout", optarg, MAX_TIMEOUT_S, &options->timeout_s) < 0
			       ? CMD_BAD_USAGE
			       : CMD_GO;
	case OPTION_EXPECT:
		if (challenge_digest_parse(optarg, options->digest, error, sizeof(error)) < 0) {
			log_error("%s", error);
			return CMD_BAD_USAGE;
		}
		options->expect = true;
		return CMD_GO;
	case OPTION_JSON:
		options->json = true;
		return CMD_GO;
	case 'h':
		fputs(usage, stdout);
		return CMD_HELP_SHOWN;
	default:
		return CMD_BAD_USAGE;
	}
}

/* Options may stand before and after the name. */
static enum cmd_parsed parse(int argc, char **argv, struct probe_options *options)
{
	bool words_only = false;
	const char *fault;

	optind = 1;
	while (optind < argc) {
		int before = optind;
		int c = words_only ? -1 : cmd_getopt(argc, argv, long_options);
		enum cmd_parsed parsed;

		if (c == -1 && optind > before) {
			words_only = true; /* "--" */
			continue;
		}
		if (c == -1 && options->word) {
			cmd_usage_error(argv, "takes one name, not ", argv[optind]);
			return CMD_BAD_USAGE;
		}
		if (c == -1) {
			options->word = argv[optind++];
			continue;
		}
		parsed = take_option(argv, c, options);
		if (parsed != CMD_GO)
			return parsed;
	}
	if (!options->word) {
		cmd_usage_error(argv, "a name is missing", "");
		return CMD_BAD_USAGE;
	}
	fault = name_parse(options->word, &options->name);
	if (fault) {
		log_error("probe: \"%.80s\" %s", options->word, fault);
		return CMD_BAD_USAGE;
	}
	return CMD_GO;
}

static void add_address(struct all *all, const struct endpoint *endpoint)
{
	if (all->n < MAX_ADDRESSES)
		all->verdicts[all->n++] = (struct verdict){ .address = *endpoint };
}

/* Where to connect, IPv6 first. False after one line of error. */
static bool find_addresses(const struct probe_options *options, struct all *all)
{
	struct endpoint endpoints[RESOLVE_MAX];
	const char *problem;

	if (options->name.address_len || options->n_addresses) {
		char own[NAME_MAX_LEN + 1];
		const char *only[] = { name_format(&options->name, own) };
		const char *const *list = options->n_addresses ? options->addresses : only;

		for (size_t i = 0; i < MAX(options->n_addresses, 1); i++) {
			if (endpoint_parse(list[i], (uint16_t)options->port, &endpoints[0]) < 0 ||
			    endpoints[0].port != options->port) {
				log_error("address: \"%.80s\" is no IP address; names are not "
					  "resolved, and the port is --port's",
					  list[i]);
				return false;
			}
			add_address(all, &endpoints[0]);
		}
		return true;
	}
	all->asked_dns = true;
	for (int v4 = 0; v4 < 2; v4++) {
		int n = resolve(options->name.sni, v4, (uint16_t)options->port, endpoints,
				&problem);

		for (int i = 0; i < n; i++)
			add_address(all, &endpoints[i]);
		if (problem)
			all->dns_problem = problem;
	}
	return true;
}

/* 0 or -errno. */
static int look(const struct probe_options *options, struct verdict *verdict)
{
	struct probe_request request = { .address = verdict->address,
					 .name = &options->name,
					 .timeout_ns = options->timeout_s * NSEC_PER_SEC };

	while (verdict_wants(verdict, &request.hello)) {
		int r = probe_run(&request, &verdict->seen[request.hello]);

		if (r < 0)
			return r;
		verdict->has[request.hello] = true;
	}
	verdict_judge(verdict, options->expect ? options->digest : NULL);
	return 0;
}

/* The connection that shows whose certificate is there; NULL: none does. */
static const struct probe_seen *shows_certificate(const struct verdict *verdict)
{
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];
	const struct probe_seen *visitor = &verdict->seen[PROBE_AS_A_VISITOR];

	if (verdict->has[PROBE_AS_A_VISITOR] && visitor->has_certificate)
		return visitor;
	return ca->has_certificate ? ca : NULL;
}

static const char *level_of(const struct verdict *verdict)
{
	return verdict->situation == SITUATION_READY	  ? "ok"
	       : verdict->situation == SITUATION_NO_ROUTE ? "warn"
							  : "fail";
}

static void print_verdict(const struct verdict *verdict)
{
	const struct probe_seen *seen = shows_certificate(verdict);
	char address[ENDPOINT_STRLEN];

	printf("%-4s  %s  %s\n", level_of(verdict), endpoint_format(&verdict->address, address),
	       verdict->finding);
	if (seen && verdict->situation != SITUATION_READY)
		printf("      certificate: %s; names: %s; issuer: %s; %s %s\n",
		       seen->certificate.subject,
		       seen->certificate.names[0] ? seen->certificate.names : "none",
		       seen->certificate.issuer,
		       seen->certificate.in_time ? "valid until" : "NOT VALID NOW, until",
		       seen->certificate.not_after);
	if (seen && seen->server[0])
		printf("      it calls itself: %s\n", seen->server);
	if (resolve_is_private(&verdict->address))
		printf("      a private address: no public CA can connect to it\n");
	for (size_t i = 0; i < VERDICT_CAUSES && verdict->causes[i]; i++)
		printf("      %s %s\n", i ? "or" : "->", verdict->causes[i]);
}

static void print_dns(const struct probe_options *options, const struct all *all)
{
	size_t n[2] = {};

	if (!all->asked_dns)
		return;
	for (size_t i = 0; i < all->n; i++)
		n[endpoint_is_v4(&all->verdicts[i].address)]++;
	if (all->n == 0)
		printf("fail  %s has no address: %s\n"
		       "      -> correct the name, or add A or AAAA records for it\n",
		       options->name.sni,
		       all->dns_problem ? all->dns_problem : "no A and no AAAA record");
	else if (all->dns_problem)
		printf("warn  %s: of its addresses not all could be asked for: %s\n",
		       options->name.sni, all->dns_problem);
	else
		printf("ok    %s has %zu IPv6 and %zu IPv4 addresses\n", options->name.sni, n[0],
		       n[1]);
}

static struct json_object *text_or_null(const char *text)
{
	return text && text[0] ? json_object_new_string(text) : NULL;
}

static struct json_object *certificate_json(const struct probe_certificate *certificate)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "subject", json_object_new_string(certificate->subject));
	json_object_object_add(object, "issuer", json_object_new_string(certificate->issuer));
	json_object_object_add(object, "names", json_object_new_string(certificate->names));
	json_object_object_add(object, "not_after", text_or_null(certificate->not_after));
	json_object_object_add(object, "in_time", json_object_new_boolean(certificate->in_time));
	json_object_object_add(object, "for_name",
			       json_object_new_boolean(certificate->is_for_name));
	json_object_object_add(object, "self_signed",
			       json_object_new_boolean(certificate->self_signed));
	json_object_object_add(object, "sha256", json_object_new_string(certificate->sha256));
	return object;
}

static struct json_object *verdict_json(const struct verdict *verdict)
{
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];
	const struct probe_seen *seen = shows_certificate(verdict);
	struct json_object *object = json_object_new_object();
	struct json_object *list = json_object_new_array();
	char address[ENDPOINT_STRLEN], digest[CHALLENGE_DIGEST_STRLEN];

	for (size_t i = 0; i < VERDICT_CAUSES && verdict->causes[i]; i++)
		json_object_array_add(list, json_object_new_string(verdict->causes[i]));
	json_object_object_add(
		object, "address",
		json_object_new_string(endpoint_format_addr(&verdict->address, address)));
	json_object_object_add(object, "level", json_object_new_string(level_of(verdict)));
	json_object_object_add(object, "situation",
			       json_object_new_string(situation_names[verdict->situation]));
	json_object_object_add(object, "finding", json_object_new_string(verdict->finding));
	json_object_object_add(object, "causes", list);
	json_object_object_add(object, "private",
			       json_object_new_boolean(resolve_is_private(&verdict->address)));
	json_object_object_add(object, "milliseconds", json_object_new_int64(ca->ms));
	json_object_object_add(object, "alpn", text_or_null(ca->alpn));
	json_object_object_add(object, "tls", text_or_null(ca->tls));
	json_object_object_add(object, "alert",
			       ca->end == PROBE_ALERT ? json_object_new_int((int)ca->alert) : NULL);
	json_object_object_add(
		object, "digest",
		ca->has_digest ? json_object_new_string(challenge_digest_format(ca->digest, digest))
			       : NULL);
	json_object_object_add(object, "certificate",
			       seen ? certificate_json(&seen->certificate) : NULL);
	json_object_object_add(object, "server", text_or_null(seen ? seen->server : NULL));
	json_object_object_add(object, "cdn", text_or_null(seen ? seen->cdn : NULL));
	return object;
}

static void print_json(const struct probe_options *options, const struct all *all)
{
	struct json_object *document = json_object_new_object();
	struct json_object *list = json_object_new_array();
	char name[NAME_MAX_LEN + 1];

	for (size_t i = 0; i < all->n; i++)
		json_object_array_add(list, verdict_json(&all->verdicts[i]));
	json_object_object_add(document, "name",
			       json_object_new_string(name_format(&options->name, name)));
	json_object_object_add(document, "port", json_object_new_int((int)options->port));
	json_object_object_add(document, "answered", json_object_new_boolean(all->ready));
	json_object_object_add(document, "verdict", json_object_new_string(all->text));
	json_object_object_add(document, "dns_error", text_or_null(all->dns_problem));
	json_object_object_add(document, "addresses", list);
	cmd_print_json(document);
	json_object_put(document);
}

int cmd_probe(int argc, char **argv)
{
	static struct all all; /* large */
	struct probe_options options = { .port = 443, .timeout_s = TIMEOUT_S };

	switch (parse(argc, argv, &options)) {
	case CMD_HELP_SHOWN:
		return EXIT_DONE;
	case CMD_BAD_USAGE:
		return EXIT_USAGE;
	case CMD_GO:
		break;
	}
	signal(SIGPIPE, SIG_IGN);
	if (!find_addresses(&options, &all))
		return EXIT_USAGE;
	for (size_t i = 0; i < all.n; i++) {
		int r = look(&options, &all.verdicts[i]);

		if (r < 0) {
			log_error("probe: OpenSSL can't make a TLS client: %s", strerror(-r));
			return EXIT_FAILED;
		}
	}
	all.ready =
		verdict_overall(all.verdicts, all.n, options.expect, all.text, sizeof(all.text));
	if (options.json) {
		print_json(&options, &all);
	} else {
		print_dns(&options, &all);
		for (size_t i = 0; i < all.n; i++)
			print_verdict(&all.verdicts[i]);
		printf("%-4s  %s\n", all.ready ? "ok" : "fail", all.text);
	}
	if (fflush(stdout) != 0)
		return EXIT_FAILED;
	return all.ready ? EXIT_DONE : EXIT_FAILED;
}
