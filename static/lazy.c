// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* `make static` only: all libraries are there already, see user/lazy.h. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include "lazy.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>

int lazy_sha256(const void *data, size_t len, uint8_t ret_digest[SHA256_LEN])
{
	unsigned digest_len = SHA256_LEN;

	return EVP_Digest(data, len, ret_digest, &digest_len, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

const char *lazy_openssl_version(void)
{
	return OpenSSL_version(OPENSSL_VERSION_STRING);
}

void lazy_load_systemd(void)
{
}

int lazy_sd_notify(const char *state)
{
	return sd_notify(0, state);
}

int lazy_sd_watchdog_enabled(uint64_t *ret_usec)
{
	return sd_watchdog_enabled(0, ret_usec);
}

int lazy_sd_journal_sendv(const struct iovec *iov, int n)
{
	return sd_journal_sendv(iov, n);
}
