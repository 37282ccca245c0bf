/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The control protocol, as both ends know it: where the socket is, what a request looks like,
 *limits.
 *
 * One conversation per connection, in text that socat can speak:
 *
 *	open			verb
 *	name=default		key=value, any number, a key may come again
 *	ttl=600
 *				an empty line ends the request
 *
 *	opened			data lines
 *	ok			or "error: TEXT", the last line; then EOF
 */
#ifndef CTL_H
#define CTL_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "limit.h"

#define CTL_DIR	  "/run/acme-steer"
#define CTL_GROUP "acme-steer" /* its members may control; need not exist */

#define CTL_MAX_ERROR 512 /* bytes of an error's text and its NUL */
#define CTL_WORD_MAX  31  /* bytes of a verb or a key: [a-z0-9-] */
#define CTL_PATH_MAX  sizeof(((struct sockaddr_un *)0)->sun_path)

struct ctl_request {
	char verb[CTL_WORD_MAX + 1];
	size_t n;
	struct {
		char key[CTL_WORD_MAX + 1];
		char *value; /* points into the text given to ctl_request_parse() */
	} pairs[CTL_MAX_PAIRS];
	uid_t uid; /* of the peer, when it connected */
	pid_t pid; /* 0 when the peer is in a pid namespace that we don't see */
};

/*
 * Reads the text of one request up to its empty line; cuts @text (@len bytes) into strings.
 * Returns 0, or -EINVAL / -E2BIG with one line in @error (CTL_MAX_ERROR bytes). Sets neither uid
 * nor pid.
 */
int ctl_request_parse(char *text, size_t len, struct ctl_request *ret_request, char *error);

/* The first value of @key; NULL when the request has none. */
const char *ctl_request_get(const struct ctl_request *request, const char *key);

/* A request being written. */
struct ctl_message {
	size_t len;
	char text[CTL_MAX_REQUEST];
};

void ctl_message_init(struct ctl_message *message, const char *verb);
/* Adds a line. Returns 0, -EINVAL for a value with a control character, -E2BIG when it is full. */
int ctl_message_add(struct ctl_message *message, const char *key, const char *value);
/* Adds the empty line; always fits. */
void ctl_message_end(struct ctl_message *message);

/*
 * The network namespace that a user means by @netns: a pid, a name in /run/netns, an absolute
 * path, or NULL for our own. Gives its inode, which names socket and lock, and where to open it
 * (@ret_path, absolute). A name of digits only is a pid.
 * Returns 0, or -errno with one line in @error (CTL_MAX_ERROR bytes).
 */
int ctl_netns(const char *netns, ino_t *ret_inode, char ret_path[PATH_MAX], char *error);

/* Path of the control socket for a network namespace. */
int ctl_path(ino_t netns_inode, char ret_path[CTL_PATH_MAX]);

/*
 * Takes the lock that only one resident process per network namespace has; made in CTL_DIR, which
 * is made as well. The kernel lets go of it when the process ends, however it ends.
 * Returns 0, -EBUSY when another process has it, or -errno.
 */
int ctl_lock(ino_t netns_inode, int *ret_fd);
/* Lets go of it and removes its file. */
void ctl_unlock(ino_t netns_inode, int fd);

/* The same for a path of one's own. */
int ctl_lock_file(const char *path, int *ret_fd);
void ctl_unlock_file(const char *path, int fd);

/*
 * For the resident process that ctl_client_start() started: tells it through --ready-fd that the
 * socket answers (CTL_READY), or that another process has the lock (CTL_BUSY), and closes @fd.
 * After CTL_READY stderr, which was the parent's pipe, is @null_fd, an open /dev/null that stays
 * the caller's: call log_to_daemon(). SIGPIPE is to be ignored. What goes wrong otherwise is
 * written to stderr, before exit.
 */
#define CTL_READY "ready\n"
#define CTL_BUSY  "busy\n"
void ctl_ready(int fd, const char *word, int null_fd);

/* An answer's last line, in place of "ok": ask whoever comes after this process. */
#define CTL_STOPPING "stopping"

#endif
