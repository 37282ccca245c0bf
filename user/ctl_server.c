/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The resident process's end of the control socket.
 *
 * Theory of operation: an epoll of our own holds the listener, one timerfd and the conversations,
 * and the caller's loop watches that epoll. A conversation goes
 *
 *	READING -> HANDLING -> SENDING -> CLOSED
 *
 * READING and SENDING have a deadline, so a peer that stalls is dropped. HANDLING belongs to
 *whoever will reply and has none: only ctl_reply_ok() and ctl_reply_error() leave it. When the peer
 *goes away in HANDLING the descriptor is closed at once and the conversation waits on without one.
 * CLOSED ones are freed after the batch of events, never within, because a later event of the batch
 * may still point to them.
 */
#include "ctl_server.h"

#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include "util.h"

#define CTL_BACKLOG	    64
#define CTL_EVENTS	    16			  /* events of one dispatch */
#define CTL_ACCEPT_PAUSE_NS (100 * NSEC_PER_MSEC) /* without descriptors: not to spin */

enum conn_state { CONN_READING, CONN_HANDLING, CONN_SENDING, CONN_CLOSED };

struct ctl_conn {
	struct ctl_server *server;
	struct ctl_conn *next;
	enum conn_state state;
	int fd; /* -1: the peer is gone */
	uid_t uid;
	pid_t pid;
	uint64_t deadline_ns; /* READING and SENDING */

	char *in; /* CTL_MAX_REQUEST bytes */
	size_t in_len;

	char *out;
	size_t out_len, out_size, out_sent;
	bool out_failed; /* too long or out of memory: answered by an error */
};

struct ctl_server {
	int epoll_fd;
	int listen_fd; /* -1: no longer */
	int timer_fd;
	bool accepting;		  /* the listener is watched */
	uint64_t accept_again_ns; /* 0, or when to try again after an accept() that failed */
	bool dispatching;
	gid_t gid;
	ctl_handler handler;
	void *ctx;
	struct ctl_conn *conns;
	size_t n_conns; /* not CLOSED */
	struct sockaddr_un address;
};

static void conn_close(struct ctl_conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	if (conn->fd >= 0)
		close(conn->fd); /* leaves the epoll by this */
	conn->fd = -1;
	conn->state = CONN_CLOSED;
	conn->server->n_conns--;
}

static void conn_free(struct ctl_conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd);
	free(conn->in);
	free(conn->out);
	free(conn);
}

static void conn_watch(struct ctl_conn *conn, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = conn };

	if (epoll_ctl(conn->server->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event) < 0)
		conn_close(conn);
}

static void server_watch_listener(struct ctl_server *server, bool accepting)
{
	struct epoll_event event = { .events = accepting ? EPOLLIN : 0,
				     .data.ptr = &server->listen_fd };

	if (server->listen_fd < 0 || server->accepting == accepting)
		return;
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, server->listen_fd, &event) == 0)
		server->accepting = accepting;
}

/* After a change: frees what is closed, listens while there is room, sets the timer. */
static void server_settle(struct ctl_server *server)
{
	uint64_t next_ns = server->accept_again_ns ? server->accept_again_ns : UINT64_MAX;
	struct itimerspec timer = {};

	for (struct ctl_conn **p = &server->conns; *p;) {
		struct ctl_conn *conn = *p;

		if (conn->state == CONN_CLOSED) {
			*p = conn->next;
			conn_free(conn);
			continue;
		}
		if (conn->state == CONN_READING || conn->state == CONN_SENDING)
			next_ns = MIN(next_ns, conn->deadline_ns);
		p = &conn->next;
	}
	server_watch_listener(server, server->n_conns < CTL_MAX_CONNS && !server->accept_again_ns);

	if (next_ns != UINT64_MAX) {
		timer.it_value.tv_sec = (time_t)(next_ns / NSEC_PER_SEC);
		timer.it_value.tv_nsec = (long)(next_ns % NSEC_PER_SEC);
	}
	timerfd_settime(server->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

/*
 * Unread bytes would turn the EOF that the peer waits for into ECONNRESET. A peer that keeps
 * sending gets it nevertheless.
 */
static void conn_drain(struct ctl_conn *conn)
{
	char scratch[4096];

	for (size_t total = 0; total < 2 * CTL_MAX_REQUEST; total += sizeof(scratch))
		if (recv(conn->fd, scratch, sizeof(scratch), MSG_DONTWAIT) <= 0)
			return;
}

static void conn_send(struct ctl_conn *conn)
{
	while (conn->out_sent < conn->out_len) {
		ssize_t n = send(conn->fd, conn->out + conn->out_sent,
				 conn->out_len - conn->out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			conn_watch(conn, EPOLLOUT);
			return;
		}
		if (n < 0)
			break;
		conn->out_sent += (size_t)n;
	}
	conn_drain(conn);
	conn_close(conn);
}

/* Appends text and a newline; all or nothing. */
static void conn_append(struct ctl_conn *conn, const char *prefix, const char *fmt, va_list ap)
{
	size_t prefix_len = strlen(prefix);
	size_t need;
	va_list count;
	char *p;
	int n;

	if (conn->fd < 0 || conn->out_failed)
		return;
	va_copy(count, ap);
	n = vsnprintf(NULL, 0, fmt, count);
	va_end(count);
	need = prefix_len + (size_t)MAX(n, 0) + 2;
	if (n < 0 || need > CTL_MAX_ANSWER - conn->out_len) {
		conn->out_failed = true;
		return;
	}
	if (need > conn->out_size - conn->out_len) {
		size_t size = MAX(conn->out_len + need, 2 * conn->out_size);

		p = realloc(conn->out, size);
		if (!p) {
			conn->out_failed = true;
			return;
		}
		conn->out = p;
		conn->out_size = size;
	}
	p = conn->out + conn->out_len;
	memcpy(p, prefix, prefix_len);
	vsnprintf(p + prefix_len, (size_t)n + 1, fmt, ap);
	for (size_t i = 0; i < prefix_len + (size_t)n; i++)
		if (p[i] == '\n')
			p[i] = ' ';
	p[prefix_len + (size_t)n] = '\n';
	conn->out_len += prefix_len + (size_t)n + 1;
}

static void conn_reply_end(struct ctl_conn *conn)
{
	static char failed[] = "error: the answer is too long\n";
	struct ctl_server *server = conn->server;

	if (conn->state == CONN_CLOSED)
		return;
	if (conn->fd < 0) {
		conn_close(conn);
	} else {
		if (conn->out_failed) {
			free(conn->out);
			conn->out = strdup(failed);
			conn->out_len = conn->out ? sizeof(failed) - 1 : 0;
		}
		conn->state = CONN_SENDING;
		conn->deadline_ns = now_ns() + CTL_REQUEST_TIMEOUT_S * NSEC_PER_SEC;
		conn_send(conn);
	}
	if (!server->dispatching)
		server_settle(server);
}

bool ctl_conn_is_gone(const struct ctl_conn *conn)
{
	return conn->fd < 0;
}

void ctl_reply_line(struct ctl_conn *conn, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	conn_append(conn, "", fmt, ap);
	va_end(ap);
}

static void reply_last(struct ctl_conn *conn, const char *prefix, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	conn_append(conn, prefix, fmt, ap);
	va_end(ap);
	conn_reply_end(conn);
}

void ctl_reply_ok(struct ctl_conn *conn)
{
	reply_last(conn, "", "ok");
}

void ctl_reply_stopping(struct ctl_conn *conn)
{
	reply_last(conn, "", CTL_STOPPING);
}

void ctl_reply_error(struct ctl_conn *conn, const char *fmt, ...)
{
	char text[CTL_MAX_ERROR];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	reply_last(conn, "error: ", "%s", text);
}

/*
 * Who the peer was when it connected, by the kernel's record: its groups too, so that no
 * name service is asked, which could block us.
 */
static bool peer_allowed(const struct ctl_server *server, int fd, const struct ucred *peer)
{
	_cleanup_free_ gid_t *groups = NULL;
	socklen_t size = 0;

	if (peer->uid == 0 || peer->uid == geteuid() || peer->gid == server->gid)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) == 0 || errno != ERANGE)
		return false; /* has none */
	if (size > CTL_MAX_GROUPS * sizeof(gid_t))
		return false;
	groups = malloc(size);
	if (!groups || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof(gid_t); i++)
		if (groups[i] == server->gid)
			return true;
	return false;
}

/* Takes over @fd, whatever happens. */
static void conn_new(struct ctl_server *server, int fd)
{
	struct ucred peer = { .uid = (uid_t)-1, .gid = (gid_t)-1 };
	socklen_t size = sizeof(peer);
	struct ctl_conn *conn = calloc(1, sizeof(*conn));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = conn };

	if (conn)
		conn->in = malloc(CTL_MAX_REQUEST);
	if (!conn || !conn->in || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
	    epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		close(fd);
		if (conn) {
			conn->fd = -1;
			conn_free(conn);
		}
		return;
	}
	conn->server = server;
	conn->fd = fd;
	conn->uid = peer.uid;
	conn->pid = peer.pid;
	conn->deadline_ns = now_ns() + CTL_REQUEST_TIMEOUT_S * NSEC_PER_SEC;
	conn->next = server->conns;
	server->conns = conn;
	server->n_conns++;
	if (!peer_allowed(server, fd, &peer))
		ctl_reply_error(conn,
				"no right: uid %u is neither root nor in the socket's group (%s, "
				"if it exists)",
				peer.uid, CTL_GROUP);
}

static void server_accept(struct ctl_server *server)
{
	while (server->listen_fd >= 0 && server->n_conns < CTL_MAX_CONNS) {
		int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			conn_new(server, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN) /* EMFILE, ENFILE, ENOMEM: the listener would stay readable */
			server->accept_again_ns = now_ns() + CTL_ACCEPT_PAUSE_NS;
		return;
	}
}

static void conn_handle(struct ctl_conn *conn)
{
	struct ctl_request request;
	char error[CTL_MAX_ERROR];

	if (ctl_request_parse(conn->in, conn->in_len, &request, error) < 0) {
		ctl_reply_error(conn, "%s", error);
		return;
	}
	request.uid = conn->uid;
	request.pid = conn->pid;
	conn->state = CONN_HANDLING;
	conn_watch(conn, 0); /* EPOLLHUP and EPOLLERR still come */
	if (conn->state == CONN_HANDLING)
		conn->server->handler(conn->server->ctx, conn, &request);
}

static void conn_read(struct ctl_conn *conn)
{
	for (;;) {
		size_t seen = conn->in_len > 0 ? conn->in_len - 1 : 0;
		ssize_t n = recv(conn->fd, conn->in + conn->in_len, CTL_MAX_REQUEST - conn->in_len,
				 MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 || (n == 0 && conn->in_len == 0)) {
			conn_close(conn);
			return;
		}
		conn->in_len += (size_t)n;
		/* At EOF too: what is there is no request, and conn_handle() says so. */
		if (n == 0 || memmem(conn->in + seen, conn->in_len - seen, "\n\n", 2)) {
			conn_handle(conn);
			return;
		}
		if (conn->in_len == CTL_MAX_REQUEST) {
			ctl_reply_error(conn, "the request is longer than %d bytes",
					CTL_MAX_REQUEST);
			return;
		}
	}
}

static void conn_event(struct ctl_conn *conn, uint32_t events)
{
	switch (conn->state) {
	case CONN_READING:
		conn_read(conn);
		break;
	case CONN_HANDLING:
		/* HUP is both directions closed; a peer that only ended its own still wants the
		 * answer. */
		if (events & (EPOLLHUP | EPOLLERR)) {
			close(conn->fd);
			conn->fd = -1;
		}
		break;
	case CONN_SENDING:
		conn_send(conn);
		break;
	case CONN_CLOSED:
		break;
	}
}

static void server_expire(struct ctl_server *server)
{
	uint64_t now = now_ns();

	if (server->accept_again_ns && server->accept_again_ns <= now)
		server->accept_again_ns = 0;
	for (struct ctl_conn *conn = server->conns; conn; conn = conn->next) {
		if (conn->deadline_ns > now)
			continue;
		if (conn->state == CONN_READING)
			ctl_reply_error(conn, "the request didn't come whole within %d s",
					CTL_REQUEST_TIMEOUT_S);
		else if (conn->state == CONN_SENDING)
			conn_close(conn);
	}
}

int ctl_server_fd(const struct ctl_server *server)
{
	return server->epoll_fd;
}

void ctl_server_dispatch(struct ctl_server *server)
{
	struct epoll_event events[CTL_EVENTS];
	int n = epoll_wait(server->epoll_fd, events, CTL_EVENTS, 0);

	server->dispatching = true;
	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr == &server->listen_fd)
			server_accept(server);
		else if (events[i].data.ptr == &server->timer_fd)
			server_expire(server);
		else
			conn_event(events[i].data.ptr, events[i].events);
	}
	server->dispatching = false;
	server_settle(server);
}

void ctl_server_stop_listening(struct ctl_server *server)
{
	if (server->listen_fd < 0)
		return;
	/* First the name: later clients find nobody; those in the accept queue get ECONNRESET and
	 * ask again. */
	unlink(server->address.sun_path);
	close(server->listen_fd);
	server->listen_fd = -1;
}

bool ctl_server_busy(const struct ctl_server *server)
{
	return server->n_conns > 0;
}

void ctl_server_free(struct ctl_server *server)
{
	if (!server)
		return;
	ctl_server_stop_listening(server);
	while (server->conns) {
		struct ctl_conn *conn = server->conns;

		server->conns = conn->next;
		conn_free(conn);
	}
	if (server->timer_fd >= 0)
		close(server->timer_fd);
	if (server->epoll_fd >= 0)
		close(server->epoll_fd);
	free(server);
}

static int make_parent(const char *path)
{
	char copy[CTL_PATH_MAX];
	const char *dir;

	snprintf(copy, sizeof(copy), "%s", path);
	dir = dirname(copy);
	if (mkdir(dir, 0755) < 0)
		return errno == EEXIST ? 0 : -errno;
	return chmod(dir, 0755) < 0 ? -errno : 0; /* whatever the umask is */
}

static int server_listen(struct ctl_server *server, const char *path)
{
	const struct group *group = getgrnam(CTL_GROUP);
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	if (strlen(path) >= sizeof(server->address.sun_path))
		return -ENAMETOOLONG;
	server->address.sun_family = AF_UNIX;
	strcpy(server->address.sun_path, path);
	r = make_parent(path);
	if (r < 0)
		return r;
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&server->address, sizeof(server->address)) < 0)
		return -errno;
	/* Nobody can connect before listen(), so there is no moment with the wrong rights. */
	if ((group && chown(path, (uid_t)-1, group->gr_gid) < 0) || chmod(path, 0660) < 0 ||
	    stat(path, &st) < 0 || listen(fd, CTL_BACKLOG) < 0) {
		r = -errno;
		unlink(path);
		return r;
	}
	server->gid = st.st_gid;
	server->listen_fd = TAKE_FD(fd);
	return 0;
}

static int server_watch(struct ctl_server *server)
{
	struct epoll_event listener = { .events = EPOLLIN, .data.ptr = &server->listen_fd };
	struct epoll_event timer = { .events = EPOLLIN, .data.ptr = &server->timer_fd };

	server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	server->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (server->epoll_fd < 0 || server->timer_fd < 0 ||
	    epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->listen_fd, &listener) < 0 ||
	    epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->timer_fd, &timer) < 0)
		return -errno;
	server->accepting = true;
	return 0;
}

int ctl_server_new(const char *path, ctl_handler handler, void *ctx, struct ctl_server **ret_server)
{
	struct ctl_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return -ENOMEM;
	server->epoll_fd = server->listen_fd = server->timer_fd = -1;
	server->handler = handler;
	server->ctx = ctx;
	r = server_listen(server, path);
	if (r == 0)
		r = server_watch(server);
	if (r < 0) {
		ctl_server_free(server);
		return r;
	}
	*ret_server = server;
	return 0;
}
