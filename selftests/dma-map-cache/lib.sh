# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What the tests of dma-map-cache have in common: devices and what to do with
# them, traffic, and a look at the kernel log. Cases are those of ../ktap.sh.
#
# The test VM has its devices at fixed addresses. On any other machine they have
# to be named, which is also the consent to lose what they carry:
#
#   PDIO_TEST_PAIRS="0000:00:02.0,0000:00:03.0 ..."
#	Network devices that are joined, two and two, by a cable or a switch that
#	nobody else uses.
#   PDIO_TEST_DISKS="0000:00:04.0 ..."
#	Storage controllers with one disk each. The first 64 MiB are overwritten.
#
# A case fails by what it leaves in the kernel log as well. Whatever it changed is
# undone afterwards, so it does not clean up by itself.

# shellcheck disable=SC2034 # used by the tests
strategies='premapped strict deferred batched cached persistent pool contiguous auto'

module=/sys/module/dma_map_cache/pci
bus=/sys/bus/pci
tracing=/sys/kernel/tracing/instances/pdio-test
here=$(cd "$(dirname "$0")" && pwd)
loaded_here=
port=5001

# Beside the suite, or in it once it is installed.
for ktap in "$here/ktap.sh" "$here/../ktap.sh"; do
	[ ! -e "$ktap" ] || break
done
# shellcheck source=../ktap.sh
. "$ktap"

# --- Cases -------------------------------------------------------------------

# begin_case NUMBER NAME
begin_case()
{
	started=$(now_ms)
	mark="pdio-test: $(basename "$0") $$ case $1"
	echo "$mark: $2" >/dev/kmsg
}

# end_case: what it says about the case besides its own end.
end_case()
{
	good=yes
	(set -eu && clean_up) </dev/null || {
		info "cleaning up failed"
		good=
	}
	problems=$(log_problems "$mark")
	if [ -n "$problems" ]; then
		echo "$problems" | sed 's/^/# kernel log: /'
		good=
	fi
	info "$((($(now_ms) - started) / 100))00 ms"
	[ -n "$good" ]
}

# --- The kernel log ----------------------------------------------------------

# log_since MARK: the kernel log after the line with MARK, or all of it if that is gone.
log_since()
{
	dmesg | awk -v mark="$1" '
		index($0, mark) { count = 0; next }
		{ lines[count++] = $0 }
		END { for (i = 0; i < count; i++) print lines[i] }'
}

# log_problems MARK: what should not be in the log. DMA faults may, after `expect_faults`.
log_problems()
{
	log_since "$1" | awk '
		/pdio: expect fault/ { expected = 1 }
		/pdio: expect nothing/ { expected = 0 }
		/DMAR: \[(DMA|INTR)|IO_PAGE_FAULT|virtio_iommu: (page|unknown) fault/ {
			if (!expected) print
			next
		}
		/BUG: |kernel BUG at|WARNING: |Oops: |general protection fault/ ||
		/UBSAN: |KASAN: |refcount_t: |list_(add|del) corruption|INFO: task / ||
		/rcu: INFO: |soft lockup|Invalidation Queue Error|DMA-API: / ||
		/dma-map-cache: .* pages mapped|pdio: unmapped 0x/'
}

# expect_faults: until the case ends.
expect_faults()
{
	: >"$scratch/faults-expected"
	echo 'pdio: expect fault' >/dev/kmsg
}

expect_no_faults()
{
	if [ -e "$scratch/faults-expected" ]; then
		rm "$scratch/faults-expected"
		echo 'pdio: expect nothing' >/dev/kmsg
	fi
}

# --- Devices -----------------------------------------------------------------

# driver_of ADDRESS: the name of its driver; nothing if there is none.
has_driver()
{
	[ -e "$bus/devices/$1/driver" ]
}

driver_of()
{
	if has_driver "$1"; then
		basename "$(readlink -f "$bus/devices/$1/driver")"
	fi
}

unbind()
{
	echo "$1" >"$bus/devices/$1/driver/unbind"
}

# bind ADDRESS: to the driver that the kernel picks.
bind()
{
	echo "$1" >$bus/drivers_probe
	# That returns at once if a probe is under way: nvme's is asynchronous after a rescan.
	eventually 30 has_driver "$1" || fail "$1 is bound to no driver"
}

# identity ADDRESS: changes whenever its driver is bound anew.
identity()
{
	driver_of "$1"
	# shellcheck disable=SC2012 # names without surprises
	ls -id "$bus/devices/$1"/net/* "$bus/devices/$1"/virtio* "$bus/devices/$1"/nvme/* \
		"$bus/devices/$1"/ata* 2>/dev/null || true
}

# state ADDRESS: its line in `devices`, without the address.
state()
{
	sed -n "s/^$1 //p" $module/devices
}

# control FILE STATE ADDRESS...: writes each address to FILE, which leaves it in STATE.
control()
{
	local file state address

	file=$1
	state=$2
	shift 2
	for address in "$@"; do
		echo "$address" >"$module/$file" || fail "$address cannot be ${file}ed"
		is "state of $address" "$(state "$address")" "$state"
	done
}

# attach ADDRESS...
attach()
{
	control attach 'attached strict' "$@"
}

# detach ADDRESS...
detach()
{
	control detach '' "$@"
}

# setting ADDRESS NAME [VALUE]: shows or sets an attribute.
setting()
{
	local file

	file=$bus/devices/$1/dma_map_cache/$2
	if [ $# -eq 2 ]; then
		show "$file"
	else
		echo "$3" >"$file" || fail "$1 does not take $2 $3"
	fi
}

# use STRATEGY ADDRESS...
use()
{
	local strategy address

	strategy=$1
	shift
	for address in "$@"; do
		setting "$address" strategy "$strategy"
		case $(setting "$address" strategy) in
		*"[$strategy]"*) ;;
		*) fail "$address does not use $strategy: $(setting "$address" strategy)" ;;
		esac
	done
}

# statistic ADDRESS NAME
statistic()
{
	show "$bus/devices/$1/dma_map_cache/statistics/$2"
}

# snapshot NAME ADDRESS: remembers all statistics for `grown`.
snapshot()
{
	(cd "$bus/devices/$2/dma_map_cache/statistics" && grep . ./*) | sed 's,^\./,,' >"$scratch/snapshot-$1"
}

# value SNAPSHOT STATISTIC
value()
{
	local name value

	while IFS=: read -r name value; do
		[ "$name" != "$2" ] || echo "$value"
	done <"$scratch/snapshot-$1"
}

# grown STATISTIC: from snapshot `before` to snapshot `after`.
grown()
{
	echo $(($(value after "$1") - $(value before "$1")))
}

# maps_add_up ADDRESS: the invariants that always hold at rest.
maps_add_up()
{
	snapshot now "$1"
	is "$1: hits + misses" $(($(value now hits) + $(value now misses))) "$(value now maps)"
	at_most "$1: unmaps" "$(value now unmaps)" "$(value now maps)"
	# A buffer that is mapped is at least one page that is.
	at_most "$1: maps - unmaps" $(($(value now maps) - $(value now unmaps))) "$(value now live_pages)"
}

# all_unmapped ADDRESS
all_unmapped()
{
	[ "$(statistic "$1" maps)" = "$(statistic "$1" unmaps)" ]
}

# --- Network -----------------------------------------------------------------

# interface ADDRESS: its name, once it is there, in the first namespace.
interface()
{
	local path

	for _ in $(seq 200); do
		for path in "$bus/devices/$1"/net/* "$bus/devices/$1"/virtio*/net/*; do
			if [ -e "$path" ]; then
				basename "$path"
				return
			fi
		done
		sleep 0.05
	done
	fail "$1 has no network interface"
}

# inside ADDRESS COMMAND...: runs it where the interface of ADDRESS is.
inside()
{
	local namespace

	namespace=pdio-$1
	shift
	ip netns exec "$namespace" "$@"
}

reachable()
{
	inside "$1" timeout 5 pdio-load rr 10.9.0.2:$port 64 1 0 >/dev/null 2>&1
}

# pair_up FIRST SECOND: gives each a namespace of its own, so that what they exchange crosses both,
# and starts a server with the second. Addresses are 10.9.0.1 and 10.9.0.2.
pair_up()
{
	local host name first second address

	host=0
	for address in "$1" "$2"; do
		host=$((host + 1))
		name=$(interface "$address")
		ip netns add "pdio-$address"
		inside "$address" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
		ip link set "$name" down
		ip link set "$name" netns "pdio-$address" name net0
		ip -n "pdio-$address" link set lo up
		ip -n "pdio-$address" addr add 10.9.0.$host/24 dev net0
		ip -n "pdio-$address" link set net0 up
	done

	# ARP would be the only traffic that nobody asked for.
	first=$(inside "$1" cat /sys/class/net/net0/address)
	second=$(inside "$2" cat /sys/class/net/net0/address)
	ip -n "pdio-$1" neigh replace 10.9.0.2 lladdr "$second" dev net0 nud permanent
	ip -n "pdio-$2" neigh replace 10.9.0.1 lladdr "$first" dev net0 nud permanent

	background inside "$2" pdio-load serve $port
	eventually 20 reachable "$1" || fail "$1 and $2 do not reach each other"
	for address in "$1" "$2"; do
		# What was sent before there was a link.
		net_losses "$address" >"$scratch/losses-$address"
	done
}

# pair_down FIRST SECOND: interfaces go back, down.
pair_down()
{
	local address pid

	for address in "$1" "$2"; do
		if ip netns pids "pdio-$address" >"$scratch/netns-pids" 2>/dev/null; then
			while read -r pid; do
				kill -9 "$pid" 2>/dev/null || true
			done <"$scratch/netns-pids"
			ip -n "pdio-$address" link set net0 down 2>/dev/null || true
			ip netns del "pdio-$address"
		fi
	done
}

# transfer FIRST KIND SIZE COUNT: COUNT messages of SIZE bytes, every byte compared where it arrives.
# KIND is stream (FIRST sends), receive, rr or udp, which may lose nothing.
transfer()
{
	inside "$1" timeout -s KILL 150 pdio-load "$2" 10.9.0.2:$port "$3" "$4" 0 verify >"$scratch/transfer-$1" 2>&1 || {
		info "$1: $2 $3 $4: $(cat "$scratch/transfer-$1")"
		return 1
	}
}

# net_losses ADDRESS: packets that its interface dropped or found damaged. Emulated networks do not
# pad what is shorter than Ethernet allows, so that is none of it.
net_losses()
{
	# shellcheck disable=SC2016 # for the inner shell
	inside "$1" sh -c 'cd /sys/class/net/net0/statistics && set -- \
		$(cat rx_errors rx_length_errors rx_dropped rx_missed_errors tx_errors tx_dropped) &&
		echo $(($1 - $2 + $3 + $4 + $5 + $6))'
}

# no_packet_lost FIRST SECOND: since pair_up.
no_packet_lost()
{
	local address

	for address in "$1" "$2"; do
		is "$address: packets lost" "$(net_losses "$address")" "$(cat "$scratch/losses-$address")"
	done
}

# --- Disks -------------------------------------------------------------------

# find_disk ADDRESS: prints its device file, if it is there.
find_disk()
{
	local path device

	for path in /sys/block/*; do
		device=$(readlink -f "$path/device") || continue
		case $device/ in
		*/"$1"/*)
			if [ -b "/dev/${path##*/}" ]; then
				echo "/dev/${path##*/}"
				return
			fi
			;;
		esac
	done
	return 1
}

# disk_of ADDRESS: the device file of the disk behind a controller, once it is there.
disk_of()
{
	eventually 20 find_disk "$1" || fail "$1 has no disk"
}

# disk_verify ADDRESS SIZE [FIO-OPTION...]: writes blocks of many sizes, reads them back and compares
# their checksums.
disk_verify()
{
	local controller size

	controller=$1
	size=$2
	shift 2
	timeout -s KILL 150 fio --name=verify --filename="$(disk_of "$controller")" --size="$size" --rw=randwrite --bsrange=4k-128k \
		--eta=never --allow_file_create=0 --direct=1 --ioengine=libaio --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 \
		--output="$scratch/fio-$controller" "$@" || {
		info "$controller: fio: $(grep -m 3 -i -e verify: -e err= "$scratch/fio-$controller" | tr '\n' ' ')"
		return 1
	}
}

# disk_requests ADDRESS: reads and writes that its disk has completed.
disk_requests()
{
	awk '{ print $1 + $5 }' "/sys/block/$(basename "$(disk_of "$1")")/stat"
}

# --- Load --------------------------------------------------------------------

# background COMMAND...: lets it run, unheard, until the case ends.
background()
{
	"$@" >/dev/null 2>&1 3>&1 &
	echo $! >>"$scratch/pids"
}

# load NAME COMMAND...: runs COMMAND again and again until `stop_load` or its first failure.
load()
{
	local name

	name=$1
	shift
	: >"$scratch/load-$name"
	(
		while [ ! -e "$scratch/stop" ]; do
			"$@" || exit
			echo turn >>"$scratch/load-$name"
		done
		echo end >>"$scratch/load-$name"
	) &
	echo $! >>"$scratch/pids"
}

# turns NAME: how often it has run.
turns()
{
	grep -c turn "$scratch/load-$1" || true
}

# load_ended NAME
load_ended()
{
	grep -q end "$scratch/load-$1"
}

# stop_load NAME...: each must have run at least once, and never have failed.
stop_load()
{
	local name

	: >"$scratch/stop"
	for name in "$@"; do
		eventually 160 load_ended "$name" || fail "load $name failed"
		at_least "turns of load $name" "$(turns "$name")" 1
	done
}

# kill_load: whatever became of it.
kill_load()
{
	local pid

	[ -e "$scratch/pids" ] || return 0
	: >"$scratch/stop"
	while read -r pid; do
		kill_tree "$pid"
	done <"$scratch/pids"
	rm -f "$scratch/pids" "$scratch/stop"
}

# kill_tree PID: it and all that it started.
kill_tree()
{
	local child

	# Stopped, it starts no more of them meanwhile.
	kill -STOP "$1" 2>/dev/null || true
	# shellcheck disable=SC2013 # the children are words
	for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
		kill_tree "$child"
	done
	kill -9 "$1" 2>/dev/null || true
}

# --- Files -------------------------------------------------------------------

# lacking FILE OTHER: the lines of FILE that OTHER does not have. (What diff prints differs: busybox
# knows one format, others have another as their default.)
lacking()
{
	grep -v -x -F -f "$2" "$1" || true
}

# --- Benchmark module ----------------------------------------------------------

# need_bench: the module that maps and unmaps pages on behalf of a device, in exact numbers.
need_bench()
{
	[ -e /sys/module/dma_map_bench/bench ] || modprobe dma_map_bench 2>/dev/null ||
		skip 'needs the module dma_map_bench'
}

# bench ADDRESS API BATCH TURNS LAYOUT [OPTION...]: maps and unmaps BATCH * (TURNS + 1) pages, for it warms up.
bench()
{
	echo "$*" >/sys/module/dma_map_bench/bench/run || fail "dma_map_bench does not take '$*'"
}

# --- A driver that calls dma_map_multi() ---------------------------------------

# The devices of e1000e_multi, which is e1000e with dma-map-cache/drivers/e1000e.patch, are those of e1000e.
multi_e1000e()
{
	find "/lib/modules/$(uname -r)/" -name e1000e_multi.ko | grep -q . || skip 'needs the module e1000e_multi'
	rmmod e1000e
	modprobe e1000e_multi
}

stock_e1000e()
{
	rmmod e1000e_multi
	modprobe e1000e
}

# --- Tracing -----------------------------------------------------------------

# trace EVENT...: begins to record these events or groups of events, and nothing else, in a buffer of
# our own. An event may be followed by a filter: `intel_iommu/qi_submit=FILTER`.
trace()
{
	local event path

	if [ ! -d $tracing ]; then
		mkdir $tracing 2>/dev/null || skip "tracefs is not mounted at /sys/kernel/tracing"
		echo 8192 >$tracing/buffer_size_kb
	fi
	echo 0 >$tracing/tracing_on
	for event in "$@"; do
		path=$tracing/events/${event%%=*}
		[ -d "$path" ] || fail "there is no event ${event%%=*}"
		[ "$event" = "${event%%=*}" ] || echo "${event#*=}" >"$path/filter"
		echo 1 >"$path/enable"
		echo "$path" >>"$scratch/events"
	done
	: >$tracing/trace
	echo 1 >$tracing/tracing_on
}

# trace_end: ends the recording, to $scratch/trace.
trace_end()
{
	local path

	echo 0 >$tracing/tracing_on
	while read -r path; do
		echo 0 >"$path/enable"
	done <"$scratch/events"
	rm "$scratch/events"
	awk '/^#/ { next } { print } / EVENTS]/ { lost = 1 } END { exit lost }' $tracing/trace >"$scratch/trace" ||
		fail "the trace buffer is too small"
}

# traced PATTERN: how many lines of the recording match this extended regular expression.
traced()
{
	awk "/$1/ { n++ } END { print n + 0 }" "$scratch/trace"
}

# addresses_of_lists ADDRESS NAME: in all lists that were mapped for a device: dma_addrs of its segments, or
# phys_addrs of the entries that these stand for.
addresses_of_lists()
{
	awk -v device=" dma_map_sg: $1 " -v name=" $2={" '
		index($0, device) {
			text = substr($0, index($0, name) + length(name))
			total += split(substr(text, 1, index(text, "}") - 1), list, ",")
		}
		END { print total + 0 }' "$scratch/trace"
}

# Invalidations of the IOTLB among the descriptors that VT-d's driver submits: types 2 and 6.
# shellcheck disable=SC2034 # used by the tests
qi_iotlb='intel_iommu/qi_submit=(qw0 & 2) && !(qw0 & 1) && !(qw0 & 8)'

# --- Before and after ----------------------------------------------------------

# clean_up: undoes whatever a case has done.
clean_up()
{
	local pair address type

	kill_load
	for pair in $pairs; do
		pair_down "${pair%,*}" "${pair#*,}"
	done
	rm -f "$scratch/events"
	[ ! -d $tracing ] || rmdir $tracing
	if [ ! -e $module ]; then
		modprobe dma_map_cache
	fi
	sed 's/ .*//' $module/devices | while read -r address; do
		[ -z "$address" ] || echo "$address" >$module/detach
	done
	[ ! -e /sys/module/e1000e_multi ] || stock_e1000e
	expect_no_faults
	for address in $all_devices; do
		[ -e "$bus/devices/$address" ] || echo 1 >$bus/rescan
		type=$bus/devices/$address/iommu_group/type
		if [ -n "$(driver_of "$address")" ]; then
			continue
		fi
		[ ! -e "$type" ] || [ "$(cat "$type")" = "$(cat "$scratch/type-$address")" ] ||
			cat "$scratch/type-$address" >"$type"
		bind "$address"
	done
}

finish()
{
	status=$?
	(set -eu && clean_up) </dev/null || true
	# It calls dma_map_multi(), so it goes first.
	[ ! -e /sys/module/dma_map_bench ] || rmmod dma_map_bench || true
	[ -z "$loaded_here" ] || rmmod dma_map_cache || true
	rm -rf "$scratch"
	exit $status
}

begin()
{
	[ "$(id -u)" -eq 0 ] || skip_all "needs root"
	if [ "$(readlink /init)" = /pdio/vm/init ]; then
		: "${PDIO_TEST_PAIRS=0000:00:02.0,0000:00:03.0 0000:00:06.0,0000:00:07.0}"
		: "${PDIO_TEST_DISKS=0000:00:04.0 0000:00:05.0}"
		vm=yes
	fi
	pairs=${PDIO_TEST_PAIRS:-}
	disks=${PDIO_TEST_DISKS:-}
	all_devices="$(echo "$pairs" | tr , ' ') $disks"
	[ -n "$pairs$disks" ] ||
		skip_all "needs consent: name devices in PDIO_TEST_PAIRS and PDIO_TEST_DISKS, see lib.sh"
	for address in $all_devices; do
		[ -n "$(driver_of "$address")" ] || skip_all "$address does not exist or has no driver"
	done

	if [ ! -e $module ]; then
		modprobe dma_map_cache || skip_all "dma_map_cache does not load"
		loaded_here=yes
	fi
	[ -z "$(cat $module/devices)" ] || skip_all "devices are attached: $(cat $module/devices)"

	scratch=$(mktemp -d)
	for address in $all_devices; do
		cat "$bus/devices/$address/iommu_group/type" >"$scratch/type-$address" 2>/dev/null || true
	done
	trap finish EXIT
	trap 'exit 1' HUP INT TERM
}

vm=
set -eu
begin
