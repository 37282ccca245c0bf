/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a CA checks of the certificate that answers a challenge: RFC 8737 section 3, RFC 8738. */
#ifndef VALIDATE_H
#define VALIDATE_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

#include "challenge.h"

struct validated {
	bool has_digest; /* it has an acmeIdentifier extension that can be read */
	uint8_t digest[CHALLENGE_DIGEST];
	const char *fault; /* NULL: a CA takes it, if the digest is the right one; else the end of a
			    * sentence that begins with "the certificate" */
};

/*
 * Checks what Let's Encrypt's validator checks: self-signed, one subjectAltName that is @name and
 * nothing else, one acmeIdentifier extension, critical, with 32 bytes. Its times don't matter.
 */
void validate_certificate(X509 *certificate, const struct name *name, struct validated *ret);

/* Is one of the certificate's names @name, as a browser sees it (wildcards count)? */
bool validate_is_for(X509 *certificate, const struct name *name);

#endif
