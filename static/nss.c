// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * `make static` only: names are looked up in /etc/hosts, in the DNS, and in /etc/group. glibc has that inside; what
 * else /etc/nsswitch.conf may ask for it would load from the machine, whose libraries need not fit.
 */
#include <nss.h>

__attribute__((constructor)) static void use_what_is_inside(void)
{
	__nss_configure_lookup("hosts", "files dns");
	__nss_configure_lookup("group", "files");
	__nss_configure_lookup("passwd", "files");
	__nss_configure_lookup("initgroups", "files");
}
