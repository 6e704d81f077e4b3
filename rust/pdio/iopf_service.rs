// SPDX-License-Identifier: GPL-2.0

//! What `iopf.ko` does for other modules: the far side of [`iopf`](crate::iopf).
//!
//! C header: `iopf/include/linux/iopf.h`

use core::{
    ffi::c_void,
    mem::ManuallyDrop, //
};

use kernel::{
    device::Device,
    error::from_result,
    prelude::*,
    sync::Arc, //
};

use crate::{
    bindings,
    device::DmaDevice,
    iopf::Mode, //
};

/// What the driver wants to be told of a binding.
///
/// # Invariants
///
/// `ops` is valid, with all its functions, and may be called with `context`, until the binding has
/// ended.
pub struct Callbacks {
    ops: *const bindings::iopf_binding_ops,
    context: *mut c_void,
}

// SAFETY: The operations may be called by any thread.
unsafe impl Send for Callbacks {}

// SAFETY: As for `Send`.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    /// Keeps the device from beginning any access. Once. May sleep.
    pub fn stop(&self) {
        // SAFETY: By the type invariant.
        unsafe {
            if let Some(stop) = (*self.ops).stop {
                stop(self.context);
            }
        }
    }
}

/// What serves the entry points of `iopf.h`, which document what each of them does.
pub trait Service: Sized {
    /// A device that is registered.
    type Device: Send + Sync;
    /// A process that is bound to a device.
    type Binding: Send + Sync;

    /// `iopf_register_device()`. A driver is bound to the device.
    fn register(device: DmaDevice) -> Result<Arc<Self::Device>>;

    /// `iopf_unregister_device()`.
    fn unregister(device: Arc<Self::Device>);

    /// `iopf_bind()`, for the current process; without a mode it is that of the device.
    fn bind(
        device: &Arc<Self::Device>,
        mode: Option<Mode>,
        callbacks: Callbacks,
    ) -> Result<Arc<Self::Binding>>;

    /// `iopf_unbind()`: the callbacks are not called any more when it returns.
    fn unbind(binding: Arc<Self::Binding>);

    /// `iopf_pasid()`.
    fn pasid(binding: &Self::Binding) -> u32;

    /// `iopf_mode()`.
    fn mode(binding: &Self::Binding) -> Mode;

    /// `iopf_set_budget()`.
    fn set_budget(binding: &Self::Binding, bytes: u64) -> Result;

    /// `iopf_pin()`. The range is in whole pages, and not empty.
    fn pin(binding: &Self::Binding, start: usize, len: usize) -> Result;

    /// `iopf_unpin()`.
    fn unpin(binding: &Self::Binding, start: usize, len: usize) -> Result;
}

/// Hands an object over to C, or says why there is none.
fn give<T>(result: Result<Arc<T>>) -> *mut c_void {
    match result {
        Ok(object) => Arc::into_raw(object).cast_mut().cast(),
        Err(error) => error.to_ptr(),
    }
}

/// Takes an object back from C.
///
/// # Safety
///
/// `object` is what [`give`] gave, of the same type, and is not used any more.
unsafe fn take<T>(object: *mut c_void) -> Arc<T> {
    // SAFETY: By the safety requirement.
    unsafe { Arc::from_raw(object.cast()) }
}

/// Looks at an object that C has.
///
/// # Safety
///
/// `object` is what [`give`] gave, of the same type, and is not taken back meanwhile.
unsafe fn borrow<T>(object: *const c_void) -> ManuallyDrop<Arc<T>> {
    // SAFETY: By the safety requirement; the reference remains that of C.
    ManuallyDrop::new(unsafe { Arc::from_raw(object.cast()) })
}

/// `iopf_serve_register()`.
///
/// # Safety
///
/// `dev` is a valid `struct device`, to which a driver is bound as long as it is registered.
pub unsafe fn register<S: Service>(dev: *mut c_void) -> *mut c_void {
    // SAFETY: By the safety requirement.
    let device = DmaDevice::new(unsafe { Device::from_raw(dev.cast()) });

    give(S::register(device))
}

/// `iopf_serve_unregister()`.
///
/// # Safety
///
/// `device` is registered, and is not used any more.
pub unsafe fn unregister<S: Service>(device: *mut c_void) {
    // SAFETY: By the safety requirement.
    S::unregister(unsafe { take(device) });
}

/// `iopf_serve_bind()`.
///
/// # Safety
///
/// `device` is registered; `ops` is a valid `struct iopf_binding_ops` with all its functions, which
/// may be called with `context` until the process is unbound.
pub unsafe fn bind<S: Service>(
    device: *mut c_void,
    mode: u32,
    ops: *const c_void,
    context: *mut c_void,
) -> *mut c_void {
    // SAFETY: By the safety requirement.
    let device = unsafe { borrow(device) };
    // INVARIANT: By the safety requirement.
    let callbacks = Callbacks {
        ops: ops.cast(),
        context,
    };

    give(Mode::from_raw(mode).and_then(|mode| S::bind(&device, mode, callbacks)))
}

/// `iopf_serve_unbind()`.
///
/// # Safety
///
/// `binding` is one, and is not used any more.
pub unsafe fn unbind<S: Service>(binding: *mut c_void) {
    // SAFETY: By the safety requirement.
    S::unbind(unsafe { take(binding) });
}

/// `iopf_serve_pasid()`.
///
/// # Safety
///
/// `binding` is one.
pub unsafe fn pasid<S: Service>(binding: *const c_void) -> u32 {
    // SAFETY: By the safety requirement.
    let binding = unsafe { borrow::<S::Binding>(binding) };

    S::pasid(&binding)
}

/// `iopf_serve_mode()`.
///
/// # Safety
///
/// `binding` is one.
pub unsafe fn mode<S: Service>(binding: *const c_void) -> u32 {
    // SAFETY: By the safety requirement.
    let binding = unsafe { borrow::<S::Binding>(binding) };

    S::mode(&binding).as_raw()
}

/// `iopf_serve_set_budget()`.
///
/// # Safety
///
/// `binding` is one.
pub unsafe fn set_budget<S: Service>(binding: *mut c_void, bytes: u64) -> i32 {
    // SAFETY: By the safety requirement.
    let binding = unsafe { borrow::<S::Binding>(binding) };

    from_result(|| S::set_budget(&binding, bytes).map(|()| 0))
}

/// `iopf_serve_pin()`.
///
/// # Safety
///
/// `binding` is one.
pub unsafe fn pin<S: Service>(binding: *mut c_void, start: usize, len: usize) -> i32 {
    // SAFETY: By the safety requirement.
    let binding = unsafe { borrow::<S::Binding>(binding) };

    from_result(|| S::pin(&binding, start, len).map(|()| 0))
}

/// `iopf_serve_unpin()`.
///
/// # Safety
///
/// `binding` is one.
pub unsafe fn unpin<S: Service>(binding: *mut c_void, start: usize, len: usize) -> i32 {
    // SAFETY: By the safety requirement.
    let binding = unsafe { borrow::<S::Binding>(binding) };

    from_result(|| S::unpin(&binding, start, len).map(|()| 0))
}

/// Defines what `iopf/iopf.c` calls, served by a [`Service`]. Once per module.
///
/// ```ignore
/// export_iopf!(Iopf);
/// ```
#[macro_export]
macro_rules! export_iopf {
    ($service:ty) => {
        $crate::export_iopf!(@functions $service,
            /// A device to which a driver is bound, as long as it is registered.
            iopf_serve_register => register(dev: *mut c_void) -> *mut c_void;
            /// A registered device that is not used any more.
            iopf_serve_unregister => unregister(device: *mut c_void) -> ();
            /// A registered device, and operations that may be called with the context.
            iopf_serve_bind => bind(
                device: *mut c_void,
                mode: u32,
                ops: *const c_void,
                context: *mut c_void
            ) -> *mut c_void;
            /// A binding that is not used any more.
            iopf_serve_unbind => unbind(binding: *mut c_void) -> ();
            /// A binding.
            iopf_serve_pasid => pasid(binding: *const c_void) -> u32;
            /// A binding.
            iopf_serve_mode => mode(binding: *const c_void) -> u32;
            /// A binding.
            iopf_serve_set_budget => set_budget(binding: *mut c_void, bytes: u64) -> i32;
            /// A binding.
            iopf_serve_pin => pin(binding: *mut c_void, start: usize, len: usize) -> i32;
            /// A binding.
            iopf_serve_unpin => unpin(binding: *mut c_void, start: usize, len: usize) -> i32;
        );
    };
    (@functions $service:ty, $(
        #[doc = $safety:literal]
        $name:ident => $function:ident($($argument:ident: $type:ty),*) -> $result:ty;
    )*) => {
        const _: () = {
            use ::core::ffi::c_void;

            $(
                /// See `iopf/iopf.h`.
                ///
                /// # Safety
                ///
                #[doc = $safety]
                #[no_mangle]
                unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                    // SAFETY: By the safety requirement.
                    unsafe { $crate::iopf_service::$function::<$service>($($argument),*) }
                }
            )*
        };
    };
}
pub use export_iopf;
