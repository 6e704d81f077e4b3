// SPDX-License-Identifier: GPL-2.0

//! What every model answers.

use super::{
    access::Access,
    card::Card,
    dma::{
        Channels,
        Denial,
        Dma,
        GuestMemory, //
    },
    ports::PortSet,
};

/// Whether a write may reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may, once the memory of this DMA is pinned for the device.
    Start(Dma),
    /// It is dropped.
    Ignore(Denial),
    /// It is dropped, and the guest gets a machine check.
    MachineCheck(Denial),
}

impl Verdict {
    /// Whether the write reaches the device.
    #[inline]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Allow | Self::Start(_))
    }
}

/// Microseconds of its own time after which a guest that touches no register is not about to: drivers
/// load the registers of a transaction one after the other, with interrupts off and in less than a
/// microsecond each. Time during which the guest does not run does not count.
pub const QUIET_US: u32 = 1_000;

/// How much of what its guest does a model is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Only what cannot be learned from the device later: nobody else wants the device.
    Relaxed,
    /// Every access to a register, to find the next state in which the device can change hands.
    Close,
}

/// Why a device cannot change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Not known, as the guest is not followed closely: see [`DeviceModel::attend`].
    Unfollowed,
    /// The guest is setting up, or in the middle of, something that began before it was followed.
    Transaction,
    /// A frame is being sent.
    Transmitting,
    /// The receive ring has overflowed, and the guest has not yet restarted the receiver.
    Overrun,
    /// The device works in rings at positions that it lets nobody set.
    Rings,
}

/// Whether a device can change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It is idle.
    Now,
    /// It is in the middle of a transfer that can be continued later. It is exact, but whoever can
    /// wait for a moment saves the guest from being stopped in mid-transfer.
    MidTransfer,
    /// It cannot.
    Busy(Busy),
}

/// A model of the device of one guest.
///
/// Its caller holds the lock of the device. The caller hooks the ports that [`Self::hooked`] names,
/// after each call that may change them; all ports of a guest that does not own the device are
/// hooked, and its accesses wait. A hooked write goes through [`Self::check`], to the device, and to
/// [`Self::wrote`]; a hooked read to the device and through [`Self::read`]. None of these sleeps.
///
/// It is only data, so the lock that it is behind can be taken by any thread.
pub trait DeviceModel: Send {
    /// What belongs to a guest while another has the device.
    type Context: Send;

    /// The ports that the device decodes, all of them.
    const PORTS: PortSet;

    /// The ports that the model has to hear of in its present state, while its guest owns the device.
    fn hooked(&self) -> PortSet;

    /// Whether the guest's write may reach the device. Nothing changes yet: if the memory of the DMA
    /// cannot be pinned, the write is dropped, and that is all.
    fn check(&self, access: Access, value: u32, memory: &impl GuestMemory) -> Verdict;

    /// The guest's write has reached the device, with the `verdict` of [`Self::check`]. Answers what
    /// DMA is over because of it, but for a channel on which it has started a new one.
    fn wrote(
        &mut self,
        access: Access,
        value: u32,
        verdict: Verdict,
        card: &mut impl Card,
    ) -> Channels;

    /// The guest's read brought `value` from the device. Answers what the guest gets.
    fn read(&mut self, access: Access, value: u32, card: &mut impl Card) -> u32;

    /// The device has raised an interrupt, or enough time has passed to look. Answers what DMA is
    /// over.
    fn interrupt(&mut self, card: &mut impl Card) -> Channels;

    /// Whether the guest is owed an interrupt that the device itself does not raise, for an event
    /// from before the device changed hands.
    fn owes_interrupt(&self) -> bool;

    /// Changes what the model is told. To be called with all ports hooked already, so that nothing
    /// is missed.
    fn attend(&mut self, attention: Attention, card: &mut impl Card);

    /// The guest has run for [`QUIET_US`] since it was followed closely, without a hooked access: it
    /// is not in the middle of anything that it began unseen.
    fn quiet(&mut self, card: &mut impl Card);

    /// Whether the device can change hands now.
    fn reuse(&mut self, card: &mut impl Card) -> Reuse;

    /// Takes what belongs to the guest from the device, and leaves that stopped. Answers what DMA is
    /// over because of it.
    ///
    /// # Errors
    ///
    /// [`Busy`]: not now; the device was left alone.
    fn save(&mut self, context: &mut Self::Context, card: &mut impl Card)
        -> Result<Channels, Busy>;

    /// As [`Self::save`], whatever the guest is in the middle of: that is lost, as if the device had
    /// not done it, and the rest still belongs to the guest. To be called with all ports hooked.
    fn seize(&mut self, context: &mut Self::Context, card: &mut impl Card) -> Channels;

    /// Gives the device to the guest: replays what was saved. From then on the guest is followed
    /// closely.
    fn restore(&mut self, context: &Self::Context, card: &mut impl Card);
}
