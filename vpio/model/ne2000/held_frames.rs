// SPDX-License-Identifier: GPL-2.0

//! Frames for a guest whose ring has no room for them.

use core::ops::DerefMut;

use super::{
    super::frame::Frame,
    context::Received, //
};

/// Bytes in front of each frame: its length.
const LENGTH_BYTES: usize = 2;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// The guest has it, or does not want it.
    Done(Received),
    /// It waits behind those that came before it.
    Held,
    /// There was no room for it here either. It is counted.
    Lost,
}

/// A queue of frames in a fixed number of bytes, each with its length of 2 bytes.
///
/// A frame lies in one piece. So there are up to two runs of frames: one that ends where the next
/// frame did not fit any more, and one at the start of the storage.
#[derive(Debug)]
pub struct HeldFrames<S> {
    storage: S,
    /// Where the first frame is.
    start: usize,
    /// Where the run of the first frame ends.
    end: usize,
    /// Where the other run ends, which begins at 0.
    wrapped_end: usize,
    frames: u32,
    lost: u64,
}

impl<S: DerefMut<Target = [u8]>> HeldFrames<S> {
    /// None are held. There will be room for frames of as many bytes as `storage` has, or less at
    /// its end.
    pub const fn new(storage: S) -> Self {
        Self {
            storage,
            start: 0,
            end: 0,
            wrapped_end: 0,
            frames: 0,
            lost: 0,
        }
    }

    /// Number of frames.
    pub const fn len(&self) -> u32 {
        self.frames
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// How many frames found no room, ever.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Forgets all frames: the guest is gone, or was reset.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.wrapped_end = 0;
        self.frames = 0;
    }

    /// A frame comes for the guest, to which `receive` gives one. It gets those that are held first.
    pub fn hand(
        &mut self,
        frame: &Frame<'_>,
        mut receive: impl FnMut(&Frame<'_>) -> Received,
    ) -> Handed {
        self.deliver(&mut receive);
        if self.is_empty() {
            match receive(frame) {
                Received::Full => (),
                received => return Handed::Done(received),
            }
        }
        self.hold(frame)
    }

    /// A frame comes for the guest, which cannot get one now.
    pub fn hold(&mut self, frame: &Frame<'_>) -> Handed {
        if self.push(frame).is_some() {
            Handed::Held
        } else {
            self.lost = self.lost.saturating_add(1);
            Handed::Lost
        }
    }

    /// Gives what is held to the guest, until its ring is full. Answers how many frames are done
    /// with.
    pub fn deliver(&mut self, mut receive: impl FnMut(&Frame<'_>) -> Received) -> u32 {
        let before = self.frames;

        while let Some(frame) = self.first() {
            let bytes = LENGTH_BYTES.saturating_add(frame.size().into());

            if receive(&frame) == Received::Full {
                break;
            }
            self.pop(bytes);
        }
        before.saturating_sub(self.frames)
    }

    /// Appends a frame; [`None`] if there is no room.
    fn push(&mut self, frame: &Frame<'_>) -> Option<()> {
        let bytes = LENGTH_BYTES.checked_add(frame.size().into())?;
        let at = self.reserve(bytes)?;
        let record = frame.size().to_le_bytes().into_iter().chain(frame.bytes());

        for (to, from) in self.storage.iter_mut().skip(at).take(bytes).zip(record) {
            *to = from;
        }
        self.frames = self.frames.saturating_add(1);
        Some(())
    }

    /// A place for so many bytes in one piece.
    fn reserve(&mut self, bytes: usize) -> Option<usize> {
        let at = if self.wrapped_end != 0 {
            self.wrapped_end
        } else {
            self.end
        };
        let end = at.checked_add(bytes)?;

        if self.wrapped_end != 0 {
            if end > self.start {
                return None;
            }
            self.wrapped_end = end;
        } else if end <= self.storage.len() {
            self.end = end;
        } else if bytes <= self.start {
            self.wrapped_end = bytes;
            return Some(0);
        } else {
            return None;
        }
        Some(at)
    }

    /// The first frame.
    fn first(&self) -> Option<Frame<'_>> {
        if self.is_empty() {
            return None;
        }

        let record = self.storage.get(self.start..self.end)?;
        let (length, bytes) = record.split_first_chunk()?;

        Frame::new(bytes.get(..u16::from_le_bytes(*length).into())?)
    }

    /// Drops the first frame, which takes so many bytes.
    fn pop(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes);
        self.frames = self.frames.saturating_sub(1);
        if self.start >= self.end {
            self.start = 0;
            self.end = self.wrapped_end;
            self.wrapped_end = 0;
        }
    }
}
