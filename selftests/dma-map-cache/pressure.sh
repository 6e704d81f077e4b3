#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Memory gets short while pages are kept: idle mappings are given back, traffic goes on, and nothing
# is damaged.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need fio timeout

budget_bytes=$((1 << 20))

# prepare STRATEGY ADDRESS [BYTES]
prepare()
{
	disk=$2
	attach "$disk"
	disk_of "$disk" >/dev/null
	use "$1" "$disk"
	case $1 in
	cached)
		setting "$disk" cached_max_age_ms 3600000
		setting "$disk" cached_budget_bytes "${3:-67108864}"
		;;
	persistent)
		setting "$disk" persistent_cap_bytes "${3:-67108864}"
		;;
	esac
}

# The shrinker is asked without any pressure.
gives_back()
{
	prepare "$1" "$2"
	disk_verify "$disk" 4m
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
	snapshot before "$disk"
	at_least 'idle pages' "$(value before idle_pages)" 100
	echo 2 >/proc/sys/vm/drop_caches
	snapshot after "$disk"
	at_most 'idle pages afterwards' "$(value after idle_pages)" $(($(value before idle_pages) / 2))
	at_least evictions "$(grown evictions)" 50
	at_most 'flushes, at 8 evictions each,' "$(grown flushes)" $(($(grown evictions) / 8 + 8))

	# And all works as before.
	disk_verify "$disk" 4m
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
	at_least 'idle pages' "$(statistic "$disk" idle_pages)" 100
	maps_add_up "$disk"
}

# A load that has four times the memory mapped in turn that may be kept, and the kernel short of
# memory all the time.
under_pressure()
{
	prepare "$1" "$2" $budget_bytes
	mkdir -p "$scratch/memory"
	mount -t tmpfs -o size=90% tmpfs "$scratch/memory"

	background sh -c 'while :; do echo 3 >/proc/sys/vm/drop_caches; sleep 0.05; done'
	free_kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
	# All but 96 MiB of what is free.
	dd if=/dev/zero of="$scratch/memory/hog" bs=1M count=$((free_kib / 1024 - 96)) 2>/dev/null ||
		info 'there is no more memory'
	for _ in 1 2; do
		disk_verify "$disk" 8m --bs=64k --bsrange=64k-64k --iodepth=64 --iomem=mmap
		at_most 'idle pages' "$(statistic "$disk" idle_pages)" $((budget_bytes / 4096))
	done
	kill_load
	umount "$scratch/memory"
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
	at_least evictions "$(statistic "$disk" evictions)" $((budget_bytes / 4096))
	info "$(statistic "$disk" evictions) evictions, $(statistic "$disk" fallbacks) fallbacks"
	maps_add_up "$disk"
}

for disk in $disks; do
	driver=$(driver_of "$disk")
	for strategy in cached persistent; do
		add_case "$driver: $strategy: gives idle mappings back" gives_back $strategy "$disk"
		add_case "$driver: $strategy: under pressure, four times the budget" under_pressure $strategy "$disk"
	done
	break
done
run_cases
