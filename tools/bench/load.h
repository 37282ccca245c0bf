/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The bench's client: what its connections (load_conn.c) and its measuring (load.c) share. */
#ifndef LOAD_H
#define LOAD_H

#include "response.h"
#include "tls.h"
#include "tool.h"

#include <pthread.h>

#define UPLOAD_CHUNK 16384
#define BUFFER	     65536

enum mode { MODE_CONNECT, MODE_REQUESTS, MODE_DOWN, MODE_UP, MODE_HOLD, MODES };

enum state { FREE, CONNECT, HANDSHAKE, REQUEST, RESPONSE, HELD };

struct worker;

struct conn {
	struct worker *worker;
	struct conn *next; /* free */
	int fd;
	enum state state;
	uint32_t interest;
	bool first_byte_seen;
	uint64_t due_ns, activity_ns;
	SSL *ssl;
	unsigned index; /* of all */
	struct sockaddr_storage local;
	struct response response;
	size_t sent;
};

struct worker {
	pthread_t thread;
	unsigned index;
	int epoll_fd;
	SSL_CTX *ctx;
	SSL_SESSION *session; /* the newest */
	struct conn *conns, *free;
	unsigned n_conns, n_live, n_starting;
	uint64_t n_started;
	/* Read by the main thread: __atomic. */
	uint64_t n_done;  /* responses */
	uint64_t n_bytes; /* of bodies, either way */
	uint64_t n_ready; /* connections that have had their first response */
	uint64_t n_failed;
	uint64_t n_resumed;
	struct tool_samples latencies, lateness;
	struct tool_events failures;
	uint8_t buffer[BUFFER];
};

struct load_options {
	enum mode mode;
	unsigned workers, connections;
	double rate, warmup_s, seconds, timeout_s;
	bool resume;
	const char *sni, *path, *expect_peer, *progress_path, *samples_path;
	struct tool_addrs targets, sources;
	struct response_expected expected;
	uint8_t *upload;
	size_t upload_len;
};
extern struct load_options opt;

/* The measured time; __atomic; 0: not yet. */
extern uint64_t begin_ns, end_ns;

static inline uint64_t count(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static inline void add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* A signal has ended it. */
bool is_stopped(void);

/* Nothing new begins: the measured time has ended, or a signal has ended it. */
bool is_over(uint64_t now);

static inline bool is_measured(uint64_t ns)
{
	uint64_t begin = count(&begin_ns);

	return begin && ns >= begin && ns < count(&end_ns);
}

/* Takes one of worker->free, and connects. @due_ns: from when on its latency counts. */
void conn_start(struct worker *worker, uint64_t due_ns);

/* Takes what epoll reported. */
void conn_event(struct conn *conn, uint32_t events);

/* Sends the next request of a connection that has had its response. */
void conn_request(struct conn *conn);

/* It is given up if nothing has come or gone for so long. */
void conn_check(struct conn *conn, uint64_t limit_ns);

#endif
