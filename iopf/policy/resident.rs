// SPDX-License-Identifier: GPL-2.0

//! Which pages a device can reach, and which it gives up next.
//!
//! A hash table with open addressing, eight bytes for a page. Beside the pages that are there it
//! remembers some of those that were taken (ghosts), until the hand of the clock passes: a page that is
//! asked for again so soon was taken too early. The table is as large as the memory that it is given;
//! [`Resident::wanted_slots`] says when it should be given more.
//!
//! The order of pages in the table is that of a hash, so the hand goes round in no order that a device
//! could know of, and the pages under it are a sample of all.

use core::ops::DerefMut;

use super::{
    eviction::Eviction,
    page::{
        Page,
        PageRange, //
    },
};

/// A page or a ghost in a word; 0 is nothing.
///
/// The number of the page is in the upper 52 bits. Below are the flags and, in the lowest bits, what
/// the policy knows of its use: with `clock` the number of chances, with `lru` the time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    const NONE: Self = Self(0);
    const PAGE: u64 = 1 << 11;
    const GHOST: u64 = 1 << 10;
    const WRITABLE: u64 = 1 << 9;
    const USE: u64 = (1 << 9) - 1;

    const fn new(page: Page, flags: u64) -> Self {
        Self(page.0 << 12 | flags)
    }

    const fn is_none(self) -> bool {
        self.0 == 0
    }

    const fn page(self) -> Page {
        Page(self.0 >> 12)
    }

    const fn is(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    const fn usage(self) -> u64 {
        self.0 & Self::USE
    }

    const fn with_usage(self, usage: u64) -> Self {
        Self(self.0 & !Self::USE | usage & Self::USE)
    }
}

/// Why a page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The device has asked for it.
    Demand,
    /// It is brought along.
    Ahead,
}

/// What the device may do with a page that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Read.
    ReadOnly,
    /// Read and write.
    Writable,
}

/// There is no room: see [`Resident::wanted_slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One ghost at most for so many pages: it takes as much memory as a page.
const GHOSTS: usize = 4;

/// Most chances that a page has: see [`Eviction::Clock`].
const MAX_CHANCES: u64 = 3;

/// Pages of which the oldest is taken: what Redis found to be hardly worse than all of them.
const SAMPLE: usize = 8;

/// The time of `lru` moves when one in so many pages was asked for, so that it does not come round
/// before all of them were, several times.
const TICKS_PER_TURN: u64 = 64;

/// The pages of one binding that the device can reach.
pub struct Resident<S> {
    slots: S,
    pages: usize,
    ghosts: usize,
    hand: usize,
    /// Requests since the time of `lru` moved.
    requests: u64,
    time: u64,
}

impl<S: DerefMut<Target = [u64]>> Resident<S> {
    /// None, in a table of some memory, which must be zeroed.
    pub fn new(slots: S) -> Self {
        Self {
            slots,
            pages: 0,
            ghosts: 0,
            hand: 0,
            requests: 0,
            time: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// The number of words that the table should be given before `more` pages come, if it has too
    /// few. A quarter more at a time, and at most four in five are in use: with a ghost for every
    /// fourth page 8 × 5/4 × 5/4 × 5/4 bytes, which are less than 16, for a page.
    pub fn wanted_slots(&self, more: usize) -> Option<usize> {
        let used = self.pages + self.ghosts + more;

        (used > limit(self.slots.len())).then(|| (used + used / 4).max(8).div_ceil(4) * 5)
    }

    /// Moves to larger memory, which must be zeroed, and returns the old.
    pub fn grow(&mut self, slots: S) -> S {
        if limit(slots.len()) < self.pages + self.ghosts {
            return slots;
        }

        let old = core::mem::replace(&mut self.slots, slots);

        self.hand = 0;
        for slot in old.iter().map(|&slot| Slot(slot)) {
            if !slot.is_none() {
                let at = self.place(slot.page());

                self.write(at, slot);
            }
        }
        old
    }

    /// What the device may do with a page, if it is there.
    pub fn protection(&self, page: Page) -> Option<Protection> {
        let slot = self.read(self.place(page));

        slot.is(Slot::PAGE).then_some(if slot.is(Slot::WRITABLE) {
            Protection::Writable
        } else {
            Protection::ReadOnly
        })
    }

    /// Adds a page that is not there.
    ///
    /// # Errors
    ///
    /// [`Full`]: nothing changed.
    pub fn insert(
        &mut self,
        page: Page,
        protection: Protection,
        reason: Reason,
        eviction: Eviction,
    ) -> Result<(), Full> {
        let at = self.place(page);
        let known = self.read(at);

        if known.is(Slot::PAGE) {
            return Ok(());
        }
        if known.is_none() && self.pages + self.ghosts >= limit(self.slots.len()) {
            if self.pages >= limit(self.slots.len()) {
                return Err(Full);
            }
            self.forget_ghosts();
            return self.insert(page, protection, reason, eviction);
        }

        let flags = match protection {
            Protection::ReadOnly => Slot::PAGE,
            Protection::Writable => Slot::PAGE | Slot::WRITABLE,
        };
        let usage = match (eviction, reason, known.is(Slot::GHOST)) {
            (Eviction::Clock, Reason::Ahead, _) => 0,
            (Eviction::Clock, Reason::Demand, false) => 1,
            (Eviction::Clock, Reason::Demand, true) => MAX_CHANCES,
            (Eviction::Lru, _, _) => self.tick(),
        };

        if known.is(Slot::GHOST) {
            self.ghosts -= 1;
        }
        self.pages += 1;
        self.write(at, Slot::new(page, flags).with_usage(usage));
        Ok(())
    }

    /// The device has asked for a page that is there.
    pub fn touch(&mut self, page: Page, eviction: Eviction) {
        let at = self.place(page);
        let slot = self.read(at);

        if slot.is(Slot::PAGE) {
            let usage = match eviction {
                Eviction::Clock => slot.usage().min(MAX_CHANCES - 1) + 1,
                Eviction::Lru => self.tick(),
            };

            self.write(at, slot.with_usage(usage));
        }
    }

    /// Takes a page that is to go first, and remembers it for a while.
    pub fn evict(&mut self, eviction: Eviction) -> Option<Page> {
        if self.pages == 0 {
            return None;
        }

        let at = match eviction {
            Eviction::Clock => self.out_of_chances(),
            Eviction::Lru => self.oldest_of_sample(),
        };
        let page = self.read(at).page();

        self.pages -= 1;
        if self.ghosts < self.pages / GHOSTS {
            self.ghosts += 1;
            self.write(at, Slot::new(page, Slot::GHOST));
        } else {
            self.clear(at);
        }
        Some(page)
    }

    /// Takes up to `count` pages that are to go first, as many as there is room for in `victims`, and
    /// returns them in ascending order.
    pub fn evict_several<'v>(
        &mut self,
        eviction: Eviction,
        count: usize,
        victims: &'v mut [Page],
    ) -> &'v [Page] {
        let mut taken = 0;

        while taken < count.min(victims.len()) {
            let Some(page) = self.evict(eviction) else {
                break;
            };
            let at = victims
                .get(..taken)
                .map_or(0, |sorted| sorted.partition_point(|&other| other < page));

            victims.copy_within(at..taken, at + 1);
            if let Some(victim) = victims.get_mut(at) {
                *victim = page;
            }
            taken += 1;
        }
        victims.get(..taken).unwrap_or(&[])
    }

    /// Takes all pages of a range, each once. They are in ascending order unless the range has many
    /// more than are there.
    pub fn drain(&mut self, range: PageRange) -> Drain<'_, S> {
        let by_number = range.count <= self.slots.len() as u64 * 4;

        Drain {
            resident: self,
            range,
            next: range.first,
            at: 0,
            by_number,
        }
    }

    /// Takes one page, if it is there.
    pub fn remove(&mut self, page: Page) -> bool {
        let at = self.place(page);

        if !self.read(at).is(Slot::PAGE) {
            return false;
        }
        self.pages -= 1;
        self.clear(at);
        true
    }

    /// A time for a page that is asked for now.
    fn tick(&mut self) -> u64 {
        self.requests += 1;
        if self.requests * TICKS_PER_TURN >= self.pages as u64 {
            self.requests = 0;
            self.time = (self.time + 1) & Slot::USE;
        }
        self.time
    }

    /// Where the next page is that has no chances left; there is a page. Takes chances from those
    /// that it passes, and forgets ghosts.
    fn out_of_chances(&mut self) -> usize {
        loop {
            let at = self.hand;
            let slot = self.read(at);

            if slot.is(Slot::GHOST) {
                // What follows moves here.
                self.ghosts -= 1;
                self.clear(at);
                continue;
            }
            self.hand = self.after(at);
            if slot.is(Slot::PAGE) {
                // Another policy may have left more.
                match slot.usage().min(MAX_CHANCES) {
                    0 => return at,
                    chances => self.write(at, slot.with_usage(chances - 1)),
                }
            }
        }
    }

    /// Where the oldest of the next pages is; there is a page.
    fn oldest_of_sample(&mut self) -> usize {
        let mut oldest = (0, self.hand);
        let mut seen = 0;
        let mut passed = 0;

        while seen < SAMPLE.min(self.pages) && passed <= self.slots.len() {
            let at = self.hand;
            let slot = self.read(at);

            self.hand = self.after(at);
            passed += 1;
            if slot.is(Slot::PAGE) {
                let age = self.time.wrapping_sub(slot.usage()) & Slot::USE;

                if seen == 0 || age > oldest.0 {
                    oldest = (age, at);
                }
                seen += 1;
            }
        }
        oldest.1
    }

    /// Forgets all ghosts.
    fn forget_ghosts(&mut self) {
        let mut at = 0;

        while at < self.slots.len() && self.ghosts > 0 {
            if self.read(at).is(Slot::GHOST) {
                self.ghosts -= 1;
                // What follows moves here.
                self.clear(at);
            } else {
                at += 1;
            }
        }
        // One that moved from the beginning to the end was passed already.
        if self.ghosts > 0 {
            self.forget_ghosts();
        }
    }

    /// Where a page is, or would be.
    fn place(&self, page: Page) -> usize {
        let mut at = self.home(page);

        loop {
            let slot = self.read(at);

            if slot.is_none() || slot.page() == page {
                return at;
            }
            at = self.after(at);
        }
    }

    /// Where a page would be in an empty table. The multiplier is 2^64 divided by the golden ratio,
    /// which spreads neighbours (Knuth, The Art of Computer Programming 3, 6.4).
    fn home(&self, page: Page) -> usize {
        let hash = page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let scaled = u128::from(hash) * self.slots.len() as u128;

        (scaled >> u64::BITS) as usize
    }

    /// The place after another, in a circle.
    fn after(&self, at: usize) -> usize {
        if at + 1 < self.slots.len() {
            at + 1
        } else {
            0
        }
    }

    /// How far a place is after another, in a circle.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.slots.len() - from
        }
    }

    /// What is at a place.
    fn read(&self, at: usize) -> Slot {
        self.slots.get(at).map_or(Slot::NONE, |&slot| Slot(slot))
    }

    /// Puts something at a place.
    fn write(&mut self, at: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(at) {
            *place = slot.0;
        }
    }

    /// Empties a place, and moves what would not be found any more behind it (Knuth, 6.4, R).
    fn clear(&mut self, at: usize) {
        let mut hole = at;
        let mut next = self.after(at);

        loop {
            let slot = self.read(next);

            if slot.is_none() {
                break;
            }
            if self.distance(self.home(slot.page()), next) >= self.distance(hole, next) {
                self.write(hole, slot);
                hole = next;
            }
            next = self.after(next);
        }
        self.write(hole, Slot::NONE);
    }
}

/// Most words that are in use: one at least is free, where a search ends.
const fn limit(slots: usize) -> usize {
    slots / 5 * 4
}

/// Takes pages of a range.
pub struct Drain<'a, S> {
    resident: &'a mut Resident<S>,
    range: PageRange,
    next: Page,
    at: usize,
    by_number: bool,
}

impl<S: DerefMut<Target = [u64]>> Iterator for Drain<'_, S> {
    type Item = Page;

    fn next(&mut self) -> Option<Page> {
        if self.resident.pages == 0 {
            return None;
        }
        if self.by_number {
            while self.range.contains(self.next) {
                let page = self.next;

                self.next = Page(page.0 + 1);
                if self.resident.remove(page) {
                    return Some(page);
                }
            }
            return None;
        }
        while self.at < self.resident.slots.len() {
            let slot = self.resident.read(self.at);

            if slot.is(Slot::PAGE) && self.range.contains(slot.page()) {
                // What follows moves here, so this place is looked at again.
                self.resident.pages -= 1;
                self.resident.clear(self.at);
                return Some(slot.page());
            }
            self.at += 1;
        }
        None
    }
}
