// SPDX-License-Identifier: GPL-2.0

//! The pages that a device has asked for in one group.
//!
//! A device may ask for the same page twice, for neighbours one by one, in any order. All of it is
//! resolved together and answered once, so it is put in order first.

use super::page::{
    Access,
    Page,
    PageRange, //
};

/// A page and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The page.
    pub page: Page,
    /// What for.
    pub access: Access,
}

/// There is no room for another page: resolve what is there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Requests, in ascending order, each page once.
pub struct Batch {
    requests: [Request; Self::CAPACITY],
    len: usize,
}

impl Batch {
    /// Most pages in a batch. Devices are given credit for 32 requests by Linux (`PRQ_DEPTH` of
    /// VT-d); with the last of a group that is the largest.
    pub const CAPACITY: usize = 33;

    /// No requests.
    pub const fn new() -> Self {
        Self {
            requests: [Request {
                page: Page(0),
                access: Access::Read,
            }; Self::CAPACITY],
            len: 0,
        }
    }

    /// Adds a request. That of a page that is there already becomes one for both.
    ///
    /// # Errors
    ///
    /// [`Full`]: nothing changed.
    pub fn add(&mut self, request: Request) -> Result<(), Full> {
        let at = match self
            .as_slice()
            .binary_search_by_key(&request.page, |known| known.page)
        {
            Ok(at) => {
                if let Some(known) = self.requests.get_mut(at) {
                    known.access = known.access.max(request.access);
                }
                return Ok(());
            }
            Err(at) => at,
        };

        if self.len == Self::CAPACITY {
            return Err(Full);
        }
        self.requests.copy_within(at..self.len, at + 1);
        if let Some(slot) = self.requests.get_mut(at) {
            *slot = request;
        }
        self.len += 1;
        Ok(())
    }

    /// The requests.
    pub fn as_slice(&self) -> &[Request] {
        self.requests.get(..self.len).unwrap_or(&[])
    }

    /// Adjacent pages that are wanted for the same, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = (PageRange, Access)> + '_ {
        self.as_slice()
            .chunk_by(|a, b| a.access == b.access && a.page.offset(1) == Some(b.page))
            .filter_map(|run| {
                let first = run.first()?;

                Some((
                    PageRange {
                        first: first.page,
                        count: run.len() as u64,
                    },
                    first.access,
                ))
            })
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}
