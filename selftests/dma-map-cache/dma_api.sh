#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Which calls of the DMA API the stock drivers make, by the kernel's own events, and that we have
# served them. dma_mmap, dma_get_sgtable and dma_alloc_noncontiguous are made by no driver here.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need pdio-load ip fio timeout

# record ADDRESS...: all of it, from bind to unbind.
record()
{
	trace dma dma_map_cache
	for address in "$@"; do
		bind "$address"
	done
}

# calls ADDRESS: how often each call was made.
calls()
{
	sed -n "s/.* \(dma_[a-z_]*\): $1 .*/\1/p" "$scratch/trace" | grep -v '^dma_map_cache' | sort | uniq -c |
		awk '{ printf "%s %s, ", $2, $1 }' | sed 's/, $//'
}

# made ADDRESS CALL
made()
{
	traced " $2: $1 "
}

# served ADDRESS CALL...: each was made, and ours are as many as theirs.
served()
{
	device=$1
	shift
	info "$(driver_of "$device"): $(calls "$device")"
	for call in "$@"; do
		at_least "$device: calls of $call" "$(made "$device" "$call")" 1
	done

	# A list is as many buffers for the device as it has addresses, which may be fewer than entries.
	is "$device: buffers mapped by us" "$(made "$device" dma_map_cache_map)" \
		$(($(addresses_of_lists "$device" dma_addrs) + $(made "$device" dma_map_phys)))
	unbalanced=$(awk -v device="$device" '
		/ dma_(alloc|free): / && index($0, ": " device " ") {
			# A driver may free what it never had.
			if (/ size=0 /) next
			match($0, /dma_addr=[0-9a-f]+ size=[0-9]+/)
			count[substr($0, RSTART, RLENGTH)] += / dma_alloc: / ? 1 : -1
		}
		END { for (key in count) if (count[key]) print key, count[key] }' "$scratch/trace")
	[ -z "$unbalanced" ] || fail "$device: coherent buffers not freed as often as allocated: $unbalanced"
	for event in dma_map_sg_err dma_alloc_sgt_err; do
		is "$device: $event" "$(made "$device" $event)" 0
	done
	# No call failed.
	is "$device: mapping errors" "$(traced ": $device .*dma_addr=ffffffffffffffff")" 0
}

# network FIRST SECOND CALL...
network()
{
	first=$1
	second=$2
	shift 2
	for address in "$first" "$second"; do
		unbind "$address"
		echo "$address" >$module/attach
	done
	record "$first" "$second"
	pair_up "$first" "$second"
	transfer "$first" stream 16384 16
	transfer "$first" receive 16384 16
	pair_down "$first" "$second"
	for address in "$first" "$second"; do
		unbind "$address"
	done
	trace_end
	for address in "$first" "$second"; do
		bind "$address"
		served "$address" "$@"
	done
}

# disk ADDRESS CALL...
disk()
{
	address=$1
	unbind "$address"
	echo "$address" >$module/attach
	record "$address"
	disk_verify "$address" 1m
	unbind "$address"
	trace_end
	bind "$address"
	served "$@"
}

# What is known of a driver; of others only that all they do is served.
calls_of()
{
	case $1 in
	e1000e) echo dma_map_phys dma_unmap_phys dma_alloc dma_free ;;
	virtio-pci) echo dma_map_phys dma_unmap_phys dma_alloc dma_free ;;
	nvme) echo dma_map_phys dma_unmap_phys dma_alloc dma_free ;;
	ahci) echo dma_map_sg dma_unmap_sg dma_alloc dma_free ;;
	esac
}

for pair in $pairs; do
	driver=$(driver_of "${pair%,*}")
	add_case "$driver: $(calls_of "$driver")" network "${pair%,*}" "${pair#*,}" "$(calls_of "$driver")"
done
for address in $disks; do
	driver=$(driver_of "$address")
	add_case "$driver: $(calls_of "$driver")" disk "$address" "$(calls_of "$driver")"
done
run_cases
