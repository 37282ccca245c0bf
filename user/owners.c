// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which process has a socket. */
#include "owners.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util.h"

#define MAX_NETNS 1024 /* more are not looked into */

static void cleanup_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}
#define _cleanup_dir_ __attribute__((cleanup(cleanup_dir)))

static void read_owner(pid_t pid, struct owner *ret)
{
	char path[64];
	FILE *file;

	*ret = (struct owner){ .pid = pid };
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	file = fopen(path, "re");
	if (!file || !fgets(ret->name, sizeof(ret->name), file))
		strcpy(ret->name, "?");
	if (file)
		fclose(file);
	ret->name[strcspn(ret->name, "\n")] = '\0';
	for (char *p = ret->name; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
}

/* The next process of @proc, or 0. */
static pid_t next_pid(DIR *proc)
{
	struct dirent *entry;

	while ((entry = readdir(proc))) {
		int pid = atoi(entry->d_name);

		if (pid > 0)
			return pid;
	}
	return 0;
}

/* Calls @function with each descriptor of a process: its number, what it is. */
static void for_each_fd(pid_t pid,
			void (*function)(pid_t pid, const char *fd, const char *link, void *ctx),
			void *ctx)
{
	char path[64], link[128];
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);

	_cleanup_dir_ DIR *fds = opendir(path);

	while (fds && (entry = readdir(fds))) {
		ssize_t n = readlinkat(dirfd(fds), entry->d_name, link, sizeof(link) - 1);

		if (n <= 0)
			continue;
		link[n] = '\0';
		function(pid, entry->d_name, link, ctx);
	}
}

struct socket_search {
	const uint64_t *inodes;
	size_t n;
	struct owner *owners;
};

static void see_socket(pid_t pid, const char *fd, const char *link, void *ctx)
{
	struct socket_search *search = ctx;
	unsigned long long inode;

	if (sscanf(link, "socket:[%llu]", &inode) != 1)
		return;
	for (size_t i = 0; i < search->n; i++)
		if (search->inodes[i] == inode && !search->owners[i].pid)
			read_owner(pid, &search->owners[i]);
}

void owners_find(const uint64_t *inodes, size_t n, struct owner *ret_owners)
{
	struct socket_search search = { inodes, n, ret_owners };
	_cleanup_dir_ DIR *proc = opendir("/proc");
	pid_t pid;

	memset(ret_owners, 0, n * sizeof(*ret_owners));
	while (proc && (pid = next_pid(proc)))
		for_each_fd(pid, see_socket, &search);
}

struct link_search {
	uint32_t id;
	struct owner *owner;
};

static void see_link(pid_t pid, const char *fd, const char *link, void *ctx)
{
	struct link_search *search = ctx;
	char path[96], line[128];
	unsigned id;
	FILE *file;

	if (search->owner->pid || !strstr(link, "bpf"))
		return;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.20s", (int)pid, fd);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "link_id: %u", &id) == 1 && id == search->id)
			read_owner(pid, search->owner);
	if (file)
		fclose(file);
}

void owners_of_link(uint32_t id, struct owner *ret_owner)
{
	struct link_search search = { id, ret_owner };
	_cleanup_dir_ DIR *proc = opendir("/proc");
	pid_t pid;

	*ret_owner = (struct owner){};
	while (proc && !ret_owner->pid && (pid = next_pid(proc)))
		for_each_fd(pid, see_link, &search);
}

/* The inode of a socket that listens on @port in the namespace of process @pid; 0: none does. */
static uint64_t listens(pid_t pid, const char *table, uint16_t port)
{
	char path[64], line[512];
	uint64_t found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)pid, table);
	file = fopen(path, "re");
	while (file && !found && fgets(line, sizeof(line), file)) {
		unsigned local_port, state;
		unsigned long long inode;

		/* "sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode" */
		if (sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*u %*u %llu",
			   &local_port, &state, &inode) == 3 &&
		    local_port == port && state == 10 /* LISTEN */)
			found = inode;
	}
	if (file)
		fclose(file);
	return found;
}

void owners_elsewhere(uint16_t port, ino_t netns, struct owner *ret_owner)
{
	_cleanup_free_ ino_t *seen = calloc(MAX_NETNS, sizeof(*seen));
	_cleanup_dir_ DIR *proc = opendir("/proc");
	size_t n_seen = 0;
	pid_t pid;

	*ret_owner = (struct owner){};
	while (seen && proc && n_seen < MAX_NETNS && (pid = next_pid(proc))) {
		char path[64];
		struct stat st;
		size_t i = 0;
		uint64_t inode;

		snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
		if (stat(path, &st) < 0 || st.st_ino == netns)
			continue;
		while (i < n_seen && seen[i] != st.st_ino)
			i++;
		if (i < n_seen)
			continue;
		seen[n_seen++] = st.st_ino;
		inode = listens(pid, "tcp", port);
		if (!inode)
			inode = listens(pid, "tcp6", port);
		if (!inode)
			continue;
		owners_find(&inode, 1, ret_owner);
		if (!ret_owner->pid) /* at least somebody who lives there */
			read_owner(pid, ret_owner);
		return;
	}
}
