/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Holds the kernel's reader of ClientHellos against hello_parse(). */
#ifndef EARLY_CHECK_H
#define EARLY_CHECK_H

#include <stdint.h>
#include <string.h>

#include "../../bpf/early_hello.h"
#include "hello.h"

/* What the kernel makes of a first packet with these bytes. */
static inline enum hello_kind early_kind(const uint8_t *data, size_t len)
{
	static struct hello_room room;

	if (len < 1 || len > HELLO_ROOM)
		return HELLO_UNSURE;
	/* What an earlier packet has left there. */
	memset(room.bytes, 0xa5, sizeof(room.bytes));
	memcpy(room.bytes, data, len);
	return hello_kind_of(&room, (uint32_t)len);
}

/* Nothing passes that hello_parse() takes for acme-tls/1, or may yet, when more has come. */
static inline bool early_agrees(const uint8_t *data, size_t len, enum hello_answer answer,
				const struct hello *hello)
{
	return early_kind(data, len) != HELLO_VISITOR || answer == HELLO_NOT ||
	       (answer == HELLO_DONE && !hello->acme_tls);
}

#endif
