/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For tests of what guard_ingress does with the packets of a handshake that is the web server's.
 *
 *   second namespace             this one
 *   10.77.0.2, fd77::2 --- veth --- 10.77.0.1, fd77::1: web server (443)
 *
 * The handshakes are real ones that the client can't end: what it says behind its SYN is dropped
 * where it is. The packets that the program is asked about are made here.
 */
#ifndef EARLY_BENCH_H
#define EARLY_BENCH_H

#include "verdict_bench.h"

#define PORT	 443
#define FOREVER	 (UINT64_MAX | LEASE_EARLY)
#define TCP_FIN	 0x01
#define TCP_SYN	 0x02
#define TCP_RST	 0x04
#define TCP_ACK	 0x10
#define TCP_ECE	 0x40
#define TCP_CWR	 0x80
#define DOFF_AE	 0x01 /* RFC 9768 */
#define MSS_1460 "\x02\x04\x05\xb4"

static const char *const addresses[] = { "10.77.0.1", "fd77::1" };

static struct peer peer;
static int web[2], sniffer;
static uint32_t device;
static struct ring_buffer *events;
static struct early_event last_event;

/* ---- set-up ---- */

static inline int topology_make(void **state)
{
	namespace_make(state);
	peer = peer_make();
	peer_wire();
	run("ip link set v0 address 02:00:00:00:00:01");
	run(IN_PEER "nft 'table inet silent { chain output { type filter hook output priority 0;"
		    " tcp dport 443 tcp flags & syn == 0 drop; }; }'");
	device = if_nametoindex("v0");
	assert_true(device > 0);
	return 0;
}

static inline int topology_drop(void **state)
{
	peer_drop(&peer);
	return 0;
}

static inline void lease(uint16_t port, uint64_t until_ns)
{
	uint32_t key = port;

	assert_int_equal(bpf_map__update_elem(bpf->maps.leases, &key, sizeof(key), &until_ns,
					      sizeof(until_ns), BPF_ANY),
			 0);
}

static inline void set_sniffer(void)
{
	uint64_t fd = (uint64_t)sniffer;
	uint32_t zero = 0;

	assert_int_equal(bpf_map__update_elem(bpf->maps.own_sniffers, &zero, sizeof(zero), &fd,
					      sizeof(fd), BPF_ANY),
			 0);
}

static inline int take_event(void *ctx, void *data, size_t size)
{
	assert_int_equal(size, sizeof(last_event));
	memcpy(&last_event, data, size);
	return 0;
}

static inline int early_make(void **state)
{
	memset(counters_before, 0, sizeof(counters_before));
	bench_make(state);
	sysctl_set("tcp_synack_retries", 5);
	device_guard(device, true);
	for (int i = 0; i < 2; i++)
		web[i] = listen_on(addresses[i], PORT, NULL);
	sniffer = listen_on("::ffff:127.0.0.1", 0, NULL);
	set_sniffer();
	events = ring_buffer__new(bpf_map__fd(bpf->maps.early_events), take_event, NULL, NULL);
	assert_non_null(events);
	lease(PORT, FOREVER);
	bpf->bss->n_early_ports = 1;
	return 0;
}

static inline int early_drop(void **state)
{
	for (int i = 0; i < 2; i++)
		close(web[i]);
	close(sniffer);
	ring_buffer__free(events);
	return bench_drop(state);
}

#undef TEST
#define TEST(f) cmocka_unit_test_setup_teardown(f, early_make, early_drop)

/* ---- packets ---- */

static inline struct wire packet(const struct flow_key *key, uint32_t seq, uint32_t ack,
				 uint8_t flags, const void *payload, size_t len)
{
	struct segment segment = { .key = key,
				   .mac = wire_mac,
				   .seq = seq,
				   .ack = ack,
				   .window = 100,
				   .payload = payload,
				   .len = len };
	struct wire wire = { .ifindex = device };
	size_t ip_len =
		endpoint_is_v4(&(struct endpoint){ .addr = *(const struct in6_addr *)key->local })
			? 20
			: 40;

	wire.len = segment_build(&segment, wire.frame, sizeof(wire.frame));
	assert_true(wire.len > 0);
	wire.frame[SEGMENT_ETHERNET_LEN + ip_len + 13] = flags;
	return wire;
}

static inline uint8_t *tcp_of(struct wire *wire)
{
	return wire->frame + SEGMENT_ETHERNET_LEN + (wire->frame[13] == 0 ? 20 : 40);
}

/* A SYN with these options, as many bytes as a multiple of four, and so much data. */
static inline struct wire syn_with(const struct flow_key *key, const void *options, size_t len,
				   size_t data_len)
{
	uint8_t bytes[100] = {};
	struct wire wire;

	assert_true(len + data_len <= sizeof(bytes));
	memcpy(bytes, options, len);
	wire = packet(key, 77, 0, TCP_SYN, bytes, len + data_len);
	tcp_of(&wire)[12] = (uint8_t)((20 + len) / 4 << 4);
	return wire;
}

static inline struct flow_key some_client(size_t i)
{
	struct endpoint remote = endpoint_of(i ? "fd77::2" : "10.77.0.2", 40000);
	struct endpoint local = endpoint_of(addresses[i], PORT);
	struct flow_key key;

	key_fill(&key, &remote, &local);
	return key;
}

static inline bool is_noted(const struct flow_key *key, struct early_syn *ret_syn)
{
	return bpf_map__lookup_elem(bpf->maps.early_syns, key, sizeof(*key), ret_syn,
				    sizeof(*ret_syn), 0) == 0;
}

static inline void note(const struct flow_key *key, uint64_t at_ns)
{
	const struct early_syn syn = { .at_ns = at_ns };

	assert_int_equal(bpf_map__update_elem(bpf->maps.early_syns, key, sizeof(*key), &syn,
					      sizeof(syn), BPF_ANY),
			 0);
}

static inline void expect_noted(const struct wire *wire, const struct flow_key *key)
{
	uint64_t before = now_ns();
	struct early_syn syn;

	expect_in(wire, 0, NEXT, 0, NO_COUNT);
	assert_true(is_noted(key, &syn));
	assert_true(syn.at_ns >= before && syn.at_ns <= now_ns());
	assert_false(syn.passed || syn.acked);
}

/* It is steered, also when there was one of that name before that was not. */
static inline void expect_steered(const struct wire *wire, const struct flow_key *key)
{
	struct early_syn syn;

	note(key, now_ns());
	expect_in(wire, 0, NEXT, 0, NO_COUNT);
	if (is_noted(key, &syn))
		fail_msg("it is noted");
}

#endif
