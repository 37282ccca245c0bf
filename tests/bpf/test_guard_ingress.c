/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: segment.c bpf_util.c log.c lazy.c log_record.c addr.c
/*
 * What guard_ingress and guard_socket do with packets to a guarded connection: hold, park, pass or
 * give to the target. Only where a packet's owner counts are the guards attached, to lo.
 */
#include "verdict_bench.h"

static bool held_get(const struct flow_key *key, uint32_t number, struct held *ret_held)
{
	struct held_key held_key = { .flow = *key, .number = number };

	return bpf_map__lookup_elem(bpf->maps.held, &held_key, sizeof(held_key), ret_held,
				    sizeof(*ret_held), 0) == 0;
}

/* The packet of @wire, byte by byte, is held from @number on. Returns in how many pieces. */
static uint32_t expect_held(const struct flow_key *key, uint32_t number, const struct wire *wire,
			    uint64_t cookie, bool no_checksum)
{
	const uint8_t *packet = wire->frame + SEGMENT_ETHERNET_LEN;
	size_t ip_len = packet[0] >> 4 == 4 ? (packet[0] & 15u) * 4u : 40;
	size_t header_len = ip_len + (packet[ip_len + 12] >> 4) * 4u;
	size_t payload_len = wire->len - SEGMENT_ETHERNET_LEN - header_len, offset = 0;
	uint32_t n = 0;

	do {
		size_t len = MIN(payload_len - offset, (size_t)HELD_PIECE);
		struct held held;

		assert_true(held_get(key, number + n, &held));
		assert_true(held.cookie == cookie);
		assert_int_equal(held.no_checksum, no_checksum);
		assert_int_equal(held.len, header_len + len);
		assert_int_equal(held.offset, offset);
		assert_int_equal(held.more, offset + len < payload_len);
		assert_memory_equal(held.packet, packet, header_len);
		assert_memory_equal(held.packet + header_len, packet + header_len + offset, len);
		offset += len;
		n++;
	} while (offset < payload_len);
	return n;
}

/* Packets that no guard is about. */
static void test_ingress_others(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct flow_key other = keys[i], back = reversed(&keys[i]);
		struct wire wire = wire_in(&keys[i], FIRST_SEQ, 10);
		struct wire answer = wire_in(&back, FIRST_SEQ, 10);

		for (int n_others = 0; n_others < 2; n_others++) {
			if (n_others) {
				other.remote_port ^= htons(1);
				guard_set(&other, &usual_guard);
			}
			expect_in(&wire, 0, NEXT, 0, NO_COUNT);
			expect_in(&wire, 0x1234, NEXT, 0x1234, NO_COUNT);
			expect_in(&wire, 0xac3d0007, NEXT, 0xac3d0007, NO_COUNT);
			/* Of ours, what comes too late must not be seen by anybody. */
			expect_in(&wire, MARK_INJECT, DROP, 0, COUNTER_STALE);
			expect_in(&wire, MARK_INJECT | 2, NEXT, MARK_INJECT | 2, NO_COUNT);
			/* What was held is good for whoever has the connection. */
			expect_in(&wire, MARK_HELD, NEXT, 0, NO_COUNT);
			/* The gap is over. */
			expect_in(&wire, MARK_PARK, NEXT, 0, NO_COUNT);
			expect_in(&wire, MARK_PARK | 77, NEXT, 0, NO_COUNT);
		}
		/* The guard of a connection is not about packets the other way. */
		guard_remove(&other);
		guard_set(&keys[i], &usual_guard);
		expect_in(&answer, 0, NEXT, 0, NO_COUNT);
		guard_remove(&keys[i]);
	}
}

/* Each part of the tuple counts. */
static void test_ingress_tuple(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		guard_set(&keys[i], &usual_guard);
		for (size_t byte = 0; byte < sizeof(struct flow_key); byte++) {
			struct flow_key other = keys[i];
			struct wire wire;

			/* IPv4 addresses have only four bytes to differ in. */
			if (i == 0 && byte < 32 && byte % 16 < 12)
				continue;
			((uint8_t *)&other)[byte] ^= 1;
			wire = wire_in(&other, FIRST_SEQ, 10);
			expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		}
		guard_remove(&keys[i]);
	}
}

static void test_ingress_held(void **state)
{
	static const struct {
		size_t len;
		bool merged;
		uint32_t pieces;
	} table[] = {
		{ 0, false, 1 },
		{ 1, false, 1 },
		{ 501, false, 1 },
		{ 1448, false, 1 },
		{ HELD_PIECE, false, 1 },
		{ HELD_PIECE, true, 1 },
		{ HELD_PIECE + 1, true, 2 },
		{ 2 * HELD_PIECE, true, 2 },
		{ 3000, true, 3 },
	};

	for (size_t i = 0; i < 2; i++) {
		uint32_t n = 0;
		struct guard guard;

		guard_set(&keys[i], &usual_guard);
		for (size_t j = 0; j < ARRAY_SIZE(table); j++) {
			struct wire wire = wire_in(&keys[i], RCV_NXT, table[j].len);
			/* A mark of somebody else's is no obstacle. */
			uint32_t mark = j == 2 ? 0x1234 : 0;

			wire.merged = table[j].merged;
			expect_in(&wire, mark, DROP, mark, COUNTER_HELD);
			/* The checksum of merged packets is not there. */
			assert_int_equal(
				expect_held(&keys[i], n, &wire, usual_guard.cookie, wire.merged),
				table[j].pieces);
			n += table[j].pieces;
			assert_int_equal(guard_of(&keys[i]).n_held, n);
		}
		guard = guard_of(&keys[i]);
		guard.n_held = 0;
		/* Nothing else has changed. */
		assert_memory_equal(&guard, &usual_guard, sizeof(guard));
		guard_remove(&keys[i]);
	}
}

/* A checksum that nobody has verified can't be made anew for pieces: such a packet stays whole. */
static void test_ingress_unverified(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct wire wire = wire_in(&keys[i], RCV_NXT, HELD_PIECE + 1);

		guard_set(&keys[i], &usual_guard);
		expect_in(&wire, 0, REDIRECT, MARK_PARK, COUNTER_PARKED);
		assert_int_equal(guard_of(&keys[i]).n_held, 0);
		guard_remove(&keys[i]);
	}
}

/* Ethernet's padding is no part of the packet; IPv4's options are. */
static void test_ingress_lengths(void **state)
{
	struct wire wire = wire_in(&keys[0], RCV_NXT, 0), padded = wire;
	struct wire options = wire_in(&keys[0], RCV_NXT, 300);
	uint8_t *ip = options.frame + SEGMENT_ETHERNET_LEN;

	guard_set(&keys[0], &usual_guard);
	memset(padded.frame + wire.len, 0xee, 6);
	padded.len += 6;
	expect_in(&padded, 0, DROP, 0, COUNTER_HELD);
	expect_held(&keys[0], 0, &wire, usual_guard.cookie, false);

	memmove(ip + 28, ip + 20, options.len - SEGMENT_ETHERNET_LEN - 20);
	memset(ip + 20, 1 /* no operation */, 8);
	options.len += 8;
	ip[0] = 0x47;
	ip[2] = (uint8_t)((options.len - SEGMENT_ETHERNET_LEN) >> 8);
	ip[3] = (uint8_t)(options.len - SEGMENT_ETHERNET_LEN);
	expect_in(&options, 0, DROP, 0, COUNTER_HELD);
	expect_held(&keys[0], 1, &options, usual_guard.cookie, false);
}

/* What finds no room, or claims to be longer than it is, is parked. */
static void test_ingress_no_room(void **state)
{
	struct wire wire = wire_in(&keys[0], RCV_NXT, 10);
	struct wire two_pieces = wire_in(&keys[0], RCV_NXT, HELD_PIECE + 1);
	struct guard guard = usual_guard;
	struct held held;

	two_pieces.merged = true;
	guard.n_held = HELD_PER_GUARD - 2;
	guard_set(&keys[0], &guard);
	expect_in(&two_pieces, 0, DROP, 0, COUNTER_HELD);
	expect_held(&keys[0], HELD_PER_GUARD - 2, &two_pieces, guard.cookie, true);
	expect_in(&wire, 0, REDIRECT, MARK_PARK, COUNTER_PARKED);
	assert_false(held_get(&keys[0], HELD_PER_GUARD, &held));
	/* Room for one, and one too many. */
	guard.n_held = HELD_PER_GUARD - 1;
	guard_set(&keys[0], &guard);
	expect_in(&two_pieces, 0, REDIRECT, MARK_PARK, COUNTER_PARKED);
	assert_false(held_get(&keys[0], HELD_PER_GUARD, &held));

	guard.n_held = 0;
	guard_set(&keys[0], &guard);
	wire.frame[SEGMENT_ETHERNET_LEN + 3]++; /* length */
	expect_in(&wire, 0, REDIRECT, MARK_PARK, COUNTER_PARKED);
	assert_int_equal(guard_of(&keys[0]).n_held, 0);
	/* And one whose headers alone are longer. */
	wire.frame[SEGMENT_ETHERNET_LEN + 3]--;
	wire.frame[SEGMENT_ETHERNET_LEN + 20 + 12] = 0xf0;
	expect_in(&wire, 0, REDIRECT, MARK_PARK, COUNTER_PARKED);
	assert_int_equal(guard_of(&keys[0]).n_held, 0);
}

static void test_ingress_parked(void **state)
{
	const uint32_t last = PARK_MAX_ROUNDS - 1;

	for (size_t i = 0; i < 2; i++) {
		struct wire wire = wire_in(&keys[i], RCV_NXT, 10);
		struct guard guard = usual_guard;

		guard.n_held = HELD_PER_GUARD;
		guard_set(&keys[i], &guard);
		expect_in(&wire, 0, REDIRECT, MARK_PARK, COUNTER_PARKED);
		expect_in(&wire, MARK_PARK, REDIRECT, MARK_PARK | 1, COUNTER_PARK_ROUNDS);
		expect_in(&wire, MARK_PARK | (last - 1), REDIRECT, MARK_PARK | last,
			  COUNTER_PARK_ROUNDS);
		expect_in(&wire, MARK_PARK | last, DROP, MARK_PARK | last, COUNTER_PARK_DROPPED);
		/* A mark of somebody else's can't be used to count. */
		expect_in(&wire, 0x1234, DROP, 0x1234, COUNTER_PARK_DROPPED);
		guard.parking = PARKING_DROP;
		guard_set(&keys[i], &guard);
		expect_in(&wire, 0, DROP, 0, COUNTER_PARK_DROPPED);
		expect_in(&wire, MARK_PARK | 1, DROP, MARK_PARK | 1, COUNTER_PARK_DROPPED);
		guard.parking = PARKING_PASS;
		guard_set(&keys[i], &guard);
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		expect_in(&wire, 0x1234, NEXT, 0x1234, NO_COUNT);
		expect_in(&wire, MARK_PARK | 1, NEXT, 0, NO_COUNT);
		/* One that went round is not held, there may be newer ones before it. */
		guard = usual_guard;
		guard_set(&keys[i], &guard);
		expect_in(&wire, MARK_PARK | 1, REDIRECT, MARK_PARK | 2, COUNTER_PARK_ROUNDS);
		expect_in(&wire, MARK_HELD, NEXT, 0, NO_COUNT);
		assert_int_equal(guard_of(&keys[i]).n_held, 0);
		guard_remove(&keys[i]);
	}
}

/* What isn't a whole TCP header right behind the IP header passes. */
static void test_ingress_not_tcp(void **state)
{
	static const struct {
		size_t v6, offset;
		uint8_t value;
	} table[] = {
		{ 0, 14 + 9, IPPROTO_UDP },
		{ 0, 14 + 6, 0x20 /* more fragments */ },
		{ 0, 14 + 7, 1 /* a later one */ },
		{ 1, 14 + 6, IPPROTO_UDP },
		{ 1, 14 + 6, 0 /* hop by hop */ },
		{ 0, 13, 6 /* ARP */ },
		{ 1, 13, 0xde },
	};
	struct wire wire;

	for (size_t i = 0; i < 2; i++)
		guard_set(&keys[i], &usual_guard);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		wire = wire_in(&keys[table[i].v6], RCV_NXT, 10);
		wire.frame[table[i].offset] = table[i].value;
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
		expect_in(&wire, 0x1234, NEXT, 0x1234, NO_COUNT);
	}
	for (size_t i = 0; i < 2; i++) {
		wire = wire_in(&keys[i], RCV_NXT, 0);
		wire.len--;
		expect_in(&wire, 0, NEXT, 0, NO_COUNT);
	}
}

/* Our own segments: only the first may be given to a listener, and there is none here. */
static void test_ingress_inject(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct wire first = wire_in(&keys[i], FIRST_SEQ, 10);
		struct wire before = wire_in(&keys[i], FIRST_SEQ - 1, 10);
		struct wire later = wire_in(&keys[i], FIRST_SEQ + 10, 10);
		struct guard guard = usual_guard;

		guard_set(&keys[i], &guard);
		expect_in(&later, MARK_INJECT, NEXT, 0, NO_COUNT);
		expect_in(&before, MARK_INJECT, NEXT, 0, NO_COUNT);
		assert_int_equal(guard_of(&keys[i]).seen, 0);
		expect_in(&first, MARK_INJECT, DROP, 0, COUNTER_ADOPT_ERROR);
		assert_int_equal(guard_of(&keys[i]).seen, 1);
		assert_int_equal(guard_of(&keys[i]).adopt_error, -ENOENT);
		expect_in(&first, MARK_INJECT, DROP, 0, COUNTER_ADOPT_ERROR);
		assert_int_equal(guard_of(&keys[i]).seen, 2);
		/* The sniffer is asked instead; there is none either. */
		guard.to_sniffer = 1;
		guard_set(&keys[i], &guard);
		expect_in(&first, MARK_INJECT, DROP, 0, COUNTER_ADOPT_ERROR);
		/* It has come, answered and gone: not once more. */
		guard.child_of = guard.cookie;
		guard_set(&keys[i], &guard);
		expect_in(&first, MARK_INJECT, DROP, 0, NO_COUNT);
		assert_int_equal(guard_of(&keys[i]).seen, 0);
		guard_remove(&keys[i]);
	}
}

/* The first segment once more, and the new socket is there. */
static void test_ingress_repeated(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	struct wire first = wire_in(&s.c.key, FIRST_SEQ, 10);
	struct guard guard = usual_guard;

	memcpy(guard.target, &s.target.addr, 16);
	guard.target_port = htons(s.target.port);
	guard.seen = 1;
	guard_set(&s.c.key, &guard);
	expect_in(&first, MARK_INJECT, NEXT, 0, NO_COUNT);
	assert_int_equal(guard_of(&s.c.key).seen, 1);
	/* The listener is asked; a test-run is not the tcx hook, so the kernel refuses. */
	connection_close(&s.c);
	assert_true(wait_until(!ready(s.from, POLLIN, 0)));
	guard.seen = 0;
	guard_set(&s.c.key, &guard);
	expect_in(&first, MARK_INJECT, DROP, 0, COUNTER_ADOPT_ERROR);
	assert_int_equal(guard_of(&s.c.key).adopt_error, -EINVAL);
	scene_drop(&s);
}

/* ---- packets of real sockets ---- */

/* What this host sends to itself has no checksum yet. */
static void test_ingress_no_checksum(void **state)
{
	struct scene s = scene_make("127.0.0.1", NULL, NULL);
	int link = attach(bpf->progs.guard_ingress, ATTACH_TCX_INGRESS);
	struct guard guard = { .cookie = s.c.cookie, .parking = PARKING_ON };
	uint8_t expected[100];
	struct held held;

	guard_set(&s.c.key, &guard);
	pattern_fill(expected, sizeof(expected), 0);
	send_pattern(s.c.client, sizeof(expected), 0);
	assert_true(wait_until(held_get(&s.c.key, 0, &held)));
	assert_int_equal(unread(s.c.server), 0);
	assert_int_equal(held.no_checksum, 1);
	assert_true(held.len > sizeof(expected));
	assert_memory_equal(held.packet + held.len - sizeof(expected), expected, sizeof(expected));
	/* Without the guard the client's repetition arrives. */
	guard_remove(&s.c.key);
	expect_pattern(s.c.server, sizeof(expected), 0);
	close(link);
	scene_drop(&s);
}

/* On the old socket: what had passed the device when the entry appeared. */
static void socket_held(const char *address)
{
	struct scene s = scene_make(address, NULL, NULL);
	size_t ip_len = endpoint_is_v4(&s.c.local) ? 20 : 40, header_len;
	struct guard guard = { .cookie = s.c.cookie, .parking = PARKING_ON };
	uint8_t expected[100];
	struct held held;

	option_set(s.c.server, SOL_SOCKET, SO_ATTACH_BPF, bpf_program__fd(bpf->progs.guard_socket));
	send_pattern(s.c.client, sizeof(expected), 0);
	expect_pattern(s.c.server, sizeof(expected), 0);
	expect_counter(NO_COUNT);

	guard_set(&s.c.key, &guard);
	pattern_fill(expected, sizeof(expected), 100);
	send_pattern(s.c.client, sizeof(expected), 100);
	assert_true(wait_until(held_get(&s.c.key, 0, &held)));
	assert_int_equal(unread(s.c.server), 0);
	assert_int_equal(info_of(s.c.client).tcpi_unacked, 1);
	assert_true(held.cookie == s.c.cookie);
	assert_int_equal(held.packet[0] >> 4, ip_len == 20 ? 4 : 6);
	header_len = ip_len + (held.packet[ip_len + 12] >> 4) * 4u;
	assert_int_equal(held.len, header_len + sizeof(expected));
	assert_memory_equal(held.packet + ip_len, &s.c.key.remote_port, 4);
	assert_memory_equal(held.packet + header_len, expected, sizeof(expected));
	assert_int_equal(held.no_checksum, 1);
	guard_remove(&s.c.key);
	expect_pattern(s.c.server, sizeof(expected), 100);
	scene_drop(&s);
}

static void test_socket_held(void **state)
{
	socket_held("127.0.0.1");
	/* The counters go on. */
	bpf_util_sum(bpf_map__fd(bpf->maps.guard_counters), GUARD_COUNTER_COUNT, counters_before);
	socket_held("::1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ingress_others),
		TEST(test_ingress_tuple),
		TEST(test_ingress_held),
		TEST(test_ingress_lengths),
		TEST(test_ingress_unverified),
		TEST(test_ingress_no_room),
		TEST(test_ingress_parked),
		TEST(test_ingress_not_tcp),
		TEST(test_ingress_inject),
		TEST(test_ingress_repeated),
		TEST(test_ingress_no_checksum),
		TEST(test_socket_held),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, namespace_make, NULL);
}
