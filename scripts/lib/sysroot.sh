# SPDX-License-Identifier: GPL-2.0
# The Debian 13 + backports root that holds the toolchain and QEMU.
# shellcheck shell=bash

sysroot_packages() { sed 's/#.*//' "$PDIO_TOP/scripts/sysroot-packages" | xargs; }

sysroot_mode() { if [ "$(id -u)" -eq 0 ]; then echo root; else echo unshare; fi; }

# Names the sysroot by all that goes into it; the full list of packages and versions stays in the log.
sysroot_resolve() {
	local closure
	# shellcheck disable=SC2046 # one argument per package
	closure=$(suite_closure $(sysroot_packages))
	[ -n "$closure" ] || die "the suite has no installable set of the packages in scripts/sysroot-packages"
	echo "$closure"
	echo "sysroot-$(hash_of "$closure" "$(declare -f sysroot_build)")" >"$work/sysroot-name"
}

# sysroot_build DIRECTORY
sysroot_build() {
	local root=$1
	local mmdebstrap=(
		mmdebstrap --mode="$(sysroot_mode)" --variant=essential --architectures=amd64
		--include="$(sysroot_packages | tr ' ' ,)"
		--aptopt="$apt_dir/acquire.conf"
		--dpkgopt=force-unsafe-io
		--dpkgopt=path-exclude=/usr/share/{doc,info,locale,man}/\*
		--setup-hook="copy-in $apt_dir/preferences /etc/apt"
		"$suite"
	)
	if [ "$(id -u)" -eq 0 ]; then
		# Mounts of its own: none is left in the cache, whatever happens.
		unshare --mount "${mmdebstrap[@]}" "$root" "$apt_dir/sources.list"
	else
		# Unpacked by and for this user, who could not remove what belongs to subordinate ids.
		mkdir "$root"
		TMPDIR=/var/tmp "${mmdebstrap[@]}" --format=tar - "$apt_dir/sources.list" |
			tar -x -C "$root" --no-same-owner --exclude='./dev/*'
	fi
	# What in-sysroot mounts the host's own over.
	rm -f "$root"/etc/{resolv.conf,hosts}
	touch "$root"/etc/{resolv.conf,hosts,pdio-sysroot}
}
