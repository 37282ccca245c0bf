/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What longlived's connections (longlived_conn.c) and its run (longlived.c) share. */
#ifndef LONGLIVED_H
#define LONGLIVED_H

#include "tls.h"
#include "tool.h"

#include <pthread.h>

enum role { DOWNLOAD, UPLOAD, IDLE, ROLE_COUNT };

/* One connection, and the thread that it has. */
struct member {
	pthread_t thread;
	unsigned trio;
	enum role role;
	uint64_t start_ns;
	const struct tool_addr *target;
	struct sockaddr_storage local;
	int fd;
	SSL *ssl;
	char head[2048];
	uint64_t bytes;
	unsigned requests;
	char upload_path[128];
	char sha256[65]; /* of an upload that has ended well */
	char failure[96];
	bool counted;
};

struct options {
	double seconds, spacing_ms, idle_interval_s, timeout_s;
	uint64_t download_bytes, upload_bytes;
	unsigned trios, upload_tag;
	const char *sni, *download_path, *upload_prefix, *idle_path, *progress_path;
	struct tool_addrs targets, sources;
	SSL_CTX *ctx;
};
extern struct options opt;

/* Is the run over? */
bool stopped(void);

/* Returns true when it is, at once; or after @ms. */
bool pause_ms(int ms);

/* Readable when it is. */
extern int stop_fd;

/* It has had its first bytes. Any thread, any number of times. */
void established(struct member *member);

/* Connects, and does what its role is. False: member.failure says why. */
bool member_serve(struct member *member);

#endif
