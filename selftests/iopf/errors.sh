#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What comes of a device that errs, that is left without answers, or that receives more than it is let.

# shellcheck source=program.sh
. "$(dirname "$0")/program.sh"

exec iopf-test errors sva mirror pinned
