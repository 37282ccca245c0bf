// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The one line that sums up a window: for people in the text, for programs in the fields. */
#include "summary.h"

#include <stdarg.h>
#include <stdio.h>

#include "util.h"

struct writer {
	char *buf;
	size_t len, size;
	unsigned n_names;
	uint64_t others; /* challenges of names that are not shown */
};

static void __attribute__((format(printf, 2, 3))) put(struct writer *to, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(to->buf + to->len, to->size - to->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		to->len = MIN(to->len + (size_t)n, to->size - 1);
}

static void put_name(void *ctx, const char *name, uint64_t n)
{
	struct writer *to = ctx;

	if (to->n_names == SUMMARY_NAMES) {
		to->others += n;
		return;
	}
	put(to, "%s%s %llu", to->n_names ? ", " : "; challenges: ", name, (unsigned long long)n);
	to->n_names++;
}

static void put_challenges(struct writer *to, const struct tally *tally)
{
	to->others += tally_names(tally, put_name, to);
	if (to->others)
		put(to, "%s %llu", to->n_names ? ", other names" : "; challenges: names not kept",
		    (unsigned long long)to->others);
	else if (!to->n_names)
		put(to, "; no challenge was served");
}

void summary_make(const struct window *window, struct window_others others, uint64_t now_ns,
		  struct summary *ret_summary)
{
	const struct tally *tally = window->tally;
	const double seconds = (double)(now_ns - window->opened_ns) / (double)NSEC_PER_SEC;
	const uint32_t held = tally_held(tally), relayed_now = tally_relayed(tally);
	/* Those that are held or relayed now can end at any time between two looks. */
	const uint32_t under_way = held > relayed_now ? held - relayed_now : 0;
	struct writer to = { .buf = ret_summary->text, .size = sizeof(ret_summary->text) };
	const struct {
		enum log_field field;
		uint64_t n;
	} numbers[] = {
		{ LOG_FIELD_CONNECTIONS, tally_number(tally, TALLY_ACCEPTED) },
		{ LOG_FIELD_HANDED_OFF, tally_number(tally, TALLY_HANDED_OFF) },
		{ LOG_FIELD_RELAYED, tally_number(tally, TALLY_RELAYED) },
		{ LOG_FIELD_TIMED_OUT, tally_number(tally, TALLY_TIMED_OUT) },
		{ LOG_FIELD_CHALLENGES, tally_number(tally, TALLY_CHALLENGES) },
		{ LOG_FIELD_PASSED_BY, others.passed_by - window->others_before.passed_by },
		{ LOG_FIELD_READ_IN_PASSING,
		  others.read_in_passing - window->others_before.read_in_passing },
	};
	_Static_assert(ARRAY_SIZE(numbers) + 1 == ARRAY_SIZE(ret_summary->numbers), "and seconds");

	ret_summary->fields = (struct log_fields){ {
		[LOG_FIELD_EVENT] = "closed",
		[LOG_FIELD_WINDOW] = window->options.name,
		[LOG_FIELD_SECONDS] = ret_summary->numbers[ARRAY_SIZE(numbers)],
	} };
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		snprintf(ret_summary->numbers[i], sizeof(ret_summary->numbers[i]), "%llu",
			 (unsigned long long)numbers[i].n);
		ret_summary->fields.value[numbers[i].field] = ret_summary->numbers[i];
	}
	snprintf(ret_summary->numbers[ARRAY_SIZE(numbers)], sizeof(ret_summary->numbers[0]), "%.1f",
		 seconds);

	put(&to, "open for %.1f s; %llu connections: %llu handed off, %llu relayed", seconds,
	    (unsigned long long)numbers[0].n, (unsigned long long)numbers[1].n,
	    (unsigned long long)numbers[2].n);
	if (under_way)
		put(&to, ", %u under way", under_way);
	put(&to, "; %llu timed out, %llu passed by, %llu read in passing",
	    (unsigned long long)numbers[3].n, (unsigned long long)numbers[5].n,
	    (unsigned long long)numbers[6].n);
	put_challenges(&to, tally);
}
