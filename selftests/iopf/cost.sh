#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a binding costs the kernel, and that there can be a thousand of them.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test cost sva mirror pinned
