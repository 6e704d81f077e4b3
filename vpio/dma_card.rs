// SPDX-License-Identifier: GPL-2.0

//! A physical RTL8139, and the guest that has it.
//!
//! The card does DMA in the memory of its guest. Its model names the memory of each before it can start,
//! and says when it is over: as long as that, and no longer, it is pinned and in the card's IOMMU domain
//! (`reach.rs`). So there is one guest: after a reset the card begins its rings anew, and where a guest is
//! in them cannot be set, so it could not go on where it was.
//!
//! Lock order: the guest of the card, as sysfs sees it; how the guest reaches the card ([`Guest`]); the
//! state of the card; VFIO's locks of the guest's memory, and the lines of the interrupt. VFIO calls with
//! a lock held that is taken nowhere in that order, and then only the state is taken.

use core::{
    ops::RangeInclusive,
    sync::atomic::{
        AtomicU8,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    device::Core,
    new_mutex,
    pci,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    device::{
        DmaDevice,
        LockedDevice, //
    },
    embeds,
    error::not_supported,
    intx::{
        self,
        InterruptPin, //
    },
    io_bar::IoBar,
    io_region::HostPorts,
    kvm::{
        Support,
        Vm, //
    },
    mdev,
    pci::PciDevice,
    sysfs::File,
    trace::vpio as trace,
    vfio::Memory,
    work::{
        Run,
        Work, //
    }, //
};

use crate::{
    attributes,
    config_space::Identity,
    guest::{
        Guest,
        Guests, //
    },
    interrupt::{
        Interrupts,
        Watch, //
    },
    mode::{
        Mode,
        Route, //
    },
    model::{
        access::Access,
        card::Card as _,
        device::{
            DeviceModel,
            Verdict, //
        },
        dma::{
            Denial,
            OnDenied, //
        },
        ports::PortSet,
        rtl8139::{
            context::Context,
            register::{
                Descriptor,
                CR,
                RBSTART, //
            },
            Pinning,
            Rtl8139, //
        },
    },
    number::{
        Number,
        PerGuest, //
    },
    physical::{
        self,
        Physical, //
    },
    reach::{
        Attempt,
        Outcome,
        Reached, //
    },
    registers::Registers,
    statistics::Statistics,
    way::Way, //
};

/// The one guest that there is.
const GUEST: Number = Number::First;

/// Milliseconds after which it is looked whether frames are sent, if the guest does not want to be
/// interrupted for that, and whether its receiver is still enabled, if it can disable that without an exit:
/// as long as that is not seen, pages stay pinned.
const LOOK_MS: u32 = 100;

/// The revision of a chip without C+ mode, which the model denies: Linux leaves chips from 0x20 on to
/// another driver (`8139cp`), which knows no other mode.
const REVISION: u8 = 0x10;

/// Subsystem vendor and device ID of a computer whose RTL8139 has to be accessed by ports (`OQO Model 2`).
/// Guests have no other way to the card, and Linux's driver does not look for it by itself.
const PORTS_ONLY: (u16, u16) = (0x168c, 0x8139);

/// What the lock of the card is for.
struct State {
    bar: IoBar,
    /// None: nobody opens the card any more.
    reached: Option<Reached>,
    /// None: there is no guest.
    way: Option<Way>,
    /// None: the guest is not open.
    model: Option<Rtl8139>,
    on_denied: OnDenied,
}

/// A card.
#[pin_data]
pub(crate) struct DmaCard {
    #[pin]
    looks: Work<DmaCard>,
    function: PciDevice,
    device: DmaDevice,
    identity: Identity,
    /// The card as it was found, after a reset.
    initial: Context,
    statistics: Arc<Statistics>,
    of_guest: Arc<Statistics>,
    interrupts: Arc<Interrupts>,
    /// By its number.
    mode: AtomicU8,
    /// Its place in [`Pinning::ALL`].
    pinning: AtomicU8,
    #[pin]
    guest: Mutex<Option<Arc<Guest<DmaCard>>>>,
    #[pin]
    state: Mutex<State>,
}

embeds!(DmaCard, looks: Work<DmaCard>);

impl DmaCard {
    /// The card of a function that has a driver, as it is after a reset. It reaches no memory. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is none, it has no interrupt that can be masked, or is behind no IOMMU that it has for
    /// itself. `EBUSY`: somebody has its ports. `ENOMEM`.
    pub(crate) fn new(function: &pci::Device<Core<'_>>) -> Result<Arc<Self>> {
        /// Bits that the register keeps, and a pattern of them.
        const PATTERN: u32 = 0x5a3c_96f0;

        let device = DmaDevice::new(function.as_ref());
        let pin = InterruptPin::new(function)?;
        let bar = IoBar::new(function, 0, c"vpio")?;

        if bar.ports().window().count() < Rtl8139::PORTS.len() as u16 {
            return Err(ENODEV);
        }

        let statistics = Arc::new(Statistics::new(), GFP_KERNEL)?;
        let of_guest = Arc::new(Statistics::new(), GFP_KERNEL)?;
        let nobody = || Arc::new(Statistics::new(), GFP_KERNEL);
        let of_guests = PerGuest::new([of_guest.clone(), nobody()?, nobody()?, nobody()?]);
        let reached = Reached::new(
            &LockedDevice::in_callback(function.as_ref()),
            [statistics.clone(), of_guest.clone()],
        )
        .map_err(|error| match error {
            ENOMEM => ENOMEM,
            error => {
                dev_err!(
                    function,
                    "it has no IOMMU for itself, which is to keep it from what is not pinned ({error:?})\n"
                );
                ENODEV
            }
        })?;
        let mut registers = Registers(bar.ports());
        let mut model = Rtl8139::new(Pinning::default(), OnDenied::Ignore);
        let mut found = Context::new([0; 2]);

        // All of it is as after a reset only once there was one.
        for _ in 0..2 {
            let _ = model.seize(&mut found, &mut registers);
        }
        // A reset leaves some of what the last driver has set, like the multicast hash and RCR.
        let initial = Context {
            config: found.config,
            ..Context::new(found.address)
        };

        registers.write32(RBSTART, PATTERN);
        if registers.read32(RBSTART) != PATTERN {
            dev_err!(
                function,
                "this is no RTL8139: its registers do not keep what is written to them\n"
            );
            return Err(ENODEV);
        }
        registers.write32(RBSTART, 0);

        let interrupts = Arc::new(
            Interrupts::new(
                Watch::Model,
                device.clone(),
                pin,
                statistics.clone(),
                of_guests,
            ),
            GFP_KERNEL,
        )?;
        let (subsystem_vendor, subsystem) = PORTS_ONLY;
        let identity = Identity {
            revision: REVISION,
            subsystem_vendor,
            subsystem,
            ..physical::identity(function, bar.ports().window().count())
        };

        Arc::pin_init(
            pin_init!(Self {
                looks <- Work::new(),
                function: PciDevice::from_device(function.as_ref()).ok_or(ENODEV)?,
                identity,
                device,
                initial,
                statistics,
                of_guest,
                interrupts,
                mode: AtomicU8::new(Mode::Trap.number()),
                pinning: AtomicU8::new(0),
                guest <- new_mutex!(None),
                state <- new_mutex!(State {
                    bar,
                    reached: Some(reached),
                    way: None,
                    on_denied: OnDenied::default(),
                    model: None,
                }),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// For how long frames are pinned, of guests that are opened from now on.
    pub(crate) fn pinning(&self) -> Pinning {
        let all = Pinning::ALL.into_iter();

        all.zip(0..)
            .find(|(_, number)| *number == self.pinning.load(Relaxed))
            .map_or(Pinning::default(), |(pinning, _)| pinning)
    }

    /// Sets for how long frames are pinned, of guests that are opened from now on.
    pub(crate) fn set_pinning(&self, wanted: Pinning) {
        for (pinning, number) in Pinning::ALL.into_iter().zip(0..) {
            if pinning == wanted {
                self.pinning.store(number, Relaxed);
            }
        }
    }

    /// What a guest gets for a DMA that is denied.
    pub(crate) fn on_denied(&self) -> OnDenied {
        self.state.lock().on_denied
    }

    /// Sets what a guest gets for a DMA that is denied, from the next one on.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: machine checks take a KVM with `vpio/kvm/kvm-pio.patch`.
    pub(crate) fn set_on_denied(&self, wanted: OnDenied) -> Result {
        let support = Support::probe();

        if wanted == OnDenied::MachineCheck && support != Support::Patched {
            dev_err!(
                self.device.device(),
                "no machine checks: {}\n",
                support.text()
            );
            return Err(not_supported());
        }

        let mut state = self.state.lock();

        state.on_denied = wanted;
        if let Some(model) = &mut state.model {
            model.set_on_denied(wanted);
        }
        Ok(())
    }

    /// Opens to the guest what the model does not have to hear of.
    fn follow(&self, state: &mut State) {
        let State {
            bar, way, model, ..
        } = state;

        if let (Some(way), Some(model)) = (way, model) {
            let is_here = way
                .ports()
                .is_some_and(|ports| Arc::ptr_eq(ports, bar.ports()));
            let allowed = match self.mode().is_direct() && is_here {
                true => Rtl8139::PORTS.difference(model.hooked()),
                false => PortSet::EMPTY,
            };

            way.allow(allowed, &self.device, &self.statistics);
        }
    }

    /// Gives the card, as it was found, to the guest.
    fn begin(&self, state: &mut State) {
        let mut model = Rtl8139::new(self.pinning(), state.on_denied);

        model.restore(&self.initial, &mut Registers(state.bar.ports()));
        state.model = Some(model);
        self.function.start_dma();
        self.follow(state);
        self.interrupts.set_owner(Some(GUEST));
    }

    /// Takes the card from the guest, if it is open, in the middle of whatever it does. It reaches no
    /// memory then.
    fn stop(&self, state: &mut State) {
        let State {
            bar,
            way,
            model,
            reached,
            ..
        } = state;
        let Some(mut model) = model.take() else {
            return;
        };
        let mut gone = Context::new([0; 2]);

        self.interrupts.set_owner(None);
        if let Some(way) = way {
            way.close(&self.device, &self.statistics);
        }
        // All DMA is over then, of whatever channel; and a card that does not obey cannot do any.
        let _ = model.seize(&mut gone, &mut Registers(bar.ports()));

        self.function.stop_dma();
        if let Some(reached) = reached {
            reached.finish();
        }
    }

    /// Ends what the card is done with, and looks again if there is more to come.
    fn look(&self, state: &mut State) {
        let State {
            bar,
            model,
            reached,
            ..
        } = &mut *state;

        if let (Some(model), Some(reached)) = (model, reached) {
            reached.end(model.interrupt(&mut Registers(bar.ports())));
        }
        self.follow(state);
        self.look_again(state);
    }

    /// Has it looked at later, if there is something that may end unseen.
    fn look_again(&self, state: &State) {
        let State {
            way: Some(way),
            model: Some(model),
            ..
        } = state
        else {
            return;
        };
        let is_sending = Descriptor::ALL
            .iter()
            .any(|descriptor| model.sending(*descriptor).is_some());

        if is_sending || model.receiving().is_some() && !way.exiting().contains(CR) {
            self.looks.queue(LOOK_MS);
        }
    }

    /// A write of the guest was dropped.
    fn denied(&self, outcome: Outcome, access: Access, value: u32) {
        for statistics in [&self.statistics, &self.of_guest] {
            match outcome {
                Outcome::NotPinned => statistics.pins_failed.add(1),
                _ => statistics.denied.add(1),
            }
        }
        trace::denied(
            &self.device,
            GUEST.get(),
            access.port(),
            access.width().bytes(),
            value,
        );
    }
}

impl Run for DmaCard {
    fn run(&self) {
        self.look(&mut self.state.lock());
        self.interrupts.looked();
    }
}

/// Has the card looked at when it interrupts.
pub(crate) struct Watcher(Arc<DmaCard>);

impl intx::Handler for Watcher {
    fn handle(&self) -> bool {
        let is_ours = self.0.interrupts.hold();

        if is_ours {
            self.0.looks.requeue(0);
        }
        is_ours
    }
}

static GUESTS: mdev::Driver<Guests<DmaCard>> =
    mdev::Driver::new(c"vpio-rtl8139", &crate::THIS_MODULE);

impl Physical for DmaCard {
    const KIND: &'static CStr = c"rtl8139";
    const PRETTY_NAME: &'static CStr = c"RTL8139";
    const DOES_DMA: bool = true;
    const SETTINGS: &'static [File<Self>] = attributes::RTL8139;

    type Handler = Watcher;

    fn driver_of_guests() -> &'static mdev::Driver<Guests<Self>> {
        &GUESTS
    }

    fn handler(this: &Arc<Self>) -> Result<Arc<Watcher>> {
        Ok(Arc::new(Watcher(this.clone()), GFP_KERNEL)?)
    }

    fn device(&self) -> &DmaDevice {
        &self.device
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn statistics_of(&self, _number: Number) -> &Statistics {
        &self.of_guest
    }

    fn mode(&self) -> Mode {
        Mode::from_number(self.mode.load(Relaxed))
    }

    // None in which the model does not hear of DMA before it can start.
    fn modes(support: Support) -> impl Iterator<Item = Mode> + Clone {
        Mode::offered(support).filter(|mode| *mode != Mode::Open)
    }

    fn set_mode(&self, mode: Mode) -> Result {
        if mode == Mode::Open {
            dev_err!(
                self.device.device(),
                "no mode {}: the card reaches only memory that the model has named\n",
                mode.name()
            );
            return Err(not_supported());
        }
        mode.check(&self.device)?;

        let guest = self.guest.lock();

        self.mode.store(mode.number(), Relaxed);
        if let Some(guest) = &*guest {
            guest.follow_mode();
        }
        Ok(())
    }

    fn available(&self) -> u32 {
        self.guest.lock().is_none().into()
    }

    fn admit(
        &self,
        new: impl FnOnce(Number) -> Result<Arc<Guest<Self>>>,
    ) -> Result<Arc<Guest<Self>>> {
        let mut slot = self.guest.lock();

        if slot.is_some() {
            return Err(ENOSPC);
        }

        let guest = new(GUEST)?;

        *slot = Some(guest.clone());
        self.state.lock().way = Some(Way::new(GUEST, Rtl8139::PORTS, self.of_guest.clone()));
        Ok(guest)
    }

    fn dismiss(&self, _number: Number) {
        let mut slot = self.guest.lock();
        let way = self.state.lock().way.take();
        let guest = slot.take();

        self.of_guest.reset();
        drop(slot);
        drop(way);
        drop(guest);
    }

    fn open(&self, _number: Number, memory: &Memory) -> Result {
        let mut state = self.state.lock();
        let State { way, reached, .. } = &mut *state;

        reached.as_mut().ok_or(ENODEV)?.begin(memory);
        if let Some(way) = way {
            way.opened();
        }
        self.begin(&mut state);
        Ok(())
    }

    fn unmapped(&self, _number: Number, addresses: RangeInclusive<u64>) {
        if let Some(reached) = &mut self.state.lock().reached {
            reached.withdraw(addresses);
        }
    }

    fn close(&self, _number: Number) {
        let mut state = self.state.lock();

        self.stop(&mut state);
        if let Some(way) = &mut state.way {
            way.leave();
        }
    }

    fn reset(&self, _number: Number) {
        let mut state = self.state.lock();
        let Some(memory) = state.reached.as_ref().and_then(Reached::memory) else {
            return;
        };

        self.stop(&mut state);
        if let Some(reached) = &mut state.reached {
            reached.begin(&memory);
        }
        self.begin(&mut state);
    }

    fn place(&self, _number: Number, vm: Option<&Arc<Vm>>, first: Option<u16>) {
        let mut state = self.state.lock();
        let wanted = match (vm, first) {
            (Some(vm), Some(first)) if self.mode().is_direct() => Some((vm, first)),
            _ => None,
        };
        let State { way, bar, .. } = &mut *state;

        if let Some(way) = way {
            let reserve = |first| match bar.ports().window().first() == first {
                true => Ok(bar.ports().clone()),
                false => bar.reserve(first, c"vpio"),
            };

            way.place(wanted, reserve, &self.device, &self.statistics);
            if let Some(ports) = way.ports() {
                bar.move_to(ports);
            }
        }
        self.follow(&mut state);
    }

    fn read(&self, number: Number, route: Route, access: Access) -> u32 {
        let mut state = self.state.lock();
        let State { bar, model, .. } = &mut *state;
        let mut registers = Registers(bar.ports());
        let mut value = access.width().mask();

        if let Some(model) = model {
            value = registers.read(access);
            value = model.read(access, value, &mut registers);
        }
        for statistics in [&self.statistics, &self.of_guest] {
            statistics.accesses(route).add(1);
            statistics.model_updates.add(1);
        }
        trace::access(
            &self.device,
            number.get(),
            route as u8,
            false,
            access.port(),
            access.width().bytes(),
            value,
        );
        value
    }

    fn write(&self, number: Number, route: Route, access: Access, value: u32) -> Option<u64> {
        for statistics in [&self.statistics, &self.of_guest] {
            statistics.accesses(route).add(1);
            statistics.model_updates.add(1);
        }
        trace::access(
            &self.device,
            number.get(),
            route as u8,
            true,
            access.port(),
            access.width().bytes(),
            value,
        );

        let mut state = self.state.lock();
        let State {
            bar,
            model: Some(model),
            reached: Some(reached),
            ..
        } = &mut *state
        else {
            return None;
        };
        let mut registers = Registers(bar.ports());
        let attempt = Attempt::new(reached);
        let verdict = model.check(access, value, &attempt);
        let outcome = attempt.outcome();

        if verdict.allows() {
            registers.write(access, value);
        } else {
            self.denied(outcome, access, value);
        }
        match verdict {
            Verdict::Start(dma) => reached.start(dma.channel),
            _ if outcome == Outcome::Pinned => reached.give_up(),
            _ => (),
        }
        if verdict.allows() {
            reached.end(model.wrote(access, value, verdict, &mut registers));
            self.follow(&mut state);
            if matches!(verdict, Verdict::Start(_)) {
                self.look_again(&state);
            }
        }

        match verdict {
            // That the host cannot pin memory is not the guest's fault.
            Verdict::MachineCheck(Denial::OutsideMemory(dma)) if outcome == Outcome::NotMemory => {
                Some(dma.span.start)
            }
            _ => None,
        }
    }

    fn exiting(&self, _number: Number) -> PortSet {
        match &self.state.lock().way {
            Some(way) => way.exiting(),
            None => PortSet::EMPTY,
        }
    }

    fn is_owner(&self, _number: Number) -> bool {
        self.state.lock().model.is_some()
    }

    fn end(&self) {
        // Nothing interrupts any more, and nobody accesses the card.
        self.looks.cancel();

        let mut state = self.state.lock();
        let reached = state.reached.take();

        self.stop(&mut state);
        self.interrupts.end();
        drop(state);
        drop(reached);
    }
}
