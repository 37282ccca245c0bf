// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * `make static` only: the part of libsystemd that is used, since Debian has no libsystemd.a. The protocol is that of
 * sd_notify(3) and sd_watchdog_enabled(3).
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "util.h"

int sd_notify(int unset_environment, const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;
	size_t len;

	if (!path)
		return 0;
	len = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, len);
	if (path[0] == '@') /* an abstract name */
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&address,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		return -errno;
	if (unset_environment)
		unsetenv("NOTIFY_SOCKET");
	return 1;
}

int sd_watchdog_enabled(int unset_environment, uint64_t *usec)
{
	const char *time = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	unsigned long long value;
	char *end;

	if (!time || (pid && strtol(pid, NULL, 10) != (long)getpid()))
		return 0;
	errno = 0;
	value = strtoull(time, &end, 10);
	if (errno || *end || value == 0)
		return -EINVAL;
	*usec = value;
	return 1;
}
