// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* `make static` only: what speaks TLS is a part of the one program, see user/tls_program.h. */
#include "tls_program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

int tls_program_open(void)
{
	int fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

const char *tls_program_fault(int err)
{
	return strerror(-err);
}

const char *tls_program_remedy(int err)
{
	return NULL;
}
