// SPDX-License-Identifier: GPL-2.0

//! What the kernel knows of the thread that runs: its CPU, and whether it may sleep.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Number of CPUs.
pub const CPUS: usize = 4;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static LOCKS: Cell<u32> = const { Cell::new(0) };
    static JITTER: Cell<u64> = const { Cell::new(0) };
    static ID: u64 = {
        static NEXT: AtomicU64 = AtomicU64::new(1);

        NEXT.fetch_add(1, Relaxed)
    };
}

/// The CPU that the calling thread runs on.
pub fn cpu() -> usize {
    CPU.get()
}

/// Moves the calling thread to another CPU.
pub fn set_cpu(cpu: usize) {
    assert!(cpu < CPUS);
    CPU.set(cpu);
}

/// A number that no other thread has, and not 0.
pub(super) fn id() -> u64 {
    ID.with(|id| *id)
}

/// Runs `f` where sleeping is not allowed.
pub(super) fn atomically<R>(f: impl FnOnce() -> R) -> R {
    struct Leave;

    impl Drop for Leave {
        fn drop(&mut self) {
            LOCKS.set(LOCKS.get() - 1);
        }
    }

    LOCKS.set(LOCKS.get() + 1);
    let _leave = Leave;
    f()
}

/// To be called where sleeping must be allowed.
pub(super) fn might_sleep() {
    ensure(LOCKS.get() == 0, || "sleeps with a lock held".into());
}

/// Makes the calling thread stumble from now on wherever it meets the model, so that other threads
/// get in between.
pub fn set_jitter(seed: u64) {
    JITTER.set(seed | 1);
}

/// Stumbles, if [`set_jitter`] says so, or lets another thread go on, if [`interleave`] does.
pub(super) fn jitter() {
    let mut state = JITTER.get();

    interleave::point();

    if state == 0 {
        return;
    }

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    JITTER.set(state);
    match state % 16 {
        0 => std::thread::yield_now(),
        1..4 => (0..(state >> 32) & 255).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

/// Panics unless `truth`, with a message that is made only then.
///
/// A thread that panics already is let through: its destructors run over a state that nobody will
/// look at any more, and a second panic would hide the first.
#[track_caller]
pub(super) fn ensure(truth: bool, message: impl FnOnce() -> String) {
    if !truth && !std::thread::panicking() {
        panic!("{}", message());
    }
}
