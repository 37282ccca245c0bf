/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Policy routes that bring replies to a client's address back to a transparent relay on this host.
 */
/*
 * Theory of operation
 *
 * A transparent relay connects to the web server from the client's own address C and a port x. The
 * SYN needs no help: it leaves a socket with IP_TRANSPARENT and the web server's address is local.
 * The web server's answers are the problem. They go to C, and C is somewhere out on the wire.
 *
 * The usual set-up gives the answers a mark and routes by it. Without iptables nothing can mark
 * them: a mark on our SYN is not taken over by the server's socket (tcp_fwmark_accept is 0 and not
 * ours to change), and the SYN-ACK is made, routed and sent before any BPF program could mark its
 * socket (sock_ops first runs for an established one; a packet marked at tc egress has been routed
 * already, and sent back in by way of lo it is a martian to IPv4).
 *
 * But TCP asks for its routes with the ports (inet_csk_route_req(), inet_csk_route_child_sock(),
 * ip_queue_xmit(), inet6_csk_route_socket(), tcp_v4_send_reset() ...), and since Linux 4.17 rules
 * match ports. So for each relayed connection there are
 *
 *   rule   iif lo ipproto tcp sport PORT dport x lookup TABLE+x     shared by all clients
 *   route  local C dev lo table TABLE+x                             one client
 *
 * which together catch TCP packets of this host from PORT to C's port x, and nothing else: not
 * other packets to C, not the client's direct connections, which come from other ports, not
 * forwarded packets (iif lo). The answers are delivered over lo like those of any local connection;
 * a packet on lo brings its route along, so neither rp_filter nor the check for martians sees it.
 *
 * The ports x are such as a client's own connections don't have: first the privileged ones, from
 * 511 down (NATs and rresvport() start from 1023 or 600), then those above 1023, then from 1024 up.
 * A client gets the first that it does not use yet, so the number of rules is that of the busiest
 * client's relays, not that of all relays. A rule costs every route lookup of the host some 12 ns,
 * so one leads everything that is not to such a port round the others:
 *
 *   rule   not iif lo ipproto tcp dport 1-9215 goto END     (END: nop)
 *
 * Nothing is shared between workers: rules differ in priority, routes in metric, and each worker
 * begins to search at another port.
 *
 * Where the target is on another host, its answers come in from there if this host is their way
 * back to C; the same rule catches them without "iif lo".
 *
 * A claim that is released stays for a while: the target's last ACK is still to come, and the
 * client often is back soon. With a worker's last claim its rules go too. What a killed process
 * leaves catches packets to a port that the client does not have; relay_route_clean() finds it by
 * priority, protocol and table.
 */
#include "relay_route.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define ROUTE_PRIORITY 443	  /* of the first worker's first rule, see enum route_place */
#define ROUTE_PROTOCOL 172	  /* of rules and routes: who made them; unused elsewhere */
#define ROUTE_TABLE    443000000u /* plus the port */
#define ROUTE_LO       1	  /* LOOPBACK_IFINDEX of every network namespace */

#define ROUTE_LOW_FIRST	 511
#define ROUTE_LOW_PORTS	 1023
#define ROUTE_HIGH_PORTS 8192  /* above the privileged ones; ends below ephemeral ports */
#define ROUTE_PROBE_PORT 65534 /* the highest that rules take */
#define ROUTE_PORTS	 (ROUTE_LOW_PORTS + ROUTE_HIGH_PORTS)

/* How long the route of a claim stays after its release. */
#define ROUTE_LINGER_NS (2 * NSEC_PER_SEC)
/* And how long its port is not given to another relay of that client. */
#define ROUTE_REST_NS (100 * NSEC_PER_MSEC)

#define ROUTE_BUCKETS 1024

/* The rules of one worker, by priority: in the order that they are looked at. */
enum route_place {
	PLACE_REMOTE, /* for targets on other hosts, which the way round would leave out */
	PLACE_ROUND,  /* the way round the next */
	PLACE_LOCAL,
	PLACE_END,
	PLACES
};

/* Workers at once, of all engines. */
#define ROUTE_WORKERS 64

/* Which of them there are: a bit each. */
static uint64_t route_workers;

/* One source (address and port), with its route. */
struct route_claim {
	struct in6_addr addr;
	uint16_t port;
	uint16_t nth; /* of this worker's ports */
	bool in_use;
	uint64_t released_ns;
	struct route_claim *next;	   /* in the bucket */
	struct route_claim *older, *newer; /* released ones, in order */
};

/* The rules of one target port, by the port that they match. */
struct route_rules {
	bool v4;
	bool local;
	uint16_t target_port;
	uint8_t have[ROUTE_PORTS / 8 + 1];
	struct route_rules *next;
};

struct relay_route {
	struct mnl_socket *netlink;
	uint32_t seq;
	unsigned worker; /* 0 to ROUTE_WORKERS - 1, nobody else's */
	bool low_ports;
	bool round[2]; /* the way round is there: v4, v6 */
	size_t n_claims;
	struct route_rules *rules;
	struct route_claim *oldest, *newest; /* released */
	struct route_claim *buckets[ROUTE_BUCKETS];
};

/* ---- netlink ---- */

/* Big enough for every request here and for each part of a dump. */
union route_message {
	struct nlmsghdr header;
	char bytes[16384];
};

static int netlink_open(struct mnl_socket **ret_netlink)
{
	struct mnl_socket *netlink = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	int one = 1;

	if (!netlink)
		return -errno;
	/* So that a dump can ask for one table; Linux 4.20. Without it there is more to sift. */
	mnl_socket_setsockopt(netlink, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	if (mnl_socket_bind(netlink, 0, MNL_SOCKET_AUTOPID) < 0) {
		int r = -errno;

		mnl_socket_close(netlink);
		return r;
	}
	*ret_netlink = netlink;
	return 0;
}

/* Sends a request and takes its answers up to the acknowledgement or the end of the dump. */
static int netlink_ask(struct mnl_socket *netlink, struct nlmsghdr *request, mnl_cb_t each,
		       void *ctx)
{
	unsigned portid = mnl_socket_get_portid(netlink);
	union route_message answer;
	ssize_t n;
	int r;

	if (mnl_socket_sendto(netlink, request, request->nlmsg_len) < 0)
		return -errno;
	do {
		n = mnl_socket_recvfrom(netlink, &answer, sizeof(answer));
		if (n < 0)
			return -errno;
		r = mnl_cb_run(&answer, (size_t)n, request->nlmsg_seq, portid, each, ctx);
	} while (r > MNL_CB_STOP);
	return r < 0 ? -errno : 0;
}

static struct nlmsghdr *message_begin(union route_message *message, uint16_t type, uint32_t seq)
{
	struct nlmsghdr *header = mnl_nlmsg_put_header(message);

	header->nlmsg_type = type;
	header->nlmsg_seq = seq;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	if (type == RTM_NEWRULE || type == RTM_NEWROUTE)
		header->nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
	return header;
}

/* Begins to add or to delete (@type) a rule. */
static struct fib_rule_hdr *rule_begin(union route_message *message, uint32_t seq, uint16_t type,
				       bool v4, unsigned worker, enum route_place place)
{
	struct nlmsghdr *header = message_begin(message, type, seq);
	struct fib_rule_hdr *rule = mnl_nlmsg_put_extra_header(header, sizeof(*rule));

	rule->family = v4 ? AF_INET : AF_INET6;
	mnl_attr_put_u32(header, FRA_PRIORITY, ROUTE_PRIORITY + worker * PLACES + place);
	mnl_attr_put_u8(header, FRA_PROTOCOL, ROUTE_PROTOCOL);
	return rule;
}

static void rule_put_match(struct nlmsghdr *header, bool local, uint16_t first_dport,
			   uint16_t last_dport)
{
	const struct fib_rule_port_range dports = { first_dport, last_dport };

	if (local)
		mnl_attr_put_strz(header, FRA_IIFNAME, "lo");
	mnl_attr_put_u8(header, FRA_IP_PROTO, IPPROTO_TCP);
	mnl_attr_put(header, FRA_DPORT_RANGE, sizeof(dports), &dports);
}

/* Adds or deletes (@type) the rule for @port; see the theory of operation. */
static int rule_change(struct mnl_socket *netlink, uint32_t seq, uint16_t type, unsigned worker,
		       const struct route_rules *rules, uint16_t port)
{
	const struct fib_rule_port_range sport = { rules->target_port, rules->target_port };
	union route_message message;

	rule_begin(&message, seq, type, rules->v4, worker,
		   rules->local ? PLACE_LOCAL : PLACE_REMOTE)
		->action = FR_ACT_TO_TBL;
	rule_put_match(&message.header, rules->local, port, port);
	mnl_attr_put(&message.header, FRA_SPORT_RANGE, sizeof(sport), &sport);
	mnl_attr_put_u32(&message.header, FRA_TABLE, ROUTE_TABLE + port);
	return netlink_ask(netlink, &message.header, NULL, NULL);
}

/* Adds or deletes (@type) the way round the rules of PLACE_LOCAL. */
static int round_change(struct mnl_socket *netlink, uint32_t *seq, uint16_t type, unsigned worker,
			bool v4)
{
	union route_message message;
	struct fib_rule_hdr *rule;
	int r;

	rule_begin(&message, ++*seq, type, v4, worker, PLACE_END)->action = FR_ACT_NOP;
	r = netlink_ask(netlink, &message.header, NULL, NULL);
	if (r < 0 && r != -EEXIST)
		return r;
	rule = rule_begin(&message, ++*seq, type, v4, worker, PLACE_ROUND);
	rule->action = FR_ACT_GOTO;
	rule->flags = FIB_RULE_INVERT;
	rule_put_match(&message.header, true, 1, ROUTE_PORTS);
	mnl_attr_put_u32(&message.header, FRA_GOTO, ROUTE_PRIORITY + worker * PLACES + PLACE_END);
	return netlink_ask(netlink, &message.header, NULL, NULL);
}

/* Adds or deletes (@type) the local route to @addr in @port's table. */
static int route_change(struct mnl_socket *netlink, uint32_t seq, uint16_t type, unsigned worker,
			const struct in6_addr *addr, uint16_t port)
{
	bool v4 = IN6_IS_ADDR_V4MAPPED(addr);
	union route_message message;
	struct nlmsghdr *header = message_begin(&message, type, seq);
	struct rtmsg *route = mnl_nlmsg_put_extra_header(header, sizeof(*route));

	route->rtm_family = v4 ? AF_INET : AF_INET6;
	route->rtm_dst_len = v4 ? 32 : 128;
	route->rtm_protocol = ROUTE_PROTOCOL;
	route->rtm_scope = v4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_LOCAL;
	mnl_attr_put(header, RTA_DST, v4 ? 4 : 16, &addr->s6_addr[v4 ? 12 : 0]);
	mnl_attr_put_u32(header, RTA_TABLE, ROUTE_TABLE + port);
	mnl_attr_put_u32(header, RTA_OIF, ROUTE_LO);
	mnl_attr_put_u32(header, RTA_PRIORITY, worker + 1);
	return netlink_ask(netlink, header, NULL, NULL);
}

/* ---- rules ---- */

/* The @nth of the ports that this worker may use, 0 when there are no more. */
static uint16_t nth_port(const struct relay_route *route, unsigned nth)
{
	unsigned start = route->worker * (ROUTE_LOW_PORTS / ROUTE_WORKERS), n;

	if (route->low_ports && nth < ROUTE_LOW_PORTS) {
		n = (nth + start) % ROUTE_LOW_PORTS;
		if (n < ROUTE_LOW_FIRST)
			return (uint16_t)(ROUTE_LOW_FIRST - n);
		return (uint16_t)(ROUTE_LOW_PORTS - (n - ROUTE_LOW_FIRST));
	}
	n = nth - (route->low_ports ? ROUTE_LOW_PORTS : 0);
	if (n >= ROUTE_HIGH_PORTS)
		return 0;
	return (uint16_t)(ROUTE_LOW_PORTS + 1 + (n + start) % ROUTE_HIGH_PORTS);
}

static bool bit_test(const uint8_t *bits, unsigned n)
{
	return bits[n / 8] & (1u << (n % 8));
}

static void bit_set(uint8_t *bits, unsigned n)
{
	bits[n / 8] |= (uint8_t)(1u << (n % 8));
}

static int rule_want(struct relay_route *route, bool v4, bool local, uint16_t target_port,
		     unsigned nth)
{
	struct route_rules *rules;
	int r;

	for (rules = route->rules; rules; rules = rules->next)
		if (rules->v4 == v4 && rules->local == local && rules->target_port == target_port)
			break;
	if (!rules) {
		rules = calloc(1, sizeof(*rules));
		if (!rules)
			return -ENOMEM;
		rules->v4 = v4;
		rules->local = local;
		rules->target_port = target_port;
		rules->next = route->rules;
		route->rules = rules;
	}
	if (bit_test(rules->have, nth))
		return 0;
	/* Without it everything works, for some nanoseconds more. */
	if (local && !route->round[!v4])
		round_change(route->netlink, &route->seq, RTM_NEWRULE, route->worker, v4);
	if (local)
		route->round[!v4] = true;
	r = rule_change(route->netlink, ++route->seq, RTM_NEWRULE, route->worker, rules,
			nth_port(route, nth));
	if (r < 0 && r != -EEXIST)
		return r;
	bit_set(rules->have, nth);
	return 0;
}

static void rules_remove(struct relay_route *route)
{
	while (route->rules) {
		struct route_rules *rules = route->rules;

		for (unsigned nth = 0; nth_port(route, nth); nth++)
			if (bit_test(rules->have, nth))
				rule_change(route->netlink, ++route->seq, RTM_DELRULE,
					    route->worker, rules, nth_port(route, nth));
		route->rules = rules->next;
		free(rules);
	}
	for (unsigned v6 = 0; v6 < ARRAY_SIZE(route->round); v6++) {
		if (route->round[v6])
			round_change(route->netlink, &route->seq, RTM_DELRULE, route->worker, !v6);
		route->round[v6] = false;
	}
}

/* ---- claims ---- */

/* FNV-1a. A client chooses its address no more than it could choose to connect more often. */
static struct route_claim **bucket_of(struct relay_route *route, const struct in6_addr *addr)
{
	uint32_t hash = 0x811c9dc5;

	for (size_t i = 0; i < sizeof(addr->s6_addr); i++)
		hash = (hash ^ addr->s6_addr[i]) * 0x01000193;
	return &route->buckets[(hash ^ hash >> 16) % ROUTE_BUCKETS];
}

static void released_unlink(struct relay_route *route, struct route_claim *claim)
{
	if (claim->older)
		claim->older->newer = claim->newer;
	else
		route->oldest = claim->newer;
	if (claim->newer)
		claim->newer->older = claim->older;
	else
		route->newest = claim->older;
	claim->older = claim->newer = NULL;
}

static void released_append(struct relay_route *route, struct route_claim *claim)
{
	claim->newer = NULL;
	claim->older = route->newest;
	if (route->newest)
		route->newest->newer = claim;
	else
		route->oldest = claim;
	route->newest = claim;
}

/* Takes a released claim away, with its route. */
static void claim_remove(struct relay_route *route, struct route_claim *claim)
{
	struct route_claim **link = bucket_of(route, &claim->addr);

	while (*link != claim)
		link = &(*link)->next;
	*link = claim->next;
	released_unlink(route, claim);
	route_change(route->netlink, ++route->seq, RTM_DELROUTE, route->worker, &claim->addr,
		     claim->port);
	route->n_claims--;
	free(claim);
}

/* The first port that no relay of this client has or had just now. */
static int claim_choose(struct relay_route *route, const struct endpoint *client,
			uint16_t target_port, unsigned *ret_nth, struct route_claim **ret_claim)
{
	uint8_t used[ROUTE_PORTS / 8 + 1] = {};
	struct route_claim *bucket = *bucket_of(route, &client->addr), *claim;
	uint64_t rested_ns = now_ns() - ROUTE_REST_NS;
	unsigned nth = 0;
	uint16_t port;

	for (claim = bucket; claim; claim = claim->next)
		if (IN6_ARE_ADDR_EQUAL(&claim->addr, &client->addr) &&
		    (claim->in_use || claim->released_ns > rested_ns))
			bit_set(used, claim->nth);
	/* The client's own port is that of its connection to us, whose packets must not be caught.
	 */
	for (port = nth_port(route, nth); port; port = nth_port(route, ++nth))
		if (!bit_test(used, nth) && port != client->port && port != target_port)
			break;
	if (!port)
		return -EADDRNOTAVAIL;
	for (claim = bucket; claim; claim = claim->next)
		if (claim->nth == nth && IN6_ARE_ADDR_EQUAL(&claim->addr, &client->addr))
			break;
	*ret_nth = nth;
	*ret_claim = claim;
	return 0;
}

static int claim_add(struct relay_route *route, const struct endpoint *client, unsigned nth,
		     struct route_claim **ret_claim)
{
	struct route_claim *claim = calloc(1, sizeof(*claim)), **bucket;
	int r;

	if (!claim)
		return -ENOMEM;
	claim->addr = client->addr;
	claim->port = nth_port(route, nth);
	claim->nth = (uint16_t)nth;
	r = route_change(route->netlink, ++route->seq, RTM_NEWROUTE, route->worker, &claim->addr,
			 claim->port);
	if (r < 0 && r != -EEXIST) {
		free(claim);
		return r;
	}
	bucket = bucket_of(route, &claim->addr);
	claim->next = *bucket;
	*bucket = claim;
	route->n_claims++;
	*ret_claim = claim;
	return 0;
}

int relay_route_claim(struct relay_route *route, const struct endpoint *client,
		      const struct endpoint *target, bool target_is_local, uint16_t *ret_port)
{
	struct route_claim *claim;
	unsigned nth;
	int r;

	/* An address that means something on one link only: lo would have to pass for that link. */
	if (IN6_IS_ADDR_LINKLOCAL(&client->addr))
		return -EOPNOTSUPP;
	if (endpoint_is_v4(client) != endpoint_is_v4(target))
		return -EOPNOTSUPP;
	r = claim_choose(route, client, target->port, &nth, &claim);
	if (r < 0)
		return r;
	/* The rule first and gone last: a table with routes always has a rule to be found by. */
	r = rule_want(route, endpoint_is_v4(client), target_is_local, target->port, nth);
	if (r < 0)
		return r;
	if (claim) {
		released_unlink(route, claim);
	} else {
		r = claim_add(route, client, nth, &claim);
		if (r < 0)
			return r;
	}
	claim->in_use = true;
	*ret_port = claim->port;
	return 0;
}

void relay_route_release(struct relay_route *route, const struct endpoint *source, uint64_t now_ns)
{
	struct route_claim *claim = *bucket_of(route, &source->addr);

	while (claim &&
	       (claim->port != source->port || !IN6_ARE_ADDR_EQUAL(&claim->addr, &source->addr)))
		claim = claim->next;
	if (!claim || !claim->in_use)
		return;
	claim->in_use = false;
	claim->released_ns = now_ns;
	released_append(route, claim);
}

uint64_t relay_route_tick(struct relay_route *route, uint64_t now_ns)
{
	while (route->oldest && route->oldest->released_ns + ROUTE_LINGER_NS <= now_ns)
		claim_remove(route, route->oldest);
	if (!route->n_claims)
		rules_remove(route);
	return route->oldest ? route->oldest->released_ns + ROUTE_LINGER_NS : UINT64_MAX;
}

/* ---- begin and end ---- */

/* May this process bind to privileged ports? */
static bool low_ports_allowed(void)
{
	const struct sockaddr_in sa = { .sin_family = AF_INET,
					.sin_port = htons(ROUTE_LOW_FIRST),
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && (!bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) || errno != EACCES);
}

/* Takes the first number that no worker has. */
static int worker_number_take(unsigned *ret_worker)
{
	uint64_t taken = __atomic_load_n(&route_workers, __ATOMIC_RELAXED);
	unsigned worker;

	do {
		if (taken == UINT64_MAX)
			return -EBUSY;
		worker = (unsigned)__builtin_ctzll(~taken);
	} while (!__atomic_compare_exchange_n(&route_workers, &taken, taken | UINT64_C(1) << worker,
					      false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
	*ret_worker = worker;
	return 0;
}

static void worker_number_return(unsigned worker)
{
	__atomic_fetch_and(&route_workers, ~(UINT64_C(1) << worker), __ATOMIC_RELEASE);
}

int relay_route_new(struct relay_route **ret_route)
{
	struct relay_route *route = calloc(1, sizeof(*route));
	int r;

	if (!route)
		return -ENOMEM;
	r = worker_number_take(&route->worker);
	if (r < 0) {
		free(route);
		return r;
	}
	r = netlink_open(&route->netlink);
	if (r < 0) {
		worker_number_return(route->worker);
		free(route);
		return r;
	}
	route->low_ports = low_ports_allowed();
	*ret_route = route;
	return 0;
}

void relay_route_free(struct relay_route *route)
{
	if (!route)
		return;
	for (size_t i = 0; i < ROUTE_BUCKETS; i++)
		for (struct route_claim *claim = route->buckets[i]; claim; claim = claim->next)
			if (claim->in_use) {
				claim->in_use = false;
				released_append(route, claim);
			}
	relay_route_tick(route, UINT64_MAX);
	mnl_socket_close(route->netlink);
	worker_number_return(route->worker);
	free(route);
}

/* ---- what an earlier process left ---- */

/* Messages to send back as deletions: deleting while a dump runs would make it skip some. */
struct route_leftovers {
	char *messages;
	size_t len, size;
};

static int leftovers_keep(struct route_leftovers *left, const struct nlmsghdr *header)
{
	size_t len = MNL_ALIGN(header->nlmsg_len);

	if (left->len + len > left->size) {
		size_t size = MAX(2 * left->size, left->len + MAX(len, 4096u));
		char *messages = realloc(left->messages, size);

		if (!messages) {
			errno = ENOMEM;
			return MNL_CB_ERROR;
		}
		left->messages = messages;
		left->size = size;
	}
	memcpy(left->messages + left->len, header, header->nlmsg_len);
	left->len += len;
	return MNL_CB_OK;
}

/* The attribute's number; @missing if it is not there. */
static uint32_t message_number(const struct nlmsghdr *header, size_t header_size, uint16_t type,
			       uint32_t missing)
{
	const struct nlattr *attr;

	mnl_attr_for_each(attr, header, header_size)
	{
		if (mnl_attr_get_type(attr) != type)
			continue;
		return mnl_attr_get_payload_len(attr) == 1 ? mnl_attr_get_u8(attr)
							   : mnl_attr_get_u32(attr);
	}
	return missing;
}

/* Other programs may use our protocol or priority numbers: all of it together is ours. */
static int rule_each(const struct nlmsghdr *header, void *ctx)
{
	const struct fib_rule_hdr *rule = mnl_nlmsg_get_payload(header);
	uint32_t table = message_number(header, sizeof(*rule), FRA_TABLE, 0);
	uint32_t priority = message_number(header, sizeof(*rule), FRA_PRIORITY, 0);
	bool ours = rule->action == FR_ACT_GOTO || rule->action == FR_ACT_NOP;

	if (rule->action == FR_ACT_TO_TBL)
		ours = table >= ROUTE_TABLE && table <= ROUTE_TABLE + UINT16_MAX;
	if (!ours || priority < ROUTE_PRIORITY ||
	    priority >= ROUTE_PRIORITY + PLACES * ROUTE_WORKERS ||
	    message_number(header, sizeof(*rule), FRA_PROTOCOL, 0) != ROUTE_PROTOCOL)
		return MNL_CB_OK;
	return leftovers_keep(ctx, header);
}

static int route_each(const struct nlmsghdr *header, void *ctx)
{
	const struct rtmsg *route = mnl_nlmsg_get_payload(header);
	uint32_t table = message_number(header, sizeof(*route), RTA_TABLE, 0);

	if (route->rtm_protocol != ROUTE_PROTOCOL || route->rtm_type != RTN_LOCAL ||
	    table < ROUTE_TABLE || table > ROUTE_TABLE + UINT16_MAX)
		return MNL_CB_OK;
	return leftovers_keep(ctx, header);
}

/* All rules, or the routes of one table when it is not 0. */
static int leftovers_dump(struct mnl_socket *netlink, uint32_t *seq, int family, uint32_t table,
			  struct route_leftovers *left)
{
	union route_message message;
	struct nlmsghdr *header = mnl_nlmsg_put_header(&message);

	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	header->nlmsg_seq = ++*seq;
	if (table) {
		struct rtmsg *route = mnl_nlmsg_put_extra_header(header, sizeof(*route));

		header->nlmsg_type = RTM_GETROUTE;
		route->rtm_family = (unsigned char)family;
		mnl_attr_put_u32(header, RTA_TABLE, table);
		return netlink_ask(netlink, header, route_each, left);
	}
	header->nlmsg_type = RTM_GETRULE;
	((struct fib_rule_hdr *)mnl_nlmsg_put_extra_header(header, sizeof(struct fib_rule_hdr)))
		->family = (uint8_t)family;
	return netlink_ask(netlink, header, rule_each, left);
}

static int leftovers_delete(struct mnl_socket *netlink, uint32_t *seq, uint16_t type,
			    struct route_leftovers *left, unsigned *removed)
{
	int first_error = 0;

	for (size_t at = 0; at < left->len;) {
		struct nlmsghdr *header = (struct nlmsghdr *)(left->messages + at);
		int r;

		header->nlmsg_type = type;
		header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
		header->nlmsg_seq = ++*seq;
		header->nlmsg_pid = 0;
		r = netlink_ask(netlink, header, NULL, NULL);
		if (r >= 0)
			++*removed;
		else if (!first_error && r != -ENOENT && r != -ESRCH)
			first_error = r;
		at += MNL_ALIGN(header->nlmsg_len);
	}
	return first_error;
}

static int clean_family(struct mnl_socket *netlink, uint32_t *seq, int family, unsigned *removed)
{
	struct route_leftovers rules = {}, routes = {};
	int r = leftovers_dump(netlink, seq, family, 0, &rules);

	/* Each table of ours has a rule: no need to look through all of the host's routes. */
	for (size_t at = 0; r >= 0 && at < rules.len;) {
		const struct nlmsghdr *rule = (struct nlmsghdr *)(rules.messages + at);
		uint32_t table = message_number(rule, sizeof(struct fib_rule_hdr), FRA_TABLE, 0);

		if (table)
			r = leftovers_dump(netlink, seq, family, table, &routes);
		if (r == -ENOENT)
			r = 0;
		at += MNL_ALIGN(rule->nlmsg_len);
	}
	if (r >= 0)
		r = leftovers_delete(netlink, seq, RTM_DELROUTE, &routes, removed);
	if (r >= 0)
		r = leftovers_delete(netlink, seq, RTM_DELRULE, &rules, removed);
	free(rules.messages);
	free(routes.messages);
	return r;
}

/* Without IPv6, or without policy routing, there is nothing of ours. */
static bool family_absent(int error)
{
	return error == -EAFNOSUPPORT || error == -EOPNOTSUPP || error == -EPFNOSUPPORT;
}

int relay_route_clean(unsigned *ret_removed)
{
	struct mnl_socket *netlink;
	unsigned removed = 0;
	uint32_t seq = 0;
	int r;

	r = netlink_open(&netlink);
	if (r < 0)
		return r;
	r = clean_family(netlink, &seq, AF_INET, &removed);
	if (r >= 0 || family_absent(r))
		r = clean_family(netlink, &seq, AF_INET6, &removed);
	mnl_socket_close(netlink);
	if (r < 0 && !family_absent(r))
		return r;
	if (ret_removed)
		*ret_removed = removed;
	return 0;
}

int relay_route_probe(void)
{
	/* From a port that nobody answers at to an address for documentation. */
	const struct route_rules nothing = { .v4 = true, .local = true, .target_port = 1 };
	const struct in6_addr nobody = { .s6_addr = {
						 [10] = 0xff, [11] = 0xff, [12] = 192, 0, 2, 1 } };
	struct mnl_socket *netlink;
	uint32_t seq = 0;
	int r;

	r = netlink_open(&netlink);
	if (r < 0)
		return r;
	r = rule_change(netlink, ++seq, RTM_NEWRULE, 0, &nothing, ROUTE_PROBE_PORT);
	if (r >= 0) {
		r = route_change(netlink, ++seq, RTM_NEWROUTE, 0, &nobody, ROUTE_PROBE_PORT);
		if (r >= 0)
			r = route_change(netlink, ++seq, RTM_DELROUTE, 0, &nobody,
					 ROUTE_PROBE_PORT);
		rule_change(netlink, ++seq, RTM_DELRULE, 0, &nothing, ROUTE_PROBE_PORT);
	}
	mnl_socket_close(netlink);
	return r;
}
