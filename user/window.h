/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Windows: which ports are steered until when, and who answers a challenge. Pure; takes the time.
 */
#ifndef WINDOW_H
#define WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "limit.h"
#include "name.h"
#include "window_index.h"

#define WINDOW_NAME_SIZE  96 /* of a name's buffer: that of an armed window has an address */
#define WINDOW_DOMAIN_MAX NAME_MAX_LEN

#define WINDOW_DEFAULT_NAME	"default"
#define WINDOW_DEFAULT_PORT	443
#define WINDOW_DEFAULT_TTL_S	600
#define WINDOW_DEFAULT_SNIFF_MS 3000
#define WINDOW_MIN_SNIFF_MS	100

enum plane { PLANE_AUTO, PLANE_HANDOFF, PLANE_RELAY, PLANE_COUNT };
extern const char *const plane_names[PLANE_COUNT]; /* "auto", "handoff", "relay" */

enum client_ip {
	CLIENT_IP_NONE,
	CLIENT_IP_TRANSPARENT,
	CLIENT_IP_PROXY_V1,
	CLIENT_IP_PROXY_V2,
	CLIENT_IP_COUNT
};
extern const char *const client_ip_names[CLIENT_IP_COUNT];

/* What the command line or the control socket says of a window. All of it is in the struct: no
 * ownership. */
struct window_options {
	char name[WINDOW_NAME_SIZE];
	uint32_t ttl_s;
	uint32_t sniff_timeout_ms;
	uint16_t ports[WINDOW_MAX_PORTS]; /* host order, no duplicates */
	size_t n_ports;
	bool ports_given; /* false: ports[] holds the default, which the first one given replaces */
	/* Lower case, as SNI shows them: an IP address is its reverse name (RFC 8738). None: every
	 * name. */
	char domains[WINDOW_MAX_DOMAINS][WINDOW_DOMAIN_MAX + 1];
	size_t n_domains;
	struct endpoint responder;
	bool has_web_server; /* else: whoever listens where the client asked */
	struct endpoint web_server;
	enum plane plane;
	enum client_ip client_ip;
	bool client_ip_chosen; /* by somebody, not by default */
	/*
	 * Made for challenges: the built-in responder answers, by name. Such a window routes
	 * nothing by itself. One that gives way takes its options from a window that has all of
	 * its ports, now and later; where another has only some of them, that one's options hold
	 * for those: window_set_of_port().
	 */
	bool built_in;
	bool gives_way;
	bool armed; /* somebody listens at the responder's address: no deadline, whatever ttl_s says
		     */
};

struct tally;

/* Connections of all windows that the web server got, and a sniffer did not. */
struct window_others {
	uint64_t passed_by;	  /* although they were to be steered */
	uint64_t read_in_passing; /* their ClientHellos were read by the guard: bpf/early.h */
};

struct window {
	struct window_options options;
	uint64_t opened_ns;
	uint64_t deadline_ns; /* UINT64_MAX: none */
	/* These are the opener's to set. */
	bool responder_elsewhere; /* not an address of this host */
	bool web_server_elsewhere;
	struct window_others others_before; /* when it was opened */
	struct tally *tally;	   /* its connections: those that are still ours, and numbers */
	uint64_t acme_connections; /* given to this window's responder; __atomic, by workers */
};

#define WINDOW_SET_MAX_PORTS (WINDOW_MAX * WINDOW_MAX_PORTS)

struct window_set {
	struct window *windows[WINDOW_MAX]; /* in the order they were opened, no gaps; owned */
	size_t n;
	struct window_index index; /* of these; freed with the last one */
};

/* Fills in every default. */
void window_options_init(struct window_options *options);

/*
 * Sets one option by its long name without dashes ("ttl", "domain", "web-server" ...), from its
 * text. The command line and the control socket both come through here, so both refuse the same.
 * Returns 0, or -EINVAL / -E2BIG with one line for the user in @error that says what was wrong and
 * what would be right. -ENOKEY: no window option has this name. @options is untouched then.
 * "port" and "domain" add up (the same one twice is one); of every other option the last counts.
 */
int window_options_set(struct window_options *options, const char *key, const char *value,
		       char *error, size_t error_size);

/* Reads a time: digits, and s, m, h or nothing for seconds. 0 or -EINVAL. */
int window_time_parse(const char *text, uint64_t *ret_s);

/*
 * An address that one can connect to, with its port, from text. 0, or -EINVAL with one line in
 * @error that begins with @key and has @example, an IPv4 address with a port.
 */
int window_endpoint_set(const char *key, const char *value, const char *example,
			struct endpoint *ret_endpoint, char *error, size_t error_size);

/*
 * Gives @to what windows of one port must agree on: web server, plane, client address. Only if
 * @from has all ports of @to: for the others it says nothing.
 */
void window_options_agree(struct window_options *to, const struct window_options *from);

/*
 * Opens the window, or renews it when one of that name is open: then the deadline and all the
 * options are taken anew; when it was opened and what it counted stay, and so does its address.
 * Refuses (-EEXIST) options for a port that contradict another open window's for the same port (web
 * server, plane, client address), -ENOSPC beyond WINDOW_MAX; @error says it in one line.
 * @ret_renewed: it was open before.
 */
int window_set_open(struct window_set *set, const struct window_options *options, uint64_t now_ns,
		    bool *ret_renewed, char *error, size_t error_size);

/* Closes one window. Returns true when it was open. */
bool window_set_close(struct window_set *set, const char *name);

/* Closes all windows whose deadline is not after @now_ns; returns how many. */
size_t window_set_expire(struct window_set *set, uint64_t now_ns);

void window_set_close_all(struct window_set *set);

struct window *window_set_find(const struct window_set *set, const char *name);

/* The nearest deadline of all windows; UINT64_MAX when none is open. */
uint64_t window_set_next_deadline(const struct window_set *set);

/* The latest deadline among the windows that steer @port: past it nothing may be steered. 0: none.
 */
uint64_t window_set_port_deadline(const struct window_set *set, uint16_t port);

/* The ports that windows have, each once: at most WINDOW_SET_MAX_PORTS. Returns how many. */
size_t window_set_ports(const struct window_set *set, uint16_t *ret_ports);

/* Longest sniff timeout among the windows of @port, in ns; the default's when there is none. */
uint64_t window_set_sniff_timeout(const struct window_set *set, uint16_t port);

/* The window of @port that was made for challenges. NULL: none. */
struct window *window_set_built_in(const struct window_set *set, uint16_t port);

/*
 * First window of @port, for the options that all windows of a port agree on; one that gives way
 * only if there is no other. NULL: none.
 */
const struct window *window_set_of_port(const struct window_set *set, uint16_t port);

/*
 * Whose responder answers an acme-tls/1 ClientHello for @sni ("" when it had none) on @port: a
 * window that lists the name before one that has no list, and among several the one opened last (an
 * old window that nobody closed must not swallow a new one's challenge). NULL: nobody's, the web
 * server gets it. Compared without regard to case.
 */
struct window *window_set_route(const struct window_set *set, uint16_t port, const char *sni);

#endif
