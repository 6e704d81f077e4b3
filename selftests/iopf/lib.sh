# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What the tests of iopf have in common: the test device. Cases are those of ../ktap.sh.

here=$(dirname "$0")
# Beside the suite, or in it once it is installed.
for ktap in "$here/ktap.sh" "$here/../ktap.sh"; do
	[ ! -e "$ktap" ] || break
done
# shellcheck source=../ktap.sh
. "$ktap"

# find_device: prints the directory of the test device, if it is there.
find_device()
{
	local candidate

	for candidate in /sys/bus/pci/devices/*; do
		if [ "$(cat "$candidate/vendor")" = 0x1234 ] && [ "$(cat "$candidate/device")" = 0x5ad1 ]; then
			echo "$candidate"
			return
		fi
	done
}

device=$(find_device)
[ "$(id -u)" -eq 0 ] || skip_all 'needs root'
[ -n "$device" ] || skip_all 'there is no device svadma: pdio vm --svadma has one'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
