// uses: segment.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libFuzzer target for segment_build() and segment_from_held(). The first byte chooses; the rest are
 * the fields of struct segment or struct held, in their order, and then payload or packet.
 *
 * What must hold: nothing is written beyond the size given, and one byte less is refused; what was
 * built reads (wire.h) as what was asked for; a held packet keeps its bytes, but for what is made
 * right, and where the checksum is computed it is right.
 */
#include "fuzz.h"
#include "segment.h"
#include "../unit/wire.h"

static const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };

static void fuzz_build(struct input input)
{
	struct flow_key key;
	struct segment s = { .key = &key, .mac = mac };
	uint8_t flags, *frame;
	struct wire w;
	size_t len;
	bool v4;

	take(&input, &flags, 1);
	take(&input, &key, sizeof(key));
	if (flags & 1) {
		memset(key.remote, 0, 10);
		memset(key.remote + 10, 0xff, 2);
		memcpy(key.local, key.remote, 12);
	}
	take(&input, &s.seq, 4);
	take(&input, &s.ack, 4);
	take(&input, &s.window, 2);
	take(&input, &s.tsval, 4);
	take(&input, &s.tsecr, 4);
	s.timestamps = flags & 2;
	s.fin = flags & 4;
	s.rst = flags & 8;
	s.payload = input.data;
	s.len = input.len;
	v4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)key.local);

	len = 14 + (v4 ? 20u : 40u) + (s.timestamps ? 32u : 20u) + s.len;
	frame = malloc(len);
	check(frame && segment_build(&s, frame, len - 1) == 0);
	check(segment_build(&s, frame, len) == len);
	check(wire_read(frame, len, &w) && w.checksum_ok);
	check(w.v4 == v4 && w.seq == s.seq && w.ack == s.ack && w.window == s.window);
	check(w.len == s.len && (!s.len || !memcmp(w.payload, s.payload, s.len)));
	check(!memcmp(w.key.local + (v4 ? 12 : 0), key.local + (v4 ? 12 : 0), v4 ? 4 : 16));
	check(!memcmp(w.key.remote + (v4 ? 12 : 0), key.remote + (v4 ? 12 : 0), v4 ? 4 : 16));
	check(w.key.remote_port == key.remote_port && w.key.local_port == key.local_port);
	check(!!(w.flags & WIRE_FIN) == s.fin && !!(w.flags & WIRE_RST) == s.rst);
	free(frame);
}

static void check_frame(const struct held *held, const uint8_t *frame, size_t len)
{
	bool piece = held->more || held->offset;
	const uint8_t *packet = held->packet;
	bool v4 = packet[0] >> 4 == 4;
	size_t ip_len = v4 ? (packet[0] & 15u) * 4u : 40, payload = ip_len + 20;
	struct wire w;

	check(len == 14 + (size_t)held->len);
	check(v4 ? ip_len >= 20 : packet[0] >> 4 == 6);
	check(packet[v4 ? 9 : 6] == IPPROTO_TCP);
	check(!memcmp(frame + 14 + payload, packet + payload, held->len - payload));
	if (!piece && !held->no_checksum)
		check(!memcmp(frame + 14, packet, held->len));
	if (!wire_read(frame, len, &w))
		return;
	if (piece || held->no_checksum)
		check(w.checksum_ok);
	check(w.seq == wire_number(packet + ip_len + 4, 4) + held->offset);
	check((w.flags & ~(WIRE_FIN | WIRE_PSH)) ==
	      (packet[ip_len + 13] & ~(WIRE_FIN | WIRE_PSH)));
	check(!held->more || !(w.flags & (WIRE_FIN | WIRE_PSH)));
	check(held->more || w.flags == packet[ip_len + 13]);
}

static void fuzz_held(struct input input)
{
	static struct held held;
	uint8_t flags, *frame;
	size_t size, len;

	take(&input, &flags, 1);
	take(&input, &held.offset, 4);
	take(&input, &held.len, 2);
	held.more = flags & 1;
	held.no_checksum = !!(flags & 2);
	if (flags & 4)
		held.offset = 0;
	if (flags & 8)
		held.len = (uint16_t)MIN(input.len, sizeof(held.packet));
	take(&input, held.packet, sizeof(held.packet));

	size = 14 + (size_t)held.len;
	frame = malloc(size);
	check(frame && segment_from_held(&held, mac, frame, size - 1) == 0);
	len = segment_from_held(&held, mac, frame, size);
	if (len)
		check_frame(&held, frame, len);
	free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { .data = data, .len = size };
	uint8_t which;

	take(&input, &which, 1);
	if (which & 1)
		fuzz_build(input);
	else
		fuzz_held(input);
	return 0;
}
