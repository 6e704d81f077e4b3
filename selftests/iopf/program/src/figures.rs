// SPDX-License-Identifier: GPL-2.0

//! What `iopf-bench` counts is what it should be. Times are not looked at.

use iopf_bench::figure::{Figure, Load, Loss, Pass};
use iopf_bench::loss::{self, Settings, Taken};
use iopf_bench::{modes, Extent};
use svadma::abi::StreamMode;
use svadma::uapi::Mode;

use crate::case::{expect, passed, same, Case, Outcome, Result};

/// All of them.
pub const CASES: [Case; 3] = [
    ("counts", |mode| passed(counts(mode))),
    ("stream held back, pages taken", |mode| {
        in_mirror(mode, held_back)
    }),
    ("stream that loses, pages taken", |mode| {
        in_mirror(mode, losing)
    }),
];

/// Pages of a mebibyte.
const PAGES_PER_MIB: u64 = 256;

/// A case about what is measured in this mode alone.
fn in_mirror(mode: Mode, case: fn() -> Result) -> Result<Outcome> {
    match mode {
        Mode::Mirror => passed(case()),
        _ => Ok(Outcome::Skipped("measured in mirror only".into())),
    }
}

/// What streams, random accesses and changes of the process lead to.
fn counts(mode: Mode) -> Result {
    let mut passes: Vec<Pass> = Vec::new();
    modes::turn_of(mode, Extent::Short, 1, &mut |figure| {
        if let Figure::Pass(pass) = figure {
            passes.push(pass);
        }
    })?;
    let of = |load| {
        let mut found = passes.iter().filter(move |pass| pass.load == load);
        found.next().ok_or("a load is missing")
    };
    for pass in &passes {
        expect(
            pass.elapsed_ns > 0,
            format_args!("{:?} has taken no time", pass.load),
        )?;
    }
    for load in [Load::StreamAgain, Load::RandomAgain] {
        same("faults of what was touched", of(load)?.groups, 0)?;
    }

    let (first, random, hot) = (
        of(Load::StreamFirst)?,
        of(Load::RandomFirst)?,
        of(Load::HotCold)?,
    );
    println!(
        "# {} faults for {} pages in a row, {} pages mapped for {} anywhere, {} held of {}",
        first.groups,
        first.used_pages,
        random.mapped_pages,
        random.used_pages,
        hot.held_pages,
        hot.area_pages
    );
    match mode {
        Mode::Sva => {
            same("faults of a stream", first.groups, first.used_pages)?;
            same("pages held", hot.held_pages, 0)?;
            // Of memory that the device does not know, too.
            expect(
                of(Load::UnmapUnused)?.invalidations > 0,
                "the device was told of no change",
            )
        }
        Mode::Pinned => {
            same("faults of a stream", first.groups, 0)?;
            expect(
                hot.held_pages >= hot.area_pages,
                "less is pinned than the device may use",
            )?;
            same("changes", of(Load::DiscardUsed)?.invalidations, 0)
        }
        _ => {
            expect(
                first.groups * PAGES_PER_MIB <= 4 * first.used_pages,
                format_args!("{} faults for {} pages", first.groups, first.used_pages),
            )?;
            expect(
                random.mapped_pages <= 2 * random.used_pages,
                format_args!("{} pages for {}", random.mapped_pages, random.used_pages),
            )?;
            expect(
                hot.held_pages * modes::OVERCOMMIT as u64 <= hot.area_pages,
                format_args!("{} pages held of {}", hot.held_pages, hot.area_pages),
            )?;
            expect(
                hot.groups * 4 <= hot.accesses,
                format_args!("{} faults in {} accesses", hot.groups, hot.accesses),
            )?;
            let unknown = of(Load::UnmapUnused)?.invalidations;
            same("changes of what the device does not know", unknown, 0)?;
            let known = of(Load::DiscardUsed)?;
            same("changes", known.invalidations, known.accesses)
        }
    }
}

/// Whether all frames were sent, and each is either in memory or counted as lost.
fn complete(settings: Settings) -> Result<Loss> {
    let loss = loss::receive(settings)?;
    println!(
        "# {} bytes/ms: {} of {} frames, {} missing pages",
        loss.bytes_per_ms, loss.delivered, loss.sent, loss.groups
    );
    same("sent", loss.sent, settings.frames.into())?;
    same("received", loss.received, loss.delivered)?;
    same("lost", loss.dropped, loss.sent - loss.delivered)?;
    expect(loss.groups > 0, "no page was missing")?;
    Ok(loss)
}

/// Nothing is lost at any rate, whether pages are missing now and then or all the time.
fn held_back() -> Result {
    for taken in [Taken::Every(128), Taken::ByBudget] {
        for bytes_per_ms in [10_000, 1_000_000, 1_000_000_000] {
            let loss = complete(Settings {
                taken,
                mode: StreamMode::Cooperate,
                bytes_per_ms,
                buffer_bytes: 16 << 10,
                late_ms: 2,
                frames: 512,
            })?;
            same("lost", loss.dropped, 0)?;
        }
    }
    Ok(())
}

/// More arrives while a page is missing than the device can keep.
fn losing() -> Result {
    let loss = complete(Settings {
        taken: Taken::Every(128),
        mode: StreamMode::Drop,
        bytes_per_ms: 100_000,
        buffer_bytes: 16 << 10,
        late_ms: 20,
        frames: 4096,
    })?;
    expect(loss.dropped > 0, "nothing was lost")
}
