// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Reads a TLS ClientHello: SNI and ALPN, from bytes that are peeked at and never consumed.
 *
 * Theory of operation. There is no state between calls: each one looks at the stream from its
 * start, in two steps.
 *
 * find_message() walks the record headers until the records hold the whole handshake message. It
 * checks each byte of framing as soon as it is there and copies nothing, so a client that dribbles
 * costs a walk over headers and no more.
 *
 * parse_body() runs once, on the whole message: in place when one record holds it (every client
 * that we know of), else on a copy without the record headers. It only sees the message, so how
 * the message was cut into segments and records can't change its answer.
 *
 * What we can't follow is never guessed at: it is HELLO_NOT, and the web server judges it.
 */
#include "hello.h"

#include <assert.h>
#include <string.h>

#include "util.h"

#define RECORD_HANDSHAKE     22
#define RECORD_MAJOR	     3
#define RECORD_HEADER_LEN    5
#define RECORD_MAX_LEN	     16384 /* RFC 8446 5.1: TLSPlaintext.length */
#define MESSAGE_CLIENT_HELLO 1
#define MESSAGE_HEADER_LEN   4
/* Version, random, and one cipher suite, one compression method, no extensions. */
#define BODY_MIN_LEN	    (2 + 32 + 1 + (2 + 2) + (1 + 1))
#define VERSION_LEN	    2
#define RANDOM_LEN	    32
#define SESSION_ID_MAX_LEN  32
#define EXT_SERVER_NAME	    0
#define EXT_ALPN	    16
#define NAME_TYPE_HOST_NAME 0
#define LABEL_MAX_LEN	    63 /* RFC 1035 2.3.4 */

static const char acme_tls_protocol[] = "acme-tls/1";

/* The handshake message, as far as the records have brought it. */
struct message {
	uint8_t header[MESSAGE_HEADER_LEN];
	size_t have;	 /* bytes seen, header included */
	size_t body_len; /* without the header; 0 until that is whole */
};

/* What is left to read: [pos, end). */
struct cursor {
	const uint8_t *pos;
	const uint8_t *end;
};

static size_t cursor_left(const struct cursor *c)
{
	return (size_t)(c->end - c->pos);
}

/* Takes the next @len bytes. */
static bool take_bytes(struct cursor *c, size_t len, struct cursor *ret)
{
	if (cursor_left(c) < len)
		return false;
	*ret = (struct cursor){ c->pos, c->pos + len };
	c->pos += len;
	return true;
}

static bool take_u8(struct cursor *c, unsigned int *ret)
{
	if (cursor_left(c) < 1)
		return false;
	*ret = c->pos[0];
	c->pos += 1;
	return true;
}

static unsigned int get_u16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

static size_t get_u24(const uint8_t *p)
{
	return (size_t)p[0] << 16 | get_u16(p + 1);
}

static bool take_u16(struct cursor *c, unsigned int *ret)
{
	if (cursor_left(c) < 2)
		return false;
	*ret = get_u16(c->pos);
	c->pos += 2;
	return true;
}

/* Takes a vector with a length of one byte before it. */
static bool take_vector8(struct cursor *c, struct cursor *ret)
{
	unsigned int len;

	return take_u8(c, &len) && take_bytes(c, len, ret);
}

/* Takes a vector with a length of two bytes before it. */
static bool take_vector16(struct cursor *c, struct cursor *ret)
{
	unsigned int len;

	return take_u16(c, &len) && take_bytes(c, len, ret);
}

/* The byte in lower case, or 0 if it can't be in a host name. "_" is none of DNS's, but in use. */
static char host_name_char(uint8_t byte)
{
	if (byte >= 'A' && byte <= 'Z')
		return (char)(byte - 'A' + 'a');
	if ((byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' ||
	    byte == '.' || byte == '_')
		return (char)byte;
	return 0;
}

/* @name is not empty. */
static bool parse_host_name(struct cursor name, struct hello *ret)
{
	size_t len = cursor_left(&name), label = 0;

	if (name.pos[len - 1] == '.')
		len--;
	if (!len || len > HELLO_MAX_SNI)
		return false;
	for (size_t i = 0; i < len; i++) {
		char ch = host_name_char(name.pos[i]);

		if (!ch)
			return false;
		if (ch == '.' && !label)
			return false;
		label = ch == '.' ? 0 : label + 1;
		if (label > LABEL_MAX_LEN)
			return false;
		ret->sni[i] = ch;
	}
	if (!label)
		return false; /* two dots at the end */
	ret->sni[len] = '\0';
	ret->sni_len = len;
	return true;
}

/*
 * RFC 6066 section 3: a list of names, at most one of each type. Servers differ in which of two
 * host names they take, so two are as bad as none.
 */
static bool parse_server_name(struct cursor ext, struct hello *ret)
{
	struct cursor list, name;
	uint8_t type;

	if (!take_vector16(&ext, &list) || cursor_left(&ext) || !cursor_left(&list))
		return false;
	while (cursor_left(&list)) {
		type = *list.pos++;
		if (!take_vector16(&list, &name) || !cursor_left(&name))
			return false;
		if (type != NAME_TYPE_HOST_NAME)
			continue;
		if (ret->sni_len || !parse_host_name(name, ret))
			return false;
	}
	return true;
}

/* RFC 7301 section 3.1, and RFC 8737 section 3: acme-tls/1 counts only when it is alone. */
static bool parse_alpn(struct cursor ext, struct hello *ret)
{
	struct cursor list, protocol = { 0 };
	size_t count = 0;

	if (!take_vector16(&ext, &list) || cursor_left(&ext) || !cursor_left(&list))
		return false;
	while (cursor_left(&list)) {
		if (!take_vector8(&list, &protocol) || !cursor_left(&protocol))
			return false;
		count++;
	}
	ret->has_alpn = true;
	ret->acme_tls = count == 1 && cursor_left(&protocol) == sizeof(acme_tls_protocol) - 1 &&
			!memcmp(protocol.pos, acme_tls_protocol, sizeof(acme_tls_protocol) - 1);
	return true;
}

static bool parse_extensions(struct cursor list, struct hello *ret)
{
	bool seen_server_name = false;
	struct cursor ext;
	unsigned int type;

	while (cursor_left(&list)) {
		if (!take_u16(&list, &type) || !take_vector16(&list, &ext))
			return false;
		switch (type) {
		case EXT_SERVER_NAME:
			if (seen_server_name || !parse_server_name(ext, ret))
				return false;
			seen_server_name = true;
			break;
		case EXT_ALPN:
			if (ret->has_alpn || !parse_alpn(ext, ret))
				return false;
			break;
		}
	}
	return true;
}

/*
 * RFC 8446 section 4.1.2, which is RFC 5246's with the extensions made certain. @body has
 * BODY_MIN_LEN bytes at least: message_header_fits().
 */
static bool parse_body(struct cursor body, struct hello *ret)
{
	struct cursor session_id, suites, compressions, extensions;

	static_assert(BODY_MIN_LEN >= VERSION_LEN + RANDOM_LEN, "these two are there");
	if (body.pos[0] != RECORD_MAJOR)
		return false;
	body.pos += VERSION_LEN + RANDOM_LEN;
	if (!take_vector8(&body, &session_id) || cursor_left(&session_id) > SESSION_ID_MAX_LEN)
		return false;
	if (!take_vector16(&body, &suites) || !cursor_left(&suites) || cursor_left(&suites) % 2)
		return false;
	if (!take_vector8(&body, &compressions) || !cursor_left(&compressions))
		return false;
	if (!cursor_left(&body))
		return true; /* TLS 1.2 and older may leave extensions out */
	return take_vector16(&body, &extensions) && !cursor_left(&body) &&
	       parse_extensions(extensions, ret);
}

/*
 * Whether a handshake record can begin with these bytes, one at least, of which there may be too
 * few to tell.
 */
static bool record_header_fits(const uint8_t *p, size_t len)
{
	if (p[0] != RECORD_HANDSHAKE)
		return false;
	if (len > 1 && p[1] != RECORD_MAJOR)
		return false;
	if (len > 3 && p[3] > RECORD_MAX_LEN >> 8)
		return false;
	if (len < RECORD_HEADER_LEN)
		return true;
	return get_u16(p + 3) >= 1 && get_u16(p + 3) <= RECORD_MAX_LEN;
}

/* The same for the first @len bytes of a handshake header, at most all four. */
static bool message_header_fits(const uint8_t *header, size_t len)
{
	if (len > 0 && header[0] != MESSAGE_CLIENT_HELLO)
		return false;
	if (len > 1 && header[1] > HELLO_MAX_HANDSHAKE >> 16)
		return false;
	if (len > 2 && header[2] > HELLO_MAX_HANDSHAKE >> 8)
		return false;
	if (len < MESSAGE_HEADER_LEN)
		return true;
	return get_u24(header + 1) >= BODY_MIN_LEN && get_u24(header + 1) <= HELLO_MAX_HANDSHAKE;
}

/* Counts @len bytes more of the message, and keeps those that belong to its header. */
static void message_add(struct message *msg, const uint8_t *fragment, size_t len)
{
	for (size_t i = 0; i < len && msg->have + i < MESSAGE_HEADER_LEN; i++)
		msg->header[msg->have + i] = fragment[i];
	msg->have += len;
	if (msg->have >= MESSAGE_HEADER_LEN)
		msg->body_len = get_u24(msg->header + 1);
}

/* The bytes that are certainly still to come: one, while the header doesn't say. */
static size_t message_missing(const struct message *msg)
{
	size_t len = MESSAGE_HEADER_LEN + msg->body_len;

	if (msg->have < MESSAGE_HEADER_LEN)
		return 1;
	return msg->have < len ? len - msg->have : 0;
}

/*
 * Walks the records up to the end of the first handshake message. The length needed never reaches
 * past the next byte of a header, since that byte may be the one that says HELLO_NOT.
 */
static enum hello_answer find_message(const uint8_t *data, size_t len, size_t *ret_need,
				      struct message *ret)
{
	struct message msg = { 0 };
	size_t pos = 0; /* where the record begins */

	while (pos < len) {
		size_t start = pos + RECORD_HEADER_LEN, end, missing;

		if (!record_header_fits(data + pos, len - pos))
			return HELLO_NOT;
		if (len < start)
			break;
		end = start + get_u16(data + pos + 3);

		message_add(&msg, data + start, MIN(end, len) - start);
		if (!message_header_fits(msg.header, MIN(msg.have, (size_t)MESSAGE_HEADER_LEN)))
			return HELLO_NOT;
		missing = message_missing(&msg);
		if (!missing) {
			*ret = msg;
			return HELLO_DONE;
		}
		if (len < end) {
			*ret_need = MIN(len + missing, end + 1);
			return HELLO_MORE;
		}
		pos = end;
	}
	*ret_need = len + 1;
	return HELLO_MORE;
}

/*
 * Parses a message that is spread over records, on a copy without their headers. Apart from the
 * caller, so that only this path touches so much stack.
 */
static __attribute__((noinline)) bool parse_scattered(const uint8_t *data,
						      const struct message *msg, struct hello *ret)
{
	uint8_t scratch[MESSAGE_HEADER_LEN + HELLO_MAX_HANDSHAKE];
	size_t len = MESSAGE_HEADER_LEN + msg->body_len, have = 0, pos = 0;

	while (have < len) {
		size_t fragment_len = get_u16(data + pos + 3);
		size_t take = MIN(fragment_len, len - have);

		memcpy(scratch + have, data + pos + RECORD_HEADER_LEN, take);
		have += take;
		pos += RECORD_HEADER_LEN + fragment_len;
	}
	return parse_body((struct cursor){ scratch + MESSAGE_HEADER_LEN, scratch + len }, ret);
}

enum hello_answer hello_parse(const uint8_t *data, size_t len, size_t *ret_need,
			      struct hello *ret_hello)
{
	struct hello hello = { 0 };
	enum hello_answer answer;
	const uint8_t *body;
	struct message msg;
	size_t need = 0;
	bool ok;

	answer = find_message(data, MIN(len, (size_t)HELLO_MAX_STREAM), &need, &msg);
	if (answer == HELLO_MORE) {
		if (need > HELLO_MAX_STREAM)
			return HELLO_NOT;
		*ret_need = need;
	}
	if (answer != HELLO_DONE)
		return answer;

	if (get_u16(data + 3) >= MESSAGE_HEADER_LEN + msg.body_len) {
		body = data + RECORD_HEADER_LEN + MESSAGE_HEADER_LEN;
		ok = parse_body((struct cursor){ body, body + msg.body_len }, &hello);
	} else {
		ok = parse_scattered(data, &msg, &hello);
	}
	if (!ok)
		return HELLO_NOT;
	*ret_hello = hello;
	return HELLO_DONE;
}
