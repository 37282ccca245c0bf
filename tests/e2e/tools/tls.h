/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the load tools say of TLS. */
#ifndef TLS_H
#define TLS_H

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>

#define TLS_FAULT_LEN 80

/*
 * Why the call on @ssl that has just returned @ret is the connection's last: "closed", what errno
 * means, or OpenSSL's reason. Written to @buf, which is returned.
 */
static inline const char *tls_fault(SSL *ssl, int ret, char buf[TLS_FAULT_LEN])
{
	int saved_errno = errno, error = SSL_get_error(ssl, ret);
	unsigned long code = ERR_peek_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	if (error == SSL_ERROR_SYSCALL && saved_errno)
		snprintf(buf, TLS_FAULT_LEN, "%s", strerror(saved_errno));
	else if (error == SSL_ERROR_ZERO_RETURN || error == SSL_ERROR_SYSCALL)
		snprintf(buf, TLS_FAULT_LEN, "closed");
	else
		snprintf(buf, TLS_FAULT_LEN, "TLS: %s", reason ? reason : "unknown error");
	return buf;
}

#endif
