/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A second reader of ClientHellos, for tests to compare hello_parse() with. It shares no code and
 * no method: it takes the stream byte by byte, keeps all of the message, and looks things up by
 * offset.
 */
#ifndef SLOW_HELLO_H
#define SLOW_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "hello.h"

struct slow_message {
	size_t len;
	uint8_t data[HELLO_MAX_STREAM];
};

static size_t number_at(const uint8_t *data, size_t at, size_t width)
{
	size_t value = 0;

	for (size_t i = 0; i < width; i++)
		value = value * 256 + data[at + i];
	return value;
}

/* The record or the message that is being read can't end within the limit. */
static bool slow_is_too_long(size_t at, size_t left_in_record, size_t left_in_message)
{
	if (left_in_record >= left_in_message)
		return at + left_in_message > HELLO_MAX_STREAM;
	return at + left_in_record + 1 > HELLO_MAX_STREAM;
}

/* @ret_end: the bytes of stream that hold the message. */
static enum hello_answer slow_reassemble(const uint8_t *data, size_t len, struct slow_message *ret,
					 size_t *ret_end)
{
	size_t left_in_record = 0, header_bytes = 0, record_len = 0;

	ret->len = 0;
	for (size_t at = 0; at < len; at++) {
		if (at == HELLO_MAX_STREAM)
			return HELLO_NOT;
		if (!left_in_record) {
			header_bytes++;
			if (header_bytes == 1 && data[at] != 22)
				return HELLO_NOT;
			if (header_bytes == 2 && data[at] != 3)
				return HELLO_NOT;
			if (header_bytes == 4)
				record_len = data[at] * 256u;
			if (header_bytes == 4 && record_len > 16384)
				return HELLO_NOT;
			if (header_bytes == 5) {
				record_len += data[at];
				if (record_len == 0 || record_len > 16384)
					return HELLO_NOT;
				left_in_record = record_len;
				header_bytes = 0;
			}
			continue;
		}
		ret->data[ret->len++] = data[at];
		left_in_record--;
		if (ret->data[0] != 1)
			return HELLO_NOT;
		if (ret->len >= 2 && ret->data[1] > 0)
			return HELLO_NOT;
		if (ret->len >= 3 && ret->data[2] * 256u > HELLO_MAX_HANDSHAKE)
			return HELLO_NOT;
		if (ret->len >= 4) {
			size_t want = number_at(ret->data, 1, 3);

			if (want > HELLO_MAX_HANDSHAKE || want < 41)
				return HELLO_NOT;
			if (ret->len == 4 + want) {
				*ret_end = at + 1;
				return HELLO_DONE;
			}
			if (slow_is_too_long(at + 1, left_in_record, 4 + want - ret->len))
				return HELLO_NOT;
		}
	}
	/* More bytes than allowed would be needed. */
	return len >= HELLO_MAX_STREAM ? HELLO_NOT : HELLO_MORE;
}

static bool slow_name(const uint8_t *data, size_t at, size_t len, struct hello *ret)
{
	char text[HELLO_MAX_STREAM], *label, *rest = text;

	if (len == 0 || memchr(data + at, 0, len))
		return false;
	memcpy(text, data + at, len);
	text[len] = '\0';
	if (text[len - 1] == '.')
		text[--len] = '\0';
	for (size_t i = 0; i < len; i++)
		if (text[i] >= 'A' && text[i] <= 'Z')
			text[i] += 32;
	if (len > HELLO_MAX_SNI || strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != len)
		return false;
	ret->sni_len = len;
	memcpy(ret->sni, text, len + 1);
	while ((label = strsep(&rest, ".")))
		if (!*label || strlen(label) > 63)
			return false;
	return true;
}

static bool slow_server_name(const uint8_t *data, size_t at, size_t end, struct hello *ret)
{
	bool seen = false;

	if (end - at < 2 || number_at(data, at, 2) != end - at - 2 || end - at == 2)
		return false;
	for (at += 2; at < end;) {
		size_t len;

		if (end - at < 4)
			return false;
		len = number_at(data, at + 1, 2);
		if (len == 0 || len > end - at - 3)
			return false;
		if (data[at] == 0 && (seen || !slow_name(data, at + 3, len, ret)))
			return false;
		seen |= data[at] == 0;
		at += 3 + len;
	}
	return true;
}

static bool slow_alpn(const uint8_t *data, size_t at, size_t end, struct hello *ret)
{
	static const uint8_t only_acme[] = "\x00\x0b\x0a"
					   "acme-tls/1";

	ret->has_alpn = true;
	ret->acme_tls = end - at == 13 && !memcmp(data + at, only_acme, 13);
	if (end - at < 3 || number_at(data, at, 2) != end - at - 2)
		return false;
	for (at += 2; at < end; at += 1 + data[at])
		if (data[at] == 0 || data[at] > end - at - 1)
			return false;
	return true;
}

static bool slow_body(const uint8_t *data, size_t end, struct hello *ret)
{
	size_t at = 34, suites, count[2] = { 0 }; /* of SNI and of ALPN */

	if (data[0] != 3 || data[at] > 32 || data[at] > end - at - 1)
		return false;
	at += 1 + data[at];
	if (end - at < 2)
		return false;
	suites = number_at(data, at, 2);
	if (suites < 2 || suites & 1 || suites > end - at - 2)
		return false;
	at += 2 + suites;
	if (end - at < 1 || data[at] == 0 || data[at] > end - at - 1)
		return false;
	at += 1 + data[at];
	if (at == end)
		return true;
	if (end - at < 2 || number_at(data, at, 2) != end - at - 2)
		return false;
	for (at += 2; at < end;) {
		size_t type, len;

		if (end - at < 4)
			return false;
		type = number_at(data, at, 2);
		len = number_at(data, at + 2, 2);
		at += 4;
		if (len > end - at)
			return false;
		if ((type == 0 || type == 16) && count[type / 16]++)
			return false;
		if (type == 0 && !slow_server_name(data, at, at + len, ret))
			return false;
		if (type == 16 && !slow_alpn(data, at, at + len, ret))
			return false;
		at += len;
	}
	return true;
}

static enum hello_answer slow_parse(const uint8_t *data, size_t len, size_t *ret_end,
				    struct hello *ret)
{
	static struct slow_message message;
	enum hello_answer answer = slow_reassemble(data, len, &message, ret_end);
	struct hello hello = { 0 };

	if (answer != HELLO_DONE)
		return answer;
	if (!slow_body(message.data + 4, message.len - 4, &hello))
		return HELLO_NOT;
	*ret = hello;
	return HELLO_DONE;
}

#endif
