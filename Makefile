# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# make          build/acme-steer, and build/acme-steer-tls, which it starts
# make demo     the main job in two network namespaces (root)
# make check    the tests (root): check-unit, check-bpf, check-e2e, check-chaos
# make check-tool     doctor, probe, status, logs, documents, files for containers and systemd
# make check-sanitized  the end-to-end table again, by a build with sanitizers: addresses, leaks, undefined behaviour
# make check-matrix   every ACME client, every web server, every way from another program
# make check-bench    the bench's own honesty: does it fail when it must?
# make check-auto     part of the end-to-end table again, where visitors are not steered
# make check-relay    the end-to-end table again, everything relayed
# make check-kernels  the part that depends on the kernel on Debian's, in an emulator; SHORT=1: the main job
# make check-package  the Debian package: built, installed, run, purged
# make chaos SECONDS=600 SEED=1  all kinds of faults under load, tests/chaos
# make fuzz S=60  fuzzers, seconds each
# make fuzz-coverage  what of hello.c the fuzzer's seeds reach: all of it
# make bench    side by side with other ways to the web server (root); QUICK=1: in about three minutes
# make bench-scale     how cost grows with connections, windows, challenges (root); QUICK=1: shorter
# make bench-handoff   the CPU time of one hand-off (root)
# make microbench     instructions and time of the inner functions
# make install    DESTDIR=, PREFIX=/usr/local; `make uninstall` takes it away
# make static     build/acme-steer-static: one file without libraries, for other machines
# make deb        a Debian package in build/deb

CC       ?= gcc
CLANG    ?= clang
BPFTOOL  ?= bpftool
PYTHON   ?= /usr/bin/python3
B        := build

VERSION  := 0.1.0
CLANG_VERSION := $(shell $(CLANG) -dumpversion)
CFLAGS   ?= -O2 -g
override CFLAGS += -std=gnu17 -Wall -Wextra -Wno-unused-parameter -Werror $(EXTRA_CFLAGS)
override CPPFLAGS += -D_GNU_SOURCE -DACME_STEER_VERSION='"$(VERSION)"' \
	-DACME_STEER_CLANG='"$(CLANG_VERSION)"' -Iinclude -Iuser -I$(B)
MAIN_LIBS := -lbpf -lelf -lz -ljson-c -lmnl -lcap-ng -lseccomp -lpthread
LIBS     := $(MAIN_LIBS) -lssl -lcrypto
TOOLLIBS := -lssl -lcrypto -lpthread

BPF_SRC  := $(wildcard bpf/*.bpf.c)
SKELS    := $(BPF_SRC:bpf/%.bpf.c=$(B)/%.skel.h)
OBJS     := $(patsubst user/%.c,$(B)/user/%.o,$(wildcard user/*.c))
# acme-steer-tls: what speaks TLS. The rest is in both programs, or in acme-steer alone.
TLS_OBJS := $(patsubst %,$(B)/user/%.o,answer certificate cmd_probe cmd_responder main_tls probe responder validate \
	verdict)
TOOLS    := $(patsubst tests/e2e/tools/%.c,$(B)/tools/%,$(filter-out %_conn.c,$(wildcard tests/e2e/tools/*.c)))
UNITS    := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
BPFTESTS := $(patsubst tests/bpf/%.c,$(B)/bpftest/%,$(wildcard tests/bpf/test_*.c))

# One short line per command; `make V=1` shows them whole.
Q        := $(if $(V),,@)
say       = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$@')

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all tools demo check check-unit check-bpf check-e2e check-tool check-matrix check-chaos check-auto check-relay sanitized \
	check-sanitized check-kernels check-package check-bench chaos bench bench-handoff bench-scale microbench fuzz \
	fuzz-coverage install uninstall static deb clean

all: $(B)/acme-steer $(B)/acme-steer-tls

$(B)/acme-steer: $(filter-out $(TLS_OBJS),$(OBJS))
	$(call say,CC)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(MAIN_LIBS)

# Of the rest the linker takes what these need.
$(B)/acme-steer-tls: $(TLS_OBJS) $(B)/shared.a
	$(call say,CC)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -Wl,--as-needed $(LIBS)

$(B)/shared.a: $(filter-out $(TLS_OBJS) $(B)/user/main.o $(B)/user/tls_program.o,$(OBJS))
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# One file for any x86-64 Linux (or whatever this machine is): Debian's static libraries, and in static/ the
# little that is used of two libraries that have none. The linker warns of functions of glibc that may load
# libraries of the machine where it runs: see static/nss.c, and OpenSSL loads none unless it is told to. What it
# says is shown only when it fails.
STATIC_OBJS := $(patsubst static/%.c,$(B)/static/%.o,$(wildcard static/*.c))
STATIC_LIBS := $(filter-out -lmnl,$(LIBS))
# It has both programs in one, and loads nothing.
DYNAMIC_ONLY := $(patsubst %,$(B)/user/%.o,lazy main_tls tls_program)

static: $(B)/acme-steer-static

$(B)/acme-steer-static: $(filter-out $(DYNAMIC_ONLY),$(OBJS)) $(STATIC_OBJS)
	$(call say,CC)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -static-pie -s -o $@ $^ $(STATIC_LIBS) 2>$@.log || { cat $@.log >&2; exit 1; }

$(B)/static/%.o: static/%.c | $(B)/static
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/user/%.o: user/%.c $(SKELS) | $(B)/user
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# The system's include folder of this architecture, where <asm/types.h> is: clang does not know it
# for the bpf target.
ARCH_INCLUDE := -I/usr/include/$(shell $(CC) -print-multiarch)

$(B)/bpf/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h) include/steer_shared.h | $(B)/bpf
	$(call say,BPF)
	$(Q)$(CLANG) -g -O2 -target bpf -mcpu=v3 -Wall -Wextra -Wno-unused-parameter \
		-Wno-missing-declarations -Werror -Iinclude -Ibpf $(ARCH_INCLUDE) -c -o $@ $<

$(B)/%.skel.h: $(B)/bpf/%.bpf.o
	$(call say,SKEL)
	$(Q)$(BPFTOOL) gen skeleton $< name $*_bpf > $@

tools: $(TOOLS)

# A unit test names the modules it is linked with in a line "// uses: hello.c addr.c".
uses = $(patsubst %.c,$(B)/user/%.o,$(shell sed -n 's|^// uses: *||p' $(1)))

.SECONDEXPANSION:
$(B)/tools/%: tests/e2e/tools/%.c $$(wildcard tests/e2e/tools/$$*_conn.c) $(wildcard tests/e2e/tools/*.h) | $(B)/tools
	$(call say,CC)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) -o $@ $(filter %.c,$^) $(TOOLLIBS)

$(B)/unit/%: tests/unit/%.c $$(call uses,tests/unit/$$*.c) | $(B)/unit
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -o $@ $< $(call uses,$<) -lcmocka $(LIBS)

$(B)/bpftest/%: tests/bpf/%.c $$(call uses,tests/bpf/$$*.c) $(SKELS) | $(B)/bpftest
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -o $@ $< $(call uses,$<) -lcmocka $(LIBS)

$(B)/user $(B)/static $(B)/bpf $(B)/tools $(B)/unit $(B)/bpftest $(B)/fuzz $(B)/bench:
	$(Q)mkdir -p $@

demo: all tools
	tools/demo
	tools/demo --ipv6-only

check: check-unit check-bpf check-e2e check-chaos

check-unit: $(UNITS)
	@set -e; for test in $^; do echo "== $$test"; $$test; done

check-bpf: $(BPFTESTS)
	@set -e; for test in $^; do echo "== $$test"; $$test; done

# Every ACME client with one web server, one client with every web server, those that need no hook, and the ways
# from other programs to this one.
MATRIX := $(patsubst %,tests/e2e/test_%.py,clients web_servers armed migration)

# What people see of it: words, files, packages' insides. No kernel and no load makes a difference there.
TOOL := $(patsubst %,tests/e2e/test_%.py,container_files containers docs doctor log manual new_user options probe \
	static status systemd)

check-e2e: all tools
	$(PYTHON) -m pytest -q tests/e2e $(MATRIX:%=--ignore=%) $(TOOL:%=--ignore=%) $(PYTEST)

check-tool: all static tools
	$(PYTHON) -m pytest -q $(TOOL) $(PYTEST)

check-matrix: all tools
	$(PYTHON) -m pytest -q $(MATRIX) $(PYTEST)

# Each fault once, and some more.
check-chaos: all tools
	$(PYTHON) -m pytest -q tests/chaos
	tests/chaos/chaos --seconds 30 --seed 1

SECONDS ?= 600

chaos: all tools
	tests/chaos/chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# With the plane that users have who choose none: where it matters that visitors are not steered.
AUTO := $(patsubst %,tests/e2e/test_%.py,cycles firewall gap issue_certificate nat odd_clients overload \
	responder_start syn_cookies way_out web_servers)

check-auto: all tools
	$(PYTHON) -m pytest -q $(AUTO) --plane=auto $(PYTEST)

check-relay: all tools
	$(PYTHON) -m pytest -q tests/e2e $(MATRIX:%=--ignore=%) $(TOOL:%=--ignore=%) --plane=relay $(PYTEST)

# The same with a sanitizer's eye on every process. Clang's: one library writes the reports of all of them.
# (It warns of <seccomp.h>'s own macros.)
SANITIZE := -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-missing-field-initializers

sanitized:
	$(Q)$(MAKE) --no-print-directory B=$(B)/sanitized CC=$(CLANG) CFLAGS='-O1 -g' EXTRA_CFLAGS='$(SANITIZE)' all

check-sanitized: sanitized tools
	ACME_STEER=$(B)/sanitized/acme-steer $(PYTHON) -m pytest -q tests/e2e $(MATRIX:%=--ignore=%) $(TOOL:%=--ignore=%) \
		--patience=3 $(PYTEST)

check-kernels: all tools
	tests/kernels/run $(if $(SHORT),--short)

# Load, honesty and pictures: tools/bench. BENCH is for its other options.
bench: all $(B)/bench/load
	$(PYTHON) tools/bench/bench.py $(if $(QUICK),--quick) $(BENCH)

bench-scale: all $(B)/bench/load $(B)/bench/micro
	$(PYTHON) tools/bench/scale.py $(if $(QUICK),--quick) $(BENCH)

bench-handoff: $(B)/bench/handoff
	$<

check-bench: all $(B)/bench/load $(B)/bench/micro
	$(PYTHON) -m pytest -q tools/bench $(PYTEST)

microbench: $(B)/bench/micro
	$(PYTHON) tools/bench/microbench.py

$(B)/bench/load: tools/bench/load.c tools/bench/load_conn.c tools/bench/load.h $(wildcard tests/e2e/tools/*.h) | $(B)/bench
	$(call say,CC)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) -Itests/e2e/tools -o $@ $(filter %.c,$^) $(TOOLLIBS)

$(B)/bench/handoff: tools/bench/handoff.c tests/bpf/bench.h $(call uses,tools/bench/handoff.c) | $(B)/bench
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -Itests/bpf -o $@ $< $(call uses,$<) -lcmocka $(LIBS)

$(B)/bench/micro: tools/bench/micro.c $(call uses,tools/bench/micro.c) | $(B)/bench
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -o $@ $^ $(LIBS)

S ?= 60
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

fuzz: $(FUZZERS) $(B)/fuzz/fuzz_hello.seeds $(B)/fuzz/fuzz_conn.seeds
	@set -e; for fuzzer in $(FUZZERS); do \
		echo "== $$fuzzer"; mkdir -p $$fuzzer.corpus $$fuzzer.seeds; \
		dict=tests/fuzz/$${fuzzer##*/}.dict; \
		$$fuzzer -max_total_time=$(S) -max_len=4096 -timeout=20 -print_final_stats=1 \
			$$(test ! -e $$dict || echo -dict=$$dict) \
			$$fuzzer.corpus $$fuzzer.seeds; done

fuzzed = $(patsubst %.c,user/%.c,$(shell sed -n 's|^// uses: *||p' $(1)))

# A module whose system calls are a model's is part of the fuzzer's own file.
$(B)/fuzz/fuzz_conn: included := user/conn.c user/conn_relay.c
$(B)/fuzz/fuzz_conn: user/conn.c user/conn_relay.c

$(B)/fuzz/%: tests/fuzz/%.c $$(call fuzzed,tests/fuzz/$$*.c) \
		$(wildcard include/*.h user/*.h tests/fuzz/*.h tests/unit/*.h) | $(B)/fuzz
	$(call say,FUZZ)
	$(Q)$(CLANG) $(CPPFLAGS) -std=gnu17 -O2 -g -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all -o $@ $(filter-out $(included),$(filter %.c,$^)) $(LIBS)

# What of hello.c its seeds reach: every line, and every way that a branch can go; fails for less.
fuzz-coverage: $(B)/fuzz/coverage $(B)/fuzz/fuzz_hello.seeds
	LLVM_PROFILE_FILE=$<.profraw $< -runs=0 $(B)/fuzz/fuzz_hello.seeds 2>/dev/null
	llvm-profdata merge -o $<.profdata $<.profraw
	llvm-cov show $< -instr-profile=$<.profdata -show-branches=count user/hello.c > $<.txt
	llvm-cov report $< -instr-profile=$<.profdata -show-branch-summary -show-functions user/hello.c | tee $<.report
	@! grep -E '^ +[0-9]+\| +0\||Branch.*(True: 0,|False: 0\])' $<.txt
	@echo "hello.c: covered whole; $<.txt"

$(B)/fuzz/coverage: tests/fuzz/fuzz_hello.c user/hello.c $(wildcard include/*.h user/*.h tests/fuzz/*.h tests/unit/*.h) \
		| $(B)/fuzz
	$(call say,FUZZ)
	$(Q)$(CLANG) $(CPPFLAGS) -std=gnu17 -O1 -g -DONE_READER -fsanitize=fuzzer -fprofile-instr-generate \
		-fcoverage-mapping -o $@ $(filter %.c,$^)

$(B)/fuzz/fuzz_hello.seeds: tests/fuzz/make_seeds.py $(wildcard tests/vectors/*.hex) | $(B)/fuzz
	$(call say,SEEDS)
	$(Q)$(PYTHON) $< hello tests/vectors $@
	$(Q)touch $@

$(B)/fuzz/fuzz_conn.seeds: tests/fuzz/make_seeds.py | $(B)/fuzz
	$(call say,SEEDS)
	$(Q)$(PYTHON) $< conn $@
	$(Q)touch $@

PREFIX  ?= /usr/local
UNITDIR ?= $(PREFIX)/lib/systemd/system
SHARE   := $(DESTDIR)$(PREFIX)/share

# Where the shells of Debian look: zsh keeps packages' completions and the host's own apart.
BASHDIR := $(SHARE)/bash-completion/completions
FISHDIR := $(SHARE)/fish/vendor_completions.d
ZSHDIR  := $(SHARE)/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)

# Hooks, units and their page say /usr/local; installed, they say where it is.
install: all
	install -D -m 755 $(B)/acme-steer $(DESTDIR)$(PREFIX)/sbin/acme-steer
	install -D -m 755 $(B)/acme-steer-tls $(DESTDIR)$(PREFIX)/libexec/acme-steer/acme-steer-tls
	install -D -m 644 deploy/man/acme-steer.8 $(SHARE)/man/man8/acme-steer.8
	install -D -m 644 deploy/README.md $(SHARE)/acme-steer/README.md
	install -D -m 755 -t $(SHARE)/acme-steer/hooks $(filter-out %.md,$(wildcard deploy/hooks/*))
	install -D -m 644 -t $(SHARE)/acme-steer/certbot $(wildcard $(addprefix deploy/certbot/*.,md py toml cfg))
	install -D -m 644 -t $(SHARE)/acme-steer/prometheus $(wildcard deploy/prometheus/*)
	install -D -m 644 -t $(SHARE)/acme-steer/grafana $(wildcard deploy/grafana/*)
	install -D -m 644 -t $(DESTDIR)$(UNITDIR) deploy/systemd/*.service
	install -D -m 644 deploy/completion/acme-steer.bash $(BASHDIR)/acme-steer
	install -D -m 644 deploy/completion/acme-steer.fish $(FISHDIR)/acme-steer.fish
	install -D -m 644 deploy/completion/acme-steer.zsh $(ZSHDIR)/_acme-steer
	sed -i -e 's|/usr/local|$(PREFIX)|g' -e 's|^ExecStart=acme-steer |ExecStart=$(PREFIX)/sbin/acme-steer |' \
		-e "s|'acme-steer status|'$(PREFIX)/sbin/acme-steer status|" \
		-e 's,deploy/\(certbot\|prometheus\),$(PREFIX)/share/acme-steer/\1,' \
		$(SHARE)/acme-steer/README.md $(SHARE)/acme-steer/hooks/* $(SHARE)/acme-steer/certbot/* \
		$(SHARE)/acme-steer/prometheus/* $(DESTDIR)$(UNITDIR)/acme-steer.service

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/acme-steer $(SHARE)/man/man8/acme-steer.8
	rm -rf $(SHARE)/acme-steer $(DESTDIR)$(PREFIX)/libexec/acme-steer
	rm -f $(patsubst deploy/systemd/%,$(DESTDIR)$(UNITDIR)/%,$(wildcard deploy/systemd/*.service))
	rm -f $(BASHDIR)/acme-steer $(FISHDIR)/acme-steer.fish $(ZSHDIR)/_acme-steer

# build/deb/acme-steer_VERSION_ARCH.deb, from a copy of this tree.
deb:
	rm -rf $(B)/deb && mkdir -p $(B)/deb/acme-steer
	tar -c --exclude=./build --exclude=./.git . | tar -x -C $(B)/deb/acme-steer
	cp -r deploy/debian $(B)/deb/acme-steer/debian
	cd $(B)/deb/acme-steer && dpkg-buildpackage --build=binary --no-sign

check-package: deb
	lintian --fail-on error,warning $(B)/deb/*.changes
	$(PYTHON) -m pytest -q tests/package

clean:
	rm -rf $(B)

-include $(OBJS:.o=.d) $(STATIC_OBJS:.o=.d) $(UNITS:=.d) $(BPFTESTS:=.d)
