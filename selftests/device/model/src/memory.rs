// SPDX-License-Identifier: GPL-2.0

//! The way to the memory of an address space, by virtual address.
//!
//! The translation comes from the cache, or from the IOMMU and then into the cache; what has none
//! is a [`Miss`], and what comes of it, the caller decides. Only of address spaces that are
//! [attached](Memory::attach) anything is kept, because only of these the host tells when it
//! changes.

use std::collections::BTreeSet;

use crate::abi::{Counter, PAGE_BYTES};
use crate::cache::{Entry, Geometry, TranslationCache};
use crate::counters::Counters;
use crate::host::{Access, Host, Refused, Translation, TranslationRequest};

/// An access that could not be made. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// There is no translation that allows it.
    Page(Wanted),
    /// There is one, to no memory: the virtual address.
    Bus(u64),
}

/// A page that is needed, and how much of what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual address of the access.
    pub address: u64,
    /// What for.
    pub access: Access,
    /// Bytes from there that will be accessed next, one after the other; at least 1.
    pub ahead: u64,
}

impl Wanted {
    /// How many pages it is about, `most` at most and at least one.
    pub fn pages(&self, most: u32) -> u32 {
        let end = (self.address % PAGE_BYTES).saturating_add(self.ahead);
        u32::try_from(end.div_ceil(PAGE_BYTES)).map_or(most, |pages| pages.clamp(1, most.max(1)))
    }
}

/// Where an access is made, and what is known of those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address space.
    pub pasid: u32,
    /// Virtual address.
    pub address: u64,
    /// As in [`Wanted`].
    pub ahead: u64,
}

/// The way to memory.
pub struct Memory {
    cache: TranslationCache,
    /// Pages that a translation request asks for at most.
    window: u32,
    attached: BTreeSet<u32>,
    found: Vec<Translation>,
}

impl Memory {
    /// With an empty cache of this shape.
    pub fn new(geometry: Geometry) -> Self {
        Self {
            cache: TranslationCache::new(geometry),
            window: 1,
            attached: BTreeSet::new(),
            found: Vec::new(),
        }
    }

    /// The shape of the cache.
    pub fn geometry(&self) -> Geometry {
        self.cache.geometry()
    }

    /// Gives the cache another shape, which empties it.
    pub fn set_geometry(&mut self, geometry: Geometry) {
        self.cache = TranslationCache::new(geometry);
    }

    /// Pages that a translation request asks for at most.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Sets that.
    pub fn set_window(&mut self, pages: u32) {
        self.window = pages;
    }

    /// From now on, translations of `pasid` are kept.
    ///
    /// # Errors
    ///
    /// The host has refused it.
    pub fn attach(&mut self, host: &mut impl Host, pasid: u32) -> Result<(), Refused> {
        if !self.attached.contains(&pasid) {
            host.attach(pasid)?;
            self.attached.insert(pasid);
        }
        Ok(())
    }

    /// Keeps nothing of `pasid` any more.
    pub fn detach(&mut self, host: &mut impl Host, pasid: u32) {
        if self.attached.remove(&pasid) {
            self.cache.invalidate(pasid, 0, u64::MAX);
            host.detach(pasid);
        }
    }

    /// Those that are attached.
    pub fn attached(&self) -> impl Iterator<Item = u32> + '_ {
        self.attached.iter().copied()
    }

    /// The host says that the pages from `first` to `last` are no longer where they were. Returns
    /// how many of them were known.
    pub fn invalidate(&mut self, pasid: u32, first: u64, last: u64) -> u64 {
        self.cache.invalidate(pasid, first, last)
    }

    /// Reads `data`, which must not cross the end of the page that `place` is in.
    ///
    /// # Errors
    ///
    /// Nothing was read.
    pub fn read(
        &mut self,
        host: &mut impl Host,
        counters: &mut Counters,
        place: Place,
        data: &mut [u8],
    ) -> Result<(), Miss> {
        let target = self.translate(host, counters, place, Access::Read)?;
        host.read(target, data)
            .map_err(|_| Miss::Bus(place.address))
    }

    /// Writes `data`, which must not cross the end of the page that `place` is in.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn write(
        &mut self,
        host: &mut impl Host,
        counters: &mut Counters,
        place: Place,
        data: &[u8],
    ) -> Result<(), Miss> {
        let target = self.translate(host, counters, place, Access::Write)?;
        host.write(target, data)
            .map_err(|_| Miss::Bus(place.address))
    }

    /// Where on the bus `place` is.
    ///
    /// # Errors
    ///
    /// It is nowhere that may be `access`ed.
    pub fn translate(
        &mut self,
        host: &mut impl Host,
        counters: &mut Counters,
        place: Place,
        access: Access,
    ) -> Result<u64, Miss> {
        let page = place.address / PAGE_BYTES;
        let offset = place.address % PAGE_BYTES;
        if let Some(target) = self.cache.find(place.pasid, page, access) {
            counters.add(Counter::CacheHits, 1);
            return Ok(target + offset);
        }
        counters.add(Counter::CacheMisses, 1);
        let wanted = Wanted {
            address: place.address,
            access,
            ahead: place.ahead,
        };
        match self.ask(host, counters, place.pasid, wanted, self.window) {
            Some(target) => Ok(target + offset),
            None => Err(Miss::Page(wanted)),
        }
    }

    /// Where on the bus `place` is, past the cache, unless that may not be `access`ed.
    pub fn translate_uncached(
        &mut self,
        host: &mut impl Host,
        counters: &mut Counters,
        place: Place,
        access: Access,
    ) -> Option<u64> {
        let wanted = Wanted {
            address: place.address,
            access,
            ahead: place.ahead,
        };
        let target = self.ask(host, counters, place.pasid, wanted, 1)?;
        Some(target + place.address % PAGE_BYTES)
    }

    /// Asks the IOMMU, and keeps what it says about up to `window` pages. Returns where the first
    /// of them is.
    fn ask(
        &mut self,
        host: &mut impl Host,
        counters: &mut Counters,
        pasid: u32,
        wanted: Wanted,
        window: u32,
    ) -> Option<u64> {
        let first = wanted.address / PAGE_BYTES;
        let pages = wanted.pages(window);
        let kept = self.attached.contains(&pasid);

        self.found.clear();
        host.translate(
            TranslationRequest {
                pasid,
                address: first * PAGE_BYTES,
                pages,
                access: wanted.access,
            },
            &mut self.found,
        );
        counters.add(Counter::Translations, 1);

        let mut target = None;
        for translation in &self.found {
            let start = translation.address / PAGE_BYTES;
            let end = start.saturating_add(translation.bytes / PAGE_BYTES);
            let asked = first..first.saturating_add(pages.into());
            for page in start.max(asked.start)..end.min(asked.end) {
                let entry = Entry {
                    pasid,
                    page,
                    target: translation.target.wrapping_add((page - start) * PAGE_BYTES),
                    permissions: translation.permissions,
                };
                if page == first && translation.permissions.allow(wanted.access) {
                    target = Some(entry.target);
                }
                if kept && self.cache.insert(entry) {
                    counters.add(Counter::CacheEvictions, 1);
                }
            }
        }
        if target.is_none() {
            counters.add(Counter::TranslationsFailed, 1);
        }
        target
    }
}
