// SPDX-License-Identifier: GPL-2.0

//! How soon a device accesses a page again: what the size of a cache, or of a budget, has to be.

use svadma::uapi::Mode;

use crate::cache::ENTRIES;
use crate::figure::{Figure, Reuse};
use crate::loads::LOADS;
use crate::reuse::Distances;
use crate::session::Session;
use crate::{Emit, Result};

/// Runs all loads on the device, in mode `mirror`, and says how they use their pages.
///
/// # Errors
///
/// Something that should work did not.
pub fn measure(emit: Emit<'_>) -> Result {
    for (name, prepare) in LOADS {
        let mut session = Session::open(Mode::Mirror)?;
        let mut load = prepare(&session)?;
        let trace = session.traced(|session| load.run(session))?;
        let distances = Distances::of(&trace);
        let hits = |entries: u32| (entries, distances.hits(entries as usize));
        emit(Figure::Reuse(Reuse {
            load: name.into(),
            accesses: distances.accesses(),
            pages: distances.pages(),
            distances: distances.ranges(),
            hits: ENTRIES.into_iter().map(hits).collect(),
        }));
    }
    Ok(())
}
