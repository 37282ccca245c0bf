// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The names that a CA validates: host names, IP addresses, reverse names. */
#include "name.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LABEL_MAX 63 /* RFC 1035 section 2.3.4 */

/* The SNI that stands for an IP address. */
static void reverse_name(const struct name *name, char ret_sni[NAME_MAX_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	const uint8_t *a = name->address;
	char *p = ret_sni;

	if (name->address_len == 4) {
		sprintf(ret_sni, "%u.%u.%u.%u.in-addr.arpa", a[3], a[2], a[1], a[0]);
		return;
	}
	for (int i = 15; i >= 0; i--) {
		*p++ = hex[a[i] & 15];
		*p++ = '.';
		*p++ = hex[a[i] >> 4];
		*p++ = '.';
	}
	strcpy(p, "ip6.arpa");
}

static bool read_address(const char *text, struct name *name)
{
	if (inet_pton(AF_INET, text, name->address) == 1)
		name->address_len = 4;
	else if (inet_pton(AF_INET6, text, name->address) == 1)
		name->address_len = 16;
	else
		return false;
	return true;
}

static bool has_suffix(const char *text, const char *suffix)
{
	size_t len = strlen(text);
	size_t suffix_len = strlen(suffix);

	return len >= suffix_len && strcmp(text + len - suffix_len, suffix) == 0;
}

/* The address whose reverse name @sni (lower case) is. Only what reverse_name() writes is one. */
static bool read_reverse(const char *sni, struct name *name)
{
	char again[NAME_MAX_LEN + 1];
	unsigned a[4];

	if (has_suffix(sni, ".in-addr.arpa")) {
		if (sscanf(sni, "%3u.%3u.%3u.%3u.", &a[3], &a[2], &a[1], &a[0]) != 4)
			return false;
		for (int i = 0; i < 4; i++)
			name->address[i] = (uint8_t)a[i];
		name->address_len = 4;
	} else {
		if (strlen(sni) != 16 * 4 + strlen("ip6.arpa"))
			return false;
		for (int i = 0; i < 32; i++) {
			char c = sni[2 * i];
			uint8_t nibble = (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
			uint8_t *byte = &name->address[15 - i / 2];

			*byte = (uint8_t)(i % 2 ? *byte | nibble << 4 : nibble & 15);
		}
		name->address_len = 16;
	}
	reverse_name(name, again);
	return strcmp(sni, again) == 0;
}

/* What is wrong with a host name's form; NULL: nothing. */
static const char *host_name_fault(const char *name, size_t len)
{
	bool digits_only = true; /* of the last label */
	size_t label = 0;

	if (len == 0)
		return "is empty";
	if (len > NAME_MAX_LEN)
		return "is longer than the 253 bytes of a DNS name";
	for (size_t i = 0; i <= len; i++) {
		char c = name[i];

		if (i == len || c == '.') {
			if (label == 0)
				return "has an empty label";
			if (label > LABEL_MAX)
				return "has a label of more than 63 bytes";
			if (name[i - 1] == '-')
				return "has a label that ends in a hyphen";
			if (i < len)
				digits_only = true;
			label = 0;
			continue;
		}
		if ((unsigned char)c >= 0x80)
			return "is not ASCII; use its A-label (xn--...)";
		if (c == '-' && label == 0)
			return "has a label that begins with a hyphen";
		if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789-", c))
			return "is no host name; use letters, digits, hyphens and dots";
		if (c < '0' || c > '9')
			digits_only = false;
		label++;
	}
	if (digits_only)
		return "is neither a host name nor an IP address";
	return NULL;
}

const char *name_parse(const char *text, struct name *ret_name)
{
	struct name name = {};
	char lower[NAME_MAX_LEN + 2]; /* one more, to see that it is too long */
	size_t len = strlen(text);
	const char *fault;

	if (strchr(text, '*'))
		return "is a wildcard, and CAs validate those by DNS-01 only; use the names "
		       "themselves, or DNS-01";
	if (read_address(text, &name)) {
		reverse_name(&name, name.sni);
		*ret_name = name;
		return NULL;
	}
	if (len > 0 && text[len - 1] == '.')
		len--;
	if (len < sizeof(lower)) {
		for (size_t i = 0; i < len; i++)
			lower[i] =
				text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] | 0x20) : text[i];
		lower[len] = '\0';
	}
	fault = host_name_fault(lower, len);
	if (fault)
		return fault;
	if ((has_suffix(lower, ".in-addr.arpa") || has_suffix(lower, ".ip6.arpa")) &&
	    !read_reverse(lower, &name))
		return "is not the whole reverse name of an IP address; give the address";
	memcpy(name.sni, lower, len + 1);
	*ret_name = name;
	return NULL;
}

const char *name_format(const struct name *name, char buf[NAME_MAX_LEN + 1])
{
	if (name->address_len)
		inet_ntop(name->address_len == 4 ? AF_INET : AF_INET6, name->address, buf,
			  NAME_MAX_LEN + 1);
	else
		strcpy(buf, name->sni);
	return buf;
}
