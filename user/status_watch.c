/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * `status --watch`: asks the resident process again and again.
 *
 * On a terminal it takes the alternate screen and switches echo off; every way out puts both back:
 * the user's q and Ctrl-C, signals, an error, and Ctrl-Z for as long as it is stopped. Handlers of
 * signals do so at once, whatever the program is doing (write(2) and tcsetattr(3) may be called
 * there), so that none has to wait for an answer that does not come. A change of size redraws.
 */
#include "status_watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "cmd.h"
#include "log.h"
#include "status_doc.h"
#include "util.h"

#define ANSWER_TIMEOUT_MS 2000

#define TERMINAL_ENTER "\033[?1049h\033[?25l" /* alternate screen, no cursor */
#define TERMINAL_LEAVE "\033[?25h\033[?1049l"

static struct {
	bool entered;
	bool has_keys; /* stdin is this terminal */
	struct termios keys;
} terminal;
static volatile sig_atomic_t resized;

struct watch {
	const struct ctl_client *client;
	struct json_object *(*nobody)(const struct ctl_client *client);
	struct json_object *status; /* the latest one, owned; NULL: none so far */
	bool on_screen, json, keys;
	struct status_sample now, before;
	char error[CTL_MAX_ERROR]; /* "": status is new */
	bool failing;		   /* the last look failed, and that was said */
};

int watch_interval_parse(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *suffix;
		double seconds;
	} units[] = { { "", 1 }, { "s", 1 }, { "ms", 0.001 }, { "m", 60 } };
	double n = 0, ns;
	char *end;

	/* What strtod() takes beside this (signs, exponents, "inf") is none of our forms. */
	if (*text < '0' || *text > '9' || strspn(text, "0123456789.ms") != strlen(text))
		return -EINVAL;
	n = strtod(text, &end);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].suffix) != 0)
			continue;
		ns = n * units[i].seconds * 1e9 + 0.5;
		if (!(ns >= (double)WATCH_MIN_NS && ns <= (double)WATCH_MAX_NS))
			return -EINVAL;
		*ret_ns = (uint64_t)ns;
		return 0;
	}
	return -EINVAL;
}

/* Called by handlers of signals, too. */
static void write_all(const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDOUT_FILENO, text, len);

		if (n < 0 && errno != EINTR)
			return;
		if (n > 0) {
			text += n;
			len -= (size_t)n;
		}
	}
}

static void terminal_enter(void)
{
	struct termios keys;

	terminal.has_keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &terminal.keys) == 0;
	if (terminal.has_keys) {
		keys = terminal.keys;
		keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		keys.c_cc[VMIN] = 1;
		keys.c_cc[VTIME] = 0;
		tcsetattr(STDIN_FILENO, TCSANOW, &keys);
	}
	write_all(TERMINAL_ENTER, sizeof(TERMINAL_ENTER) - 1);
	terminal.entered = true;
}

static void terminal_leave(void)
{
	if (!terminal.entered)
		return;
	terminal.entered = false;
	write_all(TERMINAL_LEAVE, sizeof(TERMINAL_LEAVE) - 1);
	if (terminal.has_keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal.keys);
}

static void on_end(int sig)
{
	terminal_leave();
	if (sig == SIGINT) /* how one leaves it */
		_exit(EXIT_DONE);
	signal(sig, SIG_DFL);
	raise(sig); /* delivered when this handler returns */
}

static void on_stop(int sig)
{
	int saved_errno = errno;

	terminal_leave();
	raise(SIGSTOP);
	/* Continued. */
	terminal_enter();
	resized = 1;
	errno = saved_errno;
}

static void on_resize(int sig)
{
	resized = 1;
}

/* SIGWINCH stays blocked but while we wait, so that none is missed. @ret_waiting: the mask then. */
static void handle_signals(sigset_t *ret_waiting)
{
	static const struct {
		int signal;
		void (*handler)(int);
	} all[] = {
		{ SIGINT, on_end },  { SIGTERM, on_end },  { SIGHUP, on_end },
		{ SIGQUIT, on_end }, { SIGTSTP, on_stop }, { SIGWINCH, on_resize },
	};
	struct sigaction action, old;
	sigset_t blocked;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		action = (struct sigaction){ .sa_handler = all[i].handler };
		sigfillset(&action.sa_mask);
		sigaction(all[i].signal, NULL, &old);
		if (old.sa_handler != SIG_IGN || all[i].signal == SIGWINCH)
			sigaction(all[i].signal, &action, NULL);
	}
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGWINCH);
	sigprocmask(SIG_BLOCK, &blocked, ret_waiting);
	sigdelset(ret_waiting, SIGWINCH);
}

/* Takes over what was answered, or leaves the old document and says why. */
static int take_answer(struct watch *watch, struct json_object *status)
{
	if (!json_object_is_type(status, json_type_object)) {
		json_object_put(status);
		snprintf(watch->error, sizeof(watch->error), "the answer from %s is not understood",
			 watch->client->path);
		return -EPROTO;
	}
	watch->error[0] = '\0';
	json_object_put(watch->status);
	watch->status = status;
	watch->before = watch->now;
	status_sample(status, now_ns(), &watch->now);
	return 0;
}

/* @first: with patience, and a full explanation; later there is always another look. */
static int ask(struct watch *watch, bool first)
{
	struct ctl_message message;
	struct ctl_answer answer;
	struct json_object *status;
	int r;

	ctl_message_init(&message, "status");
	ctl_message_end(&message);
	if (first)
		r = ctl_client_call(watch->client, &message, false, CTL_STATUS_TIMEOUT_MS, &answer,
				    watch->error);
	else
		r = ctl_client_exchange(watch->client->path, &message, ANSWER_TIMEOUT_MS, &answer,
					watch->error);
	/* There is none, or it is just coming or leaving. */
	if (r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET)
		return take_answer(watch, watch->nobody(watch->client));
	if (r < 0 && !first)
		snprintf(watch->error, sizeof(watch->error), "%s: %s", watch->client->path,
			 r == -ETIMEDOUT ? "no answer; the process is stopped or overloaded"
					 : strerror(-r));
	if (r < 0)
		return r;
	status = watch->error[0] ? NULL : json_tokener_parse(answer.lines);
	ctl_answer_free(&answer);
	return watch->error[0] ? -EREMOTEIO : take_answer(watch, status);
}

/* How many bytes of @line are @columns characters. */
static size_t clip(const char *line, size_t len, unsigned columns)
{
	size_t i = 0;

	for (unsigned n = 0; i < len; n++) {
		if (n == columns)
			break;
		do
			i++;
		while (i < len && ((unsigned char)line[i] & 0xc0) == 0x80);
	}
	return i;
}

/* @text on a screen of this size: what does not fit is cut off, and the last line says so. */
static void put_screen(const char *text, unsigned rows, unsigned columns, FILE *to)
{
	unsigned n = 0, left = 0;

	fputs("\033[H", to);
	for (const char *end; *text; text = end + 1) {
		const char *style = *text == STATUS_BOLD  ? "\033[1m"
				    : *text == STATUS_DIM ? "\033[2m"
							  : "";
		const char *start = text + (*style != '\0');

		end = strchrnul(text, '\n');
		if (n + 1 < rows || (n + 1 == rows && !left && !end[1])) {
			fprintf(to, "%s%s%.*s%s\033[K", n ? "\r\n" : "", style,
				(int)clip(start, (size_t)(end - start), columns), start,
				*style ? "\033[0m" : "");
			n++;
		} else {
			left++;
		}
		if (!*end)
			break;
	}
	if (left)
		fprintf(to, "%s\033[2m%.*s\033[0m\033[K", n ? "\r\n" : "", (int)columns,
			"... more, in a higher window");
	fputs("\033[J", to);
}

static void show(struct watch *watch)
{
	struct winsize size = {};
	char *text = NULL, *screen = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return;
	status_view(watch->status, &watch->now, &watch->before,
		    watch->error[0] ? watch->error : NULL, to);
	if (fclose(to) == 0 && (to = open_memstream(&screen, &len))) {
		if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col)
			size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
		put_screen(text, size.ws_row, size.ws_col, to);
		if (fclose(to) == 0)
			write_all(screen, len);
	}
	free(text);
	free(screen);
}

/* False when stdout takes no more. */
static bool print(struct watch *watch)
{
	const char *error = watch->error[0] ? watch->error : NULL;

	if (error && !watch->failing)
		log_warn("status: %s", error);
	watch->failing = error;
	if (!watch->json)
		status_line(watch->status, &watch->now, &watch->before, error, stdout);
	else if (!error)
		printf("%s\n", json_object_to_json_string_ext(
				       watch->status,
				       JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	return fflush(stdout) == 0;
}

/* True: the user wants to leave. */
static bool take_key(struct watch *watch)
{
	char key;
	ssize_t n = read(STDIN_FILENO, &key, 1);

	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		watch->keys = false;
	return n == 1 && (key == 'q' || key == 'Q');
}

/* Until @at_ns. True: the user wants to leave. */
static bool wait_until(struct watch *watch, uint64_t at_ns, const sigset_t *waiting)
{
	for (;;) {
		struct pollfd keys = { .fd = watch->keys ? STDIN_FILENO : -1, .events = POLLIN };
		uint64_t now = now_ns(), left = at_ns > now ? at_ns - now : 0;
		struct timespec ts = { .tv_sec = (time_t)(left / NSEC_PER_SEC),
				       .tv_nsec = (long)(left % NSEC_PER_SEC) };
		int n = ppoll(&keys, 1, &ts, waiting);

		if (n == 0)
			return false;
		if (n > 0 && take_key(watch))
			return true;
		if (resized && watch->on_screen) {
			resized = 0;
			show(watch);
		}
	}
}

int status_watch(const struct ctl_client *client, uint64_t interval_ns, bool json,
		 struct json_object *(*nobody)(const struct ctl_client *client))
{
	const char *term = getenv("TERM");
	struct watch watch = { .client = client, .nobody = nobody, .json = json };
	uint64_t next_ns = now_ns();
	int code = EXIT_DONE;
	sigset_t waiting;

	watch.on_screen =
		!json && isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0;
	/* What is wrong from the beginning will not change. */
	if (ask(&watch, true) < 0) {
		log_error("status: %s", watch.error);
		return EXIT_FAILED;
	}
	if (watch.on_screen) {
		terminal_enter();
		handle_signals(&waiting);
		watch.keys = terminal.has_keys;
	} else {
		sigprocmask(SIG_BLOCK, NULL, &waiting);
	}
	for (;;) {
		if (watch.on_screen) {
			show(&watch);
		} else if (!print(&watch)) {
			code = EXIT_FAILED;
			break;
		}
		next_ns += interval_ns;
		if (next_ns < now_ns())
			next_ns = now_ns();
		if (wait_until(&watch, next_ns, &waiting))
			break;
		ask(&watch, false);
	}
	terminal_leave();
	json_object_put(watch.status);
	return code;
}
