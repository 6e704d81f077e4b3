# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What the tests of iopf have in common: results in KTAP, and the test device.
#
# A test is a function; add_case names it, run_cases runs all that were named, each in a shell of its
# own with -eu. It fails by `fail`, or by any command that does.

newline='
'
tab='	'
cases=
case_count=0

# add_case NAME COMMAND...
add_case()
{
	local name

	name=$1
	shift
	cases="$cases$name$tab$*$newline"
	case_count=$((case_count + 1))
}

# fail TEXT...: ends the case.
fail()
{
	echo "# $*"
	exit 1
}

# skip_all REASON...: ends the program.
skip_all()
{
	echo 'KTAP version 1'
	echo "1..0 # SKIP $*"
	exit 4
}

# is WHAT VALUE EXPECTED
is()
{
	[ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"
}

run_cases()
{
	local number failures name command

	echo 'KTAP version 1'
	echo "1..$case_count"
	number=0
	failures=0
	while IFS=$tab read -r name command; do
		[ -n "$name" ] || continue
		number=$((number + 1))
		# shellcheck disable=SC2086 # words of the command
		if (set -eu && $command) </dev/null; then
			echo "ok $number $name"
		else
			echo "not ok $number $name"
			failures=$((failures + 1))
		fi
	done <<-end
		$cases
	end
	[ $failures -eq 0 ]
}

# find_device: prints the directory of the test device, if it is there.
find_device()
{
	local candidate

	for candidate in /sys/bus/pci/devices/*; do
		if [ "$(cat "$candidate/vendor")" = 0x1234 ] && [ "$(cat "$candidate/device")" = 0x5ad1 ]; then
			echo "$candidate"
			return
		fi
	done
}

# errno_of FILE TEXT: what writing TEXT, with printf's escapes, ends with: 0 or what dd says.
errno_of()
{
	if printf '%b' "$2" | LC_ALL=C dd of="$1" bs=65536 conv=notrunc 2>"$scratch/error"; then
		echo 0
		return
	fi
	case $(head -n 1 "$scratch/error") in
	*'Invalid argument') echo EINVAL ;;
	*'Permission denied') echo EACCES ;;
	*) head -n 1 "$scratch/error" ;;
	esac
}

# refuses FILE TEXT: writing TEXT is EINVAL, and changes nothing.
refuses()
{
	local was

	was=$(cat "$1")
	is "writing '$2' to ${1##*/}" "$(errno_of "$1" "$2")" EINVAL
	is "${1##*/} after '$2'" "$(cat "$1")" "$was"
}

# accepts FILE TEXT READS: writing TEXT works, and the file reads as READS then.
accepts()
{
	is "writing '$2' to ${1##*/}" "$(errno_of "$1" "$2")" 0
	is "${1##*/} after '$2'" "$(cat "$1")" "$3"
}

device=$(find_device)
[ "$(id -u)" -eq 0 ] || skip_all 'needs root'
[ -n "$device" ] || skip_all 'there is no device svadma: pdio vm --svadma has one'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
