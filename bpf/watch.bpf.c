// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Tells the process that a listener came or went on one of a few ports of its network namespace.
 *
 * The tracepoint is passed by every TCP socket of the host that changes its state: for all that
 * neither begin nor cease to listen, two comparisons. However a listener ends it comes by here:
 * close(), shutdown(), a process killed, `ss -K`, the subflow of an MPTCP listener.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "kernel_types.h"
#include "steer_shared.h"

#define TCP_LISTEN 10

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, WATCH_RING_BYTES);
} watch_events SEC(".maps");

volatile const __u32 netns_inode;
volatile const __u32 n_ports;
volatile const __u16 ports[WATCH_MAX_PORTS]; /* host order */

static __always_inline bool is_watched(const struct sock *sk)
{
	/* Not skc_num: a port that the kernel has chosen is no longer there at the end. */
	__u16 port = bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));

	if (sk->__sk_common.skc_net.net->ns.inum != netns_inode)
		return false;
	for (__u32 i = 0; i < WATCH_MAX_PORTS; i++)
		if (i < n_ports && ports[i] == port)
			return true;
	return false;
}

/*
 * Linux inet_csk_listen_start() comes by here just before connections find the listener, which can
 * also fail: the state goes back then. tcp_set_state() does when they find it no longer.
 */
SEC("tp_btf/inet_sock_set_state")
int watch_state(__u64 *args)
{
	const struct sock *sk = (const void *)args[0];
	int old_state = (int)args[1];
	int new_state = (int)args[2];
	struct watch_event event;

	if (old_state != TCP_LISTEN && new_state != TCP_LISTEN)
		return 0;
	if (!is_watched(sk))
		return 0;
	event.at_ns = bpf_ktime_get_ns();
	event.begins = new_state == TCP_LISTEN;
	/* When it is full, the process has what wakes it already. */
	bpf_ringbuf_output(&watch_events, &event, sizeof(event), 0);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
