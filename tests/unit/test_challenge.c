/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: challenge.c lazy.c timers.c name.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "challenge.h"
#include "util.h"

#define SEC NSEC_PER_SEC

static const uint8_t counting[CHALLENGE_DIGEST] = {
	0x00, 0x10, 0x83, 0x10, 0x51, 0x87, 0x20, 0x92, 0x8b, 0x30, 0xd3,
	0x8f, 0x41, 0x14, 0x93, 0x51, 0x55, 0x97, 0x61, 0x96, 0x9b, 0x71,
	0xd7, 0x9f, 0x82, 0x18, 0xa3, 0x92, 0x59, 0xa7, 0xa2, 0x9a,
};
#define COUNTING_BASE64 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopo"
#define COUNTING_HEX	"00108310518720928b30d38f41149351559761969b71d79f8218a39259a7a29a"
#define COUNTING_COLONS                                                                           \
	"00:10:83:10:51:87:20:92:8b:30:d3:8f:41:14:93:51:55:97:61:96:9b:71:d7:9f:82:18:a3:92:59:" \
	"a7:a2:9a"

static void good_digest(const char *text)
{
	uint8_t digest[CHALLENGE_DIGEST] = {};
	char error[256];

	assert_int_equal(challenge_digest_parse(text, digest, error, sizeof(error)), 0);
	assert_memory_equal(digest, counting, sizeof(counting));
}

static void bad_digest(const char *text, const char *hint)
{
	uint8_t digest[CHALLENGE_DIGEST];
	char error[512] = "";

	memset(digest, 0xa5, sizeof(digest));
	assert_int_equal(challenge_digest_parse(text, digest, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, hint));
	for (size_t i = 0; i < sizeof(digest); i++)
		assert_int_equal(digest[i], 0xa5);
}

static void digests(void **state)
{
	char text[CHALLENGE_DIGEST_STRLEN];

	good_digest(COUNTING_BASE64);
	good_digest(COUNTING_BASE64 "=");
	good_digest(COUNTING_HEX);
	good_digest(COUNTING_COLONS);
	good_digest("00:10:83:10:51:87:20:92:8B:30:D3:8F:41:14:93:51:55:97:61:96:9B:71:D7:9F:82:18:"
		    "A3:92:59:A7:A2:9A");
	assert_string_equal(challenge_digest_format(counting, text), COUNTING_BASE64);

	bad_digest("", "base64url");
	bad_digest("abc", "base64url");
	bad_digest(COUNTING_BASE64 "A", "base64url");
	bad_digest(COUNTING_BASE64 "==", "base64url");
	bad_digest("+BCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopo", "base64url");
	/* Bits that belong to no byte. */
	bad_digest("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopp", "base64url");
	bad_digest(COUNTING_HEX "0", "64 digits");
	bad_digest("g0108310518720928b30d38f41149351559761969b71d79f8218a39259a7a29a", "64 digits");
	bad_digest("00-10-83-10-51-87-20-92-8b-30-d3-8f-41-14-93-51-55-97-61-96-9b-71-d7-9f-82-18-"
		   "a3-92-59-a7-a2-9a",
		   "64 digits");
	bad_digest("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA."
		   "nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ",
		   "--key-authorization");
}

static void every_digest_reads_as_it_is_written(void **state)
{
	uint8_t digest[CHALLENGE_DIGEST], again[CHALLENGE_DIGEST];
	char text[CHALLENGE_DIGEST_STRLEN], error[256];
	uint32_t seed = 1;

	for (int round = 0; round < 1000; round++) {
		for (size_t i = 0; i < sizeof(digest); i++)
			digest[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
		challenge_digest_format(digest, text);
		assert_int_equal(strlen(text), 43);
		assert_int_equal(challenge_digest_parse(text, again, error, sizeof(error)), 0);
		assert_memory_equal(digest, again, sizeof(digest));
	}
}

static void key_authorizations(void **state)
{
	static const char *const bad[] = {
		"",
		".",
		"token",
		"token.",
		"token.short",
		".nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ",
		"to ken.nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ",
		"token.nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ ",
		"token.nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ\n",
		"token.nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ.x",
	};
	/* printf %s "$ka" | openssl dgst -sha256 -binary | basenc --base64url */
	const char *ka = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA."
			 "nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ";
	uint8_t digest[CHALLENGE_DIGEST];
	char text[CHALLENGE_DIGEST_STRLEN], error[512];

	assert_int_equal(challenge_digest_of(ka, digest, error, sizeof(error)), 0);
	assert_string_equal(challenge_digest_format(digest, text),
			    "NGwKoXBgCT8JhEa0bK7AwfSqHyu_ZWeugV07fLGIVq0");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(challenge_digest_of(bad[i], digest, error, sizeof(error)),
				 -EINVAL);
		assert_non_null(strstr(error, "thumbprint"));
	}
}

static void good_name(const char *text, const char *sni, const char *shown)
{
	struct name name;
	char buf[NAME_MAX_LEN + 1];

	assert_null(name_parse(text, &name));
	assert_string_equal(name.sni, sni);
	assert_string_equal(name_format(&name, buf), shown);
	assert_int_equal(name.address_len > 0, strcmp(sni, shown) != 0);
}

static void bad_name(const char *text, const char *hint)
{
	struct name name = { .sni = "untouched" };
	const char *fault = name_parse(text, &name);

	assert_non_null(fault);
	assert_non_null(strstr(fault, hint));
	assert_string_equal(name.sni, "untouched");
}

static void names(void **state)
{
	static const char v6[] =
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
	char long_name[300];

	good_name("www.example.org", "www.example.org", "www.example.org");
	good_name("WWW.Example.ORG.", "www.example.org", "www.example.org");
	good_name("xn--bcher-kva.example", "xn--bcher-kva.example", "xn--bcher-kva.example");
	good_name("192.0.2.1", "1.2.0.192.in-addr.arpa", "192.0.2.1");
	good_name("1.2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa", "192.0.2.1");
	good_name("1.2.0.192.IN-ADDR.ARPA.", "1.2.0.192.in-addr.arpa", "192.0.2.1");
	good_name("2001:db8::1", v6, "2001:db8::1");
	good_name("2001:0DB8:0::1", v6, "2001:db8::1");
	good_name(v6, v6, "2001:db8::1");
	good_name("in-addr.arpa", "in-addr.arpa", "in-addr.arpa");

	bad_name("*.example.org", "DNS-01");
	bad_name("b\xc3\xbc"
		 "cher.example",
		 "A-label");
	bad_name("", "empty");
	bad_name(".", "empty");
	bad_name("a..b", "empty label");
	bad_name("under_score.example", "host name");
	bad_name("-a.example", "hyphen");
	bad_name("a-.example", "hyphen");
	bad_name("256.0.0.1", "neither");
	bad_name("2.0.192.in-addr.arpa", "reverse name");
	bad_name("01.2.0.192.in-addr.arpa", "reverse name");
	bad_name("256.2.0.192.in-addr.arpa", "reverse name");
	bad_name("x.1.2.0.192.in-addr.arpa", "reverse name");
	bad_name("8.b.d.0.1.0.0.2.ip6.arpa", "reverse name");
	bad_name("g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
		 "reverse name");
	bad_name("[2001:db8::1]", "host name");
	memset(long_name, 'a', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	bad_name(long_name, "longer");
	long_name[64] = '\0';
	bad_name(long_name, "63");
}

static void add(struct challenge_set *set, const char *text, uint16_t port, uint64_t deadline_ns,
		bool replaces)
{
	struct name name;
	char error[256];
	bool replaced = !replaces;

	assert_null(name_parse(text, &name));
	assert_int_equal(challenge_set_add(set, &name, counting, port, deadline_ns, &replaced,
					   error, sizeof(error)),
			 0);
	assert_int_equal(replaced, replaces);
}

static void add_replace_remove(void **state)
{
	uint8_t other[CHALLENGE_DIGEST] = { 1 };
	struct challenge_set set = {};
	struct challenge *challenge;
	struct name name;
	char error[256];
	bool replaced;

	assert_null(challenge_set_find(&set, "a.example"));
	assert_false(challenge_set_remove(&set, "a.example"));
	assert_null(challenge_set_next(&set, NULL));
	assert_null(challenge_set_port(&set, 443));

	add(&set, "A.example", 443, 10 * SEC, false);
	add(&set, "192.0.2.1", 443, 20 * SEC, false);
	assert_int_equal(set.n, 2);
	challenge = challenge_set_find(&set, "a.example");
	assert_non_null(challenge);
	challenge->connections = 7;
	assert_non_null(challenge_set_find(&set, "1.2.0.192.in-addr.arpa"));
	assert_null(challenge_set_find(&set, "192.0.2.1"));
	assert_int_equal(challenge_set_port(&set, 443)->n, 2);

	name_parse("a.example", &name);
	assert_int_equal(challenge_set_add(&set, &name, other, 8443, 30 * SEC, &replaced, error,
					   sizeof(error)),
			 0);
	assert_true(replaced);
	assert_int_equal(set.n, 2);
	challenge = challenge_set_find(&set, "a.example");
	assert_non_null(challenge);
	assert_memory_equal(challenge->digest, other, sizeof(other));
	assert_int_equal(challenge->connections, 0);
	assert_int_equal(challenge_set_port(&set, 443)->n, 1);
	assert_int_equal(challenge_set_port(&set, 443)->deadline_ns, 20 * SEC);
	assert_int_equal(challenge_set_port(&set, 8443)->deadline_ns, 30 * SEC);

	assert_true(challenge_set_remove(&set, "a.example"));
	assert_false(challenge_set_remove(&set, "a.example"));
	assert_null(challenge_set_port(&set, 8443));
	challenge_set_clear(&set);
	assert_int_equal(set.n, 0);
	assert_null(challenge_set_find(&set, "1.2.0.192.in-addr.arpa"));
}

static unsigned n_gone;

static void gone(void *ctx, const struct challenge *challenge)
{
	assert_ptr_equal(challenge_set_find(ctx, challenge->name.sni), challenge);
	n_gone++;
}

static void deadlines(void **state)
{
	struct challenge_set set = {};

	assert_true(challenge_set_next_deadline(&set) == UINT64_MAX);
	add(&set, "a.example", 443, 30 * SEC, false);
	add(&set, "b.example", 443, 10 * SEC, false);
	add(&set, "c.example", 443, 20 * SEC, false);
	assert_int_equal(challenge_set_next_deadline(&set), 10 * SEC);
	assert_int_equal(challenge_set_port(&set, 443)->deadline_ns, 30 * SEC);

	n_gone = 0;
	challenge_set_expire(&set, 10 * SEC - 1, gone, &set);
	assert_int_equal(n_gone, 0);
	challenge_set_expire(&set, 10 * SEC, gone, &set);
	assert_int_equal(n_gone, 1);
	assert_null(challenge_set_find(&set, "b.example"));
	assert_int_equal(challenge_set_next_deadline(&set), 20 * SEC);

	/* The latest one goes, is shortened, is made longer. */
	assert_true(challenge_set_remove(&set, "a.example"));
	assert_int_equal(challenge_set_port(&set, 443)->deadline_ns, 20 * SEC);
	add(&set, "d.example", 443, 40 * SEC, false);
	add(&set, "d.example", 443, 15 * SEC, true);
	assert_int_equal(challenge_set_port(&set, 443)->deadline_ns, 20 * SEC);
	assert_int_equal(challenge_set_next_deadline(&set), 15 * SEC);
	add(&set, "d.example", 443, 50 * SEC, true);
	assert_int_equal(challenge_set_port(&set, 443)->deadline_ns, 50 * SEC);

	challenge_set_expire(&set, 100 * SEC, gone, &set);
	assert_int_equal(n_gone, 3);
	assert_int_equal(set.n, 0);
	assert_int_equal(set.n_ports, 0);
	assert_true(challenge_set_next_deadline(&set) == UINT64_MAX);
	challenge_set_clear(&set);
}

static void limits(void **state)
{
	struct challenge_set set = {};
	struct name name = {};
	char error[256] = "", text[64];
	unsigned seen = 0;
	bool replaced;
	uint64_t began;

	began = now_ns();
	for (unsigned i = 0; i < CHALLENGE_MAX; i++) {
		snprintf(text, sizeof(text), "host-%u.example", i);
		add(&set, text, 443, (1 + i) * SEC, false);
	}
	for (unsigned i = 0; i < CHALLENGE_MAX; i++) {
		snprintf(text, sizeof(text), "host-%u.example", i);
		assert_non_null(challenge_set_find(&set, text));
	}
	print_message("added and found %d in %.1f ms\n", CHALLENGE_MAX,
		      (double)(now_ns() - began) / 1e6);
	name_parse("one-more.example", &name);
	assert_int_equal(
		challenge_set_add(&set, &name, counting, 443, SEC, &replaced, error, sizeof(error)),
		-ENOSPC);
	assert_non_null(strstr(error, "10000"));
	/* Replacing is no matter of room. */
	add(&set, "host-5.example", 443, SEC, true);
	for (const struct challenge *c = NULL; (c = challenge_set_next(&set, c));)
		seen++;
	assert_int_equal(seen, CHALLENGE_MAX);

	began = now_ns();
	n_gone = 0;
	challenge_set_expire(&set, CHALLENGE_MAX / 2 * SEC, gone, &set);
	assert_int_equal(n_gone, CHALLENGE_MAX / 2);
	print_message("%u of them ended in %.1f ms\n", n_gone, (double)(now_ns() - began) / 1e6);
	/* From the latest on: each time another one is the latest. */
	began = now_ns();
	for (unsigned i = CHALLENGE_MAX; i-- > CHALLENGE_MAX / 2;) {
		snprintf(text, sizeof(text), "host-%u.example", i);
		assert_true(challenge_set_remove(&set, text));
		if (set.n > 0)
			assert_int_equal(challenge_set_port(&set, 443)->deadline_ns, i * SEC);
	}
	print_message("%d removed, the latest first, in %.1f ms\n", CHALLENGE_MAX / 2,
		      (double)(now_ns() - began) / 1e6);
	assert_int_equal(set.n, 0);

	for (unsigned i = 0; i < CHALLENGE_MAX_PORTS; i++) {
		snprintf(text, sizeof(text), "port-%u.example", i);
		add(&set, text, (uint16_t)(1000 + i), SEC, false);
	}
	assert_int_equal(
		challenge_set_add(&set, &name, counting, 443, SEC, &replaced, error, sizeof(error)),
		-ENOSPC);
	assert_non_null(strstr(error, "32 ports"));
	add(&set, "port-0.example", 443, SEC, true); /* 1000 goes as 443 comes */
	challenge_set_clear(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(digests),
		cmocka_unit_test(every_digest_reads_as_it_is_written),
		cmocka_unit_test(key_authorizations),
		cmocka_unit_test(names),
		cmocka_unit_test(add_replace_remove),
		cmocka_unit_test(deadlines),
		cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests_name("challenge", tests, NULL, NULL);
}
