// SPDX-License-Identifier: GPL-2.0

//! Who runs.

use std::boxed::Box;
use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::thread_local;
use std::time::Duration;
use std::vec::Vec;

/// How long a thread may run until it comes to a [`point`]. Long, for the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a thread does.
pub type Body<'a> = Box<dyn FnOnce() + Send + 'a>;

thread_local! {
    static ME: RefCell<Option<(Arc<Scheduler>, usize)>> = const { RefCell::new(None) };
}

/// The order of events so far.
struct Turn {
    /// The thread that runs.
    current: usize,
    /// Those that have not ended.
    alive: Vec<usize>,
    random: u64,
    /// At one point in so many another thread goes on.
    stretch: u64,
}

impl Turn {
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % n
    }

    /// Gives the turn to any thread that is alive but `not`.
    fn pass(&mut self, not: usize) {
        let others: Vec<_> = self.alive.iter().copied().filter(|id| *id != not).collect();

        if !others.is_empty() {
            self.current = others[self.below(others.len() as u64) as usize];
        }
    }
}

struct Scheduler {
    turn: Mutex<Turn>,
    passed: Condvar,
}

impl Scheduler {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a thread.
    ///
    /// # Panics
    ///
    /// If it does not come: whoever runs waits for something that it must not wait for here.
    fn wait_for(&self, id: usize, turn: MutexGuard<'_, Turn>) {
        let (turn, timeout) = self
            .passed
            .wait_timeout_while(turn, PATIENCE, |turn| turn.current != id)
            .unwrap_or_else(PoisonError::into_inner);
        let current = turn.current;

        drop(turn);
        assert!(
            !timeout.timed_out(),
            "thread {current} does not go on: does it wait for a lock without `wait()`?"
        );
    }

    /// Lets another thread go on if `leave` says so.
    fn point(&self, id: usize, leave: impl FnOnce(&mut Turn) -> bool) {
        let mut turn = self.turn();

        if leave(&mut turn) {
            turn.pass(id);
            if turn.current != id {
                self.passed.notify_all();
                self.wait_for(id, turn);
            }
        }
    }
}

/// Calls `f` with the scheduler of this thread, if it has one.
fn with_scheduler(f: impl FnOnce(&Scheduler, usize)) {
    let me = ME.with_borrow(|me| me.clone());

    if let Some((scheduler, id)) = me {
        // Destructors of a thread that fails are not of interest any more.
        if !thread::panicking() {
            f(&scheduler, id);
        }
    }
}

/// A place where another thread may go on. Nothing outside of [`run`].
pub fn point() {
    with_scheduler(|scheduler, id| {
        scheduler.point(id, |turn| {
            let stretch = turn.stretch;

            turn.below(stretch) == 0
        });
    });
}

/// To be called again and again while waiting for another thread: lets one go on.
pub fn wait() {
    with_scheduler(|scheduler, id| scheduler.point(id, |_| true));
}

/// Runs threads, one at a time, in an order that `seed` decides.
///
/// # Panics
///
/// If one of them does.
pub fn run(seed: u64, bodies: Vec<Body<'_>>) {
    /// Ends a thread, also one that panics.
    struct End<'a>(&'a Scheduler, usize);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            let mut turn = self.0.turn();

            turn.alive.retain(|id| *id != self.1);
            turn.pass(self.1);
            self.0.passed.notify_all();
        }
    }

    let mut turn = Turn {
        current: 0,
        alive: (0..bodies.len()).collect(),
        // No seed gives 0, of which nothing else would come.
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        stretch: 0,
    };

    // Some races need many switches, others long stretches without any.
    turn.stretch = 2 << turn.below(5);
    turn.current = turn.below(bodies.len().max(1) as u64) as usize;

    let scheduler = Arc::new(Scheduler {
        turn: Mutex::new(turn),
        passed: Condvar::new(),
    });

    thread::scope(|scope| {
        for (id, body) in bodies.into_iter().enumerate() {
            let scheduler = Arc::clone(&scheduler);

            scope.spawn(move || {
                let _end = End(&scheduler, id);

                ME.set(Some((Arc::clone(&scheduler), id)));
                scheduler.wait_for(id, scheduler.turn());
                body();
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::vec;

    /// Adds in two steps, with a race between them.
    fn lost_update(seed: u64) -> bool {
        let number = AtomicU64::new(0);
        let add = || number.store(number.load(SeqCst) + 1, SeqCst);

        run(seed, vec![Box::new(add), Box::new(add), Box::new(add)]);
        number.load(SeqCst) != 3
    }

    #[test]
    fn finds_a_race() {
        assert!((0..100).any(lost_update));
        assert!(!(0..100).all(lost_update));
    }

    #[test]
    fn a_seed_gives_an_order() {
        let all = || (0..100).map(lost_update).collect::<Vec<_>>();

        assert_eq!(all(), all());
    }

    #[test]
    fn a_thread_may_wait_for_another() {
        let number = AtomicU64::new(0);

        run(
            1,
            vec![
                Box::new(|| {
                    while number.load(SeqCst) == 0 {
                        wait();
                    }
                }),
                Box::new(|| number.store(1, SeqCst)),
            ],
        );
    }

    #[test]
    #[should_panic]
    fn a_panic_is_passed_on() {
        run(
            1,
            vec![
                Box::new(|| panic!("on purpose")),
                Box::new(|| (0..100).for_each(|_| point())),
            ],
        );
    }
}
