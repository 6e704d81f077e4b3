#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# Two guests at once: with a card each, and with one card for both, by vpio. Both transfer at the same
# time, and every byte is compared where it arrives. When one of them is killed, the other one goes on.
#
#   PDIO_TEST_CARDS="C ..."	the ways: passthrough (the other guest has QEMU's card), trap, hook, direct (all)

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# start_both CARD CARD
start_both()
{
	start_guest a "$1"
	start_guest b "$2"
	await_guest a
	await_guest b
	configure a
	configure b
}

# transfers NAME: in one guest; says so in a file.
transfers()
{
	in_guest "$1" "pdio-load receive $peer:$port 1460 40 0 verify && pdio-load stream $peer:$port 1460 10 0 verify" 240 \
		>"$scratch/transfer-$1" 2>&1 || return
	: >"$scratch/done-$1"
}

transfer_at_once()
{
	local name first

	rm -f "$scratch"/done-*
	transfers a &
	first=$!
	transfers b &
	wait $first $!
	for name in a b; do
		[ -e "$scratch/done-$name" ] || fail "guest $name: $(tail -n 1 "$scratch/transfer-$name")"
	done
}

# both CARD CARD
both()
{
	start_both "$@"
	transfer_at_once
	kill_guest b
	rm -f "$scratch/done-a"
	transfers a
	[ -e "$scratch/done-a" ] || fail 'the other guest does not go on'
}

load_kvm patched
for card in ${PDIO_TEST_CARDS:-passthrough trap hook direct}; do
	case $card in
	passthrough) add_case 'emulated and passthrough' both emulated passthrough ;;
	*) add_case "$card, one card" both "$card" "$card" ;;
	esac
done
run_cases
