// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The log. On stderr one write(2) each, so that lines of several threads and processes never mix.
 */
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "lazy.h"
#include "util.h"

#define LOG_PREFIX     "acme-steer: "
#define LOG_LINE_MAX   1024 /* bytes of one line; what is longer is cut and ends in "..." */
#define JOURNAL_SOCKET "/run/systemd/journal/socket" /* where sd_journal_sendv() sends to */

const char *const log_format_names[] = { "auto", "plain", "json", "journal" };
static_assert(ARRAY_SIZE(log_format_names) == LOG_FORMAT_COUNT, "a name for each format");

static enum log_level log_max_level = LOG_LEVEL_INFO;
static enum log_format log_format = LOG_FORMAT_PLAIN; /* never auto */
static bool log_syslog;				      /* instead of stderr */

/* Errors and warnings, a ring. */
static pthread_mutex_t recent_lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_recent recent[LOG_RECENT_MAX];
static uint64_t n_recent;
static uint64_t counts[LOG_LEVELS]; /* __atomic */

static const int syslog_priorities[] = {
	[LOG_LEVEL_ERROR] = LOG_ERR,
	[LOG_LEVEL_WARN] = LOG_WARNING,
	[LOG_LEVEL_INFO] = LOG_INFO,
	[LOG_LEVEL_DEBUG] = LOG_DEBUG,
};
static_assert(ARRAY_SIZE(syslog_priorities) == LOG_LEVELS, "a priority for each level");

int log_format_parse(const char *text, enum log_format *ret_format)
{
	for (int i = 0; i < LOG_FORMAT_COUNT; i++) {
		if (strcmp(text, log_format_names[i]) != 0)
			continue;
		*ret_format = (enum log_format)i;
		return 0;
	}
	return -EINVAL;
}

void log_set_level(enum log_level level)
{
	log_max_level = level;
}

static bool stderr_is_journal(void)
{
	struct stat st;

	return fstat(STDERR_FILENO, &st) == 0 &&
	       log_is_journal(getenv("JOURNAL_STREAM"), st.st_dev, st.st_ino);
}

int log_set_format(enum log_format format)
{
	if (format == LOG_FORMAT_JOURNAL && access(JOURNAL_SOCKET, F_OK) < 0)
		return -ENOENT;
	if (format == LOG_FORMAT_AUTO)
		format = stderr_is_journal() ? LOG_FORMAT_JOURNAL : LOG_FORMAT_PLAIN;
	log_format = format;
	return 0;
}

void log_to_daemon(enum log_format format)
{
	if (format == LOG_FORMAT_AUTO)
		format = access(JOURNAL_SOCKET, F_OK) == 0 ? LOG_FORMAT_JOURNAL : LOG_FORMAT_PLAIN;
	openlog("acme-steer", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	log_syslog = true;
	log_format = format;
}

static void remember(enum log_level level, const char *message)
{
	struct log_recent *entry;

	__atomic_fetch_add(&counts[level], 1, __ATOMIC_RELAXED);
	if (level > LOG_LEVEL_WARN)
		return;
	pthread_mutex_lock(&recent_lock);
	entry = &recent[n_recent++ % LOG_RECENT_MAX];
	entry->level = level;
	entry->at_ns = now_ns();
	snprintf(entry->text, sizeof(entry->text), "%.*s", LOG_RECENT_TEXT - 1, message);
	/* It may have been cut in the middle of a character. */
	log_clean(entry->text);
	pthread_mutex_unlock(&recent_lock);
}

unsigned log_recent(struct log_recent ret_recent[LOG_RECENT_MAX])
{
	unsigned n;

	pthread_mutex_lock(&recent_lock);
	n = (unsigned)MIN(n_recent, (uint64_t)LOG_RECENT_MAX);
	for (unsigned i = 0; i < n; i++)
		ret_recent[i] = recent[(n_recent - 1 - i) % LOG_RECENT_MAX];
	pthread_mutex_unlock(&recent_lock);
	return n;
}

uint64_t log_count(enum log_level level)
{
	return __atomic_load_n(&counts[level], __ATOMIC_RELAXED);
}

static void write_out(enum log_level level, const char *line, size_t len)
{
	if (log_syslog) {
		syslog(syslog_priorities[level], "%.*s", (int)len - 1, line);
		return;
	}
	/* A log that can't be written has nobody to be reported to. */
	if (write(STDERR_FILENO, line, len) < 0)
		errno = 0;
}

/* True when journald has it. */
static bool to_journal(const struct log_record *record)
{
	struct iovec iov[LOG_JOURNAL_MAX];
	char scratch[LOG_JOURNAL_SCRATCH];
	size_t n = log_journal(record, scratch, iov);

	return lazy_sd_journal_sendv(iov, (int)n) >= 0;
}

static void to_json(const struct log_record *record)
{
	char line[LOG_JSON_MAX];
	size_t len = log_json(record, line);

	write_out(record->level, line, len);
}

static void to_text(const struct log_record *record)
{
	char line[sizeof(LOG_PREFIX) + LOG_LINE_MAX];
	int n = snprintf(line, sizeof(line), "%s%s\n", log_syslog ? "" : LOG_PREFIX,
			 record->message);

	write_out(record->level, line, (size_t)n);
}

static void log_va(enum log_level level, const struct log_fields *fields, const char *fmt,
		   va_list ap)
{
	char message[LOG_LINE_MAX - sizeof(LOG_PREFIX)];
	struct log_record record = { .level = level, .message = message, .fields = fields };
	int saved_errno = errno;
	struct timespec ts;
	int n;

	if (level > log_max_level)
		return;
	n = vsnprintf(message, sizeof(message), fmt, ap);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(message))
		memcpy(message + sizeof(message) - 4, "...", 4);
	/* Parts of a line come from peers and arguments: no second line, no terminal commands. */
	log_clean(message);
	clock_gettime(CLOCK_REALTIME, &ts);
	record.time_us = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / NSEC_PER_USEC;
	remember(level, message);
	if (log_format == LOG_FORMAT_JSON)
		to_json(&record);
	else if (log_format != LOG_FORMAT_JOURNAL || !to_journal(&record))
		to_text(&record);
	errno = saved_errno;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_va(level, NULL, fmt, ap);
	va_end(ap);
}

void log_event(enum log_level level, const struct log_fields *fields, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_va(level, fields, fmt, ap);
	va_end(ap);
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
