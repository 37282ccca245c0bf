/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: log_record.c
/* Log entries for programs: whatever a peer puts into a name, a line is one JSON object, and a
 * field is one field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log_record.h"
#include "util.h"

#define TIME_US UINT64_C(1795457877012345) /* 2026-11-23T18:17:57.012345Z */

static const char *clean(const char *text)
{
	static char buf[256];

	snprintf(buf, sizeof(buf), "%s", text);
	log_clean(buf);
	return buf;
}

static void test_clean(void **state)
{
	assert_string_equal(clean(""), "");
	assert_string_equal(clean("plain, \"quoted\" \\ text"), "plain, \"quoted\" \\ text");
	assert_string_equal(clean("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"),
			    "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
	/* A second line, a terminal's commands in 7 and in 8 bits, and as UTF-8. */
	assert_string_equal(clean("a\nb\r\x1b[2Jc\x7f"), "a?b??[2Jc?");
	assert_string_equal(clean("\x9b\x32Jx\xc2\x9bJ"), "?2Jx?J");
	/* No UTF-8: cut short, too long a form, surrogates, beyond the last character. */
	assert_string_equal(clean("\xc3"), "?");
	assert_string_equal(clean("\xe2\x82"), "??");
	assert_string_equal(clean("\xc0\xaf\xe0\x80\xaf"), "?????");
	assert_string_equal(clean("\xed\xa0\x80"), "???");
	assert_string_equal(clean("\xf4\x90\x80\x80\xff"), "?????");
	/* Text that runs the other way, an invisible separator of lines. */
	assert_string_equal(clean("a\xe2\x80\xae"
				  "b\xe2\x80\xa8"
				  "c\xe2\x81\xa6"
				  "d"),
			    "a?b?c?d");
}

/* The line as a JSON parser that minds UTF-8 reads it; the caller puts it. */
static struct json_object *read_json(const char *line, size_t len)
{
	struct json_tokener *tokener = json_tokener_new();
	struct json_object *object;

	assert_int_equal(strlen(line), len);
	assert_true(len < LOG_JSON_MAX);
	assert_int_equal(line[len - 1], '\n');
	assert_null(memchr(line, '\n', len - 1));
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	object = json_tokener_parse_ex(tokener, line, (int)len - 1);
	assert_int_equal(json_tokener_get_error(tokener), json_tokener_success);
	assert_true(json_object_is_type(object, json_type_object));
	json_tokener_free(tokener);
	return object;
}

static const char *get(struct json_object *object, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(object, key, &value) ? json_object_get_string(value)
							      : NULL;
}

static struct json_object *make(const struct log_record *record)
{
	static char line[LOG_JSON_MAX];

	return read_json(line, log_json(record, line));
}

static void test_json(void **state)
{
	const struct log_fields fields = { {
		[LOG_FIELD_EVENT] = "closed",
		[LOG_FIELD_NAME] = "www.example.org",
		[LOG_FIELD_SECONDS] = "12.3",
		[LOG_FIELD_RELAYED] = "7",
	} };
	const struct log_record record = { LOG_LEVEL_WARN, TIME_US, "a \"word\"", &fields };
	struct json_object *object = make(&record), *seconds, *relayed;

	assert_string_equal(get(object, "time"), "2026-11-23T18:17:57.012345Z");
	assert_string_equal(get(object, "level"), "warning");
	assert_string_equal(get(object, "message"), "a \"word\"");
	assert_string_equal(get(object, "event"), "closed");
	assert_string_equal(get(object, "name"), "www.example.org");
	assert_true(json_object_object_get_ex(object, "seconds", &seconds));
	assert_true(json_object_is_type(seconds, json_type_double));
	assert_true(json_object_object_get_ex(object, "relayed", &relayed));
	assert_int_equal(json_object_get_int(relayed), 7);
	assert_int_equal(json_object_object_length(object), 7);
	json_object_put(object);
}

static void test_json_without_fields(void **state)
{
	const struct log_record record = { LOG_LEVEL_ERROR, 0, "", NULL };
	struct json_object *object = make(&record);

	assert_string_equal(get(object, "time"), "1970-01-01T00:00:00.000000Z");
	assert_string_equal(get(object, "level"), "error");
	assert_int_equal(json_object_object_length(object), 3);
	json_object_put(object);
}

/* Every byte a name can have, each alone and next to others. */
static void test_json_hostile(void **state)
{
	for (unsigned first = 1; first < 256; first++) {
		for (unsigned second = 1; second < 256; second++) {
			const char name[] = { 'a', (char)first, (char)second, 'z', '\0' };
			const struct log_fields fields = { { [LOG_FIELD_NAME] = name } };
			const struct log_record record = { LOG_LEVEL_INFO, TIME_US, "m", &fields };
			struct json_object *object = make(&record);

			/* What is UTF-8 has lost nothing. */
			if (first < 0x80 && second < 0x80)
				assert_string_equal(get(object, "name"), name);
			assert_string_equal(get(object, "message"), "m");
			json_object_put(object);
		}
	}
}

/* The longest values that there can be, each character at its longest. */
static void test_json_long(void **state)
{
	struct log_fields fields = {};
	char name[4096], message[1024];
	struct log_record record = { LOG_LEVEL_INFO, TIME_US, message, &fields };
	struct json_object *object;

	memset(name, 1, sizeof(name) - 1);
	memset(message, '"', sizeof(message) - 1);
	name[sizeof(name) - 1] = message[sizeof(message) - 1] = '\0';
	fields.value[LOG_FIELD_NAME] = name;
	for (size_t len = 0; len < sizeof(name); len++) {
		name[sizeof(name) - 1 - len] = '\0';
		object = make(&record);
		assert_non_null(get(object, "name"));
		json_object_put(object);
		name[sizeof(name) - 1 - len] = 1;
	}
}

static void assert_field(const struct iovec *iov, const char *text)
{
	assert_int_equal(iov->iov_len, strlen(text));
	assert_memory_equal(iov->iov_base, text, iov->iov_len);
}

static void test_journal(void **state)
{
	const struct log_fields fields = { {
		[LOG_FIELD_EVENT] = "challenge",
		[LOG_FIELD_NAME] = "evil\nACME_STEER_PEER=192.0.2.1\xff",
		[LOG_FIELD_PEER] = "198.51.100.16:4711",
		[LOG_FIELD_RESPONDER] = "127.0.0.1:31443",
		[LOG_FIELD_PLANE] = "handoff",
	} };
	const struct log_record record = { LOG_LEVEL_WARN, TIME_US, "a message", &fields };
	char scratch[LOG_JOURNAL_SCRATCH];
	struct iovec iov[LOG_JOURNAL_MAX];

	assert_int_equal(log_journal(&record, scratch, iov), 8);
	assert_field(&iov[0], "MESSAGE=a message");
	assert_field(&iov[1], "PRIORITY=4");
	assert_field(&iov[2], "SYSLOG_IDENTIFIER=acme-steer");
	assert_field(&iov[3], "ACME_STEER_EVENT=challenge");
	/* One field, whatever is in it: sd_journal_sendv(3) sends its length along. */
	assert_field(&iov[4], "ACME_STEER_NAME=evil\nACME_STEER_PEER=192.0.2.1\xff");
	assert_field(&iov[5], "ACME_STEER_PEER=198.51.100.16:4711");
	assert_field(&iov[6], "ACME_STEER_RESPONDER=127.0.0.1:31443");
	assert_field(&iov[7], "ACME_STEER_PLANE=handoff");
}

static void test_journal_long(void **state)
{
	struct log_fields fields = {};
	static char value[2 * LOG_JOURNAL_SCRATCH];
	const struct log_record record = { LOG_LEVEL_ERROR, TIME_US, "m", &fields };
	char scratch[LOG_JOURNAL_SCRATCH];
	struct iovec iov[LOG_JOURNAL_MAX];
	size_t n, bytes = 0;

	memset(value, 'x', sizeof(value) - 1);
	for (int i = 0; i < LOG_FIELD_COUNT; i++)
		fields.value[i] = value;
	n = log_journal(&record, scratch, iov);
	assert_in_range(n, 4, LOG_JOURNAL_MAX);
	for (size_t i = 0; i < n; i++) {
		assert_non_null(memchr(iov[i].iov_base, '=', iov[i].iov_len));
		bytes += iov[i].iov_len;
	}
	assert_true(bytes <= LOG_JOURNAL_SCRATCH);
}

static void test_is_journal(void **state)
{
	assert_true(log_is_journal("8:1234", 8, 1234));
	assert_false(log_is_journal("8:1234", 8, 123));
	assert_false(log_is_journal("8:1234", 9, 1234));
	assert_false(log_is_journal("8:12345", 8, 1234));
	assert_false(log_is_journal("", 0, 0));
	assert_false(log_is_journal("8", 8, 0));
	assert_false(log_is_journal(NULL, 0, 0));
	assert_true(log_is_journal("18446744073709551615:18446744073709551615", UINT64_MAX,
				   UINT64_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_json_without_fields),
		cmocka_unit_test(test_json_hostile),
		cmocka_unit_test(test_json_long),
		cmocka_unit_test(test_journal),
		cmocka_unit_test(test_journal_long),
		cmocka_unit_test(test_is_journal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
