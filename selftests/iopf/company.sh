#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Many processes that use a device at once: what each may have, and that none reaches another.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test company sva mirror pinned
