// SPDX-License-Identifier: GPL-2.0

//! A stream of frames that arrives at a set rate, and the bounded buffer in which it waits.
//!
//! The content of a frame follows from its number, so that only numbers are kept.

use std::collections::VecDeque;

use crate::abi::{
    frame_word, Counter, StreamMode, FRAME_BYTES_MAX, FRAME_BYTES_MIN, STREAM_BUFFER_BYTES_MAX,
};
use crate::counters::Counters;

/// Nanoseconds of a millisecond.
const NS_PER_MS: u128 = 1_000_000;

/// How a stream behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens when the buffer is full.
    pub mode: StreamMode,
    /// Bytes of a frame.
    pub frame_bytes: u32,
    /// Bytes that arrive in a millisecond.
    pub bytes_per_ms: u32,
    /// Bytes of the buffer.
    pub buffer_bytes: u32,
    /// How many frames there are; 0: no end.
    pub frames: u32,
}

impl Settings {
    /// There is no stream, and nothing is said about one.
    pub const OFF: Self = Self {
        mode: StreamMode::Off,
        frame_bytes: 0,
        bytes_per_ms: 0,
        buffer_bytes: 0,
        frames: 0,
    };

    /// Whether a stream can be like that.
    pub fn are_valid(&self) -> bool {
        (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&self.frame_bytes)
            && self.frame_bytes % 8 == 0
            && self.bytes_per_ms != 0
            && (self.frame_bytes..=STREAM_BUFFER_BYTES_MAX).contains(&self.buffer_bytes)
    }

    /// Frames that fit in the buffer.
    fn capacity(&self) -> u64 {
        u64::from(self.buffer_bytes / self.frame_bytes.max(1))
    }

    /// What a frame takes of [`Stream::credit`].
    fn cost(&self) -> u128 {
        u128::from(self.frame_bytes) * NS_PER_MS
    }
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    settings: Settings,
    /// Numbers of the frames that wait, first come first.
    buffer: VecDeque<u64>,
    /// Number of the next frame to arrive.
    next: u64,
    /// What of it has arrived, in bytes times [`NS_PER_MS`]; at most a whole one.
    credit: u128,
    /// Up to when this is the state, in nanoseconds.
    time: u64,
}

impl Stream {
    /// None.
    pub fn off() -> Self {
        Self::new(Settings::OFF, 0)
    }

    /// One that starts at `now`. The settings have to be valid, unless the mode is off.
    pub fn new(settings: Settings, now: u64) -> Self {
        Self {
            settings,
            buffer: VecDeque::new(),
            next: 0,
            credit: 0,
            time: now,
        }
    }

    /// How it behaves.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.settings.mode != StreamMode::Off
    }

    /// Frames that are still to arrive.
    fn left(&self) -> u64 {
        match u64::from(self.settings.frames) {
            0 => u64::MAX,
            frames => frames - self.next,
        }
    }

    fn room(&self) -> u64 {
        let waiting = self.buffer.len() as u64;
        self.settings.capacity().saturating_sub(waiting)
    }

    /// Lets arrive what arrives until `now`.
    pub fn advance(&mut self, now: u64, counters: &mut Counters) {
        let elapsed = now.saturating_sub(self.time);
        self.time = now;
        if !self.is_on() {
            return;
        }
        let rate = u128::from(self.settings.bytes_per_ms);
        let cost = self.settings.cost();
        self.credit += u128::from(elapsed) * rate;
        let whole = u64::try_from(self.credit / cost).unwrap_or(u64::MAX);
        let arriving = whole.min(self.left());
        let taken = arriving.min(self.room());
        let arrived = match self.settings.mode {
            StreamMode::Drop => arriving,
            _ => taken,
        };

        self.buffer.extend(self.next..self.next + taken);
        self.next += arrived;
        counters.add(Counter::StreamArrived, arrived);
        counters.add(Counter::StreamDropped, arrived - taken);
        let buffered = self.buffer.len() as u64 * u64::from(self.settings.frame_bytes);
        counters.raise(Counter::StreamBufferedMax, buffered);

        self.credit -= u128::from(arrived) * cost;
        if self.left() == 0 {
            self.credit = 0;
        } else if self.credit > cost {
            // The next frame is at the door.
            let held = (self.credit - cost) / rate;
            counters.add(
                Counter::StreamHeldNs,
                u64::try_from(held).unwrap_or(u64::MAX),
            );
            self.credit = cost;
        }
    }

    /// When the next frame arrives, if one does without anything being taken before.
    pub fn next_arrival(&self) -> Option<u64> {
        if !self.is_on() || self.left() == 0 {
            return None;
        }
        if self.settings.mode == StreamMode::Cooperate && self.room() == 0 {
            return None;
        }
        let missing = self.settings.cost().saturating_sub(self.credit);
        let wait = missing.div_ceil(u128::from(self.settings.bytes_per_ms));
        Some(
            self.time
                .saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)),
        )
    }

    /// The frame that has waited longest. It stays where it is.
    pub fn front(&self) -> Option<u64> {
        self.buffer.front().copied()
    }

    /// That frame is delivered.
    pub fn pop(&mut self, counters: &mut Counters) {
        if self.buffer.pop_front().is_some() {
            counters.add(Counter::StreamDelivered, 1);
        }
    }
}

/// Fills `data` with what is in frame `frame` from byte `offset` on.
pub fn frame_content(frame: u64, offset: u64, data: &mut [u8]) {
    for (at, byte) in (offset..).zip(data) {
        let word = frame_word(frame, at / 8).to_le_bytes();
        *byte = word[(at % 8) as usize];
    }
}
