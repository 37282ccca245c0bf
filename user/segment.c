// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Builds one TCP segment as it would come from the client. Pure. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "segment.h"

#define TCP_FIN 0x01
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TTL	64

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

/* One's complement sum of RFC 1071 over big-endian 16-bit words, not yet folded to 16 bits. */
static uint64_t sum(const uint8_t *p, size_t len, uint64_t acc)
{
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t word;

		memcpy(&word, p, 4);
		acc += ntohl(word);
	}
	if (len >= 2) {
		acc += (uint64_t)p[0] << 8 | p[1];
		p += 2;
		len -= 2;
	}
	if (len)
		acc += (uint64_t)p[0] << 8;
	return acc;
}

static uint16_t fold(uint64_t acc)
{
	/* Words of 32 bits were added: both halves count. */
	while (acc >> 16)
		acc = (acc & 0xffff) + (acc >> 16);
	return (uint16_t)~acc;
}

static size_t put_ipv4(uint8_t *ip, const struct flow_key *key, size_t tcp_len)
{
	memset(ip, 0, 20);
	ip[0] = 0x45;
	put16(ip + 2, (uint16_t)(20 + tcp_len));
	put16(ip + 6, 0x4000); /* don't fragment */
	ip[8] = TTL;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, key->remote + 12, 4);
	memcpy(ip + 16, key->local + 12, 4);
	put16(ip + 10, fold(sum(ip, 20, 0)));
	return 20;
}

static size_t put_ipv6(uint8_t *ip, const struct flow_key *key, size_t tcp_len)
{
	memset(ip, 0, 8);
	ip[0] = 0x60;
	put16(ip + 4, (uint16_t)tcp_len);
	ip[6] = IPPROTO_TCP;
	ip[7] = TTL;
	memcpy(ip + 8, key->remote, 16);
	memcpy(ip + 24, key->local, 16);
	return 40;
}

/* @addresses: source and destination, @addresses_len bytes together, as they stand in the packet.
 */
static uint16_t tcp_checksum(const uint8_t *addresses, size_t addresses_len, const uint8_t *tcp,
			     size_t len)
{
	return fold(sum(tcp, len, sum(addresses, addresses_len, IPPROTO_TCP + len)));
}

static void put_ethernet(uint8_t *frame, const uint8_t mac[6], bool v4)
{
	memcpy(frame, mac, 6);
	memset(frame + 6, 0, 6);
	put16(frame + 12, v4 ? 0x0800 : 0x86dd);
}

size_t segment_build(const struct segment *segment, uint8_t *frame, size_t size)
{
	const struct flow_key *key = segment->key;
	bool v4 = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)key->local);
	size_t header_len = segment->timestamps ? 32 : 20;
	size_t tcp_len = header_len + segment->len;
	uint8_t *ip = frame + SEGMENT_ETHERNET_LEN;
	uint8_t *tcp;

	if (SEGMENT_ETHERNET_LEN + (v4 ? 20 : 40) + tcp_len > size || tcp_len > UINT16_MAX - 40)
		return 0;

	put_ethernet(frame, segment->mac, v4);
	tcp = ip + (v4 ? put_ipv4(ip, key, tcp_len) : put_ipv6(ip, key, tcp_len));

	memcpy(tcp, &key->remote_port, 2);
	memcpy(tcp + 2, &key->local_port, 2);
	put32(tcp + 4, segment->seq);
	put32(tcp + 8, segment->ack);
	tcp[12] = (uint8_t)(header_len / 4 << 4);
	tcp[13] = TCP_ACK | (segment->len ? TCP_PSH : 0) | (segment->fin ? TCP_FIN : 0) |
		  (segment->rst ? TCP_RST : 0);
	put16(tcp + 14, segment->window);
	put32(tcp + 16, 0); /* checksum, urgent pointer */
	if (segment->timestamps) {
		put32(tcp + 20, 0x0101080a); /* NOP, NOP, timestamps, length 10 */
		put32(tcp + 24, segment->tsval);
		put32(tcp + 28, segment->tsecr);
	}
	if (segment->len)
		memcpy(tcp + header_len, segment->payload, segment->len);
	put16(tcp + 16,
	      v4 ? tcp_checksum(ip + 12, 8, tcp, tcp_len) : tcp_checksum(ip + 8, 32, tcp, tcp_len));
	return (size_t)(tcp - frame) + tcp_len;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The headers are the whole packet's. */
static void cut_to_piece(const struct held *held, uint8_t *ip, size_t ip_len, bool v4)
{
	uint8_t *tcp = ip + ip_len;

	if (v4) {
		put16(ip + 2, held->len);
		put16(ip + 10, 0);
		put16(ip + 10, fold(sum(ip, ip_len, 0)));
	} else {
		put16(ip + 4, (uint16_t)(held->len - 40));
	}
	put32(tcp + 4, get32(tcp + 4) + held->offset);
	if (held->more)
		tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
}

size_t segment_from_held(const struct held *held, const uint8_t mac[6], uint8_t *frame, size_t size)
{
	bool v4 = held->packet[0] >> 4 == 4;
	size_t ip_len = v4 ? (held->packet[0] & 0xfu) * 4u : 40;
	bool piece = held->more || held->offset;
	uint8_t *ip = frame + SEGMENT_ETHERNET_LEN;
	uint8_t *tcp = ip + ip_len;
	size_t tcp_len = held->len - ip_len;

	if (held->len < ip_len + 20 || held->len > sizeof(held->packet) ||
	    SEGMENT_ETHERNET_LEN + (size_t)held->len > size)
		return 0;
	if (ip_len < 20 || (!v4 && held->packet[0] >> 4 != 6) ||
	    held->packet[v4 ? 9 : 6] != IPPROTO_TCP)
		return 0;
	put_ethernet(frame, mac, v4);
	memcpy(ip, held->packet, held->len);
	if (piece)
		cut_to_piece(held, ip, ip_len, v4);
	/* Of a piece there never was one. */
	if (held->no_checksum || piece) {
		put16(tcp + 16, 0);
		put16(tcp + 16, v4 ? tcp_checksum(ip + 12, 8, tcp, tcp_len)
				   : tcp_checksum(ip + 8, 32, tcp, tcp_len));
	}
	return SEGMENT_ETHERNET_LEN + held->len;
}
