// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * TLS connections that ask for acme-tls/1.
 *
 *   HANDSHAKING  until the handshake is done, or refused with an alert; ANSWER_HANDSHAKE_NS.
 *   CLOSING      our end is closed, after close_notify or an alert (RFC 8737 section 3: nothing
 * else is sent). What the client still sends is thrown away until it closes too, since a close with
 * unread bytes would be a reset that overtakes them; ANSWER_CLOSING_NS. UNUSED       kept, with its
 * certificate, for the next connection.
 *
 * Each list has the oldest first, and all in it the same time limit, so the first one is the next
 * to end. Memory of connections is never given back before the end, so a late event can't point to
 * nothing.
 */
#include "answer.h"

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "certificate.h"
#include "util.h"

#define SNI_HOST_NAME 0 /* RFC 6066 section 3 */

enum answer_state { UNUSED, HANDSHAKING, CLOSING };

struct answer {
	enum answer_state state;
	int fd;
	SSL *ssl;
	X509 *certificate;
	bool refused;	 /* counted already */
	uint32_t events; /* that epoll watches */
	uint64_t deadline_ns;
	struct answer *previous, *next;
};

static const uint8_t acme_alpn[] = { 0, 11, 10, 'a', 'c', 'm', 'e', '-', 't', 'l', 's', '/', '1' };

static void list_append(struct answer_list *list, struct answer *answer)
{
	answer->previous = list->last;
	answer->next = NULL;
	*(list->last ? &list->last->next : &list->first) = answer;
	list->last = answer;
}

static void list_remove(struct answer_list *list, struct answer *answer)
{
	*(answer->previous ? &answer->previous->next : &list->first) = answer->next;
	*(answer->next ? &answer->next->previous : &list->last) = answer->previous;
}

static struct answer_list *list_of(struct answerer *answerer, enum answer_state state)
{
	switch (state) {
	case HANDSHAKING:
		return &answerer->handshaking;
	case CLOSING:
		return &answerer->closing;
	default:
		return &answerer->unused;
	}
}

static void set_state(struct answerer *answerer, struct answer *answer, enum answer_state state)
{
	list_remove(list_of(answerer, answer->state), answer);
	answer->state = state;
	list_append(list_of(answerer, state), answer);
}

static void answer_close(struct answerer *answerer, struct answer *answer)
{
	SSL_free(answer->ssl);
	answer->ssl = NULL;
	close(answer->fd);
	answer->fd = -1;
	answerer->n--;
	set_state(answerer, answer, UNUSED);
}

static void watch(struct answerer *answerer, struct answer *answer, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = answer };
	int op = answer->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	/* If it fails the connection ends by its deadline. */
	if (answer->events != events && epoll_ctl(answerer->epoll_fd, op, answer->fd, &event) == 0)
		answer->events = events;
}

/* True when the client has closed, or has sent more than it could mean. */
static bool discard(struct answer *answer)
{
	uint8_t scratch[4096];

	for (int i = 0; i < 16; i++) {
		ssize_t n = recv(answer->fd, scratch, sizeof(scratch), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 || errno != EAGAIN;
	}
	return true;
}

/* Nothing more to say. */
static void end(struct answerer *answerer, struct answer *answer, uint64_t now_ns)
{
	SSL_free(answer->ssl);
	answer->ssl = NULL;
	set_state(answerer, answer, CLOSING);
	answer->deadline_ns = now_ns + ANSWER_CLOSING_NS;
	if (shutdown(answer->fd, SHUT_WR) < 0 || discard(answer))
		answer_close(answerer, answer);
	else
		watch(answerer, answer, EPOLLIN);
}

static void handshake(struct answerer *answerer, struct answer *answer, uint64_t now_ns)
{
	int r;

	ERR_clear_error();
	r = SSL_accept(answer->ssl);
	if (r == 1) {
		answerer->counters[ANSWER_ANSWERED]++;
		SSL_shutdown(answer->ssl);
		end(answerer, answer, now_ns);
		return;
	}
	switch (SSL_get_error(answer->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		watch(answerer, answer, EPOLLIN);
		break;
	case SSL_ERROR_WANT_WRITE:
		watch(answerer, answer, EPOLLOUT);
		break;
	default: /* the alert has been sent */
		if (!answer->refused)
			answerer->counters[ANSWER_FAILED]++;
		end(answerer, answer, now_ns);
	}
}

/* The name of a server_name extension that has exactly one, in lower case. */
static bool read_sni(SSL *ssl, char ret_sni[NAME_MAX_LEN + 1])
{
	const unsigned char *p;
	size_t len, name_len;

	if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &len) || len < 5 ||
	    p[2] != SNI_HOST_NAME)
		return false;
	name_len = (size_t)p[3] << 8 | p[4];
	if (((size_t)p[0] << 8 | p[1]) != len - 2 || name_len != len - 5 || name_len > NAME_MAX_LEN)
		return false;
	for (size_t i = 0; i < name_len; i++) {
		unsigned char c = p[5 + i];

		ret_sni[i] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
	}
	ret_sni[name_len] = '\0';
	return strlen(ret_sni) == name_len;
}

static int refuse(struct answerer *answerer, struct answer *answer, enum answer_counter why,
		  int *ret_alert, int alert)
{
	answerer->counters[why]++;
	answer->refused = true;
	*ret_alert = alert;
	return SSL_CLIENT_HELLO_ERROR;
}

/* OpenSSL has a ClientHello, whole and unchecked: everything is decided here. */
static int on_hello(SSL *ssl, int *ret_alert, void *arg)
{
	struct answerer *answerer = arg;
	struct answer *answer = SSL_get_app_data(ssl);
	const struct challenge *challenge;
	char sni[NAME_MAX_LEN + 1];
	const unsigned char *alpn;
	size_t alpn_len;

	if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation,
				       &alpn, &alpn_len) ||
	    alpn_len != sizeof(acme_alpn) || memcmp(alpn, acme_alpn, sizeof(acme_alpn)) != 0)
		return refuse(answerer, answer, ANSWER_OTHER_PROTOCOL, ret_alert,
			      SSL_AD_NO_APPLICATION_PROTOCOL);
	challenge = read_sni(ssl, sni) ? challenge_set_find(&answerer->challenges, sni) : NULL;
	if (!challenge)
		return refuse(answerer, answer, ANSWER_UNKNOWN_NAME, ret_alert,
			      SSL_AD_UNRECOGNIZED_NAME);
	/* Not used by anybody else: this connection has not sent it yet, earlier ones are closed.
	 */
	if (certificate_fill(answer->certificate, &challenge->name, challenge->digest,
			     answerer->key) < 0 ||
	    SSL_use_certificate(ssl, answer->certificate) != 1 ||
	    SSL_use_PrivateKey(ssl, answerer->key) != 1) {
		*ret_alert = SSL_AD_INTERNAL_ERROR;
		return SSL_CLIENT_HELLO_ERROR;
	}
	return SSL_CLIENT_HELLO_SUCCESS;
}

/* on_hello() has seen that the client offers this one and no other. */
static int on_alpn(SSL *ssl, const unsigned char **ret_out, unsigned char *ret_len,
		   const unsigned char *in, unsigned in_len, void *arg)
{
	*ret_out = in + 1;
	*ret_len = in[0];
	return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *context_new(struct answerer *answerer)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (!ctx)
		return NULL;
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx,
			    SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_client_hello_cb(ctx, on_hello, answerer);
	SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
	return ctx;
}

/* Memory for one more connection. */
static struct answer *answer_new(struct answerer *answerer)
{
	struct answer *answer = answerer->unused.first;

	if (answer)
		return answer;
	answer = calloc(1, sizeof(*answer));
	if (!answer)
		return NULL;
	answer->fd = -1;
	answer->certificate = certificate_new(answerer->key);
	if (!answer->certificate) {
		free(answer);
		return NULL;
	}
	list_append(&answerer->unused, answer);
	return answer;
}

void answer_accept(struct answerer *answerer, int fd, uint64_t now_ns)
{
	struct answer *answer;
	SSL *ssl;

	if (answerer->n == answerer->max_conns && answerer->closing.first) {
		answer_close(answerer, answerer->closing.first);
	} else if (answerer->n == answerer->max_conns) {
		answerer->counters[ANSWER_CROWDED_OUT]++;
		answer_close(answerer, answerer->handshaking.first);
	}
	answer = answer_new(answerer);
	ssl = answer ? SSL_new(answerer->ctx) : NULL;
	if (!ssl || SSL_set_fd(ssl, fd) != 1) {
		SSL_free(ssl);
		close(fd);
		answerer->counters[ANSWER_FAILED]++;
		return;
	}
	SSL_set_app_data(ssl, answer);
	answer->ssl = ssl;
	answer->fd = fd;
	answer->refused = false;
	answer->events = 0;
	answer->deadline_ns = now_ns + ANSWER_HANDSHAKE_NS;
	answerer->n++;
	set_state(answerer, answer, HANDSHAKING);
	handshake(answerer, answer, now_ns);
}

void answer_event(struct answerer *answerer, struct answer *answer, uint64_t now_ns)
{
	switch (answer->state) {
	case HANDSHAKING:
		handshake(answerer, answer, now_ns);
		break;
	case CLOSING:
		if (discard(answer))
			answer_close(answerer, answer);
		break;
	case UNUSED: /* closed by an earlier event of the same batch */
		break;
	}
}

uint64_t answer_expire(struct answerer *answerer, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;

	while (answerer->handshaking.first && answerer->handshaking.first->deadline_ns <= now_ns) {
		answerer->counters[ANSWER_TIMED_OUT]++;
		answer_close(answerer, answerer->handshaking.first);
	}
	while (answerer->closing.first && answerer->closing.first->deadline_ns <= now_ns)
		answer_close(answerer, answerer->closing.first);
	if (answerer->handshaking.first)
		next_ns = answerer->handshaking.first->deadline_ns;
	if (answerer->closing.first)
		next_ns = MIN(next_ns, answerer->closing.first->deadline_ns);
	return next_ns;
}

/* One handshake within this process, so that nothing is loaded or looked up later, when it can't
 * be. */
static int rehearse(struct answerer *answerer)
{
	static const struct name name = { .sni = "rehearsal.invalid" };
	static const uint8_t digest[CHALLENGE_DIGEST];
	SSL_CTX *client_ctx = SSL_CTX_new(TLS_client_method());
	SSL *client = client_ctx ? SSL_new(client_ctx) : NULL;
	SSL *server = SSL_new(answerer->ctx);
	struct answer *answer = answer_new(answerer);
	BIO *ends[2] = {};
	char error[128];
	bool replaced;
	int r = -EIO;

	if (!client || !server || !answer || BIO_new_bio_pair(&ends[0], 0, &ends[1], 0) != 1)
		goto out;
	SSL_set_bio(client, ends[0], ends[0]);
	SSL_set_bio(server, ends[1], ends[1]);
	SSL_set_app_data(server, answer);
	if (challenge_set_add(&answerer->challenges, &name, digest, 0, UINT64_MAX, &replaced, error,
			      sizeof(error)) < 0 ||
	    SSL_set_tlsext_host_name(client, name.sni) != 1 ||
	    SSL_set_alpn_protos(client, acme_alpn + 2, sizeof(acme_alpn) - 2) != 0)
		goto out;
	for (int i = 0; i < 8 && r != 0; i++) {
		int client_done = SSL_connect(client);

		if (SSL_accept(server) == 1 && client_done == 1)
			r = 0;
	}
out:
	ERR_clear_error();
	challenge_set_remove(&answerer->challenges, name.sni);
	SSL_free(client);
	SSL_free(server);
	SSL_CTX_free(client_ctx);
	return r;
}

int answerer_init(struct answerer *answerer, int epoll_fd, unsigned max_conns)
{
	int r;

	*answerer = (struct answerer){ .epoll_fd = epoll_fd,
				       .max_conns = MIN(max_conns, ANSWER_MAX_CONNS) };
	/* No configuration file: it could load modules. */
	if (OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_LOAD_SSL_STRINGS, NULL) !=
	    1)
		return -ENOSYS;
	answerer->key = EVP_EC_gen("P-256");
	answerer->ctx = context_new(answerer);
	r = answerer->key && answerer->ctx ? rehearse(answerer) : -ENOMEM;
	if (r < 0)
		answerer_free(answerer);
	return r;
}

void answerer_free(struct answerer *answerer)
{
	while (answerer->handshaking.first)
		answer_close(answerer, answerer->handshaking.first);
	while (answerer->closing.first)
		answer_close(answerer, answerer->closing.first);
	while (answerer->unused.first) {
		struct answer *answer = answerer->unused.first;

		list_remove(&answerer->unused, answer);
		X509_free(answer->certificate);
		free(answer);
	}
	challenge_set_clear(&answerer->challenges);
	SSL_CTX_free(answerer->ctx);
	EVP_PKEY_free(answerer->key);
	*answerer = (struct answerer){};
}
