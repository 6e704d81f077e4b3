# SPDX-License-Identifier: GPL-2.0
# What the host must have for setup and in-sysroot. Sourced by setup and doctor.
# shellcheck shell=bash

# host_missing: the Debian packages that are missing.
host_missing() {
	local need=(mmdebstrap:mmdebstrap bwrap:bubblewrap xz:xz-utils dpkg-deb:dpkg flock:util-linux) entry
	[ "$(id -u)" -eq 0 ] || need+=(newuidmap:uidmap)
	for entry in "${need[@]}"; do
		command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
	done
	compgen -G '/usr/share/keyrings/debian-archive-keyring.*' >/dev/null || echo debian-archive-keyring
}

# host_problems: what else stands in the way, with the remedy, one per line.
host_problems() {
	[ "$(uname -m)" = x86_64 ] || echo "this is a $(uname -m) machine: x86-64 is needed"
	command -v apt-get >/dev/null || echo "this host has no apt: Debian 12 or 13 is needed"
	if [ "$(id -u)" -eq 0 ]; then
		unshare --mount true 2>/dev/null ||
			echo "root may not mount here: give this container CAP_SYS_ADMIN, or run as a user with user namespaces"
		return
	fi
	unshare --user --map-root-user true 2>/dev/null ||
		echo "user namespaces are off: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 (as root), or run as root"
	grep -qsE "^($(id -un)|$(id -u)):" /etc/subuid && grep -qsE "^($(id -un)|$(id -u)):" /etc/subgid ||
		echo "no subordinate ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un) (as root), or run as root"
}

host_require() {
	local problems missing
	problems=$(host_problems)
	[ -z "$problems" ] || die "this host cannot be used as it is:" "$problems"
	missing=$(host_missing | xargs)
	[ -n "$missing" ] || return 0
	[ "$(id -u)" -eq 0 ] || die "packages are missing; type:" "sudo apt-get install --no-install-recommends $missing"
	step "installing $missing on this host" host_install "$missing"
}

host_install() {
	# shellcheck disable=SC2086 # one argument per package
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1 ||
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1; }
}
