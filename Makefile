# SPDX-License-Identifier: GPL-2.0
#
# What a person types. Everything is built and run in the Debian root that scripts/setup makes, results go to out/.
# What kbuild builds is in Kbuild.

.DEFAULT_GOAL := help
.PHONY: demo bench check coverage vm modules device lint doctor install clean help setup tool

demo: modules tool device ## measure a subset of everything in ten minutes: tables, out/demo/results.json and plots
	scripts/pdio demo --out out/demo

bench: modules tool device ## measure everything, in at least three rounds, then with other IOMMUs, to out/bench
	scripts/pdio bench --out out/bench

check: modules tool device ## run all tests, on the host and in the VM
	scripts/check

coverage: setup ## lines and branches of the device models that the host tests reach
	scripts/coverage

vm: modules tool device ## a shell in the VM, with the modules at hand
	scripts/pdio vm

modules: setup ## build the kernel modules into out/modules
	scripts/build-modules

device: setup ## build the test device that is loaded into QEMU, into out/target
	scripts/in-sysroot cargo build --quiet --locked --release --workspace \
		--manifest-path selftests/device/Cargo.toml --target-dir out/target

lint: setup ## formatting, clippy, rustdoc, checkpatch, shellcheck
	scripts/lint

doctor: ## what was found, what is wrong with it, and the remedy
	@scripts/doctor

install: ## install out/modules for the running kernel (as root, after `make modules`)
	scripts/install

clean: ## remove out/; the cache stays
	rm -rf out

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo
	@echo 'Variables: KERNEL_SERIES=X.Y (another series of the suite), KDIR=DIR (another prepared kernel tree),'
	@echo '           PDIO_CACHE=DIR, PDIO_MIRROR=URL, PDIO_OFFLINE=1 (keep the sysroot and the kernel there are)'

# The Debian root with the toolchain and QEMU, and the kernel.
setup:
	@scripts/setup

# The host program that the targets above call.
tool: setup
	scripts/in-sysroot cargo build --quiet --locked --release --workspace \
		--manifest-path tools/pdio/Cargo.toml --target-dir out/target
