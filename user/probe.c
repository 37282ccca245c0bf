// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One TLS connection as a CA's validator makes it, or as a visitor does.
 *
 * A validator's ClientHello has a post-quantum key share nowadays and takes two segments. This
 * OpenSSL has none, so an extension of a number that is reserved for nobody's use (RFC 8701) makes
 * it as long: what can't take two segments, or drops the larger one, fails here as it will for the
 * CA.
 */
#include "probe.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "util.h"
#include "validate.h"

#define LONG_HELLO_EXTENSION 0x7a7a
#define LONG_HELLO_BYTES     1300 /* of the extension; some 1,600 for the whole */
#define RECORD_HEADER	     5	  /* bytes */
#define RESPONSE_MAX	     8192 /* bytes of an HTTP response that are looked at */

struct connection {
	const struct probe_request *request;
	struct probe_seen *seen;
	int fd;
	SSL *ssl;
	uint64_t deadline_ns;
	char first[RECORD_HEADER]; /* bytes that came */
	size_t n_first;
};

/* Copies @len bytes as printable ASCII, up to the end of a line when @line. */
static void copy_text(char *to, size_t size, const char *from, size_t len, bool line)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 1 < size; i++) {
		if (line && (from[i] == '\r' || from[i] == '\n'))
			break;
		to[n++] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
	}
	to[n] = '\0';
}

const char *probe_alert_name(unsigned alert)
{
	static const struct {
		unsigned number;
		const char *name;
	} alerts[] = {
		{ 0, "close_notify" },
		{ 10, "unexpected_message" },
		{ 20, "bad_record_mac" },
		{ 22, "record_overflow" },
		{ 40, "handshake_failure" },
		{ 47, "illegal_parameter" },
		{ 49, "access_denied" },
		{ 50, "decode_error" },
		{ 51, "decrypt_error" },
		{ 70, "protocol_version" },
		{ 71, "insufficient_security" },
		{ 80, "internal_error" },
		{ 86, "inappropriate_fallback" },
		{ 109, "missing_extension" },
		{ 110, "unsupported_extension" },
		{ 112, "unrecognized_name" },
		{ 116, "certificate_required" },
		{ 120, "no_application_protocol" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(alerts); i++)
		if (alerts[i].number == alert)
			return alerts[i].name;
	return "unknown";
}

/* The value of header @name (lower case), or NULL; *ret_len: its length. */
static const char *header(const char *headers, const char *name, size_t *ret_len)
{
	size_t len = strlen(name);

	for (const char *line = strchr(headers, '\n'); line; line = strchr(line, '\n')) {
		line++;
		if (strncasecmp(line, name, len) != 0 || line[len] != ':')
			continue;
		line += len + 1;
		line += strspn(line, " \t");
		*ret_len = strcspn(line, "\r\n");
		return line;
	}
	return NULL;
}

const char *probe_cdn(const char *headers)
{
	/* What they say of themselves, in headers that web servers don't have otherwise. */
	static const struct {
		const char *header, *begin, *cdn;
	} known[] = {
		{ "server", "cloudflare", "Cloudflare" },
		{ "cf-ray", "", "Cloudflare" },
		{ "server", "AkamaiGHost", "Akamai" },
		{ "x-amz-cf-id", "", "Amazon CloudFront" },
		{ "server", "CloudFront", "Amazon CloudFront" },
		{ "x-served-by", "cache-", "Fastly" },
		{ "x-azure-ref", "", "Azure Front Door" },
		{ "server", "BunnyCDN", "bunny.net" },
		{ "server", "keycdn", "KeyCDN" },
		{ "x-sucuri-id", "", "Sucuri" },
		{ "x-iinfo", "", "Imperva" },
		{ "via", "1.1 google", "Google Cloud" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		size_t len;
		const char *value = header(headers, known[i].header, &len);

		if (value && len >= strlen(known[i].begin) &&
		    strncasecmp(value, known[i].begin, strlen(known[i].begin)) == 0)
			return known[i].cdn;
	}
	return NULL;
}

/* poll() until the deadline: 0 or -ETIMEDOUT. */
static int wait_for(const struct connection *connection, short events)
{
	struct pollfd pollfd = { .fd = connection->fd, .events = events };

	for (;;) {
		uint64_t now = now_ns();
		uint64_t left = connection->deadline_ns > now ? connection->deadline_ns - now : 0;
		int n = poll(&pollfd, 1, (int)((left + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC));

		if (n > 0)
			return 0;
		if (n == 0 && left == 0)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

/* @at_once: connect() itself said so, before any packet was sent. */
static enum probe_end connect_end(int error, bool at_once)
{
	switch (error) {
	case ECONNREFUSED:
	case ECONNRESET:
		return PROBE_REFUSED;
	case ETIMEDOUT:
		return PROBE_TIMEOUT;
	default:
		return at_once ? PROBE_NO_ROUTE : PROBE_UNREACHABLE;
	}
}

/* True when there is a TCP connection; else seen->end says how it ended. */
static bool tcp_connect(struct connection *connection)
{
	struct probe_seen *seen = connection->seen;
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(&connection->request->address, &sa);
	socklen_t error_len = sizeof(seen->error);

	connection->fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connection->fd < 0) {
		seen->error = errno;
		seen->end = PROBE_NO_ROUTE;
		return false;
	}
	if (connect(connection->fd, (struct sockaddr *)&sa, len) == 0)
		return true;
	if (errno != EINPROGRESS) {
		seen->error = errno;
		seen->end = connect_end(errno, true);
		return false;
	}
	if (wait_for(connection, POLLOUT) < 0) {
		seen->error = ETIMEDOUT;
		seen->end = PROBE_TIMEOUT;
		return false;
	}
	getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &seen->error, &error_len);
	if (seen->error)
		seen->end = connect_end(seen->error, false);
	return seen->error == 0;
}

static int add_long_extension(SSL *ssl, unsigned type, unsigned context, const unsigned char **out,
			      size_t *out_len, X509 *certificate, size_t chain_index, int *alert,
			      void *arg)
{
	static const unsigned char nothing[LONG_HELLO_BYTES];

	*out = nothing;
	*out_len = sizeof(nothing);
	return 1;
}

static SSL_CTX *new_context(enum probe_hello hello)
{
	static const unsigned char acme[] = "\012acme-tls/1";
	static const unsigned char http[] = "\010http/1.1";
	bool visitor = hello == PROBE_AS_A_VISITOR;
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());

	if (!context)
		return NULL;
	/* Nobody's key is judged here, only looked at. */
	SSL_CTX_set_security_level(context, 0);
	SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
	if (!SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) ||
	    SSL_CTX_set_alpn_protos(context, visitor ? http : acme,
				    visitor ? sizeof(http) - 1 : sizeof(acme) - 1) != 0 ||
	    (hello == PROBE_AS_CA &&
	     !SSL_CTX_add_custom_ext(context, LONG_HELLO_EXTENSION, SSL_EXT_CLIENT_HELLO,
				     add_long_extension, NULL, NULL, NULL, NULL))) {
		SSL_CTX_free(context);
		return NULL;
	}
	return context;
}

/* Keeps the first bytes that OpenSSL reads, for when they are no TLS record. */
static long keep_first(BIO *bio, int operation, const char *data, size_t len, int argi, long argl,
		       int ret, size_t *processed)
{
	struct connection *connection = (struct connection *)(void *)BIO_get_callback_arg(bio);

	if (operation != (BIO_CB_READ | BIO_CB_RETURN) || ret <= 0)
		return ret;
	for (size_t i = 0; i < *processed && connection->n_first < sizeof(connection->first); i++)
		connection->first[connection->n_first++] = data[i];
	return ret;
}

/* What has come is no TLS. OpenSSL has read a record's header of it, and no more. */
static bool is_not_tls(struct connection *connection)
{
	char text[PROBE_TEXT];
	size_t len = MIN(connection->n_first, (size_t)RECORD_HEADER);
	ssize_t n;

	/* The content types of RFC 8446, and of those before. */
	if (len == 0 || (connection->first[0] >= 20 && connection->first[0] <= 24))
		return false;
	memcpy(text, connection->first, len);
	n = recv(connection->fd, text + len, sizeof(text) - len, MSG_DONTWAIT);
	copy_text(connection->seen->text, sizeof(connection->seen->text), text,
		  len + (n > 0 ? (size_t)n : 0), true);
	return true;
}

static enum probe_end error_end(struct connection *connection, int ssl_error, int saved_errno)
{
	struct probe_seen *seen = connection->seen;
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);

	if (ssl_error == SSL_ERROR_SYSCALL)
		return saved_errno == ECONNRESET || saved_errno == EPIPE ? PROBE_RESET
									 : PROBE_CLOSED;
	if (ssl_error == SSL_ERROR_ZERO_RETURN || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return PROBE_CLOSED;
	if (is_not_tls(connection))
		return PROBE_NOT_TLS;
	if (reason >= SSL_AD_REASON_OFFSET) {
		seen->alert = (unsigned)(reason - SSL_AD_REASON_OFFSET);
		return PROBE_ALERT;
	}
	snprintf(seen->text, sizeof(seen->text), "%s",
		 code ? ERR_reason_error_string(code) : "no reason given");
	return PROBE_ODD_TLS;
}

static enum probe_end handshake(struct connection *connection)
{
	for (;;) {
		int r, error, saved_errno;

		ERR_clear_error();
		errno = 0;
		r = SSL_connect(connection->ssl);
		saved_errno = errno;
		if (r == 1)
			return PROBE_ANSWERED;
		error = SSL_get_error(connection->ssl, r);
		if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
			return error_end(connection, error, saved_errno);
		if (wait_for(connection, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT) < 0)
			return PROBE_SILENT;
	}
}

static void print_name(const X509_NAME *name, char *buf, size_t size)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;
	long len;

	if (!bio)
		return;
	X509_NAME_print_ex(bio, name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
	len = BIO_get_mem_data(bio, &text);
	copy_text(buf, size, text, len > 0 ? (size_t)len : 0, false);
	BIO_free(bio);
}

static void print_alt_names(X509 *certificate, char *buf, size_t size)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	size_t len = 0;

	buf[0] = '\0';
	for (int i = 0; i < sk_GENERAL_NAME_num(names) && len + 1 < size; i++) {
		int type;
		const ASN1_STRING *value =
			GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
		char text[ENDPOINT_STRLEN + 256] = "";

		if (type == GEN_DNS) {
			copy_text(text, sizeof(text), (const char *)ASN1_STRING_get0_data(value),
				  (size_t)ASN1_STRING_length(value), false);
		} else if (type == GEN_IPADD &&
			   (ASN1_STRING_length(value) == 4 || ASN1_STRING_length(value) == 16)) {
			struct name name = { .address_len = (uint8_t)ASN1_STRING_length(value) };

			memcpy(name.address, ASN1_STRING_get0_data(value), name.address_len);
			name_format(&name, text);
		} else {
			continue;
		}
		len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? ", " : "", text);
	}
	sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
}

static void see_certificate(struct probe_seen *seen, X509 *certificate, const struct name *name)
{
	struct probe_certificate *to = &seen->certificate;
	struct validated validated;
	uint8_t hash[EVP_MAX_MD_SIZE];
	unsigned hash_len = 0;
	struct tm tm = {};

	validate_certificate(certificate, name, &validated);
	seen->acme_fault = validated.fault;
	seen->has_digest = validated.has_digest;
	memcpy(seen->digest, validated.digest, sizeof(seen->digest));
	seen->has_certificate = true;
	print_name(X509_get_subject_name(certificate), to->subject, sizeof(to->subject));
	print_name(X509_get_issuer_name(certificate), to->issuer, sizeof(to->issuer));
	print_alt_names(certificate, to->names, sizeof(to->names));
	if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm))
		strftime(to->not_after, sizeof(to->not_after), "%Y-%m-%dT%H:%M:%SZ", &tm);
	X509_digest(certificate, EVP_sha256(), hash, &hash_len);
	for (unsigned i = 0; i < hash_len && 2 * i + 2 < sizeof(to->sha256); i++)
		sprintf(to->sha256 + 2 * i, "%02x", hash[i]);
	to->is_for_name = validate_is_for(certificate, name);
	to->self_signed = X509_self_signed(certificate, 1) == 1;
	to->in_time = X509_cmp_current_time(X509_get0_notBefore(certificate)) < 0 &&
		      X509_cmp_current_time(X509_get0_notAfter(certificate)) > 0;
}

static void see_handshake(struct connection *connection)
{
	struct probe_seen *seen = connection->seen;
	X509 *certificate = SSL_get0_peer_certificate(connection->ssl);
	const unsigned char *alpn;
	unsigned alpn_len;

	SSL_get0_alpn_selected(connection->ssl, &alpn, &alpn_len);
	copy_text(seen->alpn, sizeof(seen->alpn), (const char *)alpn, alpn_len, false);
	snprintf(seen->tls, sizeof(seen->tls), "%s", SSL_get_version(connection->ssl));
	if (certificate)
		see_certificate(seen, certificate, connection->request->name);
}

/* Asks for "/" and reads the response's headers: who is it? No answer is no news. */
static void see_response(struct connection *connection)
{
	static const char format[] = "HEAD / HTTP/1.1\r\nHost: %s\r\nUser-Agent: acme-steer/%s\r\n"
				     "Accept: */*\r\nConnection: close\r\n\r\n";
	char name[NAME_MAX_LEN + 1], request[sizeof(format) + NAME_MAX_LEN + 32];
	char response[RESPONSE_MAX + 1] = "";
	size_t len = 0, value_len;
	const char *value;

	snprintf(request, sizeof(request), format, name_format(connection->request->name, name),
		 ACME_STEER_VERSION);
	if (SSL_write(connection->ssl, request, (int)strlen(request)) <= 0)
		return;
	while (len < RESPONSE_MAX && !strstr(response, "\r\n\r\n")) {
		int n = SSL_read(connection->ssl, response + len, (int)(RESPONSE_MAX - len));

		if (n > 0) {
			len += (size_t)n;
			response[len] = '\0';
		} else if (SSL_get_error(connection->ssl, n) != SSL_ERROR_WANT_READ ||
			   wait_for(connection, POLLIN) < 0) {
			break;
		}
	}
	if (strncmp(response, "HTTP/", 5) != 0)
		return;
	connection->seen->cdn = probe_cdn(response);
	value = header(response, "server", &value_len);
	if (value)
		copy_text(connection->seen->server, sizeof(connection->seen->server), value,
			  value_len, true);
}

/* An address has no SNI but a CA's, which is its reverse name (RFC 8738 section 6). */
static bool set_sni(SSL *ssl, const struct probe_request *request)
{
	if (request->hello == PROBE_AS_A_VISITOR && request->name->address_len)
		return true;
	return SSL_set_tlsext_host_name(ssl, request->name->sni) == 1;
}

int probe_run(const struct probe_request *request, struct probe_seen *ret_seen)
{
	struct connection connection = { .request = request, .seen = ret_seen, .fd = -1 };
	SSL_CTX *context = new_context(request->hello);
	uint64_t began_ns = now_ns();
	int err = 0;

	*ret_seen = (struct probe_seen){};
	if (!context)
		return -ENOMEM;
	connection.deadline_ns = began_ns + request->timeout_ns;
	if (tcp_connect(&connection)) {
		connection.deadline_ns = now_ns() + request->timeout_ns;
		connection.ssl = SSL_new(context);
		if (connection.ssl && SSL_set_fd(connection.ssl, connection.fd) &&
		    set_sni(connection.ssl, request)) {
			BIO_set_callback_arg(SSL_get_rbio(connection.ssl), (char *)&connection);
			BIO_set_callback_ex(SSL_get_rbio(connection.ssl), keep_first);
			ret_seen->end = handshake(&connection);
			if (ret_seen->end == PROBE_ANSWERED)
				see_handshake(&connection);
			if (ret_seen->end == PROBE_ANSWERED && request->hello == PROBE_AS_A_VISITOR)
				see_response(&connection);
		} else {
			err = -ENOMEM;
		}
	}
	ret_seen->ms = (unsigned)((now_ns() - began_ns) / NSEC_PER_MSEC);
	SSL_free(connection.ssl);
	SSL_CTX_free(context);
	cleanup_close(&connection.fd);
	return err;
}
