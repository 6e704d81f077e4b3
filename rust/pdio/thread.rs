// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that work together for a while.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use core::{
    ffi::c_void,
    hint,
    ptr,
    sync::atomic::{
        AtomicBool,
        AtomicUsize,
        Ordering::{
            AcqRel,
            Acquire,
            Relaxed, //
        }, //
    }, //
};

use kernel::{
    alloc::KVVec,
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    prelude::*,
    sync::Completion, //
};

use crate::bindings;

/// Number of CPUs that are online.
pub fn online_cpus() -> usize {
    // SAFETY: There are no requirements.
    unsafe { bindings::pdio_num_online_cpus() as usize }
}

/// Lets others run that wait for this CPU. May sleep.
#[inline]
pub fn cond_resched() {
    // SAFETY: Whoever calls this may sleep.
    unsafe { bindings::pdio_cond_resched() };
}

/// What the threads of one call share.
#[pin_data]
struct Team<F> {
    work: F,
    /// Number of threads that there should be.
    len: usize,
    /// Number of threads that have come.
    ready: AtomicUsize,
    /// One of the threads could not be started, so nobody begins.
    cancelled: AtomicBool,
    /// All threads have come.
    #[pin]
    complete: Completion,
}

impl<F: Fn(usize) -> Result + Sync> Team<F> {
    /// What each thread does.
    ///
    /// # Safety
    ///
    /// `team` is a `Self` that is valid until the thread has ended.
    unsafe extern "C" fn run(team: *mut c_void) -> i32 {
        // SAFETY: By the safety requirement.
        let team = unsafe { &*team.cast::<Self>() };
        let index = team.ready.fetch_add(1, AcqRel);

        if index + 1 == team.len {
            team.complete.complete_all();
        }
        while team.ready.load(Acquire) != team.len {
            if team.cancelled.load(Relaxed) {
                return 0;
            }
            cond_resched();
            hint::spin_loop();
        }

        from_result(|| (team.work)(index).map(|()| 0))
    }
}

/// Runs `work` on `len` CPUs at the same time, each with a number below `len`, and waits until all
/// are done. May sleep.
///
/// # Errors
///
/// `EINVAL` if there are not that many CPUs online, `ENOMEM`, and the first error of `work`.
pub fn run_on_cpus<F: Fn(usize) -> Result + Sync>(len: usize, work: F) -> Result {
    if len == 0 || len > online_cpus() {
        return Err(EINVAL);
    }

    let mut threads = KVVec::with_capacity(len, GFP_KERNEL)?;
    let team = KBox::pin_init(
        pin_init!(Team {
            work,
            len,
            ready: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            complete <- Completion::new(),
        }),
        GFP_KERNEL,
    )?;
    let mut result = Ok(());

    for n in 0..len {
        // SAFETY: The team is valid until all threads have been waited for, below.
        let thread = from_err_ptr(unsafe {
            bindings::pdio_kthread_run_on_nth_cpu(
                Some(Team::<F>::run),
                ptr::from_ref(&*team).cast_mut().cast(),
                n as u32,
            )
        })
        .and_then(|thread| Ok(threads.push(thread, GFP_KERNEL)?));

        if thread.is_err() {
            team.cancelled.store(true, Relaxed);
            result = thread;
            break;
        }
    }

    if result.is_ok() {
        // A thread that is stopped before it begins never does.
        team.complete.wait_for_completion();
    }
    for thread in threads {
        // SAFETY: The thread is referenced, and the reference ends here.
        let ended = to_result(unsafe { bindings::kthread_stop_put(thread) });

        if !team.cancelled.load(Relaxed) {
            result = result.and(ended);
        }
    }
    result
}
