/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reads Ethernet frames with a TCP segment in them, for tests of what writes them. Nothing is
 * shared with segment.c; checksums are verified by arithmetic modulo 65535, not by folding.
 */
#ifndef WIRE_H
#define WIRE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "steer_shared.h"

struct wire {
	uint8_t mac[6];
	bool v4;
	size_t ip_len; /* of the IP header */
	struct flow_key key;
	uint32_t seq, ack;
	uint8_t flags;
	uint16_t window, urgent;
	const uint8_t *options;
	size_t options_len;
	const uint8_t *payload;
	size_t len;
	bool checksum_ok; /* TCP's; a wrong one of IPv4's header is no wire at all */
};

enum { WIRE_FIN = 1, WIRE_SYN = 2, WIRE_RST = 4, WIRE_PSH = 8, WIRE_ACK = 16, WIRE_URG = 32 };

static inline uint32_t wire_number(const uint8_t *p, size_t bytes)
{
	uint32_t number = 0;

	while (bytes--)
		number = number << 8 | *p++;
	return number;
}

/* RFC 1071: whole with its checksum the sum is a multiple of 65535. */
static inline uint64_t wire_sum(const uint8_t *p, size_t len)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (sum + (i % 2 ? p[i] : p[i] * 256u)) % 65535;
	return sum;
}

static inline const uint8_t *wire_read_ip(const uint8_t *ip, size_t len, struct wire *w)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	bool v6 = !w->v4;

	if (len < (v6 ? 40u : 20u) || ip[0] >> 4 != (v6 ? 6 : 4))
		return NULL;
	if (v6) {
		w->ip_len = 40;
		memcpy(w->key.remote, ip + 8, 16);
		memcpy(w->key.local, ip + 24, 16);
		return wire_number(ip + 4, 2) == len - 40 && ip[6] == IPPROTO_TCP && ip[7] > 1
			       ? ip + 40
			       : NULL;
	}
	w->ip_len = (ip[0] & 15u) * 4u;
	if (w->ip_len < 20 || w->ip_len > len || wire_number(ip + 2, 2) != len ||
	    wire_number(ip + 6, 2) & 0x3fff || ip[8] <= 1 || ip[9] != IPPROTO_TCP ||
	    wire_sum(ip, w->ip_len) != 0)
		return NULL;
	memcpy(w->key.remote, mapped, 12);
	memcpy(w->key.local, mapped, 12);
	memcpy(w->key.remote + 12, ip + 12, 4);
	memcpy(w->key.local + 12, ip + 16, 4);
	return ip + w->ip_len;
}

/* A whole frame, no byte too many; all lengths agree. False: it is none. */
static inline bool wire_read(const uint8_t *frame, size_t len, struct wire *ret_wire)
{
	struct wire w = {};
	uint32_t type;
	const uint8_t *ip = frame + 14, *tcp;
	size_t tcp_len, header_len, addresses;

	if (len < 14)
		return false;
	memcpy(w.mac, frame, 6);
	type = wire_number(frame + 12, 2);
	w.v4 = type == 0x0800;
	if (!w.v4 && type != 0x86dd)
		return false;
	tcp = wire_read_ip(ip, len - 14, &w);
	if (!tcp)
		return false;
	tcp_len = len - 14 - w.ip_len;
	if (tcp_len < 20)
		return false;
	header_len = (tcp[12] >> 4) * 4u;
	if (header_len < 20 || header_len > tcp_len)
		return false;
	memcpy(&w.key.remote_port, tcp, 2);
	memcpy(&w.key.local_port, tcp + 2, 2);
	w.seq = wire_number(tcp + 4, 4);
	w.ack = wire_number(tcp + 8, 4);
	w.flags = tcp[13];
	w.window = (uint16_t)wire_number(tcp + 14, 2);
	w.urgent = (uint16_t)wire_number(tcp + 18, 2);
	w.options = tcp + 20;
	w.options_len = header_len - 20;
	w.payload = tcp + header_len;
	w.len = tcp_len - header_len;
	addresses = w.v4 ? wire_sum(ip + 12, 8) : wire_sum(ip + 8, 32);
	w.checksum_ok = (addresses + IPPROTO_TCP + tcp_len + wire_sum(tcp, tcp_len)) % 65535 == 0;
	*ret_wire = w;
	return true;
}

#endif
