/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The policy rules and routes of transparent relays in the kernel, by rtnetlink. */
/*
 * What they are for is told in relay_route.c. Each owner has a block of rules:
 *
 *   443 + 4 * owner  ipproto tcp sport PORT dport x lookup TABLE+x         targets on other hosts
 *                +1  not iif lo ipproto tcp dport 1-9215 goto the last     the way round
 *                +2  iif lo ipproto tcp sport PORT dport x lookup TABLE+x  targets on this host
 *                +3  nop
 *
 * and routes with a metric of its own, so that owners never delete one another's. The way round
 * spares the host's other packets the rules behind it, of which each costs a route lookup some
 * 12 ns. Those for other hosts are before it; they match what this host receives, too.
 *
 * Rules are added before the routes and removed after them: a table of ours that has routes also
 * has a rule, by which policy_clean() finds it.
 */
#include "policy.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "util.h"

#define POLICY_PRIORITY	  443	     /* of the first owner's first rule */
#define POLICY_PROTOCOL	  172	     /* of rules and routes: who made them; unused elsewhere */
#define POLICY_TABLE	  443000000u /* plus the port */
#define POLICY_LO	  1	     /* LOOPBACK_IFINDEX of every network namespace */
#define POLICY_PROBE_PORT 65534	     /* the highest that rules take */

/* The rules of one owner, by priority: in the order that they are looked at. */
enum policy_place { PLACE_REMOTE, PLACE_ROUND, PLACE_LOCAL, PLACE_END, PLACES };

/* Big enough for every request here and for each part of a dump. */
union policy_message {
	struct nlmsghdr header;
	char bytes[16384];
};

int policy_open(struct policy *policy, unsigned owner)
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
	*policy = (struct policy){ .netlink = netlink, .owner = owner };
	return 0;
}

void policy_close(struct policy *policy)
{
	mnl_socket_close(policy->netlink);
	policy->netlink = NULL;
}

/* Sends a request and takes its answers up to the acknowledgement or the end of the dump. */
static int policy_ask(struct policy *policy, struct nlmsghdr *request, mnl_cb_t each, void *ctx)
{
	unsigned portid = mnl_socket_get_portid(policy->netlink);
	union policy_message answer;
	ssize_t n;
	int r;

	request->nlmsg_seq = ++policy->seq;
	if (mnl_socket_sendto(policy->netlink, request, request->nlmsg_len) < 0)
		return -errno;
	do {
		n = mnl_socket_recvfrom(policy->netlink, &answer, sizeof(answer));
		if (n < 0)
			return -errno;
		r = mnl_cb_run(&answer, (size_t)n, request->nlmsg_seq, portid, each, ctx);
	} while (r > MNL_CB_STOP);
	return r < 0 ? -errno : 0;
}

static struct nlmsghdr *message_begin(union policy_message *message, bool add, uint16_t add_type,
				      uint16_t delete_type)
{
	struct nlmsghdr *header = mnl_nlmsg_put_header(message);

	header->nlmsg_type = add ? add_type : delete_type;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	if (add)
		header->nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
	return header;
}

/* ---- rules and routes ---- */

static uint32_t rule_priority(const struct policy *policy, enum policy_place place)
{
	return POLICY_PRIORITY + policy->owner * PLACES + place;
}

static struct fib_rule_hdr *rule_begin(union policy_message *message, const struct policy *policy,
				       bool add, bool v4, enum policy_place place)
{
	struct nlmsghdr *header = message_begin(message, add, RTM_NEWRULE, RTM_DELRULE);
	struct fib_rule_hdr *rule = mnl_nlmsg_put_extra_header(header, sizeof(*rule));

	rule->family = v4 ? AF_INET : AF_INET6;
	mnl_attr_put_u32(header, FRA_PRIORITY, rule_priority(policy, place));
	mnl_attr_put_u8(header, FRA_PROTOCOL, POLICY_PROTOCOL);
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

int policy_rule(struct policy *policy, bool add, const struct policy_match *match, uint16_t port)
{
	const struct fib_rule_port_range sport = { match->target_port, match->target_port };
	union policy_message message;

	rule_begin(&message, policy, add, match->v4, match->local ? PLACE_LOCAL : PLACE_REMOTE)
		->action = FR_ACT_TO_TBL;
	rule_put_match(&message.header, match->local, port, port);
	mnl_attr_put(&message.header, FRA_SPORT_RANGE, sizeof(sport), &sport);
	mnl_attr_put_u32(&message.header, FRA_TABLE, POLICY_TABLE + port);
	return policy_ask(policy, &message.header, NULL, NULL);
}

int policy_round(struct policy *policy, bool add, bool v4)
{
	union policy_message message;
	struct fib_rule_hdr *rule;
	int r;

	rule_begin(&message, policy, add, v4, PLACE_END)->action = FR_ACT_NOP;
	r = policy_ask(policy, &message.header, NULL, NULL);
	if (r < 0 && r != -EEXIST)
		return r;
	rule = rule_begin(&message, policy, add, v4, PLACE_ROUND);
	rule->action = FR_ACT_GOTO;
	rule->flags = FIB_RULE_INVERT;
	rule_put_match(&message.header, true, 1, POLICY_LAST_PORT);
	mnl_attr_put_u32(&message.header, FRA_GOTO, rule_priority(policy, PLACE_END));
	return policy_ask(policy, &message.header, NULL, NULL);
}

int policy_route(struct policy *policy, bool add, const struct in6_addr *addr, uint16_t port)
{
	bool v4 = IN6_IS_ADDR_V4MAPPED(addr);
	union policy_message message;
	struct nlmsghdr *header = message_begin(&message, add, RTM_NEWROUTE, RTM_DELROUTE);
	struct rtmsg *route = mnl_nlmsg_put_extra_header(header, sizeof(*route));

	route->rtm_family = v4 ? AF_INET : AF_INET6;
	route->rtm_dst_len = v4 ? 32 : 128;
	route->rtm_protocol = POLICY_PROTOCOL;
	route->rtm_scope = v4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_LOCAL;
	mnl_attr_put(header, RTA_DST, v4 ? 4 : 16, &addr->s6_addr[v4 ? 12 : 0]);
	mnl_attr_put_u32(header, RTA_TABLE, POLICY_TABLE + port);
	mnl_attr_put_u32(header, RTA_OIF, POLICY_LO);
	mnl_attr_put_u32(header, RTA_PRIORITY, policy->owner + 1);
	return policy_ask(policy, header, NULL, NULL);
}

/* ---- what an earlier process left ---- */

/* Messages to send back as deletions: deleting while a dump runs would make it skip some. */
struct policy_leftovers {
	char *messages;
	size_t len, size;
};

static int leftovers_keep(struct policy_leftovers *left, const struct nlmsghdr *header)
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
		ours = table >= POLICY_TABLE && table <= POLICY_TABLE + UINT16_MAX;
	if (!ours || priority < POLICY_PRIORITY ||
	    priority >= POLICY_PRIORITY + PLACES * POLICY_OWNERS ||
	    message_number(header, sizeof(*rule), FRA_PROTOCOL, 0) != POLICY_PROTOCOL)
		return MNL_CB_OK;
	return leftovers_keep(ctx, header);
}

static int route_each(const struct nlmsghdr *header, void *ctx)
{
	const struct rtmsg *route = mnl_nlmsg_get_payload(header);
	uint32_t table = message_number(header, sizeof(*route), RTA_TABLE, 0);

	if (route->rtm_protocol != POLICY_PROTOCOL || route->rtm_type != RTN_LOCAL ||
	    table < POLICY_TABLE || table > POLICY_TABLE + UINT16_MAX)
		return MNL_CB_OK;
	return leftovers_keep(ctx, header);
}

/* All rules, or the routes of one table when it is not 0. */
static int leftovers_dump(struct policy *policy, int family, uint32_t table,
			  struct policy_leftovers *left)
{
	union policy_message message;
	struct nlmsghdr *header = mnl_nlmsg_put_header(&message);
	struct fib_rule_hdr *rule;
	struct rtmsg *route;

	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	if (!table) {
		header->nlmsg_type = RTM_GETRULE;
		rule = mnl_nlmsg_put_extra_header(header, sizeof(*rule));
		rule->family = (uint8_t)family;
		return policy_ask(policy, header, rule_each, left);
	}
	header->nlmsg_type = RTM_GETROUTE;
	route = mnl_nlmsg_put_extra_header(header, sizeof(*route));
	route->rtm_family = (uint8_t)family;
	mnl_attr_put_u32(header, RTA_TABLE, table);
	return policy_ask(policy, header, route_each, left);
}

/* A dumped message sent back as a deletion deletes what it tells of. */
static int leftovers_delete(struct policy *policy, uint16_t type,
			    const struct policy_leftovers *left, unsigned *removed)
{
	int first_error = 0;

	for (size_t at = 0; at < left->len;) {
		struct nlmsghdr *header = (struct nlmsghdr *)(left->messages + at);
		int r;

		header->nlmsg_type = type;
		header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
		header->nlmsg_pid = 0;
		r = policy_ask(policy, header, NULL, NULL);
		if (r >= 0)
			++*removed;
		else if (!first_error && r != -ENOENT && r != -ESRCH)
			first_error = r;
		at += MNL_ALIGN(header->nlmsg_len);
	}
	return first_error;
}

static int clean_family(struct policy *policy, int family, unsigned *removed)
{
	struct policy_leftovers rules = {}, routes = {};
	int r = leftovers_dump(policy, family, 0, &rules);

	/* Only tables that a rule leads to: a host may have a million routes elsewhere. */
	for (size_t at = 0; r >= 0 && at < rules.len;) {
		const struct nlmsghdr *rule = (struct nlmsghdr *)(rules.messages + at);
		uint32_t table = message_number(rule, sizeof(struct fib_rule_hdr), FRA_TABLE, 0);

		if (table)
			r = leftovers_dump(policy, family, table, &routes);
		if (r == -ENOENT) /* it never had a route */
			r = 0;
		at += MNL_ALIGN(rule->nlmsg_len);
	}
	if (r >= 0)
		r = leftovers_delete(policy, RTM_DELROUTE, &routes, removed);
	if (r >= 0)
		r = leftovers_delete(policy, RTM_DELRULE, &rules, removed);
	free(rules.messages);
	free(routes.messages);
	return r;
}

/* Without IPv6, or without policy routing, there is nothing of ours. */
static bool family_absent(int error)
{
	return error == -EAFNOSUPPORT || error == -EOPNOTSUPP || error == -EPFNOSUPPORT;
}

int policy_clean(unsigned *ret_removed)
{
	struct policy policy;
	unsigned removed = 0;
	int r;

	r = policy_open(&policy, 0);
	if (r < 0)
		return r;
	r = clean_family(&policy, AF_INET, &removed);
	if (r >= 0 || family_absent(r))
		r = clean_family(&policy, AF_INET6, &removed);
	policy_close(&policy);
	if (r < 0 && !family_absent(r))
		return r;
	if (ret_removed)
		*ret_removed = removed;
	return 0;
}

int policy_probe(void)
{
	/* From a port that nobody answers at to an address that is for documentation. */
	const struct policy_match nothing = { .v4 = true, .local = true, .target_port = 1 };
	const struct in6_addr nobody = { .s6_addr = {
						 [10] = 0xff, [11] = 0xff, [12] = 192, 0, 2, 1 } };
	struct policy policy;
	int r;

	r = policy_open(&policy, 0);
	if (r < 0)
		return r;
	r = policy_rule(&policy, true, &nothing, POLICY_PROBE_PORT);
	if (r >= 0) {
		r = policy_route(&policy, true, &nobody, POLICY_PROBE_PORT);
		if (r >= 0)
			r = policy_route(&policy, false, &nobody, POLICY_PROBE_PORT);
		policy_rule(&policy, false, &nothing, POLICY_PROBE_PORT);
	}
	policy_close(&policy);
	return r;
}
