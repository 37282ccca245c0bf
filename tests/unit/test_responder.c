/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: keeper.c starter.c responder.c answer.c certificate.c isolate.c filter.c challenge.c timers.c name.c addr.c log.c log_record.c
/*
 * The built-in responder, from the resident process's end (keeper) and from a CA's. This program is
 * the responder, too: keeper starts it again with "responder" as its first argument.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "keeper.h"
#include "rfc8737_check.h"
#include "util.h"

#define ACME_ALPN \
	"\x0a"    \
	"acme-tls/1"
#define HTTP_ALPN \
	"\x02"    \
	"h2"
#define PATIENCE_NS (20 * NSEC_PER_SEC)

static struct keeper *keeper;
static struct endpoint at;
static struct challenge_set challenges; /* what a new process is told */

static void fill(void *ctx, struct keeper *new)
{
	for (const struct challenge *c = NULL; (c = challenge_set_next(&challenges, c));)
		keeper_add(new, &c->name, c->digest);
}

static enum keeper_answer wait_for(uint64_t ticket)
{
	uint64_t end_ns = now_ns() + PATIENCE_NS;
	enum keeper_answer answer;

	for (;;) {
		struct pollfd pollfd = { .fd = keeper_fd(keeper), .events = POLLIN };
		uint64_t now = now_ns();
		uint64_t next = keeper_tick(keeper, now);

		answer = keeper_done(keeper, ticket);
		if (answer != KEEPER_NOT_YET)
			return answer;
		assert_true(now < end_ns);
		next = MIN(next, end_ns);
		poll(&pollfd, 1, next <= now ? 0 : (int)((next - now) / NSEC_PER_MSEC + 1));
	}
}

static int start(void **state)
{
	char error[256];

	if (keeper_new(fill, NULL, &keeper) < 0)
		return -1;
	return keeper_start(keeper, &at, error, sizeof(error));
}

static int stop(void **state)
{
	keeper_free(keeper);
	keeper = NULL;
	challenge_set_clear(&challenges);
	return 0;
}

static uint64_t add(const char *text, const uint8_t digest[CHALLENGE_DIGEST])
{
	struct name name;
	char error[256];
	bool replaced;

	assert_null(name_parse(text, &name));
	assert_int_equal(challenge_set_add(&challenges, &name, digest, 443, UINT64_MAX, &replaced,
					   error, sizeof(error)),
			 0);
	return keeper_add(keeper, &name, digest);
}

static uint64_t take_away(const char *text)
{
	struct name name;

	assert_null(name_parse(text, &name));
	challenge_set_remove(&challenges, name.sni);
	return keeper_remove(keeper, &name);
}

static pid_t responder_pid(void)
{
	struct json_object *report = keeper_report(keeper), *pid;
	pid_t answer;

	json_object_object_get_ex(report, "pid", &pid);
	answer = json_object_get_int(pid);
	json_object_put(report);
	return answer;
}

static int64_t counter(const char *name)
{
	struct json_object *report = keeper_report(keeper), *counters, *value;
	int64_t answer;

	json_object_object_get_ex(report, "counters", &counters);
	assert_true(json_object_object_get_ex(counters, name, &value));
	answer = json_object_get_int64(value);
	json_object_put(report);
	return answer;
}

static void wait_for_counter(const char *name, int64_t value)
{
	uint64_t end_ns = now_ns() + PATIENCE_NS;

	while (counter(name) < value) {
		struct pollfd pollfd = { .fd = keeper_fd(keeper), .events = POLLIN };

		assert_true(now_ns() < end_ns);
		keeper_tick(keeper, now_ns());
		poll(&pollfd, 1, 10);
	}
}

/* A CA's connection. */
struct client {
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
};

static int tcp_connect(void)
{
	struct timeval patience = { .tv_sec = 20 };
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(&at, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* 0, or the TLS alert that came. */
static int client_open(struct client *client, int version, const char *alpn, const char *sni)
{
	int r;

	client->ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_cipher_list(client->ctx, "DEFAULT:@SECLEVEL=0"); /* for TLS 1.1 */
	SSL_CTX_set_min_proto_version(client->ctx, version);
	SSL_CTX_set_max_proto_version(client->ctx, version);
	client->ssl = SSL_new(client->ctx);
	if (alpn)
		SSL_set_alpn_protos(client->ssl, (const unsigned char *)alpn,
				    (unsigned)strlen(alpn));
	if (sni)
		SSL_set_tlsext_host_name(client->ssl, sni);
	client->fd = tcp_connect();
	SSL_set_fd(client->ssl, client->fd);
	ERR_clear_error();
	r = SSL_connect(client->ssl);
	if (r == 1)
		return 0;
	r = ERR_GET_REASON(ERR_peek_error());
	return r > SSL_AD_REASON_OFFSET ? r - SSL_AD_REASON_OFFSET : -1;
}

static void client_close(struct client *client)
{
	SSL_free(client->ssl);
	SSL_CTX_free(client->ctx);
	close(client->fd);
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

static void check_certificate(SSL *ssl, const char *text, const uint8_t digest[CHALLENGE_DIGEST])
{
	X509 *certificate = SSL_get1_peer_certificate(ssl);
	unsigned char *der = NULL;
	struct name name;
	const char *fault;
	int len;

	assert_non_null(certificate);
	assert_null(name_parse(text, &name));
	len = i2d_X509(certificate, &der);
	if (name.address_len)
		fault = rfc8737_fault(der, (size_t)len, name.address, name.address_len, true,
				      digest);
	else
		fault = rfc8737_fault(der, (size_t)len, name.sni, strlen(name.sni), false, digest);
	if (fault)
		fail_msg("%s: %s", text, fault);

	/* Self-signed, by a key that nobody can know from elsewhere; valid now. */
	assert_int_equal(X509_NAME_cmp(X509_get_issuer_name(certificate),
				       X509_get_subject_name(certificate)),
			 0);
	assert_int_equal(X509_verify(certificate, X509_get0_pubkey(certificate)), 1);
	assert_int_equal(sk_X509_num(SSL_get_peer_cert_chain(ssl)), 1);
	assert_true(X509_cmp_current_time(X509_get0_notBefore(certificate)) < 0);
	assert_true(X509_cmp_current_time(X509_get0_notAfter(certificate)) > 0);
	OPENSSL_free(der);
	X509_free(certificate);
}

/* A whole validation, as a CA does it. */
static void validate(int version, const char *sni, const char *text,
		     const uint8_t digest[CHALLENGE_DIGEST])
{
	struct client client;
	const unsigned char *alpn;
	unsigned alpn_len;
	char byte;
	int r;

	assert_int_equal(client_open(&client, version, ACME_ALPN, sni), 0);
	assert_int_equal(SSL_version(client.ssl), version);
	SSL_get0_alpn_selected(client.ssl, &alpn, &alpn_len);
	assert_int_equal(alpn_len, 10);
	assert_memory_equal(alpn, "acme-tls/1", 10);
	check_certificate(client.ssl, text, digest);
	/* RFC 8737 section 3: after the handshake no data, but the close. */
	r = SSL_read(client.ssl, &byte, 1);
	assert_int_equal(r, 0);
	assert_int_equal(SSL_get_error(client.ssl, r), SSL_ERROR_ZERO_RETURN);
	assert_int_equal(recv(client.fd, &byte, 1, 0), 0);
	client_close(&client);
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

static void numbered(unsigned i, char name[32], uint8_t digest[CHALLENGE_DIGEST])
{
	sprintf(name, "host-%u.example", i);
	memset(digest, 0, CHALLENGE_DIGEST);
	memcpy(digest, &i, sizeof(i));
}

/* CPU time of another process. */
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

static void a_connection_between_two_processes(void **state)
{
	uint8_t digest[CHALLENGE_DIGEST];
	uint64_t ticket = 0;
	char name[32];
	int status;
	pid_t ca;

	for (unsigned i = 0; i < 2000; i++) {
		numbered(i, name, digest);
		ticket = add(name, digest);
	}
	assert_int_equal(wait_for(ticket), KEEPER_DONE);
	for (int round = 0; round < 5; round++) {
		kill(responder_pid(), SIGKILL);
		ca = fork();
		if (ca == 0) {
			for (unsigned i = 1900; i < 1910; i++) {
				numbered(i, name, digest);
				validate(TLS1_3_VERSION, name, name, digest);
			}
			_exit(0);
		}
		poll(NULL, 0, 20); /* it has connected, most likely */
		numbered(1999, name, digest);
		assert_int_equal(wait_for(add(name, digest)), KEEPER_DONE);
		while (waitpid(ca, &status, WNOHANG) == 0) {
			keeper_tick(keeper, now_ns());
			poll(NULL, 0, 5);
		}
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

static void one_that_does_not_answer_is_replaced(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 4 };
	uint64_t began;
	pid_t first;

	assert_int_equal(wait_for(add("a.example", digest)), KEEPER_DONE);
	first = responder_pid();
	kill(first, SIGSTOP);
	assert_int_equal(wait_for(add("b.example", digest)), KEEPER_DONE);
	assert_true(responder_pid() != first);
	/* Nobody has to want something for that. */
	first = responder_pid();
	began = now_ns();
	kill(first, SIGSTOP);
	while (responder_pid() == first || responder_pid() == 0) {
		keeper_tick(keeper, now_ns());
		assert_true(now_ns() - began < PATIENCE_NS);
		poll(NULL, 0, 20);
	}
	assert_int_equal(wait_for(add("a.example", digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, "a.example", "a.example", digest);
	validate(TLS1_3_VERSION, "b.example", "b.example", digest);
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

/* The value of a line of /proc/PID/status, as it begins. */
static void assert_status(pid_t pid, const char *key, const char *value)
{
	char path[64], line[256];
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	assert_non_null(file);
	while (!found && fgets(line, sizeof(line), file))
		if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':') {
			found = true;
			if (strncmp(line + strlen(key) + 2, value, strlen(value)) != 0)
				fail_msg("%s is %s", key, line + strlen(key) + 2);
		}
	fclose(file);
	assert_true(found);
}

static void it_has_no_rights(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 8 };
	char path[64], root[256];
	ssize_t n;
	pid_t pid;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	pid = responder_pid();
	assert_status(pid, "NoNewPrivs", "1");
	assert_status(pid, "Seccomp", "2");
	assert_status(pid, "CapPrm", "0000000000000000");
	assert_status(pid, "CapEff", "0000000000000000");
	assert_status(pid, "CapInh", "0000000000000000");
	assert_status(pid, "CapAmb", "0000000000000000");
	assert_status(pid, "Threads", "1");
	if (geteuid() != 0)
		return;
	assert_status(pid, "CapBnd", "0000000000000000");
	assert_status(pid, "Uid", "65534\t65534\t65534\t65534");
	assert_status(pid, "Gid", "65534\t65534\t65534\t65534");
	assert_status(pid, "Groups", " \n");
	snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
	n = readlink(path, root, sizeof(root) - 1);
	assert_true(n > 0);
	root[n] = '\0';
	assert_non_null(strstr(root, "(deleted)"));
}

static void stopping_finishes_what_has_begun(void **state)
{
	static const uint8_t digest[CHALLENGE_DIGEST] = { 10 };
	struct client client = { .ctx = SSL_CTX_new(TLS_client_method()) };
	uint64_t began;

	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	client.ssl = SSL_new(client.ctx);
	SSL_set_alpn_protos(client.ssl, (const unsigned char *)ACME_ALPN, sizeof(ACME_ALPN) - 1);
	SSL_set_tlsext_host_name(client.ssl, "www.example.org");
	client.fd = tcp_connect(); /* perhaps not accepted yet */
	keeper_stop(keeper);
	assert_true(keeper_is_off(keeper));
	assert_false(keeper_is_idle(keeper));
	SSL_set_fd(client.ssl, client.fd);
	assert_int_equal(SSL_connect(client.ssl), 1);
	check_certificate(client.ssl, "www.example.org", digest);
	client_close(&client);

	began = now_ns();
	while (!keeper_is_idle(keeper)) {
		struct pollfd pollfd = { .fd = keeper_fd(keeper), .events = POLLIN };

		keeper_tick(keeper, now_ns());
		assert_true(now_ns() - began < 2 * RESPONDER_END_NS);
		poll(&pollfd, 1, 100);
	}
	assert_int_equal(wait_for(1), KEEPER_FAILED);
	/* And it can be started again. */
	assert_int_equal(keeper_start(keeper, &at, (char[256]){}, 256), 0);
	assert_int_equal(wait_for(add("www.example.org", digest)), KEEPER_DONE);
	validate(TLS1_3_VERSION, "www.example.org", "www.example.org", digest);
}

static void a_stalled_client_does_not_hold_up_the_end(void **state)
{
	uint64_t began = now_ns();
	int fd;

	assert_int_equal(wait_for(add("www.example.org", (uint8_t[CHALLENGE_DIGEST]){ 11 })),
			 KEEPER_DONE);
	fd = tcp_connect();
	keeper_stop(keeper);
	while (!keeper_is_idle(keeper)) {
		struct pollfd pollfd = { .fd = keeper_fd(keeper), .events = POLLIN };

		keeper_tick(keeper, now_ns());
		assert_true(now_ns() - began < 3 * RESPONDER_END_NS);
		poll(&pollfd, 1, 100);
	}
	close(fd);
}

/* A process of its own is the resident process, and is killed. */
static void it_ends_with_its_parent(void **state)
{
	struct pollfd pollfd = { .events = POLLIN };
	pid_t parent, responder;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	parent = fork();
	if (parent == 0) {
		if (start(NULL) < 0)
			_exit(1);
		wait_for(add("www.example.org", (uint8_t[CHALLENGE_DIGEST]){ 12 }));
		responder = responder_pid();
		if (write(fds[1], &responder, sizeof(responder)) < 0)
			_exit(1);
		pause();
		_exit(1);
	}
	assert_int_equal(read(fds[0], &responder, sizeof(responder)), sizeof(responder));
	pollfd.fd = pidfd_open(responder, 0);
	assert_true(pollfd.fd >= 0);
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	kill(parent, SIGKILL);
	assert_int_equal(poll(&pollfd, 1, 5000), 1);
	waitpid(parent, NULL, 0);
	close(pollfd.fd);
	close(fds[0]);
	close(fds[1]);
}

/* In a process of its own, for it can't raise its limits again. */
static void one_that_cannot_start(void **state)
{
	const struct rlimit few = { 16, 16 };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		bool right = setrlimit(RLIMIT_NOFILE, &few) == 0 && start(NULL) == 0 &&
			     wait_for(add("www.example.org", (uint8_t[CHALLENGE_DIGEST]){ 13 })) ==
				     KEEPER_FAILED &&
			     strstr(keeper_error(keeper), "descriptors") && !keeper_is_off(keeper);

		stop(NULL);
		_exit(right ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_checker_finds_faults, start, stop),
		cmocka_unit_test_setup_teardown(dns_names_and_addresses, start, stop),
		cmocka_unit_test_setup_teardown(the_longest_name, start, stop),
		cmocka_unit_test_setup_teardown(refusals, start, stop),
		cmocka_unit_test_setup_teardown(replace_and_remove, start, stop),
		cmocka_unit_test_setup_teardown(ten_thousand_names, start, stop),
		cmocka_unit_test_setup_teardown(a_connection_between_two_processes, start, stop),
		cmocka_unit_test_setup_teardown(one_that_does_not_answer_is_replaced, start, stop),
		cmocka_unit_test_setup_teardown(stalled_clients, start, stop),
		cmocka_unit_test_setup_teardown(a_crowd_of_stalled_clients, start, stop),
		cmocka_unit_test_setup_teardown(garbage, start, stop),
		cmocka_unit_test_setup_teardown(it_has_no_rights, start, stop),
		cmocka_unit_test_setup_teardown(stopping_finishes_what_has_begun, start, stop),
		cmocka_unit_test_setup_teardown(a_stalled_client_does_not_hold_up_the_end, start,
						stop),
		cmocka_unit_test(it_ends_with_its_parent),
		cmocka_unit_test(one_that_cannot_start),
	};

	if (argc > 1 && strcmp(argv[1], "responder") == 0)
		return responder_run();
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("responder", tests, NULL, NULL);
}
