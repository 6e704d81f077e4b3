# SPDX-License-Identifier: GPL-2.0
# Whether modules can be built against a kernel tree. Sourced by setup, build-modules and doctor.
# shellcheck shell=bash

# kernel_tree_problem TREE: "why no module of ours can be built against TREE<tab>the remedy", or nothing.
kernel_tree_problem() {
	local tree=$1 release prepare="make LOCALVERSION= prepare modules_prepare"
	if ! [ -d "$tree" ]; then
		problem "there is no directory $tree" "scripts/setup, or KDIR= a prepared kernel tree"
	elif ! [ -e "$tree/.config" ] || ! release=$(cat "$tree/include/config/kernel.release" 2>/dev/null); then
		problem "$tree is not a configured and prepared kernel tree" "cd $tree && $prepare"
	elif ! at_least "$DEFAULT_SERIES" "$release"; then
		problem "$tree is Linux $release" "use $DEFAULT_SERIES or newer"
	elif ! grep -qx CONFIG_RUST=y "$tree/.config"; then
		problem "$tree has no CONFIG_RUST=y" "cd $tree && make rustavailable && scripts/config -e RUST && $prepare"
	elif ! [ -e "$tree/rust/libkernel.rmeta" ]; then
		problem "$tree lacks the Rust crates, as a distribution's headers package does" \
			"use the matching source, after: $prepare"
	elif ! [ -e "$tree/Module.symvers" ]; then
		problem "$tree has no Module.symvers" "build the kernel there, or copy that file from its headers package"
	else
		kernel_rustc_problem "$tree/.config"
	fi
}

# kernel_rustc_problem CONFIG: the kernel's crates and the modules must come from the very same compiler.
kernel_rustc_problem() {
	local want have
	want=$(sed -n 's/^CONFIG_RUSTC_VERSION=//p' "$1")
	have=$("$PDIO_TOP/scripts/in-sysroot" rustc --version |
		awk '{ split($2, v, "[.-]"); print v[1] * 100000 + v[2] * 100 + v[3] }')
	[ "$want" = "$have" ] || problem "the kernel wants rustc ${want:-none} (CONFIG_RUSTC_VERSION), the sysroot has $have" \
		"choose another series with KERNEL_SERIES=, or with KDIR= a tree that this rustc prepared"
}
