/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The PROXY protocol's header: haproxy's proxy-protocol.txt, 2.1 (text) and 2.2 (binary). */
#include "proxy_header.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define V2_PROXY    0x21 /* version 2, on behalf of somebody */
#define V2_UNKNOWN  0x00
#define V2_TCP_IPV4 0x11
#define V2_TCP_IPV6 0x21

size_t proxy_header_v1(const struct endpoint *client, const struct endpoint *asked,
		       char ret_header[PROXY_HEADER_MAX])
{
	char client_text[ENDPOINT_STRLEN], asked_text[ENDPOINT_STRLEN];
	bool v4 = endpoint_is_v4(client);
	int family = v4 ? AF_INET : AF_INET6;
	size_t skip = v4 ? 12 : 0;

	if (v4 != endpoint_is_v4(asked))
		return (size_t)snprintf(ret_header, PROXY_HEADER_MAX, "PROXY UNKNOWN\r\n");
	/* Not endpoint_format_addr(): a link-local address has no zone here. */
	inet_ntop(family, &client->addr.s6_addr[skip], client_text, sizeof(client_text));
	inet_ntop(family, &asked->addr.s6_addr[skip], asked_text, sizeof(asked_text));
	return (size_t)snprintf(ret_header, PROXY_HEADER_MAX, "PROXY TCP%c %s %s %u %u\r\n",
				v4 ? '4' : '6', client_text, asked_text, client->port, asked->port);
}

size_t proxy_header_v2(const struct endpoint *client, const struct endpoint *asked,
		       char ret_header[PROXY_HEADER_MAX])
{
	static const char signature[12] = "\r\n\r\n\0\r\nQUIT\n";
	bool v4 = endpoint_is_v4(client), unknown = v4 != endpoint_is_v4(asked);
	size_t addr_len = v4 ? 4 : 16, skip = 16 - addr_len;
	uint16_t ports_be[2] = { htons(client->port), htons(asked->port) };
	uint16_t len_be = htons(unknown ? 0 : (uint16_t)(2 * addr_len + sizeof(ports_be)));
	char *p = ret_header;

	p = mempcpy(p, signature, sizeof(signature));
	*p++ = V2_PROXY;
	*p++ = unknown ? V2_UNKNOWN : v4 ? V2_TCP_IPV4 : V2_TCP_IPV6;
	p = mempcpy(p, &len_be, sizeof(len_be));
	if (!unknown) {
		p = mempcpy(p, &client->addr.s6_addr[skip], addr_len);
		p = mempcpy(p, &asked->addr.s6_addr[skip], addr_len);
		p = mempcpy(p, ports_be, sizeof(ports_be));
	}
	return (size_t)(p - ret_header);
}
