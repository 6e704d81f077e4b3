// SPDX-License-Identifier: GPL-2.0

//! A physical NE2000, and who has it.
//!
//! Lock order: the guests of the card, as sysfs sees them; how a guest reaches the card ([`Guest`]); the
//! state of the card; the lines of the interrupt. KVM takes what it has to exclude changes of a VM's ports
//! under the state. A handler of a guest's ports takes the state alone: so no such handler is taken away
//! from KVM, which waits for its calls, where the state is held.
//!
//! [`Guest`]: crate::guest::Guest

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
        Mutex,
        MutexGuard, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};
use pdio::{
    device::DmaDevice,
    embeds,
    event_count::EventCount,
    intx::InterruptPin,
    io_bar::IoBar,
    io_region::HostPorts,
    kvm::Vm,
    mdev,
    sysfs::File,
    task::Thread,
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
            Attention,
            DeviceModel,
            Reuse,
            QUIET_US, //
        },
        frame::{
            Address,
            Frame, //
        },
        ne2000::{
            arrivals::{
                self,
                Buffer, //
            },
            register::{
                isr,
                ISR, //
            },
            Ne2000,
            Quirks, //
        },
        ports::PortSet, //
    },
    number::{
        Number,
        PerGuest,
        GUESTS_MAX, //
    },
    physical::{
        self,
        Physical, //
    },
    registers::Registers,
    seat::{
        Prom,
        Seat, //
    },
    statistics::Statistics,
    turns::{
        Decision,
        Pace,
        Slot,
        Turns, //
    }, //
};

/// Milliseconds after which whoever waits for the card looks for himself.
const LOOK_MS: u32 = 50;

/// Milliseconds between looks at what came for guests that share the card, if its owner does not look
/// itself: within that, frames of 25,000 bytes come, twice as many as the ring of Linux's driver has.
const ROUND_MS: u32 = 10;

/// Microseconds for which its owner has not accessed it before it is looked whether it has left frames in its
/// ring: long after a driver has read what it is going to, and before TCP sends again what is not acknowledged
/// (200 ms at least, `TCP_RTO_MIN`).
const IDLE_US: u64 = 50_000;

/// What the lock of the card is for.
struct State {
    bar: IoBar,
    seats: PerGuest<Option<Seat>>,
    turns: Turns<GUESTS_MAX>,
    /// Whether somebody wants the card who does not have it.
    is_wanted: bool,
    /// Since when the owner is followed closely. None: it is not.
    followed: Option<Followed>,
    /// What the owner had done the last time that it was looked whether it goes on.
    idle: Idle,
    buffer: KBox<Buffer>,
    /// Nobody opens it any more.
    is_gone: bool,
}

/// How far a guest was when it began to be followed closely, or made its last access since.
#[derive(Clone, Copy)]
struct Followed {
    /// How many accesses it had made.
    accesses: u64,
    /// [`Seat::ran_us`].
    ran_us: u64,
    /// The same when it began to be followed closely.
    began_us: u64,
}

impl Followed {
    /// As it is now, if it was followed like this before.
    fn now(seat: &Seat, before: Option<Self>) -> Self {
        let ran_us = seat.ran_us();

        Self {
            accesses: seat.accesses,
            ran_us,
            began_us: before.map_or(ran_us, |before| before.began_us),
        }
    }

    /// Whether the guest has run since, and made no access, for so long that it is not about to: or has
    /// nothing to run for, its virtual CPU being halted, which drivers do not do in mid-transaction.
    fn is_quiet(self, seat: &Seat) -> bool {
        let is_quiet = |thread: &Thread| {
            thread.is_waiting() || seat.ran_us().wrapping_sub(self.ran_us) >= u64::from(QUIET_US)
        };

        self.accesses == seat.accesses && seat.thread.as_ref().is_none_or(is_quiet)
    }
}

/// Whether an owner of the card has done nothing for a while.
#[derive(Clone, Copy, Default)]
struct Idle {
    /// How many accesses it had made.
    accesses: u64,
    /// Since when.
    since_us: u64,
    /// Whether it was reminded since of what it has left.
    is_reminded: bool,
}

impl Idle {
    /// Whether it is to be reminded now: once.
    fn is_over(&mut self, seat: &Seat, now_us: u64) -> bool {
        if self.accesses != seat.accesses {
            *self = Self {
                accesses: seat.accesses,
                since_us: now_us,
                is_reminded: false,
            };
        }
        !self.is_reminded && now_us.saturating_sub(self.since_us) >= IDLE_US
    }
}

/// The guests that do not have the card.
struct Others<'a> {
    seats: &'a mut PerGuest<Option<Seat>>,
    statistics: &'a Statistics,
}

impl arrivals::Others for Others<'_> {
    fn want(&self, destination: Address) -> bool {
        let mut seats = self.seats.iter().filter_map(|(_, seat)| seat.as_ref());

        seats.any(|seat| seat.wants(destination))
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        for seat in self.seats.values_mut().flatten() {
            if seat.wants(frame.destination()) {
                seat.receive(frame, self.statistics);
            }
        }
    }
}

impl State {
    /// The number of the guest that has the card.
    fn owner(&self) -> Option<Number> {
        let slot = self.turns.owner()?;

        self.seats
            .iter()
            .find(|(_, seat)| seat.as_ref().is_some_and(|seat| seat.slot == Some(slot)))
            .map(|(number, _)| number)
    }

    /// Whether a guest is open.
    fn is_open(&self) -> bool {
        self.seats
            .iter()
            .any(|(_, seat)| seat.as_ref().is_some_and(|seat| seat.slot.is_some()))
    }

    /// The guest that has the card, and the way to that.
    fn owning(&mut self) -> Option<(&mut Seat, &IoBar)> {
        let number = self.owner()?;

        Some((self.seats.get_mut(number).as_mut()?, &self.bar))
    }
}

/// A card.
#[pin_data]
pub(crate) struct Card {
    #[pin]
    rounds: Work<Card>,
    /// The clock of the turns began then.
    started: Instant<Monotonic>,
    device: DmaDevice,
    identity: Identity,
    quirks: Quirks,
    prom: Prom,
    statistics: Arc<Statistics>,
    of_guests: PerGuest<Arc<Statistics>>,
    interrupts: Arc<Interrupts>,
    pace: Pace,
    /// By its number.
    mode: AtomicU8,
    #[pin]
    guests: Mutex<PerGuest<Option<Arc<Guest<Card>>>>>,
    #[pin]
    state: Mutex<State>,
    /// The card has changed hands, or nobody has it any more.
    #[pin]
    turned: EventCount,
}

embeds!(Card, rounds: Work<Card>);

impl Card {
    /// The card of a function that has a driver, as it is after a reset. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is none, or has no interrupt that can be masked. `EBUSY`: somebody has its ports.
    /// `ENOMEM`.
    pub(crate) fn new(function: &pci::Device<Core<'_>>) -> Result<Arc<Self>> {
        let device = DmaDevice::new(function.as_ref());
        let pin = InterruptPin::new(function)?;
        let bar = IoBar::new(function, 0, c"vpio")?;

        if bar.ports().window().count() < Ne2000::PORTS.len() as u16 {
            return Err(ENODEV);
        }

        let buffer = KBox::new(Buffer::new(), GFP_KERNEL)?;
        let mut registers = Registers(bar.ports());
        let Some(quirks) = Quirks::probe(&mut registers) else {
            dev_err!(
                function,
                "this is no NE2000: its registers do not keep what is written to them\n"
            );
            return Err(ENODEV);
        };
        let prom = Ne2000::read_prom(&mut registers);
        let statistics = Arc::new(Statistics::new(), GFP_KERNEL)?;
        let of_guest = || Arc::new(Statistics::new(), GFP_KERNEL);
        let of_guests = PerGuest::new([of_guest()?, of_guest()?, of_guest()?, of_guest()?]);
        let interrupts = Arc::new(
            Interrupts::new(
                Watch::Nobody,
                device.clone(),
                pin,
                statistics.clone(),
                of_guests.clone(),
            ),
            GFP_KERNEL,
        )?;

        Arc::pin_init(
            pin_init!(Self {
                rounds <- Work::new(),
                started: Instant::now(),
                identity: physical::identity(function, bar.ports().window().count()),
                device,
                quirks,
                prom,
                statistics,
                of_guests,
                interrupts,
                pace: Pace::new(),
                mode: AtomicU8::new(Mode::Trap.number()),
                guests <- new_mutex!(PerGuest::default()),
                state <- new_mutex!(State {
                    bar,
                    seats: PerGuest::default(),
                    turns: Turns::new(),
                    is_wanted: false,
                    followed: None,
                    idle: Idle::default(),
                    buffer,
                    is_gone: false,
                }),
                turned <- EventCount::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// How long guests have it.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Stores the mode, if that can be.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody has a guest open, whose model would hear of nothing, or has heard of nothing.
    fn store_mode(&self, mode: Mode) -> Result {
        let state = self.state.lock();
        let old = self.mode();

        if mode != old && (mode == Mode::Open || old == Mode::Open) && state.is_open() {
            dev_err!(
                self.device.device(),
                "no mode {} while a guest is open: no model knows the card in mode {}\n",
                mode.name(),
                Mode::Open.name()
            );
            return Err(EBUSY);
        }
        self.mode.store(mode.number(), Relaxed);
        Ok(())
    }

    /// A user makes a guest, which is made by `new` from its number. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: there are as many as there can be. `ENOMEM`, and what `new` returns.
    fn admit_guest(
        &self,
        new: impl FnOnce(Number) -> Result<Arc<Guest<Card>>>,
    ) -> Result<Arc<Guest<Card>>> {
        let mut guests = self.guests.lock();
        let number = guests
            .iter()
            .find(|(_, guest)| guest.is_none())
            .map(|(number, _)| number)
            .ok_or(ENOSPC)?;
        let prom = station(&self.prom, number);
        let seat = Seat::new(
            number,
            prom,
            self.quirks,
            self.of_guests.get(number).clone(),
        )?;
        let guest = new(number)?;

        *guests.get_mut(number) = Some(guest.clone());
        *self.state.lock().seats.get_mut(number) = Some(seat);
        Ok(guest)
    }

    /// A user removes a guest that nobody has open. May sleep.
    fn dismiss_guest(&self, number: Number) {
        let mut guests = self.guests.lock();
        let seat = self.state.lock().seats.get_mut(number).take();
        let guest = guests.get_mut(number).take();

        self.of_guests.get(number).reset();
        drop(guests);
        drop(seat);
        drop(guest);
    }

    /// The clock of the turns.
    fn now_us(&self) -> u64 {
        self.started.elapsed().as_nanos().unsigned_abs() / 1_000
    }

    /// A guest is opened. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the card goes. `EBUSY`: another one is open, and in this mode there can be only one.
    fn open_guest(&self, number: Number) -> Result {
        let mut state = self.state.lock();

        if state.is_gone {
            return Err(ENODEV);
        }

        if self.mode() == Mode::Open && state.is_open() {
            return Err(EBUSY);
        }

        // There are as many slots as seats.
        let slot = state.turns.arrive().ok_or(ENODEV)?;
        let seat = state.seats.get_mut(number).as_mut().ok_or(ENODEV)?;

        seat.slot = Some(slot);
        seat.way.opened();
        seat.reset();
        self.settle_sharing(&mut state);
        Ok(())
    }

    /// A guest is closed: nobody of it accesses the card any more. If it had the card, that is reset. May
    /// sleep.
    fn close_guest(&self, number: Number) {
        let mut state = self.state.lock();

        self.stop(&mut state, number);
        if let Some(seat) = state.seats.get_mut(number) {
            let slot = seat.slot.take();

            seat.way.leave();
            seat.thread = None;
            seat.owed = false;
            seat.reset();
            if let Some(slot) = slot {
                state.turns.leave(slot);
            }
        }
        self.interrupts.set_owed(number, false);
        self.settle_sharing(&mut state);
        self.advance(&mut state);
        self.turned.add();
    }

    /// If the guest has the card, takes its way there and stops the card.
    fn stop(&self, state: &mut State, number: Number) {
        if state.owner() != Some(number) {
            return;
        }

        self.interrupts.set_owner(None);
        if let Some((seat, bar)) = state.owning() {
            seat.way.close(&self.device, &self.statistics);
            Registers(bar.ports()).stop();
        }
        trace::switch(&self.device, number.get().into(), -1, 0);
    }

    /// A guest is reset: so is the card, if it has that. May sleep.
    fn reset_guest(&self, number: Number) {
        let mut state = self.state.lock();
        let has_card = state.owner() == Some(number);

        self.stop(&mut state, number);
        if let Some(seat) = state.seats.get_mut(number) {
            seat.owed = false;
            seat.reset();
        }
        self.interrupts.set_owed(number, false);
        if has_card {
            self.replay(&mut state, number);
        }
        self.settle_sharing(&mut state);
    }

    /// Tells the models whether others share the card with their guests.
    fn settle_sharing(&self, state: &mut State) {
        let is_shared = state.turns.guests() > 1;
        let owner = state.owner();
        let State { seats, bar, .. } = &mut *state;
        let mut registers = Registers(bar.ports());
        let is_settled = |(_, seat): (_, &Option<Seat>)| {
            seat.as_ref()
                .is_none_or(|seat| seat.slot.is_none() || seat.is_shared == is_shared)
        };

        if seats.iter().all(is_settled) {
            return;
        }
        for seat in seats.values_mut().flatten() {
            if seat.slot.is_none() || seat.is_shared == is_shared {
                continue;
            }
            if owner == Some(seat.number()) {
                seat.way.close(&self.device, &self.statistics);
            }
            if is_shared {
                seat.model.share(&mut registers);
                seat.is_shared = true;
            } else if seat.model.unshare(&mut registers).is_ok() {
                seat.is_shared = false;
            }
        }
        // From now on the card receives for all.
        self.share_out(state);
        self.follow(state);
        if is_shared {
            self.rounds.queue(ROUND_MS);
        }
    }

    /// Gives the others what came for them while the owner had the card, and hides it from that.
    fn share_out(&self, state: &mut State) {
        let Some(owner) = state.owner() else {
            return;
        };
        let State {
            seats, bar, buffer, ..
        } = &mut *state;
        let Some(mut seat) = seats.get_mut(owner).take() else {
            return;
        };

        if seat.is_shared {
            seat.way.close(&self.device, &self.statistics);

            let mut others = Others {
                seats,
                statistics: &self.statistics,
            };

            // If not now, then at the owner's next access.
            let _ = seat
                .model
                .share_out(&mut others, buffer, &mut Registers(bar.ports()));
        }
        *seats.get_mut(owner) = Some(seat);
        self.tell_others(state);
    }

    /// Whether there may be frames that nobody has looked at: if the owner's card says that some came, and
    /// the owner has not looked itself. Nothing is disturbed by that.
    fn has_arrivals(&self, state: &mut State) -> bool {
        state.owning().is_some_and(|(seat, bar)| {
            // On other pages this is another register. Then it is looked at once too often, or later.
            seat.is_shared && Registers(bar.ports()).read8(ISR) & isr::PRX != 0
        })
    }

    /// Lets others have the card if nobody hears anything with it as its owner has it. Who only listens
    /// makes no access, and would wait for ever.
    fn let_others_listen(&self, state: &mut State) {
        let is_deaf = state
            .owning()
            .is_some_and(|(seat, _)| seat.is_shared && !seat.model.listens());

        if !is_deaf {
            return;
        }

        let owner = state.owner();
        let now_us = self.now_us();
        let State { seats, turns, .. } = state;

        for seat in seats.values_mut().flatten() {
            if owner != Some(seat.number()) && seat.context.listens() {
                if let Some(slot) = seat.slot {
                    turns.want(slot, now_us);
                }
            }
        }
    }

    /// Interrupts the owner for frames that it has left in its ring, if it does nothing.
    fn remind(&self, state: &mut State) {
        let now_us = self.now_us();
        let mut idle = state.idle;
        let is_over = state
            .owning()
            .is_some_and(|(seat, _)| seat.is_shared && idle.is_over(seat, now_us));

        state.idle = idle;
        if !is_over {
            return;
        }
        // Those of others are in the way of what comes next. From here on, all ports are hooked.
        self.share_out(state);
        if let Some((seat, bar)) = state.owning() {
            // If not now, then in the next round.
            if let Ok(is_reminded) = seat.model.remind(&mut Registers(bar.ports())) {
                for statistics in [&*self.statistics, &*seat.statistics] {
                    statistics.reminders.add(is_reminded.into());
                }
                state.idle.is_reminded = true;
            }
        }
        self.follow(state);
    }

    /// Interrupts guests that do not have the card for what came to them.
    fn tell_others(&self, state: &mut State) {
        let owner = state.owner();
        let now_us = self.now_us();
        let State { seats, turns, .. } = state;

        for seat in seats.values_mut().flatten() {
            if owner == Some(seat.number()) || seat.has_news() == seat.owed {
                continue;
            }
            seat.owed = !seat.owed;
            self.interrupts.set_owed(seat.number(), seat.owed);
            if let Some(slot) = seat.slot.filter(|_| seat.owed) {
                turns.want(slot, now_us);
                state.is_wanted = true;
            }
        }
    }

    /// Puts frames that are held for the owner into its ring, if it has room again.
    fn refill(&self, state: &mut State) {
        let is_wanted = state.is_wanted;
        let Some((seat, bar)) = state.owning() else {
            return;
        };

        // Whoever gets the card has its own delivered then.
        if is_wanted
            || seat.held() == 0
            || seat.model.reuse(&mut Registers(bar.ports())) != Reuse::Now
        {
            return;
        }
        if let Some(slot) = seat.slot {
            self.hand_over(state, slot, Manner::Saved);
        }
    }

    /// The guest has the ports of the card from `first` on, or has them nowhere. May sleep.
    fn place_guest(&self, number: Number, vm: Option<&Arc<Vm>>, first: Option<u16>) {
        let mut state = self.state.lock();
        let is_owner = state.owner() == Some(number);
        let wanted = match (vm, first) {
            (Some(vm), Some(first)) if self.mode().is_direct() => Some((vm, first)),
            _ => None,
        };
        let State { seats, bar, .. } = &mut *state;
        // Several guests may have it at the same ports, each when it has the card.
        let shared = wanted.and_then(|(_, first)| {
            let ports = |seat: &Option<Seat>| seat.as_ref()?.way.ports().cloned();
            let mut all = seats.iter().filter_map(|(_, seat)| ports(seat));

            all.find(|ports| ports.window().first() == first)
        });

        if let Some(seat) = seats.get_mut(number) {
            let reserve = |first| match shared {
                Some(ports) => Ok(ports),
                None if bar.ports().window().first() == first => Ok(bar.ports().clone()),
                None => bar.reserve(first, c"vpio"),
            };

            seat.way
                .place(wanted, reserve, &self.device, &self.statistics);
        }
        if is_owner {
            self.go_to(&mut state, number);
            self.follow(&mut state);
        }
    }

    /// Moves the card to where the guest has it, if it can be there.
    fn go_to(&self, state: &mut State, number: Number) {
        let State { seats, bar, .. } = state;

        if let Some(ports) = seats.get(number).as_ref().and_then(|seat| seat.way.ports()) {
            bar.move_to(ports);
        }
    }

    /// Pays the owner the attention that is wanted, and opens to it what nobody has to hear of.
    fn follow(&self, state: &mut State) {
        let attention = match state.followed {
            Some(_) => Attention::Close,
            None => Attention::Relaxed,
        };
        let mode = self.mode();

        if let Some((seat, bar)) = state.owning() {
            let ports = bar.ports();

            seat.follow(attention, mode, ports, &self.device, &self.statistics);
            if seat.model.owes_interrupt() != seat.owed {
                seat.owed = !seat.owed;
                self.interrupts.set_owed(seat.number(), seat.owed);
            }
        }
    }

    /// Gives the card, which nobody has, to a guest: replays what belongs to it.
    fn replay(&self, state: &mut State, number: Number) {
        self.go_to(state, number);
        state.followed = None;
        state.idle = Idle::default();

        let State { seats, bar, .. } = state;

        if let Some(seat) = seats.get_mut(number) {
            seat.deliver(&self.statistics);
            trace::frames(&self.device, number.get(), seat.held());
            seat.model
                .restore(&seat.context, &mut Registers(bar.ports()));
            seat.attention = Attention::Close;
        }
        self.follow(state);
        self.interrupts.set_owner(Some(number));
    }

    /// Does what is to be done about turns now.
    fn advance(&self, state: &mut State) {
        loop {
            let now_us = self.now_us();
            let decision = {
                let number = state.owner();
                let State {
                    turns,
                    seats,
                    bar,
                    followed,
                    ..
                } = &mut *state;
                let seat = number.and_then(|number| seats.get_mut(number).as_mut());
                let ran_us = match (&seat, followed) {
                    (Some(seat), Some(since)) => seat.ran_us().wrapping_sub(since.began_us),
                    _ => 0,
                };

                turns.decide(&self.pace, now_us, ran_us, || match seat {
                    Some(seat) => seat.model.reuse(&mut Registers(bar.ports())),
                    None => Reuse::Now,
                })
            };

            state.is_wanted = decision != Decision::Keep { again_us: None };

            let again_us = match decision {
                Decision::Keep { again_us: None } => {
                    if state.followed.take().is_some() {
                        self.follow(state);
                    }
                    if state.turns.guests() > 1 {
                        self.rounds.queue(ROUND_MS);
                    }
                    return;
                }
                Decision::Keep {
                    again_us: Some(again_us),
                } => again_us,
                Decision::Follow { again_us } => {
                    self.watch(state);
                    again_us
                }
                Decision::HandOver { to } => {
                    if self.hand_over(state, to, Manner::Saved) {
                        continue;
                    }
                    now_us + u64::from(QUIET_US)
                }
                Decision::TakeAway { to } => {
                    if self.hand_over(state, to, Manner::Seized) {
                        continue;
                    }
                    now_us + u64::from(QUIET_US)
                }
            };

            // Rounded up, and never at once.
            let ms = again_us
                .saturating_sub(now_us)
                .div_ceil(1_000)
                .clamp(1, 1_000);

            return self.rounds.requeue(ms as u32);
        }
    }

    /// The owner's turn is over: follows it, until the card can change hands.
    fn watch(&self, state: &mut State) {
        let followed = state.followed;
        let Some((seat, bar)) = state.owning() else {
            return;
        };

        match followed {
            Some(followed) if followed.is_quiet(seat) => {
                seat.model.quiet(&mut Registers(bar.ports()));
            }
            Some(followed) if followed.accesses == seat.accesses => (),
            _ => {
                state.followed = Some(Followed::now(seat, followed));
                self.follow(state);
            }
        }
    }

    /// Gives the card to the guest with this slot. Answers whether it has it: the owner may be in the
    /// middle of something after all.
    fn hand_over(&self, state: &mut State, to: Slot, manner: Manner) -> bool {
        let began = Instant::<Monotonic>::now();
        let from = state.owner();
        let next = state
            .seats
            .iter()
            .find(|(_, seat)| seat.as_ref().is_some_and(|seat| seat.slot == Some(to)))
            .map(|(number, _)| number);
        let Some(next) = next else {
            return false;
        };

        self.interrupts.set_owner(None);

        let State {
            seats, bar, buffer, ..
        } = &mut *state;
        let mut is_busy = false;

        if let Some(mut seat) = from.and_then(|from| seats.get_mut(from).take()) {
            let mut registers = Registers(bar.ports());

            // From here on it cannot touch the card.
            seat.way.close(&self.device, &self.statistics);
            match manner {
                Manner::Saved => {
                    is_busy = seat.model.save(&mut seat.context, &mut registers).is_err();
                }
                Manner::Seized => {
                    // An NE2000 does no DMA but on the card.
                    let _ = seat.model.seize(&mut seat.context, &mut registers);

                    self.statistics.taken_away.add(1);
                    seat.statistics.taken_away.add(1);
                }
            }
            if !is_busy && seat.is_shared {
                let mut others = Others {
                    seats,
                    statistics: &self.statistics,
                };

                seat.context.share_out(&mut others, buffer);
            }

            let number = seat.number();

            *seats.get_mut(number) = Some(seat);
        }
        if is_busy {
            self.follow(state);
            self.interrupts.set_owner(from);
            return false;
        }
        state.turns.given(to, self.now_us());
        self.replay(state, next);
        self.settle_sharing(state);
        // The card may have had something for its last owner that this has not heard of.
        self.tell_others(state);

        let ns = began.elapsed().as_nanos().unsigned_abs();

        // An owner is given what is held for it in the same way, and keeps the card.
        if from != Some(next) {
            for statistics in [&*self.statistics, self.statistics_of(next)] {
                statistics.switches.add(1);
                statistics.switch_ns.add(ns);
            }
        }
        trace::switch(
            &self.device,
            from.map_or(-1, |from| from.get().into()),
            next.get().into(),
            ns,
        );
        self.turned.add();
        true
    }

    /// Waits until the guest has the card. [`None`]: it is not open, or its process is being killed.
    fn take(&self, number: Number) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.lock();

        loop {
            let slot = state.seats.get(number).as_ref()?.slot?;

            if state.turns.owner() == Some(slot) {
                return Some(state);
            }
            state.turns.want(slot, self.now_us());
            self.advance(&mut state);
            if state.turns.owner() == Some(slot) {
                return Some(state);
            }

            let seen = self.turned.seen();

            drop(state);
            self.turned.wait_killable(seen, LOOK_MS).ok()?;
            state = self.state.lock();
        }
    }

    /// A guest reads a port. May sleep.
    fn guest_reads(&self, number: Number, route: Route, access: Access) -> u32 {
        let mut value = access.width().mask();

        self.statistics.accesses(route).add(1);
        self.statistics_of(number).accesses(route).add(1);
        // There is nothing behind the other ports of the BAR.
        if access.is_within(Ne2000::PORTS) {
            let Some(mut state) = self.take(number) else {
                return value;
            };

            if state
                .owning()
                .is_some_and(|(seat, _)| seat.model.read_exposes(access))
            {
                self.share_out(&mut state);
            }
            if let Some((seat, bar)) = state.owning() {
                let mut registers = Registers(bar.ports());

                seat.accessed();
                value = registers.read(access);
                value = seat.model.read(access, value, &mut registers);
            }
            self.accessed(&mut state);
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

    /// A guest writes to a port. May sleep.
    fn guest_writes(&self, number: Number, route: Route, access: Access, value: u32) {
        self.statistics.accesses(route).add(1);
        self.statistics_of(number).accesses(route).add(1);
        trace::access(
            &self.device,
            number.get(),
            route as u8,
            true,
            access.port(),
            access.width().bytes(),
            value,
        );
        if !access.is_within(Ne2000::PORTS) {
            return;
        }

        let Some(mut state) = self.take(number) else {
            return;
        };

        if state
            .owning()
            .is_some_and(|(seat, _)| seat.model.write_exposes(access, value))
        {
            self.share_out(&mut state);
        }
        if let Some((seat, bar)) = state.owning() {
            let mut registers = Registers(bar.ports());

            seat.accessed();

            // An NE2000 does no DMA but on the card.
            let verdict = seat.model.check(access, value, &());

            if verdict.allows() {
                registers.write(access, value);
                let _ = seat.model.wrote(access, value, verdict, &mut registers);
            } else {
                self.statistics.denied.add(1);
                seat.statistics.denied.add(1);
                trace::denied(
                    &self.device,
                    number.get(),
                    access.port(),
                    access.width().bytes(),
                    value,
                );
            }
        }
        self.accessed(&mut state);
    }

    /// The owner has accessed the card.
    fn accessed(&self, state: &mut State) {
        let is_shared = state.turns.guests() > 1;
        let mut is_settled = true;

        if let Some((seat, _)) = state.owning() {
            seat.statistics.model_updates.add(1);
            self.statistics.model_updates.add(1);
            is_settled = seat.is_shared == is_shared;
        }
        if is_settled {
            self.follow(state);
        } else {
            self.settle_sharing(state);
        }
        if state.is_wanted {
            self.advance(state);
        }
    }

    /// The driver goes: nobody has the card any more. It is left as after a reset. May sleep.
    fn leave(&self) {
        let mut state = self.state.lock();

        state.is_gone = true;
        self.interrupts.set_owner(None);
        // QEMU's has a PROM that guests can write to.
        if let Ok(mut seat) = Seat::new(
            Number::First,
            self.prom,
            self.quirks,
            self.of_guests.get(Number::First).clone(),
        ) {
            seat.model
                .restore(&seat.context, &mut Registers(state.bar.ports()));
        }
        Registers(state.bar.ports()).stop();
        self.interrupts.end();
    }
}

/// How the card is taken from a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// In the middle of nothing.
    Saved,
    /// Whatever it is in the middle of.
    Seized,
}

static GUESTS: mdev::Driver<Guests<Card>> = mdev::Driver::new(c"vpio", &crate::THIS_MODULE);

impl Physical for Card {
    const KIND: &'static CStr = c"ne2000";
    const PRETTY_NAME: &'static CStr = c"NE2000 by turns";
    const DOES_DMA: bool = false;
    const SETTINGS: &'static [File<Self>] = attributes::NE2000;

    type Handler = Interrupts;

    fn driver_of_guests() -> &'static mdev::Driver<Guests<Self>> {
        &GUESTS
    }

    fn handler(this: &Arc<Self>) -> Result<Arc<Interrupts>> {
        Ok(this.interrupts.clone())
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

    fn statistics_of(&self, number: Number) -> &Statistics {
        self.of_guests.get(number)
    }

    fn mode(&self) -> Mode {
        Mode::from_number(self.mode.load(Relaxed))
    }

    fn set_mode(&self, mode: Mode) -> Result {
        mode.check(&self.device)?;

        let guests = self.guests.lock();

        self.store_mode(mode)?;
        for (_, guest) in guests.iter() {
            if let Some(guest) = guest {
                guest.follow_mode();
            }
        }
        Ok(())
    }

    fn available(&self) -> u32 {
        let guests = self.guests.lock();
        let free = guests.iter().filter(|(_, guest)| guest.is_none());

        free.count() as u32
    }

    fn admit(
        &self,
        new: impl FnOnce(Number) -> Result<Arc<Guest<Self>>>,
    ) -> Result<Arc<Guest<Self>>> {
        self.admit_guest(new)
    }

    fn dismiss(&self, number: Number) {
        self.dismiss_guest(number);
    }

    fn open(&self, number: Number, _memory: &Memory) -> Result {
        self.open_guest(number)
    }

    fn unmapped(&self, _number: Number, _addresses: RangeInclusive<u64>) {}

    fn close(&self, number: Number) {
        self.close_guest(number);
    }

    fn reset(&self, number: Number) {
        self.reset_guest(number);
    }

    fn place(&self, number: Number, vm: Option<&Arc<Vm>>, first: Option<u16>) {
        self.place_guest(number, vm, first);
    }

    #[inline]
    fn read(&self, number: Number, route: Route, access: Access) -> u32 {
        self.guest_reads(number, route, access)
    }

    #[inline]
    fn write(&self, number: Number, route: Route, access: Access, value: u32) -> Option<u64> {
        self.guest_writes(number, route, access, value);
        // No DMA that could be denied.
        None
    }

    fn exiting(&self, number: Number) -> PortSet {
        match self.state.lock().seats.get(number) {
            Some(seat) => seat.way.exiting(),
            None => PortSet::EMPTY,
        }
    }

    fn is_owner(&self, number: Number) -> bool {
        self.state.lock().owner() == Some(number)
    }

    fn end(&self) {
        self.leave();
    }
}

impl Run for Card {
    fn run(&self) {
        let mut state = self.state.lock();

        if self.has_arrivals(&mut state) {
            self.share_out(&mut state);
            self.follow(&mut state);
        }
        self.remind(&mut state);
        self.let_others_listen(&mut state);
        self.refill(&mut state);
        self.advance(&mut state);
    }
}

/// The station address PROM of a guest: the first has the card's address, the others one each that is
/// administered locally and differs in its last byte.
fn station(prom: &Prom, number: Number) -> Prom {
    /// Bit of the first byte: not assigned by the vendor (IEEE 802, "U/L").
    const LOCAL: u8 = 0x02;

    let mut prom = *prom;

    if number != Number::First {
        // Each word has a byte of the address twice.
        let [first, _, _, _, _, last, ..] = &mut prom;

        for byte in first {
            *byte |= LOCAL;
        }
        for byte in last {
            *byte = byte.wrapping_add(number.get());
        }
    }
    prom
}
