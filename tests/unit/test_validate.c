/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: validate.c certificate.c challenge.c lazy.c timers.c name.c
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "certificate.h"
#include "util.h"
#include "validate.h"

static EVP_PKEY *key, *other_key;
static uint8_t digest[CHALLENGE_DIGEST];

static int set_up(void **state)
{
	key = EVP_EC_gen("P-256");
	other_key = EVP_EC_gen("P-256");
	for (size_t i = 0; i < sizeof(digest); i++)
		digest[i] = (uint8_t)(7 * i);
	return key && other_key ? 0 : -1;
}

static int tear_down(void **state)
{
	EVP_PKEY_free(key);
	EVP_PKEY_free(other_key);
	return 0;
}

static struct name name_of(const char *text)
{
	struct name name;

	assert_null(name_parse(text, &name));
	return name;
}

static X509 *certificate_for(const char *text)
{
	const struct name name = name_of(text);
	X509 *certificate = certificate_new(key);

	assert_non_null(certificate);
	assert_int_equal(certificate_fill(certificate, &name, digest, key), 0);
	return certificate;
}

/* After a change to the certificate; @with: whose signature. */
static void sign(X509 *certificate, EVP_PKEY *with)
{
	assert_true(X509_sign(certificate, with, EVP_sha256()) > 0);
}

static X509_EXTENSION *acme_extension(bool critical, const uint8_t *der, int len)
{
	ASN1_OBJECT *oid = OBJ_txt2obj("1.3.6.1.5.5.7.1.31", 1);
	ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
	X509_EXTENSION *extension;

	assert_true(ASN1_OCTET_STRING_set(value, der, len));
	extension = X509_EXTENSION_create_by_OBJ(NULL, oid, critical, value);
	ASN1_OCTET_STRING_free(value);
	ASN1_OBJECT_free(oid);
	return extension;
}

/* Takes the acmeIdentifier away, and puts another one in its place unless @len is 0. */
static void replace_acme(X509 *certificate, bool critical, const uint8_t *der, int len)
{
	X509_EXTENSION *extension;

	/* certificate_fill() adds it last. */
	X509_EXTENSION_free(X509_delete_ext(certificate, X509_get_ext_count(certificate) - 1));
	if (!len)
		return;
	extension = acme_extension(critical, der, len);
	assert_true(X509_add_ext(certificate, extension, -1));
	X509_EXTENSION_free(extension);
}

static void add_alt_names(X509 *certificate, const char *names)
{
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);

	assert_non_null(extension);
	assert_true(X509_add_ext(certificate, extension, 0));
	X509_EXTENSION_free(extension);
}

/* Judges it for @text, and frees it. */
static struct validated judge(X509 *certificate, const char *text)
{
	const struct name name = name_of(text);
	struct validated validated;

	validate_certificate(certificate, &name, &validated);
	X509_free(certificate);
	return validated;
}

static void good_ones(void **state)
{
	static const char *const names[] = { "www.example.org", "192.0.2.1", "2001:db8::1" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct validated validated = judge(certificate_for(names[i]), names[i]);

		assert_null(validated.fault);
		assert_true(validated.has_digest);
		assert_memory_equal(validated.digest, digest, sizeof(digest));
	}
	/* Names are compared without regard to case. */
	X509 *certificate = certificate_for("www.example.org");

	X509_EXTENSION_free(X509_delete_ext(certificate, 0));
	add_alt_names(certificate, "DNS:WWW.Example.ORG");
	sign(certificate, key);
	assert_null(judge(certificate, "www.example.org").fault);
}

static void other_names(void **state)
{
	assert_string_equal(judge(certificate_for("www.example.org"), "example.org").fault,
			    "is for another name");
	assert_string_equal(judge(certificate_for("192.0.2.1"), "192.0.2.2").fault,
			    "is for another name");
	assert_string_equal(judge(certificate_for("192.0.2.1"), "www.example.org").fault,
			    "is for another name");
}

static void alt_names(void **state)
{
	static const struct {
		const char *names, *more, *fault;
	} cases[] = {
		{ NULL, NULL, "has no subjectAltName" },
		{ "DNS:www.example.org,DNS:example.org", NULL,
		  "is for more names than the one that is validated" },
		{ "DNS:www.example.org", "DNS:www.example.org",
		  "has more than one subjectAltName extension" },
		{ "email:www@example.org", NULL, "is for another name" },
		{ "DNS:*.example.org", NULL, "is for another name" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		X509 *certificate = certificate_for("www.example.org");

		X509_EXTENSION_free(X509_delete_ext(certificate, 0));
		if (cases[i].names)
			add_alt_names(certificate, cases[i].names);
		if (cases[i].more)
			add_alt_names(certificate, cases[i].more);
		sign(certificate, key);
		assert_string_equal(judge(certificate, "www.example.org").fault, cases[i].fault);
	}
}

static void acme_identifiers(void **state)
{
	uint8_t der[3 + CHALLENGE_DIGEST] = { V_ASN1_OCTET_STRING, CHALLENGE_DIGEST };
	static const uint8_t draft[CHALLENGE_DIGEST]; /* a bare digest, as python3-acme's */
	struct {
		const uint8_t *der;
		int len;
		bool critical;
		const char *fault;
	} cases[] = {
		{ der, 2 + CHALLENGE_DIGEST, true, NULL },
		{ der, 2 + CHALLENGE_DIGEST, false,
		  "has an acmeIdentifier extension that is not critical" },
		{ der, 3 + CHALLENGE_DIGEST, true,
		  "has an acmeIdentifier extension without a SHA-256 in it" },
		{ der, 1 + CHALLENGE_DIGEST, true,
		  "has an acmeIdentifier extension without a SHA-256 in it" },
		{ draft, sizeof(draft), true,
		  "has an acmeIdentifier extension without a SHA-256 in it" },
		{ NULL, 0, true, "has no acmeIdentifier extension: it is an ordinary one" },
	};
	X509 *certificate;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct validated validated;

		certificate = certificate_for("www.example.org");
		replace_acme(certificate, cases[i].critical, cases[i].der, cases[i].len);
		sign(certificate, key);
		validated = judge(certificate, "www.example.org");
		if (cases[i].fault)
			assert_string_equal(validated.fault, cases[i].fault);
		else
			assert_null(validated.fault);
		assert_int_equal(validated.has_digest, cases[i].len == 2 + CHALLENGE_DIGEST);
	}

	X509_EXTENSION *second = acme_extension(true, der, 2 + CHALLENGE_DIGEST);

	certificate = certificate_for("www.example.org");
	assert_true(X509_add_ext(certificate, second, -1));
	X509_EXTENSION_free(second);
	sign(certificate, key);
	assert_string_equal(judge(certificate, "www.example.org").fault,
			    "has more than one acmeIdentifier extension");
}

static void not_self_signed(void **state)
{
	X509 *certificate = certificate_for("www.example.org");
	X509_NAME *issuer = X509_NAME_new();

	sign(certificate, other_key);
	assert_string_equal(judge(certificate, "www.example.org").fault, "is not self-signed");

	certificate = certificate_for("www.example.org");
	assert_true(X509_NAME_add_entry_by_txt(issuer, "CN", MBSTRING_ASC,
					       (const unsigned char *)"CA", -1, -1, 0));
	assert_true(X509_set_issuer_name(certificate, issuer));
	X509_NAME_free(issuer);
	sign(certificate, key);
	assert_string_equal(judge(certificate, "www.example.org").fault, "is not self-signed");
}

static void as_a_browser_sees_it(void **state)
{
	static const struct {
		const char *names, *name;
		bool is;
	} cases[] = {
		{ "DNS:www.example.org", "www.example.org", true },
		{ "DNS:a.example.org,DNS:www.example.org", "www.example.org", true },
		{ "DNS:*.example.org", "www.example.org", true },
		{ "DNS:*.example.org", "a.www.example.org", false },
		{ "DNS:www.example.org", "192.0.2.1", false },
		{ "IP:192.0.2.1", "192.0.2.1", true },
		{ "IP:2001:db8::1", "2001:db8::2", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct name name = name_of(cases[i].name);
		X509 *certificate = certificate_for("other.example.org");

		X509_EXTENSION_free(X509_delete_ext(certificate, 0));
		add_alt_names(certificate, cases[i].names);
		sign(certificate, key);
		assert_int_equal(validate_is_for(certificate, &name), cases[i].is);
		X509_free(certificate);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_ones),	   cmocka_unit_test(other_names),
		cmocka_unit_test(alt_names),	   cmocka_unit_test(acme_identifiers),
		cmocka_unit_test(not_self_signed), cmocka_unit_test(as_a_browser_sees_it),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
