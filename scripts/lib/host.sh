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

# host_problems: what else stands in the way, "problem<tab>remedy" on each line.
host_problems() {
	local ids
	[ "$(uname -m)" = x86_64 ] || problem "this is a $(uname -m) machine" "use an x86-64 one"
	command -v apt-get >/dev/null || problem "this host has no apt" "use Debian 12 or 13"
	if [ "$(id -u)" -eq 0 ]; then
		unshare --mount true 2>/dev/null ||
			problem "root may not mount here" "give this container CAP_SYS_ADMIN"
		return
	fi
	unshare --user --map-root-user true 2>/dev/null ||
		problem "user namespaces are off" "as root: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
	for ids in uid gid; do
		grep -qsE "^($(id -un)|$(id -u)):" "/etc/sub$ids" ||
			problem "$(id -un) has no subordinate ${ids}s" "as root: usermod --add-sub${ids}s 100000-165535 $(id -un)"
	done
}

host_install_command() {
	local sudo="sudo "
	[ "$(id -u)" -ne 0 ] || sudo=
	echo "${sudo}apt-get install --no-install-recommends $1"
}

host_require() {
	local missing
	refuse_if "$(host_problems)"
	missing=$(host_missing | xargs)
	[ -n "$missing" ] || return 0
	[ "$(id -u)" -eq 0 ] || die "packages are missing on this host; type:" "$(host_install_command "$missing")"
	step "installing $missing on this host" host_install "$missing"
}

host_install() {
	# shellcheck disable=SC2086 # one argument per package
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1 ||
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1; }
}
