#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a process, or the kernel, does with memory that a device works on at that time.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

# Compressed memory is all there is to swap to.
if [ ! -e /sys/block/zram0 ] && modprobe zram; then
	echo 32M >/sys/block/zram0/disksize
	mkswap /dev/zram0 >/dev/null
	swapon /dev/zram0
fi
exec iopf-test changes sva mirror pinned
