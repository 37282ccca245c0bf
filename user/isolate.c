// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Gives up rights. The order matters: an empty root directory and another user need capabilities,
 * so those go afterwards; the filter of system calls (filter.c) goes last, since everything before
 * it needs more than it lets through.
 */
#include "isolate.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "ctl.h"
#include "filter.h"
#include "sanitizer.h"
#include "util.h"

#define NOBODY	   65534
#define MEMORY_MAX (UINT64_C(512) << 20) /* address space; a thousand handshakes take a tenth */

/* An empty directory that is gone: nothing can be made in it, by nobody. */
static int root_directory(void)
{
	char paths[][64] = { CTL_DIR "/.XXXXXX", "/tmp/acme-steer.XXXXXX" };
	int r = -ENOENT;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (!mkdtemp(paths[i])) {
			r = -errno;
			continue;
		}
		r = chdir(paths[i]) < 0 ? -errno : 0;
		if (rmdir(paths[i]) < 0 && r == 0)
			r = -errno;
		if (r == 0 && chroot(".") < 0)
			r = -errno;
		return r;
	}
	return r;
}

/* A service manager may have left us root without these: then root's files are kept away by the
 * filter alone. */
static int identity(void)
{
	/* LeakSanitizer looks at /proc. */
	bool chroots = !SANITIZED && capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_CHROOT);
	int r = chroots ? root_directory() : 0;

	if (r < 0)
		return r;
	if (!capng_have_capability(CAPNG_EFFECTIVE, CAP_SETUID) ||
	    !capng_have_capability(CAPNG_EFFECTIVE, CAP_SETGID))
		return 0;
	if (setgroups(0, NULL) < 0 && errno != EPERM) /* EPERM: a user namespace that denies it */
		return -errno;
	/* EINVAL: a user namespace without this id. */
	if ((setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0) &&
	    errno != EINVAL)
		return -errno;
	return 0;
}

static int bounding_set(void)
{
	if (!capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP))
		return 0;
	capng_clear(CAPNG_SELECT_BOUNDS);
	return capng_apply(CAPNG_SELECT_BOUNDS) == 0 ? 0 : -EPERM;
}

static int capabilities(void)
{
	capng_clear(CAPNG_SELECT_ALL);
	if (capng_apply(CAPNG_SELECT_CAPS) != 0)
		return -EPERM;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	capng_get_caps_process();
	return capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE ? 0 : -EPERM;
}

static int limits(unsigned max_fds)
{
	const struct {
		__rlimit_resource_t resource;
		rlim_t max;
	} all[] = {
		{ RLIMIT_NOFILE, max_fds }, { RLIMIT_AS, MEMORY_MAX }, { RLIMIT_NPROC, 0 },
		{ RLIMIT_CORE, 0 },	    { RLIMIT_FSIZE, 0 },       { RLIMIT_MEMLOCK, 0 },
		{ RLIMIT_MSGQUEUE, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct rlimit limit;

		if (getrlimit(all[i].resource, &limit) < 0)
			return -errno;
		/* A sanitizer maps terabytes, writes a report, and clones a process. */
		if (SANITIZED && (all[i].resource == RLIMIT_AS || all[i].resource == RLIMIT_FSIZE ||
				  all[i].resource == RLIMIT_NPROC))
			continue;
		limit.rlim_cur = limit.rlim_max = MIN(limit.rlim_max, all[i].max);
		if (setrlimit(all[i].resource, &limit) < 0)
			return -errno;
	}
	/* Nobody else of that user can read its memory; a change of user has undone the signal. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

int isolate_responder(unsigned max_fds, char *error, size_t error_size)
{
	const char *stage = "reading our capabilities";
	int r = capng_get_caps_process() == 0 ? 0 : -EPERM;

	sanitizer_open_report();
	if (r == 0) {
		stage = "dropping capabilities for good";
		r = bounding_set();
	}
	if (r == 0) {
		stage = "becoming another user in an empty root directory";
		r = identity();
	}
	if (r == 0) {
		stage = "dropping capabilities";
		r = capabilities();
	}
	if (r == 0) {
		stage = "setting limits";
		r = limits(max_fds);
	}
	if (r == 0) {
		stage = "filtering system calls";
		r = filter_responder();
	}
	if (r < 0)
		snprintf(error, error_size, "%s: %s", stage, strerror(-r));
	return r;
}

int isolate_surroundings(int ready_fd)
{
	static const char *const known[] = {
		"NOTIFY_SOCKET=",
		"WATCHDOG_USEC=",
		"WATCHDOG_PID=",
#if SANITIZED
		"ASAN_OPTIONS=",
		"UBSAN_OPTIONS=",
		"LSAN_OPTIONS=",
#endif
	};
	static char *kept[ARRAY_SIZE(known) + 1];
	size_t n = 0;
	int r = 0;

	/* The first of a name, as getenv() would find it. */
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		char **p = environ;

		while (*p && strncmp(*p, known[i], strlen(known[i])) != 0)
			p++;
		if (*p)
			kept[n++] = *p;
	}
	environ = kept;
	umask(077);
	if (chdir("/") < 0)
		return -errno;
	if (ready_fd > STDERR_FILENO + 1)
		r = close_range(STDERR_FILENO + 1, (unsigned)ready_fd - 1, 0);
	if (r == 0)
		r = close_range((unsigned)MAX(ready_fd, STDERR_FILENO) + 1, ~0U, 0);
	return r < 0 ? -errno : 0;
}

/* Keeps of @kept what we have, and nothing else, now and for good. */
static int keep_capabilities(const int *kept, size_t n)
{
	unsigned all = CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET;
	bool bounds, have[CAP_LAST_CAP + 1] = {};

	if (capng_get_caps_process() != 0)
		return -EPERM;
	for (size_t i = 0; i < n; i++)
		have[kept[i]] = capng_have_capability(CAPNG_PERMITTED, (unsigned)kept[i]);
	bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
	/* Ambient ones can't outlive the inheritable ones, which are empty afterwards. */
	capng_clear(CAPNG_SELECT_ALL);
	for (int i = 0; i <= CAP_LAST_CAP; i++)
		if (have[i])
			capng_update(CAPNG_ADD, (capng_type_t)all, (unsigned)i);
	if (capng_apply(bounds ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) != 0)
		return -EPERM;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return -errno;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

static int set_limit(__rlimit_resource_t resource, rlim_t max)
{
	const struct rlimit limit = { max, max };

	return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

int isolate_starter(char *error, size_t error_size)
{
	static const int kept[] = {
		CAP_SETUID,  CAP_SETGID, CAP_SYS_CHROOT, /* a responder's identity */
		CAP_SETPCAP,				 /* its bounding set, and ours */
		CAP_KILL,				 /* end it: it is another user's */
	};
	const char *stage = "dropping capabilities of the starter";
	int r = keep_capabilities(kept, ARRAY_SIZE(kept));

	if (r == 0) {
		stage = "setting the starter's limits";
		r = set_limit(RLIMIT_CORE, 0);
	}
	if (r == 0) {
		stage = "filtering the starter's system calls";
		r = filter_starter();
	}
	if (r < 0)
		snprintf(error, error_size, "%s: %s", stage, strerror(-r));
	return r;
}

int isolate_resident(char *error, size_t error_size)
{
	static const int kept[] = {
		CAP_BPF,	      /* load the programs, when a window opens */
		CAP_PERFMON,	      /* that read kernel structs */
		CAP_NET_ADMIN,	      /* attach them; TCP_REPAIR, IP_TRANSPARENT, policy rules */
		CAP_NET_RAW,	      /* replay on lo */
		CAP_NET_BIND_SERVICE, /* transparent relays, from ports that clients don't use */
	};
	const char *stage = "dropping capabilities";
	int r;

	sanitizer_open_report();
	/* Without CAP_SYS_RESOURCE it fails, and matters on old kernels only. */
	set_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
	r = keep_capabilities(kept, ARRAY_SIZE(kept));
	if (r == 0) {
		stage = "setting limits";
		r = set_limit(RLIMIT_CORE, 0);
	}
	if (r == 0)
		r = set_limit(RLIMIT_MSGQUEUE, 0);
	/* No other process without CAP_SYS_PTRACE looks into it, or ties itself to it. */
	if (r == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		r = -errno;
	if (r == 0) {
		stage = "filtering system calls";
		r = filter_resident();
	}
	if (r < 0)
		snprintf(error, error_size, "%s: %s", stage, strerror(-r));
	return r;
}
