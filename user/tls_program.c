// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The commands that acme-steer-tls has. `make static` has them in the one program instead. */
#include "tls_program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "log.h"
#include "util.h"

#define NAME "acme-steer-tls"

static const char *const places[] = { "../libexec/acme-steer/" NAME, NAME };

/* The path of the @i-th place. */
static int place(size_t i, char path[PATH_MAX])
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *end;

	if (n < 0)
		return -errno;
	self[n] = '\0';
	end = strrchr(self, '/');
	if (!end)
		return -ENOENT;
	n = snprintf(path, PATH_MAX, "%.*s%s", (int)(end + 1 - self), self, places[i]);
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

int tls_program_open(void)
{
	int fd = -1, err = 0;

	for (size_t i = 0; i < ARRAY_SIZE(places) && fd < 0 && !err; i++) {
		char path[PATH_MAX];

		err = place(i, path);
		if (!err)
			fd = open(path, O_PATH | O_CLOEXEC);
	}
	return fd >= 0 ? fd : err ? err : -errno;
}

/* By its path, so that a list of processes has its name. */
static int become(const char *verb, char **argv)
{
	_cleanup_free_ char **words = NULL;
	size_t n = 0;

	while (argv[n])
		n++;
	words = calloc(n + 2, sizeof(*words));
	if (!words) {
		log_error("%s: out of memory", verb);
		return EXIT_FAILED;
	}
	words[0] = (char *)NAME;
	memcpy(words + 1, argv, n * sizeof(*words));
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char path[PATH_MAX];

		if (place(i, path) == 0)
			execv(path, words);
	}
	log_error("%s: %s", verb, errno == ENOENT ? TLS_PROGRAM_HELP : strerror(errno));
	return EXIT_FAILED;
}

int cmd_probe(int argc, char **argv)
{
	return become("probe", argv);
}

int cmd_responder(int argc, char **argv)
{
	return become("responder", argv);
}
