/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads, beyond what the kernel's own bindings crate has. Types
 * that the kernel's crate has are taken from there: see the rule in Kbuild.
 */

#include <linux/dma-map-ops.h>
#include <linux/hmm.h>
#include <linux/iova.h>
#include <linux/kthread.h>
#include <linux/mdev.h>
#include <linux/vfio.h>

#include <kvm/iodev.h>

#include "../../dma-map-cache/include/linux/dma-map-multi.h"
#include "../../dma-map-cache/trace.h"
#include "../../iopf/include/linux/iopf.h"
#include "../../iopf/trace.h"
#include "../../vpio/trace.h"
#include "../helpers/helpers.h"
