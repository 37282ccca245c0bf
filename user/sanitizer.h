/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a build with sanitizers (make check-sanitized) may beyond a release: write its report and,
 * at a process's end, look for leaks. That takes some system calls (filter.c), a report opened in
 * time, /proc and no limits (isolate.c), and the variable that says where (starter.c). A release
 * has none of it.
 */
#ifndef SANITIZER_H
#define SANITIZER_H

#ifdef __has_feature
#define SANITIZER_HAS(feature) __has_feature(feature)
#else
#define SANITIZER_HAS(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || SANITIZER_HAS(address_sanitizer)
#define SANITIZED 1
#include <sanitizer/common_interface_defs.h>
#else
#define SANITIZED 0
#endif

/* Opens the file of ASAN_OPTIONS=log_path=, which could not be opened later. */
static inline void sanitizer_open_report(void)
{
#if SANITIZED
	__sanitizer_get_report_path();
#endif
}

#endif
