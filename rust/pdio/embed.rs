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
/// ```
#[macro_export]
macro_rules! embeds {
    ($outer:ty, $field:ident: $inner:ty) => {
        const _: fn(&$outer) -> &$inner = |outer| &outer.$field;

        // SAFETY: The function above shows that the field has the type.
        unsafe impl $crate::embed::Embeds<$inner> for $outer {
            const OFFSET: usize = ::core::mem::offset_of!($outer, $field);
        }
    };
}
pub use embeds;
