// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What both BPF wrappers need. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bpf_util.h"
#include "log.h"
#include "util.h"

static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	char line[512];
	size_t len;

	if (level == LIBBPF_DEBUG)
		return 0;
	vsnprintf(line, sizeof(line), format, args);
	len = strcspn(line, "\n");
	line[len] = '\0';
	log_debug("%s", line);
	return 0;
}

void bpf_util_quiet(void)
{
	libbpf_set_print(print);
}

const char *bpf_util_remedy(int err)
{
	switch (-err) {
	case EPERM:
	case EACCES:
		return "run it as root, or give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (a "
		       "container "
		       "needs them added)";
	case ESRCH:
	case ENOENT:
		return "the kernel must have BTF (CONFIG_DEBUG_INFO_BTF: /sys/kernel/btf/vmlinux)";
	case EINVAL:
	case EOPNOTSUPP:
		return "the kernel is too old or built without it (sk_lookup: Linux 5.9 or later "
		       "with "
		       "CONFIG_BPF_SYSCALL)";
	case ENOSYS:
		return "the kernel has no BPF (CONFIG_BPF_SYSCALL)";
	case E2BIG:
		return "too many programs are attached to this network namespace; see `bpftool "
		       "link`";
	case ENOMEM:
		return "no memory, or RLIMIT_MEMLOCK is too low (kernels before 5.11 count BPF "
		       "maps)";
	default:
		return "see `dmesg` and `bpftool prog`";
	}
}

void bpf_util_sum(int map_fd, size_t n, uint64_t *ret_sums)
{
	int cpus = libbpf_num_possible_cpus();
	_cleanup_free_ uint64_t *values = calloc((size_t)MAX(cpus, 1), sizeof(*values));

	for (uint32_t key = 0; key < n; key++) {
		ret_sums[key] = 0;
		if (!values || bpf_map_lookup_elem(map_fd, &key, values))
			continue;
		for (int cpu = 0; cpu < cpus; cpu++)
			ret_sums[key] += values[cpu];
	}
}

static int run(int prog_fd, const void *data, size_t size, void *out, unsigned ifindex,
	       unsigned mark, int times, int *ret_err)
{
	struct __sk_buff skb = { .ifindex = ifindex, .mark = mark };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = data, .data_size_in = (uint32_t)size,
		    .data_out = out, .data_size_out = out ? (uint32_t)size : 0, .ctx_in = &skb,
		    .ctx_size_in = sizeof(skb), .repeat = times);
	int err = bpf_prog_test_run_opts(prog_fd, &opts);

	/* Without room for the packet ENOSPC is no news. */
	*ret_err = err == -ENOSPC && !out ? 0 : err;
	return (int)opts.retval;
}

int bpf_util_run(int prog_fd, const void *data, size_t size, void *out, unsigned ifindex,
		 unsigned mark, int *ret_err)
{
	return run(prog_fd, data, size, out, ifindex, mark, 1, ret_err);
}

int bpf_util_run_twice(int prog_fd, const void *data, size_t size, unsigned ifindex, unsigned mark,
		       int *ret_err)
{
	return run(prog_fd, data, size, NULL, ifindex, mark, 2, ret_err);
}
