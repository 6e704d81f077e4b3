// SPDX-License-Identifier: GPL-2.0

//! RTL8139: a bus master whose registers hold every DMA address (PCI 10ec:8139, not in C+ mode).
//!
//! The guest loads guest-physical addresses; the device's IOMMU domain translates them and has
//! nothing but what is pinned at the moment. So what the model does not hear of in time can reach
//! no memory, and what it hears of is checked, and pinned before the device is told:
//!
//! - a transmit descriptor when a frame is started from it, or, if the pages are to stay pinned
//!   ([`Pinning::Address`]), when its address is loaded;
//! - the receive ring when the receiver is enabled, or is moved while enabled. As long as it is
//!   enabled the command register is left to the guest, which polls it for each frame.
//!
//! C+ mode has its DMA addresses in descriptors in memory: they cannot be checked before the device
//! reads them, so the guest cannot enter that mode.

pub mod context;
mod pinning;
pub mod register;

use super::{
    access::{
        Access,
        Width, //
    },
    card::Card,
    device::{
        Attention,
        Busy,
        DeviceModel,
        Reuse,
        Verdict, //
    },
    dma::{
        Channel,
        Channels,
        Denial,
        Direction,
        Dma,
        GuestMemory,
        OnDenied,
        Span, //
    },
    ports::PortSet,
};
use context::Context;
pub use pinning::Pinning;
use register::{
    cr,
    rcr,
    tsd,
    Descriptor,
    *, //
};

/// Bytes in the smallest receive ring.
const RING_UNIT: u32 = 0x2000;
/// Bytes that the device writes after the ring at most: the ring is "RBLEN + 16 bytes", and with WRAP
/// set a frame that begins in it is written on behind its end, "1.5K" (RTL8139C, "RCR").
const RING_MARGIN: u32 = 16;
/// See [`RING_MARGIN`]: rounded up to the longest frame that the size of a descriptor can tell, for
/// 1.5 KiB are not enough for a frame with VLAN tag, header and checksum.
const RING_OVERRUN: u32 = 2048;
/// How often CR is read, at most, until a reset is over: 1 ms, ten times what the driver for Linux
/// grants, with an access of 0.1 us or more to a port.
const RESET_READS: u32 = 10_000;

/// What a transmit descriptor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Transmit {
    /// TSAD: guest-physical.
    address: u32,
    /// The length of the frame that is being sent.
    sending: Option<u32>,
    /// Whether the longest frame at this address is pinned.
    settled: bool,
}

/// The model of the RTL8139 of one guest.
#[derive(Clone, Debug)]
pub struct Rtl8139 {
    on_denied: OnDenied,
    pinning: Pinning,
    transmit: [Transmit; DESCRIPTORS],
    /// RBSTART: guest-physical.
    receive_start: u32,
    /// RCR.
    receive_config: u32,
    /// Whether the receiver was enabled, with its ring pinned.
    receiving: bool,
    /// Bits of ISR from before the guest got the card.
    pending: u16,
    /// IMR, while [`Self::pending`] is not 0.
    interrupt_mask: u16,
}

impl Rtl8139 {
    /// The model for a guest that does not have the card yet.
    pub const fn new(pinning: Pinning, on_denied: OnDenied) -> Self {
        const IDLE: Transmit = Transmit {
            address: 0,
            sending: None,
            settled: false,
        };

        Self {
            on_denied,
            pinning,
            transmit: [IDLE; DESCRIPTORS],
            receive_start: 0,
            receive_config: 0,
            receiving: false,
            pending: 0,
            interrupt_mask: 0,
        }
    }

    /// What becomes of a DMA that is denied.
    pub const fn on_denied(&self) -> OnDenied {
        self.on_denied
    }

    /// Sets what becomes of a DMA that is denied, from the next one on.
    pub const fn set_on_denied(&mut self, on_denied: OnDenied) {
        self.on_denied = on_denied;
    }

    /// What memory the receiver can write to; [`None`] while it is disabled.
    pub fn receiving(&self) -> Option<Dma> {
        self.receiving
            .then(|| Self::ring(self.receive_start, self.receive_config))
    }

    /// What memory the transmitter reads for a descriptor; [`None`] if nothing is being sent.
    pub fn sending(&self, descriptor: Descriptor) -> Option<Dma> {
        let transmit = self.transmit(descriptor);

        transmit
            .sending
            .map(|len| Self::frame(descriptor, transmit.address, len))
    }

    /// The DMA of a receiver with this ring.
    fn ring(start: u32, config: u32) -> Dma {
        let [length, ..] = (config >> rcr::RBLEN_SHIFT & 3).to_le_bytes();
        let overrun = if config & rcr::WRAP != 0 {
            RING_OVERRUN
        } else {
            0
        };
        // 64 KiB and a little at most.
        let len = RING_UNIT
            .wrapping_shl(length.into())
            .wrapping_add(RING_MARGIN)
            .wrapping_add(overrun);

        Dma {
            channel: Channel::Receive,
            span: Span {
                start: start.into(),
                len,
            },
            direction: Direction::ToMemory,
        }
    }

    /// The DMA of a frame.
    #[inline]
    fn frame(descriptor: Descriptor, address: u32, len: u32) -> Dma {
        Dma {
            channel: channel(descriptor),
            span: Span {
                start: address.into(),
                len,
            },
            direction: Direction::FromMemory,
        }
    }

    /// Lets a DMA start if it stays within the guest's memory.
    #[inline]
    fn judge(&self, dma: Dma, memory: &impl GuestMemory) -> Verdict {
        if memory.contains(dma.span) {
            return Verdict::Start(dma);
        }

        let denial = Denial::OutsideMemory(dma);

        match self.on_denied {
            OnDenied::Ignore => Verdict::Ignore(denial),
            OnDenied::MachineCheck => Verdict::MachineCheck(denial),
        }
    }

    /// A descriptor.
    #[inline]
    fn transmit(&self, descriptor: Descriptor) -> &Transmit {
        let [first, second, third, fourth] = &self.transmit;

        match descriptor {
            Descriptor::D0 => first,
            Descriptor::D1 => second,
            Descriptor::D2 => third,
            Descriptor::D3 => fourth,
        }
    }

    /// A descriptor, to change.
    #[inline]
    fn transmit_mut(&mut self, descriptor: Descriptor) -> &mut Transmit {
        let [first, second, third, fourth] = &mut self.transmit;

        match descriptor {
            Descriptor::D0 => first,
            Descriptor::D1 => second,
            Descriptor::D2 => third,
            Descriptor::D3 => fourth,
        }
    }

    /// What a frame of `len` bytes from a descriptor would read; nothing new if that is pinned.
    #[inline]
    fn check_frame(
        &self,
        descriptor: Descriptor,
        value: u32,
        memory: &impl GuestMemory,
    ) -> Verdict {
        let len = value & tsd::SIZE;
        let transmit = self.transmit(descriptor);

        if value & tsd::OWN != 0 || len == 0 || transmit.settled {
            return Verdict::Allow;
        }

        self.judge(Self::frame(descriptor, transmit.address, len), memory)
    }

    /// Whether a descriptor may have this address. A frame that has not been sent yet, as the
    /// transmitter is disabled, would be read from there.
    fn check_address(
        &self,
        descriptor: Descriptor,
        address: u32,
        memory: &impl GuestMemory,
    ) -> Verdict {
        let longest = Self::frame(descriptor, address, tsd::SIZE);

        if self.pinning == Pinning::Address && memory.contains(longest.span) {
            return Verdict::Start(longest);
        }

        match self.transmit(descriptor).sending {
            Some(len) => self.judge(Self::frame(descriptor, address, len), memory),
            None => Verdict::Allow,
        }
    }

    /// The guest has loaded a transmit status. Answers what is over.
    fn load_status(&mut self, descriptor: Descriptor, value: u32) -> Channels {
        let len = value & tsd::SIZE;
        let transmit = self.transmit_mut(descriptor);

        if transmit.settled {
            return Channels::NONE;
        }

        let sending = (value & tsd::OWN == 0 && len != 0).then_some(len);
        let was_sending = core::mem::replace(&mut transmit.sending, sending).is_some();

        if was_sending && sending.is_none() {
            return Channels::NONE.with(channel(descriptor));
        }
        Channels::NONE
    }

    /// The guest has loaded a transmit start address. Answers what is over.
    fn load_address(&mut self, descriptor: Descriptor, address: u32, verdict: Verdict) -> Channels {
        let transmit = self.transmit_mut(descriptor);
        let was_settled = transmit.settled;

        transmit.address = address;
        transmit.settled = matches!(verdict, Verdict::Start(dma) if dma.span.len == tsd::SIZE);
        if transmit.settled {
            transmit.sending = None;
        }
        if was_settled && verdict == Verdict::Allow {
            return Channels::NONE.with(channel(descriptor));
        }
        Channels::NONE
    }

    /// The guest has written to a register that starts no DMA.
    fn acknowledge(&mut self, access: Access, value: u32) {
        let Some(shift) = interrupt_shift(access) else {
            return;
        };
        let mask = access.width().mask().wrapping_shl(shift);
        let value = value.wrapping_shl(shift) & mask;
        let [low, high, isr @ ..] = (u32::from(self.interrupt_mask) & !mask | value).to_le_bytes();

        self.interrupt_mask = u16::from_le_bytes([low, high]);
        self.pending &= !u16::from_le_bytes(isr);
    }

    /// [`Self::pending`] as a read of 32 bits from [`IMR`] would show it.
    fn pending_bits(&self) -> u32 {
        u32::from(self.pending).wrapping_shl(u16::BITS)
    }

    /// Takes the addresses from the device, after a reset. All DMA is over by then.
    fn reload(&mut self, card: &mut impl Card) -> Channels {
        for _ in 0..RESET_READS {
            if card.read8(CR) & cr::RST == 0 {
                break;
            }
        }

        let mut over = Channels::NONE;

        for descriptor in Descriptor::ALL {
            let address = card.read32(TSAD0 | descriptor.offset());
            let transmit = self.transmit_mut(descriptor);

            if transmit.sending.is_some() || transmit.settled {
                over = over.with(channel(descriptor));
            }
            *transmit = Transmit {
                address,
                sending: None,
                settled: false,
            };
        }
        if self.receiving {
            over = over.with(Channel::Receive);
        }
        self.receiving = false;
        self.receive_start = card.read32(RBSTART);
        self.receive_config = card.read32(RCR);
        self.pending = 0;
        over
    }

    /// Takes what belongs to the guest from the device, but for the places in its rings, and resets
    /// that. Answers what is over.
    fn take(&mut self, context: &mut Context, card: &mut impl Card) -> Channels {
        *context = Context {
            address: [card.read32(IDR0), card.read32(IDR0 | 4)],
            multicast: [card.read32(MAR0), card.read32(MAR0 | 4)],
            transmit_start: Descriptor::ALL
                .map(|descriptor| card.read32(TSAD0 | descriptor.offset())),
            receive_start: card.read32(RBSTART),
            transmit_config: card.read32(TCR),
            receive_config: card.read32(RCR),
            timer: card.read32(TIMER_INT),
            interrupt_mask: card.read16(IMR),
            pending: card.read16(ISR) | self.pending,
            multiple_interrupt: card.read16(MULINT),
            config: [CONFIG1, CONFIG3, CONFIG4, CONFIG5].map(|port| card.read8(port)),
            eeprom: card.read8(CR9346),
        };
        card.write16(IMR, 0);
        card.write8(CR, cr::RST);
        self.reload(card)
    }
}

/// How far an access is shifted from the 32 bits of IMR and ISR, in bits.
///
/// [`None`]: it goes elsewhere.
#[inline]
fn interrupt_shift(access: Access) -> Option<u32> {
    INTERRUPT
        .contains(access.port())
        .then(|| u32::from(access.port() & 3).wrapping_mul(u8::BITS))
}

/// The channel of a descriptor.
#[inline]
const fn channel(descriptor: Descriptor) -> Channel {
    match descriptor {
        Descriptor::D0 => Channel::Transmit0,
        Descriptor::D1 => Channel::Transmit1,
        Descriptor::D2 => Channel::Transmit2,
        Descriptor::D3 => Channel::Transmit3,
    }
}

/// The registers through which DMA is started, each as wide as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Status(Descriptor),
    Address(Descriptor),
    ReceiveStart,
    ReceiveConfig,
    Command,
    /// Part of one of them, or more than it.
    Misfit,
    /// None of them.
    Other,
}

impl Target {
    #[inline]
    fn of(access: Access) -> Self {
        const GUARDED: PortSet = STATUSES
            .union(ADDRESSES)
            .union(RECEIVE_START)
            .union(RECEIVE_CONFIG)
            .union(COMMAND);

        let port = access.port();

        match (access.width(), port) {
            (Width::Byte, CR) => Self::Command,
            (Width::Dword, RBSTART) => Self::ReceiveStart,
            (Width::Dword, RCR) => Self::ReceiveConfig,
            (Width::Dword, 0x10..=0x1c) if port & 3 == 0 => Self::Status(Descriptor::of(port)),
            (Width::Dword, 0x20..=0x2c) if port & 3 == 0 => Self::Address(Descriptor::of(port)),
            _ if access.meets(GUARDED) => Self::Misfit,
            _ => Self::Other,
        }
    }
}

impl DeviceModel for Rtl8139 {
    type Context = Context;

    const PORTS: PortSet = register::PORTS;

    fn hooked(&self) -> PortSet {
        const ALWAYS: PortSet = ADDRESSES
            .union(RECEIVE_START)
            .union(RECEIVE_CONFIG)
            .union(FORBIDDEN);

        let mut hooked = ALWAYS;

        for descriptor in Descriptor::ALL {
            if !self.transmit(descriptor).settled {
                hooked = hooked.union(status_of(descriptor));
            }
        }
        if !self.receiving {
            hooked = hooked.union(COMMAND);
        }
        if self.pending != 0 {
            hooked = hooked.union(INTERRUPT);
        }
        hooked
    }

    #[inline]
    fn check(&self, access: Access, value: u32, memory: &impl GuestMemory) -> Verdict {
        if access.meets(FORBIDDEN) {
            return Verdict::Ignore(Denial::Uncheckable);
        }

        match Target::of(access) {
            Target::Status(descriptor) => self.check_frame(descriptor, value, memory),
            Target::Address(descriptor) => self.check_address(descriptor, value, memory),
            Target::ReceiveStart if self.receiving => {
                self.judge(Self::ring(value, self.receive_config), memory)
            }
            Target::ReceiveConfig if self.receiving => {
                self.judge(Self::ring(self.receive_start, value), memory)
            }
            Target::Command if value & u32::from(cr::RST | cr::RE) == cr::RE.into() => {
                self.judge(Self::ring(self.receive_start, self.receive_config), memory)
            }
            Target::Misfit => Verdict::Ignore(Denial::Width),
            _ => Verdict::Allow,
        }
    }

    fn wrote(
        &mut self,
        access: Access,
        value: u32,
        verdict: Verdict,
        card: &mut impl Card,
    ) -> Channels {
        let [low, ..] = value.to_le_bytes();

        match Target::of(access) {
            Target::Status(descriptor) => return self.load_status(descriptor, value),
            Target::Address(descriptor) => return self.load_address(descriptor, value, verdict),
            Target::ReceiveStart => self.receive_start = value,
            Target::ReceiveConfig => self.receive_config = value,
            Target::Command if low & cr::RST != 0 => return self.reload(card),
            Target::Command => {
                let receiving = low & cr::RE != 0;
                let stopped = self.receiving && !receiving;

                self.receiving = receiving;
                if stopped {
                    return Channels::NONE.with(Channel::Receive);
                }
            }
            Target::Misfit | Target::Other => self.acknowledge(access, value),
        }
        Channels::NONE
    }

    fn read(&mut self, access: Access, value: u32, _: &mut impl Card) -> u32 {
        match interrupt_shift(access) {
            Some(shift) => value | self.pending_bits().wrapping_shr(shift) & access.width().mask(),
            None => value,
        }
    }

    fn interrupt(&mut self, card: &mut impl Card) -> Channels {
        let mut over = Channels::NONE;
        let [summary, _] = card.read16(TSAD).to_le_bytes();

        // The lowest four bits are OWN of each descriptor.
        for (bit, descriptor) in (0u32..).zip(Descriptor::ALL) {
            let transmit = self.transmit_mut(descriptor);

            if transmit.sending.is_some() && summary.wrapping_shr(bit) & 1 != 0 {
                transmit.sending = None;
                over = over.with(channel(descriptor));
            }
        }
        // While the receiver was enabled, the guest could disable it unseen.
        if self.receiving && card.read8(CR) & cr::RE == 0 {
            self.receiving = false;
            over = over.with(Channel::Receive);
        }
        over
    }

    #[inline]
    fn owes_interrupt(&self) -> bool {
        self.pending & self.interrupt_mask != 0
    }

    fn attend(&mut self, _: Attention, _: &mut impl Card) {}

    fn quiet(&mut self, _: &mut impl Card) {}

    fn reuse(&mut self, card: &mut impl Card) -> Reuse {
        if self
            .transmit
            .iter()
            .any(|transmit| transmit.sending.is_some())
        {
            return Reuse::Busy(Busy::Transmitting);
        }
        // After a reset the device begins at descriptor 0 and at the start of the receive ring, and
        // has no register to set either: a guest whose rings are in use would lose its place.
        if card.read8(CR) & (cr::RE | cr::TE) != 0 {
            return Reuse::Busy(Busy::Rings);
        }

        Reuse::Now
    }

    fn save(&mut self, context: &mut Context, card: &mut impl Card) -> Result<Channels, Busy> {
        if let Reuse::Busy(busy) = self.reuse(card) {
            return Err(busy);
        }

        Ok(self.take(context, card))
    }

    /// The guest finds receiver and transmitter disabled, for their rings have lost their places.
    fn seize(&mut self, context: &mut Context, card: &mut impl Card) -> Channels {
        self.take(context, card)
    }

    fn restore(&mut self, context: &Context, card: &mut impl Card) {
        card.write8(CR, cr::RST);
        self.reload(card);

        card.write8(CR9346, UNLOCK);
        for (port, value) in [CONFIG1, CONFIG3, CONFIG4, CONFIG5]
            .into_iter()
            .zip(context.config)
        {
            card.write8(port, value);
        }
        for (port, value) in [IDR0, IDR0 | 4, MAR0, MAR0 | 4]
            .into_iter()
            .zip(context.address.into_iter().chain(context.multicast))
        {
            card.write32(port, value);
        }
        for (descriptor, address) in Descriptor::ALL.into_iter().zip(context.transmit_start) {
            card.write32(TSAD0 | descriptor.offset(), address);
            *self.transmit_mut(descriptor) = Transmit {
                address,
                sending: None,
                settled: false,
            };
        }
        // TCR can be written only while the transmitter is enabled; nothing is there to send.
        card.write8(CR, cr::TE);
        card.write32(TCR, context.transmit_config);
        card.write8(CR, 0);
        card.write32(RCR, context.receive_config);
        card.write32(RBSTART, context.receive_start);
        card.write32(TIMER_INT, context.timer);
        card.write16(MULINT, context.multiple_interrupt);
        card.write16(ISR, u16::MAX);
        card.write8(CR9346, context.eeprom);
        card.write16(IMR, context.interrupt_mask);

        self.receive_start = context.receive_start;
        self.receive_config = context.receive_config;
        self.interrupt_mask = context.interrupt_mask;
        self.pending = context.pending & !card.read16(ISR);
    }
}
