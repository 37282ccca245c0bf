// uses: hello.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libFuzzer target for hello_parse(). The input is a length byte, so many bytes that say how to
 * cut, and the rest: a stream as it is, or (odd length byte) the body of a ClientHello, which gets
 * its handshake header and records here so that the fuzzer need not find their lengths.
 *
 * What must hold:
 *  - every prefix is HELLO_MORE, or the answer of the whole; once decided, for ever;
 *  - no prefix shorter than a length needed is decided, and that length is more than there is,
 * never beyond HELLO_MAX_STREAM, nor beyond the end of the message;
 *  - outputs are written with their own answers only;
 *  - the same message in other records is the same answer, and so is one with bytes after it;
 *  - the second reader (slow_hello.h) says the same;
 *  - the kernel's (bpf/early_hello.h) lets nothing pass that is, or may become, acme-tls/1.
 */
#include <sanitizer/asan_interface.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hello.h"
#include "util.h"

/*
 * Prefixes are read by a second copy that the fuzzer does not watch: it would watch the same bytes
 * being read again and again, for nearly all of the time. (Where coverage is counted there is one.)
 */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)
#ifdef ONE_READER
#define parse_prefix hello_parse
#else
#define hello_parse parse_prefix
#include "../../user/hello.c"
#undef hello_parse
#endif
#include "../unit/early_check.h"
#include "../unit/slow_hello.h"
#pragma clang attribute pop

/* Prefixes cost the square of the length: of longer streams, so many are tried. */
#define MAX_PREFIXES  32
#define NEVER_WRITTEN ((size_t)0xdeadbeef)

struct cuts {
	const uint8_t *bytes;
	size_t len, next;
};

/* For the address sanitizer there is nothing but the first @len bytes of @data. */
struct stream {
	size_t len;
	_Alignas(16) uint8_t before[16];
	uint8_t data[HELLO_MAX_STREAM + 65536];
};

struct result {
	enum hello_answer answer;
	size_t need;
	struct hello hello;
};

static void check(bool ok)
{
	if (!ok)
		abort();
}

static size_t next_cut(struct cuts *cuts)
{
	uint8_t byte = cuts->len ? cuts->bytes[cuts->next++ % cuts->len] : 0xff;

	/* Small ones by one, and up to the largest record. */
	return byte < 128 ? (size_t)byte + 1 : MIN((size_t)(byte - 127) * 128, (size_t)16384);
}

static bool same_hello(const struct hello *a, const struct hello *b)
{
	return a->acme_tls == b->acme_tls && a->has_alpn == b->has_alpn &&
	       a->sni_len == b->sni_len && !memcmp(a->sni, b->sni, a->sni_len + 1);
}

static bool same_answer(const struct result *a, const struct result *b)
{
	return a->answer == b->answer &&
	       (a->answer != HELLO_DONE || same_hello(&a->hello, &b->hello));
}

static void stream_open(struct stream *s)
{
	ASAN_UNPOISON_MEMORY_REGION(s->before, sizeof(s->before) + sizeof(s->data));
}

/* No more is written to it. */
static void stream_close(struct stream *s)
{
	ASAN_POISON_MEMORY_REGION(s->before, sizeof(s->before));
	ASAN_POISON_MEMORY_REGION(s->data + s->len, sizeof(s->data) - s->len);
}

typedef enum hello_answer (*reader)(const uint8_t *, size_t, size_t *, struct hello *);

/* The first @len bytes; to copy them would take longer than to read them. */
static struct result parse_by(reader reader, const struct stream *s, size_t len)
{
	static const struct hello untouched = { .sni = "untouched" };
	struct result r = { .need = NEVER_WRITTEN, .hello = untouched };

	ASAN_POISON_MEMORY_REGION(s->data + len, s->len - len);
	r.answer = reader(s->data, len, &r.need, &r.hello);
	ASAN_UNPOISON_MEMORY_REGION(s->data, s->len);

	check(early_agrees(s->data, len, r.answer, &r.hello));
	if (r.answer == HELLO_MORE)
		check(r.need > len && r.need <= HELLO_MAX_STREAM);
	else
		check(r.need == NEVER_WRITTEN);
	if (r.answer != HELLO_DONE) {
		check(!memcmp(&r.hello, &untouched, sizeof(r.hello)));
	} else {
		check(r.hello.sni_len <= HELLO_MAX_SNI && !r.hello.sni[r.hello.sni_len]);
		check(strlen(r.hello.sni) == r.hello.sni_len);
		check(!r.hello.acme_tls || r.hello.has_alpn);
	}
	return r;
}

static struct result parse(const struct stream *s, size_t len)
{
	return parse_by(hello_parse, s, len);
}

/* How far the stream has got, prefix by prefix. */
struct progress {
	size_t promised; /* no shorter prefix is decided */
	bool decided;
};

static void check_prefix(const struct stream *s, const struct result *whole, size_t len,
			 struct progress *progress)
{
	struct result r = parse_by(parse_prefix, s, len);

	if (r.answer == HELLO_MORE) {
		check(!progress->decided);
		check(r.need >= progress->promised);
		progress->promised = r.need;
		/* Whoever waits for that much must not wait for what never comes. */
		check(whole->answer == HELLO_MORE || r.need <= s->len);
	} else {
		check(len >= progress->promised);
		check(same_answer(&r, whole));
		progress->decided = true;
	}
}

/* Of a long stream every so many, not always the same, and those just before a length needed. */
static void check_prefixes(const struct stream *s, const struct result *whole)
{
	struct progress progress = { .promised = 1 };
	size_t step = s->len / MAX_PREFIXES + 1, len = s->len ? s->data[s->len - 1] % step : 0;

	for (; len < s->len; len += step) {
		size_t before_promised = progress.promised - 1;

		if (before_promised < len && before_promised + step > len)
			check_prefix(s, whole, before_promised, &progress);
		check_prefix(s, whole, len, &progress);
	}
	if (whole->answer != HELLO_MORE)
		check(s->len >= progress.promised);
}

static void check_slow(const struct stream *s, const struct result *whole, size_t *ret_end)
{
	struct result slow = { 0 };

	slow.answer = slow_parse(s->data, s->len, ret_end, &slow.hello);
	check(same_answer(&slow, whole));
}

static void put_records(struct stream *s, const uint8_t *message, size_t len, struct cuts cuts)
{
	stream_open(s);
	s->len = 0;
	for (size_t at = 0; at < len;) {
		size_t size = MIN(next_cut(&cuts), len - at);

		if (s->len + 5 + size > sizeof(s->data))
			break;
		memcpy(s->data + s->len, (uint8_t[]){ 22, 3, 1, size >> 8, size & 0xff }, 5);
		memcpy(s->data + s->len + 5, message + at, size);
		s->len += 5 + size;
		at += size;
	}
	stream_close(s);
}

/* The message that the stream holds, in records of other sizes. */
static void check_other_records(const struct stream *s, const struct result *whole,
				struct cuts cuts)
{
	static struct slow_message message;
	static struct stream split;
	struct result r;
	size_t end;

	if (slow_reassemble(s->data, s->len, &message, &end) != HELLO_DONE)
		return;
	put_records(&split, message.data, message.len, cuts);
	r = parse(&split, split.len);
	if (split.len > HELLO_MAX_STREAM) {
		check(r.answer == HELLO_NOT);
		return;
	}
	check(same_answer(&r, whole));
	check_prefixes(&split, &r);
	check_slow(&split, &r, &end);
}

static void check_stream(const struct stream *s, struct cuts cuts)
{
	struct result whole = parse(s, s->len), r;
	size_t end = 0;

	check_slow(s, &whole, &end);
	check_prefixes(s, &whole);
	if (whole.answer == HELLO_DONE) {
		check(end <= HELLO_MAX_STREAM);
		r = parse(s, end);
		check(same_answer(&r, &whole));
		r = parse(s, end - 1);
		check(r.answer == HELLO_MORE && r.need == end);
	}
	check_other_records(s, &whole, cuts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct stream s;
	struct cuts cuts;
	size_t cuts_len;
	bool is_body;

	if (size < 1)
		return 0;
	is_body = data[0] & 1;
	cuts_len = MIN((size_t)data[0] / 2, size - 1);
	cuts = (struct cuts){ .bytes = data + 1, .len = cuts_len };
	data += 1 + cuts_len;
	size -= 1 + cuts_len;

	if (is_body) {
		static uint8_t message[HELLO_MAX_STREAM + 4];
		size_t len = MIN(size, (size_t)HELLO_MAX_STREAM);

		memcpy(message, (uint8_t[]){ 1, 0, len >> 8, len & 0xff }, 4);
		memcpy(message + 4, data, len);
		put_records(&s, message, 4 + len, cuts);
	} else {
		stream_open(&s);
		s.len = MIN(size, sizeof(s.data));
		memcpy(s.data, data, s.len);
		stream_close(&s);
	}
	check_stream(&s, cuts);
	return 0;
}
