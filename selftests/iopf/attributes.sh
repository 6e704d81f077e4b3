#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What iopf shows of a device in sysfs and tracefs: all of it is described, starts with the values that
# are described, takes what is allowed and nothing else.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

modprobe svadma || skip_all 'svadma does not load'
path=$device/iopf
[ -d "$path" ] || skip_all "$path is not there: the driver has not registered the device"
described=$(dirname "$0")/../../Documentation/ABI/testing/sysfs-bus-pci-iopf
budgets='pin_budget_bytes binding_budget_bytes'
default_budget=268435456

all_is_described()
{
	local file name

	[ -e "$described" ] || fail "$described is missing"
	for file in "$path"/*; do
		name=${file##*/}
		[ ! -d "$file" ] || name=$name/
		grep -q "^What:.*/iopf/$name\$" "$described" || fail "$name is not described"
	done
	for file in "$path"/statistics/*; do
		grep -q "^	*${file##*/} " "$described" || fail "statistics/${file##*/} is not described"
	done
}

# In a VM that has just booted, or after the driver was bound anew.
starts_with_defaults()
{
	local file

	is mode "$(cat "$path/mode")" '[sva] mirror pinned'
	is eviction "$(cat "$path/eviction")" '[clock] lru'
	is fault_around_pages "$(cat "$path/fault_around_pages")" auto
	for file in $budgets; do
		is "$file" "$(cat "$path/$file")" $default_budget
	done
	is bindings "$(cat "$path/bindings")" ''
	for file in "$path"/statistics/*; do
		case $file in
		*_histogram) is "${file##*/}" "$(cat "$file")" '' ;;
		*) is "${file##*/}" "$(cat "$file")" 0 ;;
		esac
	done
}

cannot_be_written()
{
	local file

	for file in "$path/bindings" "$path"/statistics/*; do
		is "mode of ${file##*/}" "$(stat -c %a "$file")" 444
	done
}

chooses_a_mode()
{
	accepts "$path/mode" mirror 'sva [mirror] pinned'
	accepts "$path/mode" 'pinned\n' 'sva mirror [pinned]'
	for bad in '\n' Mirror 'mirror ' ' mirror' 'mirror\nsva' '[sva]' none 'sva\0'; do
		refuses "$path/mode" "$bad"
	done
	accepts "$path/mode" sva '[sva] mirror pinned'
}

chooses_a_policy()
{
	accepts "$path/eviction" lru 'clock [lru]'
	for bad in '\n' fifo LRU 'lru clock'; do
		refuses "$path/eviction" "$bad"
	done
	accepts "$path/eviction" clock '[clock] lru'
}

takes_a_number_of_pages()
{
	for good in 1 16 100 512; do
		accepts "$path/fault_around_pages" $good $good
	done
	for bad in '\n' 0 513 -1 +1 0x10 '1 ' '1 2' 1.5 Auto 99999999999999999999; do
		refuses "$path/fault_around_pages" "$bad"
	done
	accepts "$path/fault_around_pages" auto auto
}

# takes_a_budget FILE
takes_a_budget()
{
	for good in 4096 8192 4503599627370496; do
		accepts "$path/$1" $good $good
	done
	for bad in '\n' 0 1 4095 4097 -4096 4K 0x1000 4503599627374592 18446744073709551616; do
		refuses "$path/$1" "$bad"
	done
	accepts "$path/$1" $default_budget $default_budget
}

has_events()
{
	for event in iopf_fault iopf_resolved iopf_evicted iopf_invalidated; do
		[ -e /sys/kernel/tracing/events/iopf/$event/enable ] || fail "there is no event $event"
	done
}

# again DRIVER: a device that is registered again has nothing of before.
again()
{
	accepts "$path/mode" mirror 'sva [mirror] pinned'
	accepts "$path/fault_around_pages" 7 7
	echo "${device##*/}" >/sys/bus/pci/drivers/svadma/unbind
	[ ! -e "$path" ] || fail "$path is left"
	echo "${device##*/}" >/sys/bus/pci/drivers/svadma/bind
	starts_with_defaults
}

# unloads: the driver first, for it holds iopf.
unloads()
{
	! rmmod iopf 2>"$scratch/error" || fail 'iopf was unloaded under its user'
	rmmod svadma
	[ ! -e "$path" ] || fail "$path is left"
	rmmod iopf
	modprobe svadma
	starts_with_defaults
}

add_case 'all files are described' all_is_described
add_case 'defaults' starts_with_defaults
add_case 'what is read only' cannot_be_written
add_case 'mode' chooses_a_mode
add_case 'eviction' chooses_a_policy
add_case 'fault_around_pages' takes_a_number_of_pages
for budget in $budgets; do
	add_case "$budget" takes_a_budget "$budget"
done
add_case 'events' has_events
add_case 'bound again' again
add_case 'unloaded and loaded' unloads
run_cases
