/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One of longlived's connections: a download, an upload or an idle one.
 *
 * Download and upload trickle until the end of the run and then go at full speed to their own
 * end, so that nothing a window did to them can stay unseen in a buffer. The bytes are tool.h's
 * pattern: seed 0 for the download (longlived --make-file writes it), the trio's number + 1 for an
 * upload, whose SHA-256 is kept for a comparison with what the server has stored.
 */
#include "longlived.h"

#include <poll.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

#define TRICKLE_BYTES 4096
#define TRICKLE_MS    100

static const char *const role_names[ROLE_COUNT] = { "download", "upload", "idle" };

__attribute__((format(printf, 2, 3))) static bool fail(struct member *member, const char *fmt, ...)
{
	int n = snprintf(member->failure, sizeof(member->failure),
			 "%s: ", role_names[member->role]);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(member->failure + n, sizeof(member->failure) - (size_t)n, fmt, ap);
	va_end(ap);
	return false;
}

static bool fail_tls(struct member *member, const char *what, int ret)
{
	int saved_errno = errno, error = SSL_get_error(member->ssl, ret);
	char fault[TLS_FAULT_LEN];

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ||
	    (error == SSL_ERROR_SYSCALL && saved_errno == EAGAIN))
		return fail(member, "%s: hung for %.0f s", what, opt.timeout_s);
	errno = saved_errno;
	return fail(member, "%s: %s", what, tls_fault(member->ssl, ret, fault));
}

static bool open_tls(struct member *member)
{
	const struct tool_addr *target = member->target, *source;
	struct timeval timeout = { .tv_sec = (time_t)opt.timeout_s };
	socklen_t len = sizeof(member->local);
	static const int hello_wait_ms[] = { 0, 40, 300 };
	int ret;

	member->fd = socket(target->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (member->fd < 0)
		return fail(member, "socket: %s", strerror(errno));
	setsockopt(member->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(member->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	source = tool_addrs_of_family(&opt.sources, target->sa.ss_family, member->trio);
	if (source && tool_bind_source(member->fd, source) < 0)
		return fail(member, "bind: %s", strerror(errno));
	if (connect(member->fd, (const struct sockaddr *)&target->sa, target->len) < 0)
		return fail(member, "connect: %s", strerror(errno));
	getsockname(member->fd, (struct sockaddr *)&member->local, &len);
	pause_ms(hello_wait_ms[(member->trio + member->role) % 3]);
	member->ssl = SSL_new(opt.ctx);
	if (!member->ssl || !SSL_set_fd(member->ssl, member->fd) ||
	    !SSL_set_tlsext_host_name(member->ssl, opt.sni))
		tool_die("SSL_new failed");
	errno = 0;
	ret = SSL_connect(member->ssl);
	if (ret <= 0)
		return fail_tls(member, "handshake", ret);
	return true;
}

static bool send_all(struct member *member, const void *data, size_t len)
{
	int ret;

	ERR_clear_error();
	errno = 0;
	ret = SSL_write(member->ssl, data, (int)len);
	return ret > 0 ? true : fail_tls(member, "write", ret);
}

/*
 * Reads as far as the head's end. What came behind it is left in @rest. Returns the status, or 0
 * when it failed; @ret_length is the body's.
 */
static int read_head(struct member *member, uint8_t *rest, size_t rest_size, size_t *ret_rest,
		     uint64_t *ret_length)
{
	size_t len = 0;
	char *end = NULL, *length;
	int status = 0, n;

	while (!end) {
		if (len == sizeof(member->head) - 1)
			return fail(member, "head too long");
		ERR_clear_error();
		errno = 0;
		n = SSL_read(member->ssl, member->head + len,
			     (int)(sizeof(member->head) - 1 - len));
		if (n <= 0)
			return fail_tls(member, "read head", n);
		len += (size_t)n;
		member->head[len] = '\0';
		end = strstr(member->head, "\r\n\r\n");
	}
	*ret_rest = len - (size_t)(end + 4 - member->head);
	if (*ret_rest > rest_size)
		return fail(member, "unexpected body");
	memcpy(rest, end + 4, *ret_rest);
	end[2] = '\0';
	length = strcasestr(member->head, "\r\ncontent-length:");
	*ret_length = length ? strtoull(length + 17, NULL, 10) : 0;
	if (sscanf(member->head, "HTTP/1.%*d %d", &status) != 1)
		return fail(member, "not HTTP");
	return status;
}

static bool read_end(struct member *member)
{
	char byte;
	int n;

	ERR_clear_error();
	errno = 0;
	n = SSL_read(member->ssl, &byte, 1);
	if (n > 0)
		return fail(member, "bytes behind the end");
	if (SSL_get_error(member->ssl, n) != SSL_ERROR_ZERO_RETURN)
		return fail_tls(member, "end", n);
	return true;
}

/* Asks for @path, with the header lines @more. The rest is read_head()'s; true: it is there. */
static bool get(struct member *member, const char *path, const char *more, uint8_t *rest,
		size_t rest_size, size_t *ret_rest, uint64_t *ret_length)
{
	char request[512];
	int status;

	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, opt.sni,
		 more);
	if (!send_all(member, request, strlen(request)))
		return false;
	status = read_head(member, rest, rest_size, ret_rest, ret_length);
	if (!status)
		return false;
	return status == 200 ? true : fail(member, "status %d", status);
}

static bool run_download(struct member *member)
{
	uint8_t buf[16384];
	uint64_t length;
	size_t n;
	int ret;

	if (!get(member, opt.download_path, "Connection: close\r\n", buf, sizeof(buf), &n, &length))
		return false;
	if (length != opt.download_bytes)
		return fail(member, "length %llu", (unsigned long long)length);
	for (;;) {
		if (tool_pattern_check(0, member->bytes, buf, n) != n)
			return fail(member, "wrong byte after %llu",
				    (unsigned long long)member->bytes);
		member->bytes += n;
		if (n)
			established(member);
		if (member->bytes >= length)
			break;
		pause_ms(TRICKLE_MS);
		ERR_clear_error();
		errno = 0;
		ret = SSL_read(member->ssl, buf, stopped() ? (int)sizeof(buf) : TRICKLE_BYTES);
		if (ret <= 0)
			return fail_tls(member, "read", ret);
		n = (size_t)ret;
	}
	return read_end(member);
}

static bool run_upload(struct member *member)
{
	EVP_MD_CTX *digest = EVP_MD_CTX_new();
	uint8_t buf[16384], md[EVP_MAX_MD_SIZE];
	unsigned md_len = 0;
	char request[512];
	uint64_t length;
	size_t n, rest;
	int status;

	snprintf(member->upload_path, sizeof(member->upload_path), "%s%u-%u", opt.upload_prefix,
		 opt.upload_tag, member->trio);
	snprintf(request, sizeof(request),
		 "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %llu\r\nConnection: close\r\n\r\n",
		 member->upload_path, opt.sni, (unsigned long long)opt.upload_bytes);
	EVP_DigestInit_ex(digest, EVP_sha256(), NULL);
	if (!send_all(member, request, strlen(request)))
		goto out;
	while (member->bytes < opt.upload_bytes) {
		n = stopped() ? sizeof(buf) : TRICKLE_BYTES;
		if (n > opt.upload_bytes - member->bytes)
			n = (size_t)(opt.upload_bytes - member->bytes);
		tool_pattern(member->trio + 1, member->bytes, buf, n);
		EVP_DigestUpdate(digest, buf, n);
		if (!send_all(member, buf, n))
			goto out;
		member->bytes += n;
		established(member);
		pause_ms(TRICKLE_MS);
	}
	EVP_DigestFinal_ex(digest, md, &md_len);
	for (unsigned i = 0; i < md_len; i++)
		sprintf(member->sha256 + 2 * i, "%02x", md[i]);
	status = read_head(member, buf, sizeof(buf), &rest, &length);
	if (status && status != 201 && status != 204)
		fail(member, "status %d", status);
	if (!member->failure[0] && rest == length)
		read_end(member);
out:
	EVP_MD_CTX_free(digest);
	return !member->failure[0];
}

static bool idle_request(struct member *member)
{
	uint8_t buf[sizeof(member->head)];
	uint64_t length;
	size_t n;
	int ret;

	if (!get(member, opt.idle_path, "", buf, sizeof(buf), &n, &length))
		return false;
	while (n < length) {
		size_t want = length - n < sizeof(buf) ? (size_t)(length - n) : sizeof(buf);

		ret = SSL_read(member->ssl, buf, (int)want);
		if (ret <= 0)
			return fail_tls(member, "read", ret);
		n += (size_t)ret;
	}
	member->requests++;
	established(member);
	return true;
}

static bool run_idle(struct member *member)
{
	for (;;) {
		struct pollfd fds[2] = { { .fd = stop_fd, .events = POLLIN },
					 { .fd = member->fd, .events = POLLIN | POLLRDHUP } };
		double ms = opt.idle_interval_s * 1000;

		if (!idle_request(member))
			return false;
		if (poll(fds, 2, ms > 1e8 ? 100000000 : (int)ms) < 0 && errno != EINTR)
			return fail(member, "poll: %s", strerror(errno));
		if (fds[1].revents)
			return fail(member, "closed while idle");
		if (stopped())
			return idle_request(member);
	}
}

bool member_serve(struct member *member)
{
	static bool (*const run[ROLE_COUNT])(struct member *) = { run_download, run_upload,
								  run_idle };
	bool ok = open_tls(member) && run[member->role](member);

	SSL_free(member->ssl);
	if (member->fd >= 0)
		close(member->fd);
	return ok;
}
