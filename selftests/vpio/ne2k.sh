#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# Guests with the stock driver ne2k-pci, for each way in which they can be given an NE2000: traffic both
# ways, the driver and the guest starting anew, and the end of QEMU at any moment, after which the card
# has to work for the next guest.
#
#   PDIO_TEST_CARDS="C ..."	the ways: emulated, passthrough, trap, hook, direct (the last three)
#
# The first two are no ways of vpio: they tell whether the machine is to blame.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=one_guest.sh
. "$(dirname "$0")/one_guest.sh"

boots()
{
	start_guest a "$1"
	await_guest a
	configure a
}

# The next guest will say.
nothing_is_left()
{
	:
}

# Sent frames are few: where each word is an exit to user space, one takes long.
both_ways()
{
	local size

	has_guest "$1"
	transfer a stream 1460 30
	transfer a receive 1460 100
	# One byte less and more than fits into a frame, and odd sizes: the card moves words.
	for size in 8 61 1459 1461 4001; do
		transfer a rr $size 2
	done
}

reloads()
{
	has_guest "$1"
	in_guest a 'rmmod ne2k_pci && modprobe ne2k_pci'
	configure a
	transfer a rr 1460 2
}

goes_down_and_up()
{
	has_guest "$1"
	for _ in 1 2 3; do
		in_guest a 'ifconfig eth0 down && ifconfig eth0 up'
	done
	configure a
	transfer a rr 1460 2
}

reboots()
{
	has_guest "$1"
	reboot_guest a
	configure a
	transfer a receive 1460 20
}

# The driver has just begun with the card.
killed_while_loading()
{
	has_guest "$1"
	in_guest a 'rmmod ne2k_pci; while modprobe ne2k_pci && rmmod ne2k_pci; do :; done' 120 >/dev/null 2>&1 3>&1 &
	sleep 0.7
	kill_guest a
	next_guest "$1"
	kill_guest a
}

load_kvm patched
for card in ${PDIO_TEST_CARDS:-trap hook direct}; do
	add_case "$card: boots" boots "$card"
	add_case "$card: ping" pings "$card"
	add_case "$card: transfers both ways" both_ways "$card"
	add_case "$card: the driver is loaded again" reloads "$card"
	add_case "$card: the interface goes down and up" goes_down_and_up "$card"
	# The rest is up to QEMU and the kernel's VFIO there.
	case $card in
	emulated | passthrough) continue ;;
	esac
	add_case "$card: reboots" reboots "$card"
	add_case "$card: QEMU is killed while the guest sends" killed_while_sending "$card"
	add_case "$card: QEMU is killed while the guest receives" killed_while_receiving "$card"
	add_case "$card: QEMU is killed while the driver starts" killed_while_loading "$card"
done
run_cases
