/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Log lines: to stderr on a terminal or for a parent that waits, to syslog(3) once resident. */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Lines above @level are not printed. Default LOG_LEVEL_INFO. Set before threads start. */
void log_set_level(enum log_level level);

/* From now on lines go to syslog(3) and no longer to stderr. Set before threads start. */
void log_to_syslog(void);

/* One line, no newline at its end; "acme-steer: " is put in front on stderr. Thread-safe. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* True at most @burst times in any @interval_ns, for what a peer can provoke. Not thread-safe. */
struct log_limit {
	unsigned long long began_ns;
	unsigned count;
};
bool log_limit_ok(struct log_limit *limit, unsigned burst, unsigned long long interval_ns,
		  unsigned long long now_ns);

#endif
