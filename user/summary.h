/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one line that sums up a window. */
#ifndef SUMMARY_H
#define SUMMARY_H

#include <stddef.h>
#include <stdint.h>

#include "log.h"
#include "tally.h"
#include "window.h"

/* Names that the line shows. */
#define SUMMARY_NAMES 8

/* The longest line: each name takes at most its bytes, ", " and a number. */
#define SUMMARY_MAX (512 + SUMMARY_NAMES * (TALLY_NAME_SIZE + 24))

struct summary {
	char text[SUMMARY_MAX];
	char numbers[8][24]; /* what the fields point at */
	struct log_fields fields;
};

/*
 * Of @window, which still is in its set. @others: as window.others_before, now.
 *
 *	open for 12.3 s; 34 connections: 30 handed off, 2 relayed, 2 under way; 1 timed out, 0 passed
 *	by, 1200 read in passing; challenges: www.example.org 6, blog.example.org 5
 */
void summary_make(const struct window *window, struct window_others others, uint64_t now_ns,
		  struct summary *ret_summary);

#endif
