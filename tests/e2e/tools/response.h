/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An HTTP/1.1 response that is checked to the last byte, as it comes. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RESPONSE_HEAD_MAX 2048

struct response {
	char head[RESPONSE_HEAD_MAX]; /* with a NUL at its end */
	size_t head_len, body_len;
	bool head_done;
	char fault[48];
};

/* What it is to be. */
struct response_expected {
	const uint8_t *body;
	size_t len;
	bool upload; /* the answer to one: 201 or 204 */
};

/* Before each one. */
static inline void response_begin(struct response *response)
{
	response->head_len = response->body_len = 0;
	response->head_done = false;
}

static inline bool response_fault(struct response *response, const char *fault)
{
	snprintf(response->fault, sizeof(response->fault), "response: %s", fault);
	return false;
}

/* The value of header @name (CR, LF before it, a colon behind) in a whole head; NULL: none. */
static inline const char *response_header(const struct response *response, const char *name,
					  size_t *ret_len)
{
	const char *at = strcasestr(response->head, name);

	if (!at)
		return NULL;
	at += strlen(name);
	at += strspn(at, " ");
	*ret_len = strcspn(at, "\r\n");
	return at;
}

static inline bool response_check_head(struct response *response,
				       const struct response_expected *expected)
{
	const char *length;
	int status = 0;
	size_t len;

	if (sscanf(response->head, "HTTP/1.%*d %d", &status) != 1)
		return response_fault(response, "not HTTP");
	if (expected->upload ? status != 201 && status != 204 : status != 200) {
		char text[24];

		snprintf(text, sizeof(text), "status %d", status);
		return response_fault(response, text);
	}
	length = response_header(response, "\r\nContent-Length:", &len);
	/* An answer with no body may say so by saying nothing. */
	if (length ? strtoull(length, NULL, 10) != expected->len : !expected->upload)
		return response_fault(response, "unexpected length");
	return true;
}

static inline bool response_check_body(struct response *response, const uint8_t *data, size_t len,
				       const struct response_expected *expected)
{
	if (response->body_len + len > expected->len)
		return response_fault(response, "body too long");
	if (len && memcmp(expected->body + response->body_len, data, len))
		return response_fault(response, "wrong byte in body");
	response->body_len += len;
	return true;
}

/* The next bytes of it. Returns false when they are not the expected ones: response->fault. */
static inline bool response_take(struct response *response, const uint8_t *data, size_t len,
				 const struct response_expected *expected)
{
	size_t old = response->head_len, room = RESPONSE_HEAD_MAX - 1 - old, of_head;
	char *end;

	if (response->head_done)
		return response_check_body(response, data, len, expected);
	if (room > len)
		room = len;
	memcpy(response->head + old, data, room);
	response->head_len += room;
	response->head[response->head_len] = '\0';
	end = strstr(response->head, "\r\n\r\n");
	if (!end)
		return room == len || response_fault(response, "head too long");
	response->head_done = true;
	of_head = (size_t)(end + 4 - response->head) - old;
	end[2] = '\0';
	return response_check_head(response, expected) &&
	       response_check_body(response, data + of_head, len - of_head, expected);
}

static inline bool response_is_whole(const struct response *response,
				     const struct response_expected *expected)
{
	return response->head_done && response->body_len == expected->len;
}

#endif
