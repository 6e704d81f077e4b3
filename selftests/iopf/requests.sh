#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What the driver refuses.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test requests sva mirror pinned
