#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a device finds in the memory of a process: first touch, steady state, what is not there, other
# processes.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test memory sva mirror pinned
