/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
// uses: window.c window_index.c addr.c name.c
/* One window's options, from text. */
#include "window_check.h"

static void defaults(void **state)
{
	struct window_options options;
	char buf[ENDPOINT_STRLEN];

	window_options_init(&options);
	assert_string_equal(options.name, "default");
	assert_int_equal(options.ttl_s, 600);
	assert_int_equal(options.sniff_timeout_ms, 3000);
	assert_int_equal(options.n_ports, 1);
	assert_int_equal(options.ports[0], 443);
	assert_int_equal(options.n_domains, 0);
	assert_string_equal(endpoint_format(&options.responder, buf), "127.0.0.1:31443");
	assert_false(options.has_web_server);
	assert_int_equal(options.plane, PLANE_AUTO);
	assert_int_equal(options.client_ip, CLIENT_IP_TRANSPARENT);
	assert_false(options.built_in);
}

static void times(void **state)
{
	static const struct {
		const char *text;
		uint32_t ttl_s;
	} ttls[] = { { "600", 600 },   { "90s", 90 },	{ "10m", 600 }, { "1h", 3600 },
		     { "3600", 3600 }, { "60m", 3600 }, { "1", 1 } };
	struct window_options options;

	window_options_init(&options);
	for (size_t i = 0; i < ARRAY_SIZE(ttls); i++) {
		good(&options, "ttl", ttls[i].text);
		assert_int_equal(options.ttl_s, ttls[i].ttl_s);
	}
	bad("ttl", "0", -EINVAL, "close the window at once");
	bad("ttl", "0h", -EINVAL, "close the window at once");
	bad("ttl", "2h", -EINVAL,
	    "2h is more than the 1h allowed; use 1h, or `acme-steer run`, which renews");
	bad("ttl", "3601", -EINVAL, "more than");
	bad("ttl", "61m", -EINVAL, "more than");
	bad("ttl", "4294967296", -EINVAL, "more than");
	bad("ttl", "18446744073709551617", -EINVAL, "more than");
	bad("ttl", "5124095576030432h", -EINVAL, "more than");
	bad("ttl", "", -EINVAL, "is no time");
	bad("ttl", "m", -EINVAL, "is no time");
	bad("ttl", "-1", -EINVAL, "is no time");
	bad("ttl", "+1", -EINVAL, "is no time");
	bad("ttl", " 1", -EINVAL, "is no time");
	bad("ttl", "1.5h", -EINVAL, "is no time");
	bad("ttl", "10min", -EINVAL, "is no time");
	bad("ttl", "1d", -EINVAL, "is no time");
	bad("ttl", "500ms", -EINVAL, "is no time");

	good(&options, "sniff-timeout", "500ms");
	assert_int_equal(options.sniff_timeout_ms, 500);
	good(&options, "sniff-timeout", "60s");
	assert_int_equal(options.sniff_timeout_ms, 60000);
	good(&options, "sniff-timeout", "100ms");
	assert_int_equal(options.sniff_timeout_ms, 100);
	bad("sniff-timeout", "99ms", -EINVAL, "outside");
	bad("sniff-timeout", "61s", -EINVAL, "outside");
	bad("sniff-timeout", "0s", -EINVAL, "outside");
	bad("sniff-timeout", "3", -EINVAL, "is no time");
	bad("sniff-timeout", "1m", -EINVAL, "is no time");
}

static void names(void **state)
{
	struct window_options options;
	char text[66];

	window_options_init(&options);
	good(&options, "name", "run-123.A_b");
	assert_string_equal(options.name, "run-123.A_b");
	memset(text, 'n', sizeof(text));
	text[63] = '\0';
	good(&options, "name", text);
	assert_string_equal(options.name, text);
	text[63] = 'n';
	text[64] = '\0';
	bad("name", text, -EINVAL, "is no window name");
	bad("name", "", -EINVAL, "is no window name");
	bad("name", "a b", -EINVAL, "is no window name");
	bad("name", "a/b", -EINVAL, "is no window name");
	bad("name", "\xc3\xa4", -EINVAL, "is no window name");
	bad("names", "a", -ENOKEY, "no such window option");
	bad("", "a", -ENOKEY, "no such window option");
}

static void ports(void **state)
{
	struct window_options options;
	char text[16];

	window_options_init(&options);
	good(&options, "port", "8443"); /* takes the default's place */
	assert_int_equal(options.n_ports, 1);
	assert_int_equal(options.ports[0], 8443);
	good(&options, "port", "443");
	good(&options, "port", "8443");
	assert_int_equal(options.n_ports, 2);
	assert_int_equal(options.ports[1], 443);
	for (int i = 3; i <= WINDOW_MAX_PORTS; i++) {
		snprintf(text, sizeof(text), "%d", i);
		good(&options, "port", text);
	}
	assert_int_equal(set_one(&options, "port", "9"), -E2BIG);
	assert_int_equal(options.n_ports, WINDOW_MAX_PORTS);
	good(&options, "port", "443"); /* there already */

	window_options_init(&options);
	good(&options, "port", "443");
	assert_int_equal(options.n_ports, 1);
	good(&options, "port", "65535");
	assert_int_equal(options.n_ports, 2);
	bad("port", "0", -EINVAL, "is no port");
	bad("port", "65536", -EINVAL, "is no port");
	bad("port", "", -EINVAL, "is no port");
	bad("port", "-1", -EINVAL, "is no port");
	bad("port", "https", -EINVAL, "is no port");
	bad("port", "443x", -EINVAL, "is no port");
	bad("port", "18446744073709551617", -EINVAL, "is no port");
}

static void one_domain(const char *value, const char *stored)
{
	struct window_options options;

	window_options_init(&options);
	good(&options, "domain", value);
	assert_int_equal(options.n_domains, 1);
	assert_string_equal(options.domains[0], stored);
}

static void domains(void **state)
{
	struct window_options options;
	char text[300] = "", label[66];

	one_domain("Example.COM", "example.com");
	one_domain("example.com.", "example.com");
	one_domain("localhost", "localhost");
	one_domain("xn--bcher-kva.example", "xn--bcher-kva.example");
	one_domain("a-1.2-b.example", "a-1.2-b.example");
	one_domain("1.2.3.4a", "1.2.3.4a");
	one_domain("192.0.2.1", "1.2.0.192.in-addr.arpa");
	one_domain("2001:DB8::1",
		   "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");

	bad("domain", "*.example.com", -EINVAL, "DNS-01");
	bad("domain", "*", -EINVAL, "DNS-01");
	bad("domain",
	    "b\xc3\xbc"
	    "cher.example",
	    -EINVAL, "A-label");
	bad("domain", "", -EINVAL, "is empty");
	bad("domain", ".", -EINVAL, "is empty");
	bad("domain", ".example", -EINVAL, "empty label");
	bad("domain", "a..example", -EINVAL, "empty label");
	bad("domain", "example..", -EINVAL, "empty label");
	bad("domain", "-a.example", -EINVAL, "begins with a hyphen");
	bad("domain", "a-.example", -EINVAL, "ends in a hyphen");
	bad("domain", "a.example-", -EINVAL, "ends in a hyphen");
	bad("domain", "a_b.example", -EINVAL, "no host name");
	bad("domain", "a,b", -EINVAL, "no host name");
	bad("domain", "a b", -EINVAL, "no host name");
	bad("domain", "https://example.com/", -EINVAL, "no host name");
	bad("domain", "192.0.2.256", -EINVAL, "neither");
	bad("domain", "192.0.2.1.", -EINVAL, "neither");
	bad("domain", "1234", -EINVAL, "neither");
	bad("domain", "::g", -EINVAL, "no host name");

	memset(label, 'a', 64);
	strcpy(label + 64, ".");
	snprintf(text, sizeof(text), "%sb", label);
	bad("domain", text, -EINVAL, "more than 63");
	strcpy(label + 63, ".");
	snprintf(text, sizeof(text), "%s%s%s%.61s", label, label, label, label);
	assert_int_equal(strlen(text), 253);
	one_domain(text, text);
	strcat(text, "a");
	bad("domain", text, -EINVAL, "longer than the 253");
	memset(text, 'a', sizeof(text) - 1);
	bad("domain", text, -EINVAL, "longer than the 253");

	window_options_init(&options);
	for (int i = 0; i < WINDOW_MAX_DOMAINS; i++) {
		snprintf(text, sizeof(text), "d%d.example", i);
		good(&options, "domain", text);
		good(&options, "domain", "D0.example");
		assert_int_equal(options.n_domains, i + 1);
	}
	assert_int_equal(set_one(&options, "domain", "one-more.example"), -E2BIG);
	assert_int_equal(options.n_domains, WINDOW_MAX_DOMAINS);
}

static void endpoints_and_choices(void **state)
{
	struct window_options options;
	char buf[ENDPOINT_STRLEN];

	window_options_init(&options);
	good(&options, "responder", "[::1]:5001");
	assert_string_equal(endpoint_format(&options.responder, buf), "[::1]:5001");
	assert_false(options.has_web_server);
	good(&options, "web-server", "192.0.2.1:8443");
	assert_true(options.has_web_server);
	assert_string_equal(endpoint_format(&options.web_server, buf), "192.0.2.1:8443");
	bad("responder", "localhost:31443", -EINVAL, "no address");
	bad("responder", "127.0.0.1", -EINVAL, "no address");
	bad("responder", "31443", -EINVAL, "no address");
	bad("responder", "", -EINVAL, "no address");
	bad("responder", "0.0.0.0:443", -EINVAL, "nobody can connect");
	bad("responder", "224.0.0.1:443", -EINVAL, "nobody can connect");
	bad("responder", "255.255.255.255:443", -EINVAL, "nobody can connect");
	bad("web-server", "[::]:443", -EINVAL, "nobody can connect");
	bad("web-server", "[ff02::1]:443", -EINVAL, "nobody can connect");
	bad("web-server", "[fe80::1]:443", -EINVAL, "needs its interface");
	bad("web-server", "nginx", -EINVAL, "no address");

	for (int i = 0; i < PLANE_COUNT; i++) {
		good(&options, "plane", plane_names[i]);
		assert_int_equal(options.plane, i);
	}
	for (int i = 0; i < CLIENT_IP_COUNT; i++) {
		good(&options, "client-ip", client_ip_names[i]);
		assert_int_equal(options.client_ip, i);
	}
	assert_string_equal(plane_names[PLANE_HANDOFF], "handoff");
	assert_string_equal(client_ip_names[CLIENT_IP_PROXY_V2], "proxy-v2");
	bad("plane", "hand-off", -EINVAL, "use auto, handoff or relay");
	bad("client-ip", "", -EINVAL, "use none, transparent, proxy-v1 or proxy-v2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults), cmocka_unit_test(times),
		cmocka_unit_test(names),    cmocka_unit_test(ports),
		cmocka_unit_test(domains),  cmocka_unit_test(endpoints_and_choices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
