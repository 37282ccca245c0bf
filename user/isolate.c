// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Gives up rights. The order matters: an empty root directory and another user need capabilities,
 * so those go afterwards; the filter of system calls goes last, since everything before it needs
 * more than it lets through.
 */
#include "isolate.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "ctl.h"
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
	int r = capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_CHROOT) ? root_directory() : 0;

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
		limit.rlim_cur = limit.rlim_max = MIN(limit.rlim_max, all[i].max);
		if (setrlimit(all[i].resource, &limit) < 0)
			return -errno;
	}
	/* Nobody else of that user can read its memory; a change of user has undone the signal. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

static int filter(void)
{
	static const int allowed[] = {
		SCMP_SYS(accept4),
		SCMP_SYS(brk),
		SCMP_SYS(clock_gettime),
		SCMP_SYS(close),
		SCMP_SYS(epoll_ctl),
		SCMP_SYS(epoll_pwait),
		SCMP_SYS(epoll_wait),
		SCMP_SYS(exit),
		SCMP_SYS(exit_group),
		SCMP_SYS(futex),
		SCMP_SYS(getpid),
		SCMP_SYS(getrandom),
		SCMP_SYS(gettimeofday),
		SCMP_SYS(madvise),
		SCMP_SYS(mremap),
		SCMP_SYS(munmap),
		SCMP_SYS(read),
		SCMP_SYS(recvfrom),
		SCMP_SYS(restart_syscall),
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(rt_sigreturn),
		SCMP_SYS(sendto),
		SCMP_SYS(shutdown),
		SCMP_SYS(time),
		SCMP_SYS(write),
	};
	/* Not to make memory executable. */
	static const int memory[] = { SCMP_SYS(mmap), SCMP_SYS(mprotect) };
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(allowed) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(memory) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, memory[i], 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

int isolate_responder(unsigned max_fds, char *error, size_t error_size)
{
	const char *stage = "reading our capabilities";
	int r = capng_get_caps_process() == 0 ? 0 : -EPERM;

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
		r = filter();
	}
	if (r < 0)
		snprintf(error, error_size, "%s: %s", stage, strerror(-r));
	return r;
}

int isolate_resident(char *error, size_t error_size)
{
	static const struct {
		unsigned capability;
		const char *what_for;
	} kept[] = {
		{ CAP_BPF, "load the programs" },
		{ CAP_PERFMON, "let them read kernel structs" },
		{ CAP_NET_ADMIN,
		  "attach them; TCP_REPAIR, IP_TRANSPARENT, policy rules, sock_diag" },
		{ CAP_NET_RAW, "replay on lo" },
		{ CAP_NET_BIND_SERVICE, "source ports of transparent relays" },
		{ CAP_SETUID, "the responder's identity" },
		{ CAP_SETGID, "the same" },
		{ CAP_SYS_CHROOT, "the same" },
		{ CAP_SETPCAP, "its bounding set" },
		{ CAP_KILL, "end it when it hangs" },
	};
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	bool have[ARRAY_SIZE(kept)];
	bool bounds;

	/* Without CAP_SYS_RESOURCE it fails, and matters on old kernels only. */
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	if (capng_get_caps_process() != 0) {
		snprintf(error, error_size, "reading our capabilities failed");
		return -EPERM;
	}
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		have[i] = capng_have_capability(CAPNG_PERMITTED, kept[i].capability);
	bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
	capng_clear(CAPNG_SELECT_ALL);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		if (have[i])
			capng_update(CAPNG_ADD,
				     CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET,
				     kept[i].capability);
	if (capng_apply(bounds ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) != 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		snprintf(error, error_size, "dropping capabilities failed: %s", strerror(errno));
		return -EPERM;
	}
	return 0;
}
