// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sniffer sockets.
 *
 * Bound to ::ffff:127.0.0.1 the one socket is steered IPv4 and IPv6 to, and nobody can connect to
 * it from elsewhere. SO_REUSEADDR passes on to the accepted sockets: without it the web server
 * could not bind its port anew while we hold a connection. IPV6_TRANSPARENT marks its requests: see
 * primer.h, which is seldom needed then. SO_REUSEPORT makes them one group, which takes SYN cookies
 * together: see syn_cookies.c. The steering program chooses among them, not the group.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "sniffer.h"
#include "util.h"

int sniffer_socket(uint16_t port, int backlog)
{
	struct sockaddr_in6 sin6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	const int one = 1;
	_cleanup_close_ int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET6, "::ffff:127.0.0.1", &sin6.sin6_addr);
	if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 0 }, sizeof(int)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&sin6, sizeof(sin6)) < 0 || listen(fd, backlog) < 0)
		return -1;
	/*
	 * Such a connection could be accepted before its handshake is over, and only be relayed.
	 * net.ipv4.tcp_fastopen may have said otherwise in listen().
	 */
	setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &(int){ 0 }, sizeof(int));
	return TAKE_FD(fd);
}
