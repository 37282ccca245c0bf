/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The resident process's armed addresses: notices who listens there, opens and closes their
 * windows. */
#ifndef ARMS_H
#define ARMS_H

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

#include "arm.h"

struct resident;
struct watch;
struct mnl_socket;

/* How often to look where the kernel doesn't tell. */
#define ARMS_POLL_NS UINT64_C(20000000)

/* How it is noticed that a listener comes or goes. */
enum notice { NOTICE_AUTO, NOTICE_BPF, NOTICE_POLL, NOTICE_COUNT };
extern const char *const notice_names[NOTICE_COUNT];

struct arms {
	struct arm arms[ARM_MAX];
	size_t n;		       /* 0: nothing is armed */
	struct window_options *window; /* of all their windows, but for name and responder; owned */
	struct mnl_socket *netlink;
	struct watch *watch; /* NULL: polling */
	uint64_t look_ns;    /* when to look at the latest */
	uint64_t wait_ns;    /* somebody is about to listen: until the next look; 0: nobody is */
	uint64_t news_ns;    /* when the kernel last told of something; 0: not yet */
};

/* What the command line says. */
struct arms_config {
	struct arm arms[ARM_MAX];
	size_t n;
	struct window_options window;
	enum notice notice;
};

/*
 * Arms the addresses; a window is open for those where somebody listens when it returns. Nothing
 * with no address. 0, or -errno with one line in @error.
 */
int arms_start(struct resident *resident, const struct arms_config *config, char *error,
	       size_t error_size);

/* Disarms all. Their windows stay. */
void arms_stop(struct resident *resident);

/* Readable when arms_tick() has something to do; -1: never. */
int arms_fd(const struct resident *resident);

/* A user has closed windows: those of who listens now stay closed. */
void arms_closed(struct resident *resident);

/* Looks, if there is a reason to. Returns when to call again. */
uint64_t arms_tick(struct resident *resident, uint64_t now_ns);

/* The part of the status document. The caller puts it. */
struct json_object *arms_report(const struct resident *resident);

#endif
