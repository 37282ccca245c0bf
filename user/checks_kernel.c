// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* doctor: what the kernel can do, and lets us do. Found by trying, not from its version. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>

#include "bpf_util.h"
#include "check.h"
#include "guards.h"
#include "steer.h"
#include "util.h"

#define NOT_ROOT "run doctor as root to have this tried"
#define RELAYED	 "; connections are relayed instead"

/* Linux 5.8 and 5.9; Debian 12's headers have them, older ones don't. */
#ifndef CAP_PERFMON
#define CAP_PERFMON 38
#endif
#ifndef CAP_BPF
#define CAP_BPF 39
#endif

/* A module's "what: why; remedy" in its two parts. */
static void set_error(struct check *check, enum check_level level, const char *error,
		      const char *suffix)
{
	const char *remedy = strstr(error, "; ");
	size_t len = remedy ? (size_t)(remedy - error) : strlen(error);

	check_set(check, level, remedy ? remedy + 2 : "see `dmesg`", "%.*s%s", (int)len, error,
		  suffix);
}

static bool effective_capabilities(uint64_t *ret)
{
	unsigned long long mask;
	char line[128];
	bool found = false;
	FILE *file = fopen("/proc/self/status", "re");

	while (file && !found && fgets(line, sizeof(line), file))
		found = sscanf(line, "CapEff: %llx", &mask) == 1;
	if (file)
		fclose(file);
	if (found)
		*ret = mask;
	return found;
}

/* All user ids map to themselves. */
static bool in_first_user_namespace(void)
{
	unsigned inside, outside, count;
	char line[128];

	return check_read("/proc/self/uid_map", line, sizeof(line)) < 0 ||
	       (sscanf(line, "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 &&
		outside == 0 && count == UINT32_MAX);
}

/* Appends the names of what is missing. */
static void name_missing(uint64_t has, char *buf, size_t size)
{
	static const struct {
		const char *name;
		uint64_t any_of;
	} needed[] = {
		{ "CAP_BPF", UINT64_C(1) << CAP_BPF | UINT64_C(1) << CAP_SYS_ADMIN },
		{ "CAP_PERFMON", UINT64_C(1) << CAP_PERFMON | UINT64_C(1) << CAP_SYS_ADMIN },
		{ "CAP_NET_ADMIN", UINT64_C(1) << CAP_NET_ADMIN },
		{ "CAP_NET_RAW", UINT64_C(1) << CAP_NET_RAW },
	};
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!(has & needed[i].any_of))
			len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? ", " : "",
						needed[i].name);
}

void checks_capabilities(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "capabilities");
	char missing[128];
	uint64_t has;

	if (!effective_capabilities(&has)) {
		check_set(check, CHECK_WARN, "mount /proc", "/proc/self/status can't be read");
		doctor->may_load = true;
		return;
	}
	name_missing(has, missing, sizeof(missing));
	if (!missing[0] && in_first_user_namespace()) {
		doctor->may_load = true;
		check_set(check, CHECK_OK, NULL,
			  "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW are there");
	} else if (doctor->status) {
		check_set(check, CHECK_OK, NULL,
			  "not those of root, but the resident process has them and takes orders");
	} else if (!missing[0]) {
		check_set(check, CHECK_FAIL,
			  "a rootless container can't do it: run acme-steer on the host, with "
			  "--netns=PID of a process in the container",
			  "root, but of a user namespace only, and BPF is for the host's");
	} else {
		check_set(
			check, CHECK_FAIL,
			"run it as root; in a container add the capabilities BPF, PERFMON, "
			"NET_ADMIN and NET_RAW; or let a resident process run (acme-steer.service) "
			"and join the group acme-steer",
			"missing: %s", missing);
	}
}

void checks_btf(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "btf");
	struct btf *btf;

	bpf_util_quiet();
	btf = btf__load_vmlinux_btf();
	if (libbpf_get_error(btf))
		check_set(check, CHECK_FAIL,
			  "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions' are; in a "
			  "container, let it see /sys/kernel/btf",
			  "the kernel's type information (/sys/kernel/btf/vmlinux) can't be read");
	else
		check_set(check, CHECK_OK, NULL, "the kernel's type information is there");
	btf__free(libbpf_get_error(btf) ? NULL : btf);
}

void checks_bpf_sysctls(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "bpf-sysctls");
	char unprivileged[8] = "";

	check_read("/proc/sys/kernel/unprivileged_bpf_disabled", unprivileged,
		   sizeof(unprivileged));
	if (strcmp(doctor->jit, "0") == 0)
		check_set(
			check, CHECK_WARN, "sysctl -w net.core.bpf_jit_enable=1",
			"net.core.bpf_jit_enable is 0: BPF is interpreted, and hand-off needs the "
			"compiler");
	else
		check_set(check, CHECK_OK, NULL,
			  "net.core.bpf_jit_enable %s, kernel.unprivileged_bpf_disabled %s (either "
			  "value will do)",
			  doctor->jit[0] ? doctor->jit : "is not to be seen here",
			  unprivileged[0] ? unprivileged : "is not there");
}

void checks_lockdown(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "lockdown");
	char line[128];

	if (check_read("/sys/kernel/security/lockdown", line, sizeof(line)) < 0)
		check_set(check, CHECK_OK, NULL, "this kernel has none, or does not show it");
	else if (strstr(line, "[confidentiality]"))
		check_set(check, CHECK_WARN,
			  "boot with lockdown=integrity, or see below whether the programs load",
			  "confidentiality: BPF may not read the kernel's memory, which hand-off "
			  "does");
	else
		check_set(check, CHECK_OK, NULL, "%s", line);
}

void checks_steering(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "steering");
	char error[CTL_MAX_ERROR] = "";
	struct steer *steer;
	int err;

	if (!doctor->may_load) {
		check_set(check, CHECK_WARN, NOT_ROOT, "not tried: capabilities are missing");
		return;
	}
	if (steer_new(1, NULL, &steer, error, sizeof(error)) < 0) {
		set_error(check, CHECK_FAIL, error[0] ? error : "no memory", "");
		return;
	}
	/* Steers nothing: there is no lease. */
	err = steer_attach(steer, error, sizeof(error));
	steer_free(steer);
	if (err < 0) {
		set_error(check, CHECK_FAIL, error, "");
		return;
	}
	check_set(check, CHECK_OK, NULL, "the sk_lookup program loads and attaches");
}

void checks_handoff(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "handoff");
	char error[CTL_MAX_ERROR] = "";
	int err;

	if (!doctor->may_load) {
		check_set(check, CHECK_WARN, NOT_ROOT, "not tried: capabilities are missing");
		return;
	}
	err = guards_new(&doctor->guards, NULL, error, sizeof(error));
	if (err < 0) {
		doctor->guards = NULL;
		check_set(check, CHECK_WARN,
			  "use Linux 6.9 or later, with CONFIG_SYN_COOKIES and BTF, or be content "
			  "with the relay: see --client-ip",
			  "the programs don't load: %s" RELAYED, error[0] ? error : strerror(-err));
		return;
	}
	/* lo is guarded for this moment; without a guard entry that does nothing. */
	if (!guards_device(doctor->guards, 1, &err)) {
		guards_free(TAKE_PTR(doctor->guards));
		check_set(
			check, CHECK_WARN,
			"use Linux 6.6 or later, which has tcx, or be content with the relay: see "
			"--client-ip",
			"lo can't be guarded: %s" RELAYED, strerror(-err));
		return;
	}
	check_set(check, CHECK_OK, NULL, "the programs load, and can guard devices");
}

void checks_syncookies(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "syncookies");
	char value[8];

	if (check_read("/proc/sys/net/ipv4/tcp_syncookies", value, sizeof(value)) < 0)
		check_set(check, CHECK_WARN, "let doctor see /proc/sys/net",
			  "net.ipv4.tcp_syncookies can't be read");
	else if (strcmp(value, "0") == 0)
		check_set(check, CHECK_WARN,
			  "sysctl -w net.ipv4.tcp_syncookies=1 in this network namespace, and the "
			  "same in /etc/sysctl.d",
			  "net.ipv4.tcp_syncookies is 0, so nothing can be handed off" RELAYED);
	else
		check_set(check, CHECK_OK, NULL, "net.ipv4.tcp_syncookies is %s", value);
}

/*
 * Is this link an sk_lookup program on the namespace? Fills in its program's name. Keeps no
 * descriptor: who looks for the link's owner must not find us.
 */
static bool is_on_netns(uint32_t id, ino_t netns, uint32_t *ret_prog, char name[BPF_OBJ_NAME_LEN])
{
	_cleanup_close_ int fd = bpf_link_get_fd_by_id(id);
	struct bpf_link_info link = {};
	struct bpf_prog_info prog = {};
	uint32_t len = sizeof(link);
	_cleanup_close_ int prog_fd = -1;

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &link, &len) || link.type != BPF_LINK_TYPE_NETNS ||
	    link.netns.attach_type != BPF_SK_LOOKUP || link.netns.netns_ino != (uint32_t)netns)
		return false;
	*ret_prog = link.prog_id;
	strcpy(name, "?");
	prog_fd = bpf_prog_get_fd_by_id(link.prog_id);
	len = sizeof(prog);
	if (prog_fd >= 0 && bpf_obj_get_info_by_fd(prog_fd, &prog, &len) == 0)
		snprintf(name, BPF_OBJ_NAME_LEN, "%s", prog.name);
	return true;
}

void checks_other_steering(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "other-sk-lookup");
	char names[CHECK_TEXT / 2] = "";
	size_t len = 0, own = 0;
	uint32_t id = 0;

	while (bpf_link_get_next_id(id, &id) == 0) {
		char name[BPF_OBJ_NAME_LEN];
		struct owner owner;
		uint32_t prog;

		if (!is_on_netns(id, doctor->netns_inode, &prog, name))
			continue;
		owners_of_link(id, &owner);
		if (strcmp(name, "steer") == 0 && strcmp(owner.name, "acme-steer") == 0) {
			own++;
			continue;
		}
		len += (size_t)snprintf(names + len, sizeof(names) - len,
					"%s\"%s\" (program %u, link %u, %s)", len ? ", " : "", name,
					prog, id, owner.pid ? owner.name : "pinned");
		len = MIN(len, sizeof(names) - 1);
	}
	if (errno == EPERM)
		check_set(check, CHECK_WARN, "run doctor as root, with CAP_SYS_ADMIN",
			  "not looked: listing BPF links needs CAP_SYS_ADMIN");
	else if (len)
		check_set(
			check, CHECK_WARN,
			"see `bpftool link` and what it is for: of several programs that choose a "
			"socket for a connection the one attached last wins; keep it from "
			"choosing for this port",
			"attached to this network namespace, too: %s", names);
	else
		check_set(check, CHECK_OK, NULL, own ? "none but acme-steer's own" : "none");
}
