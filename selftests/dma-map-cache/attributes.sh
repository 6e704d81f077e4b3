#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Every file in sysfs takes what its description says and refuses everything else, with the error
# that belongs to it and without a change.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# shellcheck disable=SC2086 # words
set -- $all_devices
device=$1
directory=$bus/devices/$device/dma_map_cache

# What is no decimal number at all.
no_numbers='\n| |  4096|4096 |4096\n\n|4096\t|+4096|-4096|-1|-0|0x1000|0X1000|1e3|4096.0|4,096|4k|4096x|x4096|a
4096 4096|4096;|"4096"|4096\0000|\00004096|\0377\0376|٤٠٩٦|none|max|18446744073709551616
99999999999999999999999999|100000000000000000000000000000000000000000'

# number NAME DEFAULT MIN MAX STEP
number()
{
	attach "$device"
	file=$directory/$1
	is "default of $1" "$(cat "$file")" "$2"

	saved_ifs=$IFS
	IFS="|$newline"
	for text in $no_numbers; do
		refuses "$file" "$text"
	done
	IFS=$saved_ifs
	refuses "$file" "$(printf '%04000d' "$2")x"
	# More than a page arrives in pieces.
	refuses "$file" "$(printf '%09000d' 0 | tr 0 9)"

	[ "$3" -eq 0 ] || refuses "$file" $(($3 - 1))
	refuses "$file" $(($4 + $5))
	refuses "$file" $(($4 + 1))
	# Values that are in range once the high bits are lost.
	refuses "$file" $((4294967296 * 4294967 + $2))
	refuses "$file" 18446744073709551615
	refuses "$file" 9223372036854775808
	if [ "$5" -gt 1 ]; then
		for value in 1 $(($5 - 1)) $(($5 + 1)) $(($2 + $5 / 2)) $(($4 - 1)); do
			refuses "$file" $value
		done
	fi

	for value in "$3" "$4" $(($3 + $5)) $(($4 - $5)) "$2"; do
		accepts "$file" "$value\n" "$value"
		accepts "$file" "$value" "$value"
	done
	accepts "$file" "000$2\n" "$2"

	# Settings belong to the device as long as it is attached.
	detach "$device"
	attach "$device"
	is "$1 when attached again" "$(cat "$file")" "$2"
}

names()
{
	attach "$device"
	file=$directory/strategy
	is 'the list' "$(tr -d '[]' <"$file")" "$strategies"

	for strategy in $strategies; do
		accepts "$file" "$strategy\n"
		is "strategy after $strategy" "$(sed 's/.*\[\(.*\)\].*/\1/' "$file")" "$strategy"
		is 'the list without brackets' "$(tr -d '[]' <"$file")" "$strategies"
		accepts "$file" "$strategy"
		for text in "${strategy%?}\n" "$strategy " "${strategy}x\n" "[$strategy]\n"; do
			refuses "$file" "$text"
		done
	done

	for text in '\n' ' ' 'stric' 's' ' strict' '\tstrict' 'strict\n\n' 'strict\r\n' 'strict\0000' '\0000strict' \
		'strict strict' 'strict,cached' 'STRICT\n' 'Strict\n' 'none\n' 'identity\n' '0\n' '1\n' '-1\n' \
		'\0377\0376\n' "$strategies\n" "$(cat "$file")\n" "strict$(printf '%05000d' 0)"; do
		refuses "$file" "$text"
	done
}

permissions()
{
	attach "$device"
	for file in "$directory"/statistics/* "$directory"/unsettled_pages $module/devices; do
		is "errno of writing ${file##*/}" "$(errno_of "$file" '0\n')" EACCES
	done
	for file in "$directory"/statistics/* "$directory"/unsettled_pages; do
		[ "${file##*/}" != exposure_histogram ] || continue
		cat "$file" >"$scratch/text"
		grep -q -x '[0-9][0-9]*' "$scratch/text" || fail "${file##*/} is no number: $(cat "$scratch/text")"
		is "lines in ${file##*/}" "$(wc -l <"$scratch/text")" 1
	done
	for file in "$directory"/* "$directory"/statistics/* "$module"/*; do
		[ -f "$file" ] || continue
		mode=$(stat -c %a "$file")
		case ${file##*/} in
		attach | detach) is "mode of ${file##*/}" "$mode" 200 ;;
		strategy | deferred_* | cached_* | persistent_* | pool_m* | contiguous_* | exposure_limit_* | retain_*) is "mode of ${file##*/}" "$mode" 644 ;;
		*) is "mode of ${file##*/}" "$mode" 444 ;;
		esac
	done
}

# A file that is open when its device goes away.
stale()
{
	attach "$device"
	exec 4<"$directory/statistics/maps" 5>"$directory/strategy"
	detach "$device"
	! cat <&4 2>/dev/null || fail 'the statistics can be read after detach'
	! echo cached 2>/dev/null >&5 || fail 'the strategy can be set after detach'
	exec 4<&- 5>&-
	is 'devices' "$(cat $module/devices)" ''
}

# Every file that there is has a description, and every description a file.
described()
{
	cat "$here"/../../Documentation/ABI/testing/sysfs-*dma-map-cache "$here"/sysfs-*dma-map-cache \
		>"$scratch/abi" 2>/dev/null || true
	[ -s "$scratch/abi" ] || skip 'Documentation/ABI/testing is not here'

	attach "$device"
	{
		(cd "$directory" && find . -type f) | sed 's,^\./,/sys/bus/pci/devices/.../dma_map_cache/,'
		find $module -type f
	} >"$scratch/files"
	# A directory may be described as well; its name ends in a slash.
	sed -n 's/^What:[[:space:]]*//p' "$scratch/abi" | grep -v '/$' >"$scratch/described"
	{
		lacking "$scratch/files" "$scratch/described" | sed 's/^/not described: /'
		lacking "$scratch/described" "$scratch/files" | sed 's/^/not there: /'
	} >"$scratch/lacking"
	[ ! -s "$scratch/lacking" ] || fail "$(tr '\n' ' ' <"$scratch/lacking")"
}

add_case 'strategy' names
add_case 'deferred_max_unmaps' number deferred_max_unmaps 256 1 1024 1
add_case 'deferred_max_us' number deferred_max_us 10000 100 1000000 1
add_case 'cached_budget_bytes' number cached_budget_bytes 67108864 0 1099511627776 4096
add_case 'cached_max_age_ms' number cached_max_age_ms 10000 1 3600000 1
add_case 'retain_budget_bytes' number retain_budget_bytes 67108864 0 1099511627776 4096
add_case 'persistent_cap_bytes' number persistent_cap_bytes 1073741824 0 1099511627776 4096
add_case 'pool_min_bytes' number pool_min_bytes 1048576 0 268435456 65536
add_case 'pool_max_bytes' number pool_max_bytes 67108864 0 268435456 65536
add_case 'pool_max_buffer_bytes' number pool_max_buffer_bytes 16384 256 65536 256
add_case 'contiguous_max_unmaps' number contiguous_max_unmaps 64 1 512 1
add_case 'exposure_limit_us' number exposure_limit_us 0 0 3600000000 1
add_case 'exposure_limit_pages' number exposure_limit_pages 16384 0 268435456 1
add_case 'permissions' permissions
add_case 'files that are open when their device goes' stale
add_case 'every file is described' described
run_cases
