/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What connections to one address have seen, judged: who answers there, and what a CA makes of it.
 * Pure. */
#ifndef VERDICT_H
#define VERDICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "probe.h"

enum situation {
	SITUATION_READY,	   /* the certificate that a CA wants */
	SITUATION_OTHER_DIGEST,	   /* the same, but not of this challenge */
	SITUATION_BAD_CERTIFICATE, /* acme-tls/1 was agreed on, but a CA refuses the certificate */
	SITUATION_WEB_SERVER,	   /* with a certificate for the name */
	SITUATION_DEFAULT_CERTIFICATE, /* a web server, with one for other names */
	SITUATION_CDN,
	SITUATION_ALPN_STRIPPED, /* who ends TLS there knows nothing of ALPN */
	SITUATION_TLS_REFUSED,	 /* to a CA and to a visitor */
	SITUATION_NOT_TLS,
	SITUATION_REFUSED,
	SITUATION_TIMEOUT,
	SITUATION_UNREACHABLE,
	SITUATION_NO_ROUTE, /* from this machine: nothing is known */
	SITUATION_RESET,
	SITUATION_CLOSED,
	SITUATION_SILENT,
	SITUATION_LONG_HELLO_LOST, /* a ClientHello in one segment is answered */
	SITUATIONS
};

/* As `probe --json` has them: "web-server". */
extern const char *const situation_names[SITUATIONS];

#define VERDICT_CAUSES 5 /* at most */

/* One address: the caller fills in what was seen, in the order of verdict_wants(). */
struct verdict {
	struct endpoint address;
	struct probe_seen seen[3]; /* by enum probe_hello */
	bool has[3];

	enum situation situation;
	char finding[3 * PROBE_TEXT];
	const char *causes[VERDICT_CAUSES]; /* of the usual ones, with what to do; NULL: no more */
};

/* Which connection is still wanted to judge the address. False: none. */
bool verdict_wants(const struct verdict *verdict, enum probe_hello *ret_hello);

/* Judges one address. @expect: the digest that the challenge has, or NULL: any will do. */
void verdict_judge(struct verdict *verdict, const uint8_t *expect);

/*
 * What a CA makes of all the addresses of a name: true when it finds the challenge answered. It
 * goes to IPv6 first, and to IPv4 only when there is none or no connection can be made. Adds to the
 * causes of an address what only the comparison shows. @text: one sentence.
 */
bool verdict_overall(struct verdict *verdicts, size_t n, bool expect, char *text, size_t size);

#endif
