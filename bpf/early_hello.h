/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Is this surely a visitor's ClientHello? user/hello.c is the one that judges: what it could still
 * take for acme-tls/1 must be HELLO_UNSURE here. Tests and a fuzzer hold the two against each
 * other, which is why it can be compiled for a host, too.
 */
#ifndef EARLY_HELLO_H
#define EARLY_HELLO_H

#include <linux/types.h>
#include <stdbool.h>
#ifdef __bpf__
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif

#define RECORD_HANDSHAKE     22
#define RECORD_MAJOR	     3
#define RECORD_HEADER_LEN    5
#define RECORD_MAX_LEN	     16384
#define MESSAGE_CLIENT_HELLO 1
#define MESSAGE_HEADER_LEN   4
#define VERSION_RANDOM_LEN   34
#define EXT_ALPN	     16
#define EXTENSIONS_MAX	     128
/* What is looked at of a ClientHello; a power of two. Browsers' have 0.5 to 2 KiB. */
#define HELLO_ROOM 4096

enum hello_kind {
	HELLO_VISITOR, /* or no ClientHello at all: the web server's */
	HELLO_UNSURE,  /* for acme-tls/1, or not whole, or too long to be read here */
};

/* Where the verifier does not follow what a number can be, as it would on the stack. */
struct hello_room {
	__u8 bytes[HELLO_ROOM];
	__u32 pos;
	__u32 end;
	__u32 kind; /* enum hello_kind */

	/* Of a SYN, whose options are in bytes while they are looked at. */
	__u32 mss;
	__u32 fast_open;
};

/* The offset is masked for the verifier's sake: callers have checked it. */
static __always_inline __u32 hello_u8(const struct hello_room *room, __u32 offset)
{
	return room->bytes[offset & (HELLO_ROOM - 1)];
}

static __always_inline __u32 hello_u16(const struct hello_room *room, __u32 offset)
{
	return hello_u8(room, offset) << 8 | hello_u8(room, offset + 1);
}

/* RFC 7301 section 3.1, RFC 8737 section 3: a list with that one protocol. */
static __always_inline bool is_acme_tls(const struct hello_room *room, __u32 offset, __u32 len)
{
	static const char list[] = "\x00\x0b\x0a"
				   "acme-tls/1";

	if (len != sizeof(list) - 1)
		return false;
	for (__u32 i = 0; i < sizeof(list) - 1; i++)
		if (hello_u8(room, offset + i) != (__u8)list[i])
			return false;
	return true;
}

/*
 * Looks at one extension. Returns 1 when there is no more to look at: at the end, or where the
 * lengths don't fit, and user/hello.c gives up.
 */
static long hello_extension(__u32 i, struct hello_room **arg)
{
	struct hello_room *room = *arg;
	__u32 pos = room->pos;
	__u32 len;

	room->kind = HELLO_VISITOR;
	if (pos + 4 > room->end)
		return 1;
	len = hello_u16(room, pos + 2);
	if (pos + 4 + len > room->end)
		return 1;
	if (hello_u16(room, pos) == EXT_ALPN) {
		if (is_acme_tls(room, pos + 4, len))
			room->kind = HELLO_UNSURE;
		return 1;
	}
	/* More than EXTENSIONS_MAX of them: this is what stays. */
	room->kind = HELLO_UNSURE;
	room->pos = pos + 4 + len;
	return 0;
}

#ifndef __bpf__
static inline void hello_extensions(struct hello_room *room)
{
	for (__u32 i = 0; i < EXTENSIONS_MAX; i++)
		if (hello_extension(i, &room))
			return;
}
#else
static __always_inline void hello_extensions(struct hello_room *room)
{
	bpf_loop(EXTENSIONS_MAX, hello_extension, &room, 0);
}
#endif

/*
 * What room.bytes, the first @len bytes of a stream (1 to HELLO_ROOM), are. RFC 8446 sections 5.1
 * and 4.1.2.
 */
static __always_inline enum hello_kind hello_kind_of(struct hello_room *room, __u32 len)
{
	__u32 record, message, pos;

	if (hello_u8(room, 0) != RECORD_HANDSHAKE || (len > 1 && hello_u8(room, 1) != RECORD_MAJOR))
		return HELLO_VISITOR;
	if (len < RECORD_HEADER_LEN + MESSAGE_HEADER_LEN)
		return HELLO_UNSURE;
	record = hello_u16(room, 3);
	if (record < 1 || record > RECORD_MAX_LEN || hello_u8(room, 5) != MESSAGE_CLIENT_HELLO)
		return HELLO_VISITOR;
	message = hello_u8(room, 6) << 16 | hello_u16(room, 7);
	/* In one record, and all of it there. */
	if (RECORD_HEADER_LEN + record > len || MESSAGE_HEADER_LEN + message > record)
		return HELLO_UNSURE;
	room->end = RECORD_HEADER_LEN + MESSAGE_HEADER_LEN + message;
	pos = RECORD_HEADER_LEN + MESSAGE_HEADER_LEN + VERSION_RANDOM_LEN;
	if (pos + 1 > room->end)
		return HELLO_VISITOR;
	pos += 1 + hello_u8(room, pos); /* session id */
	if (pos + 2 > room->end)
		return HELLO_VISITOR;
	pos += 2 + hello_u16(room, pos); /* cipher suites */
	if (pos + 1 > room->end)
		return HELLO_VISITOR;
	pos += 1 + hello_u8(room, pos); /* compression methods */
	room->pos = pos + 2;		/* behind the length of all extensions */
	hello_extensions(room);
	return room->kind;
}

#endif
