/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: relay.c relay_flow.c proxy_header.c source.c relay_route.c policy.c addr.c
/*
 * Transparent relays: the web server sees the client's address, and only what belongs to a relay
 * takes the way back through the policy route.
 *
 *   client's network namespace              host's network namespace
 *   10.77.0.2, fd77::2 (near) --- veth --- 10.77.0.1, fd77::1: relay, web server
 *   192.0.2.7, 2001:db8::7 (far, by way of near)
 *
 * Every test has a new pair of them.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "policy.h"
#include "relay_bench.h"

#define IN_CLIENT "nsenter --net=/proc/$CLIENT/ns/net "

static int host_ns, client_ns;
static pid_t client_pid;

static void run(const char *command)
{
	int status = system(command);

	if (status)
		print_error("%s: %d\n", command, status);
	assert_int_equal(status, 0);
}

static unsigned number_of(const char *command)
{
	FILE *output = popen(command, "r");
	unsigned number = 0;

	assert_non_null(output);
	assert_int_equal(fscanf(output, "%u", &number), 1);
	pclose(output);
	return number;
}

/* What is in the kernel of ours. */
static unsigned rules_now(void)
{
	return number_of("(ip -4 rule; ip -6 rule) | grep -c 'lookup 443[0-9]* proto 172'; true");
}

static unsigned routes_now(void)
{
	return number_of("(ip -4 route show table all; ip -6 route show table all) | "
			 "grep -c 'local .* table 443[0-9]* proto 172'; true");
}

/* All of them, with the ways round. */
static unsigned left_now(void)
{
	return number_of("(ip -4 rule; ip -6 rule) | grep -c 'proto 172'; true") + routes_now();
}

/* ---- the two namespaces ---- */

static int ns_open(pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* A process that holds another namespace until it is killed, or this one is over. */
static pid_t ns_hold(void)
{
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWNET) < 0 || write(ready[1], "r", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static int namespaces_make(void **state)
{
	char text[16];

	if (geteuid())
		return 0;
	client_pid = ns_hold();
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	host_ns = ns_open(getpid());
	client_ns = ns_open(client_pid);
	snprintf(text, sizeof(text), "%d", client_pid);
	setenv("CLIENT", text, 1);
	run("ip link add v0 type veth peer name v1 netns $CLIENT && ip link set lo up &&"
	    "ip addr add 10.77.0.1/24 dev v0 && ip addr add fd77::1/64 dev v0 nodad &&"
	    "ip link set v0 up");
	run(IN_CLIENT "sh -c 'ip link set lo up && ip addr add 10.77.0.2/24 dev v1 &&"
		      "ip addr add fd77::2/64 dev v1 nodad && ip link set v1 up &&"
		      "ip addr add 192.0.2.7/32 dev lo && ip addr add 2001:db8::7/128 dev lo'");
	run("ip route add 192.0.2.0/24 via 10.77.0.2 && ip route add 2001:db8::/32 via fd77::2");
	return 0;
}

static int namespaces_drop(void **state)
{
	if (geteuid())
		return 0;
	kill(client_pid, SIGKILL);
	waitpid(client_pid, NULL, 0);
	close(host_ns);
	close(client_ns);
	return 0;
}

static bool unprivileged(void)
{
	if (geteuid())
		print_message("needs root, for network namespaces\n");
	return geteuid() != 0;
}

/* A connection of the client, from @from ("address:port", port 0: any). */
static int client_connect(const char *from, const struct endpoint *to)
{
	struct sockaddr_storage sa;
	struct endpoint source;
	socklen_t len;
	int fd;

	assert_int_equal(setns(client_ns, CLONE_NEWNET), 0);
	len = endpoint_to_sockaddr(to, &sa);
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	assert_int_equal(setns(host_ns, CLONE_NEWNET), 0);
	assert_int_equal(endpoint_parse(from, 1, &source), 0);
	if (source.port == 1)
		source.port = 0;
	source.scope_id = to->scope_id;
	len = endpoint_to_sockaddr(&source, &sa);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	len = endpoint_to_sockaddr(to, &sa);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

/* The resets that the client has sent: some, if ever a packet of a relay's went to it. */
static unsigned client_resets(void)
{
	return number_of(IN_CLIENT "awk '/^Tcp: [0-9]/ { print $15 }' /proc/net/snmp");
}

/* One more connection of the client at @from, relayed with its address. */
static void relay_from(struct bench *b, const char *from)
{
	int fd;

	b->client = client_connect(from, &b->front_addr);
	b->client_addr = local_addr(b->client);
	fd = accept4(b->front, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	bench_start(b, fd, CLIENT_IP_TRANSPARENT);
}

static void expect_both_ways(struct bench *b)
{
	send_text(b->client, "question");
	expect_text(b, b->server, "question");
	send_text(b->server, "answer");
	expect_text(b, b->client, "answer");
}

/* ---- tests ---- */

static void relay_one(const char *host, const char *from)
{
	unsigned resets = client_resets(), left = left_now();
	struct endpoint seen;
	struct bench b;

	bench_open(&b, host);
	relay_from(&b, from);
	seen = peer_addr(b.server);
	assert_memory_equal(&seen.addr, &b.client_addr.addr, sizeof(seen.addr));
	assert_int_not_equal(seen.port, b.client_addr.port);
	assert_true(endpoint_equal(&seen, &b.exempt_source));
	expect_both_ways(&b);
	assert_int_equal(rules_now(), 1);
	assert_int_equal(routes_now(), 1);

	/* Both ends close; the claim stays a little, and then nothing is left. */
	close_if_open(&b.client);
	expect_end(&b, b.server, 0);
	close_if_open(&b.server);
	pump_until(&b, b.ended == 1);
	assert_int_equal(b.worker.counters.reset, 0);
	assert_int_equal(routes_now(), 1);
	assert_true(relay_worker_reap(&b.worker, now_ns()) < now_ns() + 3 * NSEC_PER_SEC);
	assert_true(relay_worker_reap(&b.worker, now_ns() + 3 * NSEC_PER_SEC) == UINT64_MAX);
	assert_int_equal(left_now(), left);
	assert_int_equal(client_resets(), resets);
	bench_close(&b);
}

static void test_address_is_kept(void **state)
{
	if (unprivileged())
		skip();
	relay_one("10.77.0.1", "10.77.0.2");
	relay_one("10.77.0.1", "192.0.2.7");
	relay_one("fd77::1", "fd77::2");
	relay_one("fd77::1", "2001:db8::7");
	/* The host itself as the client. */
	assert_int_equal(dup2(host_ns, client_ns), client_ns);
	relay_one("10.77.0.1", "10.77.0.1");
	relay_one("127.0.0.1", "127.0.0.1");
	relay_one("::1", "::1");
}

/* The zone of a link-local address goes all the way; transparent it can't be. */
static void test_link_local(void **state)
{
	const struct relay_options options = { .client_ip = CLIENT_IP_TRANSPARENT };
	struct endpoint seen;
	struct bench b;
	int fd;

	if (unprivileged())
		skip();
	run("ip addr add fe80::1/64 dev v0 nodad &&" IN_CLIENT
	    "ip addr add fe80::2/64 dev v1 nodad");
	bench_open(&b, "fe80::1%v0");
	assert_int_equal(setns(client_ns, CLONE_NEWNET), 0);
	b.front_addr.scope_id = if_nametoindex("v1");
	assert_int_equal(setns(host_ns, CLONE_NEWNET), 0);
	b.client = client_connect("fe80::2", &b.front_addr);
	fd = accept4(b.front, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	b.client_addr = peer_addr(fd);
	b.front_addr = local_addr(fd);
	assert_int_equal(relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &b.target_addr,
				     &options, &b, NULL),
			 -EOPNOTSUPP);
	bench_start(&b, fd, CLIENT_IP_NONE);
	seen = peer_addr(b.server);
	assert_memory_equal(&seen.addr, &b.target_addr.addr, sizeof(seen.addr));
	expect_both_ways(&b);
	bench_close(&b);
	assert_int_equal(left_now(), 0);
}

static void test_strict_rp_filter(void **state)
{
	if (unprivileged())
		skip();
	run("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done");
	relay_one("10.77.0.1", "192.0.2.7");
}

/* The same client's other connections to the same web server, from any kind of port. */
static void test_direct_is_untouched(void **state)
{
	static const char *const from[] = { "10.77.0.2", "10.77.0.2:1023", "10.77.0.2:700",
					    "10.77.0.2:510", "10.77.0.2:40000" };
	int clients[2 * ARRAY_SIZE(from)], servers[2 * ARRAY_SIZE(from)];
	struct bench b;

	if (unprivileged())
		skip();
	bench_open(&b, "10.77.0.1");
	for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
		const char *source = from[i % ARRAY_SIZE(from)];

		if (i == ARRAY_SIZE(from)) {
			relay_from(&b, "10.77.0.2");
			expect_both_ways(&b);
			for (size_t j = 0; j < i; j++)
				reset(&clients[j]);
			for (size_t j = 0; j < i; j++)
				close(servers[j]);
		}
		clients[i] = client_connect(source, &b.target_addr);
		servers[i] = accept4(b.target, NULL, NULL, SOCK_CLOEXEC);
		send_text(clients[i], "direct");
		expect_text(&b, servers[i], "direct");
		send_text(servers[i], "answer");
		expect_text(&b, clients[i], "answer");
	}
	expect_both_ways(&b);
	for (size_t i = ARRAY_SIZE(from); i < ARRAY_SIZE(clients); i++) {
		close(clients[i]);
		close(servers[i]);
	}
	bench_close(&b);
	assert_int_equal(left_now(), 0);
}

/*
 * A web server on another host, which answers to the client by way of this one:
 * client --- host --- 10.78.0.2
 */
static void test_remote_target(void **state)
{
	struct endpoint seen;
	struct bench b;
	char text[16];
	int server_ns;
	pid_t pid;

	if (unprivileged())
		skip();
	pid = ns_hold();
	server_ns = ns_open(pid);
	snprintf(text, sizeof(text), "%d", pid);
	setenv("SERVER", text, 1);
	run("ip link add w0 type veth peer name w1 netns $SERVER && ip link set w0 up &&"
	    "ip addr add 10.78.0.1/24 dev w0 && nsenter --net=/proc/$SERVER/ns/net sh -c '"
	    "ip addr add 10.78.0.2/24 dev w1 && ip link set w1 up &&"
	    "ip route add default via 10.78.0.1'");
	bench_open(&b, "10.77.0.1");
	close_if_open(&b.target);
	assert_int_equal(setns(server_ns, CLONE_NEWNET), 0);
	b.target = listen_at("10.78.0.2", 16, &b.target_addr);
	assert_int_equal(setns(host_ns, CLONE_NEWNET), 0);

	relay_from(&b, "192.0.2.7");
	seen = peer_addr(b.server);
	assert_memory_equal(&seen.addr, &b.client_addr.addr, sizeof(seen.addr));
	expect_both_ways(&b);
	bench_close(&b);
	assert_int_equal(left_now(), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(server_ns);
}

/* A client that itself comes from the ports that would be taken, most of all from the first. */
static void test_client_at_low_port(void **state)
{
	struct bench b;

	if (unprivileged())
		skip();
	bench_open(&b, "10.77.0.1");
	relay_from(&b, "10.77.0.2:511");
	assert_int_equal(peer_addr(b.server).port, 510);
	expect_both_ways(&b);
	bench_close(&b);
}

static void test_many_of_one_client(void **state)
{
	enum { N = 1500 };
	static int fds[N][2];
	struct bench b;

	if (unprivileged())
		skip();
	bench_open(&b, "10.77.0.1");
	for (int i = 0; i < N; i++) {
		relay_from(&b, "10.77.0.2");
		assert_int_equal(local_addr(b.client).addr.s6_addr[15], 2);
		fds[i][0] = TAKE_FD(b.client);
		fds[i][1] = TAKE_FD(b.server);
	}
	pump_until(&b, b.connected == N);
	for (int i = 0; i < N; i++) {
		b.client = fds[i][0];
		b.server = fds[i][1];
		expect_both_ways(&b);
		/* The client ends it: the relay's side is left in TIME_WAIT. */
		close_if_open(&b.client);
		expect_end(&b, b.server, 0);
		close_if_open(&b.server);
	}
	pump_until(&b, b.ended == N);
	bench_close(&b);
	assert_int_equal(left_now(), 0);
}

/* Workers don't know of each other's ports: they begin far apart. */
static void test_workers_begin_apart(void **state)
{
	struct endpoint seen[4];
	struct bench b[4];

	if (unprivileged())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(b); i++) {
		bench_open(&b[i], "10.77.0.1");
		relay_from(&b[i], "10.77.0.2");
		seen[i] = peer_addr(b[i].server);
		for (size_t j = 0; j < i; j++)
			assert_true(abs(seen[i].port - seen[j].port) >= 200);
	}
	for (size_t i = 0; i < ARRAY_SIZE(b); i++)
		bench_close(&b[i]);
	assert_int_equal(left_now(), 0);
}

/* Another client costs a route, not a rule; another worker has its own of both. */
static void test_rules_are_shared(void **state)
{
	struct bench b, other;

	if (unprivileged())
		skip();
	bench_open(&b, "10.77.0.1");
	relay_from(&b, "10.77.0.2");
	relay_from(&b, "192.0.2.7");
	assert_int_equal(rules_now(), 1);
	assert_int_equal(routes_now(), 2);
	bench_open(&other, "10.77.0.1");
	relay_from(&other, "10.77.0.2");
	expect_both_ways(&other);
	assert_int_equal(rules_now(), 2);
	assert_int_equal(routes_now(), 3);
	bench_close(&other);
	assert_int_equal(rules_now(), 1);
	expect_both_ways(&b);
	bench_close(&b);
	assert_int_equal(left_now(), 0);
}

static void test_killed(void **state)
{
	unsigned removed = 0;
	pid_t pid;

	if (unprivileged())
		skip();
	run("ip rule add pref 443 ipproto tcp dport 7 lookup main protocol 172 &&"
	    "ip rule add pref 443 ipproto tcp dport 7 lookup 443000007 protocol 17 &&"
	    "ip route add 198.51.100.1/32 dev lo table 443000007 proto 17");
	pid = fork();
	if (!pid) {
		struct bench b;

		bench_open(&b, "10.77.0.1");
		relay_from(&b, "10.77.0.2");
		relay_from(&b, "10.77.0.2");
		bench_open(&b, "fd77::1");
		relay_from(&b, "fd77::2");
		raise(SIGKILL);
	}
	waitpid(pid, NULL, 0);
	assert_int_equal(rules_now(), 3);
	assert_int_equal(routes_now(), 3);

	assert_int_equal(policy_clean(&removed), 0);
	assert_int_equal(removed, 10); /* with a way round for each family */
	assert_int_equal(routes_now(), 0);
	assert_int_equal(left_now(), 1);
	/* Of others, which look a little like ours. */
	assert_int_equal(number_of("ip rule | grep -c ^443:"), 2);
	assert_int_equal(number_of("ip route show table 443000007 | grep -c 198.51.100.1"), 1);
	assert_int_equal(policy_clean(&removed), 0);
	assert_int_equal(removed, 0);
	relay_one("10.77.0.1", "10.77.0.2");
}

static void test_probe(void **state)
{
	if (unprivileged())
		skip();
	assert_int_equal(policy_probe(), 0);
	assert_int_equal(left_now(), 0);
}

/* In a child: drops capabilities to those in @keep. */
static void capabilities_keep(uint32_t keep)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { .effective = keep, .permitted = keep } };

	if (syscall(SYS_capset, &header, data) < 0)
		_exit(99);
}

static void test_privileges(void **state)
{
	const struct relay_options options = { .client_ip = CLIENT_IP_TRANSPARENT };
	int status, fd, denied, port;
	struct bench b;
	pid_t pid;

	if (unprivileged())
		skip();
	/* Without CAP_NET_BIND_SERVICE from an unprivileged port, without CAP_NET_ADMIN not at all.
	 */
	bench_open(&b, "10.77.0.1");
	b.client = client_connect("10.77.0.2", &b.front_addr);
	b.client_addr = local_addr(b.client);
	fd = accept4(b.front, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	pid = fork();
	if (!pid) {
		capabilities_keep(1u << CAP_NET_ADMIN);
		bench_start(&b, fd, CLIENT_IP_TRANSPARENT);
		port = peer_addr(b.server).port;
		send_text(b.client, "question");
		expect_text(&b, b.server, "question");
		relay_worker_done(&b.worker);
		capabilities_keep(0);
		denied = policy_probe();
		relay_worker_init(&b.worker, b.epoll_fd, REF_TYPE, &callbacks, &b);
		if (relay_start(&b.worker, fd, &b.client_addr, &b.front_addr, &b.target_addr,
				&options, &b, NULL) != -EPERM)
			denied = 0;
		_exit(port >= 1024 && denied == -EPERM ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(left_now(), 0);
	close(fd);
	bench_close(&b);
}

#define namespaced(test) cmocka_unit_test_setup_teardown(test, namespaces_make, namespaces_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		namespaced(test_address_is_kept),
		namespaced(test_link_local),
		namespaced(test_strict_rp_filter),
		namespaced(test_direct_is_untouched),
		namespaced(test_client_at_low_port),
		namespaced(test_many_of_one_client),
		namespaced(test_workers_begin_apart),
		namespaced(test_rules_are_shared),
		namespaced(test_remote_target),
		namespaced(test_killed),
		namespaced(test_probe),
		namespaced(test_privileges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
