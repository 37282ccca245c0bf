/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The built-in responder, from the resident process's end (keeper) and from a CA's. */
#ifndef RESPONDER_BENCH_H
#define RESPONDER_BENCH_H

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
#include <sys/socket.h>

#include "keeper.h"
#include "rfc8737_check.h"
#include "tls_program.h"
#include "util.h"

#define ACME_ALPN \
	"\x0a"    \
	"acme-tls/1"
#define PATIENCE_NS (20 * NSEC_PER_SEC)

static struct keeper *keeper;
static struct endpoint at;
static struct challenge_set challenges; /* what a new process is told */

/* The test is the responder's program, too. */
int tls_program_open(void)
{
	return open("/proc/self/exe", O_PATH | O_CLOEXEC);
}

const char *tls_program_fault(int err)
{
	return strerror(-err);
}

const char *tls_program_remedy(int err)
{
	return NULL;
}

static inline void fill(void *ctx, struct keeper *new)
{
	for (const struct challenge *c = NULL; (c = challenge_set_next(&challenges, c));)
		keeper_add(new, &c->name, c->digest);
}

static inline enum keeper_answer wait_for(uint64_t ticket)
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

static inline int start(void **state)
{
	char error[256];

	if (keeper_new(fill, NULL, &keeper) < 0)
		return -1;
	return keeper_start(keeper, &at, error, sizeof(error));
}

static inline int stop(void **state)
{
	keeper_free(keeper);
	keeper = NULL;
	challenge_set_clear(&challenges);
	return 0;
}

static inline uint64_t add(const char *text, const uint8_t digest[CHALLENGE_DIGEST])
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

static inline pid_t responder_pid(void)
{
	struct json_object *report = keeper_report(keeper), *pid;
	pid_t answer;

	json_object_object_get_ex(report, "pid", &pid);
	answer = json_object_get_int(pid);
	json_object_put(report);
	return answer;
}

static inline int64_t counter(const char *name)
{
	struct json_object *report = keeper_report(keeper), *counters, *value;
	int64_t answer;

	json_object_object_get_ex(report, "counters", &counters);
	assert_true(json_object_object_get_ex(counters, name, &value));
	answer = json_object_get_int64(value);
	json_object_put(report);
	return answer;
}

static inline void wait_for_counter(const char *name, int64_t value)
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

static inline int tcp_connect(void)
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
static inline int client_open(struct client *client, int version, const char *alpn, const char *sni)
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

static inline void client_close(struct client *client)
{
	SSL_free(client->ssl);
	SSL_CTX_free(client->ctx);
	close(client->fd);
}

static inline void check_certificate(SSL *ssl, const char *text,
				     const uint8_t digest[CHALLENGE_DIGEST])
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
static inline void validate(int version, const char *sni, const char *text,
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

/* One of many. */
static inline void numbered(unsigned i, char name[32], uint8_t digest[CHALLENGE_DIGEST])
{
	sprintf(name, "host-%u.example", i);
	memset(digest, 0, CHALLENGE_DIGEST);
	memcpy(digest, &i, sizeof(i));
}

/* CPU time of another process. */

#define TEST(f) cmocka_unit_test_setup_teardown(f, start, stop)

/* Keeper starts this program again, as the responder. */
static inline bool is_responder(int argc, char **argv)
{
	return argc > 1 && strcmp(argv[1], "responder") == 0;
}

#endif
