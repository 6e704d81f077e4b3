#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A device is taken when its driver is bound and given back when it is unbound, whatever happens in
# between; what cannot be taken is left as it was found.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
need ip

# works ADDRESS: its driver has brought up what it is there for.
works()
{
	case " $disks " in
	*" $1 "*) dd if="$(disk_of "$1")" of=/dev/null bs=4096 count=200 iflag=direct 2>/dev/null ;;
	*)
		name=$(interface "$1")
		ip link set "$name" up
		ip link set "$name" down
		;;
	esac
}

has_directory()
{
	[ -e "$bus/devices/$1/dma_map_cache" ]
}

# there_and_back ADDRESS
there_and_back()
{
	driver=$(driver_of "$1")
	works "$1"

	attach "$1"
	is driver "$(driver_of "$1")" "$driver"
	has_directory "$1" || fail 'there is no directory in sysfs'
	is strategy "$(setting "$1" strategy)" "$(echo "$strategies" | sed 's/strict/[&]/')"
	works "$1"
	at_least 'live pages, once' "$(statistic "$1" pte_updates)" 1

	detach "$1"
	is driver "$(driver_of "$1")" "$driver"
	! has_directory "$1" || fail 'the directory in sysfs is still there'
	works "$1"
}

# rebound ADDRESS STRATEGY: the strategy stays, the numbers start again.
rebound()
{
	driver=$(driver_of "$1")
	attach "$1"
	use "$2" "$1"
	works "$1"
	works "$1"
	snapshot before "$1"

	unbind "$1"
	is 'state without a driver' "$(state "$1")" "armed $2"
	! has_directory "$1" || fail 'the directory in sysfs is there without a driver'

	bind "$1"
	is driver "$(driver_of "$1")" "$driver"
	is 'state with a driver' "$(state "$1")" "attached $2"
	snapshot after "$1"
	[ "$(value before maps)" -eq 0 ] || [ "$(grown maps)" -lt 0 ] ||
		fail "maps go on from $(value before maps) to $(value after maps)"
	works "$1"
	maps_add_up "$1"
	is 'unsettled pages' "$(setting "$1" unsettled_pages)" 0
}

# armed ADDRESS: attached while no driver is bound, and detached likewise.
armed()
{
	driver=$(driver_of "$1")
	unbind "$1"
	echo "$1" >$module/attach
	is state "$(state "$1")" 'armed strict'
	is driver "$(driver_of "$1")" ''
	bind "$1"
	is driver "$(driver_of "$1")" "$driver"
	is state "$(state "$1")" 'attached strict'
	works "$1"

	unbind "$1"
	detach "$1"
	is driver "$(driver_of "$1")" ''
	bind "$1"
	! has_directory "$1" || fail 'it is attached though it was detached'
	works "$1"
}

# replugged ADDRESS: what sits at the address is taken again.
replugged()
{
	driver=$(driver_of "$1")
	attach "$1"
	use cached "$1"
	works "$1"

	echo 1 >"$bus/devices/$1/remove"
	is 'state of the empty slot' "$(state "$1")" 'armed cached'
	echo 1 >$bus/rescan
	eventually 10 [ -n "$(driver_of "$1")" ] || bind "$1"
	is driver "$(driver_of "$1")" "$driver"
	is state "$(state "$1")" 'attached cached'
	works "$1"

	# Also when it is given back while it is out.
	echo 1 >"$bus/devices/$1/remove"
	detach "$1"
	echo 1 >$bus/rescan
	[ -n "$(driver_of "$1")" ] || bind "$1"
	! has_directory "$1" || fail 'it is attached though it was detached'
	works "$1"
}

# retyped ADDRESS: another default domain while no driver is bound.
retyped()
{
	type=$bus/devices/$1/iommu_group/type
	attach "$1"
	use deferred "$1"
	for new in DMA-FQ DMA; do
		unbind "$1"
		if ! echo $new >"$type" 2>/dev/null; then
			info "the IOMMU does not do $new"
		fi
		bind "$1"
		is state "$(state "$1")" 'attached deferred'
		works "$1"
		! echo $new >"$type" 2>/dev/null || fail 'the type can be changed under the driver'
	done
	detach "$1"
	works "$1"
}

# refused ADDRESS ERRNO: attach fails and the driver has not even noticed.
refused()
{
	was=$(identity "$1")
	listed=$(cat $module/devices)
	is "errno of attach $1" "$(errno_of $module/attach "$1\n")" "$2"
	is 'devices' "$(cat $module/devices)" "$listed"
	is 'the device' "$(identity "$1")" "$was"
}

nonexistent()
{
	for address in ffff:ff:1f.7 0000:ff:00.0 7fffffff:00:00.0; do
		[ ! -e $bus/devices/$address ] || continue
		refused $address ENODEV
	done
}

twice()
{
	attach "$1"
	use premapped "$1"
	refused "$1" EBUSY
	is state "$(state "$1")" 'attached premapped'
	unbind "$1"
	refused "$1" EBUSY
	is state "$(state "$1")" 'armed premapped'
}

# A group with several PCI functions of which one has a driver.
shared()
{
	for group in /sys/kernel/iommu_groups/*; do
		[ "$(find "$group/devices" -type l | wc -l)" -gt 1 ] || continue
		for path in "$group"/devices/*; do
			address=$(basename "$path")
			if [ -n "$vm" ] && [ -n "$(driver_of "$address")" ]; then
				refused "$address" EBUSY
				return
			fi
		done
	done
	skip 'no device that we may touch shares its IOMMU group'
}

vfio()
{
	modprobe vfio-pci 2>/dev/null || skip 'vfio-pci is not available'
	unbind "$1"
	echo vfio-pci >"$bus/devices/$1/driver_override"
	bound=$(bind "$1" && driver_of "$1") || true
	is 'driver' "$bound" vfio-pci
	status=0
	(refused "$1" EBUSY) || status=1

	# Armed first: the user of VFIO goes unhindered.
	unbind "$1"
	attached=$(errno_of $module/attach "$1\n")
	bind "$1"
	state=$(state "$1")
	bound=$(driver_of "$1")

	unbind "$1"
	echo >"$bus/devices/$1/driver_override"
	bind "$1"
	is 'refusal with VFIO bound' $status 0
	is 'errno without a driver' "$attached" 0
	is 'driver when armed' "$bound" vfio-pci
	is 'state with VFIO bound' "$state" 'armed strict'
	is 'state after VFIO' "$(state "$1")" 'attached strict'
	works "$1"
}

# no_address ATTRIBUTE: all that is not a PCI address.
no_address()
{
	attach "$some"
	was=$(identity "$some")
	domain=${some%%:*}
	rest=${some#*:}
	for text in '\n' ' ' "$rest" " $some" "$some " "$some\n\n" "$some x" "$some,$some" "$some\0000" "\0000$some" \
		"0x$some" "+$some" "$domain-$rest" "$domain:$rest:0" "${some%.*}" "${some%.*}." "${some%?}8" "${some%?}00" \
		"${some%?}g" "0000:00:20.0" "0000:100:00.0" "000:00:02.0" "0000:0:02.0" "0000:00:2.0" "100000000:00:02.0" \
		"ffffffff:00:02.0" "0000:00:02.-1" 'all' '*' '\0377\0376' "$(printf '%05000d' 0)"; do
		refuses $module/"$1" "$text"
	done
	is devices "$(cat $module/devices)" "$some attached strict"
	is 'the device' "$(identity "$some")" "$was"
}

not_attached()
{
	was=$(identity "$some")
	refuses $module/detach "$some\n" ENOENT
	refuses $module/detach 'ffff:ff:1f.7\n' ENOENT
	is 'the device' "$(identity "$some")" "$was"
}

# Addresses as others write them.
spelled_otherwise()
{
	accepts $module/attach "$(echo "$some" | tr '[:lower:]' '[:upper:]')"
	is state "$(state "$some")" 'attached strict'
	accepts $module/detach "0000$some\n"
	is state "$(state "$some")" ''
}

all_at_once()
{
	expected=
	for address in $all_devices; do
		attach "$address"
		expected="$expected$address attached strict$newline"
	done
	is devices "$(cat $module/devices)$newline" "$expected"

	# What is given back in the middle leaves the others alone.
	# shellcheck disable=SC2086 # words
	set -- $all_devices
	shift $(($# / 2))
	detach "$1"
	is devices "$(cat $module/devices)$newline" "$(printf '%s' "$expected" | grep -v "^$1 ")$newline"
	attach "$1"

	rmmod dma_map_cache
	for address in $all_devices; do
		[ -n "$(driver_of "$address")" ] || fail "$address has no driver any more"
		! has_directory "$address" || fail "$address is still attached"
		works "$address"
	done
	modprobe dma_map_cache
	is 'devices of a fresh module' "$(cat $module/devices)" ''
}

write_only()
{
	for name in attach detach; do
		! cat $module/$name 2>/dev/null || fail "$name can be read"
	done
	is 'errno of writing devices' "$(errno_of $module/devices "$some\n")" EACCES
}

# One device for each driver, where the second would tell nothing new.
seen=
some=
for address in $all_devices; do
	driver=$(driver_of "$address")
	some=${some:-$address}
	add_case "$driver $address: attach and detach" there_and_back "$address"
	case $seen in
	*" $driver "*) continue ;;
	esac
	seen="$seen $driver "
	add_case "$driver: attached with no driver bound" armed "$address"
	add_case "$driver: removed and found again" replugged "$address"
	add_case "$driver: another type of its group while unbound" retyped "$address"
	add_case "$driver: the strategy survives a rebind, the statistics do not" rebound "$address" cached
done
for strategy in $strategies; do
	add_case "$strategy survives a rebind" rebound "$some" "$strategy"
done
add_case 'attach: nothing is there' nonexistent
add_case 'attach: attached already' twice "$some"
add_case 'attach: shares its IOMMU group' shared
add_case 'attach: owned by VFIO' vfio "$some"
add_case 'attach: not an address' no_address attach
add_case 'detach: not an address' no_address detach
add_case 'detach: not attached' not_attached
add_case 'addresses in other spellings' spelled_otherwise
add_case 'all devices at once, and unloading with all of them' all_at_once
add_case 'files that cannot be read, or written' write_only
run_cases
