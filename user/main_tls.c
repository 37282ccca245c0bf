// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* acme-steer-tls: the commands of acme-steer that speak TLS. It is started by acme-steer. */
#include <string.h>
#include <sys/prctl.h>

#include "cmd.h"
#include "log.h"

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	/* Started by a descriptor it has that one's number for a name. */
	prctl(PR_SET_NAME, "acme-steer-tls");
	if (strcmp(name, "probe") == 0)
		return cmd_probe(argc - 1, argv + 1);
	if (strcmp(name, "responder") == 0)
		return cmd_responder(argc - 1, argv + 1);
	log_error("this is a part of acme-steer; see `acme-steer --help`");
	return EXIT_USAGE;
}
