// SPDX-License-Identifier: GPL-2.0

//! Mode `sva`: the IOMMU walks the page tables of the CPU, and the kernel resolves what is missing.

use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    device::DmaDevice,
    embed::embeds,
    iopf_service::Callbacks,
    mmu_notifier::{
        Blocking,
        Changes,
        Notifier,
        Wanted, //
    },
    sva::SvaBond, //
};

/// A process by whose page tables a device translates.
#[pin_data]
pub(crate) struct Sva {
    // Dropped first: it has the device stopped.
    #[pin]
    notifier: Notifier<Sva>,
    callbacks: Callbacks,
    pasid: u32,
    /// Gone when the process is unbound.
    #[pin]
    bond: Mutex<Option<SvaBond>>,
}

embeds!(Sva, notifier: Notifier<Sva>);

impl Sva {
    /// Binds the device and the process. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`SvaBond::new`] and [`Notifier::register`].
    pub(crate) fn new(
        device: &DmaDevice,
        mm: &MmWithUser,
        callbacks: Callbacks,
    ) -> Result<Arc<Self>> {
        let bond = SvaBond::new(device, mm)?;
        let sva = Arc::pin_init(
            pin_init!(Self {
                notifier <- Notifier::new(),
                callbacks,
                pasid: bond.pasid(),
                bond <- new_mutex!(Some(bond)),
            }),
            GFP_KERNEL,
        )?;

        // After the bond, so that it is called before what the IOMMU driver has registered: the
        // device must have stopped when the PASID stops translating. Where it has not, an access
        // that is under way can leave a translation behind that the next process with this PASID
        // is served from.
        sva.notifier.register(mm, Wanted::Release)?;
        Ok(sva)
    }

    /// Unbinds the process, which cannot be bound again. May sleep.
    pub(crate) fn end(&self) {
        self.notifier.unregister();

        let bond = self.bond.lock().take();

        drop(bond);
    }

    /// The PASID of the process.
    pub(crate) fn pasid(&self) -> u32 {
        self.pasid
    }
}

impl Changes for Sva {
    fn released(&self) {
        self.callbacks.stop();
    }

    fn invalidate(&self, _range: core::ops::Range<usize>, _blocking: Blocking) -> Result {
        Ok(())
    }
}
