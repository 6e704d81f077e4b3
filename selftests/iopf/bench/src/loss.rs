// SPDX-License-Identifier: GPL-2.0

//! What is lost of a receive stream whose buffers are taken away under it: nothing where the sender can
//! be held back, and otherwise what does not fit in the device until a page has come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use svadma::abi::{frame_word, Counter, Descriptor, Operation, StreamMode};
use svadma::area::{Area, PAGE};
use svadma::uapi::{self, Mode};
use svadma::{Error, Failed, Reason, Ticket};

use crate::figure::{Figure, Loss};
use crate::session::{fill, Registers, Session, Setting};
use crate::{Emit, Result};

/// Bytes of a frame.
pub const FRAME_BYTES: u32 = 1024;
/// Buffers, each a page of its own. As many as the ring has descriptors.
const BUFFERS: usize = 64;
/// Pages that the device may keep: for the ring, its completions and a quarter of the buffers.
const BUDGET_PAGES: usize = BUFFERS / 4 + 2;
/// Buffers of which one is told by an interrupt.
const PER_INTERRUPT: u64 = 8;
/// After which the counters are looked at without an interrupt.
const LOOK: Duration = Duration::from_millis(20);

/// How buffers are taken away under the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All but a quarter, by a budget, all the time.
    ByBudget,
    /// One, with its content, each time that so many frames have come.
    Every(u32),
}

/// What is to be received.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which buffers are missing.
    pub taken: Taken,
    /// What happens when the device is full.
    pub mode: StreamMode,
    /// What arrives in a millisecond.
    pub bytes_per_ms: u32,
    /// What the device can keep.
    pub buffer_bytes: u32,
    /// Milliseconds that each answer to a page request is late.
    pub late_ms: u32,
    /// Frames that are sent.
    pub frames: u32,
}

/// Rates, from what is easily taken to what no program can take.
const RATES: [u32; 8] = [
    10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 10_000_000,
];
/// The rate where buffers are compared: 0.8 Gbit/s.
const RATE: u32 = 100_000;
/// Buffers on the device.
const BUFFER_BYTES: [u32; 9] = [
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
];
/// How late answers are.
const LATE_MS: [u32; 4] = [1, 2, 5, 10];
/// Frames between two buffers that are missing: a mebibyte.
const TAKEN: Taken = Taken::Every(1024);
/// Frames of each stream.
const FRAMES: u32 = 8192;

/// Measures the loss by the size of the device's buffer and the delay of answers, and then by the rate,
/// with and without a sender that can be held back, and with buffers of which nearly all are missing.
///
/// # Errors
///
/// Something that should work did not, or a frame that should be there is not.
pub fn measure(emit: Emit<'_>) -> Result {
    let usual = Settings {
        taken: TAKEN,
        mode: StreamMode::Drop,
        bytes_per_ms: RATE,
        buffer_bytes: 64 << 10,
        late_ms: 1,
        frames: FRAMES,
    };
    for late_ms in LATE_MS {
        for buffer_bytes in BUFFER_BYTES {
            emit(Figure::Loss(receive(Settings {
                late_ms,
                buffer_bytes,
                ..usual
            })?));
        }
    }
    for (mode, taken) in [
        (StreamMode::Drop, TAKEN),
        (StreamMode::Cooperate, TAKEN),
        (StreamMode::Cooperate, Taken::ByBudget),
    ] {
        for bytes_per_ms in RATES {
            emit(Figure::Loss(receive(Settings {
                mode,
                taken,
                bytes_per_ms,
                ..usual
            })?));
        }
    }
    Ok(())
}

/// Frames, as they come.
struct Frames {
    /// The number that comes next if none is lost.
    next: u64,
    received: u64,
}

impl Frames {
    /// Looks at a frame in its buffer.
    fn take(&mut self, frame: u64, buffers: &Area, page: usize) -> Result {
        if frame < self.next {
            return Err(format!("frame {frame} has come after {}", self.next).into());
        }
        // Each word names the frame and its own place: the first and the last tell whose they are.
        let last = u64::from(FRAME_BYTES) / 8 - 1;
        for word in [0, last] {
            let found = buffers.number(page * PAGE + word as usize * 8);
            if found != frame_word(frame, word) {
                return Err(format!("word {word} of frame {frame} is {found:#x}").into());
            }
        }
        self.next = frame + 1;
        self.received += 1;
        Ok(())
    }
}

/// Receives a stream to its end, in mode `mirror`.
///
/// # Errors
///
/// Something that should work did not, or a frame is not as it was sent.
pub fn receive(settings: Settings) -> Result<Loss> {
    let _budget = match settings.taken {
        Taken::ByBudget => Some(Setting::new(
            "binding_budget_bytes",
            (BUDGET_PAGES * PAGE) as u64,
        )?),
        Taken::Every(_) => None,
    };
    let mut registers = Registers::new()?;
    let mut session = Session::open(Mode::Mirror)?;
    let buffers = Area::new(BUFFERS)?;
    let mut frames = Frames {
        next: 0,
        received: 0,
    };
    let on = uapi::Stream {
        mode: settings.mode.number(),
        frame_bytes: FRAME_BYTES,
        bytes_per_ms: settings.bytes_per_ms,
        buffer_bytes: settings.buffer_bytes,
        frames: settings.frames,
    };
    let off = uapi::Stream {
        mode: StreamMode::Off.number(),
        ..on
    };
    // So that only what is taken away is missing.
    session.carry_out(fill(buffers.address(0), BUFFERS * PAGE))?;
    registers.delay_answers(settings.late_ms)?;
    let base = session.consumer().count(Counter::Descriptors);
    let groups = session.consumer().count(Counter::PageGroups);
    let mut posted: VecDeque<Ticket> = VecDeque::new();
    let mut numbers = (0_u64, 0_u64);

    session.consumer().set_stream(on)?;
    let started = Instant::now();
    let elapsed = loop {
        while posted.len() < BUFFERS {
            if let Taken::Every(frames) = settings.taken {
                if numbers.0 % u64::from(frames) == u64::from(frames) - 1 {
                    buffers.advise(numbers.0 as usize % BUFFERS, 1, libc::MADV_DONTNEED)?;
                }
            }
            posted.push_back(post(&mut session, &buffers, numbers.0)?);
            numbers.0 += 1;
        }
        let completed = session.consumer().count(Counter::Descriptors) - base;
        while numbers.1 < completed {
            let ticket = posted
                .pop_front()
                .ok_or("more has come than was asked for")?;
            let done = session.consumer_mut().wait(ticket)?;
            frames.take(done.result, &buffers, numbers.1 as usize % BUFFERS)?;
            numbers.1 += 1;
        }
        let count = |counter| session.consumer().count(counter);
        let ended = count(Counter::StreamDelivered) + count(Counter::StreamDropped);
        if ended == u64::from(settings.frames) && frames.received == count(Counter::StreamDelivered)
        {
            break started.elapsed();
        }
        if started.elapsed() > svadma::Consumer::PATIENCE.max(10 * stream_time(&settings)) {
            return Err(format!("{ended} of {} frames have come", settings.frames).into());
        }
        // Who has buffers to post does not sleep.
        if posted.len() == BUFFERS {
            session.sleep(LOOK)?;
        }
    };

    let count = |counter| session.consumer().count(counter);
    let figure = Loss {
        mode: match settings.mode {
            StreamMode::Drop => "drop",
            _ => "cooperate",
        }
        .into(),
        bytes_per_ms: settings.bytes_per_ms,
        frame_bytes: FRAME_BYTES,
        buffer_bytes: settings.buffer_bytes,
        late_ms: settings.late_ms,
        taken_every: match settings.taken {
            Taken::ByBudget => 0,
            Taken::Every(frames) => frames,
        },
        sent: count(Counter::StreamArrived),
        delivered: count(Counter::StreamDelivered),
        dropped: count(Counter::StreamDropped),
        received: frames.received,
        groups: count(Counter::PageGroups) - groups,
        held_ns: count(Counter::StreamHeldNs),
        elapsed_ns: u64::try_from(elapsed.as_nanos())?,
    };
    session.consumer().set_stream(off)?;
    for ticket in posted {
        let no_stream = Failed {
            reason: Reason::NoStream,
            bytes_done: 0,
        };
        match session.consumer_mut().wait(ticket) {
            Err(Error::Failed(failed)) if failed == no_stream => {}
            other => return Err(format!("after the end of the stream: {other:?}").into()),
        }
    }
    Ok(figure)
}

/// How long a stream takes that is not held back.
fn stream_time(settings: &Settings) -> Duration {
    let bytes = u64::from(settings.frames) * u64::from(FRAME_BYTES);
    Duration::from_millis(bytes / u64::from(settings.bytes_per_ms))
}

/// Posts the buffer for the frame with this number.
fn post(session: &mut Session, buffers: &Area, number: u64) -> Result<Ticket> {
    let told = number % PER_INTERRUPT == PER_INTERRUPT - 1;
    let descriptor = Descriptor {
        operation: Operation::Receive.number(),
        flags: if told { Descriptor::INTERRUPT } else { 0 },
        destination: buffers.address(number as usize % BUFFERS),
        length: FRAME_BYTES.into(),
        ..Descriptor::default()
    };
    // SAFETY: It is an area, whose pages are looked at when the device has filled them.
    Ok(unsafe { session.consumer_mut().submit(descriptor) }?)
}
