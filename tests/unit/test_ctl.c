/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: ctl.c ctl_server.c ctl_client.c log.c lazy.c log_record.c
/* What both ends of the control socket share: the texts of requests, the lock, the network
 * namespace. */
#include "ctl_bench.h"

static void parse_requests(void **state)
{
	static const struct {
		const char *text;
		int r;
		const char *word; /* in the error */
	} cases[] = {
		{ "ping\n\n", 0, NULL },
		{ "open\nname=a\nttl=\ndomain=a=b\ndomain=c d\n\nrest", 0, NULL },
		{ "", -EINVAL, "ends before" },
		{ "ping", -EINVAL, "ends before" },
		{ "ping\n", -EINVAL, "ends before" },
		{ "ping\nname=a\n", -EINVAL, "ends before" },
		{ "\n\n", -EINVAL, "is no verb" },
		{ "Ping\n\n", -EINVAL, "is no verb" },
		{ "ping pong\n\n", -EINVAL, "is no verb" },
		{ "abcdefghijklmnopqrstuvwxyz-01234\n\n", -EINVAL, "is no verb" },
		{ "ping\r\n\r\n", -EINVAL, "control character" },
		{ "open\nname=a\tb\n\n", -EINVAL, "control character" },
		{ "open\nname\n\n", -EINVAL, "not key=value" },
		{ "open\n=a\n\n", -EINVAL, "no key" },
		{ "open\nNAME=a\n\n", -EINVAL, "no key" },
		{ "open\nabcdefghijklmnopqrstuvwxyz-01234=a\n\n", -EINVAL, "no key" },
	};
	static struct ctl_request request;
	char text[128], error[CTL_MAX_ERROR];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r;

		strcpy(text, cases[i].text);
		r = ctl_request_parse(text, strlen(text), &request, error);
		if (r != cases[i].r || (r < 0 && !strstr(error, cases[i].word)))
			fail_msg("\"%s\": %d %s", cases[i].text, r, r ? error : "");
	}
	strcpy(text, cases[1].text);
	assert_int_equal(ctl_request_parse(text, strlen(text), &request, error), 0);
	assert_string_equal(request.verb, "open");
	assert_int_equal(request.n, 4);
	assert_string_equal(ctl_request_get(&request, "name"), "a");
	assert_string_equal(ctl_request_get(&request, "ttl"), "");
	assert_string_equal(ctl_request_get(&request, "domain"), "a=b");
	assert_string_equal(request.pairs[3].value, "c d");
	assert_null(ctl_request_get(&request, "nam"));

	/* A NUL is a control character like others. */
	memcpy(text, "open\nname=a\0b\n\n", 16);
	assert_int_equal(ctl_request_parse(text, 15, &request, error), -EINVAL);
}

static void write_and_parse(void **state)
{
	static struct ctl_message message;
	static struct ctl_request request;
	char error[CTL_MAX_ERROR], value[1001];
	unsigned n = 0;

	ctl_message_init(&message, "open");
	for (int i = 0; i < CTL_MAX_PAIRS; i++)
		assert_int_equal(ctl_message_add(&message, "domain", "a.example"), 0);
	assert_int_equal(ctl_message_add(&message, "name", "a\nname=b"), -EINVAL);
	ctl_message_end(&message);
	assert_int_equal(ctl_request_parse(message.text, message.len, &request, error), 0);
	assert_int_equal(request.n, CTL_MAX_PAIRS);

	ctl_message_init(&message, "open");
	for (int i = 0; i < CTL_MAX_PAIRS + 1; i++)
		ctl_message_add(&message, "domain", "a.example");
	ctl_message_end(&message);
	assert_int_equal(ctl_request_parse(message.text, message.len, &request, error), -E2BIG);

	memset(value, 'v', 1000);
	value[1000] = '\0';
	ctl_message_init(&message, "open");
	while (ctl_message_add(&message, "key", value) == 0)
		n++;
	assert_int_equal(n, (CTL_MAX_REQUEST - 6) / 1005);
	ctl_message_end(&message);
	assert_true(message.len <= CTL_MAX_REQUEST);
}

static void locks(void **state)
{
	char path[CTL_PATH_MAX];
	int fd = -1, other = -1;

	snprintf(path, sizeof(path), "%s/a.lock", dir);
	assert_int_equal(ctl_lock_file(path, &fd), 0);
	assert_int_equal(ctl_lock_file(path, &other), -EBUSY);
	assert_int_equal(other, -1);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	ctl_unlock_file(path, fd);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(ctl_lock_file(path, &fd), 0);
	close(fd); /* as by kill -9: the file stays and is no obstacle */
	assert_int_equal(ctl_lock_file(path, &fd), 0);
	ctl_unlock_file(path, fd);
	snprintf(path, sizeof(path), "%s/no/a.lock", dir);
	assert_int_equal(ctl_lock_file(path, &fd), -ENOENT);
}

static void namespaces(void **state)
{
	char path[PATH_MAX], pid[16], error[CTL_MAX_ERROR], sock[CTL_PATH_MAX],
		expected[CTL_PATH_MAX];
	struct stat st;
	ino_t inode = 0;

	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	assert_int_equal(ctl_netns(NULL, &inode, path, error), 0);
	assert_int_equal(inode, st.st_ino);
	snprintf(pid, sizeof(pid), "%d", getpid());
	inode = 0;
	assert_int_equal(ctl_netns(pid, &inode, path, error), 0);
	assert_int_equal(inode, st.st_ino);
	inode = 0;
	assert_int_equal(ctl_netns("/proc/self/ns/net", &inode, path, error), 0);
	assert_int_equal(inode, st.st_ino);
	assert_string_equal(path, "/proc/self/ns/net");
	assert_int_equal(ctl_path(inode, sock), 0);
	snprintf(expected, sizeof(expected), "/run/acme-steer/%lu.sock", (unsigned long)st.st_ino);
	assert_string_equal(sock, expected);

	assert_int_equal(ctl_netns("/proc/self/ns/mnt", &inode, path, error), -EINVAL);
	assert_non_null(strstr(error, "is no network namespace"));
	assert_int_equal(ctl_netns("/dev/null", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns("no-such-name", &inode, path, error), -ENOENT);
	assert_non_null(strstr(error, "no-such-name"));
	assert_int_equal(ctl_netns("../netns/edge", &inode, path, error), -EINVAL);
	assert_non_null(strstr(error, "absolute path"));
	assert_int_equal(ctl_netns("a/b", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns(".", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns("", &inode, path, error), -EINVAL);
	assert_int_equal(ctl_netns("999999999", &inode, path, error), -ENOENT);
	assert_int_equal(ctl_netns("/no/such", &inode, path, error), -ENOENT);
	assert_int_equal(inode, st.st_ino);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_requests),
		cmocka_unit_test(write_and_parse),
		cmocka_unit_test(locks),
		cmocka_unit_test(namespaces),
	};

	alarm(60); /* what waits for ever has failed too */
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
