#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a device can reach: an e1000e is made to read where its driver did not tell it to, through the
# registers that it has in I/O space. What should be out of reach is a fault in the log, which also
# shows that no fault in the other tests means something.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need pdio-load ip ping od

# set_register ADDRESS REGISTER VALUE: by way of IOADDR and IODATA in the third BAR.
set_register()
{
	put32 "$1" 0 "$2"
	put32 "$1" 1 "$3"
}

# put32 ADDRESS WORD VALUE
put32()
{
	printf '%b' "$(printf '\\0%03o\\0%03o\\0%03o\\0%03o' $(($3 & 255)) $(($3 >> 8 & 255)) $(($3 >> 16 & 255)) \
		$(($3 >> 24 & 255)))" >"$scratch/word"
	dd if="$scratch/word" of="$bus/devices/$1/resource2" bs=4 seek="$2" count=1 conv=notrunc 2>/dev/null
}

# read_at ADDRESS IOVA: the device fetches one descriptor to send from there. All zeros, it means
# nothing to it.
read_at()
{
	config=$bus/devices/$1/config
	command=$(od -A n -t u2 -j 4 -N 2 "$config" | tr -d ' ')
	command=$((command | 1))
	printf '%b' "$(printf '\\0%03o\\0%03o' $((command & 255)) $((command >> 8)))" >"$scratch/word"
	dd if="$scratch/word" of="$config" bs=2 seek=2 count=1 conv=notrunc 2>/dev/null

	set_register "$1" $((0x400)) 0			# TCTL: off
	set_register "$1" $((0x3800)) $(($2 & 4294967295))	# TDBAL
	set_register "$1" $((0x3804)) $(($2 >> 32))	# TDBAH
	set_register "$1" $((0x3808)) 128		# TDLEN
	set_register "$1" $((0x3810)) 0			# TDH
	set_register "$1" $((0x3818)) 0			# TDT
	set_register "$1" $((0x400)) 2			# TCTL: enable
	set_register "$1" $((0x3818)) 1			# TDT: go
}

faulted()
{
	log_since "$probe_mark" | grep -q "DMAR: \[DMA Read.*Request device .*${1#0000:}\] fault addr $2 "
}

# probe IOVA: reads there, and marks the place in the log. The kernel tells about three faults in five
# seconds and drops the others.
probe()
{
	while [ "$(now_ms)" -lt $(($(cat "$scratch/probed" 2>/dev/null || echo 0) + 2000)) ]; do
		sleep 0.1
	done
	now_ms >"$scratch/probed"
	probe_mark="pdio-test: probe $$ $(cat "$scratch/probed"): $(printf '0x%x' "$1")"
	echo "$probe_mark" >/dev/kmsg
	read_at "$nic" "$1"
	fault_page=$(printf '0x%x' $(($1 & ~4095)))
}

# can WHAT IOVA. The read is over when the register is written; what follows is the interrupt.
can()
{
	probe "$2"
	sleep 1
	! faulted "$nic" "$fault_page" || fail "$1: the device cannot read at $(printf '0x%x' "$2")"
}

# cannot WHAT IOVA
cannot()
{
	probe "$2"
	eventually 20 faulted "$nic" "$fault_page" || fail "$1: the device can read at $(printf '0x%x' "$2")"
}

begin_probing()
{
	nic=$1
	attach "$1" "$2"
	expect_faults
}

# sent: where the last packet was mapped that the driver has taken back, in the middle of its zeros.
sent()
{
	trace 'dma/dma_map_phys=dir == 1'
	inside "$nic" ping -q -c 3 -s 1400 -p 00 -W 5 10.9.0.2 >/dev/null || fail 'no answer to a ping'
	trace_end
	line=$(grep " dma_map_phys: $nic " "$scratch/trace" | tail -n 1)
	[ -n "$line" ] || fail 'no packet was sent'
	iova=$((0x$(echo "$line" | sed 's/.*dma_addr=\([0-9a-f]*\).*/\1/')))
	phys=$((0x$(echo "$line" | sed 's/.*phys_addr=\([0-9a-f]*\).*/\1/')))
	target=$(((iova + 512) & ~127))
}

detector()
{
	begin_probing "$1" "$2"
	cannot 'never mapped, low' $((0x123456000))
	cannot 'never mapped, high' $((0x200000000000 - 0x10000))
	cannot 'the first page' 0
	cannot 'memory at its physical address' $((0x100000))
}

# What is mapped can be read, or else the detector sees faults everywhere.
mapped()
{
	begin_probing "$1" "$2"
	unbind "$nic"
	trace dma/dma_alloc
	bind "$nic"
	pair_up "$1" "$2"
	trace_end
	ring=$((0x$(grep " dma_alloc: $nic " "$scratch/trace" | head -n 1 | sed 's/.*dma_addr=\([0-9a-f]*\).*/\1/')))
	# The last descriptors, which nobody has used yet.
	can 'a descriptor ring' $((ring + 3968))
	pair_down "$1" "$2"
	cannot 'the ring of an interface that is down' $((ring + 3968))
}

# after_unmap STRATEGY FIRST SECOND
after_unmap()
{
	begin_probing "$2" "$3"
	use "$1" "$2"
	pair_up "$2" "$3"
	if [ "$1" = cached ]; then
		setting "$nic" cached_max_age_ms 3600000
	fi
	sent
	# Longer than the deferred strategy may wait.
	sleep 0.5

	case $1 in
	strict | deferred)
		cannot "$1, after unmap" $target
		;;
	cached)
		at_least 'idle pages' "$(statistic "$nic" idle_pages)" 1
		can 'cached, idle' $target
		setting "$nic" cached_budget_bytes 0
		cannot 'cached, evicted' $target
		;;
	premapped)
		can 'premapped, after unmap' $target
		window=$((iova - phys))
		bar=$(($(head -n 1 "$bus/devices/$nic/resource" | cut -d ' ' -f 1)))
		cannot 'registers beyond RAM' $((window + bar))
		use strict "$nic"
		eventually 10 withdrawn || fail "premapped pages stay: $(setting "$nic" unsettled_pages) unsettled"
		cannot 'premapped, withdrawn' $target
		;;
	esac
}

# The receive buffers of the old strategy have to be used up first.
withdrawn()
{
	inside "$nic" ping -q -c 100 -i 0.002 -W 5 10.9.0.2 >/dev/null 2>&1 || true
	ip -n "pdio-$nic" link set net0 down
	[ "$(setting "$nic" unsettled_pages)" -eq 0 ] && sleep 1.5
}

# gone FIRST SECOND: nothing of ours outlives the detach.
gone()
{
	begin_probing "$1" "$2"
	use premapped "$1"
	pair_up "$1" "$2"
	sent
	can 'premapped, after unmap' $target
	pair_down "$1" "$2"
	detach "$1"
	cannot 'after detach' $target
	attach "$1"
	cannot 'when attached again' $target
}

found=
for pair in $pairs; do
	nic=${pair%,*}
	# Only a device that is emulated takes no harm from this.
	if [ -n "$vm" ] && [ "$(cat "$bus/devices/$nic/vendor" "$bus/devices/$nic/device" | tr -d '\n')" = 0x80860x10d3 ] &&
	   [ -d /sys/class/iommu/dmar0 ]; then
		found=$pair
		break
	fi
done
[ -n "$found" ] || skip_all 'needs the emulated e1000e behind VT-d'

add_case 'what was never mapped cannot be reached, and that is in the log' detector "${found%,*}" "${found#*,}"
add_case 'what is mapped can be reached, until it is unmapped' mapped "${found%,*}" "${found#*,}"
for strategy in $strategies; do
	add_case "$strategy: what can be reached after unmap" after_unmap "$strategy" "${found%,*}" "${found#*,}"
done
add_case 'nothing can be reached after detach' gone "${found%,*}" "${found#*,}"
run_cases
