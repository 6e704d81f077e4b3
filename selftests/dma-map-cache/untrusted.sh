#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A device that the firmware does not trust may have the strategies that leave nothing reachable, and
# no other; what is refused changes nothing under its traffic.
#
# It is a storage controller behind a port that leads out of the machine: the test VM has one if it
# was started with --external-port. On any other machine PDIO_TEST_UNTRUSTED names it, and the first
# 64 MiB of its disk are overwritten.

if [ "$(readlink /init)" = /pdio/vm/init ]; then
	: "${PDIO_TEST_UNTRUSTED=0000:01:00.0}"
fi
PDIO_TEST_PAIRS=
PDIO_TEST_DISKS=${PDIO_TEST_UNTRUSTED:-}

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need fio timeout

# What Documentation/dma-map-cache promises nothing to be reachable after, and what takes the choice
# from among these for such a device.
safe='strict batched pool auto'

device=$disks

is_safe()
{
	case " $safe " in
	*" $1 "*) ;;
	*) return 1 ;;
	esac
}

listed()
{
	tr -d '[]' <"$bus/devices/$device/dma_map_cache/strategy"
}

# Without it, the rest would show nothing.
untrusted()
{
	is 'removable, as the kernel calls what is behind such a port,' \
		"$(cat "$bus/devices/$device/removable" 2>/dev/null)" removable
	attach "$device"
	is strategy "$(sed 's/.*\[\(.*\)\].*/\1/' "$bus/devices/$device/dma_map_cache/strategy")" strict
	exposing=0
	for strategy in $(listed); do
		is_safe "$strategy" || exposing=$((exposing + 1))
	done
	at_least 'strategies to refuse' $exposing 3
}

# carries: written, read back and unmapped.
carries()
{
	disk_verify "$device" 4m
	disk_verify "$device" 256k --bs=512 --bsrange=512-4k --iodepth=1 --ioengine=psync
	eventually 5 all_unmapped "$device" || fail "maps $(statistic "$device" maps), unmaps $(statistic "$device" unmaps)"
	maps_add_up "$device"
	is 'unsettled pages' "$(setting "$device" unsettled_pages)" 0
}

accepted()
{
	attach "$device"
	disk_of "$device" >/dev/null
	for strategy in $(listed); do
		if is_safe "$strategy"; then
			use "$strategy" "$device"
			info "$strategy"
			carries
			is 'idle pages' "$(statistic "$device" idle_pages)" 0
		fi
	done
}

# refuse_all: each of those that leave something reachable.
refuse_all()
{
	for strategy in $(listed); do
		is_safe "$strategy" || refuses "$bus/devices/$device/dma_map_cache/strategy" "$strategy\n" EPERM
	done
}

# Every number is as it was, from whichever strategy the way would have led.
refused_at_rest()
{
	attach "$device"
	disk_of "$device" >/dev/null
	for current in $(listed); do
		is_safe "$current" || continue
		use "$current" "$device"
		eventually 10 all_unmapped "$device" || fail 'buffers stay mapped'
		snapshot before "$device"
		refuse_all
		snapshot after "$device"
		cmp -s "$scratch/snapshot-before" "$scratch/snapshot-after" ||
			fail "$current: $(diff "$scratch/snapshot-before" "$scratch/snapshot-after" | tr '\n' ' ')"
		is 'unsettled pages' "$(setting "$device" unsettled_pages)" 0
	done
	carries
}

refused_under_load()
{
	attach "$device"
	disk_of "$device" >/dev/null
	load verify disk_verify "$device" 2m
	for _ in $(seq 20); do
		refuse_all
	done
	stop_load verify
	carries
	is evictions "$(statistic "$device" evictions)" 0
}

# What was asked for in vain is not remembered for the next driver either.
rebound()
{
	attach "$device"
	disk_of "$device" >/dev/null
	refuse_all
	unbind "$device"
	is 'state without a driver' "$(state "$device")" 'armed strict'
	bind "$device"
	is 'state with a driver' "$(state "$device")" 'attached strict'
	carries
}

add_case 'the kernel does not trust the device' untrusted
add_case 'what leaves nothing reachable carries its traffic' accepted
add_case 'what leaves something reachable is refused, and no number changes' refused_at_rest
add_case 'the same under traffic' refused_under_load
add_case 'the same before a rebind' rebound
run_cases
