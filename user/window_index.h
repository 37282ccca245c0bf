/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Windows by port, and by port and listed name: what each connection asks, however many there are.
 */
#ifndef WINDOW_INDEX_H
#define WINDOW_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct window;

/* What the windows of one port are to a connection. */
struct window_port {
	/* In the order they were opened, those that give way last; NULL: no window has the port. */
	struct window *first;
	struct window *built_in;
	struct window *for_every_name; /* the last one that lists no names */
	uint32_t sniff_timeout_ms;     /* the longest */
	uint16_t port;
};

/* A name that a window lists, on one of its ports. */
struct window_entry {
	struct window *window; /* the last one that lists it; NULL: no entry here */
	const char *name;      /* the window's own */
	uint16_t port;
};

/* Two hash tables, their sizes powers of 2, at most half full. Zeroed: empty. */
struct window_index {
	struct window_port *ports;
	struct window_entry *entries;
	size_t ports_size;
	size_t entries_size;
};

/* Makes room for so many: to be built next. 0, or -ENOMEM with the index as it was. */
int window_index_reserve(struct window_index *index, size_t n_ports, size_t n_entries);

/* Builds it anew of the windows that there are, for all of which room was made. */
void window_index_build(struct window_index *index, struct window *const *windows, size_t n);

void window_index_free(struct window_index *index);

/* NULL: no window has this port. */
const struct window_port *window_index_port(const struct window_index *index, uint16_t port);

/* The last window of @port that lists @name, whose case does not matter. NULL: none. */
struct window *window_index_name(const struct window_index *index, uint16_t port, const char *name);

#endif
