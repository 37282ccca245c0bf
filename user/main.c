/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* acme-steer: the table of subcommands. */
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <openssl/opensslv.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "lazy.h"
#include "log.h"
#include "util.h"

static const struct {
	const char *name;
	int (*function)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "run", cmd_run, "open a window, run an ACME client, close; exit as it did" },
	{ "open", cmd_open, "open or renew a window; returns when steering is live" },
	{ "close", cmd_close, "close a window; returns when nothing new is steered" },
	{ "challenge", cmd_challenge,
	  "add, remove or list challenges that the built-in responder answers" },
	{ "status", cmd_status, "show windows, connections and counters" },
	{ "doctor", cmd_doctor, "can this host do it? what is in the way? what to do?" },
	{ "probe", cmd_probe, "connect to a name as a CA would, and explain what answers" },
	{ "serve", cmd_serve, "the resident process; open, run and challenge start it by themselves" },
	{ "responder", cmd_responder, NULL }, /* the resident process starts it: acme-steer-tls's */
};

static int help(void)
{
	printf("Usage: acme-steer COMMAND [OPTION...]\n\n"
	       "Answers TLS-ALPN-01 challenges on the port of a running web server: while a window "
	       "is\n"
	       "open, new connections that ask for acme-tls/1 go to the responder, all others to "
	       "the web server.\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].help)
			printf("  %-9s %s\n", commands[i].name, commands[i].help);
	printf("\n`acme-steer COMMAND --help` shows a command's options; `acme-steer --version` "
	       "the version.\n");
	return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}

static int version(void)
{
	printf("acme-steer %s\n", ACME_STEER_VERSION);
	printf("built with: gcc %s, clang %s, libbpf %d.%d, OpenSSL %s, json-c %s\n", __VERSION__,
	       ACME_STEER_CLANG, LIBBPF_MAJOR_VERSION, LIBBPF_MINOR_VERSION, OPENSSL_VERSION_STR,
	       JSON_C_VERSION);
	printf("runs with:  libbpf %u.%u, OpenSSL %s, json-c %s\n", libbpf_major_version(),
	       libbpf_minor_version(), lazy_openssl_version(), json_c_version());
	return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* No file of ours may become descriptor 0, 1 or 2, which others read and write. */
static void open_standard_fds(void)
{
	int fd;

	while ((fd = open("/dev/null", O_RDWR)) >= 0)
		if (fd > STDERR_FILENO) {
			close(fd);
			break;
		}
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	char *help_argv[4] = { argv[0], argc > 2 ? argv[2] : NULL, "--help" };

	open_standard_fds();
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
		return version();
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
	    (strcmp(name, "help") == 0 && argc == 2))
		return help();
	if (strcmp(name, "help") == 0) {
		/* "help open" is "open --help". */
		argc = 3;
		argv = help_argv;
		name = argv[1];
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].function(argc - 1, argv + 1);

	if (*name)
		log_error("unknown command \"%s\"; see `acme-steer --help`", name);
	else
		log_error("no command given; see `acme-steer --help`");
	return EXIT_USAGE;
}
