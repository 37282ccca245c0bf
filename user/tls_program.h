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

/* What is wrong. */
const char *tls_program_fault(int err);

/* What to do about that, as a part of a sentence. NULL: nothing that we know of. */
const char *tls_program_remedy(int err);

#endif
