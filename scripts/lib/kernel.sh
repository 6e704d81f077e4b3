# SPDX-License-Identifier: GPL-2.0
# A stock backports kernel, and its source prepared so that Rust modules for it can be built.
# shellcheck shell=bash

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

# kernel_series: the series that the modules fit and the suite has the source of, oldest first.
kernel_series() {
	local series
	suite_apt apt-cache pkgnames linux-source- | sed -nE 's/^linux-source-([0-9]+\.[0-9]+)$/\1/p' | sort -V |
		while read -r series; do ! at_least "$DEFAULT_SERIES" "$series" || echo "$series"; done
}

# Chooses the kernel and names its directory by all that goes into it. The default series gives way to the next one
# when the suite has dropped it; a series that was asked for does not.
kernel_resolve() {
	local sysroot_name=$1 series found available
	at_least "$DEFAULT_SERIES" "$KERNEL_SERIES" ||
		die "KERNEL_SERIES=$KERNEL_SERIES is too old for the modules" "use $DEFAULT_SERIES or newer"
	available=$(kernel_series | xargs)
	for series in "$KERNEL_SERIES" $available; do
		at_least "$KERNEL_SERIES" "$series" || continue
		found=$(kernel_find "$series")
		[ -z "$found" ] || break
		[ "$KERNEL_SERIES" = "$DEFAULT_SERIES" ] || break # no other than the one that was asked for
	done
	[ -n "$found" ] || die "$suite-backports has no complete Linux $KERNEL_SERIES (image, modules, headers and source)" \
		"choose with KERNEL_SERIES= among: $available"
	echo "$found"
	echo "$series $found" >"$work/kernel"
	echo "kernel-${found%% *}-$(hash_of "$PDIO_CACHE" "$sysroot_name" "$found" \
		"$(declare -f kernel_unpack kernel_prepare)")" >"$work/kernel-name"
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
	local from=$1 kernel=$2 series release version image headers
	read -r series release version image <"$work/kernel"
	headers=$from/usr/src/linux-headers-$release
	refuse_if "$(kernel_rustc_problem "$headers/.config")"

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
	local kernel=$1 release
	release=$(cat "$kernel/release")
	cd "$kernel/tree"
	scripts/config --set-str LOCALVERSION "${release#"${release%%+*}"}" --set-str SYSTEM_TRUSTED_KEYS "" \
		--set-str MODULE_SIG_KEY "" --disable MODULE_SIG_ALL
	"$PDIO_TOP/scripts/in-sysroot" make olddefconfig
	"$PDIO_TOP/scripts/in-sysroot" make -j"$(nproc)" LOCALVERSION= prepare modules_prepare
	# Or each build of a module would generate these anew, here, under the eyes of the others.
	rm rust/kernel/generated_*.rs.S
	refuse_if "$(kernel_tree_problem "$kernel/tree")"
	[ "$(cat include/config/kernel.release)" = "$release" ] ||
		die "the prepared tree calls itself $(cat include/config/kernel.release), not $release"
}
