/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What speaks TLS is a program of its own, acme-steer-tls: the built-in responder and `probe`. So
 * the one that has rights, and the one in hooks that has to be quick, have no TLS library.
 */
#ifndef TLS_PROGRAM_H
#define TLS_PROGRAM_H

#define TLS_PROGRAM_HELP \
	"acme-steer-tls is not there, which is installed with acme-steer; install it again"

/*
 * Opens it, for execveat(): beside this program, or in ../libexec/acme-steer from there. A
 * descriptor (O_PATH, O_CLOEXEC), or -errno.
 */
int tls_program_open(void);

#endif
