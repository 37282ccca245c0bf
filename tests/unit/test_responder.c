/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: keeper.c starter.c responder.c answer.c certificate.c isolate.c filter.c challenge.c timers.c name.c addr.c log.c lazy.c log_record.c
/* What a CA, and anybody else, gets from the built-in responder. */
#include <sys/resource.h>

#include "responder_bench.h"

#define HTTP_ALPN \
	"\x02"    \
	"h2"

static uint64_t take_away(const char *text)
{
	struct name name;

	assert_null(name_parse(text, &name));
	challenge_set_remove(&challenges, name.sni);
	return keeper_remove(keeper, &name);
}

static int refused(int version, const char *alpn, const char *sni)
{
	struct client client;
	int alert = client_open(&client, version, alpn, sni);
	char byte;

	/* Closed in order after its alert, not reset. */
	assert_int_equal(recv(client.fd, &byte, 1, 0), 0);
	client_close(&client);
	return alert;
}

static void the_checker_finds_faults(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 1, 2, 3 };
	uint8_t *der = NULL, copy[2048];
	struct client client;
	X509 *certificate;
	unsigned wrong = 0;
	size_t len;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	assert_int_equal(client_open(&client, TLS1_3_VERSION, ACME_ALPN, "www.example.org"), 0);
	certificate = SSL_get1_peer_certificate(client.ssl);
	len = (size_t)i2d_X509(certificate, &der);
	assert_true(len <= sizeof(copy));
	assert_null(rfc8737_fault(der, len, "www.example.org", 15, false, digest));
	assert_non_null(rfc8737_fault(der, len, "www.example.com", 15, false, digest));
	assert_non_null(rfc8737_fault(der, len, "www.example.org", 15, true, digest));
	assert_non_null(rfc8737_fault(der, len - 1, "www.example.org", 15, false, digest));
	/* A changed bit in the extensions is always seen. */
	for (size_t i = 0; i < len; i++) {
		bool in_extensions = memmem(der, len, "\x55\x1d\x11", 3) &&
				     der + i >= (uint8_t *)memmem(der, len, "\x55\x1d\x11", 3) &&
				     der + i < (uint8_t *)memmem(der, len, digest, 32) + 32;

		if (!in_extensions)
			continue;
		memcpy(copy, der, len);
		copy[i] ^= 1;
		if (rfc8737_fault(copy, len, "www.example.org", 15, false, digest))
			wrong++;
		else
			fail_msg("changed byte %zu was not seen", i);
	}
	assert_true(wrong > 60);
	OPENSSL_free(der);
	X509_free(certificate);
	client_close(&client);
}

static void dns_names_and_addresses(void **state)
{
	static const struct {
		const char *text, *sni;
	} names[] = {
		{ "www.example.org", "www.example.org" },
		{ "www.example.org", "WWW.example.ORG" },
		{ "xn--bcher-kva.example", "xn--bcher-kva.example" },
		{ "192.0.2.1", "1.2.0.192.in-addr.arpa" },
		{ "2001:db8::1",
		  "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa" },
		{ "2001:db8::1",
		  "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.IP6.ARPA" },
	};
	uint8_t digest[CHALLENGE_DIGEST] = { 0x80, 0xff, 0, 1 };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		digest[4] = (uint8_t)i;
		assert_int_equal(wait_for(add(names[i].text, digest)), KEEPER_DONE);
		validate(TLS1_3_VERSION, names[i].sni, names[i].text, digest);
		validate(TLS1_2_VERSION, names[i].sni, names[i].text, digest);
	}
	wait_for_counter("answered", 12);
}

static void the_longest_name(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 9 };
	char text[NAME_MAX_LEN + 1];

	for (size_t i = 0; i < NAME_MAX_LEN; i++)
		text[i] = i % 64 == 63 ? '.' : 'a';
	text[NAME_MAX_LEN] = '\0';
	assert_int_equal(wait_for(add(text, digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, text, text, digest);
}

static void refusals(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 1 };
	static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		int v = versions[i];

		assert_int_equal(refused(v, NULL, "www.example.org"),
				 SSL_AD_NO_APPLICATION_PROTOCOL);
		assert_int_equal(refused(v, HTTP_ALPN, "www.example.org"),
				 SSL_AD_NO_APPLICATION_PROTOCOL);
		assert_int_equal(refused(v, HTTP_ALPN ACME_ALPN, "www.example.org"),
				 SSL_AD_NO_APPLICATION_PROTOCOL);
		assert_int_equal(refused(v, ACME_ALPN HTTP_ALPN, "www.example.org"),
				 SSL_AD_NO_APPLICATION_PROTOCOL);
		assert_int_equal(refused(v, ACME_ALPN, "example.org"), SSL_AD_UNRECOGNIZED_NAME);
		assert_int_equal(refused(v, ACME_ALPN, NULL), SSL_AD_UNRECOGNIZED_NAME);
	}
	assert_int_equal(refused(TLS1_1_VERSION, ACME_ALPN, "www.example.org"),
			 SSL_AD_PROTOCOL_VERSION);
	wait_for_counter("other_protocol", 8);
	wait_for_counter("unknown_name", 4);
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
}

static void replace_and_remove(void **state)
{
	uint8_t digest[CHALLENGE_DIGEST] = { 1 };

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
	digest[0] = 2;
	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
	assert_int_equal(wait_for(take_away("absent.example.org")), KEEPER_DONE);
	assert_int_equal(wait_for(take_away("www.example.org")), KEEPER_DONE);
	assert_int_equal(refused(TLS1_3_VERSION, ACME_ALPN, "www.example.org"),
			 SSL_AD_UNRECOGNIZED_NAME);
}

static uint64_t cpu_ns(pid_t pid)
{
	struct timespec ts;
	clockid_t clock;

	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	assert_int_equal(clock_gettime(clock, &ts), 0);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void ten_thousand_names(void **state)
{
	uint8_t digest[CHALLENGE_DIGEST];
	uint64_t began = now_ns();
	uint64_t ticket = 0;
	char name[32];
	pid_t first;

	for (unsigned i = 0; i < CHALLENGE_MAX; i++) {
		numbered(i, name, digest);
		ticket = add(name, digest);
	}
	assert_int_equal(wait_for(ticket), KEEPER_DONE);
	print_message("%d names in %.0f ms\n", CHALLENGE_MAX, (double)(now_ns() - began) / 1e6);
	for (unsigned i = 0; i < CHALLENGE_MAX; i += 997) {
		numbered(i, name, digest);
		validate(TLS1_3_VERSION, name, name, digest);
	}
	first = responder_pid();
	began = cpu_ns(first);
	numbered(1, name, digest);
	for (unsigned i = 0; i < 500; i++)
		validate(TLS1_3_VERSION, name, name, digest);
	print_message("a validation takes %.0f us of CPU\n",
		      (double)(cpu_ns(first) - began) / 500e3);

	/* Killed: the next process knows them all, and what comes meanwhile waits for it. */
	began = now_ns();
	kill(first, SIGKILL);
	numbered(0, name, digest);
	ticket = add(name, digest);
	assert_int_equal(wait_for(ticket), KEEPER_DONE);
	print_message("killed, and all is answered again after %.0f ms\n",
		      (double)(now_ns() - began) / 1e6);
	assert_true(responder_pid() != first);
	numbered(9999, name, digest);
	validate(TLS1_3_VERSION, name, name, digest);
}

static void stalled_clients(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 5 };
	static const uint8_t begun[] = { 0x16, 0x03, 0x01, 0x02, 0x00, 0x01 };
	uint64_t began;
	char byte;
	int fd;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	fd = tcp_connect();
	began = now_ns();
	assert_int_equal(send(fd, begun, sizeof(begun), MSG_NOSIGNAL), sizeof(begun));
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
	assert_true(recv(fd, &byte, 1, 0) <= 0);
	assert_in_range(now_ns() - began, ANSWER_HANDSHAKE_NS - NSEC_PER_SEC / 2,
			ANSWER_HANDSHAKE_NS + 3 * NSEC_PER_SEC);
	close(fd);
	wait_for_counter("timed_out", 1);
}

static void a_crowd_of_stalled_clients(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 6 };
	static int fds[ANSWER_MAX_CONNS + 100];
	struct rlimit limit;
	size_t n;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	n = MIN(ARRAY_SIZE(fds), limit.rlim_max - 50);
	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	for (size_t i = 0; i < n; i++)
		fds[i] = tcp_connect();
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
	if (n > ANSWER_MAX_CONNS)
		wait_for_counter("crowded_out", (int64_t)n - ANSWER_MAX_CONNS);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static void garbage(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 7 };
	uint8_t bytes[600];
	uint32_t seed = 7;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	for (int round = 0; round < 200; round++) {
		int fd = tcp_connect();

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
		if (round % 2)
			memcpy(bytes, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
		send(fd, bytes, 1 + seed % sizeof(bytes), MSG_NOSIGNAL);
		close(fd);
	}
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(the_checker_finds_faults),
		TEST(dns_names_and_addresses),
		TEST(the_longest_name),
		TEST(refusals),
		TEST(replace_and_remove),
		TEST(ten_thousand_names),
		TEST(stalled_clients),
		TEST(a_crowd_of_stalled_clients),
		TEST(garbage),
	};

	if (is_responder(argc, argv))
		return responder_run();
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("responder", tests, NULL, NULL);
}
