#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# How many port accesses a guest's load comes to, and how many of them leave the guest, by KVM's own
# tracepoints, for each way in which the guest can be given its card. The loads are those of the table in
# "Towards Virtual Passthrough I/O on Commodity Devices": an ssh session, a small and a large download;
# and ping. Each prints a line for other programs to read:
#
#   accesses: card=C load=L packets=N bytes=N accesses=N exits=N user_exits=N ms=N
#
# packets and bytes: frames of both directions that the guest's driver has counted. accesses: those to
# ports of the card that KVM has seen, each word of an `outs` singly; what goes through without an exit it
# does not see. exits: of the CPU, to ports of any device. user_exits: those that QEMU had to answer. ms:
# wall time, which is no result of a test. With a model, model_updates=N: accesses that it has heard of.
#
#   PDIO_TEST_SCALE=N	downloads are N times as large (1)
#   PDIO_TEST_CARDS="C ..."	the ways: emulated, passthrough, trap, hook (emulated hook)

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# A guest is there for all cases of its card.
keep_guests=yes
tracing=/sys/kernel/tracing/instances/pdio-test
scale=${PDIO_TEST_SCALE:-1}
small_kib=$((64 * scale))
large_kib=$((1024 * scale))

# --- Servers at the other end ----------------------------------------------------

serve()
{
	local www

	www=$scratch/www
	mkdir "$www"
	dd if=/dev/urandom of="$www/small" bs=1024 count=$small_kib 2>/dev/null
	dd if=/dev/urandom of="$www/large" bs=1024 count=$large_kib 2>/dev/null
	peer_server busybox httpd -f -p 80 -h "$www"

	dropbearkey -t ed25519 -f "$scratch/host-key" >/dev/null 2>&1
	dropbearkey -t ed25519 -f "$scratch/user-key" >/dev/null 2>&1
	mkdir -p /root/.ssh
	chmod 700 /root /root/.ssh
	dropbearkey -y -f "$scratch/user-key" | grep ^ssh >/root/.ssh/authorized_keys
	peer_server dropbear -F -E -r "$scratch/host-key"
}

# --- Counters --------------------------------------------------------------------

count_begin()
{
	[ -d $tracing ] || mkdir $tracing
	# Only KVM of the guest that is there counts.
	echo 'hist:keys=port,rw:vals=count' >$tracing/events/kvm/kvm_pio/trigger
	# Reason 2 is KVM_EXIT_IO.
	echo 'hist:keys=reason if reason == 2' >$tracing/events/kvm/kvm_userspace_exit/trigger
}

count_end()
{
	# They would keep KVM loaded.
	[ ! -d $tracing ] || rmdir $tracing
}

# counted FIRST LAST: accesses to these ports, exits, and those to user space, so far.
counted()
{
	awk -v first="$1" -v last="$2" '
	/port:/ {
		gsub(/[{},:]/, " ")
		for (i = 1; i < NF; i++) {
			if ($i == "port") port = $(i + 1)
			if ($i == "count") count = $(i + 1)
		}
		if (port >= first && port <= last) accesses += count
	}
	/reason:/ {
		gsub(/[{},:]/, " ")
		for (i = 1; i < NF; i++) if ($i == "hitcount") user += $(i + 1)
	}
	FILENAME ~ /io_exits/ { exits += $1 }
	END { printf "%d %d %d\n", accesses, exits, user }' \
		$tracing/events/kvm/kvm_pio/hist $tracing/events/kvm/kvm_userspace_exit/hist /sys/kernel/debug/kvm/io_exits
}

# ports: the first and the last one of the guest's card, by its own view.
ports()
{
	# shellcheck disable=SC2016 # for the guest's shell
	in_guest a 'read -r first last rest </sys/class/net/eth0/device/resource; echo $((first)) $((last))'
}

# frames: packets and bytes that the guest's driver has counted.
frames()
{
	in_guest a 'cd /sys/class/net/eth0/statistics; cat rx_packets tx_packets rx_bytes tx_bytes' |
		awk '{ n[NR] = $1 } END { printf "%d %d\n", n[1] + n[2], n[3] + n[4] }'
}

# model_updates: how many accesses the model has heard of, if there is one.
model_updates()
{
	[ ! -e $bus/devices/$ne2000/vpio ] || cat $bus/devices/$ne2000/vpio/statistics/model_updates
}

# --- Loads -----------------------------------------------------------------------

load_ping()
{
	in_guest a "ping -q -c 50 -A $peer >/dev/null"
}

# Somebody logs in, types commands word by word, and reads. There is no terminal: what is typed comes back
# by lines.
load_ssh()
{
	in_guest a "{
		for line in 'ls -l /' 'cat /proc/cpuinfo' 'cd /pdio/vm' 'ls -l' 'cat init' 'uname -a' exit; do
			for word in \$line; do
				printf '%s ' \$word
				usleep 100000
			done
			echo
			usleep 300000
		done
	} | dbclient -y -i /tmp/user-key root@$peer 'sh -v' >/tmp/session 2>&1" 120 || {
		in_guest a 'tail -n 3 /tmp/session' >&3
		fail 'the session ends with an error'
	}
	# What the last command but one has printed.
	in_guest a "grep -q '^Linux .*x86_64' /tmp/session" || fail 'the session has not shown what was asked for'
}

download()
{
	is 'checksum' "$(in_guest a "wget -q -O - http://$peer/$1 | md5sum" 300)" "$(md5sum <"$scratch/www/$1")"
}

load_small()
{
	download small
}

load_large()
{
	download large
}

# --- Cases -----------------------------------------------------------------------

# boots CARD
boots()
{
	start_guest a "$1"
	await_guest a
	configure a
	{
		echo "base64 -d >/tmp/user-key <<-END && chmod 600 /tmp/user-key"
		base64 "$scratch/user-key"
		echo END
	} >"$scratch/command"
	in_guest a "$(cat "$scratch/command")"
	# Not part of a session: that the card has to find the other end.
	in_guest a "ping -q -c 1 $peer >/dev/null"
}

# counts CARD LOAD
counts()
{
	local first last before after started elapsed

	# For cases that are picked.
	alive a || boots "$1"
	# shellcheck disable=SC2046 # two words
	set -- "$1" "$2" $(ports)
	first=$3
	last=$4
	before=$(frames)
	updates=$(model_updates)
	count_begin
	# shellcheck disable=SC2046,SC2086 # five words
	set -- "$1" "$2" $before $(counted "$first" "$last")
	started=$(now_ms)
	"load_$2"
	elapsed=$(($(now_ms) - started))
	after=$(counted "$first" "$last")
	count_end
	model=
	[ -z "$updates" ] || model=" model_updates=$(($(model_updates) - updates))"
	# shellcheck disable=SC2046,SC2086 # six words
	set -- "$@" $(frames) $after
	echo "accesses: card=$1 load=$2 packets=$(($8 - $3)) bytes=$(($9 - $4)) accesses=$((${10} - $5)) exits=$((${11} - $6)) user_exits=$((${12} - $7))$model ms=$elapsed"
	at_least packets $(($8 - $3)) 10
	case $1 in
	# IMR, which the driver writes twice for each frame that it sends: see Documentation/vpio/model.rst.
	direct) at_most accesses $((${10} - $5)) $((2 * ($8 - $3))) ;;
	open) is accesses $((${10} - $5)) 0 ;;
	# A frame takes more than ten: several registers, and its content.
	*) at_least accesses $((${10} - $5)) $((10 * ($8 - $3))) ;;
	esac
}

ends()
{
	count_end
	kill_guest a
}

need dropbear dropbearkey
load_kvm patched
serve
for card in ${PDIO_TEST_CARDS:-emulated hook}; do
	add_case "$card: boots" boots "$card"
	for load in ping ssh small large; do
		add_case "$card: $load" counts "$card" $load
	done
	add_case "$card: ends" ends
done
run_cases
