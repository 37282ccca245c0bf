// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One entry of the log, and how it is written for programs. */
#include "log_record.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "util.h"

const char *const log_level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warning",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};
static_assert(ARRAY_SIZE(log_level_names) == LOG_LEVELS, "a name for each level");

static const char priorities[][2] = {
	[LOG_LEVEL_ERROR] = { '0' + LOG_ERR },
	[LOG_LEVEL_WARN] = { '0' + LOG_WARNING },
	[LOG_LEVEL_INFO] = { '0' + LOG_INFO },
	[LOG_LEVEL_DEBUG] = { '0' + LOG_DEBUG },
};
static_assert(ARRAY_SIZE(priorities) == LOG_LEVELS, "a priority for each level");

static const struct {
	const char *json, *journal;
	bool number;
} fields[] = {
#define FIELD(id, json, journal, number) { json, journal, number },
	LOG_FIELDS(FIELD)
#undef FIELD
};
static_assert(ARRAY_SIZE(fields) == LOG_FIELD_COUNT, "names for each field");

#define NOT_UTF8 UINT32_MAX

/* The character at *@p, which moves behind it; NOT_UTF8, and a byte further. Not at the NUL. */
static uint32_t next_character(const char **p)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const unsigned char *s = (const unsigned char *)*p;
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	uint32_t c = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));

	++*p;
	if ((s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4)
		return NOT_UTF8;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return NOT_UTF8;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return NOT_UTF8;
	*p += n - 1;
	return c;
}

/* C0 and C1 controls, line separators, and what overrides the direction of text. */
static bool is_control(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

void log_clean(char *text)
{
	const char *p = text;
	char *to = text;

	while (*p) {
		const char *from = p;
		uint32_t c = next_character(&p);

		if (c == NOT_UTF8 || is_control(c)) {
			*to++ = '?';
		} else {
			memmove(to, from, (size_t)(p - from));
			to += p - from;
		}
	}
	*to = '\0';
}

/* What has been written of a line. @size leaves room for its end. */
struct line {
	char *buf;
	size_t len, size;
};

/* True when it has been written; else nothing of it has. */
static bool __attribute__((format(printf, 2, 3))) add(struct line *line, const char *fmt, ...)
{
	size_t room = line->size - line->len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line->buf + line->len, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room) {
		line->buf[line->len] = '\0';
		return false;
	}
	line->len += (size_t)n;
	return true;
}

static bool add_character(struct line *line, uint32_t c, const char *text, size_t len)
{
	if (c == NOT_UTF8)
		return add(line, "\\ufffd");
	if (c == '"' || c == '\\')
		return add(line, "\\%c", (int)c);
	if (is_control(c)) /* none is beyond U+FFFF */
		return add(line, "\\u%04x", c);
	return add(line, "%.*s", (int)len, text);
}

static void add_member(struct line *line, const char *name, const char *value, bool number)
{
	const char *p = value;

	if (number) {
		add(line, ",\"%s\":%s", name, value);
		return;
	}
	/* Its closing quote has room for sure. */
	line->size--;
	if (add(line, ",\"%s\":\"", name)) {
		while (*p) {
			const char *from = p;
			uint32_t c = next_character(&p);

			if (!add_character(line, c, from, (size_t)(p - from)))
				break;
		}
		line->buf[line->len++] = '"';
	}
	line->size++;
}

size_t log_json(const struct log_record *record, char buf[LOG_JSON_MAX])
{
	struct line line = { .buf = buf, .size = LOG_JSON_MAX - sizeof("}\n") };
	time_t seconds = (time_t)(record->time_us / 1000000);
	char time[32] = "";
	struct tm tm;

	if (gmtime_r(&seconds, &tm))
		strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%S", &tm);
	add(&line, "{\"time\":\"%s.%06uZ\"", time, (unsigned)(record->time_us % 1000000));
	add_member(&line, "level", log_level_names[record->level], false);
	/* First: the message, which repeats most of them, may be long. */
	for (int i = 0; record->fields && i < LOG_FIELD_COUNT; i++)
		if (record->fields->value[i])
			add_member(&line, fields[i].json, record->fields->value[i],
				   fields[i].number);
	add_member(&line, "message", record->message, false);
	memcpy(buf + line.len, "}\n", sizeof("}\n"));
	return line.len + 2;
}

static void add_field(struct line *scratch, struct iovec *ret_iov, size_t *n, const char *prefix,
		      const char *name, const char *value)
{
	char *start = scratch->buf + scratch->len;
	size_t head, len;

	if (!add(scratch, "%s%s=", prefix, name))
		return;
	head = (size_t)(scratch->buf + scratch->len - start);
	len = MIN(strlen(value), scratch->size - scratch->len);
	memcpy(start + head, value, len);
	scratch->len += len;
	ret_iov[(*n)++] = (struct iovec){ start, head + len };
}

size_t log_journal(const struct log_record *record, char scratch[LOG_JOURNAL_SCRATCH],
		   struct iovec ret_iov[LOG_JOURNAL_MAX])
{
	struct line line = { .buf = scratch, .size = LOG_JOURNAL_SCRATCH };
	size_t n = 0;

	add_field(&line, ret_iov, &n, "", "MESSAGE", record->message);
	add_field(&line, ret_iov, &n, "", "PRIORITY", priorities[record->level]);
	add_field(&line, ret_iov, &n, "", "SYSLOG_IDENTIFIER", "acme-steer");
	for (int i = 0; record->fields && i < LOG_FIELD_COUNT; i++)
		if (record->fields->value[i])
			add_field(&line, ret_iov, &n, "ACME_STEER_", fields[i].journal,
				  record->fields->value[i]);
	return n;
}

bool log_is_journal(const char *journal_stream, uint64_t device, uint64_t inode)
{
	char text[48];

	snprintf(text, sizeof(text), "%llu:%llu", (unsigned long long)device,
		 (unsigned long long)inode);
	return journal_stream && strcmp(journal_stream, text) == 0;
}
