// SPDX-License-Identifier: GPL-2.0

//! Whom the card interrupts.
//!
//! The card has one pin, and each guest a line of its own. A guest is interrupted by the card while it
//! has it, and by its model for what happened before. As with a physical function in VFIO, a line that
//! was raised is masked until its guest has handled that; if there is still a reason then, it is raised
//! again. That is no rare case: Linux's driver handles an interrupt in parts, with the card's own mask
//! closed in between.
//!
//! The lines have one lock, which is taken in interrupt handlers, the innermost of all. While it is
//! held, the pin is unmasked exactly if the owner has a line that can be raised. Where somebody looks at
//! the card before its guest hears of an interrupt, the pin is masked until then as well.

use kernel::sync::Arc;
use pdio::{
    device::DmaDevice,
    eventfd::EventFd,
    intx::{
        Handler,
        InterruptPin, //
    },
    lock::IrqSpinLock,
    trace::vpio as trace,
    virqfd::{
        Listener,
        Rest, //
    }, //
};

use crate::{
    number::{
        Number,
        PerGuest, //
    },
    statistics::Statistics, //
};

/// The line of one guest.
#[derive(Default)]
struct Line {
    /// Who is told. None: nobody.
    trigger: Option<EventFd>,
    /// Whether it was raised and is not handled yet, or is masked by user space.
    masked: bool,
    /// Whether the guest has disabled it in its configuration space.
    disabled: bool,
    /// Whether there is a reason beside the card.
    owed: bool,
    /// Whether it is to be raised by the thread that listens to user space.
    is_due: bool,
}

impl Line {
    /// What becomes of a reason to raise it.
    fn state(&self) -> LineState {
        match self {
            Self { trigger: None, .. } => LineState::Unused,
            Self { disabled: true, .. } => LineState::Disabled,
            Self { masked: true, .. } => LineState::Raised,
            _ => LineState::Open,
        }
    }

    /// Whether it can be raised.
    fn is_open(&self) -> bool {
        self.state() == LineState::Open
    }
}

/// What becomes of a reason to interrupt a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineState {
    /// Nobody wants to be told.
    Unused,
    /// The guest has disabled it in its configuration space.
    Disabled,
    /// It waits for the guest to handle an earlier one, or for user space to unmask the line.
    Raised,
    /// The guest is told.
    Open,
}

impl LineState {
    /// The name in sysfs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Disabled => "disabled",
            Self::Raised => "raised",
            Self::Open => "open",
        }
    }
}

/// All lines.
#[derive(Default)]
struct Lines {
    owner: Option<Number>,
    guests: PerGuest<Line>,
}

/// Where the reason to raise a line was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Anywhere else.
    Any,
    /// In what listens to an eventfd: no eventfd can be signalled there.
    Listener,
}

/// Who looks at the card when it wants to interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// The guest alone.
    Nobody,
    /// Somebody who may sleep, before the guest hears of it: see [`Interrupts::hold`].
    Model,
}

/// The pin of the card and the lines of its guests.
pub(crate) struct Interrupts {
    watch: Watch,
    device: DmaDevice,
    pin: InterruptPin,
    lines: IrqSpinLock<Lines>,
    statistics: Arc<Statistics>,
    of_guests: PerGuest<Arc<Statistics>>,
}

impl Interrupts {
    /// Nobody has the card, and nobody is told of anything.
    pub(crate) fn new(
        watch: Watch,
        device: DmaDevice,
        pin: InterruptPin,
        statistics: Arc<Statistics>,
        of_guests: PerGuest<Arc<Statistics>>,
    ) -> Self {
        pin.mask();
        Self {
            watch,
            device,
            pin,
            lines: IrqSpinLock::new(Lines::default()),
            statistics,
            of_guests,
        }
    }

    /// Raises a line that is open.
    fn raise(&self, lines: &mut Lines, number: Number, place: Place) -> Rest {
        let line = lines.guests.get_mut(number);

        line.masked = true;
        if place == Place::Listener {
            line.is_due = true;
            return Rest::Later;
        }
        if let Some(trigger) = &line.trigger {
            trigger.signal();
            self.statistics.interrupts.add(1);
            self.of_guests.get(number).interrupts.add(1);
            trace::interrupt(&self.device, number.get());
        }
        Rest::Nothing
    }

    /// Raises a guest's line if there is a reason to and it is open; otherwise lets the pin be as the
    /// guest's line is, if it has the card.
    fn settle(&self, lines: &mut Lines, number: Number, place: Place) -> Rest {
        let has_card = lines.owner == Some(number);
        let line = lines.guests.get_mut(number);

        if !line.is_open() {
            if has_card {
                self.pin.mask();
            }
            return Rest::Nothing;
        }
        if line.owed || has_card && !self.let_interrupt() {
            if has_card {
                self.pin.mask();
            }
            return self.raise(lines, number, place);
        }
        Rest::Nothing
    }

    /// Unmasks the pin. Answers whether the guest need not hear of anything now.
    fn let_interrupt(&self) -> bool {
        match self.watch {
            Watch::Nobody => self.pin.unmask_unless_asserted(),
            // The pin interrupts again, and so whoever looks first does.
            Watch::Model => {
                self.pin.unmask();
                true
            }
        }
    }

    /// Whether the card wants to interrupt; then its pin is masked until [`Self::looked`] is called. In
    /// interrupt context.
    pub(crate) fn hold(&self) -> bool {
        self.lines.with(|_| self.pin.mask_if_asserted())
    }

    /// Somebody has looked at the card: its owner hears of what it wants.
    pub(crate) fn looked(&self) {
        self.lines.with(|lines| {
            let Some(number) = lines.owner else {
                return;
            };

            if lines.guests.get_mut(number).is_open() && !self.pin.unmask_unless_asserted() {
                self.pin.mask();
                let _ = self.raise(lines, number, Place::Any);
            }
        });
    }

    /// The guest has the card now, or nobody has.
    pub(crate) fn set_owner(&self, owner: Option<Number>) {
        self.lines.with(|lines| {
            lines.owner = owner;
            self.pin.mask();
            if let Some(number) = owner {
                let _ = self.settle(lines, number, Place::Any);
            }
        });
    }

    /// Nobody will have the card any more; it is stopped. The pin is left as it was found.
    pub(crate) fn end(&self) {
        self.lines.with(|lines| {
            lines.owner = None;
            self.pin.unmask();
        });
    }

    /// Whether the guest's model has a reason for an interrupt.
    pub(crate) fn set_owed(&self, number: Number, owed: bool) {
        self.lines.with(|lines| {
            lines.guests.get_mut(number).owed = owed;
            if owed {
                let _ = self.settle(lines, number, Place::Any);
            }
        });
    }

    /// Whom to tell. Unmasks the line.
    pub(crate) fn set_trigger(&self, number: Number, trigger: Option<EventFd>) {
        // Dropped without the lock.
        let _old = self.lines.with(|lines| {
            let line = lines.guests.get_mut(number);
            let old = core::mem::replace(&mut line.trigger, trigger);

            line.masked = false;
            line.is_due = false;
            let _ = self.settle(lines, number, Place::Any);
            old
        });
    }

    /// Whether the guest has disabled its line in its configuration space.
    pub(crate) fn set_disabled(&self, number: Number, disabled: bool) {
        self.lines.with(|lines| {
            lines.guests.get_mut(number).disabled = disabled;
            let _ = self.settle(lines, number, Place::Any);
        });
    }

    /// User space wants the line to be raised, whatever the card does.
    pub(crate) fn force(&self, number: Number) {
        self.lines.with(|lines| {
            if lines.guests.get_mut(number).is_open() {
                if lines.owner == Some(number) {
                    self.pin.mask();
                }
                let _ = self.raise(lines, number, Place::Any);
            }
        });
    }

    /// User space masks the line.
    pub(crate) fn mask(&self, number: Number) {
        self.lines.with(|lines| {
            lines.guests.get_mut(number).masked = true;
            let _ = self.settle(lines, number, Place::Any);
        });
    }

    /// User space unmasks the line.
    pub(crate) fn unmask(&self, number: Number) {
        let _ = self.handled(number, Place::Any);
    }

    /// The guest has handled what the line was raised for.
    fn handled(&self, number: Number, place: Place) -> Rest {
        self.lines.with(|lines| {
            let line = lines.guests.get_mut(number);

            line.masked = false;
            line.is_due = false;
            self.settle(lines, number, place)
        })
    }

    /// Raises a line for which there was a reason where it could not be raised.
    fn raise_if_due(&self, number: Number) {
        self.lines.with(|lines| {
            if core::mem::take(&mut lines.guests.get_mut(number).is_due) {
                let _ = self.raise(lines, number, Place::Any);
            }
        });
    }

    /// What becomes of a reason to interrupt a guest now.
    pub(crate) fn line(&self, number: Number) -> LineState {
        self.lines
            .with(|lines| lines.guests.get_mut(number).state())
    }

    /// Whether a line was raised and is not handled yet, or would be raised if it could be.
    pub(crate) fn is_asserted(&self, number: Number) -> bool {
        self.lines.with(|lines| {
            let line = lines.guests.get_mut(number);

            line.owed || line.masked && line.trigger.is_some()
        })
    }
}

impl Handler for Interrupts {
    fn handle(&self) -> bool {
        self.lines.with(|lines| {
            if !self.pin.mask_if_asserted() {
                return false;
            }
            if let Some(number) = lines.owner {
                if lines.guests.get_mut(number).is_open() {
                    let _ = self.raise(lines, number, Place::Any);
                }
            }
            true
        })
    }
}

/// Listens to what user space, or KVM, says about the line of one guest.
pub(crate) struct LineListener {
    interrupts: Arc<Interrupts>,
    number: Number,
}

impl LineListener {
    /// For a guest.
    pub(crate) fn new(interrupts: Arc<Interrupts>, number: Number) -> Self {
        Self { interrupts, number }
    }
}

impl Listener for LineListener {
    fn signalled(&self) -> Rest {
        self.interrupts.handled(self.number, Place::Listener)
    }

    fn later(&self) {
        self.interrupts.raise_if_due(self.number);
    }
}
