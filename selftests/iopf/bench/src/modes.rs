// SPDX-License-Identifier: GPL-2.0

//! The three modes side by side: who walks, who synchronizes, and what is kept for the device.

use svadma::abi::Counter;
use svadma::area::{Area, PAGE};
use svadma::uapi::Mode;

use crate::figure::{Figure, Load, Pass};
use crate::random::Random;
use crate::session::{fill, resident_pages, statistic, timed, Duration, Session, Setting, MODES};
use crate::{Emit, Extent, Result};

/// Pages of a request of a stream: a mebibyte.
const STREAM_REQUEST: usize = 256;
/// Bytes of a request anywhere.
const RANDOM_BYTES: usize = 64;
/// One in so many pages is hot, one in so many accesses is to another one.
const HOT: usize = 10;
/// Pages of memory for one that the budget has room for.
pub const OVERCOMMIT: usize = 4;
/// Parts of single accesses whose times are taken, each large enough to have what happens now and then,
/// such as evictions.
const PARTS: usize = 8;
/// How often a stream is repeated: it is short.
const REPEATS: usize = 8;
/// How often consumers in all modes take turns.
const TURNS: usize = 32;
/// Pages that the process maps and unmaps at once.
const CHANGE: usize = 16;
/// How often it does.
const CHANGES: usize = 32;

/// How many pages and accesses there are.
struct Size {
    stream: usize,
    random_area: usize,
    random: usize,
    set: usize,
    hot_cold: usize,
}

impl Size {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Short => Self {
                stream: 4 * STREAM_REQUEST,
                random_area: 4096,
                random: 256,
                set: 1024,
                hot_cold: 2048,
            },
            Extent::Full => Self {
                stream: 8 * STREAM_REQUEST,
                random_area: 16_384,
                random: 1024,
                set: 4096,
                hot_cold: 8192,
            },
        }
    }
}

/// Runs all loads in all modes, which take turns.
///
/// # Errors
///
/// Something that should work did not.
pub fn measure(extent: Extent, rounds: u32, emit: Emit<'_>) -> Result {
    for round in 1..=rounds {
        for turn in 0..MODES.len() {
            let (_, mode) = MODES[(turn + round as usize - 1) % MODES.len()];
            turn_of(mode, extent, round, emit)?;
        }
        in_turns(extent, round, emit)?;
    }
    Ok(())
}

/// Runs all loads in one mode.
///
/// # Errors
///
/// Something that should work did not.
pub fn turn_of(mode: Mode, extent: Extent, round: u32, emit: Emit<'_>) -> Result {
    let named = MODES.into_iter().find(|(_, other)| *other == mode);
    let (name, _) = named.ok_or("a mode without a name")?;
    let mut meter = Meter { name, mode, round };
    let size = Size::of(extent);
    for load in [stream, random, hot_cold, changes] {
        load(&mut meter, &size, emit)?;
    }
    Ok(())
}

/// What has happened so far.
struct State {
    groups: u64,
    requests: u64,
    mapped: u64,
    evicted: u64,
    invalidations: u64,
    resident: u64,
}

/// Whose turn it is.
struct Meter {
    name: &'static str,
    mode: Mode,
    round: u32,
}

impl Meter {
    fn state(session: &Session) -> Result<State> {
        let count = |counter| session.consumer().count(counter);
        Ok(State {
            groups: count(Counter::PageGroups),
            requests: count(Counter::PageRequests),
            mapped: statistic("mapped_pages")?,
            evicted: statistic("evicted_pages")?,
            invalidations: session.device_count(Counter::Invalidations)?,
            resident: resident_pages()?,
        })
    }

    /// A pass of what has happened since `before`, that took so long to prepare and to do.
    fn pass(
        &self,
        session: &Session,
        load: Load,
        before: &State,
        (setup, took): (Duration, Duration),
    ) -> Result<Pass> {
        let now = Self::state(session)?;
        let requests = now.requests - before.requests;
        Ok(Pass {
            mode: self.name.into(),
            load,
            round: self.round,
            accesses: 0,
            area_pages: 0,
            used_pages: 0,
            setup_ns: setup.elapsed_ns,
            setup_busy_ns: setup.busy_ns,
            elapsed_ns: took.elapsed_ns,
            busy_ns: took.busy_ns,
            groups: now.groups - before.groups,
            requests,
            mapped_pages: match self.mode {
                Mode::Sva => requests,
                _ => now.mapped - before.mapped,
            },
            evicted_pages: now.evicted - before.evicted,
            invalidations: now.invalidations - before.invalidations,
            held_pages: statistic("pinned_pages")?,
            resident_pages: now.resident.saturating_sub(before.resident),
        })
    }

    /// Memory, with the time that it took to register it.
    fn area(&self, session: &Session, pages: usize) -> Result<(Area, Duration)> {
        let area = Area::new(pages)?;
        let setup = timed(|| session.register(&area, pages))?;
        let pinned = self.mode == Mode::Pinned;
        Ok((area, if pinned { setup } else { Duration::default() }))
    }
}

/// From the first page to the last.
fn stream_once(session: &mut Session, area: &Area, pages: usize) -> Result {
    for page in (0..pages).step_by(STREAM_REQUEST) {
        session.carry_out(fill(area.address(page), STREAM_REQUEST * PAGE))?;
    }
    Ok(())
}

/// Streams over memory that the device knows, in all modes, in turns.
fn in_turns(extent: Extent, round: u32, emit: Emit<'_>) -> Result {
    struct Turn {
        meter: Meter,
        session: Session,
        area: Area,
        held_pages: u64,
        parts: Vec<Duration>,
    }

    let pages = Size::of(extent).stream;
    let mut turns = Vec::new();
    for turn in 0..MODES.len() {
        // Whose interrupts go to which CPU is a matter of who came first, and costs more than anything.
        let (name, mode) = MODES[(turn + round as usize) % MODES.len()];
        let meter = Meter { name, mode, round };
        let held = statistic("pinned_pages")?;
        let mut session = Session::open(mode)?;
        let (area, _) = meter.area(&session, pages)?;
        stream_once(&mut session, &area, pages)?;
        turns.push(Turn {
            meter,
            session,
            area,
            held_pages: statistic("pinned_pages")?.saturating_sub(held),
            parts: Vec::new(),
        });
    }
    let before: Vec<State> = turns
        .iter()
        .map(|turn| Meter::state(&turn.session))
        .collect::<Result<_>>()?;
    for _ in 0..TURNS {
        for turn in &mut turns {
            turn.parts
                .push(timed(|| stream_once(&mut turn.session, &turn.area, pages))?);
        }
    }
    for (turn, before) in turns.iter().zip(&before) {
        let took = Duration::middle(&turn.parts);
        emit(Figure::Pass(Pass {
            accesses: (pages / STREAM_REQUEST) as u64,
            area_pages: pages as u64,
            used_pages: pages as u64,
            held_pages: turn.held_pages,
            ..turn.meter.pass(
                &turn.session,
                Load::StreamInTurns,
                before,
                (Duration::default(), took),
            )?
        }));
    }
    Ok(())
}

/// A stream, twice.
fn stream(meter: &mut Meter, size: &Size, emit: Emit<'_>) -> Result {
    let mut session = Session::open(meter.mode)?;
    let mut before = Meter::state(&session)?;
    let (area, mut setup) = meter.area(&session, size.stream)?;
    for load in [Load::StreamFirst, Load::StreamAgain] {
        let repeats = match load {
            Load::StreamFirst => 1,
            _ => REPEATS,
        };
        let mut parts = Vec::new();
        for _ in 0..repeats {
            parts.push(timed(|| stream_once(&mut session, &area, size.stream))?);
        }
        let took = Duration::middle(&parts);
        emit(Figure::Pass(Pass {
            accesses: (size.stream / STREAM_REQUEST) as u64,
            area_pages: size.stream as u64,
            used_pages: size.stream as u64,
            ..meter.pass(&session, load, &before, (std::mem::take(&mut setup), took))?
        }));
        before = Meter::state(&session)?;
    }
    Ok(())
}

/// A few pages out of many, twice.
fn random(meter: &mut Meter, size: &Size, emit: Emit<'_>) -> Result {
    let mut session = Session::open(meter.mode)?;
    let mut random = Random::new(1);
    let pages: Vec<usize> = random.permutation(size.random_area);
    let pages = &pages[..size.random];
    let mut before = Meter::state(&session)?;
    let (area, mut setup) = meter.area(&session, size.random_area)?;
    for load in [Load::RandomFirst, Load::RandomAgain] {
        let mut parts = Vec::new();
        for part in pages.chunks(size.random / PARTS) {
            parts.push(timed(|| {
                for page in part {
                    session.carry_out(fill(area.address(*page), RANDOM_BYTES))?;
                }
                Ok(())
            })?);
        }
        let took = Duration::of_equal(&parts);
        emit(Figure::Pass(Pass {
            accesses: size.random as u64,
            area_pages: size.random_area as u64,
            used_pages: size.random as u64,
            ..meter.pass(&session, load, &before, (std::mem::take(&mut setup), took))?
        }));
        before = Meter::state(&session)?;
    }
    Ok(())
}

/// Nine in ten accesses to a tenth of the pages, which the process has in memory.
fn hot_cold(meter: &mut Meter, size: &Size, emit: Emit<'_>) -> Result {
    let budget = (size.set / OVERCOMMIT * PAGE) as u64;
    let _budget = match meter.mode {
        Mode::Mirror => Some(Setting::new("binding_budget_bytes", budget)?),
        _ => None,
    };
    let mut session = Session::open(meter.mode)?;
    let resident = resident_pages()?;
    let (area, setup) = meter.area(&session, size.set)?;
    for page in 0..size.set {
        area.store(page * PAGE, 1);
    }
    let mut random = Random::new(2);
    let order = random.permutation(size.set);
    let (hot, cold) = order.split_at(size.set / HOT);
    let mut used = vec![false; size.set];
    let mut next = || {
        let part = match random.below(HOT as u64) {
            0 => cold,
            _ => hot,
        };
        // Not more than there are.
        let page = part[random.below(part.len() as u64) as usize];
        used[page] = true;
        page
    };

    for _ in 0..size.hot_cold / 2 {
        session.carry_out(fill(area.address(next()), RANDOM_BYTES))?;
    }
    let before = Meter::state(&session)?;
    let (mut parts, mut held_pages) = (Vec::new(), 0);
    for _ in 0..PARTS {
        parts.push(timed(|| {
            for _ in 0..size.hot_cold / PARTS {
                session.carry_out(fill(area.address(next()), RANDOM_BYTES))?;
            }
            Ok(())
        })?);
        held_pages = held_pages.max(statistic("pinned_pages")?);
    }
    emit(Figure::Pass(Pass {
        accesses: size.hot_cold as u64,
        area_pages: size.set as u64,
        used_pages: used.iter().filter(|used| **used).count() as u64,
        held_pages,
        resident_pages: resident_pages()?.saturating_sub(resident),
        ..meter.pass(
            &session,
            Load::HotCold,
            &before,
            (setup, Duration::of_equal(&parts)),
        )?
    }));
    Ok(())
}

/// What the process changes, with and without an effect on the device.
fn changes(meter: &mut Meter, _size: &Size, emit: Emit<'_>) -> Result {
    let mut session = Session::open(meter.mode)?;
    let pages = CHANGES * CHANGE;
    let (used, _) = meter.area(&session, pages)?;
    session.carry_out(fill(used.address(0), pages * PAGE))?;

    let mut emit_changes = |load, act: &dyn Fn() -> Result| -> Result {
        let before = Meter::state(&session)?;
        let took = timed(act)?;
        emit(Figure::Pass(Pass {
            accesses: CHANGES as u64,
            area_pages: pages as u64,
            used_pages: pages as u64,
            ..meter.pass(&session, load, &before, (Duration::default(), took))?
        }));
        Ok(())
    };
    emit_changes(Load::UnmapUnused, &|| {
        for _ in 0..CHANGES {
            let unused = Area::new(CHANGE)?;
            for page in 0..CHANGE {
                unused.store(page * PAGE, 1);
            }
        }
        Ok(())
    })?;
    emit_changes(Load::DiscardUsed, &|| {
        for page in (0..pages).step_by(CHANGE) {
            used.advise(page, CHANGE, libc::MADV_DONTNEED)?;
        }
        Ok(())
    })
}
