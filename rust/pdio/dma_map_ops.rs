// SPDX-License-Identifier: GPL-2.0

//! An implementation of the DMA API for one device.
//!
//! A type implements [`DmaMapOps`] and is installed under a device by [`DmaOps::install`]; from
//! then on every DMA API call of the device's driver ends up in it. P2P DMA and `dma_iova_*` are
//! refused by the core for devices with such operations, and drivers fall back as they have to
//! anyway.
//!
//! Synchronization (`dma_sync_*`) is nothing to do for a cache-coherent device, unless it works on
//! copies. So there are tables without these operations, under which the core lets drivers skip the
//! calls, and tables with them. The core decides that when a driver sets its mask
//! (`dma_setup_need_sync()` in kernel/dma/mapping.c); [`DmaOps::select`] and
//! [`Masks::require_sync`] decide it anew while the driver runs, as swiotlb does.
//!
//! C header: [`include/linux/dma-map-ops.h`](srctree/include/linux/dma-map-ops.h)

use core::{
    ffi::c_void,
    marker::PhantomPinned,
    mem,
    ops::Deref,
    ptr,
    sync::atomic::{
        AtomicPtr,
        AtomicUsize,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    error::from_result,
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
    device::{
        DmaDevice,
        LockedDevice, //
    },
    dma_map_multi::Buffer,
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

/// Which way data goes; a number of `enum dma_data_direction` that the core has checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction(bindings::dma_data_direction);

impl Direction {
    /// Both ways.
    pub const BIDIRECTIONAL: Self = Self(bindings::dma_data_direction_DMA_BIDIRECTIONAL);
    /// The device reads.
    pub const TO_DEVICE: Self = Self(bindings::dma_data_direction_DMA_TO_DEVICE);
    /// The device writes.
    pub const FROM_DEVICE: Self = Self(bindings::dma_data_direction_DMA_FROM_DEVICE);

    /// A direction that C has checked.
    #[inline(always)]
    pub(crate) const fn from_raw(direction: bindings::dma_data_direction) -> Self {
        Self(direction)
    }

    /// The number of `enum dma_data_direction`.
    #[inline(always)]
    pub(crate) const fn as_raw(self) -> bindings::dma_data_direction {
        self.0
    }
}

/// An address for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct DmaAddress(pub u64);

impl DmaAddress {
    /// What a map returns that failed: `DMA_MAPPING_ERROR`.
    pub const MAPPING_ERROR: Self = Self(bindings::dma_addr_t::MAX);
}

/// How far a device can reach.
///
/// Read anew for each call, because a driver may change its masks at any time.
#[derive(Clone, Copy)]
pub struct Masks(*mut bindings::device);

impl Masks {
    /// Those of a device that is valid during the call, and has a mask.
    #[inline(always)]
    pub(crate) const fn of(dev: *mut bindings::device) -> Self {
        Self(dev)
    }

    /// The last address that the device can send.
    #[inline(always)]
    pub fn streaming(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`, and the core has checked
        // that it has a mask.
        unsafe { *(*self.0).dma_mask }
    }

    /// Bits of an address that must stay the same for the device: `dma_get_min_align_mask()`.
    #[inline(always)]
    pub fn min_align(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`, and its parameters are, if
        // there are any.
        unsafe {
            (*self.0)
                .dma_parms
                .as_ref()
                .map_or(0, |parameters| parameters.min_align_mask.into())
        }
    }

    /// Whether drivers skip synchronization: before a mapping that needs it there is
    /// [`Masks::require_sync`] to call. A driver that sets its mask may have been told so by an
    /// older table.
    #[inline(always)]
    pub fn skips_sync(self) -> bool {
        const SKIP_SYNC: usize = 1 << bindings::struct_device_flags_DEV_FLAG_DMA_SKIP_SYNC;

        // SAFETY: The device is valid during the call that made `self`. Bits of the flags change by
        // atomic operations.
        let flags = unsafe { AtomicUsize::from_ptr((&raw mut (*self.0).flags).cast()) };

        flags.load(Relaxed) & SKIP_SYNC != 0
    }

    /// Sees to it that drivers do not skip synchronization.
    pub fn require_sync(self) {
        // SAFETY: The device is valid during the call that made `self`.
        unsafe { bindings::pdio_dma_reset_need_sync(self.0) };
    }

    /// One less than the boundary that no segment of a list may cross.
    #[inline]
    pub fn segment_boundary(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`.
        unsafe { bindings::pdio_dma_get_seg_boundary(self.0) }
    }

    /// The most bytes of a segment of a list: `dma_get_max_seg_size()`.
    #[inline]
    pub fn max_segment(self) -> u32 {
        // SAFETY: The device is valid during the call that made `self`.
        unsafe { bindings::pdio_dma_get_max_seg_size(self.0) }
    }

    /// The last address that the device can send for coherent buffers.
    fn coherent(self) -> u64 {
        // SAFETY: The device is valid during the call that made `self`.
        unsafe { (*self.0).coherent_dma_mask }
    }
}

/// The operations. Those for streaming buffers are called in any context.
///
/// A buffer may have no bytes; it is mapped as if it had one.
pub trait DmaMapOps: Send + Sync {
    /// Maps a buffer of `len` bytes, or returns [`DmaAddress::MAPPING_ERROR`] if there is no memory
    /// or the buffer is out of the device's reach.
    ///
    /// `PATH` is what [`DmaOps::select`] has chosen, so that the most frequent call of all need not
    /// ask what to do. It may be out of date by one call.
    fn map<const PATH: usize>(
        &self,
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
    ) -> DmaAddress;

    /// Takes down what [`DmaMapOps::map`] returned.
    fn unmap<const PATH: usize>(&self, dma_address: DmaAddress, len: u64);

    /// Maps all entries and sets their addresses, of which there may be fewer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: nothing is mapped.
    fn map_list(&self, masks: Masks, list: &mut EntryList<'_>, direction: Direction) -> Result;

    /// Takes down what [`DmaMapOps::map_list`] mapped.
    fn unmap_list(&self, list: EntryList<'_>);

    /// Says that nobody wants to see what the device has written to what is mapped at
    /// `dma_address`, which is unmapped next: `DMA_ATTR_SKIP_CPU_SYNC`. Called on paths with
    /// synchronization only, as the next two.
    fn discard(&self, dma_address: DmaAddress);

    /// Lets the device see what the CPU has written to `len` bytes of a mapping.
    fn sync_for_device(&self, dma_address: DmaAddress, len: u64);

    /// Lets the CPU see what the device has written to `len` bytes of a mapping.
    fn sync_for_cpu(&self, dma_address: DmaAddress, len: u64);

    /// Maps all buffers and sets their addresses, so that each can be unmapped on its own.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: nothing is mapped.
    fn map_multi(&self, masks: Masks, buffers: &mut [Buffer], direction: Direction) -> Result;

    /// Keeps all buffers mapped, so that each map of them is a hit, until they are released.
    ///
    /// # Errors
    ///
    /// `EPERM` if the device is not trusted, `ENOSPC` if it would be more than the budget, `ERANGE`
    /// if the device cannot reach them, `EAGAIN` if a page is being mapped or withdrawn at this
    /// moment, `ENOMEM`: none is retained.
    fn retain(&self, masks: Masks, buffers: &[Buffer], direction: Direction) -> Result;

    /// Ends what [`DmaMapOps::retain`] began for these buffers.
    fn release_retained(&self, buffers: &[Buffer], direction: Direction);

    /// Takes down buffers that were mapped by [`DmaMapOps::map_multi`] or [`DmaMapOps::map`], in
    /// any grouping.
    fn unmap_multi(&self, buffers: &mut [Buffer]);

    /// Maps pieces of memory or registers, one after the other in IOVA space, for long. Returns
    /// the address of the first byte, not above `limit`, or [`DmaAddress::MAPPING_ERROR`].
    fn map_fixed(
        &self,
        limit: u64,
        pieces: &mut [Piece],
        direction: Direction,
        target: Target,
    ) -> DmaAddress;

    /// Takes down what [`DmaMapOps::map_fixed`] returned for pieces of `len` bytes in all.
    fn unmap_fixed(&self, dma_address: DmaAddress, len: u64);
}

/// Number of paths that [`DmaOps::select`] can choose from.
pub const PATHS: usize = 4;

/// The first path with synchronization; those after it have it, too.
pub const FIRST_SYNC_PATH: usize = 3;

/// Alignment of [`Tables`], a power of two that they fit into.
const TABLES_ALIGN: usize = 1024;

/// One table for each path.
#[repr(C, align(1024))]
struct Tables([bindings::dma_map_ops; PATHS]);

const _: () = assert!(
    core::mem::align_of::<Tables>() == TABLES_ALIGN
        && core::mem::size_of::<Tables>() == TABLES_ALIGN
);

/// A type that implements [`DmaMapOps`], and the tables by which the kernel calls it, one for each
/// path.
///
/// A table is part of the object, so that a call finds the object from the device in one load.
#[pin_data]
#[repr(C)]
pub struct DmaOps<T> {
    // First, so that the object is the one base that a call needs; `select` relies on it.
    #[pin]
    inner: T,
    tables: Tables,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The table is constant.
unsafe impl<T: Send> Send for DmaOps<T> {}

// SAFETY: The table is constant.
unsafe impl<T: Sync> Sync for DmaOps<T> {}

/// Bytes that `map_phys` handles best: 32 pages, the largest size class of the kernel's IOVA caches
/// (`iova_rcache_range()` in drivers/iommu/iova.c), which is what it tells drivers itself.
const OPT_MAPPING_SIZE: usize = 32 * PAGE_SIZE;

impl<T: DmaMapOps> DmaOps<T> {
    /// The table of a path.
    const fn table<const PATH: usize>() -> bindings::dma_map_ops {
        let sync = PATH >= FIRST_SYNC_PATH;

        bindings::dma_map_ops {
            alloc: Some(Self::alloc),
            free: Some(Self::free),
            alloc_pages_op: Some(Self::alloc_pages),
            free_pages: Some(Self::free_pages),
            mmap: Some(Self::mmap),
            get_sgtable: Some(Self::get_sgtable),
            map_phys: Some(Self::map_phys::<PATH>),
            unmap_phys: Some(Self::unmap_phys::<PATH>),
            map_sg: Some(Self::map_sg),
            unmap_sg: Some(Self::unmap_sg::<PATH>),
            sync_single_for_cpu: if sync {
                Some(Self::sync_single_for_cpu)
            } else {
                None
            },
            sync_single_for_device: if sync {
                Some(Self::sync_single_for_device)
            } else {
                None
            },
            sync_sg_for_cpu: if sync {
                Some(Self::sync_sg_for_cpu)
            } else {
                None
            },
            sync_sg_for_device: if sync {
                Some(Self::sync_sg_for_device)
            } else {
                None
            },
            cache_sync: None,
            dma_supported: Some(Self::dma_supported),
            get_required_mask: None,
            max_mapping_size: None,
            opt_mapping_size: Some(Self::opt_mapping_size),
            get_merge_boundary: None,
        }
    }

    /// Operations that are not installed yet.
    pub fn new(inner: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- inner,
            tables: Tables([
                Self::table::<0>(),
                Self::table::<1>(),
                Self::table::<2>(),
                Self::table::<3>(),
            ]),
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
            bindings::pdio_set_dma_ops(dev, &raw const this.tables.0[0]);
            Ok(Installed {
                ops: this,
                dma_iommu,
            })
        }
    }

    /// Lets buffers that are mapped and unmapped one by one take a path, if the device uses the
    /// operations that `inner` is in, and drivers synchronize as the path wants it. Calls that are
    /// under way go on as they are. May be called in any context, by one at a time.
    pub fn select<const PATH: usize>(inner: &T, device: &DmaDevice) {
        const { assert!(PATH < PATHS) };

        // Where the tables are if `inner` is in a `Self`; only then can the device use them.
        let tables = ptr::from_ref(inner)
            .wrapping_byte_add(mem::offset_of!(Self, tables))
            .cast::<bindings::dma_map_ops>();
        // SAFETY: The device is valid. The core reads the pointer anew for each call.
        let current = unsafe {
            AtomicPtr::<bindings::dma_map_ops>::from_ptr(
                (&raw mut (*device.as_raw()).dma_ops).cast(),
            )
        };
        let old = current.load(Relaxed);
        let chosen = tables.wrapping_add(PATH).cast_mut();

        if old == chosen || old.addr() & !(TABLES_ALIGN - 1) != tables.addr() {
            return;
        }
        // Whoever changes it meanwhile takes the operations away.
        if current
            .compare_exchange(old, chosen, Relaxed, Relaxed)
            .is_ok()
        {
            let skip = PATH < FIRST_SYNC_PATH;

            // SAFETY: The device is valid, and the flag is changed atomically.
            unsafe { bindings::pdio_dev_assign_dma_skip_sync(device.as_raw(), skip) };
        }
    }

    /// Whether a `Self` is installed under a device.
    ///
    /// # Safety
    ///
    /// The device is valid.
    #[inline]
    pub(crate) unsafe fn is_installed(dev: *const bindings::device) -> bool {
        // SAFETY: By the safety requirement; operations are valid while they are installed.
        let map_sg = unsafe {
            (*dev)
                .dma_ops
                .cast::<bindings::dma_map_ops>()
                .as_ref()
                .and_then(|operations| operations.map_sg)
        };

        // Of all operations in the system only ours have this function.
        map_sg.is_some_and(|map_sg| map_sg as usize == Self::map_sg as usize)
    }

    /// The object that a device's calls go to.
    ///
    /// # Safety
    ///
    /// A `Self` is installed under the device, and stays so for `'a`.
    #[inline(always)]
    pub(crate) unsafe fn of<'a>(dev: *mut bindings::device) -> &'a Self {
        // SAFETY: By the safety requirement the operations of the device are a table of a `Self`.
        // Whichever it is, the tables begin at the boundary before it.
        unsafe {
            let tables = (*dev)
                .dma_ops
                .map_addr(|address| address & !(TABLES_ALIGN - 1))
                .cast::<Tables>();

            &*kernel::container_of!(tables, Self, tables)
        }
    }

    /// `map_phys`.
    ///
    /// # Safety
    ///
    /// As for all functions in the table: the DMA core calls it, with a device that the table is
    /// installed under.
    unsafe extern "C" fn map_phys<const PATH: usize>(
        dev: *mut bindings::device,
        phys: bindings::phys_addr_t,
        len: usize,
        direction: bindings::dma_data_direction,
        attrs: usize,
    ) -> bindings::dma_addr_t {
        // SAFETY: By the safety requirement.
        let ops = unsafe { Self::of(dev) };
        let direction = Direction(direction);

        if attrs & bindings::DMA_ATTR_MMIO as usize != 0 {
            Self::map_mmio(Masks(dev), phys, len as u64, direction, ops).0
        } else {
            ops.inner
                .map::<PATH>(Masks(dev), phys, len as u64, direction)
                .0
        }
    }

    /// Maps registers of another device.
    #[cold]
    #[inline(never)]
    fn map_mmio(
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
        this: &Self,
    ) -> DmaAddress {
        let pieces = &mut [Piece::new(phys, len)];

        this.inner
            .map_fixed(masks.streaming(), pieces, direction, Target::Mmio)
    }

    /// Unmaps registers of another device, or a buffer whose contents nobody wants.
    #[cold]
    #[inline(never)]
    fn unmap_unusual<const PATH: usize>(&self, dma_address: DmaAddress, len: u64, attrs: usize) {
        if attrs & bindings::DMA_ATTR_MMIO as usize != 0 {
            return self.inner.unmap_fixed(dma_address, len);
        }

        self.inner.discard(dma_address);
        self.inner.unmap::<PATH>(dma_address, len);
    }

    /// `unmap_phys`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn unmap_phys<const PATH: usize>(
        dev: *mut bindings::device,
        dma_address: bindings::dma_addr_t,
        len: usize,
        _direction: bindings::dma_data_direction,
        attrs: usize,
    ) {
        // SAFETY: By the safety requirement.
        let ops = unsafe { Self::of(dev) };
        let dma_address = DmaAddress(dma_address);

        if attrs & Self::unusual_attrs::<PATH>() != 0 {
            ops.unmap_unusual::<PATH>(dma_address, len as u64, attrs);
        } else {
            ops.inner.unmap::<PATH>(dma_address, len as u64);
        }
    }

    /// Attributes that make an unmap something else on a path. Where nothing is synchronized there
    /// is nothing to skip of it.
    const fn unusual_attrs<const PATH: usize>() -> usize {
        if PATH < FIRST_SYNC_PATH {
            bindings::DMA_ATTR_MMIO as usize
        } else {
            (bindings::DMA_ATTR_MMIO | bindings::DMA_ATTR_SKIP_CPU_SYNC) as usize
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
        let (ops, mut list) = unsafe { (Self::of(dev), EntryList::from_raw(first, entries)) };

        from_result(|| {
            ops.inner
                .map_list(Masks(dev), &mut list, Direction(direction))?;
            // No more than there are entries.
            Ok(list.mapped_len() as i32)
        })
    }

    /// `unmap_sg`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn unmap_sg<const PATH: usize>(
        dev: *mut bindings::device,
        first: *mut bindings::scatterlist,
        len: i32,
        _direction: bindings::dma_data_direction,
        attrs: usize,
    ) {
        let Some(entries) = usize::try_from(len).ok().filter(|&entries| entries != 0) else {
            return;
        };

        // SAFETY: By the safety requirement; the list is the caller's until this returns.
        let (ops, mut list) = unsafe { (Self::of(dev), EntryList::from_raw(first, entries)) };

        if attrs & Self::unusual_attrs::<PATH>() != 0 {
            for entry in list.iter_mapped() {
                ops.inner.discard(DmaAddress(entry.dma_address()));
            }
        }
        ops.inner.unmap_list(list);
    }

    /// `sync_single_for_cpu`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn sync_single_for_cpu(
        dev: *mut bindings::device,
        dma_address: bindings::dma_addr_t,
        len: usize,
        direction: bindings::dma_data_direction,
    ) {
        if Direction(direction) != Direction::TO_DEVICE {
            // SAFETY: By the safety requirement.
            unsafe { Self::of(dev) }
                .inner
                .sync_for_cpu(DmaAddress(dma_address), len as u64);
        }
    }

    /// `sync_single_for_device`. What only the device writes need not be shown to it again, as in
    /// `swiotlb_sync_single_for_device()`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn sync_single_for_device(
        dev: *mut bindings::device,
        dma_address: bindings::dma_addr_t,
        len: usize,
        direction: bindings::dma_data_direction,
    ) {
        if Direction(direction) != Direction::FROM_DEVICE {
            // SAFETY: By the safety requirement.
            unsafe { Self::of(dev) }
                .inner
                .sync_for_device(DmaAddress(dma_address), len as u64);
        }
    }

    /// Calls `f` with the address and length of each segment of a list.
    ///
    /// # Safety
    ///
    /// `first` is the first of `len` entries, which are the caller's until this returns.
    unsafe fn for_each_entry(
        first: *mut bindings::scatterlist,
        len: i32,
        mut f: impl FnMut(DmaAddress, u64),
    ) {
        // SAFETY: By the safety requirement.
        let mut list = unsafe { EntryList::from_raw(first, usize::try_from(len).unwrap_or(0)) };

        for entry in list.iter_mapped() {
            f(DmaAddress(entry.dma_address()), entry.dma_len());
        }
    }

    /// `sync_sg_for_cpu`.
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn sync_sg_for_cpu(
        dev: *mut bindings::device,
        first: *mut bindings::scatterlist,
        len: i32,
        direction: bindings::dma_data_direction,
    ) {
        if Direction(direction) == Direction::TO_DEVICE {
            return;
        }

        // SAFETY: By the safety requirement; the list is the caller's until this returns.
        unsafe {
            let ops = Self::of(dev);

            Self::for_each_entry(first, len, |at, len| ops.inner.sync_for_cpu(at, len));
        }
    }

    /// `sync_sg_for_device`; see [`Self::sync_single_for_device`].
    ///
    /// # Safety
    ///
    /// See [`Self::map_phys`].
    unsafe extern "C" fn sync_sg_for_device(
        dev: *mut bindings::device,
        first: *mut bindings::scatterlist,
        len: i32,
        direction: bindings::dma_data_direction,
    ) {
        if Direction(direction) == Direction::FROM_DEVICE {
            return;
        }

        // SAFETY: By the safety requirement; the list is the caller's until this returns.
        unsafe {
            let ops = Self::of(dev);

            Self::for_each_entry(first, len, |at, len| ops.inner.sync_for_device(at, len));
        }
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
        match unsafe { Self::map_memory(dev, &memory, Direction::BIDIRECTIONAL) } {
            Some(address) => {
                // SAFETY: The caller wants the address there.
                unsafe { *dma_address = address.0 };
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
        direction: Direction,
    ) -> Option<DmaAddress> {
        // SAFETY: By the safety requirement.
        let ops = unsafe { Self::of(dev) };
        let limit = Masks(dev).coherent();

        memory
            .with_pieces(|pieces| {
                ops.inner
                    .map_fixed(limit, pieces, direction, Target::Memory)
            })
            .filter(|&address| address != DmaAddress::MAPPING_ERROR)
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

        ops.inner
            .unmap_fixed(DmaAddress(dma_address), memory.len() as u64);
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
        match unsafe { Self::map_memory(dev, &memory, Direction(direction)) } {
            Some(address) => {
                let page = memory.page(0);

                // SAFETY: The caller wants the address there.
                unsafe { *dma_address = address.0 };
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

        ops.inner
            .unmap_fixed(DmaAddress(dma_address), memory.len() as u64);
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
        // SAFETY: By the safety requirements; the core passes the area that is being set up.
        unsafe { Self::lend(address, len, |memory| memory.mmap(vma)) }
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
        // SAFETY: By the safety requirements; the core passes memory for a table.
        unsafe { Self::lend(address, len, |memory| memory.fill_sg_table(table, len)) }
    }

    /// Lends coherent memory, which stays the driver's, to `f`. Returns 0 or what went wrong.
    ///
    /// # Safety
    ///
    /// The memory is from [`Self::alloc`] and has this length.
    unsafe fn lend(address: *mut c_void, len: usize, f: impl FnOnce(&Memory) -> Result) -> i32 {
        // SAFETY: By the safety requirement.
        let memory = unsafe { core::mem::ManuallyDrop::new(Memory::from_raw(address, len)) };

        from_result(|| f(&memory).map(|()| 0))
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
