# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What the tests have in common whose cases are in the program iopf-test: this gives it a driver.

set -eu

skip()
{
	echo 'KTAP version 1'
	echo "1..0 # SKIP $*"
	exit 4
}

command -v iopf-test >/dev/null || skip 'needs iopf-test: make tool'
[ -e /dev/svadma ] || modprobe svadma || skip 'svadma does not load'
[ -e /dev/svadma ] || skip 'there is no device svadma: pdio vm --svadma has one'
