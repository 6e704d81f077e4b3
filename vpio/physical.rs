// SPDX-License-Identifier: GPL-2.0

//! What there is to a physical card for those who give it to guests, whichever card it is.

use core::ops::RangeInclusive;

use kernel::{
    device::Core,
    pci,
    prelude::*,
    sync::Arc, //
};
use pdio::{
    device::DmaDevice,
    intx,
    kvm::{
        Support,
        Vm, //
    },
    mdev,
    sysfs::File,
    vfio::Memory, //
};

use crate::{
    config_space::Identity,
    guest::{
        Guest,
        Guests, //
    },
    interrupt::Interrupts,
    mode::{
        Mode,
        Route, //
    },
    model::{
        access::Access,
        ports::PortSet, //
    },
    number::Number,
    statistics::Statistics, //
};

/// A card that guests are given. All of it may sleep.
pub(crate) trait Physical: Send + Sync + Sized + 'static {
    /// The kind of its guests in `mdev_supported_types`, after `vpio-`.
    const KIND: &'static CStr;
    /// The same for people.
    const PRETTY_NAME: &'static CStr;
    /// Whether it does DMA in the memory of its guests.
    const DOES_DMA: bool;
    /// What a user can set.
    const SETTINGS: &'static [File<Self>];

    /// What handles the interrupts of the function.
    type Handler: intx::Handler;

    /// What makes its guests.
    fn driver_of_guests() -> &'static mdev::Driver<Guests<Self>>;

    /// What handles the interrupts of the function.
    fn handler(this: &Arc<Self>) -> Result<Arc<Self::Handler>>;

    /// The function.
    fn device(&self) -> &DmaDevice;

    /// What guests see of it.
    fn identity(&self) -> &Identity;

    /// Whom it interrupts.
    fn interrupts(&self) -> &Arc<Interrupts>;

    /// What has happened to it.
    fn statistics(&self) -> &Statistics;

    /// What has happened to a guest.
    fn statistics_of(&self, number: Number) -> &Statistics;

    /// How accesses get to it.
    fn mode(&self) -> Mode;

    /// The modes that there are, with such a KVM.
    fn modes(support: Support) -> impl Iterator<Item = Mode> + Clone {
        Mode::offered(support)
    }

    /// Sets how accesses get to it, of all guests at once.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: KVM, or the card, cannot do that. `EBUSY`: not while a guest is open.
    fn set_mode(&self, mode: Mode) -> Result;

    /// How many more guests there can be.
    fn available(&self) -> u32;

    /// A user makes a guest, which is made by `new` from its number.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: there are as many as there can be. `ENOMEM`, and what `new` returns.
    fn admit(
        &self,
        new: impl FnOnce(Number) -> Result<Arc<Guest<Self>>>,
    ) -> Result<Arc<Guest<Self>>>;

    /// A user removes a guest that nobody has open.
    fn dismiss(&self, number: Number);

    /// A guest is opened, which has this memory until it is closed.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the card goes. `EBUSY`: another one is open, and there can be only one.
    fn open(&self, number: Number, memory: &Memory) -> Result;

    /// A guest is about to lose memory at these addresses.
    fn unmapped(&self, number: Number, addresses: RangeInclusive<u64>);

    /// A guest is closed: nobody of it accesses the card any more.
    fn close(&self, number: Number);

    /// A guest is reset.
    fn reset(&self, number: Number);

    /// The guest has the ports of the card from `first` on, or has them nowhere.
    fn place(&self, number: Number, vm: Option<&Arc<Vm>>, first: Option<u16>);

    /// A guest reads a port.
    fn read(&self, number: Number, route: Route, access: Access) -> u32;

    /// A guest writes to a port. Returns the guest-physical address that it is to get a machine check
    /// for, if it is.
    fn write(&self, number: Number, route: Route, access: Access, value: u32) -> Option<u64>;

    /// The ports whose accesses exit, of a guest; none if there is no such guest.
    fn exiting(&self, number: Number) -> PortSet;

    /// Whether a guest has the card.
    fn is_owner(&self, number: Number) -> bool;

    /// The driver goes: nobody has the card any more. It is left as after a reset.
    fn end(&self);
}

/// What guests see of a function, whose BAR 0 has so many ports.
pub(crate) fn identity(function: &pci::Device<Core<'_>>, bar0_ports: u16) -> Identity {
    let [interface, sub_class, class, _] = function.pci_class().as_raw().to_le_bytes();

    Identity {
        vendor: function.vendor_id().as_raw(),
        device: function.device_id(),
        subsystem_vendor: function.subsystem_vendor_id(),
        subsystem: function.subsystem_device_id(),
        class: [interface, sub_class, class],
        revision: function.revision_id(),
        bar0_ports,
    }
}
