// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The commands that acme-steer-tls has. `make static` has them in the one program instead. */
#include "tls_program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cmd.h"
#include "log.h"
#include "util.h"

#define NAME	"acme-steer-tls"
#define WRITERS (S_IWGRP | S_IWOTH)

static const char *const places[] = { "../libexec/acme-steer/" NAME, NAME };

/* Is it as hard to replace as this program itself? */
static bool is_trusted(int fd)
{
	struct stat self, st;

	return stat("/proc/self/exe", &self) == 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	       (st.st_uid == 0 || st.st_uid == self.st_uid) &&
	       (st.st_mode & WRITERS & ~self.st_mode) == 0 &&
	       (!(st.st_mode & S_IWGRP) || st.st_gid == self.st_gid);
}

int tls_program_open(void)
{
	char path[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path));
	int err = len < 0 ? -errno : -ENOENT;

	while (len > 0 && path[len - 1] != '/')
		len--;
	for (size_t i = 0; i < ARRAY_SIZE(places) && len > 0; i++) {
		_cleanup_close_ int fd = -1;

		if ((size_t)len + strlen(places[i]) >= sizeof(path))
			return -ENAMETOOLONG;
		strcpy(path + len, places[i]);
		fd = open(path, O_PATH | O_CLOEXEC);
		if (fd >= 0)
			return is_trusted(fd) ? TAKE_FD(fd) : -EPERM;
		err = -errno;
		if (err != -ENOENT && err != -ENOTDIR)
			return err;
	}
	return err;
}

const char *tls_program_fault(int err)
{
	switch (err) {
	case -ENOENT:
	case -ENOTDIR:
		return NAME " is not there, which is installed with acme-steer";
	case -EPERM:
		return NAME " is there, but others may write it";
	default:
		return strerror(-err);
	}
}

const char *tls_program_remedy(int err)
{
	return err == -ENOENT || err == -ENOTDIR || err == -EPERM ? "install it again" : NULL;
}

static int become(const char *verb, char **argv)
{
	_cleanup_close_ int program = tls_program_open();
	_cleanup_free_ char **words = NULL;
	const char *remedy;
	size_t n = 0;
	int err = program;

	while (argv[n])
		n++;
	words = calloc(n + 2, sizeof(*words));
	if (words && program >= 0) {
		words[0] = (char *)NAME;
		memcpy(words + 1, argv, n * sizeof(*words));
		syscall(SYS_execveat, program, "", words, environ, AT_EMPTY_PATH);
		err = -errno;
	}
	remedy = words ? tls_program_remedy(err) : NULL;
	log_error("%s: %s%s%s", verb, words ? tls_program_fault(err) : "out of memory",
		  remedy ? "; " : "", remedy ? remedy : "");
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
