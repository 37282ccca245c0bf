/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What speaks TLS is a program of its own, acme-steer-tls: the built-in responder and `probe`. So
 * the one that has rights, and the one in hooks that has to be quick, have no TLS library.
 */
#ifndef TLS_PROGRAM_H
#define TLS_PROGRAM_H

/*
 * Opens it, for execveat(): in ../libexec/acme-steer from where this program is, or beside it. A
 * descriptor (O_PATH, O_CLOEXEC), or -errno: -ENOENT, it is not there; -EPERM, it is there, but
 * somebody could have put it there who can't write this program.
 */
int tls_program_open(void);

/* What is wrong, and what to do. */
const char *tls_program_error(int err);

#endif
