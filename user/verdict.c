// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What connections to one address have seen, judged. */
#include "verdict.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "limit.h"
#include "util.h"

#define ALERT_NO_APPLICATION_PROTOCOL 120

/* So much longer than a visitor: it was held, nobody listening at its window's responder's address.
 */
#define HELD_MS ((CONN_RESPONDER_WAIT_NS - NSEC_PER_SEC) / NSEC_PER_MSEC)

const char *const situation_names[] = {
	[SITUATION_READY] = "ready",
	[SITUATION_OTHER_DIGEST] = "other-digest",
	[SITUATION_BAD_CERTIFICATE] = "bad-certificate",
	[SITUATION_WEB_SERVER] = "web-server",
	[SITUATION_DEFAULT_CERTIFICATE] = "default-certificate",
	[SITUATION_CDN] = "cdn",
	[SITUATION_ALPN_STRIPPED] = "alpn-stripped",
	[SITUATION_TLS_REFUSED] = "tls-refused",
	[SITUATION_NOT_TLS] = "not-tls",
	[SITUATION_REFUSED] = "refused",
	[SITUATION_TIMEOUT] = "timeout",
	[SITUATION_UNREACHABLE] = "unreachable",
	[SITUATION_NO_ROUTE] = "no-route",
	[SITUATION_RESET] = "reset",
	[SITUATION_CLOSED] = "closed",
	[SITUATION_SILENT] = "silent",
	[SITUATION_LONG_HELLO_LOST] = "long-hello-lost",
};
static_assert(ARRAY_SIZE(situation_names) == SITUATIONS, "a name for each situation");

/* What is usually behind it, and what to do. */
static const char *const causes[SITUATIONS][VERDICT_CAUSES] = {
	[SITUATION_OTHER_DIGEST] = {
		"an earlier challenge is still being answered, or another ACME client's: look at "
		"`acme-steer challenge list` on the host, and at the ACME client's log",
		"several hosts share the name or the address, and this one has not been told of the "
		"new challenge",
	},
	[SITUATION_BAD_CERTIFICATE] = {
		"the ACME client's responder makes another kind of certificate: see its version and "
		"options, or let `acme-steer challenge` answer",
		"the window has no --domain, and its responder was asked for a name that it does "
		"not have",
	},
	[SITUATION_WEB_SERVER] = {
		"no window is open now: `acme-steer status` on the host shows; probe while the ACME "
		"client runs",
		"a window is open, but not for this name (--domain) or not in the network namespace "
		"where the web server listens (--netns): `acme-steer doctor` on the host",
		"TLS is ended in front of the host, by a load balancer or proxy: compare the "
		"certificate with the web server's own; then the challenge has to be solved there",
	},
	[SITUATION_DEFAULT_CERTIFICATE] = {
		"the name's address is another host's: compare the A and AAAA records with the "
		"host's addresses",
		"the web server has no virtual host for the name yet, which is no obstacle, and no "
		"window is open for it now: probe while the ACME client runs",
		"TLS is ended in front of the host, by a load balancer or proxy: the challenge has "
		"to be solved there",
	},
	[SITUATION_CDN] = {
		"the CDN ends TLS, so TLS-ALPN-01 can't reach the host: switch its proxy off for "
		"this name, let it keep the certificate, or use DNS-01",
	},
	[SITUATION_ALPN_STRIPPED] = {
		"a load balancer, proxy or virus scanner in front ends TLS and drops ALPN: let it "
		"pass TCP through, or solve the challenge there",
		"an old web server without ALPN, and no window is open now: probe while the ACME "
		"client runs",
	},
	[SITUATION_TLS_REFUSED] = {
		"the web server refuses names that it does not have, or has no certificate yet, "
		"and no window is open now: probe while the ACME client runs",
		"only TLS versions before 1.2 are spoken there: a CA asks for 1.2 or later",
	},
	[SITUATION_NOT_TLS] = {
		"the port serves something else: plain HTTP on 443 (\"listen 443\" without "
		"\"ssl\"), or a port forwarding that leads to the wrong port",
	},
	[SITUATION_REFUSED] = {
		"nobody listens on the port there: start the web server, on this address family "
		"too",
		"a port forwarding or firewall sends a reset",
	},
	[SITUATION_TIMEOUT] = {
		"a firewall or security group drops the port: open TCP 443 to everybody, since CAs "
		"connect from many addresses",
		"the address is no longer the host's: compare the A and AAAA records with its "
		"addresses",
	},
	[SITUATION_UNREACHABLE] = {
		"a firewall rejects the port: open TCP 443 to everybody",
		"the address is not in use, or not routed any more: compare the A and AAAA records "
		"with the host's addresses",
	},
	[SITUATION_NO_ROUTE] = {
		"this machine has no way to that address (no IPv6, perhaps): a CA has; probe from "
		"another machine",
	},
	[SITUATION_RESET] = {
		"a firewall that inspects packets, or a load balancer without a host behind it, "
		"resets the connection",
		"the server there ended while it was asked",
	},
	[SITUATION_CLOSED] = {
		"a load balancer or port forwarding has nobody behind it",
		"the port does not serve TLS",
	},
	[SITUATION_SILENT] = {
		"the server there hangs, or waits for something else first (a PROXY protocol "
		"header)",
		"a window is open whose responder takes connections and does not answer: "
		"`acme-steer status` on the host",
		"the way back drops large packets: a tunnel with a small MTU, and ICMP filtered",
	},
	[SITUATION_LONG_HELLO_LOST] = {
		"large packets are dropped on the way: a tunnel or VPN with a small MTU, and ICMP "
		"filtered: clamp the MSS, or let ICMP \"too big\" through",
		"a load balancer or proxy in front takes a ClientHello of one segment only: a CA's "
		"is longer; update it",
	},
};

static const char aaaa_elsewhere[] = "the AAAA record points to another host or service than the A "
				     "record: correct or remove it; "
				     "a CA goes there first";

static const char held[] =
	"a window is open, but nobody answers at its responder's address: start the ACME "
	"client, or name where it listens (--responder); `acme-steer doctor` on "
	"the host";

static bool connected(enum probe_end end)
{
	switch (end) {
	case PROBE_REFUSED:
	case PROBE_TIMEOUT:
	case PROBE_UNREACHABLE:
	case PROBE_NO_ROUTE:
		return false;
	default:
		return true;
	}
}

static bool cut_off(enum probe_end end)
{
	return end == PROBE_RESET || end == PROBE_CLOSED || end == PROBE_SILENT;
}

static bool spoke_tls(const struct probe_seen *seen)
{
	return seen->end == PROBE_ANSWERED || seen->end == PROBE_ALERT;
}

static bool acme_agreed(const struct probe_seen *seen)
{
	return seen->end == PROBE_ANSWERED && strcmp(seen->alpn, "acme-tls/1") == 0;
}

bool verdict_wants(const struct verdict *verdict, enum probe_hello *ret_hello)
{
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];

	if (!verdict->has[PROBE_AS_CA])
		*ret_hello = PROBE_AS_CA;
	else if (!connected(ca->end) || acme_agreed(ca) || ca->end == PROBE_NOT_TLS)
		return false;
	else if (cut_off(ca->end) && !verdict->has[PROBE_AS_CA_SHORT])
		*ret_hello = PROBE_AS_CA_SHORT;
	else if (!verdict->has[PROBE_AS_A_VISITOR])
		*ret_hello = PROBE_AS_A_VISITOR;
	else
		return false;
	return true;
}

static void put_first(struct verdict *verdict, const char *cause)
{
	memmove(verdict->causes + 1, verdict->causes,
		sizeof(verdict->causes) - sizeof(verdict->causes[0]));
	verdict->causes[0] = cause;
}

/* A visitor is served at once, and who asks for acme-tls/1 waits. */
static bool was_held(const struct verdict *verdict)
{
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];
	const struct probe_seen *visitor = &verdict->seen[PROBE_AS_A_VISITOR];

	return verdict->has[PROBE_AS_A_VISITOR] && spoke_tls(visitor) &&
	       (ca->end == PROBE_SILENT || ca->ms >= visitor->ms + HELD_MS);
}

/* Who answered, when it was nobody who speaks acme-tls/1. */
static enum situation who(const struct verdict *verdict)
{
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];
	const struct probe_seen *visitor = &verdict->seen[PROBE_AS_A_VISITOR];

	if (visitor->end != PROBE_ANSWERED)
		return SITUATION_TLS_REFUSED;
	if (visitor->cdn)
		return SITUATION_CDN;
	if (ca->end == PROBE_ANSWERED && !visitor->alpn[0])
		return SITUATION_ALPN_STRIPPED;
	return visitor->certificate.is_for_name ? SITUATION_WEB_SERVER
						: SITUATION_DEFAULT_CERTIFICATE;
}

static enum situation situation_of(const struct verdict *verdict, const uint8_t *expect)
{
	static const enum situation of_end[] = {
		[PROBE_NOT_TLS] = SITUATION_NOT_TLS,
		[PROBE_REFUSED] = SITUATION_REFUSED,
		[PROBE_TIMEOUT] = SITUATION_TIMEOUT,
		[PROBE_UNREACHABLE] = SITUATION_UNREACHABLE,
		[PROBE_NO_ROUTE] = SITUATION_NO_ROUTE,
		[PROBE_RESET] = SITUATION_RESET,
		[PROBE_CLOSED] = SITUATION_CLOSED,
		[PROBE_SILENT] = SITUATION_SILENT,
		[PROBE_ODD_TLS] = SITUATION_TLS_REFUSED,
	};
	static_assert(ARRAY_SIZE(of_end) == PROBE_ENDS, "a situation for each end");
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];

	if (acme_agreed(ca)) {
		if (ca->acme_fault)
			return SITUATION_BAD_CERTIFICATE;
		if (expect && memcmp(expect, ca->digest, sizeof(ca->digest)) != 0)
			return SITUATION_OTHER_DIGEST;
		return SITUATION_READY;
	}
	if (cut_off(ca->end) && verdict->has[PROBE_AS_CA_SHORT] &&
	    spoke_tls(&verdict->seen[PROBE_AS_CA_SHORT]))
		return SITUATION_LONG_HELLO_LOST;
	if (spoke_tls(ca) || ca->end == PROBE_ODD_TLS ||
	    (verdict->has[PROBE_AS_A_VISITOR] && spoke_tls(&verdict->seen[PROBE_AS_A_VISITOR])))
		return who(verdict);
	return of_end[ca->end];
}

/* How the CA's connection ended, where somebody else than a responder had it. */
static void describe_refusal(const struct probe_seen *ca, char *buf, size_t size)
{
	switch (ca->end) {
	case PROBE_ANSWERED:
		snprintf(buf, size, "and chose %s instead of acme-tls/1",
			 ca->alpn[0] ? ca->alpn : "no protocol");
		break;
	case PROBE_ALERT:
		snprintf(buf, size, "and refused acme-tls/1 with TLS alert %u, %s", ca->alert,
			 probe_alert_name(ca->alert));
		break;
	case PROBE_RESET:
		snprintf(buf, size, "and reset the connection that asked for acme-tls/1");
		break;
	case PROBE_CLOSED:
		snprintf(buf, size, "and closed the connection that asked for acme-tls/1");
		break;
	case PROBE_SILENT:
		snprintf(buf, size, "and did not answer the connection that asked for acme-tls/1");
		break;
	default:
		snprintf(buf, size, "with TLS that can't be understood: %.100s", ca->text);
	}
}

static void describe(struct verdict *verdict)
{
	const struct probe_seen *ca = &verdict->seen[PROBE_AS_CA];
	const struct probe_seen *visitor = &verdict->seen[PROBE_AS_A_VISITOR];
	char *buf = verdict->finding;
	const size_t size = sizeof(verdict->finding);
	char digest[CHALLENGE_DIGEST_STRLEN], refusal[160];

	describe_refusal(ca, refusal, sizeof(refusal));
	switch (verdict->situation) {
	case SITUATION_READY:
		snprintf(buf, size, "answers acme-tls/1 as a CA wants it, digest %s",
			 challenge_digest_format(ca->digest, digest));
		break;
	case SITUATION_OTHER_DIGEST:
		snprintf(buf, size, "answers acme-tls/1, but with another digest: %s",
			 challenge_digest_format(ca->digest, digest));
		break;
	case SITUATION_BAD_CERTIFICATE:
		snprintf(buf, size, "answers acme-tls/1, but the certificate %s", ca->acme_fault);
		break;
	case SITUATION_WEB_SERVER:
		snprintf(buf, size, "a web server with a certificate for this name answered, %s",
			 refusal);
		break;
	case SITUATION_DEFAULT_CERTIFICATE:
		snprintf(buf, size,
			 "a web server with a %scertificate for other names answered, %s",
			 visitor->certificate.self_signed ? "self-signed " : "", refusal);
		break;
	case SITUATION_CDN:
		snprintf(buf, size, "a CDN answered (by its headers: %s), %s", visitor->cdn,
			 refusal);
		break;
	case SITUATION_ALPN_STRIPPED:
		snprintf(buf, size,
			 "TLS was answered without any ALPN, to a visitor's http/1.1 too");
		break;
	case SITUATION_TLS_REFUSED:
		snprintf(buf, size, "a TLS server answered, %s; a visitor is refused, too",
			 refusal);
		break;
	case SITUATION_NOT_TLS:
		snprintf(buf, size, "what answered is not TLS: \"%.120s\"", ca->text);
		break;
	case SITUATION_REFUSED:
		snprintf(buf, size, "connection refused");
		break;
	case SITUATION_TIMEOUT:
		snprintf(buf, size, "no answer at all, for %u.%u s", ca->ms / 1000,
			 ca->ms / 100 % 10);
		break;
	case SITUATION_UNREACHABLE:
		snprintf(buf, size, "unreachable: %s", strerror(ca->error));
		break;
	case SITUATION_NO_ROUTE:
		snprintf(buf, size, "not tried, for this machine can't: %s", strerror(ca->error));
		break;
	case SITUATION_RESET:
		snprintf(buf, size, "took the connection and reset it at the ClientHello");
		break;
	case SITUATION_CLOSED:
		snprintf(buf, size, "took the connection and closed it without a word");
		break;
	case SITUATION_SILENT:
		snprintf(buf, size, "took the connection and said nothing for %u.%u s",
			 ca->ms / 1000, ca->ms / 100 % 10);
		break;
	case SITUATION_LONG_HELLO_LOST:
		snprintf(buf, size,
			 "answers a short ClientHello, but not one as long as a CA's, in two "
			 "segments");
		break;
	case SITUATIONS:
		break;
	}
}

void verdict_judge(struct verdict *verdict, const uint8_t *expect)
{
	verdict->situation = situation_of(verdict, expect);
	memcpy(verdict->causes, causes[verdict->situation], sizeof(verdict->causes));
	if (was_held(verdict) && verdict->situation != SITUATION_LONG_HELLO_LOST)
		put_first(verdict, held);
	describe(verdict);
}

static const struct verdict *first_of(const struct verdict *verdicts, size_t n, bool v4)
{
	for (size_t i = 0; i < n; i++)
		if (endpoint_is_v4(&verdicts[i].address) == v4)
			return &verdicts[i];
	return NULL;
}

/* Two different servers, by what a visitor sees, or because only one of them answers a CA. */
static bool differ(const struct verdict *a, const struct verdict *b)
{
	const struct probe_seen *visitors[] = { &a->seen[PROBE_AS_A_VISITOR],
						&b->seen[PROBE_AS_A_VISITOR] };

	if ((a->situation == SITUATION_READY) != (b->situation == SITUATION_READY))
		return true;
	return visitors[0]->has_certificate && visitors[1]->has_certificate &&
	       strcmp(visitors[0]->certificate.sha256, visitors[1]->certificate.sha256) != 0;
}

static void compare_families(struct verdict *verdicts, size_t n)
{
	const struct verdict *v4 = first_of(verdicts, n, true);

	for (size_t i = 0; v4 && i < n; i++) {
		struct verdict *v6 = &verdicts[i];

		if (endpoint_is_v4(&v6->address) || v6->situation == SITUATION_READY ||
		    v6->situation == SITUATION_NO_ROUTE || !differ(v4, v6))
			continue;
		put_first(v6, aaaa_elsewhere);
	}
}

bool verdict_overall(struct verdict *verdicts, size_t n, bool expect, char *text, size_t size)
{
	const struct verdict *wrong = NULL, *unconnected = NULL, *untried = NULL;
	char address[ENDPOINT_STRLEN];
	size_t ready = 0;

	compare_families(verdicts, n);
	for (size_t i = 0; i < n; i++) {
		const struct verdict *v = &verdicts[i];

		if (v->situation == SITUATION_READY)
			ready++;
		else if (v->situation == SITUATION_NO_ROUTE)
			untried = v;
		else if (!connected(v->seen[PROBE_AS_CA].end))
			unconnected = unconnected ? unconnected : v;
		else
			wrong = wrong ? wrong : v;
	}
	if (n == 0) {
		snprintf(text, size, "a CA has no address to connect to");
	} else if (wrong && ready) {
		snprintf(text, size,
			 "a CA would fail at %s: it tries IPv6 first, and nothing else once that "
			 "has answered, and takes any one of several addresses",
			 endpoint_format(&wrong->address, address));
	} else if (wrong) {
		snprintf(text, size, "a CA would not find the challenge answered");
	} else if (!ready && untried && !unconnected) {
		snprintf(text, size, "nothing is known: this machine could not connect at all");
	} else if (!ready) {
		snprintf(text, size, "a CA could not connect");
	} else if (unconnected) {
		snprintf(text, size,
			 "a CA may find the challenge answered, but could not connect to %s; "
			 "Let's Encrypt goes on from IPv6 to IPv4 then, others may not",
			 endpoint_format(&unconnected->address, address));
	} else if (untried) {
		snprintf(text, size,
			 "a CA finds the challenge answered, but %s was not tried: probe from a "
			 "machine that can",
			 endpoint_format(&untried->address, address));
	} else {
		snprintf(text, size, "a CA finds the challenge answered%s",
			 expect ? ", with the digest that is expected"
				: "; whether by the right digest, --expect would tell");
	}
	return ready && !wrong;
}
