#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Where there are no PASIDs, or no page requests, the device is refused, and the kernel log says which is
# missing, in one line. MISSING=PASID or MISSING=PRI: what is not there.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

: "${MISSING:=PASID}"
modprobe svadma || skip_all 'svadma does not load'

is_refused()
{
	[ ! -e "$device/driver" ] || fail 'the driver is bound all the same'
	[ ! -e "$device/iopf" ] || fail "$device/iopf is there all the same"
}

says_why()
{
	is 'lines of iopf' "$(dmesg | grep -c "${device##*/}: iopf: ")" 1
	dmesg | grep -q "${device##*/}: iopf: no $MISSING: " || fail "$MISSING is not named"
	dmesg | grep -q "svadma ${device##*/}: probe with driver svadma failed with error -95" || fail 'the error is not EOPNOTSUPP'
}

add_case "refused without $MISSING" is_refused
add_case "says that there is no $MISSING" says_why
run_cases
