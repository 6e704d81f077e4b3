// SPDX-License-Identifier: GPL-2.0

//! The CPU that runs this, and counters of which every CPU has its own copy.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use core::{
    arch::asm,
    mem, //
};

use kernel::alloc::AllocError;

use crate::bindings;

/// The number of the CPU that runs this, below `nr_cpu_ids`: `raw_smp_processor_id()`, without the
/// call that `kernel::cpu::CpuId::current()` is. A hint, unless the caller cannot be moved.
#[inline(always)]
pub fn cpu() -> usize {
    let number: u32;

    // SAFETY: The variable is there on each CPU, and does not change.
    unsafe {
        asm!(
            "mov {number:e}, gs:[rip + {variable}]",
            number = out(reg) number,
            variable = sym bindings::cpu_number,
            options(nostack, preserves_flags, readonly),
        );
    }
    number as usize
}

/// `N` counters per CPU that only grow, and wrap.
///
/// # Invariants
///
/// `base` is a per-CPU allocation of `N` zero-initialized `u64`, aligned as such.
pub struct Counters<const N: usize> {
    base: *mut u64,
}

// SAFETY: Per-CPU memory belongs to no thread; each access is a single instruction (`add`) or a
// volatile load of a naturally aligned word (`total`).
unsafe impl<const N: usize> Send for Counters<N> {}

// SAFETY: As for `Send`.
unsafe impl<const N: usize> Sync for Counters<N> {}

impl<const N: usize> Counters<N> {
    /// Counters that are all 0. May sleep.
    pub fn new() -> Result<Self, AllocError> {
        // SAFETY: Size and alignment are those of an array, and the size is not 0.
        let base = unsafe {
            bindings::pdio_alloc_percpu(mem::size_of::<[u64; N]>(), mem::align_of::<[u64; N]>())
        };

        if base.is_null() {
            return Err(AllocError);
        }

        // INVARIANT: `base` was just allocated so; per-CPU memory comes zeroed.
        Ok(Self { base: base.cast() })
    }

    /// Adds 1 to counter `INDEX` of this CPU, as [`Counters::add_at`] does.
    #[inline(always)]
    pub fn increment<const INDEX: usize>(&self) {
        const { assert!(INDEX < N) };

        // SAFETY: As in `add_at`; the assertion has checked the index.
        unsafe {
            asm!(
                "inc qword ptr gs:[{base} + {offset}]",
                base = in(reg) self.base,
                offset = const INDEX * mem::size_of::<u64>(),
                options(nostack),
            );
        }
    }

    /// Adds `n` to counter `INDEX` of this CPU, as [`Counters::add_at`] does.
    #[inline(always)]
    pub fn add<const INDEX: usize>(&self, n: u64) {
        const { assert!(INDEX < N) };

        // SAFETY: As in `add_at`; the assertion has checked the index.
        unsafe {
            asm!(
                "add qword ptr gs:[{base} + {offset}], {n}",
                base = in(reg) self.base,
                offset = const INDEX * mem::size_of::<u64>(),
                n = in(reg) n,
                options(nostack),
            );
        }
    }

    /// Adds 1 to counter `FIRST + offset` of this CPU, as [`Counters::add_at`] does; `offset` is
    /// taken modulo `LEN`, a power of two.
    #[inline(always)]
    pub fn increment_of<const FIRST: usize, const LEN: usize>(&self, offset: usize) {
        const { assert!(FIRST + LEN <= N && LEN.is_power_of_two()) };

        // SAFETY: As in `add_at`; the assertion and the modulus have checked the index.
        unsafe {
            asm!(
                "inc qword ptr gs:[{base} + {offset} * {size} + {first}]",
                base = in(reg) self.base,
                offset = in(reg) offset & (LEN - 1),
                size = const mem::size_of::<u64>(),
                first = const FIRST * mem::size_of::<u64>(),
                options(nostack),
            );
        }
    }

    /// Adds `n` to a counter of this CPU. One instruction, so it may be called in any context and
    /// needs no protection from interrupts or migration. An index out of range counts nothing.
    #[inline(always)]
    pub fn add_at(&self, index: usize, n: u64) {
        if index >= N {
            return;
        }

        // SAFETY: On x86-64 the address of a per-CPU variable relative to the segment GS is that
        // of this CPU's copy (arch/x86/include/asm/percpu.h). By the type invariant the copy has
        // `N` counters, and `index` is below `N`.
        unsafe {
            asm!(
                "add qword ptr gs:[{base} + {offset}], {n}",
                base = in(reg) self.base,
                offset = in(reg) index * mem::size_of::<u64>(),
                n = in(reg) n,
                options(nostack),
            );
        }
    }

    /// The sum of a counter over all CPUs.
    ///
    /// Not a snapshot: what other CPUs add meanwhile may or may not be in it.
    pub fn total(&self, index: usize) -> u64 {
        if index >= N {
            return 0;
        }

        // SAFETY: By the type invariant there are `N` counters, and `index` is below `N`.
        unsafe { bindings::pdio_percpu_sum(self.base.add(index)) }
    }
}

impl<const N: usize> Drop for Counters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant `base` is a per-CPU allocation, which ends here.
        unsafe { bindings::free_percpu(self.base.cast()) };
    }
}
