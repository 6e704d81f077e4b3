#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# A guest that does to its card what no driver should, by the module port_storm: random accesses, the two
# sequences that an earlier model of the card got wrong, and BAR 0 where it should not be. The host, its
# other devices, the next guest and another one on the same card must not be harmed.
#
#   PDIO_TEST_ACCESSES=100000
#	Random accesses in all modes together; 10000000 is the whole test.
#   PDIO_TEST_SEED=1
#	Which ones.
#   PDIO_TEST_MODES=all
#	All cases in each mode, and not in direct only.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

accesses=${PDIO_TEST_ACCESSES:-100000}
seed=${PDIO_TEST_SEED:-1}
guest_device=/sys/bus/pci/devices/'*'/port_storm
batch=5000
log_limit=50

# share_of MODE: of all accesses, by what one costs.
share_of()
{
	case $1 in
	trap) echo $((accesses / 50)) ;;
	hook) echo $((accesses * 9 / 50)) ;;
	direct) echo $((accesses * 40 / 50)) ;;
	esac
}

# storm NAME MODE: the random accesses of a mode; the guest answers when it has made them.
storm()
{
	in_guest "$1" "cd $guest_device || exit
		n=0
		while [ \$n -lt $(share_of "$2") ]; do
			echo random \$(($seed * 1000003 + n)) $batch >run || exit
			n=\$((n + $batch))
		done
		[ \$(cat accesses) -ge \$n ]" 3000
}

# case_log: what the kernel has logged in this case.
case_log()
{
	dmesg | awk '
		index($0, "pdio-test: ") { text = "" }
		{ text = text $0 "\n" }
		END { printf "%s", text }'
}

# log_is_quiet: nothing in it that should not be, and not much.
log_is_quiet()
{
	case_log >"$scratch/log"
	! grep -E 'BUG|WARNING|Oops|protection fault|corruption|unexpected|nobody cared|lockup|INFO: task' "$scratch/log" >&3 ||
		fail 'the kernel complains'
	at_most 'lines in the kernel log' "$(wc -l <"$scratch/log")" $log_limit
}

# canary: fills a file of the host with what must not change, and remembers the host's devices.
canary()
{
	[ -e "$scratch/canary" ] || head -c 4194304 /dev/urandom >"$scratch/canary"
	md5sum <"$scratch/canary" >"$scratch/canary.sum"
	devices >"$scratch/devices"
}

# devices: the configuration of the host's devices, but for the card and status registers, and who drives them.
devices()
{
	local device

	for device in "$bus"/devices/*; do
		[ "${device##*/}" != $ne2000 ] || continue
		echo "${device##*/} $(driver_of "${device##*/}")"
		dd if="$device/config" bs=1 count=6 2>/dev/null | od -An -tx1
		dd if="$device/config" bs=8 skip=1 2>/dev/null | od -An -tx1
	done
	grep -v 'vpio' /proc/ioports
}

# unharmed: the canary, the host's devices, and its log.
unharmed()
{
	is 'the canary' "$(md5sum <"$scratch/canary")" "$(cat "$scratch/canary.sum")"
	devices | diff "$scratch/devices" - >&3 || fail 'a device of the host is not as it was'
	log_is_quiet
}

# honest NAME MODE: boots a guest with the stock driver, with a canary of its own.
honest()
{
	start_guest "$1" "$2"
	await_guest "$1"
	configure "$1"
	in_guest "$1" 'head -c 1048576 /dev/urandom >/tmp/canary && md5sum /tmp/canary >/tmp/sum'
}

# transfers NAME COUNT: every byte is compared where it arrives.
transfers()
{
	local kind

	for kind in stream receive; do
		in_guest "$1" "pdio-load $kind $peer:$port 1460 $2 0 verify" 600 >"$scratch/transfer" ||
			fail "$kind: $(tail -n 1 "$scratch/transfer")"
	done
	in_guest "$1" 'md5sum -c /tmp/sum' >/dev/null || fail "memory of guest $1 has changed"
}

# hostile NAME MODE
hostile()
{
	start_guest "$1" "$2" port_storm
	await_guest "$1"
	in_guest "$1" "cd $guest_device" || fail 'port_storm has no card'
}

# --- Cases -----------------------------------------------------------------------

# The card is the next guest's afterwards.
alone()
{
	canary
	hostile a "$1"
	storm a "$1" || fail 'the storm does not end'
	kill_guest a
	honest a "$1"
	transfers a 20
	kill_guest a
	unharmed
}

beside()
{
	canary
	honest b "$1"
	hostile a "$1"
	storm a "$1" >/dev/null &
	transfers b 20
	wait $! || fail 'the storm does not end'
	transfers b 5
	kill_guest a
	transfers b 5
	kill_guest b
	unharmed
}

# updates_since FROM N: whether the model has heard of so many more accesses.
updates_since()
{
	[ $(($(cat $bus/devices/$ne2000/vpio/statistics/model_updates) - $1)) -ge "$2" ]
}

# killed MODE: QEMU, in the middle.
killed()
{
	local from storming

	canary
	hostile a "$1"
	from=$(cat $bus/devices/$ne2000/vpio/statistics/model_updates)
	in_guest a "cd $guest_device; while echo random $seed 1000 >run; do :; done" 600 >/dev/null 2>&1 3>&1 &
	storming=$!
	eventually 60 updates_since "$from" 1000 || fail 'there is no storm'
	kill_guest a
	# It may be about to listen to a QEMU that is no more.
	kill $storming 2>/dev/null || true
	wait $storming || true
	honest a "$1"
	transfers a 5
	kill_guest a
	unharmed
}

# fault MODE NAME: one that is known.
fault()
{
	canary
	hostile a "$1"
	in_guest a "cd $guest_device && echo $2 >run" 600 || fail "$2 does not end"
	kill_guest a
	honest a "$1"
	transfers a 5
	kill_guest a
	unharmed
}

# octal NUMBER...: bytes, for printf.
octal()
{
	printf '\\%03o' "$@"
}

# read_port NAME PORT: a byte, as the guest reads it.
read_port()
{
	in_guest "$1" "dd if=/dev/port bs=1 skip=$(($2)) count=1 2>/dev/null | od -An -tu1 | tr -d ' '"
}

write_port()
{
	in_guest "$1" "printf '$(octal "$3")' | dd of=/dev/port bs=1 seek=$(($2)) conv=notrunc 2>/dev/null"
}

# move_bar NAME PORT
move_bar()
{
	in_guest "$1" "printf '$(octal $(($2 & 255 | 1)) $(($2 >> 8)) 0 0)' | dd of=\$(echo $guest_device | sed 's/port_storm/config/') bs=4 seek=4 conv=notrunc 2>/dev/null"
}

# decode NAME COMMAND: the command register.
decode()
{
	in_guest "$1" "printf '$(octal "$2" 0)' | dd of=\$(echo $guest_device | sed 's/port_storm/config/') bs=2 seek=2 conv=notrunc 2>/dev/null"
}

# bar_of ADDRESS: the first port of a function of the host.
bar_of()
{
	awk '{ flags = $3 } substr(flags, length(flags) - 2) ~ /01$/ { print $1; exit }' "$bus/devices/$1/resource"
}

# is_at NAME PORT VALUE: BNRY is written and read there.
is_at()
{
	write_port "$1" "$2" 33
	write_port "$1" $(($2 + 3)) "$3"
	is "BNRY at $2" "$(read_port "$1" $(($2 + 3)))" "$3"
}

hooked()
{
	cat "$(mediated_device a)/vpio/hooked"
}

# moves MODE: to where there is nothing; the old place is that of nothing.
moves()
{
	local first

	canary
	hostile a "$1"
	first=$(in_guest a "awk 'NR == 1 { print \$1 }' \$(echo $guest_device | sed 's/port_storm/resource/')")
	is_at a "$first" 74
	for to in 0xd100 0xe000 0xfe00; do
		move_bar a $to
		is_at a $to 75
		[ "$1" != direct ] || [ "$(hooked)" != 0x00-0x1f ] || fail "nothing is direct at $to"
		write_port a $((first + 3)) 76
		is 'BNRY' "$(read_port a $((to + 3)))" 75
		is 'the old place' "$(read_port a $((first + 3)))" 255
		first=$to
	done
	decode a 0
	is 'a card that decodes nothing' "$(read_port a $((first + 3)))" 255
	[ "$1" != direct ] || is 'what exits' "$(hooked)" 0x00-0x1f
	decode a 1
	is_at a "$first" 77
	kill_guest a
	unharmed
}

# registers PORT: of a card of the host.
registers()
{
	dd if=/dev/port bs=1 skip=$(($1)) count=16 2>/dev/null | od -An -tx1
}

# covers MODE: another card of the host, and ports of the chipset.
covers()
{
	local other port

	# It may be vpio's.
	take_back $rtl8139
	# Of a card that has no driver: its first registers are its addresses, which keep what is written.
	echo 1 >"$bus/devices/$rtl8139/enable"
	canary
	other=$(bar_of $rtl8139)
	[ -n "$other" ] || fail 'no ports'
	printf '\245' | dd of=/dev/port bs=1 seek=$((other + 3)) conv=notrunc 2>/dev/null
	registers "$other" >"$scratch/registers"
	grep -q '^ .. .. .. a5' "$scratch/registers" || fail "the registers cannot be seen: $(cat "$scratch/registers")"
	hostile a "$1"
	move_bar a "$other"
	is_at a "$other" 78
	is_at a "$other" 79
	is 'what exits' "$(hooked)" 0x00-0x1f
	registers "$other" | diff "$scratch/registers" - >&3 || fail 'the guest has written to another card'
	# Those are the guest's own, of the machine that QEMU emulates: no more than that is asked here.
	for port in 0x3e0 0xcc0 0x60; do
		move_bar a $((port & ~31))
		write_port a $(((port & ~31) + 3)) 80
		is 'what exits' "$(hooked)" 0x00-0x1f
	done
	# As often as it likes, without a line each.
	in_guest a "cd $guest_device/.. && for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
			for low in $(octal $((other & 255 | 1))) '\\001'; do
				printf \"\$low$(octal $((other >> 8)))\\000\\000\" | dd of=config bs=4 seek=4 conv=notrunc 2>/dev/null
				printf '\\001\\000\\000\\000' | dd of=config bs=4 seek=4 conv=notrunc 2>/dev/null
			done
		done"
	registers "$other" | diff "$scratch/registers" - >&3 || fail 'the guest has written to another card'
	kill_guest a
	unharmed
	echo 0 >"$bus/devices/$rtl8139/enable"
}

load_kvm patched
# It takes the host's other card, too: before it is remembered who drives what.
modprobe vpio
for mode in trap hook direct; do
	add_case "$mode: a hostile guest alone" alone $mode
	# What else there is depends on the mode only by how long it takes.
	[ $mode = direct ] || [ -n "${PDIO_TEST_MODES:-}" ] || continue
	add_case "$mode: a hostile guest beside another" beside $mode
	add_case "$mode: QEMU is killed in the middle" killed $mode
	for name in unchecked_write_offset_into_card_ram receive_trusts_guest_written_current_page_and_stop; do
		add_case "$mode: $name" fault $mode $name
	done
	add_case "$mode: BAR 0 is moved" moves $mode
	add_case "$mode: BAR 0 is moved over others" covers $mode
done
run_cases
