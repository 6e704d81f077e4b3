// SPDX-License-Identifier: GPL-2.0

//! A page of registers that a process maps through a file, and that can be taken from it.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr::NonNull;

use kernel::{
    error::to_result,
    mm::virt::VmaNew,
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::Mutex, //
};

use crate::bindings;

/// What a file has to be mapped.
///
/// # Invariants
///
/// `mapping` is that of a file which is open.
struct State {
    /// None when the file is closed.
    mapping: Option<NonNull<bindings::address_space>>,
    /// Physical address of the page, while it is shown.
    address: Option<u64>,
}

// SAFETY: A mapping belongs to no thread, and does its own locking.
unsafe impl Send for State {}

/// A page of registers at the beginning of a file, while it is shown. When it is not, an access to
/// what was mapped raises `SIGBUS`.
///
/// It is brought in by page faults alone: what is mapped by `mmap()` itself cannot be found yet by who
/// takes it away at the same time.
///
/// Lock order: the lock of an address space, that of this page, those of the page tables.
#[pin_data]
pub struct RegisterPage {
    #[pin]
    state: Mutex<State>,
}

impl RegisterPage {
    /// One of a file, which is not shown yet.
    ///
    /// # Safety
    ///
    /// The mapping is that of a file that stays open until [`Self::close`].
    pub(crate) unsafe fn new(mapping: *mut bindings::address_space) -> impl PinInit<Self> {
        let mapping = NonNull::new(mapping);

        pin_init!(Self {
            // INVARIANT: By the safety requirement.
            state <- new_mutex!(State {
                mapping,
                address: None,
            }),
        })
    }

    /// Lets who has mapped the file, or maps it, reach the registers at a physical address, a
    /// multiple of the page size. May sleep.
    pub fn show(&self, address: u64) {
        self.state.lock().address = Some(address);
    }

    /// Ends that. Nobody reaches them any more when this returns. May sleep.
    pub fn hide(&self) {
        let mut state = self.state.lock();

        if state.address.take().is_none() {
            return;
        }
        if let Some(mapping) = state.mapping {
            // Other files may have the same mapping: they have theirs brought in again.
            //
            // SAFETY: By the type invariant the file is open, and keeps the mapping.
            unsafe { bindings::unmap_mapping_range(mapping.as_ptr(), 0, PAGE_SIZE as i64, 1) };
        }
    }

    /// The file is about to be closed, so nothing of it is mapped.
    pub(crate) fn close(&self) {
        self.state.lock().mapping = None;
    }

    /// Prepares a part of an address space. A child of the process does not get it.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is not the one page at the beginning of the file, or is not shared. `ENXIO`: the
    /// page is not shown.
    ///
    /// # Safety
    ///
    /// `area` is being set up for the file of this page, which keeps the page where it is until it
    /// is closed.
    pub(crate) unsafe fn map(&self, area: *mut bindings::vm_area_struct) -> Result {
        // SAFETY: By the safety requirement.
        let (offset, new) = unsafe { ((*area).vm_pgoff, VmaNew::from_raw(area)) };

        if offset != 0 || new.end() - new.start() != PAGE_SIZE {
            return Err(EINVAL);
        }
        self.state.lock().address.ok_or(ENXIO)?;
        // SAFETY: As above.
        unsafe {
            to_result(bindings::pdio_vma_set_registers(area))?;
            (*area).vm_private_data = core::ptr::from_ref(self).cast_mut().cast();
            (*area).vm_ops = &Self::OPERATIONS;
        }
        Ok(())
    }

    const OPERATIONS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        // SAFETY: All of it may be null.
        ..unsafe { core::mem::zeroed() }
    };

    /// Brings the page in.
    ///
    /// # Safety
    ///
    /// The fault is in a part of an address space that [`Self::map`] has prepared.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the safety requirement; what is mapped keeps the file open, and that the page.
        let (area, at, page) = unsafe {
            let fault = &(*fault).__bindgen_anon_1;

            (
                fault.vma,
                fault.address,
                &*(*fault.vma).vm_private_data.cast::<Self>(),
            )
        };
        let state = page.state.lock();

        match state.address {
            // SAFETY: The area is one of page frames; the lock keeps the page shown until it is
            // there.
            Some(address) => unsafe {
                bindings::vmf_insert_pfn(area, at, address as usize / PAGE_SIZE)
            },
            None => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}
