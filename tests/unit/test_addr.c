/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: addr.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "addr.h"
#include "util.h"

static void parse_and_format(void **state)
{
	static const struct {
		const char *text;
		uint16_t default_port;
		const char *formatted; /* NULL: refused */
	} cases[] = {
		{ "127.0.0.1:31443", 0, "127.0.0.1:31443" },
		{ "127.0.0.1", 443, "127.0.0.1:443" },
		{ "127.0.0.1:1", 443, "127.0.0.1:1" },
		{ "[::1]:31443", 0, "[::1]:31443" },
		{ "[::1]", 443, "[::1]:443" },
		{ "::1", 443, "[::1]:443" },
		{ "2001:DB8::1", 65535, "[2001:db8::1]:65535" },
		{ "[::ffff:192.0.2.1]:443", 0, "192.0.2.1:443" },
		{ "[fe80::1%lo]:443", 0, "[fe80::1%lo]:443" },
		{ "[fe80::1%1]:443", 0, "[fe80::1%lo]:443" },
		{ "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", 0,
		  "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535" },
		{ "127.0.0.1", 0, NULL },
		{ "[::1]", 0, NULL },
		{ "::1", 0, NULL },
		{ "127.0.0.1:", 443, NULL },
		{ "127.0.0.1:0", 443, NULL },
		{ "127.0.0.1:65536", 443, NULL },
		{ "127.0.0.1:4294967739", 443, NULL },
		{ "127.0.0.1:+443", 443, NULL },
		{ "127.0.0.1: 443", 443, NULL },
		{ "127.0.0.1:443 ", 443, NULL },
		{ "127.0.0.1:443:443", 443, NULL },
		{ "127.0.0.256:443", 443, NULL },
		{ "127.1:443", 443, NULL },
		{ "localhost:443", 443, NULL },
		{ "", 443, NULL },
		{ ":443", 443, NULL },
		{ "[]:443", 443, NULL },
		{ "[::1:443", 443, NULL },
		{ "[::1]443", 443, NULL },
		{ "[::1]:", 443, NULL },
		{ "[127.0.0.1]:443", 443, NULL },
		{ "[2001:db8::1%lo]:443", 443, NULL },
		{ "[fe80::1%]:443", 443, NULL },
		{ "[fe80::1%0]:443", 443, NULL },
		{ "[fe80::1%no-such-device]:443", 443, NULL },
		{ "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
		  "000000001",
		  443, NULL },
	};
	char buf[ENDPOINT_STRLEN];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct endpoint endpoint, before;
		int r;

		memset(&endpoint, 0xa5, sizeof(endpoint));
		before = endpoint;
		r = endpoint_parse(cases[i].text, cases[i].default_port, &endpoint);
		if ((r == 0) != (cases[i].formatted != NULL))
			fail_msg("\"%s\": %d", cases[i].text, r);
		if (cases[i].formatted) {
			assert_string_equal(endpoint_format(&endpoint, buf), cases[i].formatted);
		} else {
			assert_int_equal(r, -EINVAL);
			assert_memory_equal(&endpoint, &before, sizeof(endpoint));
		}
	}
}

static void one_form_for_both_families(void **state)
{
	struct endpoint v4, mapped, other, back;
	struct sockaddr_storage sa;
	char buf[ENDPOINT_STRLEN];

	assert_int_equal(endpoint_parse("192.0.2.1:443", 0, &v4), 0);
	assert_int_equal(endpoint_parse("[::ffff:192.0.2.1]:443", 0, &mapped), 0);
	assert_true(endpoint_is_v4(&v4));
	assert_true(endpoint_equal(&v4, &mapped));

	assert_int_equal(endpoint_to_sockaddr(&v4, &sa), sizeof(struct sockaddr_in));
	assert_int_equal(sa.ss_family, AF_INET);
	assert_int_equal(((struct sockaddr_in *)&sa)->sin_port, htons(443));
	assert_int_equal(((struct sockaddr_in *)&sa)->sin_addr.s_addr, inet_addr("192.0.2.1"));
	assert_int_equal(endpoint_from_sockaddr(&sa, &back), 0);
	assert_true(endpoint_equal(&v4, &back));

	assert_int_equal(endpoint_parse("[fe80::2%lo]:8443", 0, &other), 0);
	assert_false(endpoint_is_v4(&other));
	assert_int_equal(other.scope_id, 1);
	assert_int_equal(endpoint_to_sockaddr(&other, &sa), sizeof(struct sockaddr_in6));
	assert_int_equal(((struct sockaddr_in6 *)&sa)->sin6_scope_id, 1);
	assert_int_equal(endpoint_from_sockaddr(&sa, &back), 0);
	assert_true(endpoint_equal(&other, &back));
	assert_string_equal(endpoint_format_addr(&other, buf), "fe80::2%lo");
	assert_string_equal(endpoint_format_addr(&v4, buf), "192.0.2.1");

	back.port++;
	assert_false(endpoint_equal(&other, &back));
	back = other;
	back.scope_id = 2;
	assert_false(endpoint_equal(&other, &back));
	back = other;
	back.addr.s6_addr[15] ^= 1;
	assert_false(endpoint_equal(&other, &back));

	/* A mapped address as an AF_INET6 socket has it is IPv4 to us. */
	memset(&sa, 0, sizeof(sa));
	sa.ss_family = AF_INET6;
	((struct sockaddr_in6 *)&sa)->sin6_port = htons(443);
	inet_pton(AF_INET6, "::ffff:192.0.2.1", &((struct sockaddr_in6 *)&sa)->sin6_addr);
	assert_int_equal(endpoint_from_sockaddr(&sa, &back), 0);
	assert_true(endpoint_equal(&v4, &back));

	back = other;
	sa.ss_family = AF_UNIX;
	assert_int_equal(endpoint_from_sockaddr(&sa, &back), -EAFNOSUPPORT);
	assert_true(endpoint_equal(&other, &back));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_and_format),
		cmocka_unit_test(one_form_for_both_families),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
