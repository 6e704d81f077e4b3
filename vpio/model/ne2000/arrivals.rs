// SPDX-License-Identifier: GPL-2.0

//! Frames that come while guests share the card.
//!
//! While there are others, the card receives for all of them, into the ring of the guest that has it.
//! What came is looked at before that guest can see it: the others get what they want of it, and what
//! the guest itself would not have received is overwritten with zeros, destination and all. So its
//! driver finds a frame for nobody, of the same length, and drops it.
//!
//! Such a frame cannot be removed instead. It is linked with its neighbours, and drivers check the
//! links against the lengths; CURR may be set only while the receiver is stopped (DP8390D, "Current
//! Page Register"), and then frames are lost.

use super::{
    super::{
        access::{
            Access,
            Width, //
        },
        card::Card,
        device::Busy,
        frame::{
            Address,
            Frame,
            ADDRESS_LEN,
            MAX_LEN, //
        },
    },
    context::{
        self,
        Context, //
    },
    filter::Filter,
    memory::{
        PacketMemory,
        Page,
        PAGE_SIZE, //
    },
    register::{
        cr,
        isr,
        *, //
    },
    remote_start,
    ring::{
        Ring,
        Stretch,
        HEADER_LEN, //
    },
    Known,
    Ne2000, //
};

/// Words in the longest frame.
const FRAME_WORDS: usize = MAX_LEN.div_ceil(2) as usize;
/// Words in a page.
const PAGE_WORDS: usize = (PAGE_SIZE / 2) as usize;
/// The least that the count in a header is: the header itself and a destination.
const MIN_COUNT: u16 = 10;
/// A table that has all groups.
const ALL_GROUPS: u8 = u8::MAX;

/// Who shares the card with the guest that has it.
pub trait Others {
    /// Whether any of them would receive a frame for `destination`: see [`Context::wants`].
    fn want(&self, destination: Address) -> bool;

    /// A frame came for a destination that they want. Each gets it that does.
    fn receive(&mut self, frame: &Frame<'_>);

    /// Whether frames are held for the guest that has the card, for there was no room in its ring when
    /// it did not. What comes for it now must not overtake them.
    fn hold_own(&self) -> bool {
        false
    }

    /// A frame came for the guest that has the card, to be held with the others. It is hidden.
    fn receive_own(&mut self, _: &Frame<'_>) {}
}

/// Room for a frame on its way to others, of 1.5 KiB.
#[derive(Clone)]
pub struct Buffer {
    words: [[u8; 2]; FRAME_WORDS],
}

impl Buffer {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            words: [[0; 2]; FRAME_WORDS],
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Buffer")
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Number of frames.
    pub frames: u32,
    /// Those that others got.
    pub for_others: u32,
    /// Those that the guest with the card does not get to see.
    pub hidden: u32,
    /// The guest has changed its ring, and what else came to it could not be found.
    pub is_broken: bool,
}

/// Whether others share the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Nobody does.
    Alone,
    /// They do, and the card does not receive for them yet.
    Announced,
    /// The card receives for all.
    Shared {
        /// The page up to which frames were looked at.
        seen: u8,
        /// MAR as the guest has it.
        multicast: [u8; 8],
    },
}

/// A way to card RAM.
trait Ram {
    fn read(&mut self, address: u16, words: &mut [[u8; 2]]);

    fn write(&mut self, address: u16, words: &[[u8; 2]]);
}

/// Through the card, which goes on receiving. RDC is raised by each access.
struct Remote<'a, C>(&'a mut C);

impl<C: Card> Ram for Remote<'_, C> {
    fn read(&mut self, address: u16, words: &mut [[u8; 2]]) {
        remote_start(self.0, cr::READ, address, words.len());
        self.0.read_words(DATA, words);
        self.0.write8(CR, cr::ABORT | cr::STA);
    }

    fn write(&mut self, address: u16, words: &[[u8; 2]]) {
        remote_start(self.0, cr::WRITE, address, words.len());
        self.0.write_words(DATA, words);
        self.0.write8(CR, cr::ABORT | cr::STA);
    }
}

/// What was saved.
impl Ram for PacketMemory {
    fn read(&mut self, address: u16, words: &mut [[u8; 2]]) {
        let saved = self.words().iter().skip(index(address));

        for (to, from) in words.iter_mut().zip(saved) {
            *to = *from;
        }
    }

    fn write(&mut self, address: u16, words: &[[u8; 2]]) {
        let saved = self.words_mut().iter_mut().skip(index(address));

        for (to, from) in saved.zip(words) {
            *to = *from;
        }
    }
}

/// The number of the word at an address of card RAM.
fn index(address: u16) -> usize {
    usize::from(address.saturating_sub(Page::FIRST.address()) / 2)
}

/// Reads the first `len` bytes of a frame, as far as there is room for them.
fn read<'a>(
    frame: Stretch,
    len: u16,
    buffer: &'a mut Buffer,
    ram: &mut impl Ram,
) -> Option<Frame<'a>> {
    let mut words = buffer.words.get_mut(..usize::from(len.div_ceil(2)))?;
    let mut skipped = HEADER_LEN;

    for page in frame.pages() {
        let room = usize::from(PAGE_SIZE.saturating_sub(skipped) / 2);
        let count = room.min(words.len());
        let (here, rest) = words.split_at_mut_checked(count)?;

        if here.is_empty() {
            break;
        }
        ram.read(page.address().saturating_add(skipped), here);
        words = rest;
        skipped = 0;
    }

    Frame::new(buffer.words.as_flattened().get(..len.into())?)
}

/// Overwrites the pages of a frame, but for its header.
fn hide(frame: Stretch, ram: &mut impl Ram) {
    const ZEROS: [[u8; 2]; PAGE_WORDS] = [[0; 2]; PAGE_WORDS];

    let mut skipped = HEADER_LEN;

    for page in frame.pages() {
        let zeros = ZEROS.get(usize::from(skipped / 2)..).unwrap_or(&ZEROS);

        ram.write(page.address().saturating_add(skipped), zeros);
        skipped = 0;
    }
}

/// Looks at the frames of `stretch`, each once: at most the whole of card RAM is read and written.
fn share_out(
    mut stretch: Stretch,
    filter: &Filter,
    others: &mut impl Others,
    buffer: &mut Buffer,
    ram: &mut impl Ram,
) -> Arrivals {
    let mut arrivals = Arrivals::default();

    while let Some(page) = stretch.first() {
        let mut head = [[0; 2]; 5];

        ram.read(page.address(), &mut head);

        let [[status, next], count, [a, b], [c, d], [e, f]] = head;
        let count = u16::from_le_bytes(count);
        let Some(frame) = stretch
            .advance(next)
            .filter(|frame| (MIN_COUNT..=frame.bytes()).contains(&count))
        else {
            arrivals.is_broken = true;
            break;
        };
        let destination = Address([a, b, c, d, e, f]);

        // At most one for each page.
        arrivals.frames = arrivals.frames.saturating_add(1);

        let is_good = status & RSR_PRX != 0;
        let is_wanted = is_good && others.want(destination);
        let is_own = filter.accepts(destination);
        let mut is_shown = is_own;

        if is_wanted || is_good && is_own && others.hold_own() {
            let len = count.saturating_sub(HEADER_LEN);

            if let Some(frame) = read(frame, len, buffer, ram) {
                if is_wanted {
                    others.receive(&frame);
                    arrivals.for_others = arrivals.for_others.saturating_add(1);
                }
                if is_own && others.hold_own() {
                    others.receive_own(&frame);
                    is_shown = false;
                }
            }
        }
        if !is_shown {
            hide(frame, ram);
            arrivals.hidden = arrivals.hidden.saturating_add(1);
        }
    }
    arrivals
}

impl Context {
    /// Shares out the frames that were still to be looked at when the guest's context was saved, as
    /// [`Ne2000::share_out`] does.
    pub fn share_out(&mut self, others: &mut impl Others, buffer: &mut Buffer) -> Arrivals {
        let Some(from) = self.unseen.take() else {
            return Arrivals::default();
        };
        let registers = &self.registers;
        let stretch = Stretch::new(
            registers.page_start,
            registers.page_stop,
            from,
            registers.current,
        );

        stretch.map_or(BROKEN, |stretch| {
            let filter = registers.filter();

            share_out(stretch, &filter, others, buffer, &mut self.memory)
        })
    }
}

/// There is no ring.
const BROKEN: Arrivals = Arrivals {
    frames: 0,
    for_others: 0,
    hidden: 0,
    is_broken: true,
};

/// What the guest has under way.
struct Paused {
    /// Where its remote DMA goes on.
    address: u16,
    /// How many bytes of it are left.
    left: u16,
    /// ISR.
    status: u8,
    /// STA or STP.
    run: u8,
}

impl Ne2000 {
    /// Others share the card from now on. The guest is followed closely until [`Self::unshare`], and
    /// from the next [`Self::share_out`] or restore on the card receives for all. To be called with
    /// all ports hooked.
    ///
    /// For the guest, RCR and MAR stay what it has written: so they are saved, and shown where they
    /// can be read.
    pub fn share(&mut self, card: &mut impl Card) {
        if !self.is_close() {
            self.command = card.read8(CR);
        }
        if self.sharing == Sharing::Alone {
            self.sharing = Sharing::Announced;
        }
    }

    /// Nobody shares the card any more: it receives what its guest wants.
    ///
    /// # Errors
    ///
    /// [`Busy`]: not now. Nothing has changed; to be called again after the guest's next accesses.
    pub fn unshare(&mut self, card: &mut impl Card) -> Result<(), Busy> {
        if let Sharing::Shared { multicast, .. } = self.sharing {
            let paused = self.pause(card)?;

            card.write8(CR, cr::PAGE1 | cr::ABORT | paused.run);
            for (port, byte) in (MAR0..).zip(multicast) {
                card.write8(port, byte);
            }
            card.write8(CR, cr::ABORT | paused.run);
            card.write8(RCR, self.register(RCR));
            self.go_on(&paused, card);
        }
        self.sharing = Sharing::Alone;
        self.forget();
        Ok(())
    }

    /// Whether the card of this guest receives at all, for itself or for those that it shares the card
    /// with: a driver that goes stops it, and one that should not be trusted may have it like that all the
    /// time.
    pub fn listens(&self) -> bool {
        context::listens(
            self.command,
            self.register(RCR),
            self.register(PSTART),
            self.register(PSTOP),
        )
    }

    /// Whether this read lets the guest find frames that nobody has looked at: [`Self::share_out`]
    /// comes before it. A reset ends what was under way.
    #[inline]
    pub fn read_exposes(&self, access: Access) -> bool {
        let port = access.port();

        self.sharing != Sharing::Alone
            && access.width() == Width::Byte
            && (RESETS.contains(port) || port == CURR && self.command & cr::PS == cr::PAGE1)
    }

    /// Whether this write lets the guest free, or lose, frames that nobody has looked at, or changes
    /// which of them are for the guest: [`Self::share_out`] comes before it.
    #[inline]
    pub fn write_exposes(&self, access: Access, value: u32) -> bool {
        if self.sharing == Sharing::Alone || access.width() != Width::Byte {
            return false;
        }

        match (access.port(), self.command & cr::PS) {
            (CR, _) => value & u32::from(cr::STP) != 0,
            (PSTART | PSTOP | BNRY | RCR, 0) | (PAR0..=MAR7, cr::PAGE1) => true,
            _ => false,
        }
    }

    /// Looks at what has come since the last time: `others` get what they want, and what is not for
    /// the guest that has the card is hidden from it.
    ///
    /// To be called at an interrupt before the guest hears of it, before accesses that
    /// [expose](Self::read_exposes) frames, and with all ports hooked. Remote DMA that the guest has
    /// under way goes on afterwards as before. Takes as long as to read and write card RAM once, at
    /// most.
    ///
    /// # Errors
    ///
    /// [`Busy`]: not now, but after the guest's next accesses. Nothing has changed.
    pub fn share_out(
        &mut self,
        others: &mut impl Others,
        buffer: &mut Buffer,
        card: &mut impl Card,
    ) -> Result<Arrivals, Busy> {
        // A card that is stopped receives nothing, and what it had was looked at before.
        if self.sharing == Sharing::Alone || self.command & cr::STP != 0 {
            return Ok(Arrivals::default());
        }

        let paused = self.pause(card)?;

        card.write8(CR, cr::PAGE1 | cr::ABORT | paused.run);

        let current = card.read8(CURR);
        let mut arrivals = Arrivals::default();

        match self.sharing {
            Sharing::Shared { seen, multicast } if seen != current => {
                let mut address = [0; ADDRESS_LEN];

                for (port, byte) in (PAR0..).zip(&mut address) {
                    *byte = card.read8(port);
                }
                card.write8(CR, cr::ABORT | paused.run);

                let filter = Filter {
                    config: self.register(RCR),
                    address,
                    multicast,
                };

                arrivals = Stretch::new(self.register(PSTART), self.register(PSTOP), seen, current)
                    .map_or(BROKEN, |stretch| {
                        self.look(stretch, &filter, others, buffer, card)
                    });
                // The guest's own was acknowledged with ours.
                self.pending |= paused.status & isr::RDC;
                self.sharing = Sharing::Shared {
                    seen: current,
                    multicast,
                };
            }
            Sharing::Shared { .. } | Sharing::Alone => card.write8(CR, cr::ABORT | paused.run),
            Sharing::Announced => {
                let mut multicast = [0; 8];

                for (port, byte) in (MAR0..).zip(&mut multicast) {
                    *byte = card.read8(port);
                    card.write8(port, ALL_GROUPS);
                }
                card.write8(CR, cr::ABORT | paused.run);
                card.write8(RCR, Filter::widened(self.register(RCR)));
                self.sharing = Sharing::Shared {
                    seen: current,
                    multicast,
                };
            }
        }

        self.go_on(&paused, card);
        Ok(arrivals)
    }

    /// Raises PRX if there are frames in the guest's ring, and it has acknowledged that they came. Answers
    /// whether it did. To be called with all ports hooked, when the guest has done nothing with the card
    /// for a while.
    ///
    /// Linux's driver acknowledges PRX after it has looked for frames, and looks for ten at most: it
    /// finds the rest when the next one interrupts. A full ring receives none. A DP8390 raises OVW then,
    /// and QEMU's card nothing at all (`ne2000_receive`): its guest would wait for ever, and with it the
    /// others, whose frames come through the same ring.
    ///
    /// # Errors
    ///
    /// [`Busy`]: not now, but after the guest's next accesses. Nothing has changed.
    pub fn remind(&mut self, card: &mut impl Card) -> Result<bool, Busy> {
        if !self.is_shared() || self.command & cr::STP != 0 {
            return Ok(false);
        }

        let paused = self.pause(card)?;

        card.write8(CR, cr::PAGE1 | cr::ABORT | paused.run);

        let current = card.read8(CURR);

        card.write8(CR, cr::ABORT | paused.run);

        let (start, stop) = (self.register(PSTART), self.register(PSTOP));
        let boundary = Ring::boundary(start, stop, card.read8(BNRY));
        // Drivers keep BNRY one page behind the next frame, so that it does not meet CURR in a full ring
        // (DP8390D, "Buffer Ring Overflow"), or set it to that page.
        let ring = Ring::new(start, stop, boundary, current);
        let has_frames =
            ring.is_some_and(|ring| !ring.iter().take(2).any(|page| page.number() == current));
        let is_forgotten = has_frames && (paused.status | self.pending) & isr::PRX == 0;

        if is_forgotten {
            self.pending |= isr::PRX;
        }
        self.go_on(&paused, card);
        Ok(is_forgotten)
    }

    /// Looks at frames, in words and without interrupts from our own DMA.
    fn look(
        &self,
        stretch: Stretch,
        filter: &Filter,
        others: &mut impl Others,
        buffer: &mut Buffer,
        card: &mut impl Card,
    ) -> Arrivals {
        let (mask, order) = (self.register(IMR), self.register(DCR));

        card.write8(IMR, mask & !isr::RDC);
        if order != DCR_WORDS {
            card.write8(DCR, DCR_WORDS);
        }

        let arrivals = share_out(stretch, filter, others, buffer, &mut Remote(card));

        if order != DCR_WORDS {
            card.write8(DCR, order);
        }
        // Before the mask, for it is not the guest's.
        card.write8(ISR, isr::RDC);
        card.write8(IMR, mask);
        arrivals
    }

    /// Takes remote DMA from the guest, and selects page 0.
    fn pause(&mut self, card: &mut impl Card) -> Result<Paused, Busy> {
        let is_transfer =
            self.command & cr::ABORT == 0 && self.command & (cr::READ | cr::WRITE) != 0;
        let run = if self.command & cr::STP != 0 {
            cr::STP
        } else {
            cr::STA
        };

        // Where a transfer is can be seen on page 0 only, and a guest is there while it has one.
        if !self.known.contains(Known::TRANSACTION) || self.command & cr::PS != 0 && is_transfer {
            return Err(Busy::Transaction);
        }
        if self.command & cr::PS != 0 {
            card.write8(CR, cr::ABORT | run);
        }

        let (address, left) = self.remote(card);
        let status = card.read8(ISR);

        // QEMU's card runs on after a reset, and shows that until the next command to start.
        if run == cr::STA {
            self.pending |= status & isr::RST;
        }
        card.write8(CR, cr::ABORT | run);
        if !self.known.contains(Known::CONFIGURATION) {
            self.read_back(run, card);
        }

        Ok(Paused {
            address,
            left,
            status,
            run,
        })
    }

    /// Gives remote DMA back to the guest.
    fn go_on(&mut self, paused: &Paused, card: &mut impl Card) {
        self.set_wide(RSAR0, RSAR1, paused.address);
        self.set_wide(RBCR0, RBCR1, paused.left);
        for port in RSAR0..=RBCR1 {
            card.write8(port, self.register(port));
        }
        self.resume(paused.left, card);
    }
}
