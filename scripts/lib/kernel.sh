# SPDX-License-Identifier: GPL-2.0
# A stock backports kernel, and its source prepared so that Rust modules for it can be built.
# shellcheck shell=bash

# kernel_tree_problem TREE: why no module of ours can be built against TREE, and the remedy; nothing if one can.
kernel_tree_problem() {
	local tree=$1 release config
	[ -d "$tree" ] || { echo "there is no directory $tree"; return; }
	release=$(cat "$tree/include/config/kernel.release" 2>/dev/null) || {
		echo "$tree is not a prepared kernel tree: run 'make LOCALVERSION= prepare modules_prepare' there"
		return
	}
	at_least "$DEFAULT_SERIES" "$release" || {
		echo "$tree is Linux $release: $DEFAULT_SERIES or newer is needed"
		return
	}
	config=$(cat "$tree/.config" 2>/dev/null) || { echo "$tree has no .config: configure and prepare it"; return; }
	grep -qx CONFIG_RUST=y <<<"$config" || {
		echo "$tree has no CONFIG_RUST=y: 'make rustavailable' there says why, then enable it and prepare again"
		return
	}
	[ -e "$tree/rust/libkernel.rmeta" ] || {
		echo "$tree was prepared without the Rust crates (a distribution's headers package has none):" \
			"prepare the matching source with 'make LOCALVERSION= prepare modules_prepare'"
		return
	}
	[ -e "$tree/Module.symvers" ] || {
		echo "$tree has no Module.symvers: build the kernel there, or copy the file from its headers package"
		return
	}
	kernel_rustc_problem "$tree/.config"
}

# kernel_rustc_problem CONFIG: crates and modules must come from the very same compiler.
kernel_rustc_problem() {
	local want have
	want=$(sed -n 's/^CONFIG_RUSTC_VERSION=//p' "$1")
	have=$("$PDIO_TOP/scripts/in-sysroot" rustc --version | awk '{ split($2, v, "[.-]"); print v[1] * 100000 + v[2] * 100 + v[3] }')
	[ "${want:-none}" = "$have" ] ||
		echo "the kernel was built with rustc ${want:-none} and the sysroot's is $have (CONFIG_RUSTC_VERSION):" \
			"choose another series with KERNEL_SERIES=, or KDIR= a tree prepared by this rustc"
}

# kernel_find SERIES: "RELEASE VERSION IMAGE-PACKAGE" of the newest kernel for which all that we need is published.
kernel_find() {
	local series=$1 release version image
	for release in $(suite_apt apt-cache pkgnames "linux-headers-$series." |
		sed -nE 's/^linux-headers-([0-9.]+\+deb[^-]*-amd64)$/\1/p' | sort -rV); do
		version=$(suite_versions "linux-headers-$release" | head -n 1)
		suite_has "linux-source-$series" "$version" || continue
		suite_has "linux-modules-$release" "$version" || continue
		# The signed image comes to the suite later than the rest.
		for image in "linux-binary-$release" "linux-binary-unsigned-$release"; do
			! suite_has "$image" "$version" || { echo "$release $version $image"; return; }
		done
	done
}

# Chooses the kernel and names its directory by all that goes into it. The default series gives way to the next one
# when the suite has dropped it; a series that was asked for does not.
kernel_resolve() {
	local sysroot_name=$1 series found available
	available=$(suite_apt apt-cache pkgnames linux-source- | sed -nE 's/^linux-source-([0-9]+\.[0-9]+)$/\1/p' | sort -V)
	for series in "$KERNEL_SERIES" $available; do
		at_least "$KERNEL_SERIES" "$series" || continue
		found=$(kernel_find "$series")
		[ -z "$found" ] || break
		[ "$KERNEL_SERIES" = "$DEFAULT_SERIES" ] || break
	done
	[ -n "$found" ] || die "$suite-backports has no complete Linux $KERNEL_SERIES (image, modules, headers and source)" \
		"choose with KERNEL_SERIES= among: ${available//$'\n'/ }"
	echo "$found"
	echo "$series $found" >"$work/kernel"
	echo "kernel-${found%% *}-$(hash_of "$sysroot_name" "$found" "$(declare -f kernel_unpack kernel_prepare)")" >"$work/kernel-name"
}

# kernel_fetch DIRECTORY: packages unpacked there.
kernel_fetch() {
	local into=$1 series release version image
	read -r series release version image <"$work/kernel"
	suite_unpack "$into" "linux-source-$series=$version" "linux-headers-$release=$version" \
		"linux-modules-$release=$version" "$image=$version"
}

# kernel_unpack PACKAGES DIRECTORY: puts everything in its place, the source configured as the stock kernel.
kernel_unpack() {
	local from=$1 kernel=$2 series release version image problem headers
	read -r series release version image <"$work/kernel"
	headers=$from/usr/src/linux-headers-$release
	problem=$(kernel_rustc_problem "$headers/.config")
	[ -z "$problem" ] || die "$problem"

	mkdir -p "$kernel/tree" "$kernel/modules/lib/modules"
	echo "$release" >"$kernel/release"
	mv "$from/usr/lib/modules/$release" "$kernel/modules/lib/modules/"
	mv "$kernel/modules/lib/modules/$release"/vmlinuz* "$kernel/vmlinuz"
	"$PDIO_TOP/scripts/in-sysroot" depmod -b "$kernel/modules" "$release"

	tar -x -C "$kernel/tree" --strip-components=1 -f "$from/usr/src/linux-source-$series.tar.xz"
	cp "$headers/.config" "$headers/Module.symvers" "$kernel/tree/"
}

# kernel_prepare DIRECTORY: BTF must stay as it is in the stock kernel, struct module depends on it.
kernel_prepare() {
	local kernel=$1 release problem
	release=$(cat "$kernel/release")
	cd "$kernel/tree"
	scripts/config --set-str LOCALVERSION "${release#"${release%%+*}"}" --set-str SYSTEM_TRUSTED_KEYS "" \
		--set-str MODULE_SIG_KEY "" --disable MODULE_SIG_ALL
	"$PDIO_TOP/scripts/in-sysroot" make olddefconfig
	"$PDIO_TOP/scripts/in-sysroot" make -j"$(nproc)" LOCALVERSION= prepare modules_prepare
	problem=$(kernel_tree_problem "$kernel/tree")
	[ -z "$problem" ] || die "$problem"
	[ "$(cat include/config/kernel.release)" = "$release" ] ||
		die "the prepared tree calls itself $(cat include/config/kernel.release), not $release"
}
