#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What is counted of faults, of what is held, and of a stream while pages are taken away under it.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test figures sva mirror pinned
