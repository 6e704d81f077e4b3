// SPDX-License-Identifier: GPL-2.0

//! Tracepoints.
//!
//! The events are declared in C (`trace.h` of each module); a tracepoint that is off costs one
//! no-operation instruction.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use kernel::{
    jump_label::static_branch_unlikely,
    prelude::*, //
};

use crate::{
    bindings,
    device::DmaDevice,
    dma_map_ops::DmaAddress, //
};

/// Whether somebody listens to an event.
macro_rules! is_on {
    ($event:ident) => {
        // SAFETY: The key is that of a tracepoint, which C defines.
        unsafe { static_branch_unlikely!(bindings::$event, bindings::tracepoint, key) }
    };
}

/// Events of dma-map-cache.
pub mod dma_map_cache {
    use super::*;

    /// Whether somebody listens to [`map`].
    #[inline(always)]
    pub fn map_is_on() -> bool {
        is_on!(__tracepoint_dma_map_cache_map)
    }

    /// A buffer is given to the device.
    #[inline(always)]
    pub fn map(device: &DmaDevice, iova: DmaAddress, len: u64) {
        if map_is_on() {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_dma_map_cache_map(device.as_raw(), iova.0, len) };
        }
    }

    /// Whether somebody listens to [`unmap`].
    #[inline(always)]
    pub fn unmap_is_on() -> bool {
        is_on!(__tracepoint_dma_map_cache_unmap)
    }

    /// A buffer is taken back from the device.
    #[inline(always)]
    pub fn unmap(device: &DmaDevice, iova: DmaAddress, len: u64) {
        if unmap_is_on() {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_dma_map_cache_unmap(device.as_raw(), iova.0, len) };
        }
    }

    /// Idle pages are withdrawn.
    #[inline(always)]
    pub fn evict(device: &DmaDevice, pages: u64) {
        if is_on!(__tracepoint_dma_map_cache_evict) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_dma_map_cache_evict(device.as_raw(), pages) };
        }
    }

    /// The IOTLB is invalidated.
    #[inline(always)]
    pub fn flush(device: &DmaDevice) {
        if is_on!(__tracepoint_dma_map_cache_flush) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_dma_map_cache_flush(device.as_raw()) };
        }
    }

    /// Another strategy is chosen.
    #[inline(always)]
    pub fn switch(device: &DmaDevice, from: u8, to: u8) {
        if is_on!(__tracepoint_dma_map_cache_switch) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_dma_map_cache_switch(device.as_raw(), from, to) };
        }
    }
}

/// Events of iopf.
pub mod iopf {
    use super::*;

    /// A device asks for a page.
    #[inline(always)]
    pub fn fault(device: &DmaDevice, pasid: u32, address: u64, write: bool) {
        if is_on!(__tracepoint_iopf_fault) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_iopf_fault(device.as_raw(), pasid, address, write) };
        }
    }

    /// A group of requests is answered, `ns` nanoseconds after it came, when `mapped` pages were
    /// mapped for it.
    #[inline(always)]
    pub fn resolved(
        device: &DmaDevice,
        pasid: u32,
        requests: u64,
        mapped: u64,
        ns: u64,
        result: Result,
    ) {
        if is_on!(__tracepoint_iopf_resolved) {
            let error = result.err().map_or(0, Error::to_errno);

            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe {
                bindings::rust_do_trace_iopf_resolved(
                    device.as_raw(),
                    pasid,
                    requests,
                    mapped,
                    ns,
                    error,
                )
            };
        }
    }

    /// Pages are taken from a device to keep within the budget.
    #[inline(always)]
    pub fn evicted(device: &DmaDevice, pasid: u32, address: u64, pages: u64) {
        if is_on!(__tracepoint_iopf_evicted) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_iopf_evicted(device.as_raw(), pasid, address, pages) };
        }
    }

    /// Pages are taken from a device because the process has them no more, or not so.
    #[inline(always)]
    pub fn invalidated(device: &DmaDevice, pasid: u32, address: u64, pages: u64) {
        if is_on!(__tracepoint_iopf_invalidated) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe {
                bindings::rust_do_trace_iopf_invalidated(device.as_raw(), pasid, address, pages)
            };
        }
    }
}

/// Events of vpio. A guest is named by its number.
pub mod vpio {
    use super::*;

    /// A guest has accessed a port, in the way of number `route`.
    #[inline(always)]
    pub fn access(
        device: &DmaDevice,
        guest: u8,
        route: u8,
        is_write: bool,
        port: u8,
        bytes: u8,
        value: u32,
    ) {
        if is_on!(__tracepoint_vpio_access) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe {
                bindings::rust_do_trace_vpio_access(
                    device.as_raw(),
                    guest,
                    route,
                    is_write,
                    port,
                    bytes,
                    value,
                )
            };
        }
    }

    /// A write of a guest was dropped.
    #[inline(always)]
    pub fn denied(device: &DmaDevice, guest: u8, port: u8, bytes: u8, value: u32) {
        if is_on!(__tracepoint_vpio_denied) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe {
                bindings::rust_do_trace_vpio_denied(device.as_raw(), guest, port, bytes, value)
            };
        }
    }

    /// A guest may access the ports of these bits directly from now on, and no others.
    #[inline(always)]
    pub fn ports(device: &DmaDevice, guest: u8, first: u16, direct: u64) {
        if is_on!(__tracepoint_vpio_ports) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_vpio_ports(device.as_raw(), guest, first, direct) };
        }
    }

    /// The card has changed hands, which took `ns` nanoseconds; -1 is nobody.
    #[inline(always)]
    pub fn switch(device: &DmaDevice, from: i32, to: i32, ns: u64) {
        if is_on!(__tracepoint_vpio_switch) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_vpio_switch(device.as_raw(), from, to, ns) };
        }
    }

    /// A guest is interrupted.
    #[inline(always)]
    pub fn interrupt(device: &DmaDevice, guest: u8) {
        if is_on!(__tracepoint_vpio_interrupt) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_vpio_interrupt(device.as_raw(), guest) };
        }
    }

    /// A guest gets the card, and so many frames are still held for it.
    #[inline(always)]
    pub fn frames(device: &DmaDevice, guest: u8, held: u32) {
        if is_on!(__tracepoint_vpio_frames) {
            // SAFETY: The device is valid, and the event uses it during the call only.
            unsafe { bindings::rust_do_trace_vpio_frames(device.as_raw(), guest, held) };
        }
    }
}
