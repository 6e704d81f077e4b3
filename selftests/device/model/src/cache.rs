// SPDX-License-Identifier: GPL-2.0

//! The translation cache on the device (PCIe 6.0, 10.2: ATC).
//!
//! Set-associative over pages of 4 KiB, whatever the size of the host's. Which set a page belongs
//! to depends on its address and its PASID, so that processes of the same layout do not all meet in
//! the same sets.

use crate::abi::{Replacement, CACHE_ENTRIES_MAX};
use crate::host::{Access, Permissions};

/// The number of entries, and how they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    entries: u32,
    ways: u32,
    replacement: Replacement,
}

/// What is wrong with a geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// There are too many entries.
    Entries,
    /// The ways do not divide the entries, or there are none.
    Ways,
}

impl Geometry {
    /// 256 entries in sets of 4: what a device without any settings has. As large as the
    /// second-level TLB of a small core.
    pub const DEFAULT: Self = Self {
        entries: 256,
        ways: 4,
        replacement: Replacement::LeastRecentlyUsed,
    };

    /// `entries` in sets of `ways`. With no entries, the ways do not matter.
    ///
    /// # Errors
    ///
    /// More than [`CACHE_ENTRIES_MAX`] entries, or ways that do not divide them.
    pub fn new(entries: u32, ways: u32, replacement: Replacement) -> Result<Self, GeometryError> {
        if entries > CACHE_ENTRIES_MAX {
            return Err(GeometryError::Entries);
        }
        if entries != 0 && (ways == 0 || entries % ways != 0) {
            return Err(GeometryError::Ways);
        }
        Ok(Self {
            entries,
            ways,
            replacement,
        })
    }

    /// Number of entries.
    pub fn entries(self) -> u32 {
        self.entries
    }

    /// Entries of a set.
    pub fn ways(self) -> u32 {
        self.ways
    }

    /// Which entry of a full set gives way.
    pub fn replacement(self) -> Replacement {
        self.replacement
    }
}

/// What the cache knows of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address space.
    pub pasid: u32,
    /// Number of the page in it.
    pub page: u64,
    /// Where it is on the bus.
    pub target: u64,
    /// What may be done there.
    pub permissions: Permissions,
}

struct Slot {
    entry: Entry,
    /// When it was brought in, as the cache counts its events.
    since: u64,
    /// When it was last used.
    used: u64,
    /// For the hand of the clock: used since that has passed.
    referenced: bool,
}

/// The cache.
pub struct TranslationCache {
    geometry: Geometry,
    slots: Vec<Option<Slot>>,
    /// One for each set: the way at which the hand stands.
    hands: Vec<u32>,
    /// Counts lookups and insertions.
    event: u64,
    random: u64,
}

impl TranslationCache {
    /// An empty one.
    pub fn new(geometry: Geometry) -> Self {
        let sets = geometry.entries.checked_div(geometry.ways).unwrap_or(0);
        Self {
            geometry,
            slots: (0..geometry.entries).map(|_| None).collect(),
            hands: vec![0; sets as usize],
            event: 0,
            // Any number but 0; always the same, so that a run can be repeated.
            random: 0x2545_f491_4f6c_dd1d,
        }
    }

    /// Its shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many entries are in use.
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn set_of(&self, pasid: u32, page: u64) -> Option<usize> {
        let sets = self.hands.len() as u64;
        // Never larger than the number of sets.
        (sets != 0).then(|| (page.wrapping_add(u64::from(pasid)) % sets) as usize)
    }

    fn ways(&self, set: usize) -> core::ops::Range<usize> {
        let ways = self.geometry.ways as usize;
        set * ways..(set + 1) * ways
    }

    /// Where on the bus `page` is, for `access`.
    pub fn find(&mut self, pasid: u32, page: u64, access: Access) -> Option<u64> {
        let ways = self.ways(self.set_of(pasid, page)?);
        self.event += 1;
        let slot = self.slots[ways].iter_mut().flatten().find(|slot| {
            slot.entry.page == page
                && slot.entry.pasid == pasid
                && slot.entry.permissions.allow(access)
        })?;
        slot.used = self.event;
        slot.referenced = true;
        Some(slot.entry.target)
    }

    /// Keeps `entry`, in place of what was known of its page. Returns whether another one gave way.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let Some(set) = self.set_of(entry.pasid, entry.page) else {
            return false;
        };
        self.event += 1;
        let known = |slot: &Option<Slot>| {
            slot.as_ref().is_some_and(|slot| {
                slot.entry.page == entry.page && slot.entry.pasid == entry.pasid
            })
        };
        let ways = self.ways(set);
        let first = ways.start;
        let slots = &self.slots[ways];
        let place = slots.iter().position(known);
        let place = place.or_else(|| slots.iter().position(Option::is_none));
        let (place, evicted) = match place {
            Some(place) => (place, false),
            None => (self.victim(set), true),
        };
        self.slots[first + place] = Some(Slot {
            entry,
            since: self.event,
            used: self.event,
            referenced: true,
        });
        evicted
    }

    /// The way of a full set that gives way.
    fn victim(&mut self, set: usize) -> usize {
        let ways = self.ways(set);
        let slots = &mut self.slots[ways];
        let oldest = |age: fn(&Slot) -> u64| {
            let ages = slots.iter().map(|slot| slot.as_ref().map_or(0, age));
            let oldest = ages.enumerate().min_by_key(|(_, age)| *age);
            oldest.map_or(0, |(way, _)| way)
        };
        match self.geometry.replacement {
            Replacement::LeastRecentlyUsed => oldest(|slot| slot.used),
            Replacement::FirstInFirstOut => oldest(|slot| slot.since),
            Replacement::Random => {
                // Marsaglia's xorshift with the shifts 13, 7, 17.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                (self.random % slots.len() as u64) as usize
            }
            Replacement::Clock => {
                let hand = &mut self.hands[set];
                loop {
                    let way = *hand as usize;
                    *hand = (*hand + 1) % self.geometry.ways;
                    match &mut slots[way] {
                        Some(slot) if slot.referenced => slot.referenced = false,
                        _ => return way,
                    }
                }
            }
        }
    }

    /// Forgets the pages from `first` to `last`. Returns how many were there.
    pub fn invalidate(&mut self, pasid: u32, first: u64, last: u64) -> u64 {
        let mut count = 0;
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|slot| {
                slot.entry.pasid == pasid && (first..=last).contains(&slot.entry.page)
            }) {
                *slot = None;
                count += 1;
            }
        }
        count
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots.fill_with(|| None);
    }
}
