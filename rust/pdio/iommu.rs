// SPDX-License-Identifier: GPL-2.0

//! IOMMU domains of one's own.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::{
    ffi::c_void,
    mem::MaybeUninit,
    ptr,
    ptr::NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings,
    device::{
        DmaDevice,
        LockedDevice, //
    },
    lock::IrqSpinLock,
    scatterlist::Entry, //
};

/// Protection flags of a mapping.
pub mod prot {
    use super::bindings;

    /// The device may read.
    pub const READ: u32 = bindings::IOMMU_READ;
    /// The device may write.
    pub const WRITE: u32 = bindings::IOMMU_WRITE;
    /// Accesses snoop the CPU caches.
    pub const CACHE: u32 = bindings::IOMMU_CACHE;
    /// The target is device registers.
    pub const MMIO: u32 = bindings::IOMMU_MMIO;
}

/// What is called when a device asks for a page. It takes the group over, unless it fails.
pub(crate) type FaultHandler = unsafe extern "C" fn(*mut bindings::iopf_group) -> i32;

/// A range of IOVA space that a device needs for itself or that never reaches the IOMMU.
#[derive(Clone, Copy, Debug)]
pub struct ReservedRegion {
    /// First address.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
    /// Protection flags if it must be mapped 1:1 (`IOMMU_RESV_DIRECT`), as firmware demands for
    /// devices that it uses.
    pub direct: Option<u32>,
}

/// What a call may do to get memory for page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Not sleep.
    Atomic,
    /// Sleep.
    MaySleep,
}

impl Context {
    /// Allocation flags.
    #[inline]
    fn gfp(self) -> bindings::gfp_t {
        match self {
            Self::Atomic => bindings::GFP_ATOMIC | bindings::__GFP_NOWARN,
            Self::MaySleep => bindings::GFP_KERNEL,
        }
    }
}

/// What [`Domain::map_runs`] maps: `len` bytes at `phys` to `iova`, all multiples of the page size.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// First address that the device sees.
    pub iova: u64,
    /// First physical address.
    pub phys: u64,
    /// Number of bytes.
    pub len: usize,
    /// Whether any page can be unmapped on its own, as by [`Domain::map_pages`].
    pub divisible: bool,
}

/// The most runs that one call of the IOMMU layer maps: what they save in the call is by then a
/// sixteenth of what it was, and the list on the stack half a KiB.
const BATCH: usize = 16;

/// Room for the runs of a [`Batch`].
type Entries = [MaybeUninit<Entry>; BATCH];

/// Runs that lie side by side in IOVA space, to be mapped by one call.
///
/// # Invariants
///
/// The first `len` of `entries` are initialized.
struct Batch<'a> {
    /// On their own, or the compiler would clear them together with the rest.
    entries: &'a mut Entries,
    len: usize,
    /// Where the first one starts.
    start: u64,
    /// Where the last one ends.
    end: u64,
}

impl<'a> Batch<'a> {
    /// One without runs.
    #[inline]
    fn new(entries: &'a mut Entries) -> Self {
        // INVARIANT: None is initialized.
        Self {
            entries,
            len: 0,
            start: 0,
            end: 0,
        }
    }

    /// Adds `len` bytes at `phys`, unless they have to be mapped to `iova` by another call.
    #[inline(always)]
    fn push(&mut self, iova: u64, phys: u64, len: u32) -> bool {
        if self.len == 0 {
            self.start = iova;
        } else if iova != self.end {
            return false;
        }

        let Some(entry) = self.entries.get_mut(self.len) else {
            return false;
        };

        entry.write(Entry::at(phys, len));
        // INVARIANT: The entry has just been initialized.
        self.len = self.len.wrapping_add(1);
        self.end = iova.wrapping_add(u64::from(len));
        true
    }

    /// The runs. The batch is empty afterwards, for the next ones.
    #[inline]
    fn take(&mut self) -> &mut [Entry] {
        let len = core::mem::take(&mut self.len);

        // SAFETY: By the type invariant so many are initialized.
        unsafe { core::slice::from_raw_parts_mut(self.entries.as_mut_ptr().cast(), len) }
    }
}

/// log2 of the largest aligned block whose pages are invalidated together; what lies further apart
/// is by an invalidation of everything. VT-d's driver does not ask how many pages the IOMMU takes at
/// once for a first-stage page table (`CAP_REG.MAMV`: 2^18 pages in QEMU), and an invalidation that is
/// refused is left out.
const LARGEST_SPAN_SHIFT: u32 = 30;

/// An `iommu_domain` for DMA by one device at a time.
///
/// # Invariants
///
/// `domain` is a valid paging domain that `self` owns.
pub struct Domain {
    domain: NonNull<bindings::iommu_domain>,
    /// Page-table pages that unmaps have taken out of the tree, until a flush makes sure that the
    /// IOMMU does not walk them any more.
    removed: IrqSpinLock<RemovedTables>,
    /// Bytes that one call may map so that any page of them can be unmapped on its own. Constant.
    divisible: usize,
}

// SAFETY: A domain belongs to no thread.
unsafe impl Send for Domain {}

// SAFETY: Map and unmap of different ranges, and flushes, may run at the same time on several
// CPUs: that is what the DMA API asks of IOMMU drivers. For overlapping ranges the page table
// stays well-formed, too.
unsafe impl Sync for Domain {}

/// A list of page-table pages, empty or headed by one of its pages.
///
/// # Invariants
///
/// `first` is null, or a `list_head` in a circular list of page-table pages without any other
/// head.
struct RemovedTables {
    first: *mut bindings::list_head,
}

// SAFETY: The pages belong to nobody else.
unsafe impl Send for RemovedTables {}

impl RemovedTables {
    /// Takes what an unmap has collected.
    fn append(&mut self, gather: &mut bindings::iommu_iotlb_gather) {
        let head = &raw mut gather.freelist.pages;

        // SAFETY: `head` is an initialized list head, so its neighbours are valid; by the type
        // invariant so are those of `first`. This takes the head out of its circle and joins what
        // is left with the circle of `first`, if there is one.
        unsafe {
            let (first, last) = ((*head).next, (*head).prev);

            if first == head {
                return;
            }

            (*last).next = first;
            (*first).prev = last;
            if !self.first.is_null() {
                let tail = (*self.first).prev;

                (*tail).next = first;
                (*first).prev = tail;
                (*last).next = self.first;
                (*self.first).prev = last;
            }
            (*head).next = head;
            (*head).prev = head;
            self.first = first;
        }
    }

    /// Frees the pages. The IOMMU must not know them any more.
    fn free(&mut self) {
        if self.first.is_null() {
            return;
        }

        let mut list = bindings::iommu_pages_list {
            pages: bindings::list_head {
                next: ptr::null_mut(),
                prev: ptr::null_mut(),
            },
        };
        let head = &raw mut list.pages;

        // SAFETY: By the type invariant `first` is in a circular list; `head` joins it before
        // `first`, which makes it a list with a head as `iommu_put_pages_list()` expects it. The
        // list owns the pages and is given up.
        unsafe {
            let last = (*self.first).prev;

            (*head).next = self.first;
            (*head).prev = last;
            (*last).next = head;
            (*self.first).prev = head;
            bindings::pdio_iommu_put_pages(&raw mut list);
        }
        self.first = ptr::null_mut();
    }

    /// Takes everything out.
    fn take(&mut self) -> Self {
        Self {
            first: core::mem::replace(&mut self.first, ptr::null_mut()),
        }
    }
}

impl Domain {
    /// A new domain for a device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` without an IOMMU, `ENOMEM`, and what the IOMMU driver says.
    pub fn new(device: &DmaDevice) -> Result<Self> {
        Self::with_flags(device, 0)
    }

    /// A new domain for a PASID of a device, with what is called when the device asks for a page.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Domain::new`].
    pub(crate) fn for_pasid(device: &DmaDevice, handler: FaultHandler) -> Result<Self> {
        let domain = Self::with_flags(
            device,
            bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID,
        )?;

        // Attaching is what turns page requests on, and only if there is a handler.
        //
        // SAFETY: By the type invariant the domain is ours, and nobody else knows it yet.
        unsafe { (*domain.as_raw()).iopf_handler = Some(handler) };
        Ok(domain)
    }

    /// The raw domain.
    pub(crate) fn as_raw(&self) -> *mut bindings::iommu_domain {
        self.domain.as_ptr()
    }

    /// A new domain of some kind.
    fn with_flags(device: &DmaDevice, flags: u32) -> Result<Self> {
        // SAFETY: `device` is valid, and the flags are among those that there are.
        let domain = unsafe { bindings::iommu_paging_domain_alloc_flags(device.as_raw(), flags) };
        let domain = from_err_ptr(domain)?;

        // INVARIANT: `domain` is the paging domain that was just made for us.
        let mut domain = Self {
            domain: NonNull::new(domain).ok_or(ENOMEM)?,
            removed: IrqSpinLock::new(RemovedTables {
                first: ptr::null_mut(),
            }),
            divisible: PAGE_SIZE,
        };

        domain.divisible = domain.divisible()?;
        Ok(domain)
    }

    /// How much one call may map so that any page of it can be unmapped on its own.
    ///
    /// An IOMMU driver takes down all that one entry of the page table maps, and more than it was
    /// asked to. Where pages of any power of two are possible (AMD-Vi), or what was mapped by one
    /// call is one thing (virtio-iommu), that may be two pages already; elsewhere it is a large
    /// page. No driver says so: it is tried, before a device is attached.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and what the IOMMU driver says.
    fn divisible(&self) -> Result<usize> {
        // Aligned to its size, as a page of that size would have to be. Nobody follows it.
        const PAIR: usize = 2 * PAGE_SIZE;

        self.map(
            PAIR as u64,
            PAIR as u64,
            PAIR,
            prot::READ,
            Context::MaySleep,
        )?;

        let unmap = |iova, len| {
            // SAFETY: By the type invariant the domain is valid.
            unsafe { bindings::iommu_unmap(self.domain.as_ptr(), iova, len) }
        };
        let alone = unmap(PAIR, PAGE_SIZE) == PAGE_SIZE;

        // SAFETY: By the type invariant the domain is valid; its page sizes are constant.
        let sizes = unsafe { self.domain.as_ref().pgsize_bitmap };
        let large = sizes & !(PAIR - 1);

        match (alone, large) {
            (false, _) => Ok(PAGE_SIZE),
            (true, large) => {
                unmap(PAIR + PAGE_SIZE, PAGE_SIZE);
                // One page short of the smallest large one. Without any there is no limit.
                Ok((large & large.wrapping_neg()).wrapping_sub(PAGE_SIZE) & !(PAGE_SIZE - 1))
            }
        }
    }

    /// The last address that can be mapped.
    pub fn last(&self) -> u64 {
        // SAFETY: By the type invariant the domain is valid; its geometry is constant.
        unsafe { self.domain.as_ref().geometry.aperture_end }
    }

    /// Makes the device translate by this domain. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the device shares its IOMMU group with others, `EBUSY` if somebody else has
    /// attached a domain of their own, and what the IOMMU driver says.
    pub fn attach(&self, device: &LockedDevice<'_>) -> Result {
        // SAFETY: Both are valid; the device lock keeps others from attaching meanwhile.
        to_result(unsafe { bindings::iommu_attach_device(self.domain.as_ptr(), device.as_raw()) })
    }

    /// Whether the device translates by this domain.
    pub fn is_attached(&self, device: &LockedDevice<'_>) -> bool {
        // SAFETY: The device is valid, and its lock is held, so that its domain does not change.
        ptr::eq(self.domain.as_ptr(), unsafe {
            bindings::iommu_get_domain_for_dev(device.as_raw())
        })
    }

    /// Gives the device back to the domain that the kernel chose for it. May sleep.
    pub fn detach(&self, device: &LockedDevice<'_>) {
        // SAFETY: Both are valid, and the device is attached to the domain if the check says so.
        unsafe {
            if self.is_attached(device) {
                bindings::iommu_detach_device(self.domain.as_ptr(), device.as_raw());
            }
        }
    }

    /// Maps `len` bytes at `phys` to `iova`; all three are multiples of the page size, and the
    /// range is not mapped. It can be unmapped as a whole.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what the IOMMU driver says; nothing is mapped then.
    #[inline]
    pub fn map(&self, iova: u64, phys: u64, len: usize, prot: u32, context: Context) -> Result {
        // SAFETY: By the type invariant the domain is valid. What the range is mapped to is the
        // policy of the caller: a device that may not reach memory is a matter of protection, not
        // of memory safety of this kernel, as for any DMA API call.
        to_result(unsafe {
            bindings::iommu_map(
                self.domain.as_ptr(),
                iova as usize,
                phys,
                len,
                prot as i32,
                context.gfp(),
            )
        })
    }

    /// As [`Domain::map`]; any page of it can be unmapped on its own.
    ///
    /// # Errors
    ///
    /// As for [`Domain::map`].
    #[inline]
    pub fn map_pages(
        &self,
        iova: u64,
        phys: u64,
        len: usize,
        prot: u32,
        context: Context,
    ) -> Result {
        let mut done = 0;

        while done < len {
            let part = (len - done).min(self.divisible);
            let offset = done as u64;

            if let Err(error) = self.map(iova + offset, phys + offset, part, prot, context) {
                if done != 0 {
                    self.unmap_sync(core::iter::once((iova, done)));
                }
                return Err(error);
            }
            done += part;
        }
        Ok(())
    }

    /// Maps runs, each of which lies behind the one before it, as [`Domain::map`] does each of them.
    /// Those that lie side by side are mapped together, up to a limit: what the IOMMU driver does at
    /// the end of a call is done once for them.
    ///
    /// # Errors
    ///
    /// How many were mapped, the first ones, before one could not be; they stay.
    #[inline]
    pub fn map_runs(
        &self,
        runs: impl Iterator<Item = Run>,
        prot: u32,
        context: Context,
    ) -> Result<(), usize> {
        let mut entries = [const { MaybeUninit::uninit() }; BATCH];
        let mut batch = Batch::new(&mut entries);
        let mut mapped = 0;

        for run in runs {
            // Neighbours in a batch are not contiguous in memory, so none becomes part of another.
            let most = if run.divisible {
                self.divisible
            } else {
                usize::MAX
            };

            match u32::try_from(run.len) {
                Ok(len) if run.len <= most => {
                    if batch.push(run.iova, run.phys, len) {
                        continue;
                    }
                    mapped += self.map_batch(&mut batch, prot, context).ok_or(mapped)?;
                    batch.push(run.iova, run.phys, len);
                }
                _ => {
                    let map = if run.divisible {
                        Self::map_pages
                    } else {
                        Self::map
                    };

                    mapped += self.map_batch(&mut batch, prot, context).ok_or(mapped)?;
                    map(self, run.iova, run.phys, run.len, prot, context).map_err(|_| mapped)?;
                    mapped += 1;
                }
            }
        }

        match self.map_batch(&mut batch, prot, context) {
            Some(_) => Ok(()),
            None => Err(mapped),
        }
    }

    /// Maps what is in a batch, and empties it: the number of runs, unless it fails, and none is mapped
    /// then.
    #[inline]
    fn map_batch(&self, batch: &mut Batch<'_>, prot: u32, context: Context) -> Option<usize> {
        let start = batch.start;
        let entries = batch.take();

        match entries {
            [] => return Some(0),
            [run] => {
                let result = self.map(start, run.phys(), run.len() as usize, prot, context);

                return result.is_ok().then_some(1);
            }
            _ => {}
        }

        // SAFETY: By the type invariant the domain is valid; `Entry` is transparent. The function asks
        // each entry for its address and length, and none is a link. For what is mapped see `map()`.
        let bytes = unsafe {
            bindings::iommu_map_sg(
                self.domain.as_ptr(),
                start as usize,
                entries.as_mut_ptr().cast(),
                entries.len() as u32,
                prot as i32,
                context.gfp(),
            )
        };

        (bytes >= 0).then_some(entries.len())
    }

    /// Runs `f` with a new gather.
    #[inline]
    fn with_gather(&self, f: impl FnOnce(*mut bindings::iommu_iotlb_gather)) {
        let mut gather = MaybeUninit::uninit();
        let gather = gather.as_mut_ptr();

        // SAFETY: `gather` is memory for a gather. It points to itself from now on, and stays
        // where it is until the end of this function.
        unsafe { bindings::pdio_iommu_iotlb_gather_init(gather) };
        f(gather);
    }

    /// Removes ranges of (address, bytes), which must be mapped, from the page table. The device
    /// may reach the pages until the next [`Domain::flush`]. Does not sleep.
    #[inline]
    pub fn unmap(&self, ranges: impl Iterator<Item = (u64, usize)>) {
        self.with_gather(|gather| {
            // SAFETY: `gather` is initialized. `queued` tells the driver that a flush of
            // everything will follow.
            unsafe { (*gather).queued = true };
            self.unmap_into(gather, ranges);
            self.keep_removed(gather);
        });
    }

    /// Removes ranges of (address, bytes), which must be mapped, from the page table, and makes
    /// them unreachable by one invalidation. Does not sleep.
    #[inline]
    pub fn unmap_sync(&self, ranges: impl Iterator<Item = (u64, usize)>) {
        let mut wide = false;

        self.with_gather(|gather| {
            self.unmap_into(gather, ranges);
            // SAFETY: `gather` is initialized and nobody else uses it.
            let (start, end) = unsafe { ((*gather).start, (*gather).end) };

            wide = start <= end && (start ^ end) >> LARGEST_SPAN_SHIFT != 0;
            if wide {
                self.keep_removed(gather);
            } else {
                // SAFETY: `gather` is initialized and holds what was unmapped from this domain.
                unsafe { bindings::pdio_iommu_iotlb_sync(self.domain.as_ptr(), gather) };
            }
        });
        if wide {
            self.flush();
        }
    }

    /// Takes the page-table pages out of a gather, to be freed by the next [`Domain::flush`].
    fn keep_removed(&self, gather: *mut bindings::iommu_iotlb_gather) {
        // SAFETY: The callers have initialized it, and nobody else uses it.
        let gather = unsafe { &mut *gather };

        if !ptr::eq(gather.freelist.pages.next, &gather.freelist.pages) {
            self.removed.with(|removed| removed.append(gather));
        }
    }

    /// Unmaps ranges into a gather.
    #[inline]
    fn unmap_into(
        &self,
        gather: *mut bindings::iommu_iotlb_gather,
        ranges: impl Iterator<Item = (u64, usize)>,
    ) {
        for (iova, len) in ranges {
            // SAFETY: By the type invariant the domain is valid, and so is the gather.
            let unmapped = unsafe {
                bindings::iommu_unmap_fast(self.domain.as_ptr(), iova as usize, len, gather)
            };

            if unmapped != len {
                kernel::pr_warn_once!(
                    "unmapped {unmapped:#x} of {len:#x} bytes at IOVA {iova:#x}\n"
                );
            }
        }
    }

    /// Makes everything unreachable that was unmapped before the call. Does not sleep.
    pub fn flush(&self) {
        let mut removed = self.removed.with(|removed| removed.take());

        // SAFETY: By the type invariant the domain is valid.
        unsafe { bindings::pdio_iommu_flush_iotlb_all(self.domain.as_ptr()) };
        removed.free();
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.flush();
        // SAFETY: By the type invariant `self` owns the domain; its users have detached it.
        unsafe { bindings::iommu_domain_free(self.domain.as_ptr()) };
    }
}

/// A domain that a device translates by until this is dropped, which may sleep. That is up to the driver
/// that is bound to the device, while it is.
pub struct OwnDomain {
    domain: Domain,
    device: DmaDevice,
}

impl OwnDomain {
    /// A new domain, in which nothing is mapped, for a device with a driver. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Domain::new`] and [`Domain::attach`].
    pub fn new(device: &LockedDevice<'_>) -> Result<Self> {
        let domain = Domain::new(device)?;

        domain.attach(device)?;
        Ok(Self {
            domain,
            device: (*device).clone(),
        })
    }
}

impl core::ops::Deref for OwnDomain {
    type Target = Domain;

    fn deref(&self) -> &Domain {
        &self.domain
    }
}

impl Drop for OwnDomain {
    fn drop(&mut self) {
        // SAFETY: Both are valid. The kernel looks, under a lock of its own, whether the device still
        // translates by the domain, and does nothing but warn if it does not.
        unsafe { bindings::iommu_detach_device(self.domain.as_raw(), self.device.as_raw()) };
    }
}

/// Calls `f` with each region of IOVA space that is reserved for a device. May sleep.
///
/// # Errors
///
/// The first error of `f` ends the walk and is returned.
pub fn for_each_reserved_region(
    device: &DmaDevice,
    mut f: impl FnMut(ReservedRegion) -> Result,
) -> Result {
    let mut list = bindings::list_head {
        next: ptr::null_mut(),
        prev: ptr::null_mut(),
    };
    let head = &raw mut list;
    let mut result = Ok(());

    // SAFETY: `head` is made an empty list and then filled with regions, whose first field but
    // none is their `list_head`; they are freed at the end, and the list is walked in between.
    unsafe {
        (*head).next = head;
        (*head).prev = head;
        bindings::iommu_get_resv_regions(device.as_raw(), head);

        let mut at = (*head).next;

        while at != head && result.is_ok() {
            let region = kernel::container_of!(at, bindings::iommu_resv_region, list);
            let direct = matches!(
                (*region).type_,
                bindings::iommu_resv_type_IOMMU_RESV_DIRECT
                    | bindings::iommu_resv_type_IOMMU_RESV_DIRECT_RELAXABLE
            );

            result = f(ReservedRegion {
                start: (*region).start,
                len: (*region).length as u64,
                direct: direct.then_some((*region).prot as u32),
            });
            at = (*at).next;
        }
        bindings::iommu_put_resv_regions(device.as_raw(), head);
    }

    result
}

/// Number of devices that share the IOMMU group of a device, itself included; 0 if it is behind no
/// IOMMU. May sleep.
pub fn group_size(device: &DmaDevice) -> usize {
    /// Counts.
    ///
    /// # Safety
    ///
    /// `count` points to a `usize`.
    unsafe extern "C" fn count(_: *mut bindings::device, count: *mut c_void) -> i32 {
        // SAFETY: By the safety requirement of this function.
        unsafe { *count.cast::<usize>() += 1 };
        0
    }

    let mut devices: usize = 0;

    // SAFETY: The device is valid. A group is referenced while its devices are counted, and the
    // callback gets the pointer that it expects.
    unsafe {
        let group = bindings::iommu_group_get(device.as_raw());

        if !group.is_null() {
            bindings::iommu_group_for_each_dev(group, (&raw mut devices).cast(), Some(count));
            bindings::iommu_group_put(group);
        }
    }
    devices
}
