/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The certificate that answers a challenge: RFC 8737 section 3, for IP addresses RFC 8738. */
#ifndef CERTIFICATE_H
#define CERTIFICATE_H

#include <openssl/x509.h>
#include <stdint.h>

#include "challenge.h"

/*
 * A certificate that lacks only what differs from one challenge to the next. OpenSSL 3 takes half a
 * millisecond to put a public key into a certificate, and a fifth of that for everything else: so
 * these are kept and filled in again and again. The caller frees it. NULL: no memory.
 */
X509 *certificate_new(EVP_PKEY *key);

/*
 * Makes it the one for a challenge, self-signed with @key: one subjectAltName, @name, and the
 * critical acmeIdentifier extension with @digest. Nobody checks its times; it is valid from
 * yesterday for a week. 0, or -ENOMEM: then it is good for nothing but another try.
 */
int certificate_fill(X509 *certificate, const struct name *name,
		     const uint8_t digest[CHALLENGE_DIGEST], EVP_PKEY *key);

#endif
