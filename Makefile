# SPDX-License-Identifier: Apache-2.0
# A thin front: everything real is in meson.build, scripts/ and test/run.py.
#
#   make            build build/ferry and the libraries       make demo     two nodes on this machine, one moving redis
#   make check      all tests, under 20 minutes               make soak     the large counts
#   make bench      speed against CRIU                        make curves   cost against size, drawn
#   make fuzz       longer fuzzing                            make lint     what a reviewer should not have to say
#   make format     rewrite the code with clang-format        make deb      Debian packages in build/deb
#   make install    PREFIX=, LIBDIR=, DESTDIR=, CRIU_COMPAT=1
#
#   T=pattern       only tests (cases, files) whose name matches; a plain word matches anywhere in a name
#   NO_INSTALL=1    install no package; say what is missing instead
#   JOBS=n          processes at a time (default: the number of CPUs)

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
# A Debian without dpkg-dev looks to meson like a system of lib64, where its loader does not look.
LIBDIR ?= $(if $(wildcard /etc/debian_version),lib)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
T ?=
SECONDS_EACH ?= 60
NO_INSTALL ?=
CRIU_COMPAT ?=
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)

export NO_INSTALL T JOBS

MESON_ARGS = --prefix=$(PREFIX) $(if $(LIBDIR),--libdir=$(LIBDIR)) -Dcriu_compat=$(if $(filter-out 0,$(CRIU_COMPAT)),true,false)
ninja = ninja -C $(BUILD) -j$(JOBS)
driver = $(PYTHON) test/run.py --build=$(BUILD) --jobs=$(JOBS) $(if $(T),--filter='$(T)')

.PHONY: all demo check soak bench curves install uninstall format lint deb fuzz clean configure packages-%

all: configure
	$(ninja)

packages-%:
	@scripts/bootstrap.sh $(subst -, ,$*)

configure: packages-build
	@scripts/configure.sh $(BUILD) $(MESON_ARGS)

# The driver builds by itself, so that a build that fails is counted and reported like any other failure.
check: packages-build-check
	@$(driver) check

soak: packages-build-check-bench
	@$(PYTHON) scripts/soak.py --build=$(BUILD) --jobs=$(JOBS) $(if $(T),--filter='$(T)')

demo: packages-build-demo all
	@scripts/demo.sh $(BUILD)

bench: packages-build-bench all
	@$(PYTHON) bench/run.py --build=$(BUILD) $(if $(T),--filter='$(T)')

curves: packages-build-bench all
	@$(PYTHON) bench/curves.py --build=$(BUILD) $(if $(T),--filter='$(T)')

fuzz: packages-build-check
	@$(driver) fuzz --fuzz-seconds=$(SECONDS_EACH)

lint: packages-build-lint
	@$(driver) lint

format: packages-lint
	@git ls-files --cached --others --exclude-standard '*.c' '*.h' | xargs clang-format -i

install: all
	DESTDIR='$(DESTDIR)' meson install -C $(BUILD) --no-rebuild
	@if [ -z '$(DESTDIR)' ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

uninstall:
	@$(PYTHON) scripts/uninstall.py '$(BUILD)' '$(DESTDIR)'
	@if [ -z '$(DESTDIR)' ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

deb: packages-build-deb
	@packaging/debian/build.sh $(BUILD)/deb

clean:
	rm -rf $(BUILD)
