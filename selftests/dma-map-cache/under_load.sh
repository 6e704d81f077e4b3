#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Devices are attached, detached and the module is unloaded in the middle of traffic. The traffic
# ends, as when a driver is unbound; the devices work afterwards.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need pdio-load ip fio timeout

# Traffic that does not stop by itself, and that may fail.
begin_load()
{
	# The disk first: it would wait long for a processor.
	for address in $3; do
		disk_load "$address"
	done
	background transfer "$1" stream 16384 100000
	background transfer "$1" udp 1472 100000
	for address in "$1" "$2"; do
		eventually 60 receives "$address" || fail "$address receives nothing"
	done
}

receives()
{
	[ "$(inside "$1" cat /sys/class/net/net0/statistics/rx_packets)" -gt 20 ]
}

disk_load()
{
	requests=$(disk_requests "$1")
	background disk_verify "$1" 64m --time_based --runtime=120
	eventually 60 busier "$1" "$requests" ||
		fail "$1 has no load: $(tail -n 3 "$scratch/fio-$1" | tr '\n' ' ')"
}

busier()
{
	[ "$(disk_requests "$1")" -gt $(($2 + 10)) ]
}

# end_load FIRST SECOND DISKS: the devices are gone from under it.
end_load()
{
	kill_load
	for address in "$1" "$2"; do
		! inside "$address" [ -e /sys/class/net/net0 ] || fail "$address: the interface is still there"
	done
	pair_down "$1" "$2"
}

check()
{
	pair_up "$1" "$2"
	transfer "$1" stream 16384 16
	transfer "$1" receive 16384 16
	for address in $3; do
		disk_verify "$address" 512k
	done
}

# cycles COUNT FIRST SECOND DISKS
cycles()
{
	count=$1
	shift
	pair_up "$1" "$2"
	for cycle in $(seq "$count"); do
		begin_load "$@"
		attach "$1" "$2"
		for address in $3; do
			attach "$address"
		done
		end_load "$@"

		# shellcheck disable=SC2086 # words
		strategy=$(set -- $strategies; shift $((cycle % $#)); echo "$1")
		# shellcheck disable=SC2086 # words
		use "$strategy" "$1" "$2" $3
		check "$@"
		for address in "$1" "$2" $3; do
			maps_add_up "$address"
		done

		begin_load "$@"
		if [ $((cycle % 2)) -eq 0 ]; then
			rmmod dma_map_cache
			[ ! -e $module ] || fail 'the module is still there'
			modprobe dma_map_cache
		else
			detach "$1" "$2"
			for address in $3; do
				detach "$address"
			done
		fi
		end_load "$@"
		is devices "$(cat $module/devices)" ''
		check "$@"
	done
}

# unplugged ADDRESS STRATEGY: removed under load, and found again.
unplugged()
{
	attach "$1"
	use "$2" "$1"
	for _ in 1 2 3; do
		disk_load "$1"
		echo 1 >"$bus/devices/$1/remove"
		kill_load
		echo 1 >$bus/rescan
		has_driver "$1" || bind "$1"
		is state "$(state "$1")" "attached $2"
		disk_verify "$1" 1m
	done
}

# hammer ACTION ADDRESS: again and again, whatever comes of it.
hammer()
{
	until [ -e "$scratch/stop" ]; do
		"$@" 2>/dev/null || true
	done
}

look()
{
	cat "$module/devices" "$bus/devices/$1"/dma_map_cache/* "$bus/devices/$1"/dma_map_cache/statistics/*
}

change()
{
	for strategy in $strategies; do
		echo "$strategy" >"$bus/devices/$1/dma_map_cache/strategy"
	done
}

rebind()
{
	unbind "$1"
	bind "$1"
}

flip()
{
	echo "$1" >"$module/attach"
	echo "$1" >"$module/detach"
}

# Everybody at once: each may be refused, none may hang, and no state may be torn.
hammered()
{
	for action in flip flip look change rebind; do
		background hammer $action "$1"
	done
	sleep 6
	: >"$scratch/stop"
	while read -r pid; do
		eventually 30 [ ! -e "/proc/$pid/exe" ] || fail 'one of them hangs'
	done <"$scratch/pids"

	has_driver "$1" || bind "$1"
	case $(state "$1") in
	'') attach "$1" ;;
	attached*) ;;
	*) fail "$1 has a driver and is $(state "$1")" ;;
	esac
	use cached "$1"
	detach "$1"
}

count=0
for pair in $pairs; do
	# A disk for each pair, as far as there are any.
	count=$((count + 1))
	driver=$(driver_of "${pair%,*}")
	# The link of an e1000e takes its time.
	[ "$driver" = e1000e ] && turns=6 || turns=14
	disk=$(echo "$disks" | cut -s -d ' ' -f $count)
	add_case "$driver${disk:+ and $(driver_of "$disk")}: attach, detach and rmmod under load, $turns times" \
		cycles "$turns" "${pair%,*}" "${pair#*,}" "'$disk'"
done
for address in $disks; do
	add_case "$(driver_of "$address"): removed under load" unplugged "$address" cached
done
for address in $all_devices; do
	add_case "$(driver_of "$address"): attached, detached, switched, read and rebound by all at once" hammered "$address"
	break
done
run_cases
