/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: conn_log.c log.c lazy.c log_record.c addr.c
/* Lines for steered connections: which have one, what it says, and how many strangers can provoke.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "conn_log.h"
#include "util.h"

#define NOW (7 * NSEC_PER_SEC)

static struct endpoint peer, local, responder;
static struct conn_log conn_log_state;
static int saved_stderr, log_file;
static char text[CONN_LOG_BURST * 256];

static struct conn_entry entry(void)
{
	return (struct conn_entry){
		.outcome = OUTCOME_HANDED_OFF,
		.acme = true,
		.to_responder = true,
		.window = "blog",
		.name = "www.example.org",
		.peer = &peer,
		.local = &local,
		.target = &responder,
	};
}

/* What has been logged since the last call. */
static const char *logged(void)
{
	ssize_t n = pread(log_file, text, sizeof(text) - 1, 0);

	assert_true(n >= 0 && (size_t)n < sizeof(text) - 1);
	text[n] = '\0';
	assert_int_equal(ftruncate(log_file, 0), 0);
	return text;
}

static unsigned count_lines(const char *lines)
{
	unsigned n = 0;

	for (; *lines; lines++)
		n += *lines == '\n';
	return n;
}

static int setup(void **state)
{
	char path[] = "/tmp/test_conn_log.XXXXXX";

	endpoint_parse("198.51.100.16:41234", 0, &peer);
	endpoint_parse("198.51.100.1:443", 0, &local);
	endpoint_parse("127.0.0.1:31443", 0, &responder);
	memset(&conn_log_state, 0, sizeof(conn_log_state));
	conn_log_set_visitors(false);
	log_file = mkstemp(path);
	unlink(path);
	fcntl(log_file, F_SETFL, O_APPEND);
	saved_stderr = dup(STDERR_FILENO);
	return log_file < 0 || saved_stderr < 0 || dup2(log_file, STDERR_FILENO) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(log_file);
	return 0;
}

static const char *line_of(const struct conn_entry *one)
{
	assert_true(conn_log(&conn_log_state, one, NOW));
	return logged();
}

static void test_lines(void **state)
{
	struct conn_entry one = entry();

	assert_string_equal(line_of(&one),
			    "acme-steer: challenge for www.example.org from 198.51.100.16:41234: "
			    "handed off to the responder 127.0.0.1:31443\n");
	one.outcome = OUTCOME_RELAYED;
	one.relay_reason = "a reason";
	assert_string_equal(line_of(&one),
			    "acme-steer: challenge for www.example.org from 198.51.100.16:41234: "
			    "relayed to the responder 127.0.0.1:31443 (a reason)\n");
	one.to_responder = false;
	one.responder_down = true;
	one.target = &local;
	assert_string_equal(line_of(&one),
			    "acme-steer: challenge for www.example.org from 198.51.100.16:41234: "
			    "relayed to the web server 198.51.100.1:443 (the responder does not "
			    "answer)\n");
	one.responder_down = false;
	one.outcome = OUTCOME_RESET;
	one.name = NULL;
	assert_string_equal(line_of(&one),
			    "acme-steer: challenge for no name from 198.51.100.16:41234: "
			    "reset, it could not be given to the web server 198.51.100.1:443 (no "
			    "window wants it)\n");
	one.outcome = OUTCOME_CLIENT_GONE;
	one.to_responder = true;
	one.target = &responder;
	assert_non_null(
		strstr(line_of(&one), "went away before it could be given to the responder"));
	one.outcome = OUTCOME_LOST;
	assert_non_null(strstr(line_of(&one), "given up in a hand-off to the responder"));
}

static void test_visitors(void **state)
{
	struct conn_entry one = entry();

	one.acme = one.to_responder = false;
	one.target = &local;
	assert_string_equal(line_of(&one), "");
	conn_log_set_visitors(true);
	assert_string_equal(line_of(&one),
			    "acme-steer: visitor for www.example.org from 198.51.100.16:41234: "
			    "handed off to the web server 198.51.100.1:443\n");
}

/* What is left out is counted, and said with the next line there is. */
static void test_limit(void **state)
{
	const struct conn_entry one = entry();
	unsigned unsaid = 0;

	for (unsigned i = 0; i < CONN_LOG_BURST + 321; i++)
		unsaid += !conn_log(&conn_log_state, &one, NOW + i);
	assert_int_equal(unsaid, 321);
	assert_int_equal(count_lines(logged()), CONN_LOG_BURST);
	assert_true(conn_log(&conn_log_state, &one, NOW + CONN_LOG_INTERVAL_NS));
	assert_int_equal(count_lines(logged()), 2);
	assert_memory_equal(text, "acme-steer: 321 connections have no line here", 45);
	assert_true(conn_log(&conn_log_state, &one, NOW + CONN_LOG_INTERVAL_NS + 1));
	assert_int_equal(count_lines(logged()), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
		cmocka_unit_test_setup_teardown(test_visitors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
