#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a device reaches that its driver has unmapped, or never mapped: QEMU's "edu" device copies to
# and from any address, and the module dma_attack has it try. Each strategy, and each of the kernel's
# own modes, must let through exactly what Documentation/dma-map-cache/exposure.rst says: no more,
# and no less.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# Bytes that were reached, in the form of the table in exposure.rst, one line for each strategy.
table=$scratch/table
: >"$table"

for promises in "$here/../../Documentation/dma-map-cache/exposure.rst" "$here/exposure.rst"; do
	[ ! -e "$promises" ] || break
done
[ -e "$promises" ] || skip_all 'needs Documentation/dma-map-cache/exposure.rst'

# promises_of STRATEGY: one line for each column, "COLUMN PROMISE": reached, blocked or may. The first
# table of exposure.rst has them.
promises_of()
{
	awk -v strategy="$1" '
		$1 == "strategy" { for (i = 2; i <= NF; i++) column[i] = $i; found = 1; next }
		found && $1 == strategy { for (i = 2; i <= NF; i++) print column[i], $i; exit }
		found && NF == 0 { exit }' "$promises"
}

# promise COLUMN: sets `expected`.
promise()
{
	expected=
	while read -r name value; do
		[ "$name" != "$1" ] || expected=$value
	done <"$scratch/promises"
}

# promised: all strategies that have a promise.
promised()
{
	awk '$1 == "strategy" { found = 1; next } found && NF == 0 { exit } found && !/^=/ { print $1 }' "$promises"
}

find_edu()
{
	for edu in "$bus"/devices/*; do
		[ "$(cat "$edu/vendor" "$edu/device" | tr -d '\n')" != 0x12340x11e8 ] || break
		edu=
	done
	edu=${edu##*/}
}

mapped=
reached=
elapsed_us=
address=

# try SCENARIO ACCESS [OFFSET...]: one attack, and sets `result` and a variable for each field of it:
# `mapped`, `reached`, `address` and so on. A busy machine may be too slow for an attack.
try()
{
	for _ in 1 2 3 4 5 6 7 8; do
		if echo "$*" >"$bus/devices/$edu/dma_attack/run"; then
			read -r result <"$bus/devices/$edu/dma_attack/result"
			eval "$result"
			return
		fi
	done
	fail "$*: refused, or the machine is too busy"
}

# all_of FRACTION: whether it is N/N.
all_of()
{
	[ "${1%/*}" -eq "${1#*/}" ]
}

# judge FRACTION: sets `found`.
judge()
{
	if [ "${1%/*}" -eq 0 ]; then
		found=blocked
	elif all_of "$1"; then
		found=reached
	else
		found=partly
	fi
}

# count_flushes: sets `flushes`; there are none to be seen of the kernel's own modes.
count_flushes()
{
	flushes=0
	if [ -e "$bus/devices/$edu/dma_map_cache" ]; then
		read -r flushes <"$bus/devices/$edu/dma_map_cache/statistics/flushes"
	fi
}

# prolong STRATEGY: lets what it leaves exposed stay so, as far as a user can say.
prolong()
{
	case $1 in
	deferred)
		# Also flushes what waits, so that the time counts from here.
		setting "$edu" deferred_max_us 1000000
		setting "$edu" deferred_max_unmaps 1024
		;;
	cached)
		setting "$edu" cached_max_age_ms 3600000
		setting "$edu" cached_budget_bytes $((64 << 20))
		;;
	persistent) setting "$edu" persistent_cap_bytes $((64 << 20)) ;;
	auto) setting "$edu" exposure_limit_us 0 ;;
	esac
}

# cut_short STRATEGY: whether exposure may have ended on its own before the device came.
cut_short()
{
	case $1 in
	deferred) flushed_again ;;
	# IOVA_DEFAULT_FQ_TIMEOUT, of which the last tick may be missing.
	kernel-lazy) [ "$elapsed_us" -ge 5000 ] ;;
	*) return 1 ;;
	esac
}

flushed_again()
{
	[ "$(statistic "$edu" flushes)" -gt "$flushes" ]
}

nothing_exposed()
{
	[ "$(statistic "$edu" exposed_pages)" -eq 0 ]
}

# exposure_counted STRATEGY: what the module counts as exposed is what the device has just found.
exposure_counted()
{
	[ "$1" != premapped ] && [ "$1" = "${1#kernel-}" ] || return 0
	if [ "$found" = blocked ]; then
		is 'exposed pages' "$(statistic "$edu" exposed_pages)" 0
	elif [ "$1" != contiguous ]; then
		# Its batch has ended meanwhile.
		at_least 'exposed pages' "$(statistic "$edu" exposed_pages)" 1
	fi
}

# outlast STRATEGY: waits until its bound has passed, or takes back what it keeps.
outlast()
{
	case $1 in
	premapped | strict | batched | pool | contiguous | auto | kernel-identity | kernel-strict) ;;
	deferred)
		# All that waits is flushed at once.
		count_flushes
		eventually 20 flushed_again || fail 'nothing is flushed after a second'
		;;
	cached)
		setting "$edu" cached_max_age_ms 100
		eventually 30 nothing_exposed || fail 'pages stay idle beyond their age'
		;;
	persistent) setting "$edu" persistent_cap_bytes 0 ;;
	kernel-lazy) sleep 1 ;;
	*) fail "this test does not know what ends the exposure of $1" ;;
	esac
}

# observe COLUMN SCENARIO ACCESS [OFFSET...]: tries, and compares with the promise.
observe()
{
	column=$1
	shift
	promise "$column"
	case $expected in
	reached | blocked | may) ;;
	*) fail "$promises promises '$expected' for $mode, $column" ;;
	esac

	for _ in 1 2 3 4 5 6 7 8; do
		[ "$1" = again ] || prolong "$mode"
		count_flushes
		try "$@"
		all_of "$mapped" || fail "$*: the device cannot reach what is mapped for it: $result"
		judge "$reached"
		# What was over too early shows nothing.
		if [ "$expected $found" != 'reached blocked' ] || ! cut_short "$mode"; then
			break
		fi
		info "$*: exposure ended before the device came"
		found=void
	done

	info "$column: $result"
	echo "$column ${reached%/*}" >>"$scratch/row"
	case $expected in
	may | "$found") ;;
	*)
		[ "$found" != void ] || skip "$*: the machine is too busy"
		echo "$* is $found, not $expected;" >>"$scratch/breaches"
		;;
	esac
}

# The columns of the tables.
columns='immediate list reallocated neighbour neighbour-unmapped later wrong-read wrong-write unrelated'

# tabulate: the row of the table for this mode. Where reads and writes differ, both.
tabulate()
{
	awk -v mode="$mode" -v columns="$columns" '
		!($1 in text) { text[$1] = $2; next }
		text[$1] != $2 { text[$1] = text[$1] "/" $2 }
		END {
			printf "%-15s", mode
			for (i = 1; i <= split(columns, column, " "); i++)
				printf " %-" (length(column[i]) > 9 ? length(column[i]) : 9) "s", text[column[i]]
			print ""
		}' "$scratch/row"
}

# scenarios MODE [OFFSET...]: all of them. Offsets are those at which memory could be found.
scenarios()
{
	mode=$1
	shift
	rm -f "$scratch/row" "$scratch/breaches"
	promises_of "$mode" >"$scratch/promises"
	for access in read write; do
		observe immediate immediate "$access"
		exposure_counted "$mode"
		outlast "$mode"
		observe later again "$access"
		observe list list "$access"
		observe reallocated reallocated "$access"
		observe neighbour neighbour "$access"
		observe neighbour-unmapped neighbour-unmapped "$access"
		observe "wrong-$access" wrong-direction "$access"
		observe unrelated unrelated "$access" "$@"
	done
	tabulate >>"$table"
	[ ! -e "$scratch/breaches" ] || fail "$(tr '\n' ' ' <"$scratch/breaches")"
}

# set_type TYPE: how the kernel maps for the device.
set_type()
{
	[ -z "$(driver_of "$edu")" ] || unbind "$edu"
	[ "$(cat "$bus/devices/$edu/iommu_group/type")" = "$1" ] ||
		echo "$1" >"$bus/devices/$edu/iommu_group/type" 2>/dev/null || skip "the IOMMU does not offer $1"
	bind "$edu"
}

# kernel_mode NAME TYPE
kernel_mode()
{
	set_type "$2"
	expect_faults
	scenarios "$1" 0
}

# window_shift: sets `shift` to log2 of the size of a window of IOVA space. What strict maps is in the
# second.
window_shift()
{
	use strict "$edu"
	try immediate read
	shift=0
	while [ $((address >> shift)) -gt 1 ]; do
		shift=$((shift + 1))
	done
}

# strategy NAME
strategy()
{
	set_type DMA
	attach "$edu"
	expect_faults
	window_shift
	use "$1" "$edu"
	scenarios "$1" 0 $((1 << shift)) $((2 << shift)) $((3 << shift)) $((4 << shift)) $((5 << shift)) \
		$((6 << shift)) $((7 << shift))
}

fault_logged()
{
	log_since "$mark" | grep -q -e 'DMAR: \[DMA' -e IO_PAGE_FAULT -e 'virtio_iommu.* fault'
}

# What is blocked is in the kernel log, so that no fault in the other tests means something.
refused()
{
	set_type DMA
	attach "$edu"
	expect_faults
	for access in read write; do
		# The kernel drops what comes too often.
		sleep 6
		mark="pdio-test: $$ refused $access"
		echo "$mark" >/dev/kmsg
		try immediate "$access"
		is "what the device could $access" "${reached%/*}" 0
		eventually 10 fault_logged || fail "no fault in the kernel log after a $access"
	done
}

# noticed STRATEGY PROMISE: a promise that this strategy does not keep is a breach.
noticed()
{
	set_type DMA
	attach "$edu"
	expect_faults
	use "$1" "$edu"
	mode=$1
	rm -f "$scratch/row" "$scratch/breaches"
	echo "immediate $2" >"$scratch/promises"
	for access in read write; do
		observe immediate immediate "$access"
		[ -s "$scratch/breaches" ] || fail "$1 passes for one that promises '$2'"
		rm "$scratch/breaches"
	done
}

# Each strategy has a promise, each promise a strategy.
stated()
{
	attach "$edu"
	{
		tr -d '[]' <"$bus/devices/$edu/dma_map_cache/strategy" | tr ' ' '\n'
		echo kernel-identity
		echo kernel-lazy
		echo kernel-strict
	} >"$scratch/offered"
	promised >"$scratch/promised"
	{
		lacking "$scratch/offered" "$scratch/promised" | sed 's/^/no promise: /'
		lacking "$scratch/promised" "$scratch/offered" | sed 's/^/no strategy: /'
	} >"$scratch/lacking"
	[ ! -s "$scratch/lacking" ] || fail "$(tr '\n' ' ' <"$scratch/lacking")"
}

find_edu
[ -n "$edu" ] || skip_all "needs QEMU's edu device"
modprobe dma_attack 2>/dev/null || skip_all 'needs the module dma_attack'
[ "$(driver_of "$edu")" = dma_attack ] || bind "$edu"
all_devices="$all_devices $edu"
type=$(cat "$bus/devices/$edu/iommu_group/type")
echo "$type" >"$scratch/type-$edu"

attach "$edu"
offered=$(tr -d '[]' <"$bus/devices/$edu/dma_map_cache/strategy")
detach "$edu"

add_case 'every strategy has a promise' stated
add_case 'what is blocked is in the kernel log' refused
add_case 'memory that is reached in spite of a promise is noticed' noticed premapped blocked
add_case 'protection that is not promised is noticed' noticed strict reached
add_case kernel-strict kernel_mode kernel-strict DMA
add_case kernel-lazy kernel_mode kernel-lazy DMA-FQ
for name in $offered; do
	add_case "$name" strategy "$name"
done
# In scalable mode QEMU never isolates a device again that was in identity mode.
grep -q 'sm_on' /proc/cmdline || add_case kernel-identity kernel_mode kernel-identity identity

status=0
run_cases || status=$?

info "Bytes that the device reached, of 4096 (neighbour: 3996, wrong-read: 4032, unrelated: 256), read/write."
info "$(uname -r), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
	"$(cat /sys/class/dmi/id/product_version 2>/dev/null), $(cd /sys/class/iommu && echo ./* | sed s,[.]/,,g)"
info "$(printf '%-15s' strategy; for column in $columns; do printf ' %-9s' "$column"; done)"
while read -r line; do
	info "$line"
done <"$table"

unbind "$edu"
[ "$(cat "$bus/devices/$edu/iommu_group/type")" = "$type" ] || echo "$type" >"$bus/devices/$edu/iommu_group/type"
all_devices=${all_devices% *}
rmmod dma_attack
[ $status -eq 0 ]
