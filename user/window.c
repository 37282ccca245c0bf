/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Windows: their options from text, and the set of those that are open.
 *
 * Theory of operation: a window is open while it is in the set. window_set_open() puts it there or
 * moves its deadline; window_set_close() and window_set_expire() take it away. Nothing here reads a
 * clock, allocates anything but the windows themselves, or knows how steering is done. A window's
 * address stays the same from opening to closing; only acme_connections may be written by others.
 */
#include "window.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "name.h"
#include "util.h"

const char *const plane_names[] = {
	[PLANE_AUTO] = "auto",
	[PLANE_HANDOFF] = "handoff",
	[PLANE_RELAY] = "relay",
};
static_assert(ARRAY_SIZE(plane_names) == PLANE_COUNT, "a name for each plane");

const char *const client_ip_names[] = {
	[CLIENT_IP_NONE] = "none",
	[CLIENT_IP_TRANSPARENT] = "transparent",
	[CLIENT_IP_PROXY_V1] = "proxy-v1",
	[CLIENT_IP_PROXY_V2] = "proxy-v2",
};
static_assert(ARRAY_SIZE(client_ip_names) == CLIENT_IP_COUNT, "a name for each way");

void window_options_init(struct window_options *options)
{
	memset(options, 0, sizeof(*options));
	strcpy(options->name, WINDOW_DEFAULT_NAME);
	options->ttl_s = WINDOW_DEFAULT_TTL_S;
	options->sniff_timeout_ms = WINDOW_DEFAULT_SNIFF_MS;
	/* What else there is makes a web server that trusts this host's addresses trust every
	 * client. */
	options->client_ip = CLIENT_IP_TRANSPARENT;
	options->ports[0] = WINDOW_DEFAULT_PORT;
	options->n_ports = 1;
	endpoint_parse("127.0.0.1:31443", 0, &options->responder);
}

/* Writes the line for the user and returns @code. */
__attribute__((format(printf, 4, 5))) static int refuse(char *error, size_t error_size, int code,
							const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, error_size, fmt, ap);
	va_end(ap);
	return code;
}

struct unit {
	const char *suffix;
	uint64_t factor;
};

/* Digits and the suffix of one of @units, a list that ends in an empty entry. */
static int duration_parse(const char *text, const struct unit *units, uint64_t *ret_value)
{
	uint64_t number = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		number = number * 10 + (uint64_t)(*p - '0');
		if (number > UINT32_MAX) /* far more than any limit; no overflow by the factor */
			number = UINT32_MAX;
	}
	if (p == text)
		return -EINVAL;
	for (; units->suffix; units++) {
		if (strcmp(p, units->suffix) == 0) {
			*ret_value = number * units->factor;
			return 0;
		}
	}
	return -EINVAL;
}

int window_time_parse(const char *text, uint64_t *ret_s)
{
	static const struct unit units[] = {
		{ "", 1 }, { "s", 1 }, { "m", 60 }, { "h", 3600 }, {}
	};

	return duration_parse(text, units, ret_s);
}

static int set_ttl(struct window_options *options, const char *value, char *error, size_t size)
{
	uint64_t ttl_s;

	if (window_time_parse(value, &ttl_s) < 0)
		return refuse(error, size, -EINVAL,
			      "ttl: \"%.40s\" is no time; use for example 600, 90s, 10m or 1h",
			      value);
	if (ttl_s == 0)
		return refuse(
			error, size, -EINVAL,
			"ttl: %.40s would close the window at once; use 1s to 1h, for example 10m",
			value);
	if (ttl_s > WINDOW_MAX_TTL_S)
		return refuse(error, size, -EINVAL,
			      "ttl: %.40s is more than the 1h allowed; use 1h, or `acme-steer "
			      "run`, which renews",
			      value);
	options->ttl_s = (uint32_t)ttl_s;
	return 0;
}

static int set_sniff_timeout(struct window_options *options, const char *value, char *error,
			     size_t size)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, {} };
	uint64_t ms;

	if (duration_parse(value, units, &ms) < 0)
		return refuse(error, size, -EINVAL,
			      "sniff-timeout: \"%.40s\" is no time; use for example 500ms or 3s",
			      value);
	if (ms < WINDOW_MIN_SNIFF_MS || ms > WINDOW_MAX_SNIFF_MS)
		return refuse(error, size, -EINVAL,
			      "sniff-timeout: %.40s is outside 100ms to 60s; the default is 3s",
			      value);
	options->sniff_timeout_ms = (uint32_t)ms;
	return 0;
}

static int set_name(struct window_options *options, const char *value, char *error, size_t size)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strlen(value);

	if (len == 0 || len > WINDOW_NAME_MAX || strspn(value, allowed) != len)
		return refuse(error, size, -EINVAL,
			      "name: \"%.80s\" is no window name; use 1 to 63 of A-Z a-z 0-9 . _ -",
			      value);
	memcpy(options->name, value, len + 1);
	return 0;
}

static int set_port(struct window_options *options, const char *value, char *error, size_t size)
{
	size_t len = strlen(value);
	size_t n = options->ports_given ? options->n_ports : 0;
	unsigned long port;

	port = len >= 1 && len <= 5 && strspn(value, "0123456789") == len ? strtoul(value, NULL, 10)
									  : 0;
	if (port < 1 || port > UINT16_MAX)
		return refuse(error, size, -EINVAL,
			      "port: \"%.40s\" is no port; use 1 to 65535, for example 443", value);
	for (size_t i = 0; i < n; i++)
		if (options->ports[i] == port)
			return 0;
	if (n == WINDOW_MAX_PORTS)
		return refuse(error, size, -E2BIG,
			      "port: a window has at most %d ports; open another window for %lu",
			      WINDOW_MAX_PORTS, port);
	options->ports[n] = (uint16_t)port;
	options->n_ports = n + 1;
	options->ports_given = true;
	return 0;
}

static int set_domain(struct window_options *options, const char *value, char *error, size_t size)
{
	struct name name;
	const char *fault = name_parse(value, &name);

	if (fault)
		return refuse(error, size, -EINVAL, "domain: \"%.80s\" %s", value, fault);
	for (size_t i = 0; i < options->n_domains; i++)
		if (strcmp(options->domains[i], name.sni) == 0)
			return 0;
	if (options->n_domains == WINDOW_MAX_DOMAINS)
		return refuse(error, size, -E2BIG,
			      "domain: a window has at most %d names; give none, which means every "
			      "name, or open another window",
			      WINDOW_MAX_DOMAINS);
	strcpy(options->domains[options->n_domains++], name.sni);
	return 0;
}

int window_endpoint_set(const char *key, const char *value, const char *example,
			struct endpoint *ret_endpoint, char *error, size_t size)
{
	struct endpoint endpoint;
	const uint8_t *addr = endpoint.addr.s6_addr;
	bool multicast, unspecified;

	if (endpoint_parse(value, 0, &endpoint) < 0)
		return refuse(
			error, size, -EINVAL,
			"%s: \"%.80s\" is no address with a port; use for example %s or [::1]:%s",
			key, value, example, strchr(example, ':') + 1);
	if (endpoint_is_v4(&endpoint)) {
		unspecified = addr[12] == 0;
		multicast = addr[12] >= 224;
	} else {
		unspecified = IN6_IS_ADDR_UNSPECIFIED(&endpoint.addr);
		multicast = IN6_IS_ADDR_MULTICAST(&endpoint.addr);
	}
	if (unspecified || multicast)
		return refuse(
			error, size, -EINVAL,
			"%s: %.80s is an address that nobody can connect to; use for example %s",
			key, value, example);
	if (IN6_IS_ADDR_LINKLOCAL(&endpoint.addr) && !endpoint.scope_id)
		return refuse(error, size, -EINVAL,
			      "%s: %.80s is link-local and needs its interface; use for example "
			      "[fe80::1%%eth0]:%u",
			      key, value, endpoint.port);
	*ret_endpoint = endpoint;
	return 0;
}

static int set_responder(struct window_options *options, const char *value, char *error,
			 size_t size)
{
	return window_endpoint_set("responder", value, "127.0.0.1:31443", &options->responder,
				   error, size);
}

static int set_web_server(struct window_options *options, const char *value, char *error,
			  size_t size)
{
	int r = window_endpoint_set("web-server", value, "127.0.0.1:8443", &options->web_server,
				    error, size);

	if (r == 0)
		options->has_web_server = true;
	return r;
}

static int choose(const char *key, const char *value, const char *const *names, size_t n,
		  char *error, size_t size)
{
	char list[128] = "";

	for (size_t i = 0; i < n; i++)
		if (strcmp(value, names[i]) == 0)
			return (int)i;
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			strcat(list, i + 1 < n ? ", " : " or ");
		strcat(list, names[i]);
	}
	return refuse(error, size, -EINVAL, "%s: \"%.40s\" is unknown; use %s", key, value, list);
}

static int set_plane(struct window_options *options, const char *value, char *error, size_t size)
{
	int plane = choose("plane", value, plane_names, PLANE_COUNT, error, size);

	if (plane < 0)
		return plane;
	options->plane = (enum plane)plane;
	return 0;
}

static int set_client_ip(struct window_options *options, const char *value, char *error,
			 size_t size)
{
	int client_ip = choose("client-ip", value, client_ip_names, CLIENT_IP_COUNT, error, size);

	if (client_ip < 0)
		return client_ip;
	options->client_ip = (enum client_ip)client_ip;
	options->client_ip_chosen = true;
	return 0;
}

int window_options_set(struct window_options *options, const char *key, const char *value,
		       char *error, size_t error_size)
{
	static const struct {
		const char *key;
		int (*set)(struct window_options *options, const char *value, char *error,
			   size_t size);
	} setters[] = {
		{ "name", set_name },
		{ "ttl", set_ttl },
		{ "domain", set_domain },
		{ "responder", set_responder },
		{ "web-server", set_web_server },
		{ "port", set_port },
		{ "plane", set_plane },
		{ "client-ip", set_client_ip },
		{ "sniff-timeout", set_sniff_timeout },
	};

	for (size_t i = 0; i < ARRAY_SIZE(setters); i++)
		if (strcmp(setters[i].key, key) == 0)
			return setters[i].set(options, value, error, error_size);
	return refuse(error, error_size, -ENOKEY, "%.40s: no such window option", key);
}

static bool has_port(const struct window_options *options, uint16_t port)
{
	for (size_t i = 0; i < options->n_ports; i++)
		if (options->ports[i] == port)
			return true;
	return false;
}

static size_t find_index(const struct window_set *set, const char *name)
{
	size_t i = 0;

	while (i < set->n && strcmp(set->windows[i]->options.name, name) != 0)
		i++;
	return i;
}

static void remove_index(struct window_set *set, size_t i)
{
	free(set->windows[i]);
	set->n--;
	memmove(&set->windows[i], &set->windows[i + 1], (set->n - i) * sizeof(set->windows[0]));
	if (set->n == 0)
		window_index_free(&set->index);
	else
		window_index_build(&set->index, set->windows, set->n);
}

/* For those that there are, all but @without, and @options. 0 or -ENOMEM. */
static int index_reserve(struct window_set *set, const struct window_options *options,
			 size_t without)
{
	size_t n_ports = options->n_ports;
	size_t n_entries = options->n_ports * options->n_domains;

	for (size_t i = 0; i < set->n; i++) {
		const struct window_options *other = &set->windows[i]->options;

		if (i == without)
			continue;
		n_ports += other->n_ports;
		n_entries += other->n_ports * other->n_domains;
	}
	return window_index_reserve(&set->index, n_ports, n_entries);
}

/* The option on which two windows contradict each other; NULL: none. */
static const char *contradiction(const struct window_options *a, const struct window_options *b)
{
	if (a->has_web_server != b->has_web_server ||
	    (a->has_web_server && !endpoint_equal(&a->web_server, &b->web_server)))
		return "web-server";
	if (a->plane != b->plane)
		return "plane";
	if (a->client_ip != b->client_ip)
		return "client-ip";
	return NULL;
}

void window_options_agree(struct window_options *to, const struct window_options *from)
{
	for (size_t i = 0; i < to->n_ports; i++)
		if (!has_port(from, to->ports[i]))
			return;
	to->has_web_server = from->has_web_server;
	to->web_server = from->web_server;
	to->plane = from->plane;
	to->client_ip = from->client_ip;
	to->client_ip_chosen = from->client_ip_chosen;
}

int window_set_open(struct window_set *set, const struct window_options *options, uint64_t now_ns,
		    bool *ret_renewed, char *error, size_t error_size)
{
	size_t index = find_index(set, options->name);
	bool renewed = index < set->n;
	struct window *window;

	for (size_t i = 0; i < set->n; i++) {
		const struct window *other = set->windows[i];
		const char *what = contradiction(&other->options, options);

		if (i == index || !what || other->options.gives_way || options->gives_way)
			continue;
		for (size_t k = 0; k < options->n_ports; k++)
			if (has_port(&other->options, options->ports[k]))
				return refuse(error, error_size, -EEXIST,
					      "port %u: window \"%s\" is open with another %s; "
					      "windows of one port must agree on it: use the same, "
					      "or close that window first",
					      options->ports[k], other->options.name, what);
	}

	if (!renewed && set->n == WINDOW_MAX)
		return refuse(error, error_size, -ENOSPC,
			      "%d windows are open already; close one first", WINDOW_MAX);
	window = renewed ? set->windows[index] : calloc(1, sizeof(*window));
	if (!window)
		return refuse(error, error_size, -ENOMEM, "out of memory");
	if (index_reserve(set, options, index) < 0) {
		if (!renewed)
			free(window);
		return refuse(error, error_size, -ENOMEM, "out of memory");
	}
	if (!renewed) {
		window->opened_ns = now_ns;
		set->windows[set->n++] = window;
	}
	window->options = *options;
	window->deadline_ns = options->armed ? UINT64_MAX : now_ns + options->ttl_s * NSEC_PER_SEC;
	for (size_t i = 0; i < set->n; i++) {
		struct window *other = set->windows[i];

		if (other == window || options->gives_way == other->options.gives_way)
			continue;
		if (options->gives_way)
			window_options_agree(&window->options, &other->options);
		else
			window_options_agree(&other->options, options);
	}
	window_index_build(&set->index, set->windows, set->n);
	*ret_renewed = renewed;
	return 0;
}

bool window_set_close(struct window_set *set, const char *name)
{
	size_t i = find_index(set, name);

	if (i == set->n)
		return false;
	remove_index(set, i);
	return true;
}

size_t window_set_expire(struct window_set *set, uint64_t now_ns)
{
	size_t expired = 0;

	for (size_t i = set->n; i-- > 0;) {
		if (set->windows[i]->deadline_ns > now_ns)
			continue;
		remove_index(set, i);
		expired++;
	}
	return expired;
}

void window_set_close_all(struct window_set *set)
{
	while (set->n > 0)
		remove_index(set, set->n - 1);
}

struct window *window_set_find(const struct window_set *set, const char *name)
{
	size_t i = find_index(set, name);

	return i < set->n ? set->windows[i] : NULL;
}

uint64_t window_set_next_deadline(const struct window_set *set)
{
	uint64_t next_ns = UINT64_MAX;

	for (size_t i = 0; i < set->n; i++)
		next_ns = MIN(next_ns, set->windows[i]->deadline_ns);
	return next_ns;
}

uint64_t window_set_port_deadline(const struct window_set *set, uint16_t port)
{
	uint64_t last_ns = 0;

	for (size_t i = 0; i < set->n; i++)
		if (has_port(&set->windows[i]->options, port))
			last_ns = MAX(last_ns, set->windows[i]->deadline_ns);
	return last_ns;
}

size_t window_set_ports(const struct window_set *set, uint16_t *ret_ports)
{
	size_t n = 0;

	for (size_t i = 0; set->n > 0 && i < set->index.ports_size; i++)
		if (set->index.ports[i].first)
			ret_ports[n++] = set->index.ports[i].port;
	return n;
}

uint64_t window_set_sniff_timeout(const struct window_set *set, uint16_t port)
{
	const struct window_port *at = window_index_port(&set->index, port);

	return (at ? at->sniff_timeout_ms : WINDOW_DEFAULT_SNIFF_MS) * NSEC_PER_MSEC;
}

const struct window *window_set_of_port(const struct window_set *set, uint16_t port)
{
	const struct window_port *at = window_index_port(&set->index, port);

	return at ? at->first : NULL;
}

struct window *window_set_built_in(const struct window_set *set, uint16_t port)
{
	const struct window_port *at = window_index_port(&set->index, port);

	return at ? at->built_in : NULL;
}

struct window *window_set_route(const struct window_set *set, uint16_t port, const char *sni)
{
	struct window *lists = window_index_name(&set->index, port, sni);
	const struct window_port *at = lists ? NULL : window_index_port(&set->index, port);

	return at ? at->for_every_name : lists;
}
