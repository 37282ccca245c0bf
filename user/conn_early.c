// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A connection that the guard has taken before its handshake with the web server was over: a
 * sniffer is to have it. From here on it is ADOPTING, as one whose target has gone; what follows is
 * accept().
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "conn_parts.h"
#include "util.h"

static struct endpoint endpoint_of(const uint8_t addr[16], uint16_t port_be, unsigned ifindex)
{
	struct endpoint endpoint = { .port = ntohs(port_be) };

	memcpy(&endpoint.addr, addr, sizeof(endpoint.addr));
	if (IN6_IS_ADDR_LINKLOCAL(&endpoint.addr))
		endpoint.scope_id = ifindex;
	return endpoint;
}

void conn_take_early(struct conn_owner *owner, const struct early_event *event, uint64_t now)
{
	struct conn *conn = conn_new(owner, -1);
	enum handoff_answer answer;
	uint64_t unused;

	if (!conn) {
		struct handoff_job job = {};

		handoff_give_back(owner->handoff, &job, event);
		return;
	}
	conn->job.remote = endpoint_of(event->key.remote, event->key.remote_port, event->ifindex);
	conn->job.local = endpoint_of(event->key.local, event->key.local_port, event->ifindex);
	conn->web_server = routes_web_server(owner->routes, &conn->job.local, &unused);
	conn->route = conn->web_server;
	conn->tally = conn->web_server.tally;
	/* Counted when it is accepted: see handed_off(). */
	tally_count(conn->tally, TALLY_ACCEPTED, 1);
	/* What is pending needs one, and there may be no memory for it by then. */
	if (timers_set(&owner->timers, &conn->timer, now) < 0) {
		handoff_give_back(owner->handoff, &conn->job, event);
		tally_count(conn->tally, TALLY_ACCEPTED, -1);
		conn_close(owner, conn);
		return;
	}
	answer = handoff_adopt_early(owner->handoff, &conn->job, event, now);
	if (answer == HANDOFF_REFUSED) {
		tally_count(conn->tally, TALLY_ACCEPTED, -1);
		conn_close(owner, conn);
		return;
	}
	conn_handoff_answered(owner, conn, answer, now);
}
