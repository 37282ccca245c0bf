# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The BPF maps of a process, by bpf(2): to fill one up, and to empty it again."""

import ctypes
import os
import platform

from lab import bpf_descriptors

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_MAP_UPDATE, _MAP_DELETE, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO = 2, 3, 14, 15
_libc = ctypes.CDLL(None, use_errno=True)


class _Elem(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("key", ctypes.c_uint64),
                ("value", ctypes.c_uint64), ("flags", ctypes.c_uint64)]


class _Id(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("next", ctypes.c_uint32), ("flags", ctypes.c_uint32)]


class _InfoAttr(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_uint32), ("len", ctypes.c_uint32), ("info", ctypes.c_uint64)]


class _Info(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint32), ("id", ctypes.c_uint32), ("key_size", ctypes.c_uint32),
                ("value_size", ctypes.c_uint32), ("max_entries", ctypes.c_uint32),
                ("map_flags", ctypes.c_uint32), ("name", ctypes.c_char * 16)]


def _bpf(command, attr):
    result = _libc.syscall(_SYS_BPF, command, ctypes.byref(attr), ctypes.sizeof(attr))
    return result if result >= 0 else -ctypes.get_errno()


class Map:
    def __init__(self, fd, info):
        self.fd = fd
        self.info = info
        self.filled = []

    def _elem(self, key, value=None):
        return _Elem(fd=self.fd, key=ctypes.addressof(key),
                     value=ctypes.addressof(value) if value else 0)

    def fill(self):
        """Adds entries of nobody's until there is no room; how many."""
        value = (ctypes.c_uint8 * self.info.value_size)()
        while True:
            text = b"\xfc" + b"chaos" + len(self.filled).to_bytes(4, "big")
            key = (ctypes.c_uint8 * self.info.key_size)(*text)
            error = _bpf(_MAP_UPDATE, self._elem(key, value))
            if error < 0:
                assert -error == 7, os.strerror(-error)  # E2BIG: full
                return len(self.filled)
            self.filled.append(key)

    def empty(self):
        for key in self.filled:
            _bpf(_MAP_DELETE, self._elem(key))
        self.filled = []
        os.close(self.fd)


def of_process(pid, name):
    """The process's map of this name; None: it has none."""
    ids = {int(info["map_id"]) for info in bpf_descriptors(pid) if "map_id" in info}
    for number in sorted(ids):
        fd = _bpf(_MAP_GET_FD_BY_ID, _Id(id=number))
        if fd < 0:
            continue
        info = _Info()
        _bpf(_OBJ_GET_INFO, _InfoAttr(fd=fd, len=ctypes.sizeof(info), info=ctypes.addressof(info)))
        if info.name == name.encode():
            return Map(fd, info)
        os.close(fd)
    return None
