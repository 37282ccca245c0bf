/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the built-in responder counts, and the resident process shows. */
#ifndef ANSWER_COUNTERS_H
#define ANSWER_COUNTERS_H

#define ANSWER_COUNTERS(X)                                                             \
	X(ANSWERED, "answered", "handshakes done with a challenge's certificate")      \
	X(OTHER_PROTOCOL, "other_protocol", "refused: not acme-tls/1 alone")           \
	X(UNKNOWN_NAME, "unknown_name", "refused: no challenge for the name, or none") \
	X(FAILED, "failed", "handshakes that failed otherwise")                        \
	X(TIMED_OUT, "timed_out", "handshakes that were not done in time")             \
	X(CROWDED_OUT, "crowded_out", "handshakes given up for newer connections")

#define ANSWER_COUNTER_ENUM(id, name, text) ANSWER_##id,
enum answer_counter { ANSWER_COUNTERS(ANSWER_COUNTER_ENUM) ANSWER_COUNTER_COUNT };

#endif
