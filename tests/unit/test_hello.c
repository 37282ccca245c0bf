// uses: hello.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * hello_parse() on streams made here, good and bad, at every cut: framing, bodies, extensions and
 * the limits. Each answer is also compared with the second reader's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "hello.h"
#include "hello_check.h"
#include "util.h"

static void put_message(struct stream *s, const struct stream *body)
{
	put_hex(s, "01");
	put_number(s, body->len, 3);
	put(s, body->data, body->len);
}

/* Version to compression methods: what comes before the extensions. */
#define BODY_START "0303 'a random of thirty-two bytes    ' 00 0002 1301 01 00"

static void put_body(struct stream *s, const char *extensions)
{
	struct stream list = { 0 };

	put_hex(&list, extensions);
	put_hex(s, BODY_START);
	put_number(s, list.len, 2);
	put(s, list.data, list.len);
}

static void check_stream(const struct stream *s, enum hello_answer expect,
			 const struct hello *hello)
{
	check_every_cut(s, expect, hello);
	check_by_need(s, expect);
	check_same_as_slow(s);
}

static void check_message(const struct stream *message, enum hello_answer expect,
			  const struct hello *hello)
{
	static struct stream s;

	for (size_t size = 1; size <= message->len; size = size < 8 ? size + 1 : size * 3) {
		s.len = 0;
		put_records(&s, message, size);
		check_stream(&s, expect, hello);
	}
	s.len = 0;
	put_record(&s, message->data, message->len);
	check_stream(&s, expect, hello);
}

#define SNI_A	 "0000 0006 0004 00 0001 'a'"
#define ALPN_A	 "0010 000d 000b 0a 'acme-tls/1'"
#define L63_TEXT "012345678901234567890123456789012345678901234567890123456789012"
#define L63	 "'" L63_TEXT "'"
#define L64	 "'" L63_TEXT "3'"

enum alpn { NO_ALPN, OTHER, ACME };

static const struct good_extensions {
	const char *what;
	const char *extensions;
	const char *sni;
	enum alpn alpn;
} good_extensions[] = {
	/* clang-format off */
	{ "no extensions at all", "", "", NO_ALPN },
	{ "acme and SNI", SNI_A ALPN_A, "a", ACME },
	{ "ALPN before SNI", ALPN_A SNI_A, "a", ACME },
	{ "acme without SNI", ALPN_A, "", ACME },
	{ "SNI without ALPN", SNI_A, "a", NO_ALPN },
	{ "an unknown extension, empty", "fafa 0000" SNI_A "fafb 0000", "a", NO_ALPN },
	{ "others twice", "0015 0000 0015 0001 00" SNI_A, "a", NO_ALPN },
	{ "type 0x0100 is not SNI", "0100 0001 00 1000 0001 00", "", NO_ALPN },
	{ "SNI other type, then host name", "0000 000a 0008 07 0001 ff 00 0001 'b'", "b", NO_ALPN },
	{ "SNI host name, then other type", "0000 000a 0008 00 0001 'b' 07 0001 ff", "b", NO_ALPN },
	{ "SNI other type only", "0000 0006 0004 07 0001 ff", "", NO_ALPN },
	{ "name in upper case", "0000 000e 000c 00 0009 'AZ.az-_09'", "az.az-_09", NO_ALPN },
	{ "name with a dot at the end", "0000 0009 0007 00 0004 'a.B.'", "a.b", NO_ALPN },
	{ "name of an IPv4 address", "0000 000e 000c 00 0009 '127.0.0.1'", "127.0.0.1", NO_ALPN },
	{ "label of 63", "0000 0044 0042 00 003f" L63, L63_TEXT, NO_ALPN },
	{ "name of 255", "0000 0104 0102 00 00ff" L63 "'.'" L63 "'.'" L63 "'.'" L63, L63_TEXT "." L63_TEXT "." L63_TEXT "." L63_TEXT, NO_ALPN },
	{ "name of 255 and a dot", "0000 0105 0103 00 0100" L63 "'.'" L63 "'.'" L63 "'.'" L63 "'.'", L63_TEXT "." L63_TEXT "." L63_TEXT "." L63_TEXT, NO_ALPN },
	{ "ALPN of another", "0010 0005 0003 02 'h2'", "", OTHER },
	{ "acme and another", "0010 0010 000e 0a 'acme-tls/1' 02 'h2'", "", OTHER },
	{ "another and acme", "0010 0010 000e 02 'h2' 0a 'acme-tls/1'", "", OTHER },
	{ "acme twice in the list", "0010 0018 0016 0a 'acme-tls/1' 0a 'acme-tls/1'", "", OTHER },
	{ "acme in upper case", "0010 000d 000b 0a 'ACME-TLS/1'", "", OTHER },
	{ "acme-tls/2", "0010 000d 000b 0a 'acme-tls/2'", "", OTHER },
	{ "acme-tls/", "0010 000c 000a 09 'acme-tls/'", "", OTHER },
	{ "acme-tls/10", "0010 000e 000c 0b 'acme-tls/10'", "", OTHER },
	{ "acme-tls/1 and NUL", "0010 000e 000c 0b 'acme-tls/1' 00", "", OTHER },
	/* clang-format on */
};

static const struct bad_extensions {
	const char *what;
	const char *extensions;
} bad_extensions[] = {
	/* clang-format off */
	{ "extension type cut", "00" },
	{ "extension length cut", SNI_A "0015 00" },
	{ "extension longer than the list", SNI_A "0015 0001" },
	{ "SNI twice", SNI_A SNI_A },
	{ "SNI twice, names differ", SNI_A ALPN_A "0000 0006 0004 00 0001 'b'" },
	{ "SNI twice, one of another type", SNI_A "0000 0006 0004 01 0001 'b'" },
	{ "SNI twice, no host name in the first", "0000 0006 0004 01 0001 'b'" SNI_A },
	{ "ALPN twice", ALPN_A SNI_A ALPN_A },
	{ "ALPN twice, others", "0010 0005 0003 02 'h2'" SNI_A "0010 0005 0003 02 'h2'" },
	{ "SNI empty", "0000 0000" ALPN_A },
	{ "SNI list length cut", "0000 0001 00" },
	{ "SNI list empty", "0000 0002 0000" },
	{ "SNI list too long", "0000 0006 0005 00 0001 'a'" },
	{ "SNI list too short", "0000 0006 0003 00 0001 'a'" },
	{ "SNI list shorter than its extension", "0000 0007 0004 00 0001 'a' 00" },
	{ "SNI type alone", "0000 0003 0001 00" },
	{ "SNI name length cut", "0000 0004 0002 00 00" },
	{ "SNI name empty", "0000 0005 0003 00 0000" },
	{ "SNI name too long", "0000 0006 0004 00 0002 'a'" },
	{ "SNI name too long, into the next extension", "0000 0006 0004 00 000a 'a'" ALPN_A },
	{ "SNI host name twice", "0000 000a 0008 00 0001 'a' 00 0001 'b'" },
	{ "SNI other type, empty", "0000 0009 0007 00 0001 'b' 07 0000" },
	{ "SNI other type, cut", "0000 000a 0008 00 0001 'b' 07 0002 ff" },
	{ "name with two dots at the end", "0000 0008 0006 00 0003 'a..'" },
	{ "name of a dot", "0000 0006 0004 00 0001 '.'" },
	{ "name of two dots", "0000 0007 0005 00 0002 '..'" },
	{ "name with a dot before", "0000 0007 0005 00 0002 '.a'" },
	{ "name with an empty label", "0000 0009 0007 00 0004 'a..b'" },
	{ "name with NUL", "0000 0008 0006 00 0003 'a' 00 'b'" },
	{ "name with NUL at the end", "0000 0007 0005 00 0002 'a' 00" },
	{ "name of NUL", "0000 0006 0004 00 0001 00" },
	{ "name with a space", "0000 0008 0006 00 0003 'a b'" },
	{ "name with a slash", "0000 0008 0006 00 0003 'a/b'" },
	{ "name with a colon", "0000 0008 0006 00 0003 '::1'" },
	{ "name with a star", "0000 0008 0006 00 0003 '*.b'" },
	{ "name with a newline", "0000 0008 0006 00 0003 'a' 0a 'b'" },
	{ "name in UTF-8", "0000 0007 0005 00 0002 c3a4" },
	{ "the bytes about the ranges: @", "0000 0006 0004 00 0001 '@'" },
	{ "the bytes about the ranges: [", "0000 0006 0004 00 0001 '['" },
	{ "the bytes about the ranges: `", "0000 0006 0004 00 0001 '`'" },
	{ "the bytes about the ranges: {", "0000 0006 0004 00 0001 '{'" },
	{ "label of 64", "0000 0045 0043 00 0040" L64 },
	{ "name of 257", "0000 0106 0104 00 0101" L63 "'.'" L63 "'.'" L63 "'.'" L63 "'.a'" },
	{ "name of 256", "0000 0105 0103 00 0100 'a.b.'" L63 "'.'" L63 "'.'" L63 "'.012345678901234567890123456789012345678901234567890123456789'" },
	{ "ALPN empty", "0010 0000" },
	{ "ALPN list length cut", "0010 0001 00" },
	{ "ALPN list empty", "0010 0002 0000" },
	{ "ALPN list too long", "0010 000d 000c 0a 'acme-tls/1'" },
	{ "ALPN list too short", "0010 000d 000a 0a 'acme-tls/1'" },
	{ "ALPN list shorter than its extension", "0010 000e 000b 0a 'acme-tls/1' 00" },
	{ "ALPN name too long", "0010 000d 000b 0b 'acme-tls/1'" },
	{ "ALPN name empty", "0010 0003 0001 00" },
	{ "ALPN name empty after acme", "0010 000e 000c 0a 'acme-tls/1' 00" },
	{ "ALPN name empty before acme", "0010 000e 000c 00 0a 'acme-tls/1'" },
	{ "ALPN good, SNI bad", ALPN_A "0000 0006 0004 00 0001 00" },
	/* clang-format on */
};

static void check_extensions(const char *extensions, enum hello_answer expect,
			     const struct hello *hello)
{
	static struct stream body, message;

	body.len = message.len = 0;
	put_body(&body, extensions);
	put_message(&message, &body);
	check_message(&message, expect, hello);
}

static void extensions_good(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(good_extensions); i++) {
		const struct good_extensions *c = &good_extensions[i];
		struct hello hello = { .has_alpn = c->alpn != NO_ALPN,
				       .acme_tls = c->alpn == ACME };

		current_case = c->what;
		hello.sni_len = strlen(c->sni);
		strcpy(hello.sni, c->sni);
		check_extensions(c->extensions, HELLO_DONE, &hello);
	}
	current_case = NULL;
}

static void extensions_bad(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_extensions); i++) {
		current_case = bad_extensions[i].what;
		check_extensions(bad_extensions[i].extensions, HELLO_NOT, NULL);
	}
	current_case = NULL;
}

#define RANDOM "'a random of thirty-two bytes    '"

static const struct body_case {
	const char *what;
	const char *body;
	enum hello_answer expect;
} body_cases[] = {
	/* clang-format off */
	{ "shortest", "0303" RANDOM "00 0002 1301 01 00", HELLO_DONE },
	{ "SSL 3", "0300" RANDOM "00 0002 1301 01 00", HELLO_DONE },
	{ "version 3.255", "03ff" RANDOM "00 0002 1301 01 00", HELLO_DONE },
	{ "version 2", "0203" RANDOM "00 0002 1301 01 00", HELLO_NOT },
	{ "version 4", "0403" RANDOM "00 0002 1301 01 00", HELLO_NOT },
	{ "DTLS", "fefd" RANDOM "00 0002 1301 01 00", HELLO_NOT },
	{ "one byte less than can be", "0303" RANDOM "00 0002 1301 00", HELLO_NOT },
	{ "session id of 32", "0303" RANDOM "20" RANDOM "0002 1301 01 00", HELLO_DONE },
	{ "session id of 33", "0303" RANDOM "21" RANDOM "ff 0002 1301 01 00", HELLO_NOT },
	{ "session id to the end", "0303" RANDOM "06 0002 1301 01 00", HELLO_NOT },
	{ "session id beyond the end", "0303" RANDOM "07 0002 1301 01 00", HELLO_NOT },
	{ "no cipher suites", "0303" RANDOM "00 0000 01 00 0000 0000", HELLO_NOT },
	{ "cipher suites odd", "0303" RANDOM "00 0003 130113 01 00", HELLO_NOT },
	{ "cipher suites of one byte", "0303" RANDOM "00 0001 13 01 00 0000", HELLO_NOT },
	{ "cipher suites beyond the end", "0303" RANDOM "00 0006 1301 01 00", HELLO_NOT },
	{ "cipher suites to the end", "0303" RANDOM "00 0004 1301 01 00", HELLO_NOT },
	{ "no compression methods", "0303" RANDOM "00 0002 1301 00 0000", HELLO_NOT },
	{ "compression methods beyond the end", "0303" RANDOM "00 0002 1301 02 00", HELLO_NOT },
	{ "two compression methods", "0303" RANDOM "00 0002 1301 02 0100", HELLO_DONE },
	{ "extensions' length cut", "0303" RANDOM "00 0002 1301 01 00 00", HELLO_NOT },
	{ "extensions' length too long", "0303" RANDOM "00 0002 1301 01 00 0001", HELLO_NOT },
	{ "extensions' length too short", "0303" RANDOM "00 0002 1301 01 00 0000 00", HELLO_NOT },
	{ "bytes after a good list", "0303" RANDOM "00 0002 1301 01 00 0004 00150000 00150000", HELLO_NOT },
	/* clang-format on */
};

static void bodies_good_and_bad(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(body_cases); i++) {
		static struct stream body, message;
		struct hello hello = { 0 };

		current_case = body_cases[i].what;
		body.len = message.len = 0;
		put_hex(&body, body_cases[i].body);
		put_message(&message, &body);
		check_message(&message, body_cases[i].expect, &hello);
	}
	current_case = NULL;
}

/* Framing: the length at which HELLO_NOT is certain, or 0 where it stays HELLO_MORE. */
static const struct stream_case {
	const char *what;
	const char *stream;
	size_t certain_at;
} stream_cases[] = {
	/* clang-format off */
	{ "nothing", "", 0 },
	{ "HTTP", "'GET / HTTP/1.1'", 1 },
	{ "SSH", "'SSH-2.0-OpenSSH'", 1 },
	{ "PROXY protocol", "'PROXY TCP4 '", 1 },
	{ "NUL", "00", 1 },
	{ "SSLv2 hello", "80 2e 01 0301 0015 0000 0010", 1 },
	{ "SSLv2 hello, long header", "00 2e 00 01 0301", 1 },
	{ "alert", "15 0301 0002 0100", 1 },
	{ "application data", "17 0303 0001 00", 1 },
	{ "DTLS", "16 fefd 0000", 2 },
	{ "record version 2", "16 0203 0100", 2 },
	{ "record version 4", "16 0401 0100", 2 },
	{ "record version 3.255", "16 03ff 0100 01 0000fc", 0 },
	{ "record version 3.0", "16 0300 0100 01 0000fc", 0 },
	{ "record empty", "16 0301 0000", 5 },
	{ "record of 16384", "16 0301 4000 01 000100", 0 },
	{ "record of 16385", "16 0301 4001", 5 },
	{ "record of 16640", "16 0301 4100", 4 },
	{ "record of 65535", "16 0301 ffff", 4 },
	{ "ServerHello", "16 0301 0100 02", 6 },
	{ "HelloRequest", "16 0301 0004 00 000000", 6 },
	{ "handshake of 16 MiB", "16 0301 0100 01 ff", 7 },
	{ "handshake of 65536", "16 0301 0100 01 01", 7 },
	{ "handshake of 16384", "16 0301 0100 01 004000", 0 },
	{ "handshake of 16385", "16 0301 0100 01 004001", 9 },
	{ "handshake of 16640", "16 0301 0100 01 0041", 8 },
	{ "handshake empty", "16 0301 0100 01 000000", 9 },
	{ "handshake of 40", "16 0301 0100 01 000028", 9 },
	{ "handshake of 41", "16 0301 0100 01 000029", 0 },
	{ "second record empty", "16 0301 0001 01 16 0301 0000", 11 },
	{ "second record an alert", "16 0301 0001 01 15", 7 },
	{ "second record of version 2", "16 0301 0001 01 16 02", 8 },
	{ "second record too long", "16 0301 0001 01 16 0301 4001", 11 },
	{ "second record of another version 3", "16 0301 0001 01 16 0303 0001 00", 0 },
	{ "handshake length over records, too long", "16 0301 0001 01 16 0301 0001 00 16 0301 0001 41", 18 },
	{ "handshake header over records", "16 0301 0002 0100 16 0301 0002 0029", 0 },
	{ "handshake header over records, too short", "16 0301 0002 0100 16 0301 0002 0028", 14 },
	/* clang-format on */
};

static void framing_good_and_bad(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(stream_cases); i++) {
		const struct stream_case *c = &stream_cases[i];
		static struct stream s;
		struct hello hello;
		size_t need;

		current_case = c->what;
		s.len = 0;
		put_hex(&s, c->stream);
		check_stream(&s, c->certain_at ? HELLO_NOT : HELLO_MORE, NULL);
		if (!c->certain_at)
			continue;
		assert_true(c->certain_at <= s.len);
		assert_int_equal(parse(s.data, c->certain_at - 1, &need, &hello), HELLO_MORE);
		assert_int_equal(need, c->certain_at);
		assert_int_equal(parse(s.data, c->certain_at, &need, &hello), HELLO_NOT);
	}
	current_case = NULL;
}

static void need_looks_no_further_than_a_header(void **state)
{
	static struct stream s;
	struct hello hello;
	size_t need;

	/* 10 bytes of a message of 45: the next record's first byte may already say no. */
	put_hex(&s, "16 0301 000a 01 000029");
	assert_int_equal(parse(s.data, s.len, &need, &hello), HELLO_MORE);
	assert_int_equal(need, 5 + 10 + 1);
	put_hex(&s, "0303 'rand'");
	assert_int_equal(parse(s.data, s.len, &need, &hello), HELLO_MORE);
	assert_int_equal(need, 5 + 10 + 1);
	/* Of that record all but the last byte is the message's. */
	put_hex(&s, "16 0301 0024");
	assert_int_equal(parse(s.data, s.len, &need, &hello), HELLO_MORE);
	assert_int_equal(need, 5 + 10 + 5 + 35);
	put_hex(&s, "'om'");
	assert_int_equal(parse(s.data, s.len, &need, &hello), HELLO_MORE);
	assert_int_equal(need, 5 + 10 + 5 + 35);
}

/* Limits */

/* A ClientHello whose body is @len bytes: padding, then acme and SNI at the very end. */
static void put_long_body(struct stream *s, size_t len)
{
	static struct stream tail;
	size_t padding;

	tail.len = 0;
	put_hex(&tail, ALPN_A SNI_A);
	put_hex(s, BODY_START);
	padding = len - s->len - 2 - 4 - tail.len;
	put_number(s, len - s->len - 2, 2);
	put_number(s, 21, 2);
	put_number(s, padding, 2);
	for (size_t i = 0; i < padding; i++)
		put_number(s, i * 7, 1);
	put(s, tail.data, tail.len);
	assert_int_equal(s->len, len);
}

static const struct hello long_hello = {
	.acme_tls = true, .has_alpn = true, .sni_len = 1, .sni = "a"
};

static void longest_handshake(void **state)
{
	static const size_t sizes[] = { 16384, 16383, 8194, 8193, 1000, 100, 23 };
	static struct stream body, message, s;

	put_long_body(&body, HELLO_MAX_HANDSHAKE);
	put_message(&message, &body);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct hello hello;
		size_t need;

		s.len = 0;
		put_records(&s, &message, sizes[i]);
		assert_int_equal(parse(s.data, s.len, &need, &hello), HELLO_DONE);
		assert_same_hello(&hello, &long_hello);
		assert_int_equal(parse(s.data, s.len - 1, &need, &hello), HELLO_MORE);
		assert_int_equal(need, s.len);
		check_by_need(&s, HELLO_DONE);
		check_same_as_slow(&s);
	}
	s.len = 0;
	put_records(&s, &message, 8194);
	check_every_cut(&s, HELLO_DONE, &long_hello);
}

static void longest_record(void **state)
{
	static struct stream body, message, s;

	put_long_body(&body, 16384 - 4);
	put_message(&message, &body);
	put_record(&s, message.data, message.len);
	check_every_cut(&s, HELLO_DONE, &long_hello);
	check_same_as_slow(&s);
}

static void handshake_too_long(void **state)
{
	static struct stream body, message, s;

	put_long_body(&body, HELLO_MAX_HANDSHAKE + 1);
	put_message(&message, &body);
	put_records(&s, &message, 16000);
	check_stream(&s, HELLO_NOT, NULL);
}

/* A message of 16380 bytes in 820 records is as long as a stream may be; of 16381, one too long. */
static void longest_stream(void **state)
{
	for (size_t excess = 0; excess <= 1; excess++) {
		static struct stream body, message, s;
		struct hello hello;
		size_t need;

		body.len = message.len = s.len = 0;
		put_long_body(&body, 16376 + excess);
		put_message(&message, &body);
		for (size_t at = 0, i = 0; i < 820; i++) {
			size_t size = i < 2 ? 10 : 20;

			if (i == 819)
				size = message.len - at;
			put_record(&s, message.data + at, size);
			at += size;
		}
		assert_int_equal(s.len, HELLO_MAX_STREAM + excess);
		check_stream(&s, excess ? HELLO_NOT : HELLO_DONE, &long_hello);
		assert_int_equal(parse(s.data, HELLO_MAX_STREAM - 2, &need, &hello),
				 excess ? HELLO_NOT : HELLO_MORE);
	}
}

static void headers_only_by_and_by(void **state)
{
	static struct stream body, message, s;

	/* One byte of message to a record: 6 bytes of stream each, no end before the limit. */
	put_long_body(&body, 4000);
	put_message(&message, &body);
	put_records(&s, &message, 1);
	check_every_cut(&s, HELLO_NOT, NULL);
	check_same_as_slow(&s);
}

static void no_memory_given(void **state)
{
	struct hello hello;
	size_t need;

	assert_int_equal(parse(NULL, 0, &need, &hello), HELLO_MORE);
	assert_int_equal(need, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		hello_test(extensions_good),
		hello_test(extensions_bad),
		hello_test(bodies_good_and_bad),
		hello_test(framing_good_and_bad),
		hello_test(need_looks_no_further_than_a_header),
		hello_test(longest_handshake),
		hello_test(longest_record),
		hello_test(handshake_too_long),
		hello_test(longest_stream),
		hello_test(headers_only_by_and_by),
		hello_test(no_memory_given),
	};

	return cmocka_run_group_tests_name("hello", tests, NULL, NULL);
}
