/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Source ports of transparent relays, and what brings the replies to them back to this host. */
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
 * client's relays, not that of all relays. Nothing is shared between workers: policy.c keeps their
 * rules and routes apart, and each worker begins to search at another port, as far as can be from
 * those of the others.
 *
 * Where the target is on another host, its answers come in from there if this host is their way
 * back to C; the same rule catches them without "iif lo".
 *
 * A claim that is released stays for a while: the target's last ACK is still to come, and the
 * client often is back soon. With a worker's last claim its rules go too. What a killed process
 * leaves catches packets to a port that the client does not have; policy_clean() finds it.
 */
#include "relay_route.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "policy.h"
#include "util.h"

#define ROUTE_LOW_FIRST	 511
#define ROUTE_LOW_PORTS	 1023
#define ROUTE_HIGH_PORTS (POLICY_LAST_PORT - ROUTE_LOW_PORTS) /* from 1024 up */
#define ROUTE_PORTS	 (ROUTE_LOW_PORTS + ROUTE_HIGH_PORTS)

/* How long the route of a claim stays after its release. */
#define ROUTE_LINGER_NS (2 * NSEC_PER_SEC)
/* And how long its port is not given to another relay of that client. */
#define ROUTE_REST_NS (100 * NSEC_PER_MSEC)

#define ROUTE_BUCKETS 1024

/* Which workers there are: a bit each. */
static uint64_t route_workers;
static_assert(POLICY_OWNERS == 64, "a bit for each");

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
	struct policy_match match;
	uint8_t have[ROUTE_PORTS / 8 + 1];
	struct route_rules *next;
};

struct relay_route {
	struct policy policy; /* its owner: this worker's bit */
	bool low_ports;
	bool round[2]; /* the way round is there: v4, v6 */
	size_t n_claims;
	struct route_rules *rules;
	struct route_claim *oldest, *newest; /* released */
	struct route_claim *buckets[ROUTE_BUCKETS];
};

/* ---- rules ---- */

/* Where this worker begins in @n_ports: the first at 0, the second half-way, then the quarters. */
static unsigned first_of(const struct relay_route *route, unsigned n_ports)
{
	unsigned owner = route->policy.owner, sixty_fourths = 0;

	for (unsigned bit = 1; bit < POLICY_OWNERS; bit <<= 1)
		if (owner & bit)
			sixty_fourths += POLICY_OWNERS / 2 / bit;
	return n_ports * sixty_fourths / POLICY_OWNERS;
}

/* The @nth of the ports that this worker may use, 0 when there are no more. */
static uint16_t nth_port(const struct relay_route *route, unsigned nth)
{
	unsigned n;

	if (route->low_ports && nth < ROUTE_LOW_PORTS) {
		n = (nth + first_of(route, ROUTE_LOW_PORTS)) % ROUTE_LOW_PORTS;
		if (n < ROUTE_LOW_FIRST)
			return (uint16_t)(ROUTE_LOW_FIRST - n);
		return (uint16_t)(ROUTE_LOW_PORTS - (n - ROUTE_LOW_FIRST));
	}
	n = nth - (route->low_ports ? ROUTE_LOW_PORTS : 0);
	if (n >= ROUTE_HIGH_PORTS)
		return 0;
	n = (n + first_of(route, ROUTE_HIGH_PORTS)) % ROUTE_HIGH_PORTS;
	return (uint16_t)(ROUTE_LOW_PORTS + 1 + n);
}

static bool bit_test(const uint8_t *bits, unsigned n)
{
	return bits[n / 8] & (1u << (n % 8));
}

static void bit_set(uint8_t *bits, unsigned n)
{
	bits[n / 8] |= (uint8_t)(1u << (n % 8));
}

static struct route_rules *rules_of(struct relay_route *route, const struct policy_match *match)
{
	struct route_rules *rules;

	for (rules = route->rules; rules; rules = rules->next)
		if (rules->match.v4 == match->v4 && rules->match.local == match->local &&
		    rules->match.target_port == match->target_port)
			return rules;
	rules = calloc(1, sizeof(*rules));
	if (!rules)
		return NULL;
	rules->match = *match;
	rules->next = route->rules;
	route->rules = rules;
	return rules;
}

static int rule_want(struct relay_route *route, const struct policy_match *match, unsigned nth)
{
	struct route_rules *rules = rules_of(route, match);
	int r;

	if (!rules)
		return -ENOMEM;
	if (bit_test(rules->have, nth))
		return 0;
	if (match->local && !route->round[!match->v4]) {
		/* Without it everything works, for some nanoseconds more. */
		policy_round(&route->policy, true, match->v4);
		route->round[!match->v4] = true;
	}
	r = policy_rule(&route->policy, true, match, nth_port(route, nth));
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
				policy_rule(&route->policy, false, &rules->match,
					    nth_port(route, nth));
		route->rules = rules->next;
		free(rules);
	}
	for (unsigned v6 = 0; v6 < ARRAY_SIZE(route->round); v6++) {
		if (route->round[v6])
			policy_round(&route->policy, false, !v6);
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
	policy_route(&route->policy, false, &claim->addr, claim->port);
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
	r = policy_route(&route->policy, true, &claim->addr, claim->port);
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
	const struct policy_match match = { .v4 = endpoint_is_v4(client),
					    .local = target_is_local,
					    .target_port = target->port };
	struct route_claim *claim;
	unsigned nth;
	int r;

	/* An address that means something on one link only: lo would have to pass for that link. */
	if (IN6_IS_ADDR_LINKLOCAL(&client->addr))
		return -EOPNOTSUPP;
	if (match.v4 != endpoint_is_v4(target))
		return -EOPNOTSUPP;
	r = claim_choose(route, client, target->port, &nth, &claim);
	if (r < 0)
		return r;
	r = rule_want(route, &match, nth);
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
static int worker_number_take(unsigned *ret_number)
{
	uint64_t taken = __atomic_load_n(&route_workers, __ATOMIC_RELAXED);
	unsigned number;

	do {
		if (taken == UINT64_MAX)
			return -EBUSY;
		number = (unsigned)__builtin_ctzll(~taken);
	} while (!__atomic_compare_exchange_n(&route_workers, &taken, taken | UINT64_C(1) << number,
					      false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
	*ret_number = number;
	return 0;
}

static void worker_number_return(unsigned number)
{
	__atomic_fetch_and(&route_workers, ~(UINT64_C(1) << number), __ATOMIC_RELEASE);
}

int relay_route_new(struct relay_route **ret_route)
{
	struct relay_route *route = calloc(1, sizeof(*route));
	unsigned number;
	int r;

	if (!route)
		return -ENOMEM;
	r = worker_number_take(&number);
	if (r < 0) {
		free(route);
		return r;
	}
	r = policy_open(&route->policy, number);
	if (r < 0) {
		worker_number_return(number);
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
	policy_close(&route->policy);
	worker_number_return(route->policy.owner);
	free(route);
}
