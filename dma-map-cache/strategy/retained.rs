// SPDX-License-Identifier: GPL-2.0

//! Pages that their owner keeps for long, and says so: `dma_retain()`.
//!
//! A packet pool, or the registered buffers of a storage stack, are mapped again and again. While
//! such pages are retained they stay mapped, whatever the strategy, so that each map of them is a
//! hit: a retention is a use that no driver ends, in the windows of [`counted`](super::counted). The
//! device can reach them all the time; that is what their owner asks for, within a budget. When the
//! owner releases them they are withdrawn, with a flush.
//!
//! The grants that a guest keeps for the life of a buffer in *Utilizing IOMMUs for Virtualization in
//! Linux and Xen*, OLS 2006.

use super::{
    address::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    backend::{
        Access,
        Backend, //
    },
    counted::NotRetained,
    engine::{
        Engine,
        Reach, //
    },
    list::Segment,
    tunable::{
        Range,
        Tunable, //
    },
};

/// What a user can set of retention.
pub struct Retained {
    /// Bytes that owners may retain. 64 MiB by default, as much as `cached` may keep on its own; 0
    /// lets nobody retain anything.
    pub budget_bytes: Tunable,
}

impl Retained {
    /// With the default.
    pub const fn new() -> Self {
        Self {
            budget_bytes: Tunable::new(Range {
                min: 0,
                max: 1 << 40,
                step: PAGE_SIZE,
                default: 64 << 20,
            }),
        }
    }
}

impl Default for Retained {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Engine<B> {
    /// Keeps all buffers mapped until [`Engine::release_retained`], or none.
    ///
    /// # Errors
    ///
    /// None is retained then.
    pub fn retain<S: Segment>(
        &self,
        backend: &B,
        buffers: &[S],
        access: Access,
        reach: Reach,
    ) -> Result<(), NotRetained> {
        if !self.trusted {
            return Err(NotRetained::Distrusted);
        }

        let pages = buffers
            .iter()
            .map(|buffer| buffer.buffer().pages())
            .fold(0, u64::saturating_add);
        let budget = self.retained.budget_bytes.get() >> PAGE_SHIFT;

        // Owners that come at the same moment may both find room, and exceed the budget by what one
        // of them wants.
        if pages > budget.saturating_sub(self.counted.retained_pages()) {
            return Err(NotRetained::OverBudget);
        }

        for (n, buffer) in buffers.iter().enumerate() {
            let result = self
                .counted
                .retain(backend, buffer.buffer(), access, reach.limit);

            if let Err(error) = result {
                self.release_retained(backend, buffers.get(..n).unwrap_or_default(), access);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends what [`Engine::retain`] began for these buffers, in any grouping. What the driver does
    /// not use at this moment is unreachable when this returns.
    pub fn release_retained<S: Segment>(&self, backend: &B, buffers: &[S], access: Access) {
        for buffer in buffers {
            self.counted.end_retention(backend, buffer.buffer(), access);
        }
    }
}
