// SPDX-License-Identifier: GPL-2.0

//! Error numbers that the `kernel` crate does not name.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)

use kernel::error::Error;

use crate::bindings;

/// `EOPNOTSUPP`: the hardware, or the kernel, cannot do this.
pub fn not_supported() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as i32))
}
