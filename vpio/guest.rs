// SPDX-License-Identifier: GPL-2.0

//! The card as one guest has it: a PCI function that user space opens.

use core::{
    marker::PhantomData,
    ops::RangeInclusive, //
};

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    kvm::{
        Handled,
        PortHandler,
        ServedPorts,
        Vm,
        Window, //
    },
    mdev::{
        self,
        MediatedDevice, //
    },
    vfio::{
        self,
        Interrupt,
        Memory, //
    },
    virqfd::Virqfd, //
};

use crate::{
    attributes::GuestAttributes,
    config_space::ConfigSpace,
    interrupt::LineListener,
    mode::Route,
    model::access::Access,
    number::Number,
    physical::Physical, //
};

/// How the guest reaches the card.
struct Reach<C: Physical> {
    config: ConfigSpace,
    /// None: user space has opened the function without a VM, or KVM can do nothing for us.
    vm: Option<Arc<Vm>>,
    /// What handles accesses in the kernel.
    served: Option<Served<C>>,
    /// Whether the log has it, since the function was opened, that KVM has other things at the guest's
    /// ports: the guest can put them there as often as it likes.
    is_reported: bool,
    /// What listens to the end of interrupts.
    unmask: Option<Virqfd<LineListener>>,
}

/// The ports that are handled in the kernel.
struct Served<C: Physical> {
    first: u16,
    _ports: ServedPorts<Handler<C>>,
}

/// A guest, from when a user makes it until he removes it.
#[pin_data]
pub(crate) struct Guest<C: Physical> {
    card: Arc<C>,
    number: Number,
    #[pin]
    reach: Mutex<Reach<C>>,
}

impl<C: Physical> Guest<C> {
    /// A guest of a card. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(card: Arc<C>, number: Number) -> Result<Arc<Self>> {
        let config = ConfigSpace::new(card.identity());

        Arc::pin_init(
            pin_init!(Self {
                card,
                number,
                reach <- new_mutex!(Reach {
                    config,
                    vm: None,
                    served: None,
                    is_reported: false,
                    unmask: None,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// The card.
    pub(crate) fn card(&self) -> &Arc<C> {
        &self.card
    }

    /// Its number.
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// The mode was changed. May sleep.
    pub(crate) fn follow_mode(&self) {
        self.follow(&mut self.reach.lock());
    }

    /// Lets the guest reach the card where it has put that, in the way that the mode says. May sleep.
    fn follow(&self, reach: &mut Reach<C>) {
        let first = reach.config.ports();
        let mode = self.card.mode();
        let served = match (&reach.vm, first) {
            (Some(vm), Some(first)) if mode.is_hooked() => Some((vm.clone(), first)),
            _ => None,
        };
        let is_served = reach.served.as_ref().map(|served| served.first);

        if is_served != served.as_ref().map(|(_, first)| *first) {
            // First what the guest reaches directly: an access to it may always come to the handler.
            self.card.place(self.number, None, None);
            // Waits for handlers, which take the lock of the card.
            reach.served = None;
            reach.served = served.and_then(|(vm, first)| {
                self.serve(vm, first)
                    .inspect_err(|error| {
                        if !core::mem::replace(&mut reach.is_reported, true) {
                            dev_warn!(
                                self.card.device().device(),
                                "guest {}: KVM does not hook 0x{first:x} ({error:?}): accesses are trapped\n",
                                self.number.get()
                            );
                        }
                    })
                    .ok()
            });
        }
        self.card.place(
            self.number,
            reach.vm.as_ref().filter(|_| reach.served.is_some()),
            first,
        );
    }

    /// Handles the guest's ports in the kernel.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the kernel serves one of them already. `ENOMEM`.
    fn serve(&self, vm: Arc<Vm>, first: u16) -> Result<Served<C>> {
        let count = self.card.identity().bar0_ports;
        let handler = Handler {
            card: self.card.clone(),
            number: self.number,
        };
        let ports = ServedPorts::new(
            vm,
            Window::new(first, count).ok_or(EINVAL)?,
            Arc::new(handler, GFP_KERNEL)?,
        )?;

        Ok(Served {
            first,
            _ports: ports,
        })
    }
}

/// The value that these bytes are.
fn value(data: &[u8]) -> u32 {
    data.iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// A guest reads.
fn read(card: &impl Physical, number: Number, route: Route, offset: u8, data: &mut [u8]) {
    let value = match Access::new(offset, data.len()) {
        Some(access) => card.read(number, route, access),
        None => u32::MAX,
    };

    for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
}

/// A guest writes; see [`Physical::write`].
fn write(
    card: &impl Physical,
    number: Number,
    route: Route,
    offset: u8,
    data: &[u8],
) -> Option<u64> {
    card.write(number, route, Access::new(offset, data.len())?, value(data))
}

/// Handles a guest's accesses in the kernel.
struct Handler<C> {
    card: Arc<C>,
    number: Number,
}

impl<C: Physical> PortHandler for Handler<C> {
    fn read(&self, offset: u8, data: &mut [u8]) -> Handled {
        read(&*self.card, self.number, Route::Hooked, offset, data);
        Handled::Yes
    }

    fn write(&self, offset: u8, data: &[u8]) -> Handled {
        match write(&*self.card, self.number, Route::Hooked, offset, data) {
            Some(address) => Handled::Refused(address),
            None => Handled::Yes,
        }
    }
}

impl<C: Physical> vfio::Function for Guest<C> {
    const PINS: bool = C::DOES_DMA;

    fn bar0_len(&self) -> u16 {
        self.card.identity().bar0_ports
    }

    fn open(&self, vm: Result<Vm>, memory: &Memory) -> Result {
        let mut reach = self.reach.lock();

        self.card.open(self.number, memory)?;
        reach.config = ConfigSpace::new(self.card.identity());
        reach.is_reported = false;
        reach.vm = match vm {
            Ok(vm) => Some(Arc::new(vm, GFP_KERNEL).inspect_err(|_| self.card.close(self.number))?),
            // Without one, or with a KVM that can do nothing for us, all accesses are trapped.
            Err(_) => None,
        };
        self.card.interrupts().set_disabled(self.number, false);
        Ok(())
    }

    // Without the lock of how it is reached: that may be held by who waits for this.
    fn unmapped(&self, addresses: RangeInclusive<u64>) {
        self.card.unmapped(self.number, addresses);
    }

    fn close(&self) {
        let mut reach = self.reach.lock();

        reach.unmask = None;
        self.card.interrupts().set_trigger(self.number, None);
        reach.config = ConfigSpace::new(self.card.identity());
        self.follow(&mut reach);
        self.card.close(self.number);
        reach.vm = None;
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) -> Result {
        let mut reach = self.reach.lock();
        let is_asserted = self.card.interrupts().is_asserted(self.number);

        reach.config.set_interrupt_status(is_asserted);
        reach.config.read(offset, data).map_err(|_| EINVAL)
    }

    fn write_config(&self, offset: usize, data: &[u8]) -> Result {
        let mut reach = self.reach.lock();
        let changed = reach.config.write(offset, data).map_err(|_| EINVAL)?;

        if changed.ports {
            self.follow(&mut reach);
        }
        if changed.interrupt {
            let is_disabled = reach.config.interrupt_is_disabled();

            self.card
                .interrupts()
                .set_disabled(self.number, is_disabled);
        }
        Ok(())
    }

    fn read_ports(&self, offset: u8, data: &mut [u8]) {
        read(&*self.card, self.number, Route::Trapped, offset, data);
    }

    fn write_ports(&self, offset: u8, data: &[u8]) {
        // The virtual CPU is not in KVM now.
        let _ = write(&*self.card, self.number, Route::Trapped, offset, data);
    }

    fn interrupt(&self, request: Interrupt) -> Result {
        let mut reach = self.reach.lock();
        let interrupts = self.card.interrupts();

        match request {
            Interrupt::Trigger(trigger) => {
                if trigger.is_none() {
                    reach.unmask = None;
                }
                interrupts.set_trigger(self.number, trigger);
            }
            Interrupt::Raise => interrupts.force(self.number),
            Interrupt::Mask => interrupts.mask(self.number),
            Interrupt::Unmask => interrupts.unmask(self.number),
            Interrupt::UnmaskBy(None) => reach.unmask = None,
            Interrupt::UnmaskBy(Some(descriptor)) => {
                let listener = LineListener::new(interrupts.clone(), self.number);

                reach.unmask = None;
                reach.unmask = Some(Virqfd::new(descriptor, Arc::new(listener, GFP_KERNEL)?)?);
            }
        }
        Ok(())
    }

    fn reset(&self) {
        let mut reach = self.reach.lock();

        reach.config = ConfigSpace::new(self.card.identity());
        self.follow(&mut reach);
        self.card.interrupts().set_disabled(self.number, false);
        self.card.reset(self.number);
    }
}

/// Who makes guests of a card.
pub(crate) struct Guests<C>(PhantomData<C>);

impl<C: Physical> mdev::Mediator for Guests<C> {
    type Parent = C;
    type Share = Share<C>;

    fn available(card: &C) -> u32 {
        card.available()
    }

    fn probe(card: &Arc<C>, device: &MediatedDevice) -> Result<Share<C>> {
        Share::new(card, device)
    }
}

/// What a user has made: dropped in this order.
pub(crate) struct Share<C: Physical> {
    _attributes: GuestAttributes<C>,
    _function: vfio::Registration<Guest<C>>,
    _admission: Admission<C>,
}

/// That a guest is one of those of its card.
struct Admission<C: Physical>(Arc<Guest<C>>);

impl<C: Physical> Drop for Admission<C> {
    fn drop(&mut self) {
        self.0.card.dismiss(self.0.number);
    }
}

impl<C: Physical> Share<C> {
    /// A guest of a card, which user space can open as this device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: the card has as many as it can have. `ENOMEM`.
    pub(crate) fn new(card: &Arc<C>, device: &MediatedDevice) -> Result<Self> {
        let guest = card.admit(|number| Guest::new(card.clone(), number))?;
        let admission = Admission(guest.clone());
        let function = vfio::Registration::new(device, guest.clone())?;

        Ok(Self {
            _attributes: GuestAttributes::new(device, &guest)?,
            _function: function,
            _admission: admission,
        })
    }
}
