/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The status document, as `status` reads it: what is missing counts as 0, false, or nothing. */
#ifndef STATUS_DOC_H
#define STATUS_DOC_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* NULL: none, or null. */
struct json_object *doc_member(struct json_object *object, const char *key);
const char *doc_string(struct json_object *object, const char *key, const char *missing);
double doc_number(struct json_object *object, const char *key);
/* A counter. */
uint64_t doc_count(struct json_object *object, const char *key);
/* Of a list; 0 of anything else. */
size_t doc_length(struct json_object *list);

/* For people: the whole of it. */
void status_show(struct json_object *status, FILE *to);

/* For Prometheus: its text exposition format. A @status of nobody says that nobody runs. */
void status_prometheus(struct json_object *status, FILE *to);

/* What --watch shows rates of. */
struct status_sample {
	uint64_t at_ns;
	int64_t pid; /* 0: no resident process */
	uint64_t steered, handed_off, relayed, challenges, timed_out, passed_by, read_in_passing,
		lost;
};
void status_sample(struct json_object *status, uint64_t at_ns, struct status_sample *ret_sample);
/* Of the same process, so that there are rates. */
bool status_samples_match(const struct status_sample *now, const struct status_sample *before);

/*
 * One screen for --watch, as lines; those that begin with STATUS_BOLD or STATUS_DIM are to be shown
 * so. @before: the sample of a while ago; NULL, or one that does not match: no rates. @error: why
 * there is no newer document than @status (NULL: it is new); @status may be NULL then.
 */
#define STATUS_BOLD '\1'
#define STATUS_DIM  '\2'
void status_view(struct json_object *status, const struct status_sample *now,
		 const struct status_sample *before, const char *error, FILE *to);

/* The same as one line of words, for when stdout is no terminal. */
void status_line(struct json_object *status, const struct status_sample *now,
		 const struct status_sample *before, const char *error, FILE *to);

#endif
