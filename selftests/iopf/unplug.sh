#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# The device goes, or its driver, while processes use it: they end, or go on if nothing may happen to
# them, and what comes after that works.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

command -v iopf-test >/dev/null || skip_all 'needs iopf-test: make tool'
modprobe svadma || skip_all 'svadma does not load'

# Processes that use the device at once.
processes=3
# Seconds in which they end: what a program waits for a device that is silent, and then some.
patience=45

# load MODE: starts processes, and returns when the device works for all of them.
load()
{
	local number

	pids=
	for number in $(seq $processes); do
		iopf-test child "$1" work 0 >"$scratch/work$number" 2>&1 &
		pids="$pids $!"
	done
	for number in $(seq $processes); do
		within 20 grep -q working "$scratch/work$number"
	done
}

# within SECONDS COMMAND...: tries again until it succeeds.
within()
{
	local tries

	tries=$(($1 * 10))
	shift
	until "$@" 2>/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || fail "'$*' does not come true"
		sleep 0.1
	done
}

# Whether none of the processes is there; those that nobody has waited for do not count.
have_ended()
{
	local pid

	for pid in $pids; do
		! grep -q '^State:	[^Z]' "/proc/$pid/status" || return 1
	done
}

still_work()
{
	local pid

	for pid in $pids; do
		kill -0 "$pid" || fail 'a process has ended'
	done
}

kill_all()
{
	# shellcheck disable=SC2086 # one word per process
	kill -KILL $pids
	within $patience have_ended
}

# works MODE: everything, for new processes.
works()
{
	within 20 [ -e /dev/svadma ]
	iopf-test memory "$1" >"$scratch/memory" || {
		sed 's/^/# /' "$scratch/memory"
		fail 'the device does not work any more'
	}
}

# unplugged MODE
unplugged()
{
	load "$1"
	echo 1 >"$device/remove"
	[ ! -e "$device" ] || fail "$device is left"
	[ ! -e /dev/svadma ] || fail '/dev/svadma is left'
	within $patience have_ended
	echo 1 >/sys/bus/pci/rescan
	works "$1"
}

# unbound MODE
unbound()
{
	load "$1"
	echo "${device##*/}" >/sys/bus/pci/drivers/svadma/unbind
	[ ! -e "$device/iopf" ] || fail "$device/iopf is left"
	within $patience have_ended
	echo "${device##*/}" >/sys/bus/pci/drivers/svadma/bind
	works "$1"
}

# unloaded MODE: not before the last process has ended.
unloaded()
{
	load "$1"
	! rmmod svadma 2>"$scratch/error" || fail 'svadma was unloaded under its users'
	! rmmod iopf 2>"$scratch/error" || fail 'iopf was unloaded under its user'
	still_work
	kill_all
	within 20 rmmod svadma
	rmmod iopf
	modprobe svadma
	works "$1"
}

# is_reset MODE: what the device was doing is lost, and nothing else.
is_reset()
{
	load "$1"
	echo 1 >"$device/reset"
	kill_all
	works "$1"
}

for mode in sva mirror pinned; do
	add_case "$mode: unplugged" unplugged $mode
	add_case "$mode: driver unbound" unbound $mode
	add_case "$mode: modules unloaded" unloaded $mode
	[ ! -e "$device/reset" ] || add_case "$mode: reset" is_reset $mode
done
run_cases
