#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# The kernel sees the test device svadma with all that it needs to fault, the IOMMU in front of it can
# serve it, and its registers are there. No driver is involved.

set -eu

# What it is: vendor, device, revision, and the first registers. See ../device/abi.rs.
vendor=0x1234
device=0x5ad1
revision=0x01
identity=0x44415653
queues=0x00000400
vectors=64
bar_bytes=$((8 << 20))

# Capabilities (PCI Code and ID Assignment Specification, 1.11), in the order of their numbers.
cap_msix=17
cap_ats=15
cap_pri=19
cap_pasid=27

# Bits of VT-d's extended capabilities (11.4.3): page requests, PASIDs, scalable mode, coherent walks.
ecap_bits='29 40 43 48'

find_device()
{
	local candidate

	for candidate in /sys/bus/pci/devices/*; do
		if [ "$(cat "$candidate/vendor")" = $vendor ] && [ "$(cat "$candidate/device")" = $device ]; then
			echo "$candidate"
			return
		fi
	done
}

# config OFFSET BYTES: a number from configuration space.
config()
{
	od -An -tu"$2" -j "$1" -N "$2" "$path/config" | tr -d ' '
}

# capability ID: where it is, among those that PCI has always had; fails if it is not there.
capability()
{
	local at

	at=$(config 52 1)
	while [ "$at" -ne 0 ]; do
		if [ "$(config "$at" 1)" -eq "$1" ]; then
			echo "$at"
			return
		fi
		at=$(config $((at + 1)) 1)
	done
	return 1
}

# extended_capability ID: where it is, among those of PCI Express; fails if it is not there.
extended_capability()
{
	local at header

	at=256
	while [ "$at" -ne 0 ]; do
		header=$(config "$at" 4)
		if [ $((header & 0xffff)) -eq "$1" ]; then
			echo "$at"
			return
		fi
		at=$((header >> 20))
	done
	return 1
}

# What is tested: each function says with its status whether it is so.

identifies()
{
	[ "$(cat "$path/revision")" = $revision ]
}

behind_a_port()
{
	[ "$(cat "$path/../class")" = 0x060400 ] && capability 16 >/dev/null
}

has_registers()
{
	local start end

	read -r start end _ <"$path/resource" && [ $((end - start + 1)) -eq $bar_bytes ]
}

has_vectors()
{
	local at

	at=$(capability $cap_msix) && [ $((($(config $((at + 2)) 2) & 0x7ff) + 1)) -eq $vectors ]
}

# The capability's "page aligned request" is set: all translation requests are.
has_ats()
{
	local at

	at=$(extended_capability $cap_ats) && [ $(($(config $((at + 4)) 2) >> 5 & 1)) -eq 1 ]
}

# As many page requests as there are indexes of groups.
has_pri()
{
	local at

	at=$(extended_capability $cap_pri) && [ "$(config $((at + 8)) 4)" -eq 512 ]
}

has_pasid()
{
	local at

	at=$(extended_capability $cap_pasid) && [ $(($(config $((at + 4)) 2) >> 8 & 31)) -eq 20 ]
}

pasid_is_enabled()
{
	local at

	at=$(extended_capability $cap_pasid) && [ $(($(config $((at + 6)) 2) & 1)) -eq 1 ]
}

ats_is_enabled()
{
	local at

	at=$(extended_capability $cap_ats) && [ $(($(config $((at + 6)) 2) >> 15)) -eq 1 ]
}

iommu_serves_it()
{
	local ecap bit

	ecap=0x$(cat "$path/iommu/intel-iommu/ecap")
	for bit in $ecap_bits; do
		if [ $((ecap >> bit & 1)) -ne 1 ]; then
			echo "# bit $bit of ECAP $ecap is 0"
			return 1
		fi
	done
}

# register OFFSET: of the first BAR.
register()
{
	local start

	read -r start _ <"$path/resource"
	busybox devmem $((start + $1)) 32
}

registers_read()
{
	[ "$(register 0)" = $identity ] && [ "$(register 8)" = $queues ]
}

# What is no register reads as all ones, and does no harm.
nothing_reads_as_ones()
{
	[ "$(register 0x3000)" = 0xFFFFFFFF ] && [ "$(register $((bar_bytes - 4)))" = 0xFFFFFFFF ]
}

echo 'KTAP version 1'
path=$(find_device)
if [ -z "$path" ]; then
	echo '1..0 # SKIP there is no device svadma: pdio vm --svadma has one'
	exit 4
fi

tests='identifies behind_a_port has_registers has_vectors has_ats has_pri has_pasid pasid_is_enabled
	ats_is_enabled iommu_serves_it registers_read nothing_reads_as_ones'
# Another test may have loaded it.
[ ! -e "$path/driver" ] || rmmod svadma
echo 1 >"$path/enable"
trap 'echo 0 >"$path/enable"' EXIT

# shellcheck disable=SC2086 # one word per test
set -- $tests
echo "1..$#"
number=0
failures=0
for name in "$@"; do
	number=$((number + 1))
	if "$name"; then
		echo "ok $number $name"
	else
		echo "not ok $number $name"
		failures=$((failures + 1))
	fi
done
[ $failures -eq 0 ]
