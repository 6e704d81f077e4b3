#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Behind an IOMMU that does not serve PASIDs the device is refused, and the kernel log says why, in one
# line.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

modprobe svadma || skip_all 'svadma does not load'

is_refused()
{
	[ ! -e "$device/driver" ] || fail 'the driver is bound all the same'
	[ ! -e "$device/iopf" ] || fail "$device/iopf is there all the same"
}

says_why()
{
	is 'lines of iopf' "$(dmesg | grep -c "${device##*/}: iopf: ")" 1
	dmesg | grep -q "${device##*/}: iopf: no PASID: " || fail 'PASID is not named'
	dmesg | grep -q "svadma ${device##*/}: probe with driver svadma failed with error -95" || fail 'the error is not EOPNOTSUPP'
}

add_case 'refused' is_refused
add_case 'says why' says_why
run_cases
