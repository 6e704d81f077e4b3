#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# dma_map_multi(): what it maps can be unmapped in any grouping, all or nothing is mapped, a device
# that is not attached gets a loop, and a driver that was taught to use it works and flushes less.
# What a call costs under each strategy is counted in promises.sh.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need pdio-load ip timeout

# all_given_back ADDRESS: what must be as before when nothing is mapped any more.
all_given_back()
{
	snapshot now "$1"
	is "$1: unmaps" "$(value now unmaps)" "$(value now maps)"
	is "$1: live pages" "$(value now live_pages)" "$(value before live_pages)"
}

# regrouped STRATEGY: each eighth buffer by itself, the others together.
regrouped()
{
	need_bench
	attach "$idle"
	use "$1" "$idle"
	# What is kept from before is not looked for again.
	bench "$idle" multi 64 1 scattered regroup=8
	snapshot before "$idle"
	bench "$idle" multi 64 20 scattered regroup=8
	snapshot after "$idle"
	is maps "$(grown maps)" $((64 * 21))
	is unmaps "$(grown unmaps)" $((64 * 21))
	[ "$1" != strict ] || is flushes "$(grown flushes)" $((9 * 21))
	all_given_back "$idle"
}

# nothing STRATEGY WHICH: a buffer that cannot be mapped takes all others with it.
nothing()
{
	need_bench
	attach "$idle"
	use "$1" "$idle"
	snapshot before "$idle"
	bench "$idle" multi 64 10 scattered spoil="$2"
	all_given_back "$idle"
	bench "$idle" multi 64 10 scattered
	all_given_back "$idle"
}

# odd STRATEGY: lengths that are no pages, and batches that are larger than a block of IOVA space.
odd()
{
	need_bench
	attach "$idle"
	use "$1" "$idle"
	snapshot before "$idle"
	for len in 1 1522 4095 4097 8192; do
		bench "$idle" multi 48 3 scattered len=$len
	done
	bench "$idle" multi 2 3 contiguous len=2097152
	bench "$idle" multi 512 3 contiguous len=8192
	all_given_back "$idle"
}

# threads STRATEGY: on all CPUs at once.
threads()
{
	need_bench
	attach "$idle"
	use "$1" "$idle"
	snapshot before "$idle"
	bench "$idle" multi 64 200 scattered threads="$(grep -c '^processor' /proc/cpuinfo)"
	bench "$idle" multi 64 200 scattered threads="$(grep -c '^processor' /proc/cpuinfo)" regroup=3
	all_given_back "$idle"
}

not_attached()
{
	need_bench
	bench "$idle" multi 64 20 scattered
	bench "$idle" multi 64 20 contiguous regroup=8
	bench "$idle" multi 64 5 scattered spoil=40
}

refused()
{
	need_bench
	run=/sys/module/dma_map_bench/bench/run
	for text in "$idle multi 0 1 scattered" "$idle multi 513 1 scattered" "$idle multi 1 1 scattered spoil=1" \
		"$idle multi 1 1 scattered regroup=0" "$idle page 8 1 scattered regroup=2" \
		"$idle multi 1 1 scattered threads=0" "$idle multi 1 1 scattered len=0" \
		"$idle multi 1 1 scattered what=1" "$idle multi 1 1 scattered 1" "$idle multi 1 1 scattered set=0"; do
		is "errno for '$text'" "$(errno_of $run "$text")" EINVAL
	done
}

# --- Pages that their owner keeps for long ---------------------------------------

# retained STRATEGY API: all maps are hits, and nothing stays when they are released.
retained()
{
	need_bench
	attach "$idle"
	use "$1" "$idle"
	snapshot before "$idle"
	bench "$idle" "$2" 16 20 scattered set=4 retain=1
	snapshot after "$idle"
	is maps "$(grown maps)" $((16 * 24))
	is hits "$(grown hits)" "$(grown maps)"
	is 'retained pages' "$(value after retained_pages)" 0
	all_given_back "$idle"
	# Of all updates of the page table none is for a map.
	case $1 in
	strict | deferred | batched | contiguous)
		is 'page-table updates' "$(grown pte_updates)" $((2 * 16 * 4))
		is flushes "$(grown flushes)" $((16 * 4))
		;;
	esac
	is 'idle pages' "$(value after idle_pages)" "$(value before idle_pages)"
}

not_retained()
{
	need_bench
	run=/sys/module/dma_map_bench/bench/run
	text="$idle multi 16 1 scattered retain=1"
	is 'errno, not attached' "$(errno_of $run "$text")" EOPNOTSUPP
	attach "$idle"
	setting "$idle" retain_budget_bytes $((15 * 4096))
	is 'errno, more than the budget' "$(errno_of $run "$text")" ENOSPC
	is 'retained pages' "$(statistic "$idle" retained_pages)" 0
	setting "$idle" retain_budget_bytes $((16 * 4096))
	bench "$idle" multi 16 1 scattered retain=1
	is 'errno, a set that is more' "$(errno_of $run "$text set=2")" ENOSPC
	is 'retained pages' "$(statistic "$idle" retained_pages)" 0
}

# --- A driver -----------------------------------------------------------------

# traffic_of FIRST SECOND STRATEGY: through the driver that was taught; '-' is not attached.
traffic_of()
{
	multi_e1000e
	if [ "$3" != - ]; then
		attach "$1" "$2"
		use "$3" "$1" "$2"
	fi
	pair_up "$1" "$2"
	for direction in stream receive; do
		transfer "$1" $direction 16384 32 || fail "$direction: wrong content"
		transfer "$1" $direction 64 8192 || fail "$direction of small messages: wrong content"
	done
	no_packet_lost "$1" "$2"
	if [ "$3" != - ]; then
		maps_add_up "$1"
		maps_add_up "$2"
	fi
	pair_down "$1" "$2"
}

# flushed FIRST SECOND: by how many flushes how many buffers were unmapped; to $unmaps and $flushes.
flushed()
{
	attach "$1" "$2"
	pair_up "$1" "$2"
	snapshot before "$1"
	transfer "$1" stream 16384 256 || fail 'wrong content'
	snapshot after "$1"
	pair_down "$1" "$2"
	detach "$1" "$2"
	unmaps=$(grown unmaps)
	flushes=$(grown flushes)
	info "$(driver_of "$1"), $3: $unmaps buffers unmapped by $flushes flushes"
}

# Interrupts come when they like, so it is not certain how many packets are cleaned up together; but a driver that
# unmaps one by one flushes for each, and one that does not has at least two together among thousands.
fewer_flushes()
{
	flushed "$1" "$2" stock
	at_least 'flushes of the stock driver' "$flushes" "$unmaps"
	multi_e1000e
	flushed "$1" "$2" taught
	[ "$flushes" -lt "$unmaps" ] || fail "no two buffers are unmapped together"
}

if [ -n "$pairs" ]; then
	# Nothing goes through an interface that is down.
	idle=${pairs%%,*}
	add_case 'not attached: a loop' not_attached
	add_case 'wrong input' refused
	add_case 'dma_retain: refused' not_retained
	for strategy in $strategies; do
		add_case "$strategy: unmapped in other groups" regrouped "$strategy"
		for which in 0 1 40 63; do
			add_case "$strategy: buffer $which of 64 cannot be mapped" nothing "$strategy" $which
		done
		add_case "$strategy: odd sizes" odd "$strategy"
		add_case "$strategy: all CPUs" threads "$strategy"
		[ "$strategy" = pool ] || for api in page sg multi; do
			add_case "$strategy: dma_retain: $api" retained "$strategy" $api
		done
	done
fi
for pair in $pairs; do
	[ "$(driver_of "${pair%,*}")" = e1000e ] || continue
	for strategy in - $strategies; do
		add_case "e1000e_multi: $(echo "$strategy" | sed 's/^-$/not attached/')" \
			traffic_of "${pair%,*}" "${pair#*,}" "$strategy"
	done
	add_case 'e1000e_multi: fewer flushes' fewer_flushes "${pair%,*}" "${pair#*,}"
done
run_cases
