// uses: ctl.c window.c window_index.c addr.c name.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libFuzzer target for what the control socket is told: ctl_request_parse(), and window_options_set()
 * of each line.
 *
 * What must hold:
 *  - nothing is read beyond the text, and every string of the request is inside it;
 *  - verb and keys are words, values have no control characters;
 *  - a refusal says why in one line;
 *  - the request written anew by ctl_message_*() is read as the same;
 *  - options that were refused are as they were, and those that were not are within their limits.
 */
#include <errno.h>

#include "ctl.h"
#include "fuzz.h"
#include "window.h"

static void check_line(const char *line, size_t size)
{
	check(memchr(line, '\0', size) && line[0] && !strchr(line, '\n'));
}

static void check_word(const char *word)
{
	size_t len = strlen(word);

	check(len >= 1 && len <= CTL_WORD_MAX);
	check(strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789-") == len);
}

static void check_value(const char *value, const char *text, size_t len)
{
	check(value > text && value < text + len);
	check(memchr(value, '\0', (size_t)(text + len - value)));
	for (; *value; value++)
		check((unsigned char)*value >= 0x20 && *value != 0x7f);
}

static void check_written(const struct ctl_request *request)
{
	static struct ctl_message message;
	static struct ctl_request again;
	char error[CTL_MAX_ERROR];

	ctl_message_init(&message, request->verb);
	for (size_t i = 0; i < request->n; i++)
		check(ctl_message_add(&message, request->pairs[i].key, request->pairs[i].value) ==
		      0);
	ctl_message_end(&message);
	check(ctl_request_parse(message.text, message.len, &again, error) == 0);
	check(!strcmp(again.verb, request->verb) && again.n == request->n);
	for (size_t i = 0; i < again.n; i++) {
		check(!strcmp(again.pairs[i].key, request->pairs[i].key));
		check(!strcmp(again.pairs[i].value, request->pairs[i].value));
	}
}

static void check_options(const struct window_options *o)
{
	check(strlen(o->name) >= 1 && strlen(o->name) <= WINDOW_NAME_MAX);
	check(o->ttl_s >= 1 && o->ttl_s <= WINDOW_MAX_TTL_S);
	check(o->sniff_timeout_ms >= WINDOW_MIN_SNIFF_MS &&
	      o->sniff_timeout_ms <= WINDOW_MAX_SNIFF_MS);
	check(o->n_ports >= 1 && o->n_ports <= WINDOW_MAX_PORTS);
	check(o->n_domains <= WINDOW_MAX_DOMAINS);
	for (size_t i = 0; i < o->n_ports; i++) {
		check(o->ports[i] != 0);
		for (size_t j = 0; j < i; j++)
			check(o->ports[i] != o->ports[j]);
	}
	check((unsigned)o->plane < PLANE_COUNT && (unsigned)o->client_ip < CLIENT_IP_COUNT);
	check(o->responder.port != 0);
	check(!o->has_web_server || o->web_server.port != 0);
}

static void set_all(const struct ctl_request *request)
{
	static struct window_options options, before;
	char error[512];

	window_options_init(&options);
	for (size_t i = 0; i < request->n; i++) {
		int r;

		before = options;
		error[0] = '\0';
		r = window_options_set(&options, request->pairs[i].key, request->pairs[i].value,
				       error, sizeof(error));
		check(r == 0 || r == -EINVAL || r == -E2BIG || r == -ENOKEY);
		if (r)
			check(!memcmp(&options, &before, sizeof(options)));
		if (r && r != -ENOKEY)
			check_line(error, sizeof(error));
		check_options(&options);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ctl_request request;
	char error[CTL_MAX_ERROR] = "";
	char *text = malloc(size);
	int r;

	check(text || !size);
	if (size)
		memcpy(text, data, size);
	r = ctl_request_parse(text, size, &request, error);
	check(r == 0 || r == -EINVAL || r == -E2BIG);
	if (r) {
		check_line(error, sizeof(error));
	} else {
		check_word(request.verb);
		check(request.n <= CTL_MAX_PAIRS);
		for (size_t i = 0; i < request.n; i++) {
			check_word(request.pairs[i].key);
			check_value(request.pairs[i].value, text, size);
		}
		check_written(&request);
		set_all(&request);
	}
	free(text);
	return 0;
}
