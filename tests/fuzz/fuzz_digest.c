// uses: challenge.c lazy.c timers.c name.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libFuzzer target for the texts of a challenge: challenge_digest_parse() and challenge_digest_of().
 *
 * What must hold: a refusal says why, in one line unless the text, which it quotes, has more, and
 * leaves the output as it was; a digest prints as text that is read as the same again, in hexadecimal
 * too.
 */
#include <errno.h>
#include <stdio.h>

#include "challenge.h"
#include "fuzz.h"

static void check_hex(const uint8_t digest[CHALLENGE_DIGEST], const char *between)
{
	uint8_t again[CHALLENGE_DIGEST];
	char text[3 * CHALLENGE_DIGEST + 1] = "", error[512];
	size_t len = 0;

	for (size_t i = 0; i < CHALLENGE_DIGEST; i++)
		len += (size_t)sprintf(text + len, "%s%02x", i ? between : "", digest[i]);
	check(challenge_digest_parse(text, again, error, sizeof(error)) == 0);
	check(!memcmp(again, digest, sizeof(again)));
}

static void check_answer(int r, const uint8_t digest[CHALLENGE_DIGEST], const char *error,
			 const char *text)
{
	static const uint8_t untouched[CHALLENGE_DIGEST];
	char printed[CHALLENGE_DIGEST_STRLEN], again_error[512];
	uint8_t again[CHALLENGE_DIGEST];

	check(r == 0 || r == -EINVAL);
	if (r) {
		check(!memcmp(digest, untouched, sizeof(untouched)));
		check(error[0] && (!strchr(error, '\n') || strchr(text, '\n')));
		return;
	}
	check(!error[0]);
	check(challenge_digest_format(digest, printed) == printed);
	check(strlen(printed) == CHALLENGE_DIGEST_STRLEN - 1);
	check(challenge_digest_parse(printed, again, again_error, sizeof(again_error)) == 0);
	check(!memcmp(again, digest, sizeof(again)));
	check_hex(digest, "");
	check_hex(digest, ":");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = text_of((struct input){ .data = data, .len = size });
	uint8_t digest[CHALLENGE_DIGEST] = {};
	char error[512] = "";
	int r;

	r = challenge_digest_parse(text, digest, error, sizeof(error));
	check_answer(r, digest, error, text);
	memset(digest, 0, sizeof(digest));
	error[0] = '\0';
	r = challenge_digest_of(text, digest, error, sizeof(error));
	check_answer(r, digest, error, text);
	free(text);
	return 0;
}
