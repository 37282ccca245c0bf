// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// uses: isolate.c filter.c
/* What the filters of system calls refuse, and what they don't; each case in a process of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "filter.h"
#include "isolate.h"
#include "util.h"

enum end { ALLOWED, REFUSED, KILLED, NO_FILTER };

static const char *const end_names[] = { "allowed", "refused", "killed", "without a filter" };

static void set_up(int (*filter)(void))
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || filter() != 0)
		_exit(NO_FILTER);
}

/* What becomes of @call under @filter. A call says 0, or -1 with errno. */
static enum end end_of(int (*filter)(void), long (*call)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		set_up(filter);
		_exit(call() < 0 && errno == ENOSYS ? REFUSED : ALLOWED);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGSYS);
		return KILLED;
	}
	return (enum end)WEXITSTATUS(status);
}

static long do_read_a_file(void)
{
	return open("/proc/self/status", O_RDONLY | O_CLOEXEC);
}

static long do_write_a_file(void)
{
	return open("/dev/null", O_WRONLY | O_CLOEXEC);
}

static long do_write_and_read_a_file(void)
{
	return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static long do_make_a_file(void)
{
	return open("/nowhere/file", O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
}

static long do_empty_a_file(void)
{
	return open("/nowhere/file", O_RDONLY | O_TRUNC | O_CLOEXEC);
}

static long do_openat2(void)
{
	uint64_t how[3] = { O_RDWR };

	return syscall(SYS_openat2, AT_FDCWD, "/dev/null", how, sizeof(how));
}

static long do_rename(void)
{
	return rename("/nowhere/a", "/nowhere/b");
}

static long do_chmod(void)
{
	return chmod("/nowhere/a", 0777);
}

static long do_unlink(void)
{
	return unlink("/nowhere/a");
}

static void *nothing(void *arg)
{
	return arg;
}

static long do_thread(void)
{
	pthread_t thread;
	int err = pthread_create(&thread, NULL, nothing, NULL);

	errno = err;
	return err ? -1 : pthread_join(thread, NULL);
}

static long do_fork(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid;
}

static long do_clone3(void)
{
	uint64_t args[8] = { [4] = SIGCHLD };
	long pid = syscall(SYS_clone3, args, sizeof(args));

	if (pid == 0)
		_exit(0);
	return pid;
}

static long do_execve(void)
{
	char *argv[] = { "true", NULL };

	return execve("/nowhere/true", argv, environ);
}

static long do_execveat(void)
{
	char *argv[] = { "true", NULL };

	return syscall(SYS_execveat, AT_FDCWD, "/nowhere/true", argv, environ, 0);
}

static long do_ptrace(void)
{
	return ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static long do_setns(void)
{
	return setns(-1, 0);
}

static long do_unshare(void)
{
	return unshare(CLONE_NEWUSER);
}

static long do_pidfd_getfd(void)
{
	return syscall(SYS_pidfd_getfd, -1, 0, 0);
}

static long do_kill(void)
{
	return kill(getppid(), 0);
}

static long do_signal_itself(void)
{
	return syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0);
}

static long do_signal_another(void)
{
	return syscall(SYS_tgkill, getppid(), getppid(), 0);
}

static long do_setuid(void)
{
	return setuid(getuid());
}

static long do_raise_limit(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) < 0 ? 0 : setrlimit(RLIMIT_NOFILE, &limit);
}

static long do_executable_memory(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? -1 : 0;
}

static long do_make_executable(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? 0 : mprotect(p, 4096, PROT_READ | PROT_EXEC);
}

static long do_packet_socket(void)
{
	return socket(AF_PACKET, SOCK_RAW, 0);
}

static long do_tcp_socket(void)
{
	return socket(AF_INET6, SOCK_STREAM, 0);
}

static long bpf(int command)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	return syscall(SYS_bpf, command, &attr, sizeof(attr));
}

static long do_bpf_pin(void)
{
	return bpf(BPF_OBJ_PIN);
}

static long do_bpf_others(void)
{
	return bpf(BPF_PROG_GET_FD_BY_ID);
}

static long do_bpf_load(void)
{
	return bpf(BPF_PROG_LOAD);
}

static long do_io_uring(void)
{
	return syscall(SYS_io_uring_setup, 1, NULL);
}

static const struct {
	const char *what;
	long (*call)(void);
	enum end resident, responder;
} table[] = {
	{ "read a file", do_read_a_file, ALLOWED, KILLED },
	{ "write a file", do_write_a_file, REFUSED, KILLED },
	{ "write and read a file", do_write_and_read_a_file, REFUSED, KILLED },
	{ "make a file", do_make_a_file, REFUSED, KILLED },
	{ "empty a file", do_empty_a_file, REFUSED, KILLED },
	{ "open in a way that can't be judged", do_openat2, REFUSED, KILLED },
	{ "rename a file", do_rename, REFUSED, KILLED },
	{ "change a file's mode", do_chmod, REFUSED, KILLED },
	{ "remove its socket", do_unlink, ALLOWED, KILLED },
	{ "make a thread", do_thread, ALLOWED, KILLED },
	{ "make a process", do_fork, KILLED, KILLED },
	{ "make a process by clone3()", do_clone3, REFUSED, KILLED },
	{ "execute a program", do_execve, KILLED, KILLED },
	{ "execute a program by execveat()", do_execveat, KILLED, KILLED },
	{ "trace", do_ptrace, KILLED, KILLED },
	{ "enter a namespace", do_setns, KILLED, KILLED },
	{ "make a namespace", do_unshare, KILLED, KILLED },
	{ "take another's descriptor", do_pidfd_getfd, KILLED, KILLED },
	{ "signal another process", do_kill, REFUSED, KILLED },
	{ "signal itself", do_signal_itself, ALLOWED, KILLED },
	{ "signal another thread", do_signal_another, REFUSED, KILLED },
	{ "become somebody", do_setuid, REFUSED, KILLED },
	{ "raise a limit", do_raise_limit, REFUSED, KILLED },
	{ "map executable memory", do_executable_memory, REFUSED, KILLED },
	{ "make memory executable", do_make_executable, REFUSED, KILLED },
	{ "make a packet socket", do_packet_socket, REFUSED, KILLED },
	{ "make a TCP socket", do_tcp_socket, ALLOWED, KILLED },
	{ "pin a BPF object", do_bpf_pin, REFUSED, KILLED },
	{ "take another's BPF program", do_bpf_others, REFUSED, KILLED },
	{ "load a BPF program", do_bpf_load, ALLOWED, KILLED },
	{ "make an io_uring", do_io_uring, REFUSED, KILLED },
};

static void check(const char *process, int (*filter)(void), size_t i, enum end wanted)
{
	enum end end = end_of(filter, table[i].call);

	if (end != wanted)
		fail_msg("%s: to %s is %s, not %s", process, table[i].what, end_names[end],
			 end_names[wanted]);
}

static void what_the_resident_process_may(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		check("resident", filter_resident, i, table[i].resident);
}

static void what_the_responder_may(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		check("responder", filter_responder, i, table[i].responder);
}

static void what_the_starter_may(void **state)
{
	static long (*const refused[])(void) = {
		do_ptrace, do_setns,	  do_unshare, do_pidfd_getfd, do_bpf_load, do_io_uring,
		do_kill,   do_tcp_socket, do_rename,  do_chmod,	      do_execve,
	};

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_int_equal(end_of(filter_starter, refused[i]), REFUSED);
	assert_int_equal(end_of(filter_starter, do_execveat), ALLOWED);
}

/* What the caller has left in the environment, and descriptors. */
static bool surroundings_are_clean(int ready_fd, int left_fd)
{
	const char *notify;

	setenv("NOTIFY_SOCKET", "/run/nowhere", 1);
	setenv("LEGO_EAB_HMAC", "secret", 1);
	setenv("OPENSSL_CONF", "/tmp/evil", 1);
	if (isolate_surroundings(ready_fd) != 0)
		return false;
	notify = getenv("NOTIFY_SOCKET");
	return notify && strcmp(notify, "/run/nowhere") == 0 && !getenv("LEGO_EAB_HMAC") &&
	       !getenv("OPENSSL_CONF") && !getenv("PATH") && umask(0) == 077 &&
	       fcntl(left_fd, F_GETFD) < 0 && (ready_fd < 0 || fcntl(ready_fd, F_GETFD) >= 0) &&
	       fcntl(2, F_GETFD) >= 0;
}

static void the_callers_surroundings(void **state)
{
	/* The one that stays, and one that doesn't: in any order. */
	const struct {
		int ready_fd, left_fd;
	} cases[] = { { -1, 3 }, { -1, 99 }, { 3, 4 }, { 4, 3 }, { 50, 51 }, { 50, 3 } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			if (cases[i].ready_fd >= 0)
				dup2(2, cases[i].ready_fd);
			dup2(2, cases[i].left_fd);
			_exit(!surroundings_are_clean(cases[i].ready_fd, cases[i].left_fd));
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_resident_process_may),
		cmocka_unit_test(what_the_responder_may),
		cmocka_unit_test(what_the_starter_may),
		cmocka_unit_test(the_callers_surroundings),
	};

	return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
