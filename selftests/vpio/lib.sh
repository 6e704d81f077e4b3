# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What the tests of vpio have in common: guests of this machine, the cards that they are given, and the
# other end of the cable. Cases are those of ../ktap.sh. The test VM for it is `pdio vm --guests`.
#
# The cable ends in the network namespace `peer`, in a bridge that has the address $peer; guests have the
# addresses $network.2 and up. So nothing that a guest sends leaves this machine.
#
# A guest is told what to do on its second serial port, by the agent that the test VM has as well: no
# network is needed for that. Its first serial port is its console.
#
# A case fails by what it leaves in the kernel log of a guest as well. Guests are killed when it ends.

here=$(dirname "$0")
# Beside the suite, or in it once it is installed.
for ktap in "$here/ktap.sh" "$here/../ktap.sh"; do
	[ ! -e "$ktap" ] || break
done
# shellcheck source=../ktap.sh
. "$ktap"

bus=/sys/bus/pci
guest_files=${PDIO_TEST_GUEST:-/pdio/guest}
patched_kvm=${PDIO_TEST_KVM:-/pdio/kvm}
ne2000=0000:00:0b.0
rtl8139=0000:00:0c.0
cable=0000:00:0d.0
network=10.9.0
peer=$network.1
port=5001
token=@pdio-7f3a

# --- This machine --------------------------------------------------------------

# load_kvm WHICH: stock, or patched with vpio/kvm. Nothing may use the other one.
load_kvm()
{
	modprobe kvm_amd || skip_all 'KVM does not load: the CPU has no SVM'
	[ "$1" = patched ] || return 0
	[ -e "$patched_kvm/kvm.ko" ] || skip_all "there is no $patched_kvm/kvm.ko: make modules"
	# By another test.
	! grep -q ' kvm_pio_passthrough' /proc/kallsyms || return 0
	# What KVM needs was loaded for the kernel's own. The guests of another test may still be going.
	eventually 20 unload_kvm || {
		echo '# KVM stays in use'
		exit 1
	}
	insmod "$patched_kvm/kvm.ko"
	insmod "$patched_kvm/kvm-amd.ko"
}

unload_kvm()
{
	{ [ ! -e /sys/module/kvm_amd ] || rmmod kvm_amd; } && rmmod kvm
}

# peer COMMAND...: at the other end of the cable.
peer()
{
	ip netns exec peer "$@"
}

# peer_start OUTPUT COMMAND...: there as well, in the background; $! is its process. With peer() that would be
# a shell that waits for it.
peer_start()
{
	local output="$1"

	shift
	ip netns exec peer "$@" >"$output" 2>&1 &
}

# peer_server COMMAND...: there, until the program ends.
peer_server()
{
	peer_start "$scratch/server.log" "$@"
	echo $! >>"$scratch/servers"
}

# serve_transfers: for pdio-load; ends the server that there was. It serves one client after the other, so
# one that was killed in the middle would keep the next one waiting.
serve_transfers()
{
	[ ! -e "$scratch/server" ] || kill "$(cat "$scratch/server")"
	peer_server pdio-load serve $port
	tail -n 1 "$scratch/servers" >"$scratch/server"
}

# find_interface ADDRESS: sets `interface` to that of a PCI device, if it is in the first namespace.
find_interface()
{
	local path

	for path in "$bus/devices/$1"/net/*; do
		if [ -e "$path" ]; then
			interface=${path##*/}
			return
		fi
	done
	return 1
}

# cable_up: gives the other end of the cable its namespace, and starts the servers there.
cable_up()
{
	find_interface $cable || skip_all "$cable has no network interface"
	ip netns add peer
	peer sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
	ip link set "$interface" netns peer
	ip -n peer -batch - <<-EOF
		link set lo up
		link add bridge type bridge
		link set $interface master bridge
		link set $interface up
		address add $peer/24 dev bridge
		link set bridge up
	EOF
	serve_transfers
}

cable_down()
{
	local pid

	while read -r pid; do
		kill "$pid" 2>/dev/null || true
	done <"$scratch/servers"
	# The namespace may live on for minutes in connections to guests that were killed.
	ip -n peer link set "$interface" netns 1 || true
	ip netns del peer 2>/dev/null || true
}

# --- Cards ---------------------------------------------------------------------

# driver_of ADDRESS: the name of its driver; nothing if there is none.
driver_of()
{
	[ ! -e "$bus/devices/$1/driver" ] || basename "$(readlink "$bus/devices/$1/driver")"
}

# give ADDRESS DRIVER: binds a card to vfio-pci or vpio, so that guests can have it.
give()
{
	[ "$(driver_of "$1")" != "$2" ] || return 0
	take_back "$1"
	echo "$2" >"$bus/devices/$1/driver_override"
	echo "$1" >$bus/drivers_probe
	[ "$(driver_of "$1")" = "$2" ] || fail "$2 does not take $1"
}

# take_back ADDRESS: leaves it without a driver.
take_back()
{
	[ ! -e "$bus/devices/$1/driver" ] || echo "$1" >"$bus/devices/$1/driver/unbind"
	echo >"$bus/devices/$1/driver_override"
}

# mediated_device NAME: that of a guest; made if there is none.
mediated_device()
{
	local uuid

	uuid=7d9e1b5a-0000-4000-8000-00000000000$(guest_number "$1")
	[ -e "/sys/bus/mdev/devices/$uuid" ] ||
		echo "$uuid" >"$bus/devices/$ne2000/mdev_supported_types/vpio-ne2000/create"
	echo "/sys/bus/mdev/devices/$uuid"
}

# tap NAME: a network interface for a guest whose card QEMU emulates, on the same cable.
tap()
{
	[ ! -e "/var/run/netns/peer" ] || peer ip link show "$1" >/dev/null 2>&1 || {
		peer ip tuntap add "$1" mode tap
		ip -n peer link set "$1" master bridge up
	}
}

# --- Guests --------------------------------------------------------------------

# start_guest NAME CARD [MODULE]: starts a guest, which loads MODULE (ne2k_pci). CARD is
#
#	emulated[=MODEL]	QEMU's own, by default an NE2000
#	passthrough[=ADDRESS]	a PCI device, by default the NE2000
#	trap, hook, direct, open	a mediated device of vpio, in this mode
#	an absolute path	a mediated device in sysfs
#	none
#
# If there is $placeholder, it is a device that the guest has before that.
start_guest()
{
	local dir card device

	# Who has the name, and so the address.
	kill_guest "$1"
	dir=$scratch/guest-$1
	rm -rf "$dir"
	mkdir "$dir"
	mkfifo "$dir/control.in" "$dir/control.out" "$dir/monitor.in" "$dir/monitor.out"
	card=${2#*=}
	case $2 in
	emulated*)
		[ "$card" != emulated ] || card=ne2k_pci
		tap "tap-$1"
		device="$card,netdev=net,romfile=,mac=52:54:00:00:01:$(printf %02x "$(guest_number "$1")")"
		set -- "$1" "$2" "${3:-ne2k_pci}" -netdev "tap,id=net,ifname=tap-$1,script=no,downscript=no" -device "$device"
		;;
	passthrough*)
		[ "$card" != passthrough ] || card=$ne2000
		give "$card" vfio-pci
		set -- "$1" "$2" "${3:-ne2k_pci}" -device "vfio-pci,host=$card,rombar=0"
		;;
	trap | hook | direct | open)
		[ -e /sys/module/vpio ] || modprobe vpio
		give $ne2000 vpio
		echo "$2" >$bus/devices/$ne2000/vpio/mode
		card=$(mediated_device "$1")
		set -- "$1" "$2" "${3:-ne2k_pci}" -device "vfio-pci,sysfsdev=$card,rombar=0"
		;;
	/*)
		set -- "$1" "$2" "${3:-ne2k_pci}" -device "vfio-pci,sysfsdev=$card,rombar=0"
		;;
	none)
		set -- "$1" "$2" "${3:-ne2k_pci}"
		;;
	esac
	printf '%s\n' "$@" >"$dir/arguments"
	guest=$1
	module=$3
	shift 3
	[ -z "${placeholder:-}" ] || set -- -device "$placeholder" "$@"
	# There, for its tap.
	peer_start "$dir/qemu.log" qemu-system-x86_64 -nodefaults -no-user-config -display none -vga none \
		-machine pc,usb=off,vmport=off -accel kvm -cpu host -m 128 \
		-chardev "file,id=console,path=$dir/console" -serial chardev:console \
		-chardev "pipe,id=control,path=$dir/control" -serial chardev:control \
		-chardev "pipe,id=monitor,path=$dir/monitor" -mon chardev=monitor \
		-kernel "$guest_files/vmlinuz" -initrd "$guest_files/initrd" \
		-append "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check pdio.modules=$module" \
		"$@"
	echo $! >"$dir/pid"
	echo 0 >"$dir/id"
	echo "$guest" >>"$scratch/guests"
}

# guest_number NAME: from 2 on: the last part of its address, and of its MAC.
guest_number()
{
	case $1 in
	b) echo 3 ;;
	*) echo 2 ;;
	esac
}

guest_address()
{
	echo "$network.$(guest_number "$1")"
}

# alive NAME: whether its QEMU is.
alive()
{
	[ -e "$scratch/guest-$1/pid" ] && ! gone "$(cat "$scratch/guest-$1/pid")"
}

# answer NAME ID SECONDS: prints what request ID has printed, and ends with its status.
answer()
{
	local dir status

	dir=$scratch/guest-$1
	status=0
	# Opened there, for that waits for QEMU; it ends when QEMU does.
	# shellcheck disable=SC2016 # for the inner shell
	timeout "$3" sh -c '
		exec <"$4"
		while IFS= read -r line; do
			line=${line%$3}
			case $line in
			*"$1 $2 "*)
				before=${line%%"$1 $2 "*}
				[ -z "$before" ] || printf "%s\n" "$before"
				exit "${line##* }"
				;;
			*"$1 "*) ;;
			*) printf "%s\n" "$line" ;;
			esac
		done
		exit 255' answer "$token" "$2" "$(printf '\r')" "$dir/control.out" || status=$?
	case $status in
	124 | 143) set -- "$1" "does not answer within $3 s" ;;
	255) set -- "$1" 'ends' ;;
	*) return $status ;;
	esac
	info "guest $1 $2:"
	{
		tail -n 5 "$dir/console" "$dir/qemu.log"
		# A shell of its own: whatever fails here is not to hide what has failed.
		(examine "$1") 2>&1 || true
	} | sed 's/^/#   /' >&3
	return $status
}

# examine NAME: what a guest does that does not answer: what of KVM's counters moves in a second, what vpio
# says of the card and its guests, its registers and interrupt controllers, and where the threads of its QEMU
# wait.
examine()
{
	local pid

	alive "$1" || return 0
	pid=$(cat "$scratch/guest-$1/pid")
	counters_of "$pid" >"$scratch/before"
	ask_monitor "$1" 'info registers' | grep -E 'R[AI][XP]=|HLT='
	sleep 1
	counters_of "$pid" | diff "$scratch/before" - | grep '^[<>]'
	for file in $bus/devices/$ne2000/vpio /sys/bus/mdev/devices/*/vpio; do
		[ ! -e "$file" ] || grep -r . "$file"/
	done
	for question in 'info registers' 'info lapic' 'info pic' 'info irq'; do
		ask_monitor "$1" "$question"
	done
	for thread in "/proc/$pid/task"/*; do
		# Its state, and ticks in user and kernel space.
		echo "$(cat "$thread/comm"):" "$(sed 's/.*) //' "$thread/stat" | cut -d ' ' -f 1,12,13)"
		cat "$thread/stack"
	done
}

# counters_of PID: those of KVM for this process.
counters_of()
{
	grep -r . /sys/kernel/debug/kvm/"$1"-*/ 2>/dev/null | sort
}

# ask_monitor NAME QUESTION: prints what QEMU answers.
ask_monitor()
{
	local dir

	dir=$scratch/guest-$1
	echo "$2" 1<>"$dir/monitor.in"
	timeout 1 cat "$dir/monitor.out" | tr -d '\r' | grep -v '^(qemu)' || true
}

# await_guest NAME: until it has booted, which takes a minute or more while others keep the machine busy.
await_guest()
{
	answer "$1" 0 180 >/dev/null
}

# in_guest NAME COMMAND [SECONDS]: a line for the guest's shell. Prints its output, and ends with its status.
in_guest()
{
	local dir id

	dir=$scratch/guest-$1
	alive "$1" || fail "guest $1 is not there: $(tail -n 1 "$dir/qemu.log")"
	id=$(($(cat "$dir/id") + 1))
	echo $id >"$dir/id"
	# One line; the agent undoes it with printf %b. Opened for both, for that does not wait for QEMU.
	printf '%s\n' "$2" | sed 's/\\/\\\\/g' |
		awk -v id=$id '{ printf "%s%s", NR == 1 ? id " " : "\\n", $0 } END { print "" }' 1<>"$dir/control.in"
	answer "$1" $id "${3:-60}"
}

# reboot_guest NAME: and waits until it is there again. QEMU goes on.
reboot_guest()
{
	printf 'x reboot -f\n' 1<>"$scratch/guest-$1/control.in"
	await_guest "$1"
}

# kill_guest NAME: at once.
kill_guest()
{
	local dir pid

	dir=$scratch/guest-$1
	[ -e "$dir/pid" ] || return 0
	pid=$(cat "$dir/pid")
	kill -9 "$pid" 2>/dev/null || true
	# Not a child of this shell, maybe.
	eventually 20 gone "$pid" || fail "QEMU of guest $1 does not die"
	rm "$dir/pid"
}

# gone PID: whether all of its threads have ended, so that nothing is open any more. Somebody may still have
# to wait for it.
gone()
{
	! cat "/proc/$1/task"/*/status 2>/dev/null | grep -q '^State:	[^ZX]'
}

# configure NAME [MAC]: its card is up and reaches the other end. MAC is what the driver shall use instead
# of what it has read from the card; a card of QEMU receives nothing else for a guest that has it alone.
configure()
{
	[ $# -eq 1 ] || in_guest "$1" "ip link set eth0 address $2"
	in_guest "$1" "ip link set eth0 up && ip address replace $(guest_address "$1")/24 dev eth0" ||
		fail "guest $1 has no card"
	reaches "$1" || fail "guest $1 does not reach the other end"
}

reaches()
{
	in_guest "$1" "for _ in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 2 $peer >/dev/null && exit 0; done; exit 1" 40
}

# transfer GUEST KIND SIZE COUNT: every byte is compared where it arrives.
transfer()
{
	in_guest "$1" "pdio-load $2 $peer:$port $3 $4 0 verify" 180 >"$scratch/transfer-$1" || {
		info "$(tail -n 1 "$scratch/transfer-$1")"
		fail "guest $1: $2 $3 $4"
	}
}

# --- Cases ---------------------------------------------------------------------

# guest_problems: what should not be in the kernel logs of guests, and was not before.
guest_problems()
{
	cat "$scratch"/guest-*/console 2>/dev/null | grep -a -E \
		-e 'BUG: |kernel BUG at|WARNING: |Oops: |Kernel panic|general protection fault' \
		-e 'refcount_t: |list_(add|del) corruption|INFO: task |rcu: INFO: |soft lockup' \
		-e 'NETDEV WATCHDOG|does not load' |
		awk -v file="$scratch/problems" '
			BEGIN { while ((getline line <file) > 0) seen[line]; close(file) }
			!($0 in seen) { print; print >>file }'
}

# kill_guests: and what is left of them, except for the logs.
kill_guests()
{
	local name

	[ -e "$scratch/guests" ] || return 0
	while read -r name; do
		kill_guest "$name"
	done <"$scratch/guests"
	rm "$scratch/guests"
}

begin_case()
{
	started=$(now_ms)
	echo "pdio-test: $(basename "$0"): $2" >/dev/kmsg
}

end_case()
{
	good=yes
	if [ -z "${keep_guests:-}" ]; then
		(set -eu && kill_guests) </dev/null || good=
	fi
	problems=$(guest_problems)
	if [ -n "$problems" ]; then
		echo "$problems" | sed 's/^/# kernel log of a guest: /'
		good=
	fi
	info "$((($(now_ms) - started) / 100))00 ms"
	[ -n "$good" ]
}

finish()
{
	status=$?
	(set -eu && kill_guests) </dev/null || true
	cable_down
	take_back $ne2000 || true
	take_back $rtl8139 || true
	rm -rf "$scratch"
	exit $status
}

begin()
{
	[ "$(id -u)" -eq 0 ] || skip_all 'needs root'
	[ -e "$guest_files/initrd" ] || skip_all "there is no $guest_files: pdio vm --guests has it"
	[ -e $bus/devices/$ne2000 ] || skip_all 'there is no card for guests: pdio vm --guests has one'
	need qemu-system-x86_64 pdio-load
	scratch=$(mktemp -d)
	: >"$scratch/servers"
	trap finish EXIT
	trap 'exit 1' HUP INT TERM
	modprobe vfio_iommu_type1
	modprobe vfio_pci
	modprobe tun
	modprobe bridge
	modprobe e1000
	cable_up
}

set -eu
begin
