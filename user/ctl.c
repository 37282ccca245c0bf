/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The control protocol's text, the paths of socket and lock, the lock itself. */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "util.h"

#define NETNS_DIR "/run/netns" /* of ip-netns(8) */

static bool word_copy(char ret_word[CTL_WORD_MAX + 1], const char *text, size_t len)
{
	if (len == 0 || len > CTL_WORD_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!(text[i] >= 'a' && text[i] <= 'z') && !(text[i] >= '0' && text[i] <= '9') &&
		    text[i] != '-')
			return false;
	memcpy(ret_word, text, len);
	ret_word[len] = '\0';
	return true;
}

static bool has_control_character(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return true;
	return false;
}

int ctl_request_parse(char *text, size_t len, struct ctl_request *ret_request, char *error)
{
	struct ctl_request *request = ret_request;
	char *const end = text + len;
	bool first = true;

	request->n = 0;
	request->uid = (uid_t)-1;
	request->pid = 0;
	for (char *line = text;; first = false) {
		char *newline = memchr(line, '\n', (size_t)(end - line));
		char *equals;

		if (!newline) {
			snprintf(error, CTL_MAX_ERROR, "the request ends before its empty line");
			return -EINVAL;
		}
		if (newline == line && !first)
			return 0;
		*newline = '\0';
		if (has_control_character(line, (size_t)(newline - line))) {
			snprintf(error, CTL_MAX_ERROR, "a control character in the request");
			return -EINVAL;
		}
		if (first) {
			if (!word_copy(request->verb, line, (size_t)(newline - line))) {
				snprintf(error, CTL_MAX_ERROR, "\"%.40s\" is no verb", line);
				return -EINVAL;
			}
			line = newline + 1;
			continue;
		}
		equals = strchr(line, '=');
		if (!equals) {
			snprintf(error, CTL_MAX_ERROR, "\"%.40s\" is not key=value", line);
			return -EINVAL;
		}
		if (request->n == CTL_MAX_PAIRS) {
			snprintf(error, CTL_MAX_ERROR, "more than %d lines in the request",
				 CTL_MAX_PAIRS);
			return -E2BIG;
		}
		if (!word_copy(request->pairs[request->n].key, line, (size_t)(equals - line))) {
			snprintf(error, CTL_MAX_ERROR, "\"%.40s\" has no key of a-z 0-9 -", line);
			return -EINVAL;
		}
		request->pairs[request->n++].value = equals + 1;
		line = newline + 1;
	}
}

const char *ctl_request_get(const struct ctl_request *request, const char *key)
{
	for (size_t i = 0; i < request->n; i++)
		if (strcmp(request->pairs[i].key, key) == 0)
			return request->pairs[i].value;
	return NULL;
}

void ctl_message_init(struct ctl_message *message, const char *verb)
{
	message->len = (size_t)snprintf(message->text, sizeof(message->text), "%.*s\n",
					CTL_WORD_MAX, verb);
}

int ctl_message_add(struct ctl_message *message, const char *key, const char *value)
{
	size_t need = strlen(key) + 1 + strlen(value) + 1;

	if (has_control_character(value, strlen(value)))
		return -EINVAL;
	if (need + 1 > sizeof(message->text) - message->len) /* 1: the empty line */
		return -E2BIG;
	message->len +=
		(size_t)snprintf(message->text + message->len, need + 1, "%s=%s\n", key, value);
	return 0;
}

void ctl_message_end(struct ctl_message *message)
{
	message->text[message->len++] = '\n';
}

int ctl_netns(const char *netns, ino_t *ret_inode, char ret_path[PATH_MAX], char *error)
{
	const char *shown = netns ? netns : "this process";
	_cleanup_close_ int fd = -1;
	struct statfs fs;
	struct stat st;
	int n;

	if (!netns)
		n = snprintf(ret_path, PATH_MAX, "/proc/self/ns/net");
	else if (*netns && strspn(netns, "0123456789") == strlen(netns))
		n = snprintf(ret_path, PATH_MAX, "/proc/%s/ns/net", netns);
	else if (netns[0] == '/')
		n = snprintf(ret_path, PATH_MAX, "%s", netns);
	else if (*netns && netns[0] != '.' && !strchr(netns, '/'))
		n = snprintf(ret_path, PATH_MAX, NETNS_DIR "/%s", netns);
	else {
		snprintf(error, CTL_MAX_ERROR,
			 "netns: \"%.80s\" is neither a pid, nor a name as `ip netns` has them, nor "
			 "an absolute path",
			 netns);
		return -EINVAL;
	}
	if (n >= PATH_MAX) {
		snprintf(error, CTL_MAX_ERROR, "netns: the path is too long");
		return -ENAMETOOLONG;
	}

	/* NONBLOCK: a path to a FIFO must not hang us. */
	fd = open(ret_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0) {
		int r = -errno;

		snprintf(error, CTL_MAX_ERROR,
			 "netns: can't look at the network namespace of %.200s: %s", shown,
			 strerror(-r));
		return r;
	}
	if (fs.f_type != NSFS_MAGIC || ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET) {
		snprintf(error, CTL_MAX_ERROR, "netns: %.200s is no network namespace", shown);
		return -EINVAL;
	}
	*ret_inode = st.st_ino;
	return 0;
}

int ctl_path(ino_t netns_inode, char ret_path[CTL_PATH_MAX])
{
	int n = snprintf(ret_path, CTL_PATH_MAX, CTL_DIR "/%ju.sock", (uintmax_t)netns_inode);

	return n < (int)CTL_PATH_MAX ? 0 : -ENAMETOOLONG;
}

static void lock_path(ino_t netns_inode, char ret_path[CTL_PATH_MAX])
{
	snprintf(ret_path, CTL_PATH_MAX, CTL_DIR "/%ju.lock", (uintmax_t)netns_inode);
}

int ctl_lock_file(const char *path, int *ret_fd)
{
	/* Again when the file was removed by its last holder between our open() and our flock(). */
	for (;;) {
		_cleanup_close_ int fd = -1;
		struct stat st;

		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EBUSY : -errno;
		if (fstat(fd, &st) < 0)
			return -errno;
		if (st.st_nlink == 0)
			continue;
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
}

void ctl_unlock_file(const char *path, int fd)
{
	/* In this order: a file that is removed while it is locked can't be another's lock. */
	unlink(path);
	close(fd);
}

int ctl_lock(ino_t netns_inode, int *ret_fd)
{
	char path[CTL_PATH_MAX];

	lock_path(netns_inode, path);
	if (mkdir(CTL_DIR, 0755) == 0)
		chmod(CTL_DIR, 0755); /* whatever the umask is: the group must get through */
	else if (errno != EEXIST)
		return -errno;
	return ctl_lock_file(path, ret_fd);
}

void ctl_unlock(ino_t netns_inode, int fd)
{
	char path[CTL_PATH_MAX];

	lock_path(netns_inode, path);
	ctl_unlock_file(path, fd);
}

void ctl_ready(int fd, const char *word, int null_fd)
{
	/* A parent that is gone needs no word. */
	if (write(fd, word, strlen(word)) < 0)
		errno = 0;
	close(fd);
	if (strcmp(word, CTL_READY) == 0)
		dup2(null_fd, STDERR_FILENO);
}
