/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Log lines, one write(2) each, so that lines of several threads and processes never mix. */
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "util.h"

#define LOG_PREFIX   "acme-steer: "
#define LOG_LINE_MAX 1024 /* bytes of one line; what is longer is cut and ends in "..." */

static enum log_level log_max_level = LOG_LEVEL_INFO;
static bool log_syslog;

static const int syslog_priorities[] = {
	[LOG_LEVEL_ERROR] = LOG_ERR,
	[LOG_LEVEL_WARN] = LOG_WARNING,
	[LOG_LEVEL_INFO] = LOG_INFO,
	[LOG_LEVEL_DEBUG] = LOG_DEBUG,
};
static_assert(ARRAY_SIZE(syslog_priorities) == LOG_LEVEL_DEBUG + 1, "a priority for each level");

void log_set_level(enum log_level level)
{
	log_max_level = level;
}

void log_to_syslog(void)
{
	openlog("acme-steer", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	log_syslog = true;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	int saved_errno = errno;
	char line[LOG_LINE_MAX] = LOG_PREFIX;
	const size_t start = sizeof(LOG_PREFIX) - 1;
	const size_t room = sizeof(line) - start - 1; /* the newline replaces the NUL */
	size_t len;
	va_list ap;
	int n;

	if (level > log_max_level)
		return;

	va_start(ap, fmt);
	n = vsnprintf(line + start, room, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	len = (size_t)n;
	if (len >= room) {
		len = room - 1;
		memcpy(line + start + len - 3, "...", 3);
	}

	/* Parts of a line come from peers and arguments: no second line, no terminal commands. */
	for (size_t i = start; i < start + len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';

	if (log_syslog) {
		syslog(syslog_priorities[level], "%s", line + start);
	} else {
		line[start + len] = '\n';
		/* A log that can't be written has nobody to be reported to. */
		if (write(STDERR_FILENO, line, start + len + 1) < 0)
			errno = 0;
	}
	errno = saved_errno;
}

bool log_limit_ok(struct log_limit *limit, unsigned burst, unsigned long long interval_ns,
		  unsigned long long now_ns)
{
	if (limit->count == 0 || now_ns - limit->began_ns >= interval_ns) {
		limit->began_ns = now_ns;
		limit->count = 0;
	}
	if (limit->count >= burst)
		return false;
	limit->count++;
	return true;
}
