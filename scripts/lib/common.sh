# SPDX-License-Identifier: GPL-2.0
# Where things are, and how to give up. Sourced by every script here.
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit

PDIO_TOP=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
PDIO_CACHE=${PDIO_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set PDIO_CACHE}/.cache}/pdio}

# The kernel series built for when nothing else is asked for. The modules fit no older one.
DEFAULT_SERIES=7.2
KERNEL_SERIES=${KERNEL_SERIES:-$DEFAULT_SERIES}

# What goes wrong, then what to do about it, one per argument.
die() {
	printf '%s: %s\n' "${0##*/}" "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  %s\n' "$@" >&2
	exit 1
}

# problem WHAT REMEDY: on one line, for whoever collects them.
problem() { printf '%s\t%s\n' "$1" "$2"; }

# refuse_if PROBLEMS: gives up if there is one.
refuse_if() { [ -z "$1" ] || die "this does not fit:" "${1//$'\t'/$'\n    remedy: '}"; }

# at_least MINIMUM VERSION
at_least() { sort -VC <<<"$1"$'\n'"$2"; }

# hash_of TEXT...: short enough for a file name
hash_of() {
	local sum
	sum=$(printf '%s\n' "$@" | sha256sum)
	echo "${sum:0:12}"
}

case $PDIO_TOP$PDIO_CACHE in
*[[:space:]:]*) die "the kernel's build system accepts no spaces or colons in paths:" "$PDIO_TOP" "$PDIO_CACHE" ;;
esac
mkdir -p "$PDIO_CACHE" || die "no cache directory: set PDIO_CACHE to a place that can be written"
PDIO_CACHE=$(cd -- "$PDIO_CACHE" && pwd -P)

# Each series has a link of its own, so that one checkout's KERNEL_SERIES= changes nothing for another.
# shellcheck disable=SC2034 # for those who source this
sysroot_link=$PDIO_CACHE/sysroot
kernel_link=$PDIO_CACHE/kernel
[ "$KERNEL_SERIES" = "$DEFAULT_SERIES" ] || kernel_link+=-$KERNEL_SERIES
