// SPDX-License-Identifier: GPL-2.0

//! A device to which processes are bound.

use core::{
    fmt::Write,
    sync::atomic::{
        AtomicU64,
        AtomicU8,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    str::Formatter,
    sync::{
        Arc,
        CondVar,
        Mutex, //
    }, //
};
use pdio::{
    device::DmaDevice,
    error::not_supported,
    iopf::Mode,
    pci::PciDevice, //
};

use crate::{
    attributes::Attributes,
    binding::Binding,
    departure::Departure,
    policy::{
        budget::{
            donor,
            Budget, //
        },
        eviction::Eviction,
        fault_around::Setting,
        page::SHIFT,
        tunable::{
            OutOfRange,
            Range,
            Tunable, //
        },
    },
    statistics::Statistics, //
};

/// What a device may keep that nobody has set a budget for: enough that it is not noticed in a trial,
/// little enough that a machine on which processes can be bound at all has it.
const DEFAULT_BUDGET_BYTES: u64 = 256 << 20;

/// Who is bound.
struct Bindings {
    all: KVec<Arc<Binding>>,
    /// How many are being bound.
    arriving: usize,
    /// Whether anybody can be bound.
    open: bool,
}

/// A device to which processes are bound.
///
/// Lock order: `registration`, then what sysfs and the bus hold while they call, then what a binding
/// holds while it ends, then `bindings`.
#[pin_data]
pub(crate) struct Device {
    device: DmaDevice,
    /// The mode of new bindings, by its place in [`Mode::ALL`].
    mode: AtomicU8,
    /// By its number.
    eviction: AtomicU8,
    /// By its number.
    fault_around: AtomicU64,
    /// For all bindings.
    budget: Budget,
    /// For each binding.
    binding_limit_bytes: Tunable,
    statistics: Statistics,
    #[pin]
    bindings: Mutex<Bindings>,
    /// Somebody is bound, or could not be.
    #[pin]
    arrived: CondVar,
    #[pin]
    registration: Mutex<Option<Registration>>,
}

/// What a registered device has beyond itself, and what keeps it.
struct Registration {
    _attributes: Attributes,
    _departure: Departure,
}

/// Somebody who is being bound to a device, which waits until this is dropped before it goes.
pub(crate) struct Arrival<'a>(&'a Device);

impl Arrival<'_> {
    /// Lists them as bound.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn list(&self, binding: Arc<Binding>) -> Result {
        Ok(self.0.bindings.lock().all.push(binding, GFP_KERNEL)?)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.bindings.lock().arriving -= 1;
        self.0.arrived.notify_all();
    }
}

impl Device {
    /// Checks what the device can do and makes its directory. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_register_device()`.
    pub(crate) fn register(device: DmaDevice) -> Result<Arc<Self>> {
        let pci = PciDevice::from_device(device.device());
        let missing = match pci {
            None => Some("PCI"),
            Some(pci) if !pci.pasid_is_enabled() => Some("PASID"),
            Some(pci) if !pci.pri_is_enabled() => Some("PRI"),
            Some(_) => None,
        };

        if let Some(missing) = missing {
            kernel::dev_err!(
                device.device(),
                "iopf: no {missing}: the device or its IOMMU cannot do it, or it is turned off\n"
            );
            return Err(not_supported());
        }

        let device = Arc::pin_init(
            pin_init!(Self {
                device,
                mode: AtomicU8::new(0),
                eviction: AtomicU8::new(Eviction::DEFAULT.number()),
                fault_around: AtomicU64::new(Setting::Auto.number()),
                budget: Budget::new(DEFAULT_BUDGET_BYTES),
                binding_limit_bytes: Tunable::new(Range {
                    default: DEFAULT_BUDGET_BYTES,
                    ..Budget::RANGE
                }),
                statistics: Statistics::new(),
                bindings <- new_mutex!(Bindings {
                    all: KVec::new(),
                    arriving: 0,
                    open: true,
                }),
                arrived <- new_condvar!(),
                registration <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )?;

        let registration = Registration {
            _attributes: Attributes::new(&device)?,
            _departure: Departure::new(device.clone())?,
        };

        *device.registration.lock() = Some(registration);
        Ok(device)
    }

    /// Takes the directory away, and unbinds who is still bound. May sleep.
    pub(crate) fn unregister(&self) {
        let registration = self.registration.lock().take();

        drop(registration);
        self.close();
    }

    /// Lets nobody be bound any more, and unbinds who is. All of it has ended when this returns,
    /// whoever has begun it. May sleep.
    pub(crate) fn close(&self) {
        {
            let mut bindings = self.bindings.lock();

            bindings.open = false;
            while bindings.arriving != 0 {
                self.arrived.wait(&mut bindings);
            }
        }
        loop {
            let last = self.bindings.lock().all.last().cloned();
            let Some(binding) = last else {
                break;
            };

            binding.revoke();
            self.remove(&binding);
        }
    }

    /// The device.
    pub(crate) fn dma_device(&self) -> &DmaDevice {
        &self.device
    }

    /// The mode of new bindings.
    pub(crate) fn mode(&self) -> Mode {
        Mode::ALL
            .get(usize::from(self.mode.load(Relaxed)))
            .copied()
            .unwrap_or(Mode::Sva)
    }

    /// Sets the mode of new bindings.
    pub(crate) fn set_mode(&self, mode: Mode) {
        for (index, candidate) in (0..).zip(Mode::ALL) {
            if candidate == mode {
                self.mode.store(index, Relaxed);
            }
        }
    }

    /// Which pages go first.
    pub(crate) fn eviction(&self) -> Eviction {
        Eviction::from_number(self.eviction.load(Relaxed))
    }

    /// Sets which pages go first.
    pub(crate) fn set_eviction(&self, eviction: Eviction) {
        self.eviction.store(eviction.number(), Relaxed);
    }

    /// What is brought along.
    pub(crate) fn fault_around(&self) -> Setting {
        Setting::from_number(self.fault_around.load(Relaxed))
    }

    /// Sets what is brought along.
    pub(crate) fn set_fault_around(&self, setting: Setting) {
        self.fault_around.store(setting.number(), Relaxed);
    }

    /// What all bindings may keep together.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Sets what all bindings may keep together, and takes what is too much. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is 0, or not in whole pages.
    pub(crate) fn set_budget_bytes(&self, bytes: u64) -> Result {
        self.budget
            .set_limit_bytes(bytes)
            .map_err(|OutOfRange| EINVAL)?;

        while let excess @ 1.. = self.budget.excess() {
            // The largest: it has more than any share.
            if self.evict_for(None, 0, excess) == 0 {
                break;
            }
        }
        Ok(())
    }

    /// What each binding may keep, in bytes.
    pub(crate) fn binding_limit_bytes(&self) -> u64 {
        self.binding_limit_bytes.get()
    }

    /// What each binding may keep, in pages.
    pub(crate) fn binding_limit(&self) -> u64 {
        self.binding_limit_bytes() >> SHIFT
    }

    /// Sets what each binding may keep, and takes what is too much. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is 0, or not in whole pages. `ENOMEM`.
    pub(crate) fn set_binding_limit_bytes(&self, bytes: u64) -> Result {
        self.binding_limit_bytes
            .set(bytes)
            .map_err(|OutOfRange| EINVAL)?;

        for binding in self.all_bindings()? {
            binding.evict_excess();
        }
        Ok(())
    }

    /// What has happened.
    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Charges pages to the device for a binding that has `own` pages, and takes others to make room
    /// for them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no room, and the binding has pages of its own to give up, or nobody has.
    pub(crate) fn charge(&self, pasid: u32, own: u64, pages: u64) -> Result {
        while let Err(exhausted) = self.budget.charge(pages) {
            let wanted = pages.saturating_sub(exhausted.room);

            if self.evict_for(Some(pasid), own, wanted) == 0 {
                return Err(ENOMEM);
            }
        }
        Ok(())
    }

    /// Takes up to `count` pages from the binding that is to give them up, and returns how many: none
    /// if that is the one that wants them, which has `own` pages. May sleep.
    fn evict_for(&self, pasid: Option<u32>, own: u64, count: u64) -> u64 {
        let donor = {
            let bindings = self.bindings.lock();
            let others = bindings
                .all
                .iter()
                .filter(|binding| Some(binding.pasid()) != pasid)
                .map(|binding| (binding, binding.evictable_pages()));

            donor(own, self.budget.limit(), others).cloned()
        };

        donor.map_or(0, |donor| donor.evict(count))
    }

    /// All bindings, now.
    fn all_bindings(&self) -> Result<KVec<Arc<Binding>>> {
        let bindings = self.bindings.lock();
        let mut all = KVec::with_capacity(bindings.all.len(), GFP_KERNEL)?;

        for binding in bindings.all.iter() {
            all.push(binding.clone(), GFP_KERNEL)?;
        }
        Ok(all)
    }

    /// Announces somebody who is to be bound.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the device, or its driver, is going.
    pub(crate) fn arrive(&self) -> Result<Arrival<'_>> {
        let mut bindings = self.bindings.lock();

        if !bindings.open {
            return Err(ENODEV);
        }
        bindings.arriving += 1;
        Ok(Arrival(self))
    }

    /// Lists a binding no more.
    pub(crate) fn remove(&self, binding: &Arc<Binding>) {
        self.bindings
            .lock()
            .all
            .retain(|other| !Arc::ptr_eq(other, binding));
    }

    /// Writes a line for each binding.
    pub(crate) fn show_bindings(&self, out: &mut Formatter<'_>) -> Result {
        for (index, binding) in self.bindings.lock().all.iter().enumerate() {
            if index != 0 {
                out.write_char('\n').map_err(|_| EFBIG)?;
            }
            binding.show(out)?;
        }
        Ok(())
    }
}
