// SPDX-License-Identifier: GPL-2.0

//! Atomics that give other threads a chance first.

pub use ::core::sync::atomic::{compiler_fence, fence, Ordering};

use ::core::sync::atomic;

use crate::point;

/// An atomic type: what all of them have, and what only some have.
macro_rules! atomic {
    ($name:ident, $value:ty, { $($method:ident),* }) => {
        #[doc = concat!("As `", stringify!($name), "` in `core`.")]
        #[derive(Debug, Default)]
        pub struct $name(atomic::$name);

        #[expect(missing_docs, reason = "as in `core`")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                point();
                self.0.load(order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                point();
                self.0.store(value, order);
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                point();
                self.0.compare_exchange(current, new, success, failure)
            }

            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            $(
                pub fn $method(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.$method(value, order)
                }
            )*
        }
    };
}

atomic!(AtomicBool, bool, { swap, fetch_and, fetch_or, fetch_xor });
atomic!(AtomicU8, u8, { swap, fetch_add, fetch_sub, fetch_and, fetch_or });
atomic!(AtomicU32, u32, { swap, fetch_add, fetch_sub, fetch_and, fetch_or });
atomic!(AtomicU64, u64, { swap, fetch_add, fetch_sub, fetch_and, fetch_or });
atomic!(AtomicI64, i64, { swap, fetch_add, fetch_sub, fetch_and, fetch_or });
atomic!(AtomicUsize, usize, { swap, fetch_add, fetch_sub, fetch_and, fetch_or });
