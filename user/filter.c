// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Filters of system calls. Only the architecture's own calls: any of another ABI (32-bit, x32) ends
 * the process.
 */
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sanitizer.h"
#include "util.h"

/* What each of them needs: memory, time, its end. */
static const int basic[] = {
	SCMP_SYS(brk),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(close),
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
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_wait),
	SCMP_SYS(accept4),
};

/* Serving TLS needs no more than that. */

/* The starter's own, and then: the dynamic linker, OpenSSL, isolate_responder(). */
static const int starter[] = {
	SCMP_SYS(clone3),
	SCMP_SYS(dup2),
	SCMP_SYS(dup3),
	SCMP_SYS(execveat),
	SCMP_SYS(close_range),
	SCMP_SYS(pidfd_send_signal),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(prctl),
	SCMP_SYS(seccomp),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(fcntl),
	SCMP_SYS(wait4),
	SCMP_SYS(access),
	SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2),
	SCMP_SYS(arch_prctl),
	SCMP_SYS(capget),
	SCMP_SYS(capset),
	SCMP_SYS(chdir),
	SCMP_SYS(chroot),
	SCMP_SYS(mkdir),
	SCMP_SYS(mkdirat),
	SCMP_SYS(rmdir),
	SCMP_SYS(unlinkat),
	SCMP_SYS(epoll_create1),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(statfs),
	SCMP_SYS(fstatfs),
	SCMP_SYS(statx),
	SCMP_SYS(getcwd),
	SCMP_SYS(getdents64),
	SCMP_SYS(geteuid),
	SCMP_SYS(getegid),
	SCMP_SYS(getgid),
	SCMP_SYS(getuid),
	SCMP_SYS(getppid),
	SCMP_SYS(gettid),
	SCMP_SYS(getrlimit),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(getsockname),
	SCMP_SYS(ioctl),
	SCMP_SYS(lseek),
	SCMP_SYS(open),
	SCMP_SYS(mmap),
	SCMP_SYS(mprotect),
	SCMP_SYS(pread64),
	SCMP_SYS(prlimit64),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(set_tid_address),
	SCMP_SYS(setgroups),
	SCMP_SYS(setresgid),
	SCMP_SYS(setresuid),

	SCMP_SYS(sysinfo),
	SCMP_SYS(uname),
	SCMP_SYS(openat),
};

static const int resident[] = {
	SCMP_SYS(access),
	SCMP_SYS(bind),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(connect),
	SCMP_SYS(dup),
	SCMP_SYS(dup2),
	SCMP_SYS(dup3),
	SCMP_SYS(epoll_create1),
	SCMP_SYS(epoll_pwait2),
	SCMP_SYS(eventfd2),
	SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2),
	SCMP_SYS(fcntl),
	SCMP_SYS(fstat),
	SCMP_SYS(fstatfs),
	SCMP_SYS(getdents64),
	SCMP_SYS(getegid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getpeername),
	SCMP_SYS(getppid),
	SCMP_SYS(getrlimit),
	SCMP_SYS(getsockname),
	SCMP_SYS(getsockopt),
	SCMP_SYS(gettid),
	SCMP_SYS(getuid),
	SCMP_SYS(listen),
	SCMP_SYS(lseek),
	SCMP_SYS(nanosleep),
	SCMP_SYS(newfstatat),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(pread64),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(recvmsg),
	SCMP_SYS(rseq),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sendmsg),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(setsockopt),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(statfs),
	SCMP_SYS(statx),
	SCMP_SYS(sysinfo),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(uname),
	SCMP_SYS(unlink),
	SCMP_SYS(unlinkat),
	SCMP_SYS(wait4),
	SCMP_SYS(writev),
};

/* Nothing of ours, or of a library's, ever comes here. */
static const int deadly[] = {
	SCMP_SYS(chroot),
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(fork),
	SCMP_SYS(finit_module),
	SCMP_SYS(init_module),
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(mount),
	SCMP_SYS(move_mount),
	SCMP_SYS(open_tree),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(pivot_root),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
#if !SANITIZED /* allow_sanitizer() */
	SCMP_SYS(ptrace),
#endif
	SCMP_SYS(setns),
	SCMP_SYS(umount2),
	SCMP_SYS(unshare),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(vfork),
};

/*
 * Of bpf(2). Not there: pinning, and getting at what others have loaded, but for types: kernel
 * functions that vmlinux has not, libbpf looks for in modules (load_module_btfs()).
 */
static const int bpf_commands[] = {
	BPF_MAP_CREATE,		 BPF_MAP_LOOKUP_ELEM,
	BPF_MAP_UPDATE_ELEM,	 BPF_MAP_DELETE_ELEM,
	BPF_MAP_GET_NEXT_KEY,	 BPF_PROG_LOAD,
	BPF_PROG_TEST_RUN,	 BPF_OBJ_GET_INFO_BY_FD,
	BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD,
	BPF_MAP_LOOKUP_BATCH,	 BPF_MAP_LOOKUP_AND_DELETE_ELEM,
	BPF_MAP_DELETE_BATCH,	 BPF_MAP_LOOKUP_AND_DELETE_BATCH,
	BPF_LINK_CREATE,	 BPF_PROG_BIND_MAP,
	BPF_MAP_FREEZE,		 BPF_BTF_GET_NEXT_ID,
	BPF_BTF_GET_FD_BY_ID,
};

/* About devices. */
static const int ioctls[] = { SIOCGIFINDEX, SIOCGIFNAME, SIOCGIFMTU, SIOCGIFHWADDR };

static const int families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK };

/* Of this process and its threads alone. */
static const int prctl_options[] = { PR_SET_TIMERSLACK, PR_SET_NAME, PR_GET_DUMPABLE };

static int allow(scmp_filter_ctx ctx, const int *calls, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	return r;
}

/* A call whose argument @index has one of these values. */
static int allow_values(scmp_filter_ctx ctx, int call, unsigned index, const int *values, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1,
				     SCMP_CMP(index, SCMP_CMP_EQ, (scmp_datum_t)values[i]));
	return r;
}

/* A call whose argument @index has none of these bits. */
static int allow_without(scmp_filter_ctx ctx, int call, unsigned index, scmp_datum_t bits)
{
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1,
				SCMP_CMP(index, SCMP_CMP_MASKED_EQ, bits, 0));
}

/* Not to make memory executable. */
static int allow_memory(scmp_filter_ctx ctx)
{
	int r = allow_without(ctx, SCMP_SYS(mmap), 2, PROT_EXEC);

	return r ? r : allow_without(ctx, SCMP_SYS(mprotect), 2, PROT_EXEC);
}

/* To read only. */
static int allow_open(scmp_filter_ctx ctx)
{
	const scmp_datum_t writing = O_ACCMODE | O_CREAT | O_TRUNC;
	int r = allow_without(ctx, SCMP_SYS(openat), 2, writing);

	return r ? r : allow_without(ctx, SCMP_SYS(open), 1, writing);
}

/* Threads, no processes. */
static int allow_threads(scmp_filter_ctx ctx)
{
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				 SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));

	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
	/* filter_clone3() refuses it. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone3), 0);
	return r;
}

/*
 * What a release never may. LeakSanitizer clones a process that stops all threads by ptrace(2) and
 * reads their registers; a report tells what is mapped where.
 */
static int allow_sanitizer(scmp_filter_ctx ctx)
{
#if SANITIZED
	static const int calls[] = {
		SCMP_SYS(clone),       SCMP_SYS(fstat),	      SCMP_SYS(getdents),
		SCMP_SYS(getppid),     SCMP_SYS(gettid),      SCMP_SYS(ioctl),
		SCMP_SYS(lseek),       SCMP_SYS(newfstatat),  SCMP_SYS(open),
		SCMP_SYS(openat),      SCMP_SYS(prctl),	      SCMP_SYS(prlimit64),
		SCMP_SYS(ptrace),      SCMP_SYS(readlink),    SCMP_SYS(rt_sigaction),
		SCMP_SYS(sched_yield), SCMP_SYS(sigaltstack), SCMP_SYS(wait4),
	};

	return allow(ctx, calls, ARRAY_SIZE(calls));
#else
	return 0;
#endif
}

static int load(scmp_filter_ctx ctx, int r)
{
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

int filter_responder(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = ctx ? allow(ctx, basic, ARRAY_SIZE(basic)) : -ENOMEM;

	if (r == 0)
		r = allow_memory(ctx);
	if (r == 0)
		r = allow_sanitizer(ctx);
	return load(ctx, r);
}

int filter_starter(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int r = ctx ? allow(ctx, basic, ARRAY_SIZE(basic)) : -ENOMEM;

	if (r == 0)
		r = allow(ctx, starter, ARRAY_SIZE(starter));
	if (r == 0)
		r = allow_sanitizer(ctx);
	return load(ctx, r);
}

/* Signals to itself: abort(). */
static int allow_abort(scmp_filter_ctx ctx)
{
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
}

/* On which CPUs the calling thread itself runs: primer.c. */
static int allow_affinity(scmp_filter_ctx ctx)
{
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sched_setaffinity), 1,
				SCMP_A0(SCMP_CMP_EQ, 0));
}

/* Limits are read only. But libbpf may want more locked memory, which isolate_resident() has seen
 * to. */
static int allow_limits(scmp_filter_ctx ctx)
{
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1,
				 SCMP_A2(SCMP_CMP_EQ, 0));

	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2,
				     SCMP_A0(SCMP_CMP_EQ, 0), SCMP_A1(SCMP_CMP_EQ, RLIMIT_MEMLOCK));
	return r;
}

/*
 * The flags of clone3() are out of a filter's sight; without it libc makes threads by clone(). A
 * filter of its own, since it is no news for the kernel's log.
 */
static int filter_clone3(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int r = -ENOMEM;

	if (ctx)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return load(ctx, r);
}

int filter_resident(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int r = ctx ? filter_clone3() : -ENOMEM;

	if (r == 0)
		r = allow(ctx, basic, ARRAY_SIZE(basic));
	if (r == 0)
		r = allow(ctx, resident, ARRAY_SIZE(resident));
	if (r == 0)
		r = allow_memory(ctx);
	if (r == 0)
		r = allow_open(ctx);
	if (r == 0)
		r = allow_threads(ctx);
	if (r == 0)
		r = allow_abort(ctx);
	if (r == 0)
		r = allow_limits(ctx);
	if (r == 0)
		r = allow_affinity(ctx);
	if (r == 0)
		r = allow_values(ctx, SCMP_SYS(bpf), 0, bpf_commands, ARRAY_SIZE(bpf_commands));
	if (r == 0)
		r = allow_values(ctx, SCMP_SYS(socket), 0, families, ARRAY_SIZE(families));
	if (r == 0)
		r = allow_values(ctx, SCMP_SYS(socketpair), 0, families, 1);
	if (r == 0)
		r = allow_values(ctx, SCMP_SYS(prctl), 0, prctl_options, ARRAY_SIZE(prctl_options));
	if (r == 0)
		r = allow_values(ctx, SCMP_SYS(ioctl), 1, ioctls, ARRAY_SIZE(ioctls));
	for (size_t i = 0; i < ARRAY_SIZE(deadly) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
	/* The kernel remembers which calls are allowed whatever their arguments; this one is not. */
	if (r == 0)
		r = seccomp_syscall_priority(ctx, SCMP_SYS(bpf), UINT8_MAX);
	if (r == 0)
		r = allow_sanitizer(ctx);
	/* Else a refusal is seen by nobody. It may be that the kernel can't. */
	if (r == 0)
		seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1);
	return load(ctx, r);
}
