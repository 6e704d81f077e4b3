// SPDX-License-Identifier: GPL-2.0

//! A process that is bound to a device.

use core::fmt::Write;

use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    str::Formatter,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    iopf::Mode,
    iopf_service::Callbacks, //
};

use crate::{
    device::Device,
    mirror::Mirror,
    pinned::Pinned,
    policy::{
        page::PageRange,
        tunable::OutOfRange, //
    },
    sva::Sva, //
};

/// What a device translates by for one PASID.
#[derive(Clone)]
enum Translation {
    Sva(Arc<Sva>),
    Mirror(Arc<Mirror>),
    Pinned(Arc<Pinned>),
}

impl Translation {
    /// Binds a device and a process. May sleep.
    fn new(
        device: &Arc<Device>,
        mm: &MmWithUser,
        mode: Mode,
        callbacks: Callbacks,
    ) -> Result<Self> {
        match mode {
            Mode::Sva => Sva::new(device.dma_device(), mm, callbacks).map(Self::Sva),
            Mode::Mirror => Mirror::bind(device, mm, callbacks).map(Self::Mirror),
            Mode::Pinned => Pinned::bind(device, mm, callbacks).map(Self::Pinned),
        }
    }

    /// The PASID.
    fn pasid(&self) -> u32 {
        match self {
            Self::Sva(sva) => sva.pasid(),
            Self::Mirror(mirror) => mirror.pasid(),
            Self::Pinned(pinned) => pinned.pasid(),
        }
    }

    /// Ends it: the device cannot reach anything any more, and nothing is called back. May sleep.
    fn end(&self) {
        match self {
            Self::Sva(sva) => sva.end(),
            Self::Mirror(mirror) => mirror.end(),
            Self::Pinned(pinned) => pinned.end(),
        }
    }

    /// Most pages that may be kept, if anything is.
    fn limit(&self) -> Option<u64> {
        match self {
            Self::Sva(_) => None,
            Self::Mirror(mirror) => Some(mirror.limit()),
            Self::Pinned(pinned) => Some(pinned.limit()),
        }
    }

    /// Pages that are charged.
    fn pages(&self) -> u64 {
        match self {
            Self::Sva(_) => 0,
            Self::Mirror(mirror) => mirror.pages(),
            Self::Pinned(pinned) => pinned.pages(),
        }
    }
}

/// A process that is bound to a device.
///
/// Lock order: `ending`, then `translation`. The second is taken where page requests are served,
/// which the end of a translation waits for, so only the first may be held meanwhile.
#[pin_data]
pub(crate) struct Binding {
    /// Gone when the process is unbound.
    #[pin]
    translation: Mutex<Option<Translation>>,
    /// Held until that has ended, so that all who unbind the process wait for whoever was first.
    #[pin]
    ending: Mutex<()>,
    mode: Mode,
    pasid: u32,
    /// The process, as its initial PID namespace knows it.
    pid: i32,
    device: Arc<Device>,
}

impl Binding {
    /// Binds the current process. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_bind()`.
    pub(crate) fn new(
        device: &Arc<Device>,
        mode: Option<Mode>,
        callbacks: Callbacks,
    ) -> Result<Arc<Self>> {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let arrival = device.arrive()?;
        let mode = mode.unwrap_or_else(|| device.mode());
        let translation = Translation::new(device, mm, mode, callbacks)?;
        let pasid = translation.pasid();
        let binding = Arc::pin_init(
            pin_init!(Self {
                translation <- new_mutex!(Some(translation)),
                ending <- new_mutex!(()),
                mode,
                pasid,
                pid: task.group_leader().pid(),
                device: device.clone(),
            }),
            GFP_KERNEL,
        )?;

        arrival
            .list(binding.clone())
            .inspect_err(|_| binding.revoke())?;
        Ok(binding)
    }

    /// What the device translates by, if the process is still bound. Others may use it, so nobody
    /// keeps the lock meanwhile.
    fn translation(&self) -> Option<Translation> {
        self.translation.lock().clone()
    }

    /// Pins a range of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_pin()`.
    pub(crate) fn pin(&self, range: PageRange) -> Result {
        match self.translation() {
            Some(Translation::Pinned(pinned)) => pinned.pin(range),
            _ => Err(EINVAL),
        }
    }

    /// Unpins a range. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_unpin()`.
    pub(crate) fn unpin(&self, range: PageRange) -> Result {
        match self.translation() {
            Some(Translation::Pinned(pinned)) => pinned.unpin(range),
            _ => Err(ENOENT),
        }
    }

    /// Sets what the device may keep of it, and takes what is too much. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_set_budget()`.
    pub(crate) fn set_budget_bytes(&self, bytes: u64) -> Result {
        match self.translation() {
            Some(Translation::Mirror(mirror)) => mirror.set_limit_bytes(bytes),
            Some(Translation::Pinned(pinned)) => pinned.set_limit_bytes(bytes),
            _ => Err(OutOfRange),
        }
        .map_err(|OutOfRange| EINVAL)?;
        self.evict_excess();
        Ok(())
    }

    /// Takes what is more than it may keep, as far as it can be taken. May sleep.
    pub(crate) fn evict_excess(&self) {
        if let Some(Translation::Mirror(mirror)) = self.translation() {
            mirror.evict(mirror.pages().saturating_sub(mirror.limit()));
        }
    }

    /// Pages that can be taken from the device.
    pub(crate) fn evictable_pages(&self) -> u64 {
        match self.translation() {
            Some(Translation::Mirror(mirror)) => mirror.pages(),
            _ => 0,
        }
    }

    /// Takes up to `count` pages from the device, and returns how many.
    pub(crate) fn evict(&self, count: u64) -> u64 {
        match self.translation() {
            Some(Translation::Mirror(mirror)) => mirror.evict(count),
            _ => 0,
        }
    }

    /// Unbinds the process. May sleep.
    pub(crate) fn end(self: Arc<Self>) {
        // In this order, so that a device that goes at the same time finds it and waits.
        self.revoke();
        self.device.remove(&self);
    }

    /// Has the device translate nothing for it any more when this returns, for the device or its
    /// driver goes or the process is unbound. May sleep.
    pub(crate) fn revoke(&self) {
        let _ending = self.ending.lock();
        let translation = self.translation.lock().take();

        if let Some(translation) = translation {
            translation.end();
        }
    }

    /// The PASID.
    pub(crate) fn pasid(&self) -> u32 {
        self.pasid
    }

    /// The mode.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Writes a line about it.
    pub(crate) fn show(&self, out: &mut Formatter<'_>) -> Result {
        let Self {
            pasid, mode, pid, ..
        } = self;

        let translation = self.translation();
        let pages = translation.as_ref().map_or(0, Translation::pages);

        write!(out, "pasid={pasid} pid={pid} mode={mode} pages={pages}").map_err(|_| EFBIG)?;
        if let Some(limit) = translation.and_then(|translation| translation.limit()) {
            write!(out, " limit={limit}").map_err(|_| EFBIG)?;
        }
        Ok(())
    }
}
