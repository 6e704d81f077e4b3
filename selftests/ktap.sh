# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3043 # every shell that is a /bin/sh somewhere has "local"
#
# What the tests of all suites have in common: cases, and results in KTAP.
#
# A test is a function; add_case names it, run_cases runs all that were named, each in a shell of its
# own with -eu. It fails by `fail`, or by any command that does. A word after the program's name picks
# the cases whose names contain it.
#
# A suite's library sources this, sets `scratch` to a directory, and may define what is done around each
# case: begin_case, and end_case, by which a case may fail as well.

newline='
'
tab='	'
scratch=
only=${1:-}
cases=
case_count=0
exec 3>&1

# --- Results -----------------------------------------------------------------

# add_case NAME COMMAND...
add_case()
{
	case_name=$1
	shift
	case $case_name in
	*"$only"*) ;;
	*) return ;;
	esac
	cases="$cases$case_name$tab$*$newline"
	case_count=$((case_count + 1))
}

# info TEXT...: a line for the reader, even from within $(...).
info()
{
	echo "# $*" >&3
}

# fail TEXT...: ends the case.
fail()
{
	info "$*"
	exit 1
}

# skip REASON...: ends the case.
skip()
{
	echo "$*" >"$scratch/reason"
	exit 4
}

# skip_all REASON...: ends the program.
skip_all()
{
	echo 'KTAP version 1'
	echo "1..0 # SKIP $*"
	exit 4
}

# need COMMAND...: ends the program if one is missing.
need()
{
	local command

	for command in "$@"; do
		command -v "$command" >/dev/null || skip_all "needs $command"
	done
}

# is WHAT VALUE EXPECTED
is()
{
	[ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"
}

# at_most WHAT VALUE LIMIT
at_most()
{
	[ "$2" -le "$3" ] || fail "$1 is $2, more than $3"
}

# at_least WHAT VALUE LIMIT
at_least()
{
	[ "$2" -ge "$3" ] || fail "$1 is $2, less than $3"
}

# begin_case NUMBER NAME
begin_case()
{
	:
}

end_case()
{
	:
}

run_cases()
{
	echo 'KTAP version 1'
	echo "1..$case_count"
	number=0
	failures=0
	while IFS=$tab read -r case_name case_command; do
		[ -n "$case_name" ] || continue
		number=$((number + 1))
		: >"$scratch/reason"
		begin_case $number "$case_name"

		set +e
		(
			trap - EXIT
			set -eu
			eval "$case_command"
		) </dev/null
		status=$?
		end_case || status=1
		set -e

		case $status in
		0) echo "ok $number $case_name" ;;
		4) echo "ok $number $case_name # SKIP $(cat "$scratch/reason")" ;;
		*)
			echo "not ok $number $case_name"
			failures=$((failures + 1))
			;;
		esac
	done <<-EOF_CASES
	$cases
	EOF_CASES
	[ $failures -eq 0 ]
}

# --- Time --------------------------------------------------------------------

# now_ms: milliseconds since boot, to ten.
now_ms()
{
	local uptime

	read -r uptime _ </proc/uptime
	echo "${uptime%.*}${uptime#*.}0"
}

# eventually SECONDS COMMAND...: waits until COMMAND succeeds.
eventually()
{
	local give_up

	give_up=$(($(now_ms) + $1 * 1000))
	shift
	until "$@"; do
		[ "$(now_ms)" -lt "$give_up" ] || return 1
		sleep 0.05
	done
}

# --- Files -------------------------------------------------------------------

# show FILE: prints its lines, without a program, for there are many to be read.
show()
{
	local line

	while IFS= read -r line; do
		echo "$line"
	done <"$1"
}

# errno_of FILE TEXT: what write() of TEXT, with printf's escapes, ends with: 0 or an errno's name.
errno_of()
{
	local error

	printf '%b' "$2" >"$scratch/input"
	if LC_ALL=C dd if="$scratch/input" of="$1" bs=65536 conv=notrunc 2>"$scratch/error"; then
		echo 0
		return
	fi
	IFS= read -r error <"$scratch/error" || true
	case $error in
	*'Invalid argument') echo EINVAL ;;
	*'Device or resource busy' | *'Resource busy') echo EBUSY ;;
	*'No such device') echo ENODEV ;;
	*'No such file or directory') echo ENOENT ;;
	*'No space left on device') echo ENOSPC ;;
	*'Operation not supported' | *'Not supported') echo EOPNOTSUPP ;;
	*'Permission denied') echo EACCES ;;
	*'Operation not permitted') echo EPERM ;;
	*'Input/output error' | *'I/O error') echo EIO ;;
	*) echo "$error" ;;
	esac
}

# refuses FILE TEXT [ERRNO]: writing TEXT fails so, with EINVAL unless told, and changes nothing that can
# be read. What is refused is many texts: no program runs but the one that writes.
refuses()
{
	local text was

	text=$(printf '%.40s' "$2")
	was=$(show "$1" 2>/dev/null || true)
	is "errno of writing '$text' to ${1##*/}" "$(errno_of "$1" "$2")" "${3:-EINVAL}"
	is "${1##*/} after '$text'" "$(show "$1" 2>/dev/null || true)" "$was"
}

# accepts FILE TEXT [READS]: writing TEXT works, and the file reads as READS then, if it can be read.
accepts()
{
	is "errno of writing '$2' to ${1##*/}" "$(errno_of "$1" "$2")" 0
	[ $# -eq 2 ] || is "${1##*/} after '$2'" "$(show "$1")" "$3"
}
