// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* doctor: what is installed, the resident process, the clock. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <time.h>

#include "check.h"
#include "tls_program.h"
#include "util.h"

/* A window needs none of it. */
void checks_tls_program(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "tls-program");
	_cleanup_close_ int program = tls_program_open();
	const char *remedy = program < 0 ? tls_program_remedy(program) : NULL;

	if (program < 0)
		check_set(check, CHECK_WARN,
			  remedy ? "install it again, and restart the resident process"
				 : "look at the files that were installed",
			  "neither `challenge` nor `probe` can work: %s",
			  tls_program_fault(program));
	else
		check_set(check, CHECK_OK, NULL,
			  "what `challenge` and `probe` need is there");
}

void checks_resident(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "resident");
	struct json_object *pid, *windows = NULL, *version = NULL;
	size_t n = 0;

	if (doctor->no_status[0]) {
		check_set(check, CHECK_FAIL,
			  "end it (`ps` shows \"acme-steer serve\"; systemctl restart acme-steer); "
			  "the web server has the port meanwhile",
			  "%s", doctor->no_status);
		return;
	}
	if (!doctor->status || !json_object_object_get_ex(doctor->status, "pid", &pid)) {
		check_set(check, CHECK_OK, NULL,
			  "none runs; `open`, `run` and `challenge` start one");
		return;
	}
	json_object_object_get_ex(doctor->status, "version", &version);
	if (json_object_object_get_ex(doctor->status, "windows", &windows) &&
	    json_object_is_type(windows, json_type_array))
		n = json_object_array_length(windows);
	if (version && strcmp(json_object_get_string(version), ACME_STEER_VERSION) != 0)
		check_set(check, CHECK_WARN,
			  "restart it when no window is open: systemctl restart acme-steer",
			  "process %s is of another version, %s", json_object_get_string(pid),
			  json_object_get_string(version));
	else
		check_set(check, CHECK_OK, NULL, "process %s, %zu window%s open",
			  json_object_get_string(pid), n, n == 1 ? "" : "s");
}

/* Certificates are compared with the clock, and CAs refuse requests that are signed too early. */
void checks_clock(struct doctor *doctor)
{
	struct check *check = check_add(doctor, "clock");
	struct timex timex = {};
	char text[32] = "";
	struct stat st = {};
	time_t now = time(NULL);
	struct tm tm;

	if (gmtime_r(&now, &tm))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &tm);
	/* Nothing was installed in the future. */
	if (stat("/proc/self/exe", &st) == 0 && now < st.st_mtime)
		check_set(check, CHECK_FAIL,
			  "set the clock, and keep it right with chrony or systemd-timesyncd",
			  "it is %s, which is before this program was installed", text);
	else if (adjtimex(&timex) == TIME_ERROR)
		check_set(check, CHECK_WARN,
			  "let chrony or systemd-timesyncd keep it right, unless the machine below "
			  "does",
			  "it is %s, and nothing on this host says that it is kept right", text);
	else
		check_set(check, CHECK_OK, NULL, "it is %s, and kept right", text);
}
