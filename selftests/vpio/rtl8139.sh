#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# A guest with the stock driver 8139too drives an RTL8139, which does DMA in the guest's memory: traffic
# both ways, the driver and the guest starting anew, and the end of QEMU at any moment. The card reaches few
# pages while the guest runs, and none without one.
#
#   PDIO_TEST_CARDS="C ..."	the ways: trap, hook, direct (all three)

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=one_guest.sh
. "$(dirname "$0")/one_guest.sh"

card=$bus/devices/$rtl8139
share=/sys/bus/mdev/devices/7d9e1b5a-0000-4000-8000-000000008139

# The firmware of a guest places ports as that of this machine does: with an NE2000 before it, an RTL8139 is
# where it is here as well. No driver of the guest is for that one.
placeholder=ne2k_pci,romfile=,addr=2.0

# Those of the receive ring of 8139too, 32 KiB and what may be behind it, and of four frames.
most_pages=$((9 + 1 + 4 * 2))

# statistic NAME
statistic()
{
	cat "$card/vpio/statistics/$1"
}

# use MODE: the card is vpio's, and there is a guest of it.
use()
{
	[ -e /sys/module/vpio ] || modprobe vpio
	give $rtl8139 vpio
	echo "$1" >"$card/vpio/mode"
	echo ignore >"$card/vpio/on_denied"
	[ -e $share ] || basename $share >"$card/mdev_supported_types/vpio-rtl8139/create"
}

boots()
{
	use "$1"
	is 'pages pinned for no guest' "$(statistic pages_pinned)" 0
	start_guest a $share 8139too
	await_guest a
	configure a
	few_pages
	[ "$1" != direct ] || opens
}

# opens: that what the model does not have to hear of does not exit: CR, while the receiver is enabled, and the
# place in the ring.
opens()
{
	local hooked

	hooked=$(cat $share/vpio/hooked)
	case " $hooked " in
	*' 0x10-0x33 0x44-0x47 0xd4-0xd7 0xd9-0xff '*) ;;
	*) fail "what exits is $hooked" ;;
	esac
}

# few_pages: that the card reaches the ring, and little else.
few_pages()
{
	at_least 'pages pinned' "$(statistic pages_pinned)" 9
	at_most 'pages pinned' "$(statistic pages_pinned)" $most_pages
}

both_ways()
{
	local size pins failed

	has_guest "$1"
	pins=$(statistic pins)
	failed=$(statistic pins_failed)
	transfer a stream 1460 100
	transfer a receive 1460 200
	for size in 8 61 1459 1461 4001; do
		transfer a rr $size 2
	done
	few_pages
	at_least 'pages that were pinned meanwhile' $(($(statistic pins) - pins)) 100
	is 'writes that were denied' "$(statistic denied)" 0
	is 'pages that could not be pinned' "$(statistic pins_failed)" "$failed"
}

reloads()
{
	has_guest "$1"
	in_guest a 'rmmod 8139too'
	is 'pages pinned without a driver' "$(statistic pages_pinned)" 0
	in_guest a 'modprobe 8139too'
	configure a
	transfer a rr 1460 2
	few_pages
}

goes_down_and_up()
{
	has_guest "$1"
	for _ in 1 2 3; do
		in_guest a 'ifconfig eth0 down'
		# In mode direct the guest stops its receiver unseen.
		eventually 20 nothing_pinned || fail "$(statistic pages_pinned) pages stay pinned"
		in_guest a 'ifconfig eth0 up'
	done
	configure a
	transfer a rr 1460 2
}

nothing_pinned()
{
	[ "$(statistic pages_pinned)" -eq 0 ]
}

reboots()
{
	has_guest "$1"
	reboot_guest a
	configure a
	transfer a receive 1460 20
	few_pages
}

# nothing_is_left: of a guest that is gone.
nothing_is_left()
{
	eventually 20 nothing_pinned || fail "$(statistic pages_pinned) pages stay pinned"
	nothing_mapped
}

# nothing_mapped: that all has been taken out of the card's domain that was put there. Guests have less than
# 256 MiB; the other devices have addresses below 4 GiB, from above. A new domain is tried out at low ones.
nothing_mapped()
{
	local maps unmaps

	maps=$(hits map)
	unmaps=$(hits unmap)
	at_least 'mappings that were made' "$maps" 1
	is 'mappings that were removed' "$unmaps" "$maps"
}

# hits EVENT: of IOMMU domains, with addresses of a guest.
hits()
{
	sed -n 's/^ *Hits: //p' "/sys/kernel/tracing/events/iommu/$1/hist"
}

# count_mappings on|off
count_mappings()
{
	local event trigger

	for event in map unmap; do
		trigger='hist:keys=iova:size=1024 if iova >= 0x10000 && iova < 0x10000000'
		[ "$1" = on ] || trigger="!$trigger"
		echo "$trigger" >"/sys/kernel/tracing/events/iommu/$event/trigger"
	done
}

# The driver has just begun with the card.
killed_while_loading()
{
	has_guest "$1"
	in_guest a 'rmmod 8139too; while modprobe 8139too && ip link set eth0 up && rmmod 8139too; do :; done' 120 >/dev/null 2>&1 3>&1 &
	sleep 0.7
	kill_guest a
	nothing_is_left
	next_guest "$1"
	kill_guest a
	nothing_is_left
}

# write_port OFFSET BYTES VALUE: the guest's port_storm does.
write_port()
{
	in_guest a "cd /sys/bus/pci/devices/*/port_storm && echo write $(($1)) $2 $(($3)) >run"
}

# starts DENIED PAGES: that so many writes were denied in all, and so many pages are pinned now.
starts()
{
	is 'writes that were denied' $(($(statistic denied) - denied)) "$1"
	is 'pages pinned' "$(statistic pages_pinned)" "$2"
}

# A guest has 128 MiB. No frame is received, for RCR is 0: nothing is written to the ring that is allowed.
denies_what_is_not_memory()
{
	local denied failed placeholder

	# Or port_storm would have two cards.
	placeholder=
	use trap
	start_guest a $share port_storm
	await_guest a
	denied=$(statistic denied)
	# Nothing can be pinned of a QEMU that is being killed.
	failed=$(statistic pins_failed)
	write_port 0x37 1 0x04
	# A frame from beyond the memory, one that ends there, and one from where interrupts are sent.
	write_port 0x20 4 0x20000000
	write_port 0x10 4 60
	starts 1 0
	write_port 0x20 4 0x7ffffe0
	write_port 0x10 4 60
	starts 2 0
	write_port 0x20 4 0xfee00000
	write_port 0x10 4 60
	starts 3 0
	# A ring that ends beyond the memory, and one that does not, until it is moved.
	write_port 0x30 4 0x7fff000
	write_port 0x37 1 0x0c
	starts 4 0
	write_port 0x30 4 0x4000800
	write_port 0x37 1 0x0c
	starts 4 3
	write_port 0x30 4 0x7fff000
	starts 5 3
	write_port 0x30 4 0x4001800
	starts 5 3
	# Half of an address, and C+ mode.
	write_port 0x20 2 0x1000
	write_port 0xe0 2 3
	starts 7 3
	# A frame in the same page as the ring.
	write_port 0x20 4 0x4001000
	write_port 0x10 4 60
	eventually 20 is_pinned 3
	write_port 0x37 1 0x00
	starts 7 0
	is 'pages that could not be pinned' "$(statistic pins_failed)" "$failed"
	kill_guest a
	nothing_is_left
}

# machine_checked ADDRESS: the guest has logged it.
machine_checked()
{
	grep -a -q "Machine Check.*e0b" "$scratch/guest-a/console" && grep -a -q "ADDR $1" "$scratch/guest-a/console"
}

# raises_machine_checks MODE: for a DMA beyond the guest's memory. Linux panics, and starts anew.
raises_machine_checks()
{
	local denied placeholder

	placeholder=
	use "$1"
	echo machine-check >"$card/vpio/on_denied"
	is on_denied "$(cat "$card/vpio/on_denied")" 'ignore [machine-check]'
	start_guest a $share port_storm
	await_guest a
	denied=$(statistic denied)
	write_port 0x37 1 0x04
	# What has no address is dropped, and no more.
	write_port 0xe0 2 3
	starts 1 0
	write_port 0x20 4 0x20000000
	# There will be no answer.
	printf 'x cd /sys/bus/pci/devices/*/port_storm && echo write 16 4 60 >run\n' 1<>"$scratch/guest-a/control.in"
	eventually 60 machine_checked 20000000 || fail "no machine check: $(tail -n 3 "$scratch/guest-a/console")"
	starts 2 0
	await_guest a
	kill_guest a
	nothing_is_left
	# It is not a problem here that the kernel has panicked.
	: >"$scratch/guest-a/console"
	echo ignore >"$card/vpio/on_denied"
}

# Linux's driver copies each frame to one of four places, whose addresses it loads once.
pins_by_address()
{
	local pins hooked

	use direct
	echo address >"$card/vpio/pinning"
	start_guest a $share 8139too
	await_guest a
	configure a
	echo transfer >"$card/vpio/pinning"
	hooked=$(cat $share/vpio/hooked)
	case " $hooked " in
	*' 0x10'*) fail "a frame starts with an exit: $hooked" ;;
	esac
	transfer a stream 1460 20
	pins=$(statistic pins)
	transfer a stream 1460 100
	transfer a receive 1460 20
	is 'pages that were pinned meanwhile' $(($(statistic pins) - pins)) 0
	few_pages
	is 'writes that were denied' "$(statistic denied)" 0
	kill_guest a
	nothing_is_left
}

is_pinned()
{
	[ "$(statistic pages_pinned)" -eq "$1" ]
}

load_kvm patched
[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing
count_mappings on
for mode in ${PDIO_TEST_CARDS:-trap hook direct}; do
	add_case "$mode: boots" boots "$mode"
	add_case "$mode: ping" pings "$mode"
	add_case "$mode: transfers both ways" both_ways "$mode"
	add_case "$mode: the driver is loaded again" reloads "$mode"
	add_case "$mode: the interface goes down and up" goes_down_and_up "$mode"
	add_case "$mode: reboots" reboots "$mode"
	add_case "$mode: QEMU is killed while the guest sends" killed_while_sending "$mode"
	add_case "$mode: QEMU is killed while the guest receives" killed_while_receiving "$mode"
	add_case "$mode: QEMU is killed while the driver starts" killed_while_loading "$mode"
done
add_case 'pages are pinned by address' pins_by_address
add_case 'what is not memory is denied' denies_what_is_not_memory
for mode in hook direct; do
	add_case "$mode: what is not memory is a machine check" raises_machine_checks $mode
done
run_cases
