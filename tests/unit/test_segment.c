/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdlib.h>

#include "segment.h"
#include "util.h"
#include "wire.h"

#define CANARY 0xc5

static const uint8_t mac[6] = { 2, 0x11, 0x22, 0x33, 0x44, 0x55 };
static uint8_t bytes[70000];
static uint64_t seed = UINT64_C(0x9e3779b97f4a7c15);

static uint32_t random32(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 16);
}

static int bytes_make(void **state)
{
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)random32();
	return 0;
}

static struct flow_key key_of(bool v4)
{
	struct flow_key key = { .remote_port = htons(40001), .local_port = htons(443) };

	assert_int_equal(inet_pton(AF_INET6, v4 ? "::ffff:192.0.2.1" : "2001:db8::1", key.remote),
			 1);
	assert_int_equal(
		inet_pton(AF_INET6, v4 ? "::ffff:203.0.113.9" : "2001:db8:ff::9", key.local), 1);
	return key;
}

/* Into memory of exactly that size plus a byte that must stay. */
static size_t build(const struct segment *segment, uint8_t *frame, size_t size)
{
	size_t len;

	frame[size] = CANARY;
	len = segment_build(segment, frame, size);
	assert_int_equal(frame[size], CANARY);
	return len;
}

/* What is read is what was meant, and neither a byte more nor a byte less room does. */
static void expect_built(const struct segment *s, bool v4)
{
	static uint8_t frame[70000];
	size_t len = 14 + (v4 ? 20 : 40) + (s->timestamps ? 32 : 20) + s->len;
	struct wire w;

	assert_int_equal(build(s, frame, len - 1), 0);
	memset(frame, 0xee, sizeof(frame));
	assert_int_equal(build(s, frame, len), len);
	assert_true(wire_read(frame, len, &w));
	assert_memory_equal(w.mac, mac, 6);
	assert_int_equal(w.v4, v4);
	assert_int_equal(w.ip_len, v4 ? 20 : 40);
	assert_memory_equal(&w.key, s->key, sizeof(w.key));
	assert_int_equal(w.seq, s->seq);
	assert_int_equal(w.ack, s->ack);
	assert_int_equal(w.window, s->window);
	assert_int_equal(w.urgent, 0);
	assert_int_equal(w.flags, WIRE_ACK | (s->len ? WIRE_PSH : 0) | (s->fin ? WIRE_FIN : 0) |
					  (s->rst ? WIRE_RST : 0));
	assert_int_equal(w.options_len, s->timestamps ? 12 : 0);
	if (s->timestamps) {
		/* RFC 7323 appendix A: NOP, NOP, kind 8, length 10, the two values. */
		assert_memory_equal(w.options, "\1\1\10\12", 4);
		assert_int_equal(wire_number(w.options + 4, 4), s->tsval);
		assert_int_equal(wire_number(w.options + 8, 4), s->tsecr);
	}
	assert_int_equal(w.len, s->len);
	if (s->len)
		assert_memory_equal(w.payload, s->payload, s->len);
	assert_true(w.checksum_ok);
	/* Every byte counts in the checksum. */
	frame[14 + (v4 ? 20 : 40) + random32() % (len - 14 - (v4 ? 20 : 40))] ^= 1;
	if (wire_read(frame, len, &w))
		assert_false(w.checksum_ok);
}

static void test_build(void **state)
{
	static const size_t lens[] = { 0, 1, 2, 3, 4, 5, 517, 1399, 1400, 1447, 1448, 3328, 65000 };

	for (unsigned i = 0; i < ARRAY_SIZE(lens) * 16; i++) {
		bool v4 = i & 1;
		struct flow_key key = key_of(v4);
		struct segment s = { .key = &key,
				     .mac = mac,
				     .seq = random32(),
				     .ack = random32(),
				     .window = (uint16_t)random32(),
				     .timestamps = i & 2,
				     .tsval = random32(),
				     .tsecr = random32(),
				     .fin = i & 4,
				     .rst = i & 8,
				     .payload = bytes + i,
				     .len = lens[i / 16] };

		if (!s.len)
			s.payload = NULL;
		expect_built(&s, v4);
	}
}

static void test_build_random(void **state)
{
	for (unsigned i = 0; i < 3000; i++) {
		bool v4 = random32() & 1;
		struct flow_key key = key_of(v4);
		struct segment s = { .key = &key,
				     .mac = mac,
				     .seq = random32(),
				     .timestamps = random32() & 1,
				     .payload = bytes + random32() % 1000,
				     .len = random32() % 2000 };

		for (size_t j = 12; j < 16; j++)
			key.remote[j] = key.local[j] = (uint8_t)random32();
		key.remote_port = (uint16_t)random32();
		expect_built(&s, v4);
	}
}

/* Sums of nothing but ones, where carries come from carries; a checksum of zero stays one in TCP.
 */
static void test_build_carries(void **state)
{
	static uint8_t ones[60000];
	struct flow_key key = key_of(true);

	memset(ones, 0xff, sizeof(ones));
	memset(&key.remote_port, 0xff, 4);
	for (size_t len = 0; len < sizeof(ones); len = len * 2 + 1) {
		struct segment s = { .key = &key,
				     .mac = mac,
				     .seq = UINT32_MAX,
				     .ack = UINT32_MAX,
				     .window = UINT16_MAX,
				     .payload = ones,
				     .len = len };

		expect_built(&s, true);
	}
}

/* IP's length has 16 bits. */
static void test_build_too_long(void **state)
{
	static uint8_t frame[80000];

	for (unsigned v4 = 0; v4 < 2; v4++) {
		struct flow_key key = key_of(v4);
		struct segment s = { .key = &key, .mac = mac, .payload = bytes, .len = 65536 };
		struct wire w;

		while (s.len > 65400 && build(&s, frame, sizeof(frame) - 1) == 0)
			s.len--;
		/* The longest that is built is a good one. */
		assert_in_range(s.len, 65401, 65535 - 20);
		assert_true(wire_read(frame, build(&s, frame, sizeof(frame) - 1), &w));
		assert_int_equal(w.len, s.len);
		assert_true(w.checksum_ok);
		assert_int_equal(build(&s, frame, 0), 0);
	}
}

/* ---- packets that were held ---- */

struct packet {
	bool v4;
	size_t ip_options, tcp_options; /* bytes, multiples of 4 */
	uint8_t flags;
	size_t len;
};

/* Writes a packet as a client might send it, checksums right. Its length. */
static size_t packet_make(const struct packet *p, uint8_t *packet)
{
	size_t ip_len = p->v4 ? 20 + p->ip_options : 40, tcp_len = 20 + p->tcp_options + p->len;
	struct flow_key key = key_of(p->v4);
	uint8_t *tcp = packet + ip_len;
	uint64_t sum;

	memset(packet, 0, ip_len);
	if (p->v4) {
		packet[0] = (uint8_t)(0x40 | ip_len / 4);
		packet[1] = 0x2e; /* DSCP: stays */
		packet[2] = (uint8_t)((ip_len + tcp_len) >> 8);
		packet[3] = (uint8_t)(ip_len + tcp_len);
		packet[4] = 0xab;
		packet[6] = 0x40;
		packet[8] = 57;
		packet[9] = IPPROTO_TCP;
		memcpy(packet + 12, key.remote + 12, 4);
		memcpy(packet + 16, key.local + 12, 4);
		memset(packet + 20, 1, p->ip_options);
		sum = 65535 - wire_sum(packet, ip_len);
		packet[10] = (uint8_t)(sum >> 8);
		packet[11] = (uint8_t)sum;
	} else {
		packet[0] = 0x62;
		packet[1] = 0xe3;
		packet[3] = 0x77;
		packet[4] = (uint8_t)(tcp_len >> 8);
		packet[5] = (uint8_t)tcp_len;
		packet[6] = IPPROTO_TCP;
		packet[7] = 57;
		memcpy(packet + 8, key.remote, 16);
		memcpy(packet + 24, key.local, 16);
	}
	memcpy(tcp, bytes, tcp_len); /* whatever is not set below */
	memcpy(tcp, &key.remote_port, 2);
	memcpy(tcp + 2, &key.local_port, 2);
	tcp[12] = (uint8_t)((20 + p->tcp_options) / 4 << 4);
	tcp[13] = p->flags;
	tcp[16] = tcp[17] = 0;
	sum = (p->v4 ? wire_sum(packet + 12, 8) : wire_sum(packet + 8, 32)) + IPPROTO_TCP +
	      tcp_len + wire_sum(tcp, tcp_len);
	sum = 65535 - sum % 65535;
	tcp[16] = (uint8_t)(sum >> 8);
	tcp[17] = (uint8_t)sum;
	return ip_len + tcp_len;
}

/* The piece of @packet that begins at byte @offset of its payload, as the guard keeps it. */
static struct held held_of(const struct packet *p, const uint8_t *packet, size_t offset)
{
	size_t header_len = (p->v4 ? 20 + p->ip_options : 40) + 20 + p->tcp_options;
	size_t len = MIN(p->len - offset, (size_t)HELD_PIECE);
	struct held held = { .cookie = 1,
			     .offset = (uint32_t)offset,
			     .len = (uint16_t)(header_len + len),
			     .more = offset + len < p->len };

	memcpy(held.packet, packet, header_len);
	memcpy(held.packet + header_len, packet + header_len + offset, len);
	return held;
}

static size_t from_held(const struct held *held, uint8_t *frame, size_t size)
{
	size_t len;

	frame[size] = CANARY;
	len = segment_from_held(held, mac, frame, size);
	assert_int_equal(frame[size], CANARY);
	return len;
}

/* The pieces together are the packet, and each is a good one of its own. */
static void expect_pieces(const struct packet *p, bool no_checksum)
{
	static uint8_t packet[70000], whole_frame[70014], frame[4096];
	size_t packet_len = packet_make(p, packet), offset = 0;
	size_t ip_len = p->v4 ? 20 + p->ip_options : 40;
	struct wire whole, w;

	memcpy(whole_frame, mac, 6);
	memcpy(whole_frame + 12, p->v4 ? "\x08\x00" : "\x86\xdd", 2);
	memcpy(whole_frame + 14, packet, packet_len);
	assert_true(wire_read(whole_frame, 14 + packet_len, &whole));
	assert_true(whole.checksum_ok);
	if (no_checksum) {
		packet[ip_len + 16] ^= 0x5a;
		packet[ip_len + 17] ^= 0xa5;
	}
	do {
		struct held held = held_of(p, packet, offset);
		size_t len;

		held.no_checksum = no_checksum;
		assert_int_equal(from_held(&held, frame, 14 + held.len - 1), 0);
		len = from_held(&held, frame, 14 + held.len);
		assert_int_equal(len, 14 + held.len);
		assert_true(wire_read(frame, len, &w));
		assert_memory_equal(w.mac, mac, 6);
		assert_memory_equal(&w.key, &whole.key, sizeof(w.key));
		assert_int_equal(w.seq, whole.seq + offset);
		assert_int_equal(w.ack, whole.ack);
		assert_int_equal(w.window, whole.window);
		assert_int_equal(w.flags, held.more ? p->flags & ~(WIRE_FIN | WIRE_PSH) : p->flags);
		assert_int_equal(w.options_len, whole.options_len);
		assert_memory_equal(w.options, whole.options, w.options_len);
		assert_memory_equal(w.payload, whole.payload + offset, w.len);
		/* What routers may read stays: DSCP, flow label, TTL, IPv4's options. */
		assert_int_equal(frame[15], whole_frame[15]);
		assert_int_equal(frame[14 + (p->v4 ? 8 : 7)], 57);
		assert_memory_equal(frame + 14 + (p->v4 ? 12 : 8),
				    whole_frame + 14 + (p->v4 ? 12 : 8), ip_len - (p->v4 ? 12 : 8));
		assert_true(w.checksum_ok);
		offset += w.len;
	} while (offset < p->len);
	assert_int_equal(offset, p->len);
}

static void test_held(void **state)
{
	static const size_t lens[] = { 0,
				       1,
				       2,
				       517,
				       HELD_PIECE - 1,
				       HELD_PIECE,
				       HELD_PIECE + 1,
				       2 * HELD_PIECE,
				       2 * HELD_PIECE + 1,
				       9000,
				       65000 };
	static const uint8_t flags[] = { WIRE_ACK, WIRE_ACK | WIRE_PSH, WIRE_ACK | WIRE_FIN,
					 WIRE_ACK | WIRE_PSH | WIRE_FIN };
	static const size_t options[][2] = {
		{ 0, 0 }, { 0, 12 }, { 0, 40 }, { 8, 12 }, { 40, 40 }
	};

	for (size_t i = 0; i < ARRAY_SIZE(lens); i++)
		for (size_t j = 0; j < ARRAY_SIZE(flags); j++)
			for (size_t k = 0; k < ARRAY_SIZE(options); k++)
				for (int how = 0; how < 4; how++) {
					struct packet p = { .v4 = how & 1,
							    .ip_options = options[k][0],
							    .tcp_options = options[k][1],
							    .flags = flags[j],
							    .len = lens[i] };

					expect_pieces(&p, how & 2);
				}
}

/* A packet that a device damaged must stay damaged: it is not for us to make it good. */
static void test_held_damaged(void **state)
{
	static uint8_t packet[2000], frame[2014];

	for (unsigned v4 = 0; v4 < 2; v4++) {
		struct packet p = { .v4 = v4, .flags = WIRE_ACK, .len = 600 };
		struct held held;
		struct wire w;
		size_t len;

		packet_make(&p, packet);
		packet[300] ^= 4;
		held = held_of(&p, packet, 0);
		len = from_held(&held, frame, sizeof(frame) - 1);
		assert_true(wire_read(frame, len, &w));
		assert_false(w.checksum_ok);
	}
}

static void test_held_no_packet(void **state)
{
	static const struct {
		size_t offset;
		uint8_t value;
	} table[] = {
		{ 0, 0x44 }, { 0, 0x40 }, { 0, 0x4f },	      { 0, 0x00 },
		{ 0, 0x75 }, { 0, 0x55 }, { 9, IPPROTO_UDP },
	};
	static uint8_t packet[100], frame[4096];
	struct packet p = { .v4 = true, .flags = WIRE_ACK };
	struct held held;

	assert_int_equal(packet_make(&p, packet), 40);
	held = held_of(&p, packet, 0);
	assert_int_equal(from_held(&held, frame, 54), 54);
	for (uint16_t len = 0; len < 40; len++) {
		held.len = len;
		assert_int_equal(from_held(&held, frame, sizeof(frame) - 1), 0);
	}
	held.len = sizeof(held.packet) + 1;
	assert_int_equal(from_held(&held, frame, sizeof(frame) - 1), 0);
	held.len = 40;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct held other = held;

		other.packet[table[i].offset] = table[i].value;
		if (from_held(&other, frame, sizeof(frame) - 1) != 0)
			fail_msg("byte %zu: %#x is taken for a packet", table[i].offset,
				 table[i].value);
	}
	memset(&held, 0, sizeof(held));
	assert_int_equal(from_held(&held, frame, sizeof(frame) - 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_build),	       cmocka_unit_test(test_build_random),
		cmocka_unit_test(test_build_carries),  cmocka_unit_test(test_build_too_long),
		cmocka_unit_test(test_held),	       cmocka_unit_test(test_held_damaged),
		cmocka_unit_test(test_held_no_packet),
	};

	return cmocka_run_group_tests(tests, bytes_make, NULL);
}
