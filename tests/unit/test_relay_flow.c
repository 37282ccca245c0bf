/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: relay.c relay_flow.c proxy_header.c source.c relay_route.c policy.c addr.c
/* The bytes of relays: many of them, and waiting, which must cost nothing. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay_bench.h"

#define CHUNK	  (64 * 1024)
#define BULK_SIZE (24u * 1024 * 1024)

/* ---- bulk ---- */

struct stream {
	int from, to;
	size_t sent, received;
	uint64_t sent_digest, received_digest;
	size_t read_size; /* how much the reader takes at a time */
	unsigned skip;	  /* and how many of its turns it sleeps */
	bool ended;
};

/* FNV-1a of the stream. */
static uint64_t digest(uint64_t hash, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static void stream_write(struct stream *s)
{
	static uint8_t data[CHUNK];
	size_t len = MIN(sizeof(data), BULK_SIZE - s->sent);
	ssize_t n;

	if (!len)
		return;
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(((s->sent + i) * 2654435761u) >> 13);
	n = send(s->from, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n <= 0)
		return;
	s->sent_digest = digest(s->sent_digest, data, (size_t)n);
	s->sent += (size_t)n;
	if (s->sent == BULK_SIZE)
		shutdown(s->from, SHUT_WR);
}

static void stream_read(struct stream *s, unsigned turn)
{
	static uint8_t data[CHUNK];
	ssize_t n;

	if (turn % (s->skip + 1))
		return;
	n = recv(s->to, data, s->read_size, MSG_DONTWAIT);
	if (n > 0) {
		s->received_digest = digest(s->received_digest, data, (size_t)n);
		s->received += (size_t)n;
	}
	if (n == 0)
		s->ended = true;
	assert_true(n >= 0 || errno == EAGAIN);
}

static void run_bulk(struct bench *b, size_t client_reads, unsigned client_skips)
{
	struct stream up = { .from = b->client, .to = b->server, .read_size = CHUNK };
	struct stream down = {
		.from = b->server, .to = b->client, .read_size = client_reads, .skip = client_skips
	};
	uint64_t end = now_ns() + 60 * NSEC_PER_SEC;

	for (unsigned turn = 0; !up.ended || !down.ended; turn++) {
		stream_write(&up);
		stream_write(&down);
		pump(b, 0);
		stream_read(&up, turn);
		stream_read(&down, turn);
		assert_true(now_ns() < end);
	}
	assert_int_equal(up.received, BULK_SIZE);
	assert_int_equal(down.received, BULK_SIZE);
	assert_int_equal(up.received_digest, up.sent_digest);
	assert_int_equal(down.received_digest, down.sent_digest);
	pump_until(b, b->ended == 1);
	assert_int_equal(b->worker.counters.reset, 0);
	assert_int_equal(b->worker.counters.bytes[CLIENT], BULK_SIZE);
	assert_int_equal(b->worker.counters.bytes[TARGET], BULK_SIZE);
}

static void test_bulk(void **state)
{
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	run_bulk(&b, CHUNK, 0);
	bench_close(&b);
}

static void test_bulk_slow_reader(void **state)
{
	struct bench b;

	bench_relay(&b, "::1");
	run_bulk(&b, 9000, 3);
	bench_close(&b);
}

/* It travels as an ordinary one, and does not end the stream. */
static void test_urgent_byte(void **state)
{
	static uint8_t data[1024 * 1024];
	uint64_t end = now_ns() + WAIT_NS;
	size_t sent = 0, got = 0;
	struct bench b;
	ssize_t n;

	bench_relay(&b, "127.0.0.1");
	for (unsigned turn = 0; got < 8 * sizeof(data); turn++) {
		if (sent < 8 * sizeof(data)) {
			n = send(b.client, data, MIN(70001, 8 * sizeof(data) - sent),
				 MSG_DONTWAIT | MSG_NOSIGNAL | (turn % 3 ? 0 : MSG_OOB));
			sent += n > 0 ? (size_t)n : 0;
		}
		if (turn % 4 == 0)
			pump(&b, 0);
		n = recv(b.server, data, sizeof(data), MSG_DONTWAIT);
		assert_true(n > 0 || (n < 0 && errno == EAGAIN));
		got += n > 0 ? (size_t)n : 0;
		assert_true(now_ns() < end);
	}
	assert_int_equal(got, sent);
	settle(&b);
	assert_int_equal(b.ended, 0);
	bench_close(&b);
}

/* ---- waiting costs nothing ---- */

/* Writes until nothing more is taken, for good. */
static void stuff(struct bench *b, int fd)
{
	static uint8_t data[CHUNK];
	unsigned full = 0;

	while (full < 20) {
		if (send(fd, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			full = 0;
		else
			full++;
		pump(b, 5);
	}
	settle(b);
}

static size_t read_all(struct bench *b, int fd)
{
	static uint8_t data[CHUNK];
	size_t total = 0;
	ssize_t n;

	while ((n = recv_soon(b, fd, data, sizeof(data))) > 0)
		total += (size_t)n;
	assert_int_equal(n, 0);
	return total;
}

/* Writes until the relay takes no more, but its receive queue would. */
static void stuff_a_little(struct bench *b, int fd, enum relay_side side)
{
	static uint8_t data[CHUNK];
	uint64_t sent = 0;

	while (b->worker.counters.bytes[side] == sent) {
		assert_int_equal(send(fd, data, sizeof(data), MSG_NOSIGNAL), sizeof(data));
		sent += sizeof(data);
		settle(b);
	}
}

/* The client's end is shut down both ways, its bytes and its FIN still unread: EPOLLHUP for long.
 */
static void test_blocked_with_fin_is_quiet(void **state)
{
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	shutdown(b.server, SHUT_WR);
	expect_end(&b, b.client, 0);
	stuff_a_little(&b, b.client, CLIENT);
	expect_quiet(&b);
	shutdown(b.client, SHUT_WR);
	settle(&b);
	expect_quiet(&b);
	read_all(&b, b.server);
	pump_until(&b, b.ended == 1);
	assert_int_equal(b.worker.counters.reset, 0);
	bench_close(&b);
}

static void test_blocked_is_quiet(void **state)
{
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	expect_quiet(&b);
	stuff(&b, b.client);
	expect_quiet(&b);
	/* FIN behind what is stuck. */
	shutdown(b.client, SHUT_WR);
	expect_quiet(&b);

	shutdown(b.server, SHUT_WR);
	expect_end(&b, b.client, 0);
	settle(&b);
	expect_quiet(&b);
	assert_true(read_all(&b, b.server) > 256 * 1024);
	pump_until(&b, b.ended == 1);
	assert_int_equal(b.worker.counters.reset, 0);
	bench_close(&b);
}

static void test_blocked_and_reset(void **state)
{
	size_t got = 0;
	struct bench b;
	char data[CHUNK];
	ssize_t n;

	/* The server is reset with much of its answer stuck before a client that does not read. */
	bench_relay(&b, "127.0.0.1");
	stuff(&b, b.server);
	reset(&b.server);
	settle(&b);
	expect_quiet(&b);
	while ((n = recv_soon(&b, b.client, data, sizeof(data))) > 0)
		got += (size_t)n;
	assert_int_equal(n, -ECONNRESET);
	assert_true(got > 256 * 1024);
	assert_int_equal(b.worker.counters.reset, 1);
	bench_close(&b);

	/* The client that does not read is reset: nothing more to wait for. */
	bench_relay(&b, "127.0.0.1");
	stuff(&b, b.server);
	reset(&b.client);
	pump_until(&b, b.ended == 1);
	expect_end(&b, b.server, -ECONNRESET);
	bench_close(&b);
}

/* The server was told that all of its answer has arrived, when the relay had it. */
static void test_reset_behind_what_is_on_its_way(void **state)
{
	const size_t all = 5 * CHUNK;
	static char data[CHUNK];
	size_t sent = 0, got = 0;
	struct bench b;
	ssize_t n;

	bench_relay(&b, "127.0.0.1");
	while (sent < all) {
		n = send(b.server, data, MIN(sizeof(data), all - sent),
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			sent += (size_t)n;
		pump(&b, 5);
	}
	pump_until(&b, b.worker.counters.bytes[TARGET] == all);
	reset(&b.server);
	settle(&b);
	expect_quiet(&b);
	assert_int_equal(b.ended, 0);
	while ((n = recv_soon(&b, b.client, data, sizeof(data))) > 0)
		got += (size_t)n;
	assert_int_equal(n, -ECONNRESET);
	assert_int_equal(got, all);
	assert_int_equal(b.ended, 1);
	assert_int_equal(b.worker.counters.reset, 1);
	bench_close(&b);

	/* Nobody waits for a client that does not want it. */
	bench_relay(&b, "127.0.0.1");
	stuff(&b, b.server);
	while (recv_soon(&b, b.client, data, sizeof(data)) > 0 &&
	       b.worker.counters.bytes[TARGET] < all)
		;
	reset(&b.server);
	settle(&b);
	reset(&b.client);
	pump_until(&b, b.ended == 1);
	bench_close(&b);

	bench_relay(&b, "127.0.0.1");
	assert_true(send(b.server, data, sizeof(data), MSG_DONTWAIT) > 0);
	pump_until(&b, b.worker.counters.bytes[TARGET] > 0);
	reset(&b.server);
	relay_worker_kill_all(&b.worker);
	assert_int_equal(b.ended, 1);
	bench_close(&b);
}

/* Nothing of a relay that ends with much under way reaches another. */
static void test_next_is_clean(void **state)
{
	struct bench b;
	int fd;

	bench_relay(&b, "127.0.0.1");
	stuff(&b, b.client);
	relay_worker_kill_all(&b.worker);
	close_if_open(&b.client);
	close_if_open(&b.server);
	b.worker.counters = (struct relay_counters){ 0 };
	b.ended = 0;
	fd = bench_client(&b, NULL);
	bench_start(&b, fd, CLIENT_IP_NONE);
	run_bulk(&b, CHUNK, 0);
	bench_close(&b);
}

/* One relay with much to do lets others run. */
static void test_turns(void **state)
{
	static uint8_t data[CHUNK];
	unsigned full = 0;
	struct bench b;

	bench_relay(&b, "127.0.0.1");
	while (full < 20) {
		full = send(b.client, data, sizeof(data), MSG_DONTWAIT) > 0 ? 0 : full + 1;
		poll(NULL, 0, 1);
	}
	while (b.worker.counters.bytes[CLIENT] == 0)
		pump(&b, 100);
	assert_true(b.worker.counters.bytes[CLIENT] < 1024 * 1024);
	bench_close(&b);
}

/* A bulk transfer must not wake the worker for every few bytes that a slow reader takes. */
static void test_wakeups_of_bulk(void **state)
{
	struct bench b;
	unsigned before;

	bench_relay(&b, "127.0.0.1");
	before = b.wakeups;
	run_bulk(&b, 9000, 3);
	print_message("bulk of 2 x %u MiB, one reader slow: %u wake-ups\n", BULK_SIZE >> 20,
		      b.wakeups - before);
	assert_true(b.wakeups - before < 2 * BULK_SIZE / 9000);
	bench_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bulk),
		cmocka_unit_test(test_bulk_slow_reader),
		cmocka_unit_test(test_urgent_byte),
		cmocka_unit_test(test_blocked_with_fin_is_quiet),
		cmocka_unit_test(test_blocked_is_quiet),
		cmocka_unit_test(test_blocked_and_reset),
		cmocka_unit_test(test_reset_behind_what_is_on_its_way),
		cmocka_unit_test(test_next_is_clean),
		cmocka_unit_test(test_turns),
		cmocka_unit_test(test_wakeups_of_bulk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
