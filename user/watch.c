// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Loads, attaches and reads watch.bpf.c. The only user of its skeleton. Nothing is pinned. */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "bpf_util.h"
#include "util.h"
#include "watch.h"
#include "watch.skel.h"

struct watch {
	struct watch_bpf *bpf;
	struct ring_buffer *ring;
	uint64_t last_ns;
	enum watch_news news;
};

static int take_event(void *ctx, void *data, size_t size)
{
	struct watch *watch = ctx;

	const struct watch_event *event = data;

	if (size < sizeof(*event))
		return 0;
	watch->last_ns = event->at_ns;
	if (watch->news != WATCH_BEGINS)
		watch->news = event->begins ? WATCH_BEGINS : WATCH_CEASES;
	return 0;
}

static int load(struct watch *watch, const uint16_t *ports, size_t n)
{
	struct stat st;

	if (stat("/proc/self/ns/net", &st) < 0)
		return -errno;
	bpf_util_quiet();
	watch->bpf = watch_bpf__open();
	if (!watch->bpf)
		return -errno;
	watch->bpf->rodata->netns_inode = (uint32_t)st.st_ino;
	watch->bpf->rodata->n_ports = (uint32_t)n;
	memcpy((void *)watch->bpf->rodata->ports, ports, n * sizeof(*ports));
	return watch_bpf__load(watch->bpf);
}

int watch_new(const uint16_t *ports, size_t n, struct watch **ret_watch, char *error,
	      size_t error_size)
{
	struct watch *watch = calloc(1, sizeof(*watch));
	int err;

	if (!watch) {
		snprintf(error, error_size, "no memory");
		return -ENOMEM;
	}
	err = load(watch, ports, MIN(n, (size_t)WATCH_MAX_PORTS));
	if (!err) {
		watch->ring = ring_buffer__new(bpf_map__fd(watch->bpf->maps.watch_events),
					       take_event, watch, NULL);
		err = watch->ring ? 0 : -errno;
	}
	if (!err)
		err = watch_bpf__attach(watch->bpf);
	if (err) {
		snprintf(error, error_size,
			 "the kernel can't tell of listeners that come and go: %s; %s",
			 strerror(-err), bpf_util_remedy(err));
		watch_free(watch);
		return err;
	}
	*ret_watch = watch;
	return 0;
}

void watch_free(struct watch *watch)
{
	if (!watch)
		return;
	ring_buffer__free(watch->ring);
	watch_bpf__destroy(watch->bpf);
	free(watch);
}

int watch_fd(const struct watch *watch)
{
	return ring_buffer__epoll_fd(watch->ring);
}

enum watch_news watch_take(struct watch *watch, uint64_t *ret_at_ns)
{
	watch->news = WATCH_NOTHING;
	ring_buffer__consume(watch->ring);
	if (watch->news != WATCH_NOTHING)
		*ret_at_ns = watch->last_ns;
	return watch->news;
}
