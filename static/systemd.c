// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * `make static` only: the part of libsystemd that is used, since Debian has no libsystemd.a. The protocols are those
 * of sd_notify(3), sd_watchdog_enabled(3) and, for sd_journal_sendv(3), systemd's JOURNAL_NATIVE_PROTOCOL.
 */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>

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

/*
 * An entry is one datagram: lines "NAME=value"; of a value with a newline, the name alone, the
 * value's length as a little-endian 64-bit number, and the value.
 */
int sd_journal_sendv(const struct iovec *iov, int n)
{
	static const struct sockaddr_un journal = { .sun_family = AF_UNIX,
						    .sun_path = "/run/systemd/journal/socket" };
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *entry = NULL;
	size_t size = 0;
	char *at;

	for (int i = 0; i < n; i++)
		size += iov[i].iov_len + 2 + sizeof(uint64_t);
	at = entry = malloc(size);
	if (!entry)
		return -ENOMEM;
	for (int i = 0; i < n; i++) {
		const char *field = iov[i].iov_base;
		size_t len = iov[i].iov_len;
		const char *equals = memchr(field, '=', len);

		if (!equals)
			return -EINVAL;
		if (memchr(field, '\n', len)) {
			uint64_t value_len = htole64(len - (size_t)(equals + 1 - field));

			at = mempcpy(at, field, (size_t)(equals - field));
			*at++ = '\n';
			at = mempcpy(at, &value_len, sizeof(value_len));
			at = mempcpy(at, equals + 1, len - (size_t)(equals + 1 - field));
		} else {
			at = mempcpy(at, field, len);
		}
		*at++ = '\n';
	}
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (sendto(fd, entry, (size_t)(at - entry), MSG_NOSIGNAL, (const struct sockaddr *)&journal,
		   sizeof(journal)) < 0)
		return -errno;
	return 0;
}
