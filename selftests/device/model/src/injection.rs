// SPDX-License-Identifier: GPL-2.0

//! Errors that the device makes because it was told to.

/// Which, and how often still.
#[derive(Debug, Default)]
pub(crate) struct Injection {
    /// Page responses to ignore.
    pub(crate) dropped_responses: u32,
    /// Page responses to delay.
    pub(crate) late_responses: u32,
    /// For how many milliseconds.
    pub(crate) late_ms: u32,
    /// Descriptors to damage.
    pub(crate) damaged_descriptors: u32,
    /// In which of their words.
    pub(crate) damaged_word: u32,
    /// Descriptors to carry out in another address space.
    pub(crate) foreign_pasids: u32,
    /// In which one.
    pub(crate) pasid: u32,
}

/// Takes one from a count. Returns whether there was one.
fn take(count: &mut u32) -> bool {
    match count.checked_sub(1) {
        Some(left) => {
            *count = left;
            true
        }
        None => false,
    }
}

/// What becomes of a page response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It takes effect.
    Now,
    /// After so many milliseconds.
    Late(u32),
    /// Never.
    Dropped,
}

impl Injection {
    /// Decides about the next page response.
    pub(crate) fn response(&mut self) -> Fate {
        if take(&mut self.dropped_responses) {
            Fate::Dropped
        } else if take(&mut self.late_responses) {
            Fate::Late(self.late_ms)
        } else {
            Fate::Now
        }
    }

    /// Damages the next descriptor.
    pub(crate) fn descriptor(&mut self, words: &mut [u32; 16]) {
        if take(&mut self.damaged_descriptors) {
            if let Some(word) = words.get_mut(self.damaged_word as usize) {
                *word = !*word;
            }
        }
    }

    /// With which PASID the next descriptor of a queue is carried out.
    pub(crate) fn pasid(&mut self, own: u32) -> u32 {
        if take(&mut self.foreign_pasids) {
            self.pasid
        } else {
            own
        }
    }
}
