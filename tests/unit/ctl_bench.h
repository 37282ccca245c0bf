/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A control socket in a directory of the test's own, and a handler that tells what it was asked. */
#ifndef CTL_BENCH_H
#define CTL_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ctl_client.h"
#include "ctl_server.h"
#include "util.h"

#define BIG (2 << 20)

static char dir[] = "/tmp/test_ctl.XXXXXX";
static char sock_path[CTL_PATH_MAX];

/* What the handler got last, and what it does with it. */
static struct {
	unsigned calls;
	struct ctl_request request;
	char values[CTL_MAX_PAIRS][64];
	struct ctl_conn *kept; /* by the verb "wait" */
	bool leave;
} seen;

static inline void handler(void *ctx, struct ctl_conn *conn, const struct ctl_request *request)
{
	assert_ptr_equal(ctx, &seen);
	seen.calls++;
	seen.request = *request;
	for (size_t i = 0; i < request->n; i++)
		snprintf(seen.values[i], sizeof(seen.values[i]), "%s", request->pairs[i].value);
	if (strcmp(request->verb, "wait") == 0) {
		seen.kept = conn;
	} else if (strcmp(request->verb, "big") == 0) {
		char *text = malloc(BIG + 1);

		memset(text, 'b', BIG);
		text[BIG] = '\0';
		ctl_reply_line(conn, "%s", text);
		ctl_reply_line(conn, "after");
		if (ctl_request_get(request, "thrice")) {
			ctl_reply_line(conn, "%s", text);
			ctl_reply_line(conn, "%s", text);
		}
		ctl_reply_ok(conn);
		free(text);
	} else if (strcmp(request->verb, "fail") == 0) {
		ctl_reply_error(conn, "no %s\nfor you", "steam");
	} else if (strcmp(request->verb, "whoami") == 0) {
		char cwd[64] = "?";

		ctl_reply_line(conn, "cwd %s", getcwd(cwd, sizeof(cwd)));
		ctl_reply_line(conn, "leads %d", getsid(0) == getpid());
		ctl_reply_line(conn, "sid %d", (int)getsid(0));
		ctl_reply_line(conn, "stderr %zd", write(STDERR_FILENO, "to nobody\n", 10));
		ctl_reply_line(conn, "secret %s", getenv("TEST_SECRET") ? "kept" : "gone");
		ctl_reply_line(conn, "hup %s",
			       signal(SIGHUP, SIG_DFL) == SIG_IGN ? "ignored" : "default");
		ctl_reply_ok(conn);
	} else {
		if (strcmp(request->verb, "leave") == 0)
			seen.leave = true;
		ctl_reply_line(conn, "line %s", "one\ntwo");
		ctl_reply_ok(conn);
	}
}

static inline struct ctl_server *new_server(void)
{
	struct ctl_server *server = NULL;

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(ctl_server_new(sock_path, handler, &seen, &server), 0);
	return server;
}

static inline int set_up(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(sock_path, sizeof(sock_path), "%s/a.sock", dir);
	return 0;
}

static inline int tear_down(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

#endif
