/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The log: to stderr as plain lines or JSON, to the journal with fields, to syslog(3) once resident
 * without a journal.
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>

#include "log_record.h"

enum log_format {
	LOG_FORMAT_AUTO,    /* the journal, if stderr leads there; else plain */
	LOG_FORMAT_PLAIN,   /* lines that begin with "acme-steer: " */
	LOG_FORMAT_JSON,    /* a JSON object each */
	LOG_FORMAT_JOURNAL, /* journald's own protocol */
	LOG_FORMAT_COUNT
};
extern const char *const log_format_names[LOG_FORMAT_COUNT];

/* By its name. 0 or -EINVAL. */
int log_format_parse(const char *text, enum log_format *ret_format);

/* Lines above @level are not printed. Default LOG_LEVEL_INFO. Set before threads start. */
void log_set_level(enum log_level level);

/*
 * How lines are written from now on; plain before. Set before threads start. 0; -ENOENT for
 * LOG_FORMAT_JOURNAL where no journald listens: nothing has changed then.
 */
int log_set_format(enum log_format format);

/*
 * stderr leads nowhere any more: from now on lines go to the journal (LOG_FORMAT_JOURNAL, and
 * LOG_FORMAT_AUTO where there is one), else to syslog(3). Set before threads start.
 */
void log_to_daemon(enum log_format format);

/* One line, no newline at its end; "acme-steer: " is put in front on stderr. Thread-safe. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same with fields, which JSON and the journal show. */
void log_event(enum log_level level, const struct log_fields *fields, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* The latest errors and warnings of this process. */
#define LOG_RECENT_MAX	8
#define LOG_RECENT_TEXT 320

struct log_recent {
	enum log_level level;
	uint64_t at_ns; /* CLOCK_MONOTONIC */
	char text[LOG_RECENT_TEXT];
};

/* Newest first; returns how many. Thread-safe. */
unsigned log_recent(struct log_recent ret_recent[LOG_RECENT_MAX]);

/* Lines of this @level so far. */
uint64_t log_count(enum log_level level);

/* True at most @burst times in any @interval_ns, for what a peer can provoke. Not thread-safe. */
struct log_limit {
	unsigned long long began_ns;
	unsigned count;
};
bool log_limit_ok(struct log_limit *limit, unsigned burst, unsigned long long interval_ns,
		  unsigned long long now_ns);

#endif
