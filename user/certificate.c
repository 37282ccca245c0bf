// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The certificate that answers a challenge. */
#include "certificate.h"

#include <errno.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "util.h"

#define DAY_S 86400L

static void cleanup_x509(X509 **certificate)
{
	X509_free(*certificate);
}
#define _cleanup_x509_ __attribute__((cleanup(cleanup_x509)))

/* id-pe-acmeIdentifier, 1.3.6.1.5.5.7.1.31. The value is a DER OCTET STRING in the extension's own
 * one. */
static int add_acme_identifier(X509 *certificate, const uint8_t digest[CHALLENGE_DIGEST])
{
	uint8_t der[2 + CHALLENGE_DIGEST] = { V_ASN1_OCTET_STRING, CHALLENGE_DIGEST };
	ASN1_OBJECT *oid = OBJ_txt2obj("1.3.6.1.5.5.7.1.31", 1);
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *extension = NULL;
	int ok = 0;

	memcpy(der + 2, digest, CHALLENGE_DIGEST);
	if (oid && value && ASN1_OCTET_STRING_set(value, der, sizeof(der)))
		extension = X509_EXTENSION_create_by_OBJ(NULL, oid, 1, value);
	if (extension)
		ok = X509_add_ext(certificate, extension, -1);
	X509_EXTENSION_free(extension);
	ASN1_OCTET_STRING_free(value);
	ASN1_OBJECT_free(oid);
	return ok;
}

static int add_alt_name(X509 *certificate, const struct name *name)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	GENERAL_NAME *general = GENERAL_NAME_new();
	ASN1_STRING *value =
		ASN1_STRING_type_new(name->address_len ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
	int ok = names && general && value;

	if (ok && name->address_len)
		ok = ASN1_STRING_set(value, name->address, name->address_len);
	else if (ok)
		ok = ASN1_STRING_set(value, name->sni, (int)strlen(name->sni));
	if (ok) {
		GENERAL_NAME_set0_value(general, name->address_len ? GEN_IPADD : GEN_DNS,
					TAKE_PTR(value));
		ok = sk_GENERAL_NAME_push(names, general) > 0;
	}
	if (ok) {
		general = NULL;
		ok = X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, 0);
	}
	ASN1_STRING_free(value);
	GENERAL_NAME_free(general);
	sk_GENERAL_NAME_pop_free(names, GENERAL_NAME_free);
	return ok;
}

static int set_serial(X509 *certificate)
{
	uint64_t serial;

	if (RAND_bytes((unsigned char *)&serial, sizeof(serial)) != 1)
		return 0;
	/* Positive, and never 0: RFC 5280 section 4.1.2.2. */
	return ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate),
				       serial >> 1 | UINT64_C(1) << 62);
}

X509 *certificate_new(EVP_PKEY *key)
{
	static const unsigned char common_name[] = "acme-steer challenge";
	_cleanup_x509_ X509 *certificate = X509_new();
	X509_NAME *subject;

	if (!certificate || !X509_set_version(certificate, X509_VERSION_3))
		return NULL;
	/* Not empty: else the subjectAltName would have to be critical. */
	subject = X509_get_subject_name(certificate);
	if (!X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_ASC, common_name, -1, -1,
					0) ||
	    !X509_set_issuer_name(certificate, subject) || !X509_set_pubkey(certificate, key))
		return NULL;
	return TAKE_PTR(certificate);
}

int certificate_fill(X509 *certificate, const struct name *name,
		     const uint8_t digest[CHALLENGE_DIGEST], EVP_PKEY *key)
{
	while (X509_get_ext_count(certificate) > 0)
		X509_EXTENSION_free(X509_delete_ext(certificate, 0));
	if (!set_serial(certificate) ||
	    !X509_gmtime_adj(X509_getm_notBefore(certificate), -DAY_S) ||
	    !X509_gmtime_adj(X509_getm_notAfter(certificate), 7 * DAY_S) ||
	    !add_alt_name(certificate, name) || !add_acme_identifier(certificate, digest) ||
	    X509_sign(certificate, key, EVP_sha256()) == 0)
		return -ENOMEM;
	return 0;
}
