// SPDX-License-Identifier: GPL-2.0
/*
 * One object for all helpers, as in the kernel's own rust/helpers.
 */

#include "helpers.h"

#include "bottom-half.c"
#include "device.c"
#include "dma-map-ops.c"
#include "dma-mapping.c"
#include "interrupt.c"
#include "iommu.c"
#include "kthread.c"
#include "mm.c"
#include "pci.c"
#include "percpu.c"
#include "spinlock.c"
#include "vfio.c"
#include "wait.c"
#include "workqueue.c"
