#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What is shown of a device and of who uses it, and that what is set is done.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test shown sva mirror pinned
