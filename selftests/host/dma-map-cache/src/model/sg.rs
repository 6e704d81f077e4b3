// SPDX-License-Identifier: GPL-2.0

//! Scatter-gather lists.

use crate::strategy::address::{Buffer, Iova};
use crate::strategy::list::{List, Segment};

/// An entry of a list.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What the driver wants mapped.
    pub buffer: Buffer,
    /// Where the device finds it.
    pub iova: Option<Iova>,
}

impl Segment for Entry {
    fn buffer(&self) -> Buffer {
        self.buffer
    }

    fn assign(&mut self, iova: Iova) {
        self.iova = Some(iova);
    }

    fn assigned(&self) -> (Iova, u64) {
        let iova = self.iova.expect("a segment was assigned no address");

        (iova, self.buffer.len)
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
                .map(|buffer| Entry { buffer, iova: None })
                .collect(),
        )
    }
}

impl List for SgList {
    type Segment = Entry;

    fn segments(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }
}
