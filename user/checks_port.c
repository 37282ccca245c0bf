// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* doctor: who is on the port, over which address families, and can connections be handed to it. */
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "guards.h"
#include "resolve.h"
#include "util.h"

#define V4 0
#define V6 1

static bool is_wildcard(const struct endpoint *endpoint)
{
	return IN6_IS_ADDR_UNSPECIFIED(&endpoint->addr) ||
	       (endpoint_is_v4(endpoint) && !memcmp(&endpoint->addr.s6_addr[12], "\0\0\0\0", 4));
}

static bool is_loopback(const struct endpoint *endpoint)
{
	return endpoint_is_v4(endpoint) ? endpoint->addr.s6_addr[12] == 127
					: IN6_IS_ADDR_LOOPBACK(&endpoint->addr);
}

static bool takes(const struct listener *listener, bool v4)
{
	if (endpoint_is_v4(&listener->address))
		return v4;
	return !v4 || (is_wildcard(&listener->address) && !listener->v6_only);
}

/* Fills in doctor->listeners; their number or -errno. */
static int find_listeners(struct doctor *doctor)
{
	struct listener listeners[LISTENERS_MAX];
	struct owner owners[LISTENERS_MAX];
	uint64_t inodes[LISTENERS_MAX];
	int n = listeners_find(doctor->port, listeners);

	if (n <= 0)
		return n;
	listeners_find_mptcp(doctor->port, listeners, n);
	for (int i = 0; i < n; i++)
		inodes[i] = listeners[i].inode;
	owners_find(inodes, (size_t)n, owners);
	for (int i = 0; i < n; i++)
		doctor->listeners[i] = (struct check_listener){ listeners[i], owners[i] };
	return n;
}

/* "nginx (pid 4711) on 0.0.0.0:443, nginx (pid 4711) on [::]:443 (MPTCP)" */
static void describe(const struct doctor *doctor, char *buf, size_t size)
{
	size_t len = 0;

	for (int i = 0; i < doctor->n_listeners && len + 1 < size; i++) {
		const struct check_listener *l = &doctor->listeners[i];
		char address[ENDPOINT_STRLEN], pid[24] = "";

		if (l->owner.pid)
			snprintf(pid, sizeof(pid), " (pid %d)", (int)l->owner.pid);
		len += (size_t)snprintf(buf + len, size - len, "%s%s%s on %s%s", len ? ", " : "",
					l->owner.pid ? l->owner.name : "a process not to be seen",
					pid, endpoint_format(&l->listener.address, address),
					l->listener.mptcp ? " (MPTCP)" : "");
	}
}

static void set_nobody(const struct doctor *doctor, struct check *check)
{
	const struct owner *elsewhere = &doctor->elsewhere;
	char remedy[CHECK_TEXT];

	if (elsewhere->pid) {
		snprintf(remedy, sizeof(remedy),
			 "steer there: --netns=%d, with the responder in that namespace, too",
			 (int)elsewhere->pid);
		check_set(
			check, CHECK_FAIL, remedy,
			"nobody listens on port %u in this network namespace, but %s (pid %d) does "
			"in another",
			doctor->port, elsewhere->name, (int)elsewhere->pid);
	} else {
		check_set(check, CHECK_FAIL,
			  "start the web server; or name its port (--port), its network namespace "
			  "(--netns), or where else it is (--web-server)",
			  "nobody listens on port %u", doctor->port);
	}
}

void checks_web_server(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "web-server");
	int n = find_listeners(doctor);
	char text[CHECK_TEXT] = "";
	bool seen = true, only_loopback = true;

	if (n < 0) {
		check_set(check, CHECK_WARN, "see `ss -ltn`", "listeners can't be listed: %s",
			  strerror(-n));
		return;
	}
	doctor->n_listeners = n;
	if (n == 0) {
		owners_elsewhere(doctor->port, doctor->netns_inode, &doctor->elsewhere);
		set_nobody(doctor, check);
		return;
	}
	describe(doctor, text, sizeof(text));
	for (int i = 0; i < n; i++) {
		seen &= doctor->listeners[i].owner.pid != 0;
		only_loopback &= is_loopback(&doctor->listeners[i].listener.address);
	}
	if (only_loopback)
		check_set(check, CHECK_FAIL,
			  "let it listen on the host's own addresses, or name the port that is "
			  "reached from outside: --port",
			  "on loopback only: %s", text);
	else
		check_set(check, CHECK_OK, seen ? NULL : "run doctor as root to see all processes",
			  "%s", text);
}

/* Has this namespace an address of the family that somebody else could connect to? Its text. */
static bool own_address(bool v4, char buf[ENDPOINT_STRLEN])
{
	struct ifaddrs *list = NULL;
	bool found = false;

	if (getifaddrs(&list) < 0)
		return false;
	for (const struct ifaddrs *a = list; a && !found; a = a->ifa_next) {
		struct sockaddr_storage sa = {};
		struct endpoint endpoint;

		if (!a->ifa_addr ||
		    (a->ifa_addr->sa_family != AF_INET && a->ifa_addr->sa_family != AF_INET6))
			continue;
		memcpy(&sa, a->ifa_addr,
		       a->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
							 : sizeof(struct sockaddr_in6));
		if (endpoint_from_sockaddr(&sa, &endpoint) < 0 || endpoint_is_v4(&endpoint) != v4 ||
		    is_loopback(&endpoint) || (!v4 && resolve_is_private(&endpoint)))
			continue;
		endpoint_format_addr(&endpoint, buf);
		found = true;
	}
	freeifaddrs(list);
	return found;
}

void checks_families(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "address-families");
	char v4_address[ENDPOINT_STRLEN], v6_address[ENDPOINT_STRLEN];
	bool has_v4 = own_address(true, v4_address);
	bool has_v6 = own_address(false, v6_address);
	bool v4 = false, v6 = false;

	for (int i = 0; i < doctor->n_listeners; i++) {
		const struct listener *listener = &doctor->listeners[i].listener;

		v4 |= takes(listener, true) && !is_loopback(&listener->address);
		v6 |= takes(listener, false) && !is_loopback(&listener->address);
	}
	if (!v4 && !v6)
		check_set(check, CHECK_OK, NULL, "see web-server");
	else if (!v6 && has_v6)
		check_set(check, CHECK_WARN,
			  "let the web server listen on IPv6, too (nginx: listen [::]:443 ssl), or "
			  "have no AAAA record: a CA tries IPv6 first",
			  "IPv4 only, but the host has an IPv6 address, %s", v6_address);
	else if (!v4 && has_v4)
		check_set(check, CHECK_WARN,
			  "let the web server listen on IPv4, too (nginx: listen 0.0.0.0:443 ssl), "
			  "or have no A record",
			  "IPv6 only, but the host has an IPv4 address, %s", v4_address);
	else
		check_set(check, CHECK_OK, NULL, "%s",
			  v4 && v6 ? "IPv4 and IPv6"
			  : v4	   ? "IPv4; the host has no IPv6 address"
				   : "IPv6; the host has no IPv4 address");
}

/* Where connections of a family to a listener's port can be tried: never a wildcard. */
static struct endpoint target_of(const struct listener *listener, bool v4)
{
	struct endpoint target = listener->address;

	if (is_wildcard(&target))
		endpoint_parse(v4 ? "127.0.0.1" : "::1", target.port, &target);
	return target;
}

static const char *remedy_for(enum seize_result result)
{
	switch (result) {
	case SEIZE_MPTCP:
		return "let it listen without MPTCP, or be content with the relay; for programs "
		       "made with Go 1.24 or later (Caddy, Traefik, lego): GODEBUG=multipathtcp=0 "
		       "in "
		       "their environment";
	case SEIZE_SYNCOOKIES:
		return "sysctl -w net.ipv4.tcp_syncookies=1";
	case SEIZE_QUEUE_FULL:
		return "it does not accept connections: look at the web server";
	default:
		return "see --plane in the manual page";
	}
}

void checks_target(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "hand-off-target");

	check_set(check, CHECK_OK, NULL, "the kernel can hand off to the web server's listeners");
	if (doctor->n_listeners <= 0)
		check_set(check, CHECK_OK, NULL, "see web-server");
	else if (!doctor->guards)
		check_set(check, CHECK_OK, NULL, "not looked: see handoff");
	for (int i = 0; doctor->guards && i < 2 * doctor->n_listeners; i++) {
		const struct listener *listener = &doctor->listeners[i / 2].listener;
		bool v4 = i % 2 == V4;
		struct endpoint target = target_of(listener, v4);
		char address[ENDPOINT_STRLEN];
		enum seize_result result;
		int err;

		if (!takes(listener, v4))
			continue;
		result = guards_preflight(doctor->guards, v4, &target, &err);
		if (err || result == SEIZE_OK || check->level != CHECK_OK)
			continue;
		check_set(check, CHECK_WARN, remedy_for(result),
			  "steered connections for %s can't be handed off (%s) and are relayed",
			  endpoint_format(&listener->address, address), seize_texts[result]);
	}
}

/* A window that is open sends to this responder. */
static bool is_wanted(const struct doctor *doctor, const char *address)
{
	struct json_object *windows;

	if (doctor->responder_given)
		return true;
	if (!json_object_object_get_ex(doctor->status, "windows", &windows) ||
	    !json_object_is_type(windows, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(windows); i++) {
		struct json_object *window = json_object_array_get_idx(windows, i), *responder;

		if (json_object_object_get_ex(window, "responder", &responder) &&
		    strcmp(json_object_get_string(responder), address) == 0)
			return true;
	}
	return false;
}

/* Who listens there, without connecting: some responders take one connection in their life. */
static bool find_responder(const struct endpoint *at, struct check_listener *ret)
{
	struct listener listeners[LISTENERS_MAX];
	int n = listeners_find(at->port, listeners);

	listeners_find_mptcp(at->port, listeners, MAX(n, 0));
	for (int i = 0; i < n; i++) {
		const struct listener *l = &listeners[i];
		uint64_t inode = l->inode;

		if (!takes(l, endpoint_is_v4(at)) ||
		    (!is_wildcard(&l->address) && !endpoint_equal(&l->address, at)))
			continue;
		ret->listener = *l;
		owners_find(&inode, 1, &ret->owner);
		return true;
	}
	return false;
}

void checks_responder(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "responder");
	struct check_listener found = {};
	char address[ENDPOINT_STRLEN];

	endpoint_format(&doctor->responder, address);
	if (!listeners_is_local(&doctor->responder)) {
		check_set(
			check, CHECK_WARN,
			"let the ACME client's responder listen on this host; else what is for it "
			"is relayed",
			"%s is no address of this network namespace", address);
	} else if (!find_responder(&doctor->responder, &found)) {
		if (is_wanted(doctor, address))
			check_set(check, CHECK_WARN,
				  "start the ACME client, or name where its responder listens: "
				  "--responder",
				  "nobody listens at %s", address);
		else
			check_set(check, CHECK_OK, NULL,
				  "nobody listens at %s, which is as it should be while no ACME "
				  "client runs",
				  address);
	} else if (found.listener.mptcp) {
		check_set(check, CHECK_WARN, remedy_for(SEIZE_MPTCP),
			  "%s (pid %d) listens at %s with MPTCP, so what is for it is relayed",
			  found.owner.pid ? found.owner.name : "a process", (int)found.owner.pid,
			  address);
	} else if (is_wildcard(&found.listener.address)) {
		check_set(check, CHECK_OK,
			  "it is reached from everywhere, which it needn't be; let it listen on "
			  "127.0.0.1 only (acme.sh: --local-address 127.0.0.1)",
			  "%s (pid %d) listens on all addresses",
			  found.owner.pid ? found.owner.name : "a process", (int)found.owner.pid);
	} else {
		check_set(check, CHECK_OK, NULL, "%s (pid %d) listens at %s",
			  found.owner.pid ? found.owner.name : "a process", (int)found.owner.pid,
			  address);
	}
}
