/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: verdict.c probe.c validate.c challenge.c lazy.c timers.c name.c addr.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "util.h"
#include "verdict.h"

static struct verdict at(const char *address)
{
	struct verdict verdict = {};

	assert_int_equal(endpoint_parse(address, 443, &verdict.address), 0);
	return verdict;
}

static void see(struct verdict *verdict, enum probe_hello hello, enum probe_end end,
		const char *alpn)
{
	verdict->has[hello] = true;
	verdict->seen[hello].end = end;
	snprintf(verdict->seen[hello].alpn, sizeof(verdict->seen[hello].alpn), "%s", alpn);
}

/* Which connections are made follows from how those before ended. */
static void wants(void **state)
{
	static const struct {
		enum probe_end end;
		const char *alpn;
		bool short_one, visitor;
	} cases[] = {
		{ PROBE_ANSWERED, "acme-tls/1", false, false },
		{ PROBE_ANSWERED, "", false, true },
		{ PROBE_ALERT, "", false, true },
		{ PROBE_NOT_TLS, "", false, false },
		{ PROBE_REFUSED, "", false, false },
		{ PROBE_TIMEOUT, "", false, false },
		{ PROBE_UNREACHABLE, "", false, false },
		{ PROBE_NO_ROUTE, "", false, false },
		{ PROBE_RESET, "", true, true },
		{ PROBE_CLOSED, "", true, true },
		{ PROBE_SILENT, "", true, true },
		{ PROBE_ODD_TLS, "", false, true },
	};
	static_assert(ARRAY_SIZE(cases) == PROBE_ENDS + 1, "all of them");

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct verdict verdict = at("192.0.2.1");
		enum probe_hello hello;

		assert_true(verdict_wants(&verdict, &hello));
		assert_int_equal(hello, PROBE_AS_CA);
		see(&verdict, PROBE_AS_CA, cases[i].end, cases[i].alpn);
		if (cases[i].short_one) {
			assert_true(verdict_wants(&verdict, &hello));
			assert_int_equal(hello, PROBE_AS_CA_SHORT);
			see(&verdict, PROBE_AS_CA_SHORT, cases[i].end, "");
		}
		if (cases[i].visitor) {
			assert_true(verdict_wants(&verdict, &hello));
			assert_int_equal(hello, PROBE_AS_A_VISITOR);
			see(&verdict, PROBE_AS_A_VISITOR, cases[i].end, "");
		}
		assert_false(verdict_wants(&verdict, &hello));
	}
}

/* Every situation has something to say, and, but when all is well, what to do. */
static void judged(void **state)
{
	static const struct {
		enum probe_end ca, visitor;
		const char *ca_alpn, *visitor_alpn;
		bool for_name;
		const char *cdn;
		enum situation situation;
	} cases[] = {
		{ PROBE_ANSWERED, 0, "acme-tls/1", "", false, NULL, SITUATION_READY },
		{ PROBE_ALERT, PROBE_ANSWERED, "", "http/1.1", true, NULL, SITUATION_WEB_SERVER },
		{ PROBE_ALERT, PROBE_ANSWERED, "", "", true, NULL, SITUATION_WEB_SERVER },
		{ PROBE_SILENT, PROBE_ANSWERED, "", "http/1.1", true, NULL, SITUATION_WEB_SERVER },
		{ PROBE_RESET, PROBE_ANSWERED, "", "http/1.1", false, NULL,
		  SITUATION_DEFAULT_CERTIFICATE },
		{ PROBE_ANSWERED, PROBE_ANSWERED, "", "http/1.1", false, NULL,
		  SITUATION_DEFAULT_CERTIFICATE },
		{ PROBE_ANSWERED, PROBE_ANSWERED, "", "", true, NULL, SITUATION_ALPN_STRIPPED },
		{ PROBE_ALERT, PROBE_ANSWERED, "", "http/1.1", true, "Fastly", SITUATION_CDN },
		{ PROBE_ALERT, PROBE_ALERT, "", "", false, NULL, SITUATION_TLS_REFUSED },
		{ PROBE_ODD_TLS, PROBE_ODD_TLS, "", "", false, NULL, SITUATION_TLS_REFUSED },
		{ PROBE_NOT_TLS, 0, "", "", false, NULL, SITUATION_NOT_TLS },
		{ PROBE_REFUSED, 0, "", "", false, NULL, SITUATION_REFUSED },
		{ PROBE_TIMEOUT, 0, "", "", false, NULL, SITUATION_TIMEOUT },
		{ PROBE_UNREACHABLE, 0, "", "", false, NULL, SITUATION_UNREACHABLE },
		{ PROBE_NO_ROUTE, 0, "", "", false, NULL, SITUATION_NO_ROUTE },
		{ PROBE_RESET, PROBE_RESET, "", "", false, NULL, SITUATION_RESET },
		{ PROBE_CLOSED, PROBE_CLOSED, "", "", false, NULL, SITUATION_CLOSED },
		{ PROBE_SILENT, PROBE_SILENT, "", "", false, NULL, SITUATION_SILENT },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct verdict verdict = at("192.0.2.1");
		enum probe_hello hello;

		see(&verdict, PROBE_AS_CA, cases[i].ca, cases[i].ca_alpn);
		while (verdict_wants(&verdict, &hello))
			see(&verdict, hello,
			    hello == PROBE_AS_A_VISITOR ? cases[i].visitor : cases[i].ca,
			    hello == PROBE_AS_A_VISITOR ? cases[i].visitor_alpn : "");
		verdict.seen[PROBE_AS_A_VISITOR].certificate.is_for_name = cases[i].for_name;
		verdict.seen[PROBE_AS_A_VISITOR].cdn = cases[i].cdn;
		verdict_judge(&verdict, NULL);
		assert_string_equal(situation_names[verdict.situation],
				    situation_names[cases[i].situation]);
		assert_true(verdict.finding[0]);
		assert_int_equal(verdict.causes[0] != NULL, cases[i].situation != SITUATION_READY);
	}
}

/* Who asks for acme-tls/1 waits for a responder, and a visitor does not. */
static void held_for_the_responder(void **state)
{
	static const struct {
		enum probe_end ca;
		unsigned ca_ms, visitor_ms;
		bool held;
	} cases[] = {
		{ PROBE_ALERT, 5100, 90, true },    { PROBE_SILENT, 2000, 90, true },
		{ PROBE_ALERT, 100, 90, false },    { PROBE_ALERT, 5100, 5000, false },
		{ PROBE_ANSWERED, 5100, 90, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct verdict verdict = at("192.0.2.1");

		see(&verdict, PROBE_AS_CA, cases[i].ca, "");
		if (cases[i].ca == PROBE_SILENT)
			see(&verdict, PROBE_AS_CA_SHORT, PROBE_SILENT, "");
		see(&verdict, PROBE_AS_A_VISITOR, PROBE_ANSWERED, "http/1.1");
		verdict.seen[PROBE_AS_CA].ms = cases[i].ca_ms;
		verdict.seen[PROBE_AS_A_VISITOR].ms = cases[i].visitor_ms;
		verdict_judge(&verdict, NULL);
		assert_int_equal(verdict.situation, SITUATION_DEFAULT_CERTIFICATE);
		assert_int_equal(strstr(verdict.causes[0], "responder's address") != NULL,
				 cases[i].held);
		assert_non_null(verdict.causes[cases[i].held ? 3 : 2]);
	}
}

static void long_hello(void **state)
{
	struct verdict verdict = at("192.0.2.1");

	see(&verdict, PROBE_AS_CA, PROBE_SILENT, "");
	see(&verdict, PROBE_AS_CA_SHORT, PROBE_ALERT, "");
	see(&verdict, PROBE_AS_A_VISITOR, PROBE_ANSWERED, "http/1.1");
	verdict_judge(&verdict, NULL);
	assert_int_equal(verdict.situation, SITUATION_LONG_HELLO_LOST);
}

static void digests(void **state)
{
	static const uint8_t right[CHALLENGE_DIGEST] = { 1 }, wrong[CHALLENGE_DIGEST] = { 2 };
	struct verdict verdict = at("192.0.2.1");

	see(&verdict, PROBE_AS_CA, PROBE_ANSWERED, "acme-tls/1");
	memcpy(verdict.seen[PROBE_AS_CA].digest, right, sizeof(right));
	verdict_judge(&verdict, NULL);
	assert_int_equal(verdict.situation, SITUATION_READY);
	verdict_judge(&verdict, right);
	assert_int_equal(verdict.situation, SITUATION_READY);
	verdict_judge(&verdict, wrong);
	assert_int_equal(verdict.situation, SITUATION_OTHER_DIGEST);
	verdict.seen[PROBE_AS_CA].acme_fault = "is not self-signed";
	verdict_judge(&verdict, right);
	assert_int_equal(verdict.situation, SITUATION_BAD_CERTIFICATE);
	assert_non_null(strstr(verdict.finding, "is not self-signed"));
}

/* What a CA makes of an IPv6 and an IPv4 address: it goes to IPv6 first. */
static void overall(void **state)
{
	static const enum probe_end ready = PROBE_ANSWERED, web = PROBE_ALERT;
	static const struct {
		enum probe_end v6, v4;
		bool answered;
		const char *text;
	} cases[] = {
		{ ready, ready, true, "finds the challenge answered" },
		{ web, ready, false, "fail at [2001:db8::1]:443" },
		{ ready, web, false, "fail at 192.0.2.1:443" },
		{ web, web, false, "would not find the challenge answered" },
		{ PROBE_SILENT, ready, false, "fail at [2001:db8::1]:443" },
		{ PROBE_REFUSED, ready, true, "could not connect to [2001:db8::1]:443" },
		{ PROBE_TIMEOUT, ready, true, "could not connect to [2001:db8::1]:443" },
		{ PROBE_UNREACHABLE, ready, true, "could not connect to [2001:db8::1]:443" },
		{ PROBE_NO_ROUTE, ready, true, "[2001:db8::1]:443 was not tried" },
		{ PROBE_NO_ROUTE, web, false, "would not find the challenge answered" },
		{ PROBE_NO_ROUTE, PROBE_NO_ROUTE, false, "nothing is known" },
		{ PROBE_REFUSED, PROBE_REFUSED, false, "could not connect" },
		{ PROBE_REFUSED, PROBE_NO_ROUTE, false, "could not connect" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct verdict verdicts[] = { at("2001:db8::1"), at("192.0.2.1") };
		const enum probe_end ends[] = { cases[i].v6, cases[i].v4 };
		char text[256];

		for (int k = 0; k < 2; k++) {
			see(&verdicts[k], PROBE_AS_CA, ends[k],
			    ends[k] == ready ? "acme-tls/1" : "");
			verdict_judge(&verdicts[k], NULL);
		}
		assert_int_equal(verdict_overall(verdicts, 2, false, text, sizeof(text)),
				 cases[i].answered);
		assert_non_null(strstr(text, cases[i].text));
		/* Where only IPv4 answers, the AAAA record is what to look at. */
		assert_int_equal(ends[0] != ready && ends[0] != PROBE_NO_ROUTE && ends[1] == ready,
				 verdicts[0].causes[0] &&
					 strstr(verdicts[0].causes[0], "AAAA record points"));
	}
}

static void two_servers(void **state)
{
	struct verdict verdicts[] = { at("2001:db8::1"), at("192.0.2.1") };
	char text[256];

	for (int same = 0; same < 2; same++) {
		for (int k = 0; k < 2; k++) {
			struct probe_seen *visitor = &verdicts[k].seen[PROBE_AS_A_VISITOR];

			see(&verdicts[k], PROBE_AS_CA, PROBE_ALERT, "");
			see(&verdicts[k], PROBE_AS_A_VISITOR, PROBE_ANSWERED, "http/1.1");
			visitor->has_certificate = true;
			strcpy(visitor->certificate.sha256, k == 0 && !same ? "aa" : "bb");
			verdict_judge(&verdicts[k], NULL);
		}
		assert_false(verdict_overall(verdicts, 2, false, text, sizeof(text)));
		assert_int_equal(!same,
				 strstr(verdicts[0].causes[0], "AAAA record points") != NULL);
		assert_null(strstr(verdicts[1].causes[0], "AAAA record points"));
	}
}

static void no_address(void **state)
{
	char text[256];

	assert_false(verdict_overall(NULL, 0, false, text, sizeof(text)));
	assert_string_equal(text, "a CA has no address to connect to");
}

static void cdns(void **state)
{
	static const struct {
		const char *headers, *cdn;
	} cases[] = {
		{ "HTTP/1.1 200 OK\r\nServer: cloudflare\r\n\r\n", "Cloudflare" },
		{ "HTTP/1.1 200 OK\r\nCF-RAY:1\r\n\r\n", "Cloudflare" },
		{ "HTTP/1.1 200 OK\r\nDate: x\r\nX-Served-By: cache-fra-1\r\n\r\n", "Fastly" },
		{ "HTTP/1.1 200 OK\r\nX-Served-By: my-host\r\n\r\n", NULL },
		{ "HTTP/1.0 400 Bad Request\r\nserver:  AkamaiGHost\r\n", "Akamai" },
		{ "HTTP/1.1 200 OK\r\nX-Amz-Cf-Id: abc\r\n\r\n", "Amazon CloudFront" },
		{ "HTTP/1.1 200 OK\r\nVia: 1.1 google\r\n\r\n", "Google Cloud" },
		{ "HTTP/1.1 200 OK\r\nVia: 1.1 varnish\r\n\r\n", NULL },
		{ "HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n", NULL },
		{ "HTTP/1.1 200 OK\r\nServer: cl", NULL },
		{ "HTTP/1.1 200 OK\r\nX: Server: cloudflare\r\n\r\n", NULL },
		{ "cf-ray: 1", NULL },
		{ "", NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *cdn = probe_cdn(cases[i].headers);

		if (cases[i].cdn)
			assert_string_equal(cdn, cases[i].cdn);
		else
			assert_null(cdn);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wants),
		cmocka_unit_test(judged),
		cmocka_unit_test(held_for_the_responder),
		cmocka_unit_test(long_hello),
		cmocka_unit_test(digests),
		cmocka_unit_test(overall),
		cmocka_unit_test(two_servers),
		cmocka_unit_test(no_address),
		cmocka_unit_test(cdns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
