// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A kernel that is short of room for handshakes, or has net.ipv4.tcp_syncookies at 2, answers a SYN
 * by a cookie and remembers nothing. The client's ACK, which brings the cookie back, goes to
 * whoever the look-up finds by then: that may be a sniffer where the web server's listener sent the
 * cookie, when a window has opened in between, or the other way round, when one has closed or the
 * process died. Cookies are the host's, so either could make the connection of it. But a listener
 * resets whoever brings one when it, or its SO_REUSEPORT group, has sent none itself for two
 * minutes: tcp_synq_no_recent_overflow(). So:
 *
 * - Sniffers must take cookies before they get a packet, if any may be under way: else
 *   steer.bpf.c passes everything by (syn_cookie_times.sniffers_take_ns).
 * - The web server's listeners must take cookies before the sniffers send one: else steer.bpf.c
 *   passes by while a sniffer would send some, or nearly (syn_cookie_times.server_takes_ns). In a
 *   flood the web server's queue fills then, too, and its listener begins to send cookies, and to
 *   take them.
 *
 * With tcp_syncookies at 2 steer_cookies() has any listener take them. With 1 only a full queue
 * does, and the sniffers, which are one group, have one more in it for that: the decoy has a
 * backlog of 0, a handshake that TCP_DEFER_ACCEPT keeps from ending, and nothing is steered to it.
 * Whoever connects to it then gets a cookie, and all of the group take cookies for two minutes.
 * The kernel tells its log of a SYN flood on the decoy's port, once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "syn_cookies.h"
#include "listeners.h"
#include "log.h"
#include "sniffer.h"
#include "util.h"

/* syn_cookies_block.takes is good for a minute: cookies that are sent in the last of it, too. */
#define GOOD_NS	   (50 * NSEC_PER_SEC)
#define RENEW_NS   (10 * NSEC_PER_SEC)
#define LOOK_NS	   NSEC_PER_SEC
#define DEFER_S	   86400
#define CONNECT_MS 100 /* over lo it is done when connect() returns */

/* What was seen at the listeners of one family. */
struct seen {
	bool sent;    /* one may have sent cookies */
	bool refuses; /* one may not take them */
};

void syn_cookies_init(struct syn_cookies *cookies)
{
	*cookies = (struct syn_cookies){ .decoy_fd = -1, .handshake_fd = -1 };
}

/*
 * Who of the group gets what the kernel asks it for: the decoy, which is its last, whoever connects
 * to their port, by IPv4 and without options as decoy_connect() does. Whose connection was taken
 * early, or comes back from a hand-off, gets a sniffer, any of them: the kernel asks the group for
 * one then, too (inet_steal_sock()), and so this is there before the decoy is. 0 or -errno.
 */
static int group_choose(int sniffer_fd, uint16_t port, unsigned n_sniffers)
{
	struct sock_filter choose[] = {
		{ BPF_LD | BPF_B | BPF_ABS, 0, 0, (uint32_t)SKF_NET_OFF },
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 0x45 },
		{ BPF_LD | BPF_H | BPF_ABS, 0, 0, (uint32_t)SKF_NET_OFF + 22 }, /* to which port */
		{ BPF_JMP | BPF_JEQ | BPF_K, 0, 1, port },
		{ BPF_RET | BPF_K, 0, 0, n_sniffers },
		{ BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)(SKF_AD_OFF + SKF_AD_RANDOM) },
		{ BPF_ALU | BPF_MOD | BPF_K, 0, 0, n_sniffers },
		{ BPF_RET | BPF_A, 0, 0, 0 },
	};
	const struct sock_fprog program = { .len = ARRAY_SIZE(choose), .filter = choose };

	if (setsockopt(sniffer_fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program,
		       sizeof(program)) < 0)
		return -errno;
	return 0;
}

int syn_cookies_begin(struct syn_cookies *cookies, int sniffer_fd, unsigned n_sniffers)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int err;

	syn_cookies_end(cookies);
	cookies->n_sniffers = n_sniffers;
	if (getsockname(sniffer_fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	err = endpoint_from_sockaddr(&sa, &cookies->sniffers);
	return err ? err : group_choose(sniffer_fd, cookies->sniffers.port, n_sniffers);
}

/* Without a trace: a reset, no TIME_WAIT. */
static void drop(int *fd)
{
	const struct linger at_once = { .l_onoff = 1 };

	if (*fd < 0)
		return;
	setsockopt(*fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(*fd);
	*fd = -1;
}

void syn_cookies_end(struct syn_cookies *cookies)
{
	drop(&cookies->handshake_fd);
	if (cookies->decoy_fd >= 0)
		close(cookies->decoy_fd);
	syn_cookies_init(cookies);
}

/* A connection to the decoy, as far as it gets; -1: errno says why. */
static int decoy_connect(const struct syn_cookies *cookies)
{
	struct sockaddr_storage sa;
	socklen_t len = endpoint_to_sockaddr(&cookies->sniffers, &sa);
	struct pollfd pollfd = { .events = POLLOUT };
	_cleanup_close_ int fd =
		socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS))
		return -1;
	pollfd.fd = fd;
	poll(&pollfd, 1, CONNECT_MS);
	return TAKE_FD(fd);
}

/* Its place in the accept queue, the only one, is for the next. */
static void decoy_accept(const struct syn_cookies *cookies)
{
	int fd;

	while ((fd = accept4(cookies->decoy_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		drop(&fd);
}

/* The last of the group. 0 or -errno. */
static int decoy_open(struct syn_cookies *cookies)
{
	const int defer_s = DEFER_S;
	_cleanup_close_ int fd = sniffer_socket(cookies->sniffers.port, 0);

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer_s, sizeof(defer_s)) < 0)
		return -errno;
	cookies->decoy_fd = TAKE_FD(fd);
	log_info("a SYN flood: the sniffers take SYN cookies, too; the kernel names their port %u",
		 cookies->sniffers.port);
	return 0;
}

/* Has the kernel send a cookie in the group's name. 0 or -errno. */
static int decoy_use(struct syn_cookies *cookies)
{
	int err = cookies->decoy_fd < 0 ? decoy_open(cookies) : 0;
	int fd;

	if (err)
		return err;
	decoy_accept(cookies);
	if (cookies->handshake_fd < 0)
		cookies->handshake_fd = decoy_connect(cookies);
	fd = decoy_connect(cookies);
	decoy_accept(cookies);
	drop(&fd);
	return 0;
}

/* Has the sniffers take cookies, if they don't. Do they? */
static bool sniffers_take(struct syn_cookies *cookies, struct steer *steer)
{
	struct syn_cookies_block block;
	int err = 0;

	for (int i = 0; !err && i < 3; i++) {
		err = steer_cookies(steer, &cookies->sniffers, 0, &block);
		if (!err && block.takes)
			return true;
		/* The handshake that fills the queue may have come to its end. */
		if (i == 1)
			drop(&cookies->handshake_fd);
		if (!err && i < 2)
			err = decoy_use(cookies);
	}
	if (!cookies->warned)
		log_warn("SYN cookies are sent, and the sniffers do not take them%s%s: new "
			 "connections pass them by",
			 err ? ": " : "; is lo filtered?", err ? strerror(-err) : "");
	cookies->warned = true;
	return false;
}

static void look_at(struct steer *steer, const struct listener *listener,
		    struct seen seen[FAMILIES])
{
	const struct endpoint *at = &listener->address;
	struct syn_cookies_block block;
	bool in[FAMILIES] = { endpoint_is_v4(at) || !listener->v6_only, !endpoint_is_v4(at) };
	int err = steer_cookies(steer, at, listener->device, &block);

	if (!err && !block.found)
		return; /* it has gone */
	for (int family = 0; family < FAMILIES; family++) {
		seen[family].sent |= in[family] && !err && block.sent;
		seen[family].refuses |= in[family] && (err || !block.takes);
	}
}

static void look_at_port(struct steer *steer, uint16_t port, struct seen seen[FAMILIES])
{
	struct listener listeners[LISTENERS_MAX];
	int n = listeners_find(port, listeners);

	if (n < 0 || n == LISTENERS_MAX)
		for (int family = 0; family < FAMILIES; family++)
			seen[family].refuses = true; /* as far as we know */
	for (int i = 0; i < n; i++)
		look_at(steer, &listeners[i], seen);
}

/* Are there cookies in this family that would be lost at the sniffers? Then they pass by. */
static void protect(struct syn_cookies *cookies, struct steer *steer,
		    struct syn_cookie_times *times, const struct seen *seen, uint32_t sysctl,
		    uint64_t now)
{
	uint64_t flood_ns, take_ns;

	/* Also before the program has seen a packet. */
	if (sysctl == 2 || seen->sent)
		__atomic_store_n(&times->flood_ns, now, __ATOMIC_RELEASE);
	__atomic_store_n(&times->server_takes_ns, seen->refuses ? 0 : now + GOOD_NS,
			 __ATOMIC_RELEASE);
	flood_ns = __atomic_load_n(&times->flood_ns, __ATOMIC_ACQUIRE);
	if (!flood_ns || now >= flood_ns + SYN_COOKIE_VALID_NS)
		return;
	take_ns = __atomic_load_n(&times->sniffers_take_ns, __ATOMIC_RELAXED);
	if (take_ns < now + RENEW_NS && sniffers_take(cookies, steer))
		__atomic_store_n(&times->sniffers_take_ns, now + GOOD_NS, __ATOMIC_RELEASE);
}

static bool is_due(const struct syn_cookies *cookies, struct steer *steer, const uint16_t *ports,
		   size_t n_ports, uint64_t now)
{
	bool due = now >= cookies->looked_ns + LOOK_NS;

	for (size_t i = 0; i < n_ports; i++)
		due |= !steer_is_leased(steer, ports[i]);
	/* Sooner when packets have passed by for it. */
	for (int family = 0; family < FAMILIES; family++)
		due |= __atomic_load_n(&steer_syn_cookie_times(steer, family)->flood_ns,
				       __ATOMIC_RELAXED) > cookies->looked_ns;
	return due;
}

void syn_cookies_look(struct syn_cookies *cookies, struct steer *steer, const uint16_t *ports,
		      size_t n_ports, bool closing, uint64_t now_ns)
{
	struct seen seen[FAMILIES] = {};
	struct syn_cookies_block block;

	if (!closing && !is_due(cookies, steer, ports, n_ports, now_ns))
		return;
	cookies->looked_ns = now_ns;
	if (steer_cookies(steer, &cookies->sniffers, 0, &block) == 0 && block.sysctl == 0)
		return; /* nobody sends cookies, nobody takes one */
	for (size_t i = 0; i < n_ports; i++)
		look_at_port(steer, ports[i], seen);
	for (int family = 0; family < FAMILIES; family++)
		protect(cookies, steer, steer_syn_cookie_times(steer, family), &seen[family],
			block.sysctl, now_ns);
}
