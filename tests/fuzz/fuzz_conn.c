// uses: hello.c shares.c timers.c tally.c addr.c conn_log.c
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libFuzzer target for the state machine of connections, conn.c and conn_relay.c, with the kernel
 * and the modules below it as a model (conn_model.h). The input is a list of things that happen:
 * clients come, send, end, reset; events and timers are delivered, as the loop does; targets come,
 * go, and are busy; the window is drained, killed, opened again; descriptors run out; relays
 * connect, fail and end.
 *
 * What must hold, after each of them:
 *  - every connection has a socket and a timer, or is in a hand-off and has a timer, or is a
 * relay's;
 *  - counts by state, of places, of the window's connections and of relays are those of the list.
 * And in the end, when all targets take what comes:
 *  - every client has arrived in exactly one place: web server, responder, or it had gone before,
 *    was reset because nobody took it for as long as it says, or was lost by the kernel;
 *  - at the responder only who asks for it; at the web server all others, and those with a reason;
 *  - no descriptor, no memory, no place and no timer is left.
 */
#include "log.h"

#include "conn_model.h"

/* Both with the model's kernel. */
/* clang-format off */
#define recv	    model_recv
#define close	    model_close
#define getsockname model_getsockname
#define getsockopt  model_getsockopt
#define setsockopt  model_setsockopt
#define epoll_ctl   model_epoll_ctl
#define now_ns()    (model.now_ns + model.late_ns)
#include "../../user/conn.c"
#include "../../user/conn_relay.c"
/* clang-format on */

#define BATCH 16
#define STEPS 4096 /* that the end may take */

static struct conn_owner owner;

static uint64_t server_down(void)
{
	return owner.counters[CONN_SERVER_DOWN];
}

static uint64_t no_client_ip(void)
{
	return owner.counters[CONN_NO_CLIENT_IP];
}

static uint8_t *put(uint8_t *p, size_t number, size_t bytes)
{
	while (bytes--)
		*p++ = (uint8_t)(number >> 8 * bytes);
	return p;
}

static uint8_t *put_text(uint8_t *p, const char *text)
{
	memcpy(p, text, strlen(text));
	return p + strlen(text);
}

/* One record, @padding bytes longer than need be. */
static size_t hello_make(uint8_t *to, const char *name, const char *protocol, size_t padding)
{
	size_t n = strlen(name), a = strlen(protocol);
	size_t extensions = (4 + 5 + n) + (4 + 3 + a) + (4 + padding);
	size_t body = 2 + 32 + 1 + 2 + 2 + 1 + 1 + 2 + extensions;
	uint8_t *p = put(to, 0x160301, 3);

	p = put(put(put(p, body + 4, 2), 1, 1), body, 3);
	p = put(p, 0x0303, 2);
	memset(p, 'r', 32);
	p = put(put(p + 32, 0, 1), 2, 2);
	p = put(put(put(p, 0x1301, 2), 0x0100, 2), extensions, 2);
	p = put(put(put(put(put(p, 0, 2), n + 5, 2), n + 3, 2), 0, 1), n, 2);
	p = put_text(p, name);
	p = put(put(put(put(p, 16, 2), a + 3, 2), a + 1, 2), a, 1);
	p = put_text(p, protocol);
	p = put(put(p, 21, 2), padding, 2);
	memset(p, 0, padding);
	return (size_t)(p + padding - to);
}

/* What it will say: some of it may have come with it. */
static void client_speaks(struct client *client, struct input *input)
{
	uint8_t kind, size;

	take(input, &kind, 1);
	take(input, &size, 1);
	switch (kind % 6) {
	case 0:
	case 1:
		client->len = hello_make(client->stream, HIS_NAME, "acme-tls/1", size * 6u);
		break;
	case 2:
		client->len = hello_make(client->stream, HIS_NAME, "h2", size * 6u);
		break;
	case 3:
		client->len = hello_make(client->stream, "other.example.org", "acme-tls/1", size);
		break;
	case 4:
		client->len = (size_t)(put_text(client->stream, "GET / HTTP/1.0\r\n\r\n") -
				       client->stream);
		break;
	default:
		client->len = size;
		take(input, client->stream, client->len);
	}
	check(client->len <= MODEL_STREAM);
}

static void client_comes(struct input *input)
{
	struct client *client = &model.clients[model.n];
	struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)&client->address;
	uint8_t byte;

	if (model.n == MODEL_CLIENTS)
		return;
	take(input, &byte, 1);
	*client = (struct client){ .place = QUEUE, .fd = -1, .cookie = ++model.n, .lowat = 1 };
	client->translated = byte > 0xe0;
	sin6->sin6_family = AF_INET6;
	sin6->sin6_port = htons((uint16_t)(20000 + model.n));
	sin6->sin6_addr.s6_addr[0] = 0x20;
	sin6->sin6_addr.s6_addr[7] = byte & 3;
	sin6->sin6_addr.s6_addr[15] = byte & 7;
	client_speaks(client, input);
}

static bool is_alive(const struct client *client)
{
	return client->place > NOWHERE && client->place < AT_WEB_SERVER;
}

static void accept_one(bool in_haste)
{
	for (size_t i = 0; i < model.n; i++) {
		struct client *client = &model.clients[i];

		if (client->place != QUEUE)
			continue;
		client->place = OURS;
		client->fd = model.next_fd++;
		client->lowat = 1;
		client->came_ns = model.now_ns;
		client->in_haste = in_haste;
		client->drained = owner.draining;
		client->window_was_closed = model.window_closed;
		client->relay = NULL;
		client->responder_failed_ns = client->late_tries = 0;
		client->busy_ns = 0;
		client->refused = false;
		client->needs_header = model.options.plane == PLANE_RELAY &&
				       (model.options.client_ip == CLIENT_IP_PROXY_V1 ||
					model.options.client_ip == CLIENT_IP_PROXY_V2);
		conn_accept(&owner, client->fd, &client->address, in_haste, model.now_ns);
		return;
	}
}

static struct client *pick(struct input *input)
{
	uint8_t byte;

	take(input, &byte, 1);
	return model.n ? &model.clients[byte % model.n] : NULL;
}

static void client_sends(struct input *input)
{
	struct client *client = pick(input);
	uint8_t n;

	take(input, &n, 1);
	if (!client || client->fin || client->rst)
		return;
	/* 255: all of it. */
	client->arrived = n == 255 ? client->len : MIN(client->arrived + n, client->len);
	client->news = true;
}

static void run_timers(void)
{
	struct timer *timer;

	while ((timer = timers_first(&owner.timers)) && timer->at_ns <= model.now_ns)
		conn_timeout(&owner, timer, model.now_ns);
}

static void tell_all_clients(size_t flag)
{
	for (size_t i = 0; i < model.n; i++)
		if (is_alive(&model.clients[i]))
			*((uint8_t *)&model.clients[i] + flag) = true;
}

/* The last window has been closed. */
static void drain(void)
{
	model.window_closed = true;
	tell_all_clients(offsetof(struct client, drained));
	conn_drain(&owner, model.now_ns);
	for (const struct conn *conn = owner.first; conn; conn = conn->next)
		check(conn->state != CONN_SNIFFING &&
		      (conn->state != CONN_WAITING || !conn->route.to_responder));
}

/* Descriptors have run out. */
static void make_room(void)
{
	const struct conn *oldest = NULL;

	for (const struct conn *conn = owner.first; conn; conn = conn->next)
		if (conn->state == CONN_SNIFFING)
			oldest = conn;
	if (oldest)
		model.clients[oldest->job.cookie - 1].in_haste = true;
	check(conn_make_room(&owner, model.now_ns) == (oldest != NULL));
	check(!oldest || oldest->state != CONN_SNIFFING);
}

static void kill_relays(void)
{
	tally_kill(&model.tally, true);
	conn_kill(&owner);
}

/* Nobody waits for what is there already. */
static void check_wake_ups(void)
{
	for (size_t i = 0; i < model.n; i++) {
		const struct client *client = &model.clients[i];
		struct hello hello;
		size_t need;

		if (client->place != OURS || !client->polled || client->unpolled ||
		    !(client->events & EPOLLET) || !client->arrived)
			continue;
		check(hello_parse(client->stream, client->arrived, &need, &hello) == HELLO_MORE);
	}
}

/*
 * Events are for connections as they were when epoll reported them: @between happens after the
 * first, and what is closed by then still gets its event.
 */
static void deliver(void (*between)(void))
{
	struct {
		struct conn *conn;
		uint32_t events;
	} batch[BATCH];
	size_t n = 0;

	for (size_t i = 0; i < model.n && n < BATCH; i++) {
		uint32_t events = ready_events(&model.clients[i]);

		if (!events)
			continue;
		model.clients[i].news = false;
		batch[n].conn = model.clients[i].data;
		batch[n++].events = events;
	}
	for (size_t i = 0; i < n; i++) {
		conn_event(&owner, batch[i].conn, batch[i].events, model.now_ns);
		if (i == 0 && between)
			between();
	}
	/* Who has ended what he says is not waited for. */
	for (size_t i = 0; i < n; i++)
		check(!(batch[i].events & EPOLLRDHUP) || batch[i].conn->state != CONN_SNIFFING);
	if (n < BATCH)
		check_wake_ups();
	run_timers();
	conn_reap(&owner);
}

/* By 2^@exponent units of 64 ns: up to two minutes. */
static void pass_time(uint8_t exponent)
{
	model.now_ns += UINT64_C(64) << exponent % 32;
	run_timers();
	conn_reap(&owner);
}

static void relay_goes_on(struct client *client, uint8_t how)
{
	static const int errors[] = { -ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH, -EACCES };

	if (!client)
		return;
	if (client->place == CONNECTING)
		relay_news(client, how & 1 ? errors[how / 2 % ARRAY_SIZE(errors)] : 0);
	else if (client->relayed)
		relay_end(client);
	conn_reap(&owner);
}

static void set_options(uint8_t byte)
{
	model.options.plane = (enum plane)(byte % PLANE_COUNT);
	model.options.client_ip = (enum client_ip)(byte / 4 % CLIENT_IP_COUNT);
	model.options.elsewhere = byte & 0x40;
	model.routes.max_relays = byte & 0x80 ? 2 : 1000;
}

/* Failures of the kernel that may pass. */
static void set_failures(uint8_t byte)
{
	model.epoll_fails = byte & 1;
	model.getsockopt_fails = byte & 2;
	model.window_closed = byte & 4;
	if (model.window_closed)
		tell_all_clients(offsetof(struct client, window_was_closed));
	tally_kill(&model.tally, false);
	owner.draining = false;
}

static void step(struct input *input)
{
	struct client *client;
	uint8_t what, byte;

	take(input, &what, 1);
	switch (what % 16) {
	case 0:
	case 1:
		client_comes(input);
		accept_one(false);
		break;
	case 2:
		client_comes(input);
		accept_one(what & 0x10);
		break;
	case 3:
	case 4:
		client_sends(input);
		break;
	case 5:
		client = pick(input);
		if (client)
			client->fin = client->news = true;
		break;
	case 6:
		client = pick(input);
		if (client && is_alive(client))
			client->rst = client->news = true;
		break;
	case 7:
	case 8:
		deliver(NULL);
		break;
	case 9:
		deliver(what & 0x10 ? drain : kill_relays);
		break;
	case 10:
		take(input, &byte, 1);
		pass_time(byte);
		break;
	case 11:
		take(input, &byte, 1);
		model.web_server = (enum taking)(byte % TAKINGS);
		model.responder = (enum taking)(byte / 8 % TAKINGS);
		model.refusal =
			(enum seize_result)(SEIZE_STATE + byte % (SEIZE_FULL - SEIZE_STATE));
		break;
	case 12:
		client = pick(input);
		take(input, &byte, 1);
		relay_goes_on(client, byte);
		break;
	case 13:
		take(input, &byte, 1);
		set_options(byte);
		break;
	case 14:
		take(input, &byte, 1);
		set_failures(byte);
		break;
	case 15:
		if (what & 0x10)
			make_room();
		else
			drain();
		break;
	}
}

static void check_connection(const struct conn *conn)
{
	bool has_socket = conn->state == CONN_SNIFFING || conn->state == CONN_WAITING;
	bool has_timer = has_socket || conn->state == CONN_ADOPTING;
	const struct client *client = &model.clients[conn->job.cookie - 1];

	check(conn->state < CONN_CLOSED);
	check((conn->fd >= 0) == has_socket);
	check((conn->timer.place != 0) == has_timer);
	check(conn->tally == &model.tally);
	check(!conn->waited_for || conn->state == CONN_SNIFFING);
	switch ((enum conn_state)conn->state) {
	case CONN_SNIFFING:
	case CONN_WAITING:
		check(client->place == OURS && client->fd == conn->fd);
		check(conn->polled == client->polled);
		/* Else nobody would see the client go. */
		check(conn->polled || client->unpolled || conn->state == CONN_SNIFFING);
		break;
	case CONN_ADOPTING:
		check(client->place == GAP);
		break;
	case CONN_CONNECTING:
		check(client->place == CONNECTING);
		break;
	default:
		check(client->relayed);
	}
}

/* After each step, when what is closed is freed. */
static void check_all(void)
{
	uint32_t in_state[CONN_STATES] = {};
	unsigned waited_for = 0, n = 0, relays = 0, alive = 0;

	conn_reap(&owner);
	for (const struct conn *conn = owner.first; conn; conn = conn->next) {
		check_connection(conn);
		in_state[conn->state]++;
		waited_for += conn->waited_for;
		relays += conn_in_relay(conn->state);
		n++;
	}
	for (size_t i = 0; i < model.n; i++)
		alive += (is_alive(&model.clients[i]) && model.clients[i].place != QUEUE) ||
			 model.clients[i].relayed;
	check(n == alive);
	check(memcmp(in_state, owner.in_state, sizeof(in_state)) == 0);
	check(waited_for == owner.n_waited_for && waited_for <= CONN_MAX_UNCLASSIFIED);
	check(owner.shares.n <= waited_for && (owner.shares.n > 0) == (waited_for > 0));
	check(tally_held(&model.tally) == n && tally_relayed(&model.tally) == relays);
	check(model.routes.relays == relays && relays <= model.routes.max_relays + MODEL_CLIENTS);
	if (model.routes.relays >= model.routes.max_relays)
		tell_all_clients(offsetof(struct client, over_relays));
}

/* The targets take what comes, clients say what they have to say, time passes. */
static void settle_all(void)
{
	model.web_server = model.responder = TAKES;
	model.epoll_fails = model.getsockopt_fails = false;
	for (unsigned steps = 0; owner.first || model.went_back; steps++) {
		struct timer *timer;
		bool queued = false;

		check(steps < STEPS);
		for (size_t i = 0; i < model.n; i++) {
			struct client *client = &model.clients[i];

			client->arrived =
				client->rst || client->fin ? client->arrived : client->len;
			relay_goes_on(client, 0);
			queued |= client->place == QUEUE;
		}
		deliver(NULL);
		if (queued)
			accept_one(false);
		timer = timers_first(&owner.timers);
		if (timer)
			model.now_ns = MAX(model.now_ns, timer->at_ns);
		run_timers();
		check_all();
		if (!owner.first && !queued)
			return;
	}
}

/* Each has ended in one way, and the counters say which. */
static void check_ends(void)
{
	const uint64_t *n = owner.counters;

	for (size_t i = 0; i < model.n; i++)
		check(model.clients[i].place >= AT_WEB_SERVER && model.clients[i].fd == -1);
	check(n[CONN_ACCEPTED] == n[CONN_HANDED_WEB] + n[CONN_HANDED_RESPONDER] +
					  n[CONN_RELAYED_WEB] + n[CONN_RELAYED_RESPONDER] +
					  n[CONN_CLIENT_GONE] + n[CONN_LOST] + n[CONN_SERVER_DOWN] +
					  n[CONN_NO_CLIENT_IP] + model.went_back + model.killed);
}

static void begin(uint8_t options)
{
	memset(&model, 0, sizeof(model));
	memset(&owner, 0, sizeof(owner));
	model.now_ns = NSEC_PER_SEC;
	model.next_fd = FIRST_FD;
	model.refusal = SEIZE_STATE;
	model.routes.max_relays = 1000;
	owner.routes = &model.routes;
	model.late_ns = options & 4 ? 5 * NSEC_PER_MSEC : 0;
	/* Never looked into. */
	owner.handoff = options & 2 ? NULL : (struct handoff_worker *)&model;
	owner.epoll_fd = 3;
	check(conn_owner_init(&owner) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	uint8_t options;

	take(&input, &options, 1);
	conn_log_set_visitors(true);
	begin(options);
	while (input.len > 0) {
		step(&input);
		check_all();
	}
	if (!(options & 1)) {
		settle_all();
		check_ends();
	}
	model.ending = true;
	conn_close_all(&owner);
	for (size_t i = 0; i < model.n; i++)
		check(model.clients[i].fd == -1);
	check(!owner.first && !owner.closed && owner.timers.n == 0 && owner.n_waited_for == 0);
	check(tally_held(&model.tally) == 0 && tally_relayed(&model.tally) == 0);
	check(model.routes.relays == 0);
	tally_done(&model.tally);
	timers_free(&owner.timers);
	return 0;
}
