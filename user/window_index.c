// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Windows by port, and by port and listed name.
 *
 * Each open and close builds both tables anew: that is seldom, and every connection asks. Linear
 * probing; nothing is ever taken out. Who may open windows chooses the names, others only ask.
 */
#include "window_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util.h"
#include "window.h"

#define SMALLEST 16

static size_t size_for(size_t n)
{
	size_t size = SMALLEST;

	while (size < 2 * n)
		size *= 2;
	return size;
}

int window_index_reserve(struct window_index *index, size_t n_ports, size_t n_entries)
{
	size_t ports_size = size_for(n_ports), entries_size = size_for(n_entries);
	_cleanup_free_ struct window_port *ports = NULL;
	_cleanup_free_ struct window_entry *entries = NULL;

	if (ports_size <= index->ports_size && entries_size <= index->entries_size)
		return 0;
	ports_size = MAX(ports_size, index->ports_size);
	entries_size = MAX(entries_size, index->entries_size);
	ports = calloc(ports_size, sizeof(*ports));
	entries = calloc(entries_size, sizeof(*entries));
	if (!ports || !entries)
		return -ENOMEM;
	window_index_free(index);
	*index = (struct window_index){ .ports = TAKE_PTR(ports),
					.entries = TAKE_PTR(entries),
					.ports_size = ports_size,
					.entries_size = entries_size };
	return 0;
}

void window_index_free(struct window_index *index)
{
	free(index->ports);
	free(index->entries);
	*index = (struct window_index){};
}

/* Where @port is, or would be. The table is there. */
static struct window_port *find_port(const struct window_index *index, uint16_t port)
{
	size_t at = (port * 0x9e3779b1u >> 16) & (index->ports_size - 1);

	while (index->ports[at].first && index->ports[at].port != port)
		at = (at + 1) & (index->ports_size - 1);
	return &index->ports[at];
}

/* FNV-1a, of lower case. */
static uint32_t hash(uint16_t port, const char *name)
{
	uint32_t value = (2166136261u ^ port) * 16777619u;

	for (; *name; name++) {
		uint8_t c = (uint8_t)*name;

		value = (value ^ (c >= 'A' && c <= 'Z' ? c | 0x20u : c)) * 16777619u;
	}
	return value ^ value >> 16;
}

/* Where @name of @port is, or would be. The table is there. */
static struct window_entry *find_entry(const struct window_index *index, uint16_t port,
				       const char *name)
{
	size_t at = hash(port, name) & (index->entries_size - 1);

	while (index->entries[at].window &&
	       (index->entries[at].port != port || strcasecmp(index->entries[at].name, name) != 0))
		at = (at + 1) & (index->entries_size - 1);
	return &index->entries[at];
}

static void add(struct window_index *index, struct window *window, uint16_t port)
{
	const struct window_options *options = &window->options;
	struct window_port *at = find_port(index, port);

	if (!at->first)
		*at = (struct window_port){ .first = window, .port = port };
	/* It may have other ports, which the other's options are not for. */
	if (at->first->options.gives_way && !options->gives_way)
		at->first = window;
	at->sniff_timeout_ms = MAX(at->sniff_timeout_ms, options->sniff_timeout_ms);
	if (options->built_in) {
		if (!at->built_in)
			at->built_in = window;
		return;
	}
	if (options->n_domains == 0)
		at->for_every_name = window;
	for (size_t i = 0; i < options->n_domains; i++)
		*find_entry(index, port, options->domains[i]) = (struct window_entry){
			.window = window, .name = options->domains[i], .port = port
		};
}

void window_index_build(struct window_index *index, struct window *const *windows, size_t n)
{
	if (index->ports)
		memset(index->ports, 0, index->ports_size * sizeof(*index->ports));
	if (index->entries)
		memset(index->entries, 0, index->entries_size * sizeof(*index->entries));
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < windows[i]->options.n_ports; k++)
			add(index, windows[i], windows[i]->options.ports[k]);
}

const struct window_port *window_index_port(const struct window_index *index, uint16_t port)
{
	const struct window_port *at = index->ports ? find_port(index, port) : NULL;

	return at && at->first ? at : NULL;
}

struct window *window_index_name(const struct window_index *index, uint16_t port, const char *name)
{
	return index->entries ? find_entry(index, port, name)->window : NULL;
}
