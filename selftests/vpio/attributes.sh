#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What vpio shows of a card and its guests in sysfs and tracefs, and what a user makes there: all of it is
# described, starts with the values that are described, takes what is allowed and nothing else. No guest
# runs for that.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

modprobe vpio || skip_all 'vpio does not load'
path=$bus/devices/$ne2000/vpio
types=$bus/devices/$ne2000/mdev_supported_types/vpio-ne2000
mdevs=/sys/bus/mdev/devices
described=$here/../../Documentation/ABI/testing/sysfs-bus-pci-vpio
described_of_guest=$here/../../Documentation/ABI/testing/sysfs-bus-mdev-vpio
guests_max=4

# uuid NUMBER: of one digit.
uuid()
{
	echo "7d9e1b5a-0000-4000-8000-0000000000a$1"
}

# make_guests NUMBER...
make_guests()
{
	for number in "$@"; do
		uuid "$number" >"$types/create"
	done
}

remove_guests()
{
	for guest in "$mdevs"/*/remove; do
		[ ! -e "$guest" ] || echo 1 >"$guest"
	done
}

# log_has TEXT: in the kernel log of this case.
log_has()
{
	dmesg | sed -n "/pdio-test: $(basename "$0"): .*$case_name/,\$p" | grep -q "$1" || fail "the kernel log does not say: $1"
}

# --- Cases -----------------------------------------------------------------------

all_is_described()
{
	local file name

	give $ne2000 vpio
	make_guests 1
	[ -e "$described" ] || fail "$described is missing"
	for file in "$path"/*; do
		name=${file##*/}
		[ ! -d "$file" ] || name=$name/
		grep -q "^What:.*/vpio/$name\$" "$described" || fail "$name is not described"
	done
	for file in "$path"/statistics/* "$mdevs/$(uuid 1)"/vpio/statistics/*; do
		grep -q "^	*${file##*/} " "$described" || fail "statistics/${file##*/} is not described"
	done
	for file in "$mdevs/$(uuid 1)"/vpio/*; do
		name=${file##*/}
		[ ! -d "$file" ] || name=$name/
		grep -q "^What:.*/vpio/$name\$" "$described_of_guest" || fail "$name of a guest is not described"
	done
	remove_guests
}

starts_with_defaults()
{
	local file

	is mode "$(cat "$path/mode")" '[trap]'
	is on_denied "$(cat "$path/on_denied")" '[ignore]'
	is slice_us "$(cat "$path/slice_us")" 20000
	is patience_us "$(cat "$path/patience_us")" 25000
	for file in "$path"/statistics/*; do
		is "${file##*/}" "$(cat "$file")" 0
		is "mode of ${file##*/}" "$(stat -c %a "$file")" 444
	done
	is available_instances "$(cat "$types/available_instances")" $guests_max
	is device_api "$(cat "$types/device_api")" vfio-pci
}

takes_numbers()
{
	accepts "$path/slice_us" 1000 1000
	accepts "$path/slice_us" '1000000\n' 1000000
	for bad in '\n' 0 999 1000001 -1 +20000 0x5000 '20000 ' 20ms 99999999999999999999; do
		refuses "$path/slice_us" "$bad"
	done
	accepts "$path/slice_us" 20000 20000
	accepts "$path/patience_us" 2000 2000
	accepts "$path/patience_us" 10000000 10000000
	for bad in '\n' 0 1999 10000001 -1 200ms; do
		refuses "$path/patience_us" "$bad"
	done
	accepts "$path/patience_us" 25000 25000
}

denies()
{
	accepts "$path/on_denied" ignore '[ignore]'
	for bad in '\n' Ignore 'ignore ' machine_check; do
		refuses "$path/on_denied" "$bad"
	done
	refuses "$path/on_denied" machine-check EOPNOTSUPP
	log_has 'no machine checks'
}

# What nobody can do without KVM, or with a stock one.
offers_what_kvm_can_do()
{
	local mode

	is mode "$(cat "$path/mode")" '[trap]'
	for mode in hook direct open; do
		refuses "$path/mode" $mode EOPNOTSUPP
		log_has "no mode $mode: $1"
	done
	accepts "$path/mode" trap '[trap]'
	for bad in '\n' Trap 'trap ' ' trap' 'trap\nhook' '[trap]' none; do
		refuses "$path/mode" "$bad"
	done
}

offers_all_modes()
{
	load_kvm patched
	accepts "$path/mode" hook 'trap [hook] direct open'
	accepts "$path/mode" direct 'trap hook [direct] open'
	accepts "$path/mode" open 'trap hook direct [open]'
	for bad in '\n' Hook 'hook ' 'direct\nhook' '[hook]'; do
		refuses "$path/mode" "$bad"
	done
	accepts "$path/mode" trap '[trap] hook direct open'
	# Nothing holds KVM that is not in use.
	rmmod kvm_amd
	rmmod kvm
	is mode "$(cat "$path/mode")" '[trap]'
}

has_a_limit()
{
	local number

	for number in 1 2 3 4; do
		make_guests $number
		is available_instances "$(cat "$types/available_instances")" $((guests_max - number))
		is number "$(cat "$mdevs/$(uuid $number)/vpio/number")" $((number - 1))
		is hooked "$(cat "$mdevs/$(uuid $number)/vpio/hooked")" 0x00-0x1f
		is has_card "$(cat "$mdevs/$(uuid $number)/vpio/has_card")" 0
		is line "$(cat "$mdevs/$(uuid $number)/vpio/line")" unused
	done
	is 'one more guest' "$(errno_of "$types/create" "$(uuid 5)")" ENOSPC
	[ ! -e "$mdevs/$(uuid 5)" ] || fail 'a guest that was refused is there'
	is 'a UUID that is none' "$(errno_of "$types/create" "$(uuid x)")" EINVAL

	# The number of one that goes is that of the next.
	echo 1 >"$mdevs/$(uuid 2)/remove"
	is available_instances "$(cat "$types/available_instances")" 1
	make_guests 5
	is number "$(cat "$mdevs/$(uuid 5)/vpio/number")" 1
	remove_guests
	is available_instances "$(cat "$types/available_instances")" $guests_max
}

# 100 guests, made and removed; what they had is given back.
comes_and_goes()
{
	local before

	make_guests 1
	remove_guests
	before=$(sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo)
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
		make_guests 1 2 3 4
		remove_guests
	done
	is available_instances "$(cat "$types/available_instances")" $guests_max
	# A guest has 80 KiB.
	at_most 'KiB that are gone' $((before - $(sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo))) 4096
}

has_events()
{
	for event in vpio_access vpio_denied vpio_ports vpio_switch vpio_interrupt vpio_frames; do
		[ -e /sys/kernel/tracing/events/vpio/$event/enable ] || fail "there is no event $event"
	done
}

# The driver is bound anew: nothing is left of before.
again()
{
	accepts "$path/slice_us" 5000 5000
	make_guests 1
	take_back $ne2000
	[ ! -e "$path" ] || fail "$path is left"
	[ ! -e "$mdevs/$(uuid 1)" ] || fail 'a guest is left'
	give $ne2000 vpio
	starts_with_defaults
}

# With guests that nobody has open.
unloads()
{
	make_guests 1 2
	rmmod vpio
	[ ! -e "$path" ] || fail "$path is left"
	! grep -q vpio /proc/ioports || fail "$(grep vpio /proc/ioports)"
	! grep -q vpio /proc/interrupts || fail "$(grep vpio /proc/interrupts)"
	modprobe vpio
	give $ne2000 vpio
	starts_with_defaults
}

# As it was found: the driver of the kernel works, with the address that the card has.
leaves_the_card()
{
	local address

	take_back $ne2000
	modprobe ne2k_pci
	give $ne2000 ne2k-pci
	eventually 20 find_interface $ne2000 || fail 'ne2k-pci makes no interface of it'
	address=$(cat "/sys/class/net/$interface/address")
	is address "$address" 52:54:00:00:00:0b
	take_back $ne2000
	give $ne2000 vpio
}

# A device that is told to be a card: the SMBus controller of the machine.
is_no_card()
{
	local other

	other=0000:00:1f.3
	[ -e "$bus/devices/$other" ] || skip "there is no $other"
	[ -z "$(driver_of $other)" ] || skip "$other is in use"
	echo vpio >"$bus/devices/$other/driver_override"
	echo $other >$bus/drivers_probe 2>/dev/null || true
	echo >"$bus/devices/$other/driver_override"
	[ "$(driver_of $other)" != vpio ] || fail "$other is taken for a card"
}

# --- The other card --------------------------------------------------------------

# of_rtl8139 COMMAND...: of the RTL8139 instead.
of_rtl8139()
{
	# shellcheck disable=SC2154 # of lib.sh
	path=$bus/devices/$rtl8139/vpio
	types=$bus/devices/$rtl8139/mdev_supported_types/vpio-rtl8139
	give $rtl8139 vpio
	"$@"
}

rtl8139_is_described()
{
	local file name

	for file in "$path"/*; do
		name=${file##*/}
		[ ! -d "$file" ] || name=$name/
		grep -q "^What:.*/vpio/$name\$" "$described" || fail "$name is not described"
	done
	is mode "$(cat "$path/mode")" '[trap]'
	is on_denied "$(cat "$path/on_denied")" '[ignore]'
	is pinning "$(cat "$path/pinning")" '[transfer] address'
	for file in "$path"/statistics/*; do
		is "${file##*/}" "$(cat "$file")" 0
	done
}

takes_pinning()
{
	accepts "$path/pinning" address 'transfer [address]'
	accepts "$path/pinning" 'transfer\n' '[transfer] address'
	for bad in '\n' Transfer 'address ' none '[address]'; do
		refuses "$path/pinning" "$bad"
	done
	accepts "$path/on_denied" ignore '[ignore]'
	refuses "$path/on_denied" machine-check EOPNOTSUPP
	log_has 'no machine checks: KVM'
}

is_not_open()
{
	load_kvm patched
	accepts "$path/mode" hook 'trap [hook] direct'
	accepts "$path/mode" direct 'trap hook [direct]'
	refuses "$path/mode" open EOPNOTSUPP
	log_has 'no mode open: the card reaches only memory'
	accepts "$path/mode" trap '[trap] hook direct'
	rmmod kvm_amd
	rmmod kvm
}

has_one_guest()
{
	is available_instances "$(cat "$types/available_instances")" 1
	make_guests 1
	is available_instances "$(cat "$types/available_instances")" 0
	is number "$(cat "$mdevs/$(uuid 1)/vpio/number")" 0
	is hooked "$(cat "$mdevs/$(uuid 1)/vpio/hooked")" 0x00-0xff
	is has_card "$(cat "$mdevs/$(uuid 1)/vpio/has_card")" 0
	is line "$(cat "$mdevs/$(uuid 1)/vpio/line")" unused
	is 'one more guest' "$(errno_of "$types/create" "$(uuid 2)")" ENOSPC
	remove_guests
	is available_instances "$(cat "$types/available_instances")" 1
}

# As it was found, with the IOMMU domain that the kernel has for it: its driver transmits and receives.
leaves_the_rtl8139()
{
	local address

	modprobe 8139cp
	give $rtl8139 8139cp
	eventually 20 find_interface $rtl8139 || fail '8139cp makes no interface of it'
	address=$(cat "/sys/class/net/$interface/address")
	is address "$address" 52:54:00:00:00:0c
	ip link set "$interface" up
	ip address add $network.9/24 dev "$interface"
	eventually 20 ping -c 1 -W 1 $peer >/dev/null || fail 'the card reaches nobody'
	take_back $rtl8139
	give $rtl8139 vpio
}

add_case 'all files are described' all_is_described
add_case 'defaults' starts_with_defaults
add_case 'slice_us and patience_us' takes_numbers
add_case 'on_denied' denies
add_case 'mode, without KVM' offers_what_kvm_can_do 'KVM is not loaded'
add_case 'mode, with a KVM that has the patch' offers_all_modes
add_case 'a limit to guests' has_a_limit
add_case 'guests come and go' comes_and_goes
add_case 'events' has_events
add_case 'bound again' again
add_case 'unloaded and loaded' unloads
add_case 'the card is left as it was found' leaves_the_card
add_case 'a device that is no card' is_no_card
add_case 'RTL8139: files and defaults' of_rtl8139 rtl8139_is_described
add_case 'RTL8139: pinning and on_denied' of_rtl8139 takes_pinning
add_case 'RTL8139: mode' of_rtl8139 is_not_open
add_case 'RTL8139: one guest' of_rtl8139 has_one_guest
add_case 'RTL8139: the card is left as it was found' of_rtl8139 leaves_the_rtl8139
run_cases
