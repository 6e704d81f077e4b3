// SPDX-License-Identifier: GPL-2.0

//! Scatter-gather lists.

use crate::strategy::address::{Buffer, Iova};
use crate::strategy::list::{Joiner, List, Segment};

/// An entry of a list.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What the driver wants mapped.
    pub buffer: Buffer,
    /// The segment that the device has instead: where, and how many bytes. The first entries have all of them.
    pub segment: Option<(Iova, u64)>,
}

impl Segment for Entry {
    fn buffer(&self) -> Buffer {
        self.buffer
    }

    fn assign(&mut self, iova: Iova) {
        self.segment = Some((iova, self.buffer.len));
    }

    fn assigned(&self) -> (Iova, u64) {
        self.segment.expect("a segment was assigned no address")
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct SgList(pub Vec<Entry>);

impl SgList {
    /// A list of buffers that are not mapped.
    pub fn new(buffers: impl IntoIterator<Item = Buffer>) -> Self {
        Self(
            buffers
                .into_iter()
                .map(|buffer| Entry {
                    buffer,
                    segment: None,
                })
                .collect(),
        )
    }

    /// Where the device finds each buffer: the segments, one after the other, are all of them.
    pub fn found(&self) -> Vec<(Iova, Buffer)> {
        let mut segments = self.0.iter().map_while(|entry| entry.segment);
        let (mut at, mut left) = (Iova(0), 0);
        let mut found = Vec::new();

        for buffer in self.0.iter().map(|entry| entry.buffer) {
            if left == 0 {
                (at, left) = segments
                    .next()
                    .expect("a list was mapped, but not all of it");
            }
            assert!(buffer.len <= left, "{buffer:x?} is not in one segment");
            found.push((at, buffer));
            at.0 += buffer.len;
            left -= buffer.len;
        }
        assert!(
            left == 0 && segments.next().is_none(),
            "more was mapped than there is"
        );
        found
    }
}

impl List for SgList {
    type Segment = Entry;

    fn segments(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }

    fn entries(&self) -> usize {
        self.0.len()
    }

    fn assigned(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0
            .iter_mut()
            .take_while(|entry| entry.segment.is_some())
    }

    fn join(&mut self, mut joiner: Joiner) {
        let mut joined = Vec::new();

        for entry in &mut self.0 {
            let (iova, len) = entry.segment.take().expect("joined before it was mapped");

            joined.extend(joiner.push(iova, len));
        }
        joined.extend(joiner.finish());
        for (entry, segment) in self.0.iter_mut().zip(joined) {
            entry.segment = Some(segment);
        }
    }
}
