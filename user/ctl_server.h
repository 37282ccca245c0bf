/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The resident process's end of the control socket. One thread, nothing here ever blocks. */
#ifndef CTL_SERVER_H
#define CTL_SERVER_H

#include "ctl.h"

struct ctl_server;
struct ctl_conn;

/*
 * A request has come whole. @request is valid until the handler returns. The handler, or somebody
 * later, ends the answer by one ctl_reply_ok() or ctl_reply_error(); until then @conn is theirs and
 * stays valid, even when the peer goes away (what is replied then is dropped).
 */
typedef void (*ctl_handler)(void *ctx, struct ctl_conn *conn, const struct ctl_request *request);

/*
 * Listens at @path; makes its directory and removes the socket that a killed process left there, so
 * the caller must hold ctl_lock(). Peers may talk when they are root, have our uid, or are in the
 * socket's group: CTL_GROUP if it exists, else ours.
 */
int ctl_server_new(const char *path, ctl_handler handler, void *ctx,
		   struct ctl_server **ret_server);

/* Readable (for poll or epoll, level-triggered) when ctl_server_dispatch() has something to do. */
int ctl_server_fd(const struct ctl_server *server);

/* Does what there is to do, in bounded steps; calls the handler. */
void ctl_server_dispatch(struct ctl_server *server);

/* Removes the socket and takes no more conversations; those under way go on. */
void ctl_server_stop_listening(struct ctl_server *server);

/* Conversations are under way. */
bool ctl_server_busy(const struct ctl_server *server);

/* Ends everything. No ctl_conn may be used afterwards. NULL is fine. Not from the handler. */
void ctl_server_free(struct ctl_server *server);

/* The peer has gone away: nobody waits for the answer, which must be given all the same. */
bool ctl_conn_is_gone(const struct ctl_conn *conn);

/* One data line; a newline in it becomes a space. */
void ctl_reply_line(struct ctl_conn *conn, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The last line. @conn must not be used afterwards. */
void ctl_reply_ok(struct ctl_conn *conn);
void ctl_reply_error(struct ctl_conn *conn, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* This process is being stopped: the client asks again, for some seconds, whoever comes after it.
 */
void ctl_reply_stopping(struct ctl_conn *conn);

#endif
