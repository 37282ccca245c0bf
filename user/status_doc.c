// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads the status document. */
#include "status_doc.h"

struct json_object *doc_member(struct json_object *object, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(object, key, &value) ? value : NULL;
}

const char *doc_string(struct json_object *object, const char *key, const char *missing)
{
	struct json_object *value = doc_member(object, key);

	return value ? json_object_get_string(value) : missing;
}

double doc_number(struct json_object *object, const char *key)
{
	return json_object_get_double(doc_member(object, key));
}

uint64_t doc_count(struct json_object *object, const char *key)
{
	int64_t n = json_object_get_int64(doc_member(object, key));

	return n > 0 ? (uint64_t)n : 0;
}

size_t doc_length(struct json_object *list)
{
	return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

void status_sample(struct json_object *status, uint64_t at_ns, struct status_sample *ret_sample)
{
	struct json_object *counters = doc_member(status, "counters");
	const uint64_t to_responder = doc_count(counters, "handed_off_responder");
	const uint64_t relayed_to_responder = doc_count(counters, "relayed_responder");

	*ret_sample = (struct status_sample){
		.at_ns = at_ns,
		.pid = (int64_t)doc_count(status, "pid"),
		.steered = doc_count(counters, "steered"),
		.handed_off = doc_count(counters, "handed_off_web") + to_responder,
		.relayed = doc_count(counters, "relayed_web") + relayed_to_responder,
		.challenges = to_responder + relayed_to_responder,
		.timed_out = doc_count(counters, "timed_out"),
		.passed_by = doc_count(counters, "passed_lease_over") +
			     doc_count(counters, "passed_overload") +
			     doc_count(counters, "passed_cookies") +
			     doc_count(counters, "passed_no_sniffer") +
			     doc_count(counters, "passed_assign_error"),
		.read_in_passing = doc_count(counters, "read_in_passing"),
		.lost = doc_count(counters, "lost"),
	};
}

bool status_samples_match(const struct status_sample *now, const struct status_sample *before)
{
	return before && before->pid && now->pid == before->pid && now->at_ns > before->at_ns &&
	       now->steered >= before->steered;
}
