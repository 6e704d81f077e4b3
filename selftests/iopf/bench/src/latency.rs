// SPDX-License-Identifier: GPL-2.0

//! What it costs that pages are missing, by how many are and how long it takes to bring one in.

use svadma::abi::{Counter, Descriptor};
use svadma::area::{Area, PAGE};
use svadma::uapi::Mode;

use crate::figure::{Figure, Wait};
use crate::random::Random;
use crate::session::{fill, timed, Registers, Session};
use crate::{Emit, Result};

/// Pages that are missing, in a thousand.
const MISSING: [usize; 8] = [0, 5, 10, 20, 50, 100, 200, 500];
/// How late answers are, in milliseconds.
const LATE_MS: [u32; 5] = [0, 1, 2, 5, 10];
/// Requests that are under way at once.
const CONSUMERS: [usize; 2] = [1, 8];
/// How often each is measured.
const TRIES: u32 = 3;
/// Requests in all.
const ACCESSES: usize = 400;
/// Pages for one that is accessed: too far apart for a stream.
const SPREAD: usize = 97;

/// Measures each share of missing pages with each delay, in mode `mirror`.
///
/// # Errors
///
/// Something that should work did not.
pub fn measure(emit: Emit<'_>) -> Result {
    let mut registers = Registers::new()?;
    for consumers in CONSUMERS {
        for missing in MISSING {
            for late_ms in LATE_MS {
                let mut tries = Vec::new();
                for _ in 0..TRIES {
                    tries.push(wait(&mut registers, consumers, missing, late_ms)?);
                }
                // A CPU that has nothing to do makes counted time jump, so all that is too long is
                // noise.
                let shortest = tries.into_iter().min_by_key(|wait| wait.elapsed_ns);
                emit(Figure::Wait(shortest.ok_or("nothing was tried")?));
            }
        }
    }
    Ok(())
}

fn wait(registers: &mut Registers, consumers: usize, missing: usize, late_ms: u32) -> Result<Wait> {
    registers.delay_answers(0)?;
    let open = |_| Session::open(Mode::Mirror);
    let mut sessions = (0..consumers).map(open).collect::<Result<Vec<_>>>()?;
    let area = Area::new(ACCESSES * SPREAD)?;
    let order = Random::new(6).permutation(ACCESSES);
    let request = |access: usize| fill(area.address(access * SPREAD), PAGE);
    // Whose turn it is goes by the place in the order, which of them are missing by the number.
    let turns = || {
        order
            .iter()
            .enumerate()
            .map(|(turn, access)| (turn % consumers, *access))
    };
    for (whose, access) in turns() {
        if access * 1000 >= missing * ACCESSES {
            sessions[whose].carry_out(request(access))?;
        }
    }
    let groups = |sessions: &[Session]| -> u64 {
        let counts = sessions
            .iter()
            .map(|it| it.consumer().count(Counter::PageGroups));
        counts.sum()
    };
    let before = groups(&sessions);
    registers.delay_answers(late_ms)?;
    let mut shares = vec![Vec::new(); consumers];
    for (whose, access) in turns() {
        shares[whose].push(request(access));
    }
    let took = timed(|| together(&mut sessions, shares))?;
    registers.delay_answers(0)?;
    Ok(Wait {
        consumers: u32::try_from(consumers)?,
        late_ms,
        accesses: ACCESSES as u64,
        groups: groups(&sessions) - before,
        elapsed_ns: took.elapsed_ns,
    })
}

/// Has each consumer carry out its requests, one after the other, and all consumers at once.
fn together(sessions: &mut [Session], shares: Vec<Vec<Descriptor>>) -> Result {
    std::thread::scope(|scope| {
        let spawned: Vec<_> = sessions
            .iter_mut()
            .zip(shares)
            .map(|(session, share)| {
                scope.spawn(move || {
                    let mut share = share.into_iter();
                    let done = share.try_for_each(|request| session.carry_out(request));
                    done.map_err(|error| error.to_string())
                })
            })
            .collect();
        spawned
            .into_iter()
            .try_for_each(|thread| Ok(thread.join().map_err(|_| "a consumer died")??))
    })
}
