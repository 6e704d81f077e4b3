#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# Two guests with the stock driver ne2k-pci on one card: traffic of both at once, hand-overs under load,
# one that ends, starts anew or stands still while the other goes on, and whose turn it is. In all transfers
# every byte is compared where it arrives.
#
#   PDIO_TEST_SWITCHES=N	hand-overs under load (1000)
#   PDIO_TEST_BURSTS=N	of more frames than the rings hold (10)
#   PDIO_TEST_SECONDS=N	for which turns are counted, for each slice (4)
#
# The cases with "turns" in their names print lines for other programs to read:
#
#   turns: slice_us=N guest=a switches=N bytes=N ms=N
#
# switches: how often the guest was given the card. bytes: of frames of both directions that its driver has
# counted. ms: wall time, which is no result of a test.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# The guests are there for all cases.
keep_guests=yes
card=$bus/devices/$ne2000/vpio
switches=${PDIO_TEST_SWITCHES:-1000}
bursts=${PDIO_TEST_BURSTS:-10}
seconds=${PDIO_TEST_SECONDS:-4}

# statistic NAME [GUEST]: of the card, or of a guest.
statistic()
{
	if [ $# -eq 1 ]; then
		cat "$card/statistics/$1"
	else
		cat "$(mediated_device "$2")/vpio/statistics/$1"
	fi
}

# statistic_since FROM N NAME [GUEST]: whether it has grown by N.
statistic_since()
{
	local from more

	from=$1
	more=$2
	shift 2
	[ $(($(statistic "$@") - from)) -ge "$more" ]
}

# boots MODE
boots()
{
	local guest

	# So that nothing is taken away because this machine is busy.
	modprobe vpio
	give $ne2000 vpio
	echo 1000000 >"$card/patience_us"
	for guest in a b; do
		start_guest $guest "$1"
	done
	for guest in a b; do
		await_guest $guest
		configure $guest
	done
	differ
}

differ()
{
	local of_a of_b

	# What ping needs of the other end is known after `configure`.
	of_a=$(in_guest a 'cat /sys/class/net/eth0/address')
	of_b=$(in_guest b 'cat /sys/class/net/eth0/address')
	[ -n "$of_a" ] || fail 'guest a has no station address'
	[ "$of_a" != "$of_b" ] || fail "both have the address $of_a"
}

# has_guests MODE: that both are there, for cases that are picked, in this mode.
has_guests()
{
	if alive a && alive b; then
		echo "$1" >"$card/mode"
	else
		kill_guest a
		kill_guest b
		boots "$1"
	fi
	taken_before=$(statistic taken_away)
}

# nothing_taken: since has_guests.
nothing_taken()
{
	is 'taken_away' $(($(statistic taken_away) - taken_before)) 0
}

# pinged GUEST: all but what came at the wire in one of the moments in which the card changed hands.
pinged()
{
	local received

	in_guest "$1" "ping -q -c 20 -i 0.1 -W 5 $peer" >"$scratch/ping-$1" || fail "guest $1 gets no answer"
	received=$(sed -n 's/^20 packets transmitted, \([0-9]*\) packets received.*/\1/p' "$scratch/ping-$1")
	[ "${received:-0}" -ge 18 ] || fail "guest $1: $(grep packets "$scratch/ping-$1")"
}

# both_directions GUEST COUNT: at once.
both_directions()
{
	in_guest "$1" "pdio-load stream $peer:$port 1460 $2 0 verify & sends=\$!
		pdio-load receive $peer:$port 1460 $2 0 verify && wait \$sends" 240 >"$scratch/transfer-$1" || {
		info "$(tail -n 1 "$scratch/transfer-$1")"
		fail "guest $1: both directions at once"
	}
}

# at_once COMMAND-OF-A COMMAND-OF-B: both have to succeed.
at_once()
{
	local of_a of_b good

	good=yes
	$1 &
	of_a=$!
	$2 &
	of_b=$!
	wait $of_a || good=
	wait $of_b || good=
	[ -n "$good" ] || fail "at once: $1; $2"
}

# --- Cases -----------------------------------------------------------------------

ping_at_once()
{
	has_guests "$1"
	at_once 'pinged a' 'pinged b'
	nothing_taken
}

transfers_at_once()
{
	local before

	has_guests "$1"
	before=$(statistic switches)
	at_once 'both_directions a 60' 'both_directions b 60'
	statistic_since "$before" 2 switches || fail 'the card has not changed hands'
	nothing_taken
}

sends_and_receives()
{
	has_guests "$1"
	at_once 'transfer a receive 1460 150' 'transfer b stream 1460 150'
	at_once 'transfer a stream 1460 150' 'transfer b receive 1460 150'
	nothing_taken
}

# Frames for a guest are put into its ring while the other one sends.
delivers_to_who_waits()
{
	local before

	has_guests "$1"
	before=$(statistic frames_delivered b)
	until statistic_since "$before" 10 frames_delivered b; do
		at_once 'transfer a stream 1460 60' 'transfer b receive 1460 60'
	done
}

hands_over()
{
	local before started

	has_guests "$1"
	echo 5000 >"$card/slice_us"
	before=$(statistic switches)
	started=$(now_ms)
	until statistic_since "$before" "$switches" switches; do
		at_once 'both_directions a 100' 'both_directions b 100'
	done
	info "$(($(statistic switches) - before)) hand-overs in $(($(now_ms) - started)) ms"
	echo 20000 >"$card/slice_us"
	nothing_taken
}

# kill_other: guest b, when both have had the card.
kill_other()
{
	local before

	before=$(statistic switches a)
	in_guest b "pdio-load stream $peer:$port 1460 100000 0" 180 >/dev/null 2>&1 3>&1 &
	eventually 60 statistic_since "$before" 10 switches a || fail 'the card does not change hands'
	kill_guest b
}

killed()
{
	has_guests "$1"
	at_once 'transfer a stream 1460 400' kill_other
	transfer a receive 1460 50
	start_guest b "$1"
	await_guest b
	configure b
	at_once 'both_directions a 20' 'both_directions b 20'
}

# again: guest b.
again()
{
	reboot_guest b
	configure b
}

reboots()
{
	has_guests "$1"
	at_once 'transfer a receive 1460 1000' again
	at_once 'both_directions a 20' 'both_directions b 20'
}

# answers GUEST: to the other end, without a reason of its own to look at the card.
answers()
{
	peer ping -q -c 3 -i 0.5 -W 5 "$(guest_address "$1")" >"$scratch/ping-$1" 2>&1
}

# burst: more frames at once than a ring holds, for both guests: the fragments of three datagrams each.
burst()
{
	peer sh -c "ping -q -c 3 -i 0.2 -s 16000 -W 1 $(guest_address a) &
		ping -q -c 3 -i 0.2 -s 16000 -W 1 $(guest_address b) &
		wait" >/dev/null 2>&1
}

# However much is lost: whoever only receives has to hear of what comes afterwards. Rings end at any page.
answers_after_bursts()
{
	local guest

	has_guests "$1"
	for _ in $(seq "$bursts"); do
		burst || true
		for guest in a b; do
			answers $guest || fail "guest $guest does not answer any more"
		done
	done
	info "$(statistic reminders) reminders"
}

# The guest that had the card last has stopped it. The other one only listens.
stops()
{
	has_guests "$1"
	in_guest b "ping -c 1 $peer >/dev/null"
	in_guest a "ping -c 1 $peer >/dev/null && ifconfig eth0 down"
	answers b || fail 'guest b does not hear anything'
	configure a
	at_once 'both_directions a 20' 'both_directions b 20'
}

# flood: guest b, until it has lost some of that.
flood()
{
	local flood status

	# Nobody answers.
	peer_start /dev/null ping -q -i 0.01 -s 1400 "$(guest_address b)"
	flood=$!
	status=0
	eventually 60 statistic_since "$overflowed" 1 frames_overflowed b || status=$?
	kill "$flood" 2>/dev/null || true
	return $status
}

# b_rests: whether it does not have the card; a is given it.
b_rests()
{
	in_guest a "ping -c 1 $peer >/dev/null"
	[ "$(cat "$(mediated_device b)/vpio/has_card")" = 0 ]
}

stands_still()
{
	local address pid delivered

	has_guests "$1"
	address=$(in_guest b 'cat /sys/class/net/eth0/address')
	pid=$(cat "$scratch/guest-b/pid")
	overflowed=$(statistic frames_overflowed b)
	delivered=$(statistic frames_delivered b)
	peer ip neigh replace "$(guest_address b)" lladdr "$address" nud permanent dev bridge
	eventually 30 b_rests || fail 'guest b does not rest'
	kill -STOP "$pid"
	(at_once flood 'transfer a receive 1460 600') || {
		kill -CONT "$pid"
		fail 'with a guest that stands still'
	}
	kill -CONT "$pid"
	info "$(($(statistic frames_overflowed b) - overflowed)) frames of $(($(statistic frames_held b))) lost"
	peer ip neigh del "$(guest_address b)" dev bridge
	statistic_since "$delivered" 1 frames_delivered b || fail 'no frame was put into the ring of guest b'
	reaches b || fail 'guest b does not go on'
	at_once 'both_directions a 20' 'both_directions b 20'
}

switch_modes()
{
	local mode before

	for mode in trap direct hook trap hook direct hook direct; do
		before=$(statistic switches)
		echo $mode >"$card/mode"
		eventually 30 statistic_since "$before" 4 switches || fail "the card does not change hands after $mode"
	done
}

# all_the_time GUEST SECONDS
all_the_time()
{
	in_guest "$1" "end=\$((\$(date +%s) + $2))
		while [ \$(date +%s) -lt \$end ]; do
			pdio-load receive $peer:$port 1460 50 0 verify >/dev/null || exit 1
		done" 120 || fail "guest $1 loses bytes"
}

switches_modes()
{
	has_guests "$1"
	at_once 'all_the_time a 20' 'all_the_time b 20' &
	load=$!
	switch_modes
	wait $load || fail 'a transfer fails while the mode changes'
	echo "$1" >"$card/mode"
	at_once 'both_directions a 20' 'both_directions b 20'
}

# bytes GUEST: of frames that its driver has counted.
bytes()
{
	in_guest "$1" 'cd /sys/class/net/eth0/statistics; cat rx_bytes tx_bytes' | awk '{ n += $1 } END { printf "%d\n", n }'
}

# takes_turns MODE SLICE_US
takes_turns()
{
	local of_a of_b bytes_a bytes_b started elapsed

	has_guests "$1"
	echo "$2" >"$card/slice_us"
	bytes_a=$(bytes a)
	bytes_b=$(bytes b)
	of_a=$(statistic switches a)
	of_b=$(statistic switches b)
	started=$(now_ms)
	at_once "all_the_time a $seconds" "all_the_time b $seconds"
	elapsed=$(($(now_ms) - started))
	of_a=$(($(statistic switches a) - of_a))
	of_b=$(($(statistic switches b) - of_b))
	echo "turns: slice_us=$2 guest=a switches=$of_a bytes=$(($(bytes a) - bytes_a)) ms=$elapsed"
	echo "turns: slice_us=$2 guest=b switches=$of_b bytes=$(($(bytes b) - bytes_b)) ms=$elapsed"
	echo 20000 >"$card/slice_us"
	at_least 'turns of guest a' "$of_a" 2
	at_least 'turns of guest b' "$of_b" 2
	# One after the other; the numbers are not read at once.
	at_most 'turns that guest a has more' $((of_a - of_b)) 2
	at_most 'turns that guest b has more' $((of_b - of_a)) 2
	nothing_taken
}

load_kvm patched
add_case 'direct: both boot' boots direct
add_case 'direct: ping' ping_at_once direct
add_case 'direct: both transfer both ways' transfers_at_once direct
add_case 'direct: one sends, one receives' sends_and_receives direct
add_case 'direct: frames for a guest without the card' delivers_to_who_waits direct
add_case 'direct: bursts' answers_after_bursts direct
add_case 'hook: ping' ping_at_once hook
add_case 'hook: both transfer both ways' transfers_at_once hook
add_case "direct: $switches hand-overs" hands_over direct
for slice_ms in 5 10 20 50; do
	add_case "direct: turns of $slice_ms ms" takes_turns direct ${slice_ms}000
done
add_case 'direct: the mode changes' switches_modes direct
add_case 'direct: a guest stops its card' stops direct
add_case 'direct: a guest stands still' stands_still direct
add_case 'direct: a guest reboots' reboots direct
add_case 'direct: QEMU of a guest is killed' killed direct
run_cases
