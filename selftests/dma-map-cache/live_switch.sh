#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The strategy is exchanged under traffic, hundreds of times and from each to each: no packet, no
# block and no byte is lost, nothing faults, and what the old strategy left settles.
#
#   PDIO_TEST_ROUNDS=N	tours of all strategies, all devices at once, and nothing else

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need pdio-load ip fio timeout ping


# Every strategy follows every other once: a b a c a d b c b d c d a.
tour()
{
	# shellcheck disable=SC2086 # words
	set -- $strategies
	start=$1
	while [ $# -gt 1 ]; do
		from=$1
		shift
		for to in "$@"; do
			echo "$from"
			echo "$to"
		done
	done
	echo "$start"
}

# switch_all ROUNDS ADDRESS...: each device makes the tour ROUNDS times; counts in $switches.
switch_all()
{
	rounds=$1
	shift
	switches=0
	worst=0
	started=$(now_ms)
	for _ in $(seq "$rounds"); do
		# The first and the last are the same.
		for strategy in $(tour | tail -n +2); do
			for address in "$@"; do
				before=$(now_ms)
				use "$strategy" "$address"
				took=$(($(now_ms) - before))
				[ $took -le $worst ] || worst=$took
				switches=$((switches + 1))
			done
		done
	done
	info "$switches switches, $((($(now_ms) - started) / switches)) ms each on average, $worst ms at most, with the check"
}

both_ways()
{
	transfer "$1" stream 16384 64
	transfer "$1" receive 16384 64
	transfer "$1" rr 1400 20
	transfer "$1" udp 1472 128
	transfer "$1" udp 64 128
}

# Adaptive: the next leaves as soon as the last came back.
ping_flood()
{
	inside "$1" ping -A -q -c 200 -w 120 10.9.0.2 >"$scratch/ping-$1" 2>&1
	grep -q ' 0% packet loss' "$scratch/ping-$1"
}

settled()
{
	[ "$(setting "$1" unsettled_pages)" -eq 0 ]
}

# settles FIRST SECOND: what was mapped before is used up by traffic; a driver that keeps the pages of
# its pool mapped, as virtio-net does, gives them back when it is unbound.
settles()
{
	for _ in 1 2 3; do
		both_ways "$1"
		if settled "$1" && settled "$2"; then
			return
		fi
	done
	[ "$(driver_of "$1")" != e1000e ] || fail "$(setting "$1" unsettled_pages) and" \
		"$(setting "$2" unsettled_pages) unsettled pages stay under traffic"
	info "$(setting "$1" unsettled_pages) and $(setting "$2" unsettled_pages) pages stay in the driver's pool"

	pair_down "$1" "$2"
	for address in "$1" "$2"; do
		unbind "$address"
		bind "$address"
		settled "$address" || fail "$address: $(setting "$address" unsettled_pages) unsettled pages after a rebind"
	done
	pair_up "$1" "$2"
}

# under_load ROUNDS PAIRS DISKS
under_load()
{
	loads=
	for pair in $2; do
		first=${pair%,*}
		attach "$first" "${pair#*,}"
		pair_up "$first" "${pair#*,}"
		load "net-$first" both_ways "$first"
		load "ping-$first" ping_flood "$first"
		loads="$loads net-$first ping-$first"
	done
	for address in $3; do
		attach "$address"
		disk_of "$address" >/dev/null
		load "disk-$address" disk_verify "$address" 4m
		loads="$loads disk-$address"
	done

	# shellcheck disable=SC2046,SC2086 # words
	switch_all "$1" $(echo $2 | tr , ' ') $3
	# shellcheck disable=SC2086 # words
	stop_load $loads
	for name in $loads; do
		info "load $name: $(turns "$name") turns"
	done

	for address in $3; do
		eventually 5 all_unmapped "$address" || fail "$address: buffers stay mapped"
		settled "$address" || fail "$address: $(setting "$address" unsettled_pages) unsettled pages"
		maps_add_up "$address"
	done
	for pair in $2; do
		no_packet_lost "${pair%,*}" "${pair#*,}"
		settles "${pair%,*}" "${pair#*,}"
		both_ways "${pair%,*}"
		for address in "${pair%,*}" "${pair#*,}"; do
			ip -n "pdio-$address" link set net0 down
			maps_add_up "$address"
		done
	done
}

# at_rest ADDRESS: each strategy after each, with nothing in use but what the driver holds for long.
at_rest()
{
	attach "$1"
	switch_all 1 "$1"
	live=$(statistic "$1" live_pages)
	eventually 5 settled "$1" || fail "$(setting "$1" unsettled_pages) unsettled pages"
	is 'idle pages' "$(statistic "$1" idle_pages)" 0
	unbind "$1"
	bind "$1"
	info "$live pages were mapped"
}

# Switching to what it is already changes nothing.
to_itself()
{
	attach "$1"
	for strategy in $strategies; do
		use "$strategy" "$1"
		updates=$(statistic "$1" pte_updates)
		use "$strategy" "$1"
		is "page-table updates of $strategy to $strategy" "$(statistic "$1" pte_updates)" "$updates"
	done
}

# one_by_one: each device on its own, which tells what is to blame when they fail together.
one_by_one()
{
	for address in $all_devices; do
		add_case "$(driver_of "$address") $address: at rest" at_rest "$address"
	done
	for address in $all_devices; do
		add_case "$(driver_of "$address"): from a strategy to itself" to_itself "$address"
		break
	done
	for pair in $pairs; do
		add_case "$(driver_of "${pair%,*}") $pair: under TCP, UDP and a flood of pings" under_load 1 "$pair" "''"
	done
	for address in $disks; do
		add_case "$(driver_of "$address") $address: under writes that are read back" under_load 1 "''" "$address"
	done
}

# 200 switches or more, unless it is only to be seen whether the strategies work on an IOMMU.
[ -n "${PDIO_TEST_ROUNDS:-}" ] || one_by_one
# shellcheck disable=SC2086 # words
per_round=$(($(tour | tail -n +2 | wc -l) * $(echo $all_devices | wc -w)))
all_rounds=${PDIO_TEST_ROUNDS:-$(((200 + per_round - 1) / per_round))}
add_case "all devices at once, $((per_round * all_rounds)) switches" under_load "$all_rounds" "'$pairs'" "'$disks'"
run_cases
