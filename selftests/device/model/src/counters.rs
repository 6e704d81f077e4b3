// SPDX-License-Identifier: GPL-2.0

//! Sums of what has happened.

use crate::abi::Counter;

/// One number for each [`Counter`].
#[derive(Clone, Debug)]
pub struct Counters {
    values: [u64; Counter::ALL.len()],
}

impl Counters {
    /// Nothing has happened.
    pub const fn new() -> Self {
        Self {
            values: [0; Counter::ALL.len()],
        }
    }

    /// What `counter` stands at.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// `count` more.
    pub fn add(&mut self, counter: Counter, count: u64) {
        let value = &mut self.values[counter as usize];
        *value = value.wrapping_add(count);
    }

    /// It was `value` once.
    pub fn raise(&mut self, counter: Counter, value: u64) {
        let most = &mut self.values[counter as usize];
        *most = value.max(*most);
    }

    /// What both have counted.
    pub fn include(&mut self, other: &Self) {
        for counter in Counter::ALL {
            match counter {
                Counter::ResponseNsMax | Counter::StreamBufferedMax => {
                    self.raise(*counter, other.get(*counter));
                }
                _ => self.add(*counter, other.get(*counter)),
            }
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
