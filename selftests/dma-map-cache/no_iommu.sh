#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Where there is no IOMMU, or it is off, every device is refused: with the reason and the remedy in the
# kernel log, and with no notice to its driver.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
[ -z "$(ls /sys/kernel/iommu_groups)" ] || skip_all 'needs a machine without an IOMMU'
need pdio-load ip fio timeout

# refused ADDRESS
refused()
{
	was=$(identity "$1")
	mark="pdio-test: attach $$ $1 $(now_ms)"
	echo "$mark" >/dev/kmsg
	is "errno of attach $1" "$(errno_of $module/attach "$1\n")" EOPNOTSUPP
	is devices "$(cat $module/devices)" ''
	is 'the device' "$(identity "$1")" "$was"
	[ ! -e "$bus/devices/$1/dma_map_cache" ] || fail 'there is a directory in sysfs'

	log_since "$mark" | grep 'dma-map-cache: ' >"$scratch/said" || fail 'the kernel log does not say why'
	info "$(cat "$scratch/said")"
	is 'lines in the kernel log' "$(wc -l <"$scratch/said")" 1
	grep -q "$1: dma-map-cache: .* no IOMMU.*intel_iommu=on" "$scratch/said" ||
		fail 'it names no device, no reason or no remedy'
}

# without_driver ADDRESS
without_driver()
{
	unbind "$1"
	refused "$1"
	bind "$1"
	is state "$(state "$1")" ''
}

# works_on PAIR DISK: the drivers go on as if nothing had been asked, in the middle of traffic.
works_on()
{
	first=${1%,*}
	second=${1#*,}
	if [ -n "$1" ]; then
		pair_up "$first" "$second"
		load net transfer "$first" stream 16384 32
	fi
	if [ -n "$2" ]; then
		disk_of "$2" >/dev/null
		load disk disk_verify "$2" 2m
	fi
	for _ in $(seq 5); do
		for address in $(echo "$1" | tr , ' ') $2; do
			refused "$address"
		done
	done
	stop_load ${1:+net} ${2:+disk}
	[ -z "$1" ] || no_packet_lost "$first" "$second"
}

for address in $all_devices; do
	add_case "$(driver_of "$address") $address: refused" refused "$address"
done
for address in $all_devices; do
	add_case "$(driver_of "$address"): refused without a driver" without_driver "$address"
	break
done
count=0
for pair in $pairs; do
	# A disk for each pair, as far as there are any.
	count=$((count + 1))
	disk=$(echo "$disks" | cut -s -d ' ' -f $count)
	add_case "$(driver_of "${pair%,*}")${disk:+ and $(driver_of "$disk")}: refused under traffic" works_on "$pair" "'$disk'"
done
run_cases
