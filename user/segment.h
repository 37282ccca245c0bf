/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Builds one TCP segment as it would come from the client, for the replay of a hand-off. */
#ifndef SEGMENT_H
#define SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "steer_shared.h"

#define SEGMENT_ETHERNET_LEN 14
/* Ethernet, IPv6 and TCP headers with the timestamp option. */
#define SEGMENT_HEADERS_MAX (SEGMENT_ETHERNET_LEN + 40 + 32)

struct segment {
	const struct flow_key *key; /* from key->remote to key->local */
	const uint8_t *mac;	    /* six bytes: the device it is to arrive on */
	uint32_t seq;		    /* host order, as all below */
	uint32_t ack;
	uint16_t window; /* as on the wire: scaled */
	bool timestamps;
	uint32_t tsval;
	uint32_t tsecr;
	bool fin;
	bool rst;
	const uint8_t *payload; /* may be NULL when len is 0 */
	size_t len;
};

/*
 * Writes an Ethernet frame with an IPv4 or IPv6 packet in it (RFC 791, RFC 8200, RFC 9293;
 * timestamps as RFC 7323 appendix A lays them out), all checksums complete. Returns its length, or
 * 0 when @size is too small.
 */
size_t segment_build(const struct segment *segment, uint8_t *frame, size_t size);

/*
 * Makes a frame of a packet, or a piece of one, that was held. Of a piece the sequence number,
 * lengths, flags and IP checksum are made right; the TCP checksum is computed if it is not there.
 * Returns the frame's length; 0: @size is too small, or it is no TCP packet.
 */
size_t segment_from_held(const struct held *held, const uint8_t mac[6], uint8_t *frame,
			 size_t size);

#endif
