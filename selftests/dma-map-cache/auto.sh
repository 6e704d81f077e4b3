#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What `auto` picks for which load and bound, that it says why, and that it does not flap.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need fio timeout

# picked: the strategy that auto follows.
picked()
{
	setting "$disk" auto_reason | sed 's/:.*//'
}

picks()
{
	[ "$(picked)" = "$1" ]
}

# safe STRATEGY: leaves nothing reachable.
safe()
{
	case $1 in
	pool | batched | strict) ;;
	*) return 1 ;;
	esac
}

# picks_soon STRATEGY
picks_soon()
{
	eventually 60 picks "$1" || fail "not $1 but $(setting "$disk" auto_reason)"
	info "$(setting "$disk" auto_reason)"
}

prepare()
{
	disk=$1
	attach "$disk"
	disk_of "$disk" >/dev/null
	use auto "$disk"
	is 'what it begins with' "$(picked)" batched
}

# reads: for long, in the same few buffers.
reads()
{
	background fio --name=reads --filename="$(disk_of "$disk")" --size=64m --rw=randread --bs=4k --direct=1 \
		--ioengine=libaio --iodepth=4 --time_based --runtime=300 --allow_file_create=0 --eta=never
}

by_bound()
{
	prepare "$1"
	reads
	# Nothing is allowed, and small buffers are copied for less than a page table costs.
	picks_soon pool
	is 'exposed pages' "$(statistic "$disk" exposed_pages)" 0

	setting "$disk" exposure_limit_pages 500
	setting "$disk" exposure_limit_us 1000000
	picks_soon cached
	at_most 'exposed pages' "$(statistic "$disk" exposed_pages)" 500

	# Less than cached can keep.
	setting "$disk" exposure_limit_us 15000
	! picks cached || fail "$(setting "$disk" auto_reason)"
	sleep 3
	! picks cached || fail "$(setting "$disk" auto_reason)"

	setting "$disk" exposure_limit_us 0
	safe "$(picked)" || fail "with nothing allowed: $(setting "$disk" auto_reason)"
	is 'exposed pages' "$(statistic "$disk" exposed_pages)" 0
	is 'the strategy' "$(setting "$disk" strategy | sed 's/.*\[\(.*\)\].*/\1/')" auto

	setting "$disk" exposure_limit_us 1000000
	setting "$disk" exposure_limit_pages 0
	sleep 3
	safe "$(picked)" || fail "with no page allowed: $(setting "$disk" auto_reason)"
	is fallbacks "$(statistic "$disk" fallbacks)" 0
}

# In turns of less than its patience: the same buffers again, then ever new ones.
alternates()
{
	prepare "$1"
	setting "$disk" exposure_limit_us 1000000
	reads
	picks_soon cached
	kill_load

	trace dma_map_cache/dma_map_cache_switch
	for _ in 1 2 3 4 5 6; do
		timeout -s KILL 30 fio --name=same --filename="$(disk_of "$disk")" --size=64m --rw=randread --bs=4k --direct=1 \
			--ioengine=libaio --iodepth=4 --time_based --runtime=1 --allow_file_create=0 --eta=never >/dev/null
		timeout -s KILL 30 fio --name=new --filename="$(disk_of "$disk")" --size=64m --rw=read --bs=64k --direct=1 \
			--ioengine=libaio --iodepth=16 --iomem=mmap --time_based --runtime=1 --allow_file_create=0 \
			--eta=never >/dev/null
	done
	trace_end
	info "$(traced ' dma_map_cache_switch: ') switches; $(setting "$disk" auto_reason)"
	at_most switches "$(traced ' dma_map_cache_switch: ')" 2
	maps_add_up "$disk"
}

# Another strategy ends it; it begins anew when it is chosen again.
chosen_again()
{
	prepare "$1"
	setting "$disk" exposure_limit_us 1000000
	reads
	picks_soon cached
	use strict "$disk"
	is reason "$(setting "$disk" auto_reason)" 'not in use'
	is 'exposed pages' "$(statistic "$disk" exposed_pages)" 0
	use auto "$disk"
	picks_soon cached
	detach "$disk"
	attach "$disk"
	is 'the strategy when attached again' "$(setting "$disk" strategy | sed 's/.*\[\(.*\)\].*/\1/')" strict
}

for disk in $disks; do
	driver=$(driver_of "$disk")
	add_case "$driver: within the bound" by_bound "$disk"
	add_case "$driver: does not flap" alternates "$disk"
	add_case "$driver: chosen again" chosen_again "$disk"
	break
done
run_cases
