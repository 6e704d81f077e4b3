#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Each event of dma_map_cache fires as often as its statistic grows, with fields that make sense.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need fio timeout

events='dma_map_cache_map dma_map_cache_unmap dma_map_cache_evict dma_map_cache_flush dma_map_cache_switch'

# record COMMAND...
record()
{
	trace dma_map_cache dma/dma_map_phys dma/dma_map_sg
	snapshot before "$disk"
	"$@"
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
	snapshot after "$disk"
	trace_end
}

# lines EVENT
lines()
{
	traced " dma_map_cache_$1: $disk"
}

prepare()
{
	disk=$2
	attach "$disk"
	disk_of "$disk" >/dev/null
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
	use "$1" "$disk"
}

# counted STRATEGY ADDRESS
counted()
{
	prepare "$1" "$2"
	if [ "$1" = cached ]; then
		setting "$disk" cached_budget_bytes 65536
	fi
	record disk_verify "$disk" 1m

	# Statistics count entries of lists, events the segments that the device has for them.
	joined=$(($(addresses_of_lists "$disk" phys_addrs) - $(addresses_of_lists "$disk" dma_addrs)))
	is 'events of map' "$(lines map)" $(($(grown maps) - joined))
	is 'events of unmap' "$(lines unmap)" $(($(grown unmaps) - joined))
	is 'events of flush' "$(lines flush)" "$(grown flushes)"
	# What auto picks may change at any time.
	[ "$1" = auto ] || is 'events of switch' "$(lines switch)" 0
	evicted=$(sed -n 's/.* dma_map_cache_evict: .* pages=//p' "$scratch/trace" |
		awk '{ total += $1 } END { print total + 0 }')
	is 'pages in events of evict' "$evicted" "$(grown evictions)"
	case $1 in
	cached) at_least 'events of evict' "$(lines evict)" 1 ;;
	*) is 'events of evict' "$(lines evict)" 0 ;;
	esac
	at_least 'events of map' "$(lines map)" 16

	# Every buffer is unmapped where it was mapped, with its length, and not twice.
	awk -v device="$disk" '
		{
			iova = length_ = ""
			for (i = 1; i <= NF; i++) {
				if ($i ~ /^iova=0x[0-9a-f]+$/) iova = $i
				if ($i ~ /^len=[0-9]+$/) length_ = $i
			}
		}
		/ dma_map_cache_(map|unmap): / {
			if (iova == "" || length_ == "" || length_ == "len=0") print "fields: " $0
			if (index($0, ": " device " ") == 0) print "device: " $0
		}
		/ dma_map_cache_map: / { count[iova " " length_]++ }
		/ dma_map_cache_unmap: / {
			if (--count[iova " " length_] < 0) print "never mapped: " $0
		}
		END { for (key in count) if (count[key] > 0) print "never unmapped: " key }' \
		"$scratch/trace" >"$scratch/odd"
	[ ! -s "$scratch/odd" ] || fail "$(head -n 3 "$scratch/odd")"

	# What the driver was told is what the event says.
	sed -n "s/.* dma_map_phys: $disk .*dma_addr=\([0-9a-f]*\) size=\([0-9]*\) .*/iova=0x\1 len=\2/p" \
		"$scratch/trace" | sort >"$scratch/told"
	sed -n "s/.* dma_map_cache_map: $disk \(iova=.*\)/\1/p" "$scratch/trace" | sort >"$scratch/said"
	if [ -s "$scratch/told" ] && [ "$(traced ' dma_map_sg: ')" -eq 0 ]; then
		cmp -s "$scratch/told" "$scratch/said" || fail "$(diff "$scratch/told" "$scratch/said" | head -n 3)"
	fi
}

twice_through()
{
	for strategy in $strategies $strategies; do
		use "$strategy" "$disk"
	done
}

all_switches()
{
	prepare strict "$1"
	record twice_through

	# Numbers are places in the list; auto is the strategy that it picks, batched to begin with.
	from=1
	expected=
	for _ in 1 2; do
		place=0
		for strategy in $strategies; do
			to=$place
			[ "$strategy" != auto ] || to=3
			expected="$expected$from>$to "
			from=$to
			place=$((place + 1))
		done
	done
	switches=$(sed -n "s/.* dma_map_cache_switch: $disk from=\([0-9]*\) to=\([0-9]*\)/\1>\2/p" "$scratch/trace" | tr '\n' ' ')
	is switches "$switches" "$expected"
	is 'events of map' "$(lines map)" "$(grown maps)"
}

# filtered ADDRESS: the fields can be used in a filter.
filtered()
{
	prepare cached "$1"
	trace 'dma_map_cache/dma_map_cache_map=len > 4096 && iova > 0' 'dma_map_cache/dma_map_cache_flush=device == "none"'
	disk_verify "$disk" 1m
	use strict "$disk"
	trace_end
	awk '/ dma_map_cache_flush: / { print } / dma_map_cache_map: / {
		sub(/.*len=/, "")
		if ($0 + 0 <= 4096) print
	}' "$scratch/trace" >"$scratch/odd"
	[ ! -s "$scratch/odd" ] || fail "$(head -n 1 "$scratch/odd")"
}

named()
{
	found=$(cd /sys/kernel/tracing/events/dma_map_cache && echo */ | tr -d /)
	for event in $events; do
		case " $found " in
		*" $event "*) ;;
		*) fail "there is no $event among $found" ;;
		esac
	done
	is 'number of events' "$(echo "$found" | wc -w)" "$(echo "$events" | wc -w)"
}

add_case 'names' named
for disk in $disks; do
	for strategy in $strategies; do
		add_case "$(driver_of "$disk"): $strategy: as many as the statistics say" counted "$strategy" "$disk"
	done
done
for disk in $disks; do
	add_case 'switches, with their numbers' all_switches "$disk"
	add_case 'filters' filtered "$disk"
	break
done
run_cases
