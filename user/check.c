// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What doctor's checks have in common. */
#include "check.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "util.h"

const char *const check_level_names[] = {
	[CHECK_OK] = "ok",
	[CHECK_WARN] = "warn",
	[CHECK_FAIL] = "fail",
};
static_assert(ARRAY_SIZE(check_level_names) == CHECK_LEVELS, "a name for each level");

struct check *check_add(struct doctor *doctor, const char *id)
{
	struct check *check;

	assert(doctor->n < CHECKS_MAX);
	check = &doctor->checks[doctor->n++];
	check->id = id;
	return check;
}

void check_set(struct check *check, enum check_level level, const char *remedy, const char *fmt,
	       ...)
{
	va_list ap;

	check->level = level;
	snprintf(check->remedy, sizeof(check->remedy), "%s", remedy ? remedy : "");
	va_start(ap, fmt);
	vsnprintf(check->finding, sizeof(check->finding), fmt, ap);
	va_end(ap);
}

int check_read(const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (n < 0)
		return -errno;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}
