// SPDX-License-Identifier: GPL-2.0

//! What a card has of one guest, under its lock.

use kernel::{
    alloc::KVVec,
    prelude::*,
    sync::Arc, //
};
use pdio::{
    boxed,
    device::DmaDevice,
    io_bar::BarPorts,
    task::Thread, //
};

use crate::{
    mode::Mode,
    model::{
        device::{
            Attention,
            DeviceModel, //
        },
        frame::{
            Address,
            Frame, //
        },
        ne2000::{
            context::{
                Context,
                Received,
                PROM_WORDS, //
            },
            held_frames::{
                Handed,
                HeldFrames, //
            },
            register::isr,
            Ne2000,
            Quirks, //
        },
        ports::PortSet, //
    },
    number::Number,
    registers::Registers,
    statistics::Statistics,
    turns::Slot,
    way::Way, //
};

/// A station address PROM, as remote DMA shows it.
pub(crate) type Prom = [[u8; 2]; PROM_WORDS];

/// A card that was just reset. In memory of its own: a context is as large as the stack of a thread.
static RESET: Context = Context::new([[0; 2]; PROM_WORDS]);

/// Bytes of frames that are held for a guest which does not have the card, beyond what its ring holds: what
/// comes at 10 Mbit/s while three others have the card for 20 ms each is 75,000 bytes, of which 12 KiB are
/// in the ring.
const HELD_BYTES: usize = 64 << 10;

/// What a card has of one guest.
pub(crate) struct Seat {
    number: Number,
    prom: Prom,
    quirks: Quirks,
    /// Its turns. None: nobody has opened it.
    pub(crate) slot: Option<Slot>,
    pub(crate) model: Ne2000,
    /// What belongs to the guest while it does not have the card.
    pub(crate) context: KBox<Context>,
    pub(crate) attention: Attention,
    pub(crate) way: Way,
    /// Frames that came for it while another had the card, and that its ring has no room for.
    held: HeldFrames<KVVec<u8>>,
    /// Whether its model knows that others share the card.
    pub(crate) is_shared: bool,
    /// How many of its accesses have come here.
    pub(crate) accesses: u64,
    /// The thread of its virtual CPU that the last one came from.
    pub(crate) thread: Option<Thread>,
    /// What makes [`Self::ran_us`] go on where it was when that is another one.
    ran_offset_us: u64,
    /// Whether its model has a reason for an interrupt.
    pub(crate) owed: bool,
    pub(crate) statistics: Arc<Statistics>,
}

impl Seat {
    /// For a guest that finds this PROM on a card with these quirks. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        number: Number,
        prom: Prom,
        quirks: Quirks,
        statistics: Arc<Statistics>,
    ) -> Result<Self> {
        let mut storage = KVVec::new();

        storage.resize(HELD_BYTES, 0, GFP_KERNEL)?;

        let mut seat = Self {
            number,
            prom,
            quirks,
            slot: None,
            model: Ne2000::new(quirks),
            context: boxed::copy_of(&RESET)?,
            attention: Attention::Close,
            way: Way::new(number, Ne2000::PORTS, statistics.clone()),
            held: HeldFrames::new(storage),
            is_shared: false,
            accesses: 0,
            thread: None,
            ran_offset_us: 0,
            owed: false,
            statistics,
        };

        seat.reset();
        Ok(seat)
    }

    /// The guest's number.
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// What belongs to the guest is that of a card that was just reset. It does not have the card.
    pub(crate) fn reset(&mut self) {
        self.model = Ne2000::new(self.quirks);
        self.attention = Attention::Close;
        self.is_shared = false;
        self.held.clear();
        *self.context = RESET;
        self.context.prom = self.prom;
    }

    /// Whether the guest, which does not have the card, would receive a frame for `destination`.
    pub(crate) fn wants(&self, destination: Address) -> bool {
        self.slot.is_some() && self.context.wants(destination)
    }

    /// A frame came that the guest wants, which does not have the card.
    pub(crate) fn receive(&mut self, frame: &Frame<'_>, of_card: &Statistics) {
        let Self {
            held,
            context,
            statistics,
            ..
        } = self;
        let mut delivered = 0;
        let handed = held.hand(frame, |frame| {
            let received = context.receive(frame);

            delivered += u64::from(received == Received::Stored);
            received
        });

        let is_lost = matches!(handed, Handed::Lost | Handed::Done(Received::NoRing));

        for statistics in [&**statistics, of_card] {
            statistics.frames_held.add(1);
            statistics.frames_delivered.add(delivered);
            statistics.frames_overflowed.add(is_lost.into());
        }
    }

    /// Puts frames that are held into the guest's ring, as far as there is room.
    pub(crate) fn deliver(&mut self, of_card: &Statistics) {
        let Self {
            held,
            context,
            statistics,
            ..
        } = self;
        let mut delivered = 0;

        held.deliver(|frame| {
            let received = context.receive(frame);

            delivered += u64::from(received == Received::Stored);
            received
        });
        for statistics in [&**statistics, of_card] {
            statistics.frames_delivered.add(delivered);
        }
    }

    /// Number of frames that are held.
    pub(crate) fn held(&self) -> u32 {
        self.held.len()
    }

    /// Whether the guest, which does not have the card, is to be interrupted for what is in its context.
    pub(crate) fn has_news(&self) -> bool {
        let registers = &self.context.registers;

        self.slot.is_some() && registers.pending & registers.interrupt_mask & !isr::RST != 0
    }

    /// The guest's virtual CPU makes an access.
    #[inline]
    pub(crate) fn accessed(&mut self) {
        self.accesses += 1;
        if !self.thread.as_ref().is_some_and(Thread::is_current) {
            let ran_us = self.ran_us();
            let thread = Thread::current();

            self.ran_offset_us = ran_us.wrapping_sub(thread.ran_us());
            self.thread = Some(thread);
        }
    }

    /// Microseconds for which the guest has run, since any moment: the virtual CPU that made the last
    /// access counts, and before that the one before.
    pub(crate) fn ran_us(&self) -> u64 {
        let ran_us = self.thread.as_ref().map_or(0, Thread::ran_us);

        ran_us.wrapping_add(self.ran_offset_us)
    }

    /// The guest has the card: pays the attention that is wanted, and opens the ports that nobody has to
    /// hear of. May sleep.
    pub(crate) fn follow(
        &mut self,
        wanted: Attention,
        mode: Mode,
        ports: &Arc<BarPorts>,
        device: &DmaDevice,
        statistics: &Statistics,
    ) {
        let is_here = self
            .way
            .ports()
            .is_some_and(|place| Arc::ptr_eq(place, ports));
        let is_direct = mode.is_direct() && is_here;
        // Where all exit anyhow, it costs nothing to know.
        let attention = if is_direct { wanted } else { Attention::Close };

        if attention != self.attention {
            self.way.close(device, statistics);
            self.model.attend(attention, &mut Registers(ports));
            self.attention = attention;
        }

        let allowed = match mode {
            _ if !is_direct => PortSet::EMPTY,
            Mode::Open => Ne2000::PORTS,
            _ => Ne2000::PORTS.difference(self.model.hooked()),
        };

        self.way.allow(allowed, device, statistics);
    }
}
