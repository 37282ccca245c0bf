// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a CA checks of the certificate that answers a challenge. */
#include "validate.h"

#include <openssl/x509v3.h>
#include <string.h>
#include <strings.h>

#include "util.h"

static bool is_self_signed(X509 *certificate)
{
	EVP_PKEY *key = X509_get0_pubkey(certificate);

	return key &&
	       X509_NAME_cmp(X509_get_subject_name(certificate),
			     X509_get_issuer_name(certificate)) == 0 &&
	       X509_verify(certificate, key) == 1;
}

/* id-pe-acmeIdentifier; *ret_n: how many there are. The extension stays the certificate's. */
static X509_EXTENSION *acme_identifier(X509 *certificate, unsigned *ret_n)
{
	ASN1_OBJECT *oid = OBJ_txt2obj("1.3.6.1.5.5.7.1.31", 1);
	X509_EXTENSION *first = NULL;

	*ret_n = 0;
	for (int i = -1; oid && (i = X509_get_ext_by_OBJ(certificate, oid, i)) >= 0; ++*ret_n)
		if (!first)
			first = X509_get_ext(certificate, i);
	ASN1_OBJECT_free(oid);
	return first;
}

static bool read_digest(X509_EXTENSION *extension, uint8_t ret_digest[CHALLENGE_DIGEST])
{
	const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(extension);
	const uint8_t *der = ASN1_STRING_get0_data(value);

	if (ASN1_STRING_length(value) != 2 + CHALLENGE_DIGEST || der[0] != V_ASN1_OCTET_STRING ||
	    der[1] != CHALLENGE_DIGEST)
		return false;
	memcpy(ret_digest, der + 2, CHALLENGE_DIGEST);
	return true;
}

static bool general_name_is(const GENERAL_NAME *general, const struct name *name)
{
	int type;
	const ASN1_STRING *value = GENERAL_NAME_get0_value(general, &type);
	size_t len;

	if (type != GEN_DNS && type != GEN_IPADD)
		return false;
	len = (size_t)ASN1_STRING_length(value);
	if (name->address_len)
		return type == GEN_IPADD && len == name->address_len &&
		       memcmp(ASN1_STRING_get0_data(value), name->address, len) == 0;
	return type == GEN_DNS && len == strlen(name->sni) &&
	       strncasecmp((const char *)ASN1_STRING_get0_data(value), name->sni, len) == 0;
}

static const char *alt_name_fault(X509 *certificate, const struct name *name)
{
	GENERAL_NAMES *names;
	const char *fault = NULL;
	int critical;

	/* NULL with -1: none; with -2: several; else one that can't be read. */
	names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
	if (!names)
		return critical == -1	? "has no subjectAltName"
		       : critical == -2 ? "has more than one subjectAltName extension"
					: "has a subjectAltName that can't be read";
	if (sk_GENERAL_NAME_num(names) != 1)
		fault = "is for more names than the one that is validated";
	else if (!general_name_is(sk_GENERAL_NAME_value(names, 0), name))
		fault = "is for another name";
	sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
	return fault;
}

void validate_certificate(X509 *certificate, const struct name *name, struct validated *ret)
{
	unsigned n;
	X509_EXTENSION *extension = acme_identifier(certificate, &n);

	*ret = (struct validated){};
	if (extension)
		ret->has_digest = read_digest(extension, ret->digest);
	if (n == 0)
		ret->fault = "has no acmeIdentifier extension: it is an ordinary one";
	else if (n > 1)
		ret->fault = "has more than one acmeIdentifier extension";
	else if (!ret->has_digest)
		ret->fault = "has an acmeIdentifier extension without a SHA-256 in it";
	else if (!X509_EXTENSION_get_critical(extension))
		ret->fault = "has an acmeIdentifier extension that is not critical";
	else if (!is_self_signed(certificate))
		ret->fault = "is not self-signed";
	else
		ret->fault = alt_name_fault(certificate, name);
}

bool validate_is_for(X509 *certificate, const struct name *name)
{
	if (name->address_len)
		return X509_check_ip(certificate, name->address, name->address_len, 0) == 1;
	return X509_check_host(certificate, name->sni, strlen(name->sni), 0, NULL) == 1;
}
