// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Libraries that are loaded when they are needed. `make static` has static/lazy.c instead. */
#include "lazy.h"

/* The message is the caller's; where in our sources it comes from is of no use to anybody. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <dlfcn.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>

#define STRING(text)	   #text
#define SONAME(name, n)	   SONAME_OF(name, n)
#define SONAME_OF(name, n) name STRING(n)
#define LIBCRYPTO	   SONAME("libcrypto.so.", OPENSSL_SHLIB_VERSION)
#define LIBSYSTEMD	   "libsystemd.so.0"

static struct {
	pthread_once_t once;
	__typeof__(&EVP_Digest) digest;
	__typeof__(&EVP_sha256) sha256;
	__typeof__(&OpenSSL_version) version;
} crypto = { .once = PTHREAD_ONCE_INIT };

static struct {
	pthread_once_t once;
	__typeof__(&sd_notify) notify;
	__typeof__(&sd_watchdog_enabled) watchdog_enabled;
	__typeof__(&sd_journal_sendv) journal_sendv;
} systemd = { .once = PTHREAD_ONCE_INIT };

/* POSIX: what dlsym() returns can be a function. */
#define SYMBOL(library, pointer, name) (*(void **)&(pointer) = dlsym(library, name))

static void load_crypto(void)
{
	void *library = dlopen(LIBCRYPTO, RTLD_LAZY | RTLD_LOCAL);

	if (!library)
		return;
	SYMBOL(library, crypto.digest, "EVP_Digest");
	SYMBOL(library, crypto.sha256, "EVP_sha256");
	SYMBOL(library, crypto.version, "OpenSSL_version");
}

static void load_systemd(void)
{
	void *library = dlopen(LIBSYSTEMD, RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return;
	SYMBOL(library, systemd.notify, "sd_notify");
	SYMBOL(library, systemd.watchdog_enabled, "sd_watchdog_enabled");
	SYMBOL(library, systemd.journal_sendv, "sd_journal_sendv");
}

int lazy_sha256(const void *data, size_t len, uint8_t ret_digest[SHA256_LEN])
{
	unsigned digest_len = SHA256_LEN;

	pthread_once(&crypto.once, load_crypto);
	if (!crypto.digest || !crypto.sha256)
		return -ENOENT;
	return crypto.digest(data, len, ret_digest, &digest_len, crypto.sha256(), NULL) == 1 ? 0
											     : -EIO;
}

const char *lazy_openssl_version(void)
{
	pthread_once(&crypto.once, load_crypto);
	return crypto.version ? crypto.version(OPENSSL_VERSION_STRING) : "none";
}

void lazy_load_systemd(void)
{
	pthread_once(&systemd.once, load_systemd);
}

int lazy_sd_notify(const char *state)
{
	lazy_load_systemd();
	return systemd.notify ? systemd.notify(0, state) : -ENOENT;
}

int lazy_sd_watchdog_enabled(uint64_t *ret_usec)
{
	lazy_load_systemd();
	return systemd.watchdog_enabled ? systemd.watchdog_enabled(0, ret_usec) : -ENOENT;
}

int lazy_sd_journal_sendv(const struct iovec *iov, int n)
{
	lazy_load_systemd();
	return systemd.journal_sendv ? systemd.journal_sendv(iov, n) : -ENOENT;
}
