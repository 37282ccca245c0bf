/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is used of libraries that few runs of this program need: they are loaded with the first
 * call. To link OpenSSL and libsystemd, and what that needs in turn, takes two milliseconds, longer
 * than all of `open` and `close`, which stand in hooks. Any thread.
 */
#ifndef LAZY_H
#define LAZY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SHA256_LEN 32

/* EVP_Digest() of OpenSSL. 0; -ENOENT: libcrypto can't be loaded; -EIO: it can't hash. */
int lazy_sha256(const void *data, size_t len, uint8_t ret_digest[SHA256_LEN]);

/* The version of libcrypto, "3.0.19"; "none": it can't be loaded. */
const char *lazy_openssl_version(void);

/* For a process that will not be able to load anything once it has filtered its system calls. */
void lazy_load_systemd(void);

/* sd_notify(3), sd_watchdog_enabled(3), sd_journal_sendv(3). -ENOENT: libsystemd can't be loaded.
 */
int lazy_sd_notify(const char *state);
int lazy_sd_watchdog_enabled(uint64_t *ret_usec);
int lazy_sd_journal_sendv(const struct iovec *iov, int n);

#endif
