#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Every strategy carries the traffic of every stock driver: nothing is damaged, no access faults,
# and the statistics add up.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need pdio-load ip fio timeout

# settled STRATEGY ADDRESS: nothing is mapped by another strategy; auto may have picked another.
settled()
{
	[ "$1" = auto ] || is "$2: unsettled pages" "$(setting "$2" unsettled_pages)" 0
}

# network STRATEGY FIRST SECOND
network()
{
	attach "$2" "$3"
	use "$1" "$2" "$3"
	pair_up "$2" "$3"

	transfer "$2" stream 16384 256
	transfer "$2" receive 16384 256
	transfer "$2" rr 1000 50
	transfer "$2" udp 64 256
	transfer "$2" udp 1472 512
	no_packet_lost "$2" "$3"

	for address in "$2" "$3"; do
		at_least "$address: maps" "$(statistic "$address" maps)" 1000
		ip -n "pdio-$address" link set net0 down
		maps_add_up "$address"
		settled "$1" "$address"
		info "$address: $(tr '\n' ' ' <"$scratch/snapshot-now")"
	done
	# e1000e gives everything back when its interface goes down, virtio-net when it is unbound;
	# whoever does not is in the kernel log.
	if [ "$(driver_of "$2")" = e1000e ]; then
		all_unmapped "$2" || fail "$2: $(statistic "$2" maps) maps, $(statistic "$2" unmaps) unmaps"
		all_unmapped "$3" || fail "$3: $(statistic "$3" maps) maps, $(statistic "$3" unmaps) unmaps"
	fi
	pair_down "$2" "$3"
	detach "$2" "$3"
}

# disk STRATEGY ADDRESS
disk()
{
	attach "$2"
	disk_of "$2" >/dev/null
	use "$1" "$2"
	snapshot before "$2"

	disk_verify "$2" 8m
	# One segment, then many scattered ones.
	disk_verify "$2" 256k --bs=512 --bsrange=512-4k --iodepth=1 --ioengine=psync
	disk_verify "$2" 4m --bs=1m --bsrange=1m-1m --iodepth=2

	eventually 5 all_unmapped "$2" || fail "maps $(statistic "$2" maps), unmaps $(statistic "$2" unmaps)"
	snapshot after "$2"
	at_least maps "$(grown maps)" 1000
	maps_add_up "$2"
	settled "$1" "$2"
	info "$2: $(tr '\n' ' ' <"$scratch/snapshot-now")"
	detach "$2"
}

for strategy in $strategies; do
	for pair in $pairs; do
		first=${pair%,*}
		add_case "$strategy: $(driver_of "$first") $pair: TCP and UDP both ways" \
			network "$strategy" "$first" "${pair#*,}"
	done
	for address in $disks; do
		add_case "$strategy: $(driver_of "$address") $address: written and read back" disk "$strategy" "$address"
	done
done
run_cases
