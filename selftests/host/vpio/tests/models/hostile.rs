// SPDX-License-Identifier: GPL-2.0

//! Guests and cards that do anything at all: a short run of what the program `fuzz` does at length.

use crate::fuzz::run;

#[test]
fn nothing_makes_the_models_panic() {
    for seed in 1..=4 {
        run::ne2000(500_000, seed);
        run::rtl8139(500_000, seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run::ne2000(10_000, 7), run::ne2000(10_000, 7));
    assert_eq!(run::rtl8139(10_000, 7), run::rtl8139(10_000, 7));
    assert_ne!(run::ne2000(10_000, 7), run::ne2000(10_000, 8));
}
