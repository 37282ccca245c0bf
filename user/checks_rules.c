// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * doctor: what stands in front of the port: containers' port forwarding, and firewall rules. Hints:
 * rules are read by their tools, and not all that they can say is understood.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h> /* before linux/in.h, which makes way for it */
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "check.h"
#include "firewall.h"
#include "util.h"

#define OUTPUT_MAX   (32u << 20) /* bytes of a tool's output */
#define TOOL_TIME_NS (10 * NSEC_PER_SEC)

extern char **environ;

/* Programs that take connections to a port for a container. */
static const char *const forwarders[] = {
	"docker-proxy", "rootlessport", "rootlesskit",
	"slirp4netns",	"pasta",	"pasta.avx2",
	"passt",	"conmon",	"containers-rootlessport"
};

static const char *const kind_texts[] = {
	[FIREWALL_LED_AWAY] = "leads connections to the port away",
	[FIREWALL_LED_HERE] = "leads connections to the port from elsewhere, and such are "
			      "relayed",
	[FIREWALL_TPROXY] = "gives connections to another socket before steering can",
	[FIREWALL_SYNPROXY] = "answers handshakes itself, so sequence numbers differ from the "
			      "socket's",
	[FIREWALL_LIMIT] = "counts replayed packets a second time",
	[FIREWALL_HEADER] = "looks at what a replayed packet does not keep",
	[FIREWALL_CLOSED] = "drops what is not accepted, and no rule that accepts the port was "
			    "found",
};
_Static_assert(ARRAY_SIZE(kind_texts) == FIREWALL_KINDS, "a text for each kind");

static const char *const kind_remedies[] = {
	[FIREWALL_LED_AWAY] = "",
	[FIREWALL_LED_HERE] = "nothing has to be done; without the rule they would be handed off",
	[FIREWALL_TPROXY] = "exempt the port from it while a window is open",
	[FIREWALL_SYNPROXY] = "use --plane=relay",
	[FIREWALL_LIMIT] = "accept packets of established connections before it (ct state "
			   "established,related accept), or use --plane=relay",
	[FIREWALL_HEADER] = "accept packets of established connections before it (ct state "
			    "established,related accept), or use --plane=relay",
	[FIREWALL_CLOSED] =
		"accept TCP to the port from everybody, over IPv4 and IPv6: CAs connect "
		"from many addresses",
};
_Static_assert(ARRAY_SIZE(kind_remedies) == FIREWALL_KINDS, "a remedy for each kind");

/* While a window is open, visitors would hang, or the CA would not be steered. */
static const bool hangs[FIREWALL_KINDS] = {
	[FIREWALL_TPROXY] = true,
	[FIREWALL_SYNPROXY] = true,
};

/* Reads up to EOF, for TOOL_TIME_NS at most. NULL: too long, too much, or no memory. */
static char *read_all(int fd)
{
	uint64_t deadline_ns = now_ns() + TOOL_TIME_NS;
	_cleanup_free_ char *text = NULL;
	size_t len = 0, size = 0;

	for (;;) {
		struct pollfd pollfd = { .fd = fd, .events = POLLIN };
		uint64_t now = now_ns();
		ssize_t n;

		if (size - len < 2) {
			char *more;

			size = size ? 2 * size : 65536;
			more = size > OUTPUT_MAX ? NULL : realloc(text, size);
			if (!more)
				return NULL;
			text = more;
		}
		if (now >= deadline_ns ||
		    poll(&pollfd, 1, (int)((deadline_ns - now) / NSEC_PER_MSEC) + 1) <= 0)
			return NULL;
		n = read(fd, text + len, size - len - 1);
		if (n < 0)
			return NULL;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
	return TAKE_PTR(text);
}

/* What a tool prints; the caller frees it. NULL with -errno in *ret_err, -ENOENT: not installed. */
static char *run_tool(const char *name, char *const argv[], int *ret_err)
{
	static const char *const places[] = { "/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin" };
	posix_spawn_file_actions_t actions;
	char path[64], *text = NULL;
	int pipe_fds[2], status = 0;
	pid_t pid;

	*ret_err = -ENOENT;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		*ret_err = -errno;
		return NULL;
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	for (size_t i = 0; *ret_err == -ENOENT && i < ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", places[i], name);
		*ret_err = -posix_spawn(&pid, path, &actions, NULL, argv, environ);
	}
	posix_spawn_file_actions_destroy(&actions);
	close(pipe_fds[1]);
	if (*ret_err == 0) {
		text = read_all(pipe_fds[0]);
		if (!text)
			kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		if (!text || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
			free(TAKE_PTR(text));
			*ret_err = -EIO;
		}
	}
	close(pipe_fds[0]);
	return text;
}

static int count_message(const struct nlmsghdr *nlh, void *data)
{
	*(int *)data += nlh->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE);
	return MNL_CB_OK;
}

/* How many nftables rules there are in this network namespace, or -errno. */
static int count_rules(void)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	char buf[16384];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *nfg;
	int rules = 0, more = 1;

	if (!nl)
		return -errno;
	nlh->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = 1;
	nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));
	*nfg = (struct nfgenmsg){ .nfgen_family = NFPROTO_UNSPEC, .version = NFNETLINK_V0 };
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ||
	    mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		more = -1;
	while (more > 0) {
		ssize_t n = mnl_socket_recvfrom(nl, buf, sizeof(buf));

		more = n < 0 ? -1
			     : mnl_cb_run(buf, (size_t)n, 1, mnl_socket_get_portid(nl),
					  count_message, &rules);
	}
	rules = more < 0 ? -errno : rules;
	mnl_socket_close(nl);
	return rules;
}

/* Legacy iptables has tables in this network namespace. */
static bool has_legacy_tables(void)
{
	char line[64];

	return (check_read("/proc/self/net/ip_tables_names", line, sizeof(line)) == 0 && line[0]) ||
	       (check_read("/proc/self/net/ip6_tables_names", line, sizeof(line)) == 0 && line[0]);
}

/* Reads all rules. What could not be read is said in @unread, "" else. */
static void read_rules(struct firewall *firewall, char *unread, size_t size)
{
	static char *const nft_argv[] = { "nft", "-j", "list", "ruleset", NULL };
	static const struct {
		const char *name, *family;
	} tools[] = { { "iptables-save", "ip" }, { "ip6tables-save", "ip6" } };
	_cleanup_free_ char *json = NULL;
	bool legacy = true;
	int err;

	unread[0] = '\0';
	json = run_tool("nft", nft_argv, &err);
	if (json)
		err = firewall_add_nft(firewall, json);
	if (err == -ENOENT) {
		int rules = count_rules();

		if (rules < 0)
			snprintf(unread, size,
				 "nft is not installed, and the kernel does not tell: %s",
				 strerror(-rules));
		else if (rules > 0)
			snprintf(unread, size,
				 "there are %d nftables rules, but nft is not installed", rules);
	} else if (err) {
		snprintf(unread, size, "nft can't list the rules");
	}
	for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
		char *argv[] = { (char *)tools[i].name, NULL };
		_cleanup_free_ char *text = run_tool(tools[i].name, argv, &err);

		legacy &= text != NULL;
		if (text)
			firewall_add_iptables(firewall, tools[i].family, text);
	}
	if (!legacy && has_legacy_tables())
		snprintf(unread, size, "there are iptables rules that iptables-save does not show");
}

static const struct check_listener *forwarder_of(const struct doctor *doctor)
{
	for (int i = 0; i < doctor->n_listeners; i++)
		for (size_t k = 0; k < ARRAY_SIZE(forwarders); k++)
			if (strncmp(doctor->listeners[i].owner.name, forwarders[k], 15) == 0)
				return &doctor->listeners[i];
	return NULL;
}

static void set_published(struct doctor *doctor, struct check *check,
			  const struct firewall_hint *away)
{
	const struct check_listener *forwarder = forwarder_of(doctor);
	char remedy[CHECK_TEXT];

	if (!forwarder && !away) {
		check_set(check, CHECK_OK, NULL, "no port forwarding for port %u was found",
			  doctor->port);
		return;
	}
	if (!doctor->elsewhere.pid)
		owners_elsewhere(doctor->port, doctor->netns_inode, &doctor->elsewhere);
	if (doctor->elsewhere.pid)
		snprintf(remedy, sizeof(remedy),
			 "steer in the container's network namespace: --netns=%d (%s)",
			 (int)doctor->elsewhere.pid, doctor->elsewhere.name);
	else
		snprintf(remedy, sizeof(remedy),
			 "steer where connections arrive: in the container's network namespace "
			 "(--netns=PID, from `docker inspect -f {{.State.Pid}} CONTAINER`), or, "
			 "for a redirect to another port of this host, that port (--port=PORT)");
	if (forwarder)
		check_set(check, CHECK_FAIL, remedy,
			  "%s (pid %d) publishes the port for a container%s%s",
			  forwarder->owner.name, (int)forwarder->owner.pid,
			  away ? "; most connections don't even reach it: " : "",
			  away ? away->where : "");
	else
		check_set(check, doctor->n_listeners > 0 ? CHECK_WARN : CHECK_FAIL, remedy,
			  "%s (%s) leads connections to port %u away before this network "
			  "namespace's sockets see them",
			  away->where, away->what, doctor->port);
}

static void set_firewall(const struct doctor *doctor, struct check *check,
			 const struct firewall *firewall, const struct firewall_hint *hints,
			 size_t n, const char *unread)
{
	char text[CHECK_TEXT] = "";
	size_t len = 0;
	const char *remedy = NULL;
	enum check_level level = CHECK_WARN;

	for (size_t i = 0; i < n && len + 1 < sizeof(text); i++) {
		if (hints[i].kind == FIREWALL_LED_AWAY)
			continue;
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s (%s) %s",
					len ? "; " : "", hints[i].where, hints[i].what,
					kind_texts[hints[i].kind]);
		if (level == CHECK_WARN && hangs[hints[i].kind]) {
			level = CHECK_FAIL;
			remedy = kind_remedies[hints[i].kind];
		}
		if (!remedy)
			remedy = kind_remedies[hints[i].kind];
	}
	if (remedy)
		check_set(check, level, remedy, "%s", text);
	else if (unread[0])
		check_set(check, CHECK_WARN,
			  "run doctor as root, with nft or iptables-save installed, to have them "
			  "looked at",
			  "%s", unread);
	else if (firewall_rules(firewall))
		check_set(check, CHECK_OK, NULL,
			  "%zu rules for incoming packets, none that is known to be in the way",
			  firewall_rules(firewall));
	else
		check_set(check, CHECK_OK, NULL, "no rules for incoming packets");
}

void checks_rules(struct doctor *doctor)
{
	struct check *published = check_add(doctor, "published");
	struct check *check = check_add(doctor, "firewall");
	struct firewall *firewall = firewall_new(doctor->port);
	struct firewall_hint hints[FIREWALL_HINTS];
	const struct firewall_hint *away = NULL;
	char unread[160];
	size_t n;

	if (!firewall) {
		check_set(published, CHECK_WARN, NULL, "no memory");
		check_set(check, CHECK_WARN, NULL, "no memory");
		return;
	}
	read_rules(firewall, unread, sizeof(unread));
	n = firewall_judge(firewall, hints);
	for (size_t i = 0; i < n && !away; i++)
		if (hints[i].kind == FIREWALL_LED_AWAY)
			away = &hints[i];
	set_published(doctor, published, away);
	set_firewall(doctor, check, firewall, hints, n, unread);
	firewall_free(firewall);
}
