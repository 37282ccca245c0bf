/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A command's end of the control socket; starts the resident process when there is none. Blocks. */
#ifndef CTL_CLIENT_H
#define CTL_CLIENT_H

#include "ctl.h"

/* How long an answer may take. `close` waits for what is in the accept queues. */
#define CTL_OPEN_TIMEOUT_MS   30000
#define CTL_CLOSE_TIMEOUT_MS  30000
#define CTL_STATUS_TIMEOUT_MS 5000
#define CTL_NO_TIMEOUT	      UINT_MAX /* until there is an answer, or nobody to give one */

struct ctl_client {
	char path[CTL_PATH_MAX]; /* of the socket */
	ino_t netns_inode;
	bool has_netns;		   /* the user named a network namespace */
	char netns_path[PATH_MAX]; /* where to open it */
	/* For a resident process that is started. */
	unsigned workers;	/* 0: its default */
	const char *log_format; /* a name of it; NULL: its default */
	bool log_visitors;
};

struct ctl_answer {
	char *lines;	/* data lines, each with its newline; owned */
	pid_t peer_pid; /* the resident process; 0: not seen from here */
};

/* @netns as the user gave it, or NULL. 0, or -errno with one line in @error (CTL_MAX_ERROR bytes).
 */
int ctl_client_init(struct ctl_client *client, const char *netns, char *error);

/*
 * Sends @message and waits for the whole answer, @timeout_ms at most. A resident process that is
 * just leaving or coming is asked again for up to 5 s, so a request must be one that may be
 * repeated.
 * @start: start a resident process when there is none.
 *
 * Returns 0 when the answer's last line is "ok"; -ENOENT: there is no resident process (and not
 * @start); -EREMOTEIO: it answered an error; -EACCES, -ETIMEDOUT, or another -errno. All but 0
 * leave one line in @error (CTL_MAX_ERROR bytes). Free @ret_answer after 0 only.
 */
int ctl_client_call(const struct ctl_client *client, const struct ctl_message *message, bool start,
		    unsigned timeout_ms, struct ctl_answer *ret_answer, char *error);

void ctl_answer_free(struct ctl_answer *answer);

/*
 * Starts the resident process (`serve --on-demand`), detached from us in every way, and returns
 * when its socket answers: 0; -EBUSY when another one has the lock; else -errno with one line in
 * @error. What it warned of meanwhile is logged.
 */
int ctl_client_start(const struct ctl_client *client, char *error);

/*
 * One exchange, no second try. 0: answered; @error is then "" after "ok", else what came after
 * "error: ". -ENOENT, -ECONNREFUSED: nobody listens. -ECONNRESET: the answer had no last line.
 */
int ctl_client_exchange(const char *path, const struct ctl_message *message, unsigned timeout_ms,
			struct ctl_answer *ret_answer, char *error);

#endif
