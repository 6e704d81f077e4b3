// SPDX-License-Identifier: GPL-2.0

//! Pages of an address space.

/// log2 of the bytes in a page.
pub const SHIFT: u32 = 12;

/// The number of a page: an address divided by the size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page(pub u64);

impl Page {
    /// The highest number: addresses have 64 bits.
    pub const LAST: Self = Self(u64::MAX >> SHIFT);

    /// The page that has an address.
    pub const fn of(address: u64) -> Self {
        Self(address >> SHIFT)
    }

    /// The first address.
    pub const fn address(self) -> u64 {
        self.0 << SHIFT
    }

    /// The page `steps` further, if there is one.
    pub const fn offset(self, steps: i64) -> Option<Self> {
        match self.0.checked_add_signed(steps) {
            Some(number) if number <= Self::LAST.0 => Some(Self(number)),
            _ => None,
        }
    }

    /// How many pages further `other` is: negative if it is before.
    pub const fn distance(self, other: Self) -> i64 {
        // Both are below 2^52.
        other.0 as i64 - self.0 as i64
    }
}

/// Adjacent pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// The first.
    pub first: Page,
    /// How many.
    pub count: u64,
}

impl PageRange {
    /// One page.
    pub const fn one(page: Page) -> Self {
        Self {
            first: page,
            count: 1,
        }
    }

    /// The pages from one up to, not including, another.
    pub const fn between(first: Page, end: Page) -> Self {
        Self {
            first,
            count: end.0.saturating_sub(first.0),
        }
    }

    /// The number after that of the last page.
    pub const fn end(self) -> Page {
        Page(self.first.0.saturating_add(self.count))
    }

    /// Whether a page is among them.
    pub const fn contains(self, page: Page) -> bool {
        self.first.0 <= page.0 && page.0 < self.end().0
    }

    /// Those that are also in `other`.
    pub fn intersection(self, other: Self) -> Self {
        let first = self.first.max(other.first);

        Self::between(first, self.end().min(other.end()))
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The first `count` of them, or all.
    pub fn truncate(self, count: u64) -> Self {
        Self {
            count: self.count.min(count),
            ..self
        }
    }

    /// At most `count` of them, but all of `core`, which is among them: the last go first.
    pub fn shrink_about(self, core: Self, count: u64) -> Self {
        let count = self.count.min(count.max(core.count));
        let first = core.end().0.saturating_sub(count).max(self.first.0);

        Self {
            first: Page(first),
            count,
        }
    }

    /// All of them, in ascending order.
    pub fn pages(self) -> impl Iterator<Item = Page> {
        (self.first.0..self.end().0).map(Page)
    }
}

/// What a device wants to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read.
    Read,
    /// Write, and read.
    Write,
}

/// Joins pages that follow each other into ranges.
pub struct Runs<I> {
    pages: I,
    next: Option<PageRange>,
}

impl<I: Iterator<Item = Page>> Runs<I> {
    /// The runs of what an iterator yields.
    pub fn new(mut pages: I) -> Self {
        let next = pages.next().map(PageRange::one);

        Self { pages, next }
    }
}

impl<I: Iterator<Item = Page>> Iterator for Runs<I> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let mut run = self.next.take()?;

        for page in self.pages.by_ref() {
            if page != run.end() {
                self.next = Some(PageRange::one(page));
                break;
            }
            run.count += 1;
        }
        Some(run)
    }
}
