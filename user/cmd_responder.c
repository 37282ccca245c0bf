/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * acme-steer-tls responder VERSION: how the resident process starts the built-in responder. Nobody
 * else does.
 */
#include <string.h>
#include <sys/socket.h>

#include "cmd.h"
#include "cmd_options.h"
#include "responder.h"

int cmd_responder(int argc, char **argv)
{
	int type = 0;
	socklen_t size = sizeof(type);

	if (getsockopt(RESPONDER_FD_RESIDENT, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
	    type != SOCK_SEQPACKET)
		return cmd_usage_error(
			argv, "is started by the resident process, when there are challenges", "");
	if (argc != 2 || strcmp(argv[1], ACME_STEER_VERSION) != 0)
		return RESPONDER_OTHER_VERSION;
	return responder_run();
}
