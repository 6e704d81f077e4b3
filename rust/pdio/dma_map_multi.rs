// SPDX-License-Identifier: GPL-2.0

//! Mapping many buffers by one call: both sides of `dma_map_multi()`.
//!
//! An implementation of the DMA API, see [`dma_map_ops`](crate::dma_map_ops), serves it through
//! [`export_dma_map_multi!`](crate::export_dma_map_multi); a driver calls [`map_multi`] and
//! [`unmap_multi`].
//!
//! C header: `dma-map-cache/include/linux/dma-map-multi.h`

use core::{
    ffi::c_void,
    slice, //
};

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*, //
};

use crate::{
    bindings,
    device::DmaDevice,
    dma_map_ops::{
        Direction,
        DmaAddress,
        DmaMapOps,
        DmaOps,
        Masks, //
    }, //
};

/// A buffer, and its address for the device while it is mapped.
#[repr(transparent)]
pub struct Buffer(bindings::dma_multi_buffer);

impl Buffer {
    /// A buffer of `len` bytes that is not mapped.
    #[inline]
    pub const fn new(phys: u64, len: u64) -> Self {
        Self(bindings::dma_multi_buffer {
            phys,
            len: len as usize,
            dma_addr: DmaAddress::MAPPING_ERROR.0,
        })
    }

    /// Physical address of the first byte.
    #[inline(always)]
    pub fn phys(&self) -> u64 {
        self.0.phys
    }

    /// Number of bytes.
    #[inline(always)]
    pub fn len(&self) -> u64 {
        self.0.len as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Where the device finds the buffer.
    #[inline(always)]
    pub fn dma_address(&self) -> DmaAddress {
        DmaAddress(self.0.dma_addr)
    }

    /// Tells where the device finds the buffer.
    #[inline(always)]
    pub fn set_dma_address(&mut self, dma_address: DmaAddress) {
        self.0.dma_addr = dma_address.0;
    }
}

/// Maps all buffers for a device, or none: `dma_map_multi()`. Does not sleep.
///
/// # Errors
///
/// `EINVAL` if there is no buffer or the device has no DMA mask, `ENOMEM`.
///
/// # Safety
///
/// A driver is bound to the device, or its lock is held by who has seen to it that the device can do
/// DMA. The buffers are RAM that stays allocated until they are unmapped.
// In the crate of who calls it: the symbol is in dma_map_cache.ko, which not every module needs.
#[inline]
pub unsafe fn map_multi(
    device: &DmaDevice,
    buffers: &mut [Buffer],
    direction: Direction,
    attrs: usize,
) -> Result {
    // SAFETY: By the safety requirements; `Buffer` is transparent.
    to_result(unsafe {
        bindings::dma_map_multi(
            device.as_raw(),
            buffers.as_mut_ptr().cast(),
            u32::try_from(buffers.len())?,
            direction.as_raw(),
            attrs,
        )
    })
}

/// Unmaps buffers, in any grouping: `dma_unmap_multi()`. Does not sleep.
///
/// # Safety
///
/// As for [`map_multi`]; the buffers are mapped for the device, with this direction.
// As for `map_multi`.
#[inline]
pub unsafe fn unmap_multi(
    device: &DmaDevice,
    buffers: &mut [Buffer],
    direction: Direction,
    attrs: usize,
) {
    let Ok(n) = u32::try_from(buffers.len()) else {
        return;
    };

    // SAFETY: By the safety requirements; `Buffer` is transparent.
    unsafe {
        bindings::dma_unmap_multi(
            device.as_raw(),
            buffers.as_mut_ptr().cast(),
            n,
            direction.as_raw(),
            attrs,
        );
    }
}

/// Keeps all buffers mapped for a device, or none, until [`release`]: `dma_retain()`. May sleep.
///
/// # Errors
///
/// `EOPNOTSUPP` if the device is not attached to dma-map-cache, and what [`DmaMapOps::retain`] says.
///
/// # Safety
///
/// As for [`map_multi`], until the buffers are released.
// As for `map_multi`.
#[inline]
pub unsafe fn retain(device: &DmaDevice, buffers: &[Buffer], direction: Direction) -> Result {
    // SAFETY: By the safety requirements; `Buffer` is transparent.
    to_result(unsafe {
        bindings::dma_retain(
            device.as_raw(),
            buffers.as_ptr().cast(),
            u32::try_from(buffers.len())?,
            direction.as_raw(),
        )
    })
}

/// Ends what [`retain`] began: `dma_release()`.
///
/// # Safety
///
/// As for [`map_multi`]; the buffers are retained for the device, with this direction.
// As for `map_multi`.
#[inline]
pub unsafe fn release(device: &DmaDevice, buffers: &[Buffer], direction: Direction) {
    let Ok(n) = u32::try_from(buffers.len()) else {
        return;
    };

    // SAFETY: By the safety requirements; `Buffer` is transparent.
    unsafe {
        bindings::dma_release(
            device.as_raw(),
            buffers.as_ptr().cast(),
            n,
            direction.as_raw(),
        );
    }
}

/// Whether a device is served by a `DmaOps<T>`.
///
/// # Safety
///
/// `dev` is a valid `struct device`, which is neither attached nor detached during the call.
#[inline]
pub unsafe fn is_served_by<T: DmaMapOps>(dev: *const c_void) -> bool {
    // SAFETY: By the safety requirement.
    unsafe { DmaOps::<T>::is_installed(dev.cast()) }
}

/// Maps buffers that C hands over. Returns 0 or a negative errno.
///
/// # Safety
///
/// `dev` is served by a `DmaOps<T>` and has a DMA mask, `buffers` is an array of `n`
/// `struct dma_multi_buffer` that nobody else uses, and `direction` is a direction.
#[inline]
pub unsafe fn serve_map<T: DmaMapOps>(
    dev: *mut c_void,
    buffers: *mut c_void,
    n: u32,
    direction: i32,
) -> i32 {
    // SAFETY: By the safety requirements; `Buffer` is transparent.
    let (ops, buffers) = unsafe {
        (
            DmaOps::<T>::of(dev.cast()),
            slice::from_raw_parts_mut(buffers.cast(), n as usize),
        )
    };

    let (masks, direction) = (Masks::of(dev.cast()), Direction::from_raw(direction));

    from_result(|| ops.map_multi(masks, buffers, direction).map(|()| 0))
}

/// Unmaps buffers that C hands over.
///
/// # Safety
///
/// As for [`serve_map`]; the buffers are mapped for the device.
#[inline]
pub unsafe fn serve_unmap<T: DmaMapOps>(dev: *mut c_void, buffers: *mut c_void, n: u32) {
    // SAFETY: By the safety requirements; `Buffer` is transparent.
    let (ops, buffers) = unsafe {
        (
            DmaOps::<T>::of(dev.cast()),
            slice::from_raw_parts_mut(buffers.cast(), n as usize),
        )
    };

    ops.unmap_multi(buffers);
}

/// Retains buffers that C hands over. Returns 0 or a negative errno.
///
/// # Safety
///
/// As for [`serve_map`].
#[inline]
pub unsafe fn serve_retain<T: DmaMapOps>(
    dev: *mut c_void,
    buffers: *const c_void,
    n: u32,
    direction: i32,
) -> i32 {
    // SAFETY: By the safety requirements; `Buffer` is transparent.
    let (ops, buffers) = unsafe {
        (
            DmaOps::<T>::of(dev.cast()),
            slice::from_raw_parts(buffers.cast(), n as usize),
        )
    };

    let (masks, direction) = (Masks::of(dev.cast()), Direction::from_raw(direction));

    from_result(|| ops.retain(masks, buffers, direction).map(|()| 0))
}

/// Releases buffers that C hands over.
///
/// # Safety
///
/// As for [`serve_map`]; the buffers are retained for the device.
#[inline]
pub unsafe fn serve_release<T: DmaMapOps>(
    dev: *mut c_void,
    buffers: *const c_void,
    n: u32,
    direction: i32,
) {
    // SAFETY: By the safety requirements; `Buffer` is transparent.
    let (ops, buffers) = unsafe {
        (
            DmaOps::<T>::of(dev.cast()),
            slice::from_raw_parts(buffers.cast(), n as usize),
        )
    };

    ops.release_retained(buffers, Direction::from_raw(direction));
}

/// Defines what `dma-map-cache/dma-map-multi.c` calls, for devices that a
/// [`DmaOps`] of a type serves. Once per module.
///
/// ```ignore
/// export_dma_map_multi!(Attachment);
/// ```
#[macro_export]
macro_rules! export_dma_map_multi {
    ($ops:ty) => {
        const _: () = {
            use ::core::ffi::c_void;

            /// See `dma-map-multi.h`.
            ///
            /// # Safety
            ///
            /// A valid device, during which it is neither attached nor detached.
            #[no_mangle]
            unsafe extern "C" fn dma_map_cache_serves(dev: *const c_void) -> bool {
                // SAFETY: By the safety requirement.
                unsafe { $crate::dma_map_multi::is_served_by::<$ops>(dev) }
            }

            /// See `dma-map-multi.h`.
            ///
            /// # Safety
            ///
            /// A device that is served and has a DMA mask, an array of `n` buffers, a direction.
            #[no_mangle]
            unsafe extern "C" fn dma_map_cache_map_multi(
                dev: *mut c_void,
                buffers: *mut c_void,
                n: u32,
                direction: i32,
            ) -> i32 {
                // SAFETY: By the safety requirement.
                unsafe { $crate::dma_map_multi::serve_map::<$ops>(dev, buffers, n, direction) }
            }

            /// See `dma-map-multi.h`.
            ///
            /// # Safety
            ///
            /// A device that is served, an array of `n` buffers that are mapped for it.
            #[no_mangle]
            unsafe extern "C" fn dma_map_cache_unmap_multi(
                dev: *mut c_void,
                buffers: *mut c_void,
                n: u32,
                _direction: i32,
            ) {
                // SAFETY: By the safety requirement.
                unsafe { $crate::dma_map_multi::serve_unmap::<$ops>(dev, buffers, n) }
            }

            /// See `dma-map-multi.h`.
            ///
            /// # Safety
            ///
            /// As for `dma_map_cache_map_multi()`.
            #[no_mangle]
            unsafe extern "C" fn dma_map_cache_retain(
                dev: *mut c_void,
                buffers: *const c_void,
                n: u32,
                direction: i32,
            ) -> i32 {
                // SAFETY: By the safety requirement.
                unsafe { $crate::dma_map_multi::serve_retain::<$ops>(dev, buffers, n, direction) }
            }

            /// See `dma-map-multi.h`.
            ///
            /// # Safety
            ///
            /// As for `dma_map_cache_map_multi()`; the buffers are retained.
            #[no_mangle]
            unsafe extern "C" fn dma_map_cache_release(
                dev: *mut c_void,
                buffers: *const c_void,
                n: u32,
                direction: i32,
            ) {
                // SAFETY: By the safety requirement.
                unsafe { $crate::dma_map_multi::serve_release::<$ops>(dev, buffers, n, direction) }
            }
        };
    };
}
pub use export_dma_map_multi;
