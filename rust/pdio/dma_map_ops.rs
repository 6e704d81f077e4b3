// SPDX-License-Identifier: GPL-2.0

//! An implementation of the DMA API for one device.
//!
//! A type implements [`DmaMapOps`] and is installed under a device by [`DmaOps::install`]; from
//! then on every DMA API call of the device's driver ends up in it. Synchronization is not offered
//! (`sync_*` are no operations on cache-coherent devices), so the core skips these calls; P2P DMA
//! and `dma_iova_*` are refused by the core for devices with such operations, and drivers fall
//! back as they have to anyway.
//!
//! C header: [`include/linux/dma-map-ops.h`](srctree/include/linux/dma-map-ops.h)

use core::{
    ffi::c_void,
    marker::PhantomPinned,
    ops::Deref,
    ptr, //
};

use kernel::{
    dma::DataDirection,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

use crate::{
    bindings,
    coherent::{
        Memory,
        Piece, //
    },
    device::LockedDevice,
    scatterlist::EntryList, //
};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Memory.
    Memory,
    /// Registers of another device: `dma_map_resource()`.
    Mmio,
}

/// How far a device can reach.
///
/// Read anew for each call, because a driver may change its masks at any time.
#[derive(Clone, Copy)]
pub struct Masks(*mut bindings::device);

impl Masks {
    /// The last address that the device can send.
    #[inline(always)]
    pub fn streaming(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`, and the core has checked
        // that it has a mask.
        unsafe { *(*self.0).dma_mask }
    }

    /// One less than the boundary that no segment of a list may cross.
    #[inline]
    pub fn segment_boundary(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`.
        unsafe { bindings::pdio_dma_get_seg_boundary(self.0) }
    }

    /// The last address that the device can send for coherent buffers.
    fn coherent(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`.
        unsafe { (*self.0).coherent_dma_mask }
    }
}

/// The operations. Those for streaming buffers are called in any context.
pub trait DmaMapOps: Send + Sync {
    /// Maps a buffer of `len` bytes and returns its address for the device, or [`None`] if there is
    /// no memory or the buffer is out of the device's reach.
    fn map(&self, masks: Masks, phys: u64, len: u64, direction: DataDirection) -> Option<u64>;

    /// Takes down what [`DmaMapOps::map`] returned.
    fn unmap(&self, dma_address: u64, len: u64);

    /// Maps all entries and sets their addresses.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: nothing is mapped.
    fn map_list(&self, masks: Masks, list: EntryList<'_>, direction: DataDirection) -> Result;

    /// Takes down what [`DmaMapOps::map_list`] mapped.
    fn unmap_list(&self, list: EntryList<'_>);

    /// Maps pieces of memory or registers, one after the other in IOVA space, for long. Returns
    /// the address of the first byte, not above `limit`.
    fn map_fixed(
        &self,
        limit: u64,
        pieces: &mut [Piece],
        direction: DataDirection,
        target: Target,
    ) -> Option<u64>;

    /// Takes down what [`DmaMapOps::map_fixed`] returned for pieces of `len` bytes in all.
    fn unmap_fixed(&self, dma_address: u64, len: u64);
}

/// A type that implements [`DmaMapOps`], and the table by which the kernel calls it.
///
/// The table is part of the object, so that a call finds the object from the device in one load.
#[pin_data]
#[repr(C)]
pub struct DmaOps<T> {
    table: bindings::dma_map_ops,
    #[pin]
    inner: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The table is constant.
unsafe impl<T: Send> Send for DmaOps<T> {}

// SAFETY: The table is constant.
unsafe impl<T: Sync> Sync for DmaOps<T> {}

/// A buffer length that is at least one byte, so that it touches a page.
#[inline(always)]
fn at_least_one_byte(len: usize) -> u64 {
    len as u64 | u64::from(len == 0)
}

/// The direction of a call, which the core has checked.
#[inline(always)]
fn direction_of(direction: bindings::dma_data_direction) -> DataDirection {
    match direction {
        bindings::dma_data_direction_DMA_TO_DEVICE => DataDirection::ToDevice,
        bindings::dma_data_direction_DMA_FROM_DEVICE => DataDirection::FromDevice,
        _ => DataDirection::Bidirectional,
    }
}

/// Bytes that `map_phys` handles best: 32 pages, the largest size class of the kernel's IOVA caches
/// (`iova_rcache_range()` in drivers/iommu/iova.c), which is what it tells drivers itself.
const OPT_MAPPING_SIZE: usize = 32 * PAGE_SIZE;

impl<T: DmaMapOps> DmaOps<T> {
    /// The table.
    const TABLE: bindings::dma_map_ops = bindings::dma_map_ops {
        alloc: Some(Self::alloc),
        free: Some(Self::free),
        alloc_pages_op: Some(Self::alloc_pages),
        free_pages: Some(Self::free_pages),
        mmap: Some(Self::mmap),
        get_sgtable: Some(Self::get_sgtable),
        map_phys: Some(Self::map_phys),
        unmap_phys: Some(Self::unmap_phys),
        map_sg: Some(Self::map_sg),
        unmap_sg: Some(Self::unmap_sg),
        sync_single_for_cpu: None,
        sync_single_for_device: None,
        sync_sg_for_cpu: None,
        sync_sg_for_device: None,
        cache_sync: None,
        dma_supported: Some(Self::dma_supported),
        get_required_mask: None,
        max_mapping_size: None,
        opt_mapping_size: Some(Self::opt_mapping_size),
        get_merge_boundary: None,
    };

    /// Operations that are not installed yet.
    pub fn new(inner: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            table: Self::TABLE,
            inner <- inner,
            _pin: PhantomPinned,
        })
    }

    /// Makes the DMA API calls for a device come here. No driver may use the device yet.
    ///
    /// # Errors
    ///
    /// `EBUSY`: the device has operations of somebody else.
    pub fn install(this: Arc<Self>, device: &LockedDevice<'_>) -> Result<Installed<T>> {
        // SAFETY: The device is valid, its lock is held, and no driver uses the device. The flag
        // goes first: with it and operations, `dma_supported()` warns and fails.
        unsafe {
            let dev = device.as_raw();

            if !(*dev).dma_ops.is_null() {
                return Err(EBUSY);
            }

            let dma_iommu = bindings::pdio_dev_dma_iommu(dev);

            bindings::pdio_dev_assign_dma_iommu(dev, false);
            bindings::pdio_set_dma_ops(dev, &raw const this.table);
            Ok(Installed {
                ops: this,
                dma_iommu,
            })
        }
    }

    /// The object that a device's calls go to.
    ///
    /// # Safety
    ///
    /// A `Self` is installed under the device, and stays so for `'a`.
    #[inline(always)]
    unsafe fn of<'a>(dev: *mut bindings::device) -> &'a Self {
        // SAFETY: By the safety requirement the operations of the device are the first field of a
        // `Self`.
        unsafe { &*(*dev).dma_ops.cast() }
    }

    /// `map_phys`.
    ///
    /// # Safety
    ///
    /// As for all functions in the table: the DMA core calls it, with a device that the table is
    /// installed under.
    unsafe extern "C" fn map_phys(
        dev: *mut bindings::device,
        phys: bindings::phys_addr_t,
        len: usize,
        direction: bindings::dma_data_direction,
        attrs: usize,
    ) -> bindings::dma_addr_t {
        // SAFETY: By the safety requirement.
        let ops = unsafe { Self::of(dev) };
        let len = at_least_one_byte(len);
        let direction = direction_of(direction);
        let masks = Masks(dev);
        let mapped = if attrs & bindings::DMA_ATTR_MMIO as usize != 0 {
            let pieces = &mut [Piece::new(phys, len)];

            ops.inner
                .map_fixed(masks.streaming(), pieces, direction, Target::Mmio)
        } else {
            ops.inner.map(masks, phys, len, direction)
        };

        mapped.unwrap_or(bindings::dma_addr_t::MAX)
    }

    /// `unmap_phys`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn unmap_phys(
        dev: *mut bindings::device,
        dma_address: bindings::dma_addr_t,
        len: usize,
        _direction: bindings::dma_data_direction,
        attrs: usize,
    ) {
        // SAFETY: By the safety requirement.
        let ops = unsafe { Self::of(dev) };
        let len = at_least_one_byte(len);

        if attrs & bindings::DMA_ATTR_MMIO as usize != 0 {
            ops.inner.unmap_fixed(dma_address, len);
        } else {
            ops.inner.unmap(dma_address, len);
        }
    }

    /// `map_sg`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn map_sg(
        dev: *mut bindings::device,
        first: *mut bindings::scatterlist,
        len: i32,
        direction: bindings::dma_data_direction,
        _attrs: usize,
    ) -> i32 {
        let Some(entries) = usize::try_from(len).ok().filter(|&entries| entries != 0) else {
            return EINVAL.to_errno();
        };

        // SAFETY: By the safety requirement; the list is the caller's until this returns.
        let (ops, list) = unsafe { (Self::of(dev), EntryList::from_raw(first, entries)) };

        match ops
            .inner
            .map_list(Masks(dev), list, direction_of(direction))
        {
            Ok(()) => len,
            Err(error) => error.to_errno(),
        }
    }

    /// `unmap_sg`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn unmap_sg(
        dev: *mut bindings::device,
        first: *mut bindings::scatterlist,
        len: i32,
        _direction: bindings::dma_data_direction,
        _attrs: usize,
    ) {
        let Some(entries) = usize::try_from(len).ok().filter(|&entries| entries != 0) else {
            return;
        };

        // SAFETY: By the safety requirement; the list is the caller's until this returns.
        let (ops, list) = unsafe { (Self::of(dev), EntryList::from_raw(first, entries)) };

        ops.inner.unmap_list(list);
    }

    /// `alloc`: memory that CPU and device use at the same time.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn alloc(
        dev: *mut bindings::device,
        len: usize,
        dma_address: *mut bindings::dma_addr_t,
        gfp: bindings::gfp_t,
        _attrs: usize,
    ) -> *mut c_void {
        let Some(memory) = Memory::alloc(len, gfp) else {
            return ptr::null_mut();
        };

        // SAFETY: By the safety requirement.
        match unsafe { Self::map_memory(dev, &memory, DataDirection::Bidirectional) } {
            Some(address) => {
                // SAFETY: The caller wants the address there.
                unsafe { *dma_address = address };
                memory.into_raw()
            }
            None => ptr::null_mut(),
        }
    }

    /// Maps memory for long.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe fn map_memory(
        dev: *mut bindings::device,
        memory: &Memory,
        direction: DataDirection,
    ) -> Option<u64> {
        // SAFETY: By the safety requirement.
        let ops = unsafe { Self::of(dev) };

        memory.with_pieces(|pieces| {
            ops.inner
                .map_fixed(Masks(dev).coherent(), pieces, direction, Target::Memory)
        })
    }

    /// `free`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`]; the memory is from [`Self::alloc`] and has this length.
    unsafe extern "C" fn free(
        dev: *mut bindings::device,
        len: usize,
        address: *mut c_void,
        dma_address: bindings::dma_addr_t,
        _attrs: usize,
    ) {
        // SAFETY: By the safety requirements.
        let (ops, memory) = unsafe { (Self::of(dev), Memory::from_raw(address, len)) };

        ops.inner.unmap_fixed(dma_address, memory.len() as u64);
    }

    /// `alloc_pages_op`: memory for streaming, contiguous.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn alloc_pages(
        dev: *mut bindings::device,
        len: usize,
        dma_address: *mut bindings::dma_addr_t,
        direction: bindings::dma_data_direction,
        gfp: bindings::gfp_t,
    ) -> *mut bindings::page {
        let Some(memory) = Memory::alloc_contiguous(len, gfp) else {
            return ptr::null_mut();
        };

        // SAFETY: By the safety requirement.
        match unsafe { Self::map_memory(dev, &memory, direction_of(direction)) } {
            Some(address) => {
                let page = memory.page(0);

                // SAFETY: The caller wants the address there.
                unsafe { *dma_address = address };
                memory.into_raw();
                page
            }
            None => ptr::null_mut(),
        }
    }

    /// `free_pages`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`]; the memory is from [`Self::alloc_pages`] and has this length.
    unsafe extern "C" fn free_pages(
        dev: *mut bindings::device,
        len: usize,
        page: *mut bindings::page,
        dma_address: bindings::dma_addr_t,
        _direction: bindings::dma_data_direction,
    ) {
        // SAFETY: By the safety requirements.
        let (ops, memory) = unsafe { (Self::of(dev), Memory::from_page(page, len)) };

        ops.inner.unmap_fixed(dma_address, memory.len() as u64);
    }

    /// `mmap`: maps coherent memory into a process.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`]; the memory is from [`Self::alloc`] and has this length.
    unsafe extern "C" fn mmap(
        _dev: *mut bindings::device,
        vma: *mut bindings::vm_area_struct,
        address: *mut c_void,
        _dma_address: bindings::dma_addr_t,
        len: usize,
        _attrs: usize,
    ) -> i32 {
        // SAFETY: By the safety requirements. The memory stays the driver's.
        let memory = unsafe { core::mem::ManuallyDrop::new(Memory::from_raw(address, len)) };

        // SAFETY: The core passes the area that is being set up.
        match unsafe { memory.mmap(vma) } {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// `get_sgtable`: describes coherent memory as a list of pages.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`]; the memory is from [`Self::alloc`] and has this length.
    unsafe extern "C" fn get_sgtable(
        _dev: *mut bindings::device,
        table: *mut bindings::sg_table,
        address: *mut c_void,
        _dma_address: bindings::dma_addr_t,
        len: usize,
        _attrs: usize,
    ) -> i32 {
        // SAFETY: By the safety requirements. The memory stays the driver's.
        let memory = unsafe { core::mem::ManuallyDrop::new(Memory::from_raw(address, len)) };

        // SAFETY: The core passes memory for a table.
        match unsafe { memory.fill_sg_table(table, len) } {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// `dma_supported`: an IOMMU brings all memory into the reach of any mask, and what it cannot
    /// is told by the map.
    ///
    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn dma_supported(_dev: *mut bindings::device, _mask: u64) -> i32 {
        1
    }

    /// `opt_mapping_size`. Without it the block layer would build larger requests than with the
    /// kernel's own operations.
    ///
    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn opt_mapping_size() -> usize {
        OPT_MAPPING_SIZE
    }
}

/// Operations that a device uses.
///
/// Must be taken away by [`Installed::remove`]: the device would go on using them.
pub struct Installed<T> {
    ops: Arc<DmaOps<T>>,
    /// Whether the kernel's own IOMMU operations served the device before.
    dma_iommu: bool,
}

impl<T> Installed<T> {
    /// The operations.
    pub fn ops(&self) -> &Arc<DmaOps<T>> {
        &self.ops
    }

    /// Makes the device what it was. No driver may use the device any more.
    pub fn remove(self, device: &LockedDevice<'_>) {
        // SAFETY: The device is valid and its lock is held; nobody calls the DMA API for it.
        unsafe {
            bindings::pdio_set_dma_ops(device.as_raw(), ptr::null());
            bindings::pdio_dev_assign_dma_iommu(device.as_raw(), self.dma_iommu);
        }
    }
}

impl<T> Deref for DmaOps<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}
