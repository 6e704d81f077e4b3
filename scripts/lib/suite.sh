# SPDX-License-Identifier: GPL-2.0
# A private view of Debian 13 + backports: the host's apt with lists of its own in the cache. Needs no root.
# shellcheck shell=bash

suite=trixie
apt_dir=$PDIO_CACHE/apt

suite_apt() { local tool=$1; shift; "$tool" -c "$apt_dir/apt.conf" "$@"; }

# Mirrors to try, best first: what the user says, what the host's apt uses for Debian, mmdebstrap's default.
suite_mirrors() {
	local codename
	if [ -n "${PDIO_MIRROR:-}" ]; then
		echo "$PDIO_MIRROR"
		return
	fi
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	# The sources may name the release by its codename or its suite. Other archives use Debian's codenames too:
	# the keyring refuses them, and the next one is tried.
	apt-get --print-uris update 2>/dev/null |
		sed -nE "s|^'(.*[^/])/+dists/(${codename:-$suite}\|$suite\|oldstable\|stable\|testing\|unstable\|sid)/InRelease'.*|\1|p"
	# It tells nobody but its own hooks.
	# shellcheck disable=SC2016 # expanded by the hook
	mmdebstrap --quiet --variant=custom --mode="$(sysroot_mode)" \
		--setup-hook='cat "$1/etc/apt/sources.list" >&2; false' "$suite" - 2>&1 >/dev/null |
		sed -nE "s|^deb (\[[^]]*\] )?([^ ]+) $suite .*|\2|p"
}

suite_keyring() {
	local f
	for f in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
		[ ! -e "$f" ] || { echo "$f"; return; }
	done
	die "no Debian keyring found" "apt-get install debian-archive-keyring"
}

suite_write_config() {
	local mirror=$1 keyring
	keyring=$(suite_keyring)
	mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
	printf "deb [signed-by=$keyring] $mirror %s main\n" "$suite" "$suite-backports" >"$apt_dir/sources.list"
	# QEMU's parts must all come from one version.
	cat >"$apt_dir/preferences" <<-EOF
		Package: src:qemu src:seabios
		Pin: release n=$suite-backports
		Pin-Priority: 990
	EOF
	# The host's way to its mirror (proxies, certificates, clocks) is ours too.
	apt-config dump | grep -E '^Acquire::(https?::|Retries|Check-)' >"$apt_dir/acquire.conf" || :
	cat - "$apt_dir/acquire.conf" >"$apt_dir/apt.conf" <<-EOF
		APT::Architecture "amd64";
		#clear APT::Architectures;
		APT::Architectures { "amd64"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
		#clear APT::Update;
		#clear DPkg;
		Acquire::http::Timeout "15";
		Acquire::https::Timeout "15";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Dir::Etc::SourceList "$apt_dir/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::Etc::Preferences "$apt_dir/preferences";
		Dir::Etc::PreferencesParts "/dev/null";
		Dir::State "$apt_dir";
		Dir::State::Lists "$apt_dir/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$apt_dir/cache";
		Dir::Cache::Archives "$apt_dir/cache/archives";
	EOF
}

# Brings the lists up to date from the first mirror that has the suite; prints why the others did not.
suite_update() {
	local mirror
	while read -r mirror; do
		suite_write_config "$mirror"
		echo "mirror $mirror"
		suite_apt apt-get -qq --error-on=any update && return
	done < <(suite_mirrors | awk '!seen[$0]++')
	return 1
}

# suite_versions PACKAGE: its versions, newest first.
suite_versions() { suite_apt apt-cache madison "$1" | awk -F'[ |]+' '{ sub(/^ +/, "") } !seen[$2]++ { print $2 }'; }

suite_has() { grep -qxF -- "$2" <<<"$(suite_versions "$1")"; }

# suite_closure PACKAGE...: every package that would be installed in an empty root, with version.
suite_closure() {
	suite_apt apt-get -s -qq install '?essential' "$@" | awk '$1 == "Inst" { print $2, $3 }' | sort
}

# suite_unpack DIRECTORY PACKAGE=VERSION...: downloads and verifies, unpacks without installing.
suite_unpack() {
	local into=$1 deb
	shift
	mkdir -p "$into/debs"
	(cd "$into/debs" && suite_apt apt-get -q download "$@")
	for deb in "$into"/debs/*.deb; do
		dpkg-deb -x "$deb" "$into"
		rm -- "$deb"
	done
}
