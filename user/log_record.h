/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One entry of the log, and how it is written for programs. Pure: no I/O, no allocation. */
#ifndef LOG_RECORD_H
#define LOG_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG, LOG_LEVELS };
extern const char *const log_level_names[LOG_LEVELS];

/* What an entry has beside its message: the name in JSON, and behind ACME_STEER_ in the journal. */
/* clang-format off */
#define LOG_FIELDS(X)                                             \
	X(EVENT, "event", "EVENT", false) /* what kind of entry */ \
	X(WINDOW, "window", "WINDOW", false)                       \
	X(NAME, "name", "NAME", false) /* of SNI */                \
	X(PEER, "peer", "PEER", false)                             \
	X(LOCAL, "local", "LOCAL", false)                          \
	X(RESPONDER, "responder", "RESPONDER", false)              \
	X(WEB_SERVER, "web_server", "WEB_SERVER", false)           \
	X(PLANE, "plane", "PLANE", false)                          \
	X(REASON, "reason", "REASON", false)                       \
	X(SECONDS, "seconds", "SECONDS", true)                     \
	X(CONNECTIONS, "connections", "CONNECTIONS", true)         \
	X(HANDED_OFF, "handed_off", "HANDED_OFF", true)            \
	X(RELAYED, "relayed", "RELAYED", true)                     \
	X(TIMED_OUT, "timed_out", "TIMED_OUT", true)               \
	X(PASSED_BY, "passed_by", "PASSED_BY", true)               \
	X(READ_IN_PASSING, "read_in_passing", "READ_IN_PASSING", true) \
	X(CHALLENGES, "challenges", "CHALLENGES", true)
/* clang-format on */

#define LOG_FIELD_ENUM(id, json, journal, number) LOG_FIELD_##id,
enum log_field { LOG_FIELDS(LOG_FIELD_ENUM) LOG_FIELD_COUNT };

/* NULL: the entry has none. Not owned. A value may be any bytes, peers choose some. */
struct log_fields {
	const char *value[LOG_FIELD_COUNT];
};

struct log_record {
	enum log_level level;
	uint64_t time_us;		 /* CLOCK_REALTIME */
	const char *message;		 /* clean: log_clean() */
	const struct log_fields *fields; /* NULL: none */
};

/*
 * Makes @text one that a terminal shows as it is: every control character, every byte that is not
 * UTF-8, and what turns the order of text around becomes '?'. In place; it gets no longer.
 */
void log_clean(char *text);

/* The longest line of log_json(), its newline and NUL included. */
#define LOG_JSON_MAX 12288

/*
 * Writes one JSON object and a newline to @buf; returns its length. Values lose nothing but bytes
 * that are not UTF-8, which become U+FFFD; one that is too long for the line is cut.
 */
size_t log_json(const struct log_record *record, char buf[LOG_JSON_MAX]);

/* MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, and the fields. */
#define LOG_JOURNAL_MAX	    (3 + LOG_FIELD_COUNT)
#define LOG_JOURNAL_SCRATCH 8192

/*
 * The entry as sd_journal_sendv(3) wants it, in @scratch; returns how many of @ret_iov are used.
 * Values are passed on byte by byte; the longest are cut.
 */
size_t log_journal(const struct log_record *record, char scratch[LOG_JOURNAL_SCRATCH],
		   struct iovec ret_iov[LOG_JOURNAL_MAX]);

/*
 * Does @journal_stream, the value of $JOURNAL_STREAM ("device:inode", NULL: not set), name the file
 * with these numbers? Then that is a stream to the journal (systemd.exec(5)).
 */
bool log_is_journal(const char *journal_stream, uint64_t device, uint64_t inode);

#endif
