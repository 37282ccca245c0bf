#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""without_bpf.py COMMAND PROGRAM [ARG...]: runs PROGRAM on a kernel whose bpf(COMMAND, ...) answers EINVAL."""

import ctypes
import errno
import os
import sys

ACT_ALLOW, ACT_ERRNO, CMP_EQ = 0x7fff0000, 0x00050000, 4


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
seccomp.seccomp_init.restype = ctypes.c_void_p
seccomp.seccomp_init.argtypes = [ctypes.c_uint32]
seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
seccomp.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                           ctypes.POINTER(Compare)]

rules = seccomp.seccomp_init(ACT_ALLOW)
compare = Compare(0, CMP_EQ, int(sys.argv[1]), 0)
number = seccomp.seccomp_syscall_resolve_name(b"bpf")
if seccomp.seccomp_rule_add_array(rules, ACT_ERRNO | errno.EINVAL, number, 1, ctypes.byref(compare)):
    sys.exit("no rule")
if seccomp.seccomp_load(rules):
    sys.exit("no filter")
os.execvp(sys.argv[2], sys.argv[2:])
