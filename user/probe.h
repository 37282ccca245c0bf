/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One TLS connection as a CA's validator makes it, or as a visitor does: how it ends, what is seen.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "challenge.h"
#include "name.h"

enum probe_hello {
	PROBE_AS_CA,	    /* ALPN acme-tls/1; as long as one with a post-quantum key share */
	PROBE_AS_CA_SHORT,  /* the same in one segment */
	PROBE_AS_A_VISITOR, /* ALPN http/1.1, and a HEAD request after it */
};

enum probe_end {
	PROBE_ANSWERED,	   /* the TLS handshake is done */
	PROBE_ALERT,	   /* they ended it with a TLS alert */
	PROBE_NOT_TLS,	   /* they spoke, but not TLS */
	PROBE_REFUSED,	   /* of the TCP connection: by a reset */
	PROBE_TIMEOUT,	   /* no answer to the SYN */
	PROBE_UNREACHABLE, /* a router or firewall says so */
	PROBE_NO_ROUTE,	   /* this machine can't even try */
	PROBE_RESET,	   /* after the ClientHello */
	PROBE_CLOSED,
	PROBE_SILENT,
	PROBE_ODD_TLS, /* OpenSSL doesn't go on with it */
	PROBE_ENDS
};

struct probe_request {
	struct endpoint address;
	const struct name *name;
	enum probe_hello hello;
	uint64_t timeout_ns; /* of the TCP connection, and again of all that comes after it */
};

#define PROBE_TEXT 256

/* Texts come from the other end; they are printable ASCII, cut to fit. */
struct probe_certificate {
	char subject[PROBE_TEXT];
	char issuer[PROBE_TEXT];
	char names[PROBE_TEXT]; /* "www.example.org, *.example.org" */
	char not_after[32];	/* "2026-12-31T23:59:59Z" */
	char sha256[65];	/* of all of it, hexadecimal */
	bool is_for_name, self_signed;
	bool in_time;
};

struct probe_seen {
	enum probe_end end;
	int error;	       /* errno of PROBE_UNREACHABLE, PROBE_NO_ROUTE */
	unsigned alert;	       /* of PROBE_ALERT */
	unsigned ms;	       /* until the end */
	char text[PROBE_TEXT]; /* PROBE_NOT_TLS: its first line; PROBE_ODD_TLS: OpenSSL's words */
	char alpn[32];	       /* chosen by them; "": none */
	char tls[16];	       /* "TLSv1.3" */
	bool has_certificate;
	struct probe_certificate certificate;
	bool has_digest; /* of an acmeIdentifier extension */
	uint8_t digest[CHALLENGE_DIGEST];
	const char *acme_fault;	 /* as validated.fault */
	char server[PROBE_TEXT]; /* a visitor's: header "Server" */
	const char *cdn; /* whose headers those of the response are; NULL: nobody's that is known */
};

/* Connects, looks, closes. SIGPIPE must be ignored. 0, or -errno: it could not be done at all. */
int probe_run(const struct probe_request *request, struct probe_seen *ret_seen);

/* The TLS alert's name ("no_application_protocol"), or "unknown". */
const char *probe_alert_name(unsigned alert);

/* The CDN whose headers these are (a response up to its empty line), or NULL. Pure. */
const char *probe_cdn(const char *headers);

#endif
