/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: handoff.c handoff_replay.c primer.c translated.c guards.c guard_devices.c requests.c devices.c steer.c shared_maps.c segment.c sniffer.c syn_cookies.c listeners.c bpf_util.c log.c lazy.c log_record.c addr.c
/* Hand-offs where the host does more than usual: others' programs, devices that go, TCP Fast Open,
 * SYN cookies. */
#include <bpf/bpf.h>
#include <net/if.h>

#include "handoff_bench.h"
#include "sniffer.h"
#include "syn_cookies.h"

static void served(struct connection *c, int web_server)
{
	send_pattern(c->client, 517, 0);
	wait_unread(c, 517);
	hand_off(c, &c->local, web_server);
	expect_pattern(c->server, 517, 0);
	expect_works(c, 517);
}

static unsigned v0(void)
{
	unsigned ifindex = if_nametoindex("v0");

	assert_true(ifindex > 0);
	return ifindex;
}

/* A program that was there before says TCX_PASS: whoever comes behind it is not asked. */
static void test_behind_another_program(void **state)
{
	const struct bpf_insn pass[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	const int hooks[] = { ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS };
	const unsigned devices[] = { LO, v0() };
	int program = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "pass", "GPL", pass, ARRAY_SIZE(pass),
				    NULL);
	int links[4], n = 0;

	assert_true(program >= 0);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		for (size_t j = 0; j < ARRAY_SIZE(hooks); j++, n++) {
			links[n] = bpf_link_create(program, (int)devices[i], hooks[j], NULL);
			assert_true(links[n] >= 0);
		}
	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		unsigned resets = resets_now();
		struct connection c = connection_of(place, NULL);

		served(&c, web_server);
		assert_int_equal(resets_now(), resets);
		close(web_server);
	}
	while (n)
		close(links[--n]);
	close(program);
}

/* One more way here: v2, 10.78.0.1, until it is deleted. */
static void second_device_add(void)
{
	run("ip link add v2 type veth peer name v3 netns $PEER &&"
	    "ip addr add 10.78.0.1/24 dev v2 && ip link set v2 up");
	run(IN_PEER "sh -c 'ip addr add 10.78.0.2/24 dev v3 && ip link set v3 up'");
}

static void second_device_delete(void)
{
	run("ip link del v2");
}

/* The device that the last connection came by has been deleted: the next ones are none the worse. */
static void test_device_of_the_last(void **state)
{
	const struct place second = { "10.78.0.1", true };

	for_each_place(place)
	{
		int web_server;
		struct connection c;

		second_device_add();
		web_server = web_server_at(&second, NULL);
		c = connection_of(&second, NULL);
		served(&c, web_server);
		close(web_server);
		second_device_delete();

		web_server = web_server_at(place, NULL);
		c = connection_of(place, NULL);
		served(&c, web_server);
		close(web_server);
	}
}

/* It goes in the gap: nothing is left of the connection. */
static void test_device_goes_in_the_gap(void **state)
{
	const struct place second = { "10.78.0.1", true };
	struct handoff_job job;
	struct connection c;
	int web_server;

	second_device_add();
	web_server = web_server_at(&second, NULL);
	c = connection_of(&second, NULL);
	begin_in_gap(&job, &c, 517);
	second_device_delete();
	gap_end();
	assert_int_equal(handoff_continue(worker, &job, job.began_ns + HANDOFF_DEADLINE_NS + 1),
			 HANDOFF_LOST);
	assert_int_equal(guards_count(guards), 0);
	close(c.client);
	close(web_server);
}

static int fast_open_of(int fd)
{
	socklen_t len = sizeof(int);
	int value = -1;

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &value, &len), 0);
	return value;
}

/*
 * Its handshake is not over, so it can't be moved. It is not gone either. The sniffers do without,
 * whatever the sysctl says.
 */
static void test_fast_open(void **state)
{
	const int with_data = 0x607; /* client and server, by any listener, without cookies */
	const struct place *place = &places[0];
	struct sockaddr_storage sa;
	struct endpoint to = endpoint_of(place->address, PORT);
	socklen_t len = endpoint_to_sockaddr(&to, &sa);
	int web_server = web_server_at(place, NULL), ours;
	struct handoff_job job;
	struct connection c;
	uint8_t bytes[517];

	sysctl_set("tcp_fastopen", with_data);
	ours = sniffer_socket(0, 10);
	assert_true(ours >= 0);
	assert_int_equal(fast_open_of(ours), 0);
	close(ours);

	option_set(sniffer, IPPROTO_TCP, TCP_FASTOPEN, 10);
	/* The SYN and its data come, and no more. */
	drop_begin("tcp dport 443 tcp flags & (syn | ack) == ack");
	pattern_fill(bytes, sizeof(bytes), 0);
	c.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(sendto(c.client, bytes, sizeof(bytes), MSG_FASTOPEN,
				(struct sockaddr *)&sa, len),
			 sizeof(bytes));
	c = connection_take(c.client, sniffer);
	wait_unread(&c, sizeof(bytes));
	assert_int_equal(info_of(c.server).tcpi_state, 3 /* SYN_RECV */);
	job = job_of(&c, &c.local);
	assert_int_equal(begin(&job, &c), HANDOFF_REFUSED);
	assert_int_equal(job.result, SEIZE_STATE);
	gap_end();
	sysctl_set("tcp_fastopen", 1);
	expect_pattern(c.server, sizeof(bytes), 0);
	expect_works(&c, sizeof(bytes));
	close(web_server);
}

/* The web server has stopped in the gap, and the sniffers take SYN cookies by means of a decoy. */
static void test_back_beside_the_decoy(void **state)
{
	const uint16_t port = PORT;
	struct syn_cookies cookies;

	close(sniffer);
	sniffer = sniffer_socket(0, 1024);
	assert_true(sniffer >= 0);
	assert_int_equal(steer_set_sniffer(steer, 0, sniffer), 0);
	assert_int_equal(guards_set_sniffer(guards, 0, sniffer), 0);
	syn_cookies_init(&cookies);
	assert_int_equal(syn_cookies_begin(&cookies, sniffer, 1), 0);
	steer_syn_cookie_times(steer, FAMILY_V4)->flood_ns = now_ns();
	syn_cookies_look(&cookies, steer, &port, 1, true, now_ns());
	assert_true(cookies.decoy_fd >= 0);

	for_each_place(place)
	{
		int web_server = web_server_at(place, NULL);
		struct connection c = connection_of(place, NULL);
		struct handoff_job job;
		enum handoff_answer answer = begin_in_gap(&job, &c, 517);

		close(web_server);
		gap_end();
		assert_int_equal(carry_on(&job, answer, false), HANDOFF_DONE);
		assert_true(job.went_back);
		c.server = adopted_by(sniffer, &c);
		c.cookie = cookie_of(c.server);
		web_server = web_server_at(place, NULL);
		hand_off(&c, &c.local, web_server);
		expect_pattern(c.server, 517, 0);
		expect_works(&c, 517);
		close(web_server);
	}
	syn_cookies_end(&cookies);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_behind_another_program),
		TEST(test_device_of_the_last),
		TEST(test_device_goes_in_the_gap),
		TEST(test_fast_open),
		TEST(test_back_beside_the_decoy),
	};

	if (unprivileged())
		return 0;
	return cmocka_run_group_tests(tests, topology_make, topology_drop);
}
