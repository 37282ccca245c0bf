/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What `doctor` looks at: the checks, what they share, and what each has found. */
#ifndef CHECK_H
#define CHECK_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "addr.h"
#include "ctl.h"
#include "listeners.h"
#include "owners.h"

enum check_level {
	CHECK_OK,
	CHECK_WARN, /* it works, but there is something to know; or it could not be looked at */
	CHECK_FAIL, /* it won't work before this is changed */
	CHECK_LEVELS
};
extern const char *const check_level_names[CHECK_LEVELS];

#define CHECK_TEXT 640

struct check {
	const char *id;
	enum check_level level;
	char finding[CHECK_TEXT];
	char remedy[CHECK_TEXT]; /* "": none */
};

#define CHECKS_MAX 32

/* One listening socket of the port, with whose it is. */
struct check_listener {
	struct listener listener;
	struct owner owner;
};

struct guards;

struct doctor {
	/* As the user asked. */
	uint16_t port; /* host order */
	struct endpoint responder;
	bool responder_given;

	/* Found on the way, for later checks. */
	char jit[8];	   /* net.core.bpf_jit_enable, read where it is to be seen; "": not there */
	ino_t netns_inode; /* that is looked at */
	bool may_load;	   /* has the capabilities */
	struct guards *guards;	       /* NULL: can't hand off */
	struct json_object *status;    /* of the resident process; NULL: none answers */
	char no_status[CTL_MAX_ERROR]; /* why not; "": none runs */
	int n_listeners;
	struct check_listener listeners[LISTENERS_MAX];
	struct owner elsewhere; /* who listens on the port in another network namespace; pid 0:
				 * nobody */

	size_t n;
	struct check checks[CHECKS_MAX];
};

/* A new check, in this place of the table. Its finding and remedy are check_set()'s. */
struct check *check_add(struct doctor *doctor, const char *id);

/* Sets all of it. @remedy may be NULL. */
void check_set(struct check *check, enum check_level level, const char *remedy, const char *fmt,
	       ...) __attribute__((format(printf, 4, 5)));

/* The first line of a file without its newline, at most @size - 1 bytes. 0 or -errno. */
int check_read(const char *path, char *buf, size_t size);

/* checks_kernel.c: what the kernel can do, and lets us do. */
void checks_capabilities(struct doctor *doctor);
void checks_btf(struct doctor *doctor);
void checks_bpf_sysctls(struct doctor *doctor);
void checks_lockdown(struct doctor *doctor);
void checks_steering(struct doctor *doctor);
void checks_handoff(struct doctor *doctor);
void checks_syncookies(struct doctor *doctor);
void checks_other_steering(struct doctor *doctor);

/* checks_port.c: who is on the port. */
void checks_web_server(struct doctor *doctor);
void checks_families(struct doctor *doctor);
void checks_target(struct doctor *doctor);
void checks_responder(struct doctor *doctor);

/* checks_rules.c: what stands in front of the port. Two checks, "published" and "firewall". */
void checks_rules(struct doctor *doctor);

/* checks_host.c: what is installed, and runs. */
void checks_tls_program(struct doctor *doctor);
void checks_resident(struct doctor *doctor);
void checks_clock(struct doctor *doctor);

#endif
