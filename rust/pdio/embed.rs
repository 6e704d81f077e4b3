// SPDX-License-Identifier: GPL-2.0

//! The way from a field to the object that holds it.
//!
//! The kernel calls back with a pointer to what was registered; `container_of()` in C.

/// A type with a field of type `F`.
///
/// # Safety
///
/// A `Self` has an `F` at `OFFSET`.
pub unsafe trait Embeds<F> {
    /// Offset of the field in bytes.
    const OFFSET: usize;

    /// The object that holds a field.
    ///
    /// # Safety
    ///
    /// `field` points to the `F` at `OFFSET` in a valid `Self`, which stays valid for `'a`.
    unsafe fn containing<'a>(field: *const F) -> &'a Self
    where
        Self: Sized,
    {
        // SAFETY: By the safety requirement.
        unsafe { &*field.byte_sub(Self::OFFSET).cast() }
    }
}

/// Implements [`Embeds`] for a named field.
///
/// ```ignore
/// embeds!(Attachment, timer: Timer<Attachment>);
/// embeds!(<T: Content> Space<T>, notifier: Notifier<Space<T>>);
/// ```
#[macro_export]
macro_rules! embeds {
    (<$parameter:ident: $bound:path> $outer:ty, $field:ident: $inner:ty) => {
        $crate::embeds!(@implement [<$parameter: $bound>] $outer, $field: $inner);
    };
    (@implement [$($parameters:tt)*] $outer:ty, $field:ident: $inner:ty) => {
        const _: () = {
            #[expect(dead_code, reason = "it is enough that it can be compiled")]
            fn has_type $($parameters)* (outer: &$outer) -> &$inner {
                &outer.$field
            }
        };

        // SAFETY: The function above shows that the field has the type.
        unsafe impl $($parameters)* $crate::embed::Embeds<$inner> for $outer {
            const OFFSET: usize = ::core::mem::offset_of!($outer, $field);
        }
    };
    ($outer:ty, $field:ident: $inner:ty) => {
        $crate::embeds!(@implement [] $outer, $field: $inner);
    };
}
pub use embeds;
