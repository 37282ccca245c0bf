/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tlsload's connections (tlsload_conn.c) and its load (tlsload.c) share. */
#ifndef TLSLOAD_H
#define TLSLOAD_H

#include "response.h"
#include "tls.h"
#include "tool.h"

struct options {
	double rate, seconds, far_fraction, slow_fraction, resume_fraction, early_fraction;
	double timeout_s, stall_ms;
	uint64_t max_live, seed;
	const char *sni, *alpn, *path, *progress_path;
	FILE *log; /* a line per connection; may be NULL */
	struct tool_addrs targets, sources;
	struct response_expected expected;
};
extern struct options opt;

/* Of all connections. */
struct totals {
	uint64_t n_started, n_ok, n_live, n_resumed, n_early, max_late_ns;
	struct tool_events failures, stalls;
	struct tool_samples latencies;
};
extern struct totals totals;

struct conn;

/* Before any connection, with the options. Returns the epoll descriptor of all of them. */
int conn_init(void);

/* Begins one that was due at @due_ns. */
void conn_start(uint64_t due_ns);

/* Takes what epoll reported; it may be gone then. */
void conn_event(struct conn *conn, uint32_t events);

/* Goes on with those whose wait is over, and gives up those whose time is. */
void conn_run_waits(uint64_t now);

/* When conn_run_waits() has something to do; UINT64_MAX: nothing yet. */
uint64_t conn_next_due(void);

#endif
