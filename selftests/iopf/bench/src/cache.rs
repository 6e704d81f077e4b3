// SPDX-License-Identifier: GPL-2.0

//! What a translation cache on the device is worth, by its size and shape.

use svadma::abi::{register, Counter, Replacement};
use svadma::uapi::Mode;

use crate::figure::{Cache, Figure};
use crate::loads::LOADS;
use crate::session::{Registers, Session};
use crate::{Emit, Result};

/// Sizes.
pub const ENTRIES: [u32; 8] = [8, 16, 32, 64, 128, 256, 512, 1024];
/// Ways where sizes and replacements are compared.
const WAYS: u32 = 4;
/// The shape of a cache that nobody has set: see `register::CACHE_ENTRIES`.
const NORMALLY: Shape = Shape {
    entries: 256,
    ways: 4,
    replacement: Replacement::LeastRecentlyUsed,
};

/// A shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    entries: u32,
    ways: u32,
    replacement: Replacement,
}

/// What a policy is called.
fn name(replacement: Replacement) -> &'static str {
    match replacement {
        Replacement::LeastRecentlyUsed => "lru",
        Replacement::FirstInFirstOut => "fifo",
        Replacement::Random => "random",
        Replacement::Clock => "clock",
    }
}

/// All that are measured: each size with the usual ways and every policy, and with LRU in sets of
/// one, two, eight and all.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for entries in ENTRIES {
        for replacement in Replacement::ALL {
            shapes.push(Shape {
                entries,
                ways: WAYS,
                replacement: *replacement,
            });
        }
        for ways in [1, 2, entries] {
            shapes.push(Shape {
                entries,
                ways,
                replacement: Replacement::LeastRecentlyUsed,
            });
        }
    }
    shapes
}

impl Shape {
    /// Gives the device an empty cache of this shape.
    fn apply(self, registers: &mut Registers) -> Result {
        for (register, value, normally) in [
            (register::CACHE_ENTRIES, self.entries, NORMALLY.entries),
            (register::CACHE_WAYS, self.ways, NORMALLY.ways),
            (
                register::CACHE_REPLACEMENT,
                self.replacement.number(),
                NORMALLY.replacement.number(),
            ),
            // Last, as it is what makes the others count.
            (register::CACHE_APPLY, 1, 1),
        ] {
            registers.set(register, value.into(), normally.into())?;
        }
        match registers.get(register::CACHE_APPLY)? {
            0 => Ok(()),
            refused => Err(format!("{self:?}: register {refused:#x} is refused").into()),
        }
    }
}

/// Runs all loads with caches of all shapes. The memory is pinned, so that nothing but the shape
/// decides.
///
/// # Errors
///
/// Something that should work did not.
pub fn measure(emit: Emit<'_>) -> Result {
    let mut registers = Registers::new()?;
    for (load_name, prepare) in LOADS {
        let mut session = Session::open(Mode::Pinned)?;
        let mut load = prepare(&session)?;
        let accesses = session.traced(|session| load.run(session))?.len() as u64;
        for shape in shapes() {
            shape.apply(&mut registers)?;
            let before = session.consumer().count(Counter::CacheMisses);
            load.run(&mut session)?;
            emit(Figure::Cache(Cache {
                load: load_name.into(),
                entries: shape.entries,
                ways: shape.ways,
                replacement: name(shape.replacement).into(),
                accesses,
                misses: session.consumer().count(Counter::CacheMisses) - before,
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_can_be_and_is_there_once() {
        let shapes = shapes();
        for (index, shape) in shapes.iter().enumerate() {
            assert_eq!(shape.entries % shape.ways, 0, "{shape:?}");
            assert!(!shapes[..index].contains(shape), "{shape:?}");
        }
    }
}
