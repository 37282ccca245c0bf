// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The log's one line for a steered connection. */
#include "conn_log.h"

#include <assert.h>
#include <stdio.h>

#include "util.h"

static bool log_visitors;

static const char *const outcome_texts[] = {
	[OUTCOME_HANDED_OFF] = "handed off to",
	[OUTCOME_RELAYED] = "relayed to",
	[OUTCOME_CLIENT_GONE] = "the client went away before it could be given to",
	[OUTCOME_LOST] = "given up in a hand-off to",
	[OUTCOME_RESET] = "reset, it could not be given to",
};
static_assert(ARRAY_SIZE(outcome_texts) == OUTCOMES, "a text for each outcome");

/* For programs: how it got to its target, or that it did not. */
static const char *const outcome_planes[] = {
	[OUTCOME_HANDED_OFF] = "handoff", [OUTCOME_RELAYED] = "relay",
	[OUTCOME_CLIENT_GONE] = "none",	  [OUTCOME_LOST] = "none",
	[OUTCOME_RESET] = "none",
};
static_assert(ARRAY_SIZE(outcome_planes) == OUTCOMES, "a plane for each outcome");

void conn_log_set_visitors(bool visitors)
{
	log_visitors = visitors;
}

bool conn_log_wants(bool acme)
{
	return acme || log_visitors;
}

static bool may_log(struct conn_log *log, uint64_t now_ns)
{
	if (!log_limit_ok(&log->limit, CONN_LOG_BURST, CONN_LOG_INTERVAL_NS, now_ns)) {
		log->unsaid++;
		return false;
	}
	if (log->unsaid)
		log_warn("%llu connections have no line here, being more than %d in a second",
			 (unsigned long long)log->unsaid, CONN_LOG_BURST);
	log->unsaid = 0;
	return true;
}

static const char *event_of(const struct conn_entry *entry)
{
	if (!entry->acme)
		return "visitor";
	return entry->to_responder ? "challenge" : "challenge-missed";
}

/* Why it was relayed, or why the web server has what asked for acme-tls/1; "": as it should be. */
static const char *reason_of(const struct conn_entry *entry)
{
	if (entry->responder_down)
		return "the responder does not answer";
	if (entry->acme && !entry->to_responder)
		return "no window wants it";
	if (entry->outcome == OUTCOME_RELAYED && entry->relay_reason)
		return entry->relay_reason;
	return "";
}

bool conn_log(struct conn_log *log, const struct conn_entry *entry, uint64_t now_ns)
{
	char peer[ENDPOINT_STRLEN], local[ENDPOINT_STRLEN], target[ENDPOINT_STRLEN];
	const char *reason = reason_of(entry);
	const char *name = entry->name ? entry->name : "";
	struct log_fields fields = { {
		[LOG_FIELD_EVENT] = event_of(entry),
		[LOG_FIELD_WINDOW] = *entry->window ? entry->window : NULL,
		[LOG_FIELD_NAME] = *name ? name : NULL,
		[LOG_FIELD_PEER] = endpoint_format(entry->peer, peer),
		[LOG_FIELD_LOCAL] = endpoint_format(entry->local, local),
		[LOG_FIELD_PLANE] = outcome_planes[entry->outcome],
		[LOG_FIELD_REASON] = *reason ? reason : NULL,
	} };

	if (!conn_log_wants(entry->acme))
		return true;
	if (!may_log(log, now_ns))
		return false;
	endpoint_format(entry->target, target);
	fields.value[entry->to_responder ? LOG_FIELD_RESPONDER : LOG_FIELD_WEB_SERVER] = target;
	log_event(LOG_LEVEL_INFO, &fields, "%s for %s from %s: %s the %s %s%s%s%s",
		  entry->acme ? "challenge" : "visitor", *name ? name : "no name", peer,
		  outcome_texts[entry->outcome], entry->to_responder ? "responder" : "web server",
		  target, *reason ? " (" : "", reason, *reason ? ")" : "");
	return true;
}
