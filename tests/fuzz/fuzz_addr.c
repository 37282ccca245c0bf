// uses: addr.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libFuzzer target for endpoint_parse(): two bytes are the default port, the rest is the text.
 *
 * What must hold: a refusal leaves the output as it was; what was accepted has a port, prints as
 * text that is read as the same again, with and without brackets, and goes to a sockaddr and back.
 */
#include <errno.h>
#include <netinet/in.h>

#include "addr.h"
#include "fuzz.h"

static void check_good(const struct endpoint *endpoint)
{
	char text[ENDPOINT_STRLEN], addr[ENDPOINT_STRLEN];
	struct sockaddr_storage sa;
	struct endpoint again;
	socklen_t len;

	check(endpoint->port != 0);
	check(!endpoint->scope_id || IN6_IS_ADDR_LINKLOCAL(&endpoint->addr));
	check(endpoint_format(endpoint, text) == text);
	check(endpoint_parse(text, 0, &again) == 0);
	check(endpoint_equal(&again, endpoint));
	check(endpoint_format_addr(endpoint, addr) == addr);
	check(endpoint_parse(addr, endpoint->port, &again) == 0);
	check(endpoint_equal(&again, endpoint));

	len = endpoint_to_sockaddr(endpoint, &sa);
	check(len == (endpoint_is_v4(endpoint) ? sizeof(struct sockaddr_in) :
						 sizeof(struct sockaddr_in6)));
	check(endpoint_from_sockaddr(&sa, &again) == 0);
	check(endpoint_equal(&again, endpoint));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { .data = data, .len = size };
	struct endpoint endpoint, untouched;
	uint16_t default_port;
	char *text;
	int r;

	take(&input, &default_port, sizeof(default_port));
	text = text_of(input);
	memset(&untouched, 0x5a, sizeof(untouched));
	endpoint = untouched;
	r = endpoint_parse(text, default_port, &endpoint);
	free(text);
	check(r == 0 || r == -EINVAL);
	if (r == 0)
		check_good(&endpoint);
	else
		check(!memcmp(&endpoint, &untouched, sizeof(endpoint)));
	return 0;
}
