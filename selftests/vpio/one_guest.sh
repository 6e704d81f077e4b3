# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What the tests have in common in which one guest, a, has a card. They source lib.sh first, and have
#
#	boots WAY		starts the guest, with its card given to it in this way
#	nothing_is_left		fails if there is something on this machine of a guest that is gone

# A guest is there for all cases of its way.
# shellcheck disable=SC2034 # of lib.sh
keep_guests=yes

# has_guest WAY: that it is there, for cases that are picked.
has_guest()
{
	alive a || boots "$1"
}

pings()
{
	has_guest "$1"
	in_guest a "ping -q -c 20 -A $peer" >"$scratch/ping"
	grep -q '20 packets transmitted, 20 packets received, 0% packet loss' "$scratch/ping" ||
		fail "$(grep packets "$scratch/ping")"
}

# frames: how many the other end has received.
frames()
{
	peer cat /sys/class/net/bridge/statistics/rx_packets
}

frames_since()
{
	[ $(($(frames) - $1)) -ge "$2" ]
}

# kill_during COMMAND: kills QEMU when the guest has sent 10 frames for it.
kill_during()
{
	local from

	from=$(frames)
	in_guest a "$1" 120 >/dev/null 2>&1 3>&1 &
	eventually 60 frames_since "$from" 10 || fail 'nothing is transferred'
	kill_guest a
	nothing_is_left
	serve_transfers
}

# next_guest WAY: after the last one was killed.
next_guest()
{
	boots "$1"
	transfer a rr 1460 2
}

killed_while_sending()
{
	has_guest "$1"
	kill_during "pdio-load stream $peer:$port 1460 100000 0"
	next_guest "$1"
}

killed_while_receiving()
{
	has_guest "$1"
	kill_during "pdio-load receive $peer:$port 1460 100000 0"
	next_guest "$1"
}
