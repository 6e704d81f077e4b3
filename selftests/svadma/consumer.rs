// SPDX-License-Identifier: GPL-2.0

//! An open file: what a program asks for.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::UserSlice, //
};
use pdio::{
    char_device::OpenFile,
    iopf::{
        self,
        Stop, //
    },
    register_page::RegisterPage, //
};

use crate::{
    abi::{
        doorbell,
        register, //
    },
    queue::Queue,
    uapi::{
        self,
        Bind,
        Mode,
        Stream,
        Wait, //
    },
    Svadma, //
};

/// A queue, and the address space that it works on.
struct Bound {
    // Dropped first: the address space is there for as long as the queue may use it.
    binding: iopf::Binding<Queue>,
    queue: Arc<Queue>,
}

/// An open file.
///
/// Lock order: `bound`, the lock of an address space, that of the page.
#[pin_data]
pub(crate) struct Consumer {
    device: Arc<Svadma>,
    /// The doorbell of its queue, while it has one.
    doorbell: Arc<RegisterPage>,
    #[pin]
    bound: Mutex<Option<Bound>>,
}

impl Consumer {
    /// Gives the current process a queue.
    fn bind(&self, bind: &Bind) -> Result {
        let mut bound = self.bound.lock();

        if bound.is_some() {
            return Err(EBUSY);
        }

        let mode = match bind.mode {
            Mode::Device => None,
            Mode::Sva => Some(iopf::Mode::Sva),
            Mode::Mirror => Some(iopf::Mode::Mirror),
            Mode::Pinned => Some(iopf::Mode::Pinned),
        };
        let iopf = self.device.iopf.lock().clone().ok_or(ENODEV)?;
        let queue = Queue::take(self.device.clone())?;
        let binding = iopf.bind(mode, queue.clone())?;

        if let Err(error) = queue.start(bind, binding.pasid()) {
            queue.stop();
            queue.drain();
            return Err(error);
        }
        self.doorbell
            .show(self.device.registers.address(doorbell::page(queue.index())));
        *bound = Some(Bound { binding, queue });
        Ok(())
    }

    /// Takes the queue away. Whoever else does so at the same time waits until that is done.
    ///
    /// # Errors
    ///
    /// `ENXIO`: there is none.
    pub(crate) fn unbind(&self) -> Result {
        let mut bound = self.bound.lock();
        let Bound { binding, queue } = bound.take().ok_or(ENXIO)?;

        self.doorbell.hide();
        queue.stop();
        queue.drain();
        drop(binding);
        Ok(())
    }

    /// Does something with the binding.
    fn with<R>(&self, act: impl FnOnce(&Bound) -> Result<R>) -> Result<R> {
        act(self.bound.lock().as_ref().ok_or(ENXIO)?)
    }
}

/// Where a register that belongs to no queue is.
fn register_at(offset: u64) -> Result<u64> {
    match offset < register::END && offset % 4 == 0 {
        true => Ok(offset),
        false => Err(EINVAL),
    }
}

/// Does a request whose argument has `N` words.
fn exchange<const N: usize>(
    memory: UserSlice,
    act: impl FnOnce([u64; N]) -> Result<[u64; N]>,
) -> Result {
    let (mut reader, mut writer) = memory.reader_writer();
    let words = reader.read::<[u64; N]>()?;
    let answer = act(words)?;

    // What changes something has nothing to say, so that it cannot fail any more.
    if answer != words {
        writer.write(&answer)?;
    }
    Ok(())
}

impl OpenFile for Consumer {
    type Device = Svadma;

    const MODULE: &'static ThisModule = &crate::THIS_MODULE;

    fn open(device: Arc<Svadma>, doorbell: Arc<RegisterPage>) -> Result<Arc<Self>> {
        let consumer = Arc::pin_init(
            pin_init!(Self {
                device,
                doorbell,
                bound <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )?;

        consumer
            .device
            .consumers
            .lock()
            .push(consumer.clone(), GFP_KERNEL)?;
        Ok(consumer)
    }

    fn release(&self) {
        // Without one, there is nothing to take away. Listed until then, so that a driver that goes
        // waits for it.
        let _ = self.unbind();
        self.device
            .consumers
            .lock()
            .retain(|other| !core::ptr::eq(&raw const **other, self));
    }

    fn request(&self, number: u32, memory: UserSlice) -> Result {
        match number {
            uapi::BIND => exchange(memory, |words| {
                let bind = Bind::from_words(words).ok_or(EINVAL)?;

                self.bind(&bind)?;
                Ok(words)
            }),
            uapi::UNBIND => self.unbind(),
            uapi::WAIT => exchange(memory, |words| {
                let wait = Wait::from_words(words).ok_or(EINVAL)?;
                let count = self.with(|bound| self.device.interrupts.count(bound.queue.index()))?;

                Ok(Wait {
                    seen: count.wait(wait.seen, wait.timeout_ms)?,
                    ..wait
                }
                .to_words())
            }),
            uapi::STREAM => exchange(memory, |words| {
                let stream = Stream::from_words(words).ok_or(EINVAL)?;

                self.with(|bound| bound.queue.set_stream(&stream))?;
                Ok(words)
            }),
            uapi::PIN => exchange(memory, |[start, len]| {
                self.with(|bound| bound.binding.pin(start.try_into()?, len.try_into()?))?;
                Ok([start, len])
            }),
            uapi::UNPIN => exchange(memory, |[start, len]| {
                self.with(|bound| bound.binding.unpin(start.try_into()?, len.try_into()?))?;
                Ok([start, len])
            }),
            uapi::BUDGET => exchange(memory, |[bytes]| {
                self.with(|bound| bound.binding.set_budget(bytes))?;
                Ok([bytes])
            }),
            uapi::READ_REGISTER => exchange(memory, |[offset, value]| {
                if value != 0 {
                    return Err(EINVAL);
                }
                Ok([
                    offset,
                    self.device.registers.read(register_at(offset)?)?.into(),
                ])
            }),
            uapi::WRITE_REGISTER => exchange(memory, |[offset, value]| {
                self.device
                    .registers
                    .write(register_at(offset)?, value.try_into()?)?;
                Ok([offset, value])
            }),
            _ => Err(ENOTTY),
        }
    }
}
