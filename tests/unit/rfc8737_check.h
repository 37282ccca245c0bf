/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Is this the certificate that RFC 8737 section 3 (for an IP address, with RFC 8738 section 6) asks
 * for? Written from the RFCs on a DER reader of its own, so that it shares nothing with what makes
 * the certificate.
 */
#ifndef RFC8737_CHECK_H
#define RFC8737_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct der {
	const uint8_t *p, *end;
};

/* The next element must be @tag; *ret_value is what is in it. Shortest length form only. */
static bool der_take(struct der *der, uint8_t tag, struct der *ret_value)
{
	size_t len, n = 0;

	if (der->end - der->p < 2 || der->p[0] != tag)
		return false;
	len = der->p[1];
	der->p += 2;
	if (len & 0x80) {
		n = len & 0x7f;
		if (n < 1 || n > 3 || (size_t)(der->end - der->p) < n || der->p[0] == 0)
			return false;
		len = 0;
		for (size_t i = 0; i < n; i++)
			len = len << 8 | *der->p++;
		if (len < 0x80)
			return false;
	}
	if ((size_t)(der->end - der->p) < len)
		return false;
	*ret_value = (struct der){ der->p, der->p + len };
	der->p += len;
	return true;
}

static bool der_skip(struct der *der)
{
	struct der ignored;

	return der->p < der->end && der_take(der, *der->p, &ignored);
}

static bool der_is(const struct der *der, const void *bytes, size_t len)
{
	return (size_t)(der->end - der->p) == len && memcmp(der->p, bytes, len) == 0;
}

/* One Extension: SEQUENCE { OID, BOOLEAN DEFAULT FALSE, OCTET STRING }. */
static bool der_take_extension(struct der *list, struct der *ret_oid, bool *ret_critical,
			       struct der *ret_value)
{
	struct der extension, boolean;

	if (!der_take(list, 0x30, &extension) || !der_take(&extension, 0x06, ret_oid))
		return false;
	*ret_critical = false;
	if (extension.p < extension.end && *extension.p == 0x01) {
		/* DER: TRUE is ff, and a default value is left out. */
		if (!der_take(&extension, 0x01, &boolean) || !der_is(&boolean, "\xff", 1))
			return false;
		*ret_critical = true;
	}
	return der_take(&extension, 0x04, ret_value) && extension.p == extension.end;
}

/* The list of extensions of a version 3 certificate. */
static bool rfc8737_extensions(const uint8_t *cert, size_t len, struct der *ret_list)
{
	struct der whole = { cert, cert + len }, certificate, tbs, version, number, wrapped;

	if (!der_take(&whole, 0x30, &certificate) || whole.p != whole.end ||
	    !der_take(&certificate, 0x30, &tbs) || !der_take(&tbs, 0xa0, &version) ||
	    !der_take(&version, 0x02, &number) || !der_is(&number, "\2", 1))
		return false;
	for (int i = 0; i < 6; i++) /* serial number, algorithm, issuer, validity, subject, key */
		if (!der_skip(&tbs))
			return false;
	return der_take(&tbs, 0xa3, &wrapped) && tbs.p == tbs.end &&
	       der_take(&wrapped, 0x30, ret_list) && wrapped.p == wrapped.end;
}

/*
 * @name: of a DNS name its characters, of an IP address its 4 or 16 bytes (@is_address). NULL: it
 * is right; else what is wrong.
 */
static const char *rfc8737_fault(const uint8_t *cert, size_t len, const void *name, size_t name_len,
				 bool is_address, const uint8_t digest[32])
{
	static const uint8_t san_oid[] = { 0x55, 0x1d, 0x11 };
	static const uint8_t acme_oid[] = { 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f };
	unsigned n_san = 0, n_acme = 0;
	struct der list, oid, value;
	bool critical;

	if (!rfc8737_extensions(cert, len, &list))
		return "no DER, or no version 3, or no extensions";
	while (list.p < list.end) {
		struct der names, general, bytes;

		if (!der_take_extension(&list, &oid, &critical, &value))
			return "an extension is no DER";
		if (der_is(&oid, san_oid, sizeof(san_oid))) {
			n_san++;
			if (!der_take(&value, 0x30, &names) || value.p != value.end)
				return "subjectAltName is no sequence";
			if (!der_take(&names, is_address ? 0x87 : 0x82, &general))
				return "subjectAltName has another kind of name";
			if (names.p != names.end)
				return "subjectAltName has more than one name";
			if (!der_is(&general, name, name_len))
				return "subjectAltName has another name";
		} else if (der_is(&oid, acme_oid, sizeof(acme_oid))) {
			n_acme++;
			if (!critical)
				return "acmeIdentifier is not critical";
			if (!der_take(&value, 0x04, &bytes) || value.p != value.end)
				return "acmeIdentifier is no OCTET STRING";
			if (!der_is(&bytes, digest, 32))
				return "acmeIdentifier has another digest";
		} else if (critical) {
			return "a critical extension that nobody asked for";
		}
	}
	if (n_san != 1)
		return "not one subjectAltName";
	if (n_acme != 1)
		return "not one acmeIdentifier";
	return NULL;
}

#endif
