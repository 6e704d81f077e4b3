// SPDX-License-Identifier: GPL-2.0

//! Tracepoints.
//!
//! The events are declared in C (`trace.h` of each module); a tracepoint that is off costs one
//! no-operation instruction.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use kernel::jump_label::static_branch_unlikely;

use crate::{
    bindings,
    device::DmaDevice, //
};

/// Defines safe functions that fire events about a device.
macro_rules! device_events {
    ($($(#[$attr:meta])* $name:ident => $event:ident, $do_trace:ident (
        $($arg:ident: $type:ty),*
    );)*) => {$(
        $(#[$attr])*
        #[inline(always)]
        pub fn $name(device: &DmaDevice $(, $arg: $type)*) {
            // SAFETY: The key is that of a tracepoint, which C defines.
            let on = unsafe {
                static_branch_unlikely!(bindings::$event, bindings::tracepoint, key)
            };

            if on {
                // SAFETY: The device is valid, and the event uses it during the call only.
                unsafe { bindings::$do_trace(device.as_raw() $(, $arg)*) };
            }
        }
    )*};
}

/// Events of dma-map-cache.
pub mod dma_map_cache {
    use super::*;

    device_events! {
        /// A buffer is given to the device.
        map => __tracepoint_dma_map_cache_map, rust_do_trace_dma_map_cache_map(
            iova: u64, len: u64
        );
        /// A buffer is taken back from the device.
        unmap => __tracepoint_dma_map_cache_unmap, rust_do_trace_dma_map_cache_unmap(
            iova: u64, len: u64
        );
        /// Idle pages are withdrawn.
        evict => __tracepoint_dma_map_cache_evict, rust_do_trace_dma_map_cache_evict(pages: u64);
        /// The IOTLB is invalidated.
        flush => __tracepoint_dma_map_cache_flush, rust_do_trace_dma_map_cache_flush();
        /// Another strategy is chosen.
        switch => __tracepoint_dma_map_cache_switch, rust_do_trace_dma_map_cache_switch(
            from: u8, to: u8
        );
    }
}
