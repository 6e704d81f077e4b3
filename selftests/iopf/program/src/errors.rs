// SPDX-License-Identifier: GPL-2.0

//! What comes of a device that errs, that the host leaves without an answer, or that receives more
//! than it is let.

use svadma::abi::{
    frame_word, register, Counter, Descriptor, Field, Operation, Probe, ProbeResult, Status,
    StreamMode, PAGE_RESPONSE_TIMEOUT_MS,
};
use svadma::uapi::{Mode, Stream};
use svadma::{Consumer, Done, Error, Failed, Reason};

use crate::area::{Area, PAGE};
use crate::case::{expect, passed, same, Case, Outcome, Result};
use crate::control::{own_pasid, Control};
use crate::work::{area, consumer, fill, refused, refused_as};

/// All of them.
pub const CASES: [Case; 9] = [
    ("response dropped", |mode| passed(dropped(mode))),
    ("response late", |mode| passed(late(mode))),
    ("response too late", |mode| passed(too_late(mode))),
    ("response dropped for the ring", halted),
    ("descriptor damaged", |mode| passed(damaged(mode))),
    ("unknown PASID", |mode| passed(unknown_pasid(mode))),
    ("access after unbind", |mode| passed(after_unbind(mode))),
    ("stream held back", |mode| passed(held_back(mode))),
    ("stream that loses", |mode| passed(losing(mode))),
];

/// What the device writes.
const BYTE: u8 = 0x5b;

/// A page that is not there yet for the device is there when it asks again, or is refused still.
fn goes_on(mode: Mode, consumer: &mut Consumer, area: &Area) -> Result {
    expect(area.is_all(0..1, 0), "it was written all the same")?;
    let found = fill(consumer, area.address(0), PAGE, BYTE);
    answered(mode, found, area)
}

/// The page is filled, or, where nothing is pinned on demand, was refused.
fn answered(mode: Mode, found: std::result::Result<Done, Error>, area: &Area) -> Result {
    if mode == Mode::Pinned {
        return refused(found, area.address(0), 0);
    }
    found?;
    expect(area.is_all(0..1, BYTE), "it was not written")
}

fn dropped(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(1)?;
    let address = area.address(0);
    let control = Control::new()?;
    control.set(register::PAGE_RESPONSE_TIMEOUT_MS, 200)?;
    control.set(register::INJECT_DROPPED_RESPONSES, 1)?;
    let found = fill(&mut consumer, address, PAGE, BYTE);
    refused_as(Status::FaultUnanswered, found, address, 0)?;
    control.set(register::PAGE_RESPONSE_TIMEOUT_MS, PAGE_RESPONSE_TIMEOUT_MS)?;
    same("unanswered", consumer.count(Counter::GroupsUnanswered), 1)?;
    goes_on(mode, &mut consumer, &area)
}

fn late(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(1)?;
    let control = Control::new()?;
    control.set(register::INJECT_LATE_MS, 100)?;
    control.set(register::INJECT_LATE_RESPONSES, 1)?;
    let found = fill(&mut consumer, area.address(0), PAGE, BYTE);
    answered(mode, found, &area)?;
    let waited = consumer.count(Counter::ResponseNsMax);
    // The device's own clock says so: late it was.
    same("late", control.get(register::INJECT_LATE_RESPONSES)?, 0)?;
    expect(waited < 10_000_000_000, "it was later than is allowed")
}

fn too_late(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(1)?;
    let address = area.address(0);
    let control = Control::new()?;
    control.set(register::PAGE_RESPONSE_TIMEOUT_MS, 100)?;
    control.set(register::INJECT_LATE_MS, 60_000)?;
    control.set(register::INJECT_LATE_RESPONSES, 1)?;
    let found = fill(&mut consumer, address, PAGE, BYTE);
    refused_as(Status::FaultUnanswered, found, address, 0)?;
    control.set(register::PAGE_RESPONSE_TIMEOUT_MS, PAGE_RESPONSE_TIMEOUT_MS)?;
    goes_on(mode, &mut consumer, &area)
}

/// A queue that cannot have its ring halts, and the next one is none the worse for it.
fn halted(mode: Mode) -> Result<Outcome> {
    if mode != Mode::Mirror {
        return Ok(Outcome::Skipped("the ring is there at once".into()));
    }
    let mut fresh = Consumer::open(mode, 6)?;
    let control = Control::new()?;
    control.set(register::PAGE_RESPONSE_TIMEOUT_MS, 200)?;
    control.set(register::INJECT_DROPPED_RESPONSES, 1)?;
    // SAFETY: No memory is used.
    match unsafe { fresh.carry_out(Descriptor::default()) } {
        Err(Error::Halted {
            cause: Some(Status::FaultUnanswered),
            ..
        }) => {}
        other => return Err(format!("it should have halted: {other:?}").into()),
    }
    drop(control);
    drop(fresh);
    consumer(mode)?;
    Ok(Outcome::Passed)
}

fn damaged(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, 1)?;
    let control = Control::new()?;
    for (word, field) in [
        (0, Field::Operation),
        (1, Field::Flags),
        (2, Field::Source),
        (3, Field::Source),
        (10, Field::ListEntries),
        (11, Field::Reserved),
        (13, Field::Reserved),
        (15, Field::Reserved),
    ] {
        control.set(register::INJECT_DAMAGED_WORD, word)?;
        control.set(register::INJECT_DAMAGED_DESCRIPTORS, 1)?;
        match fill(&mut consumer, area.address(0), PAGE, 1) {
            Err(Error::Failed(Failed {
                reason: Reason::Malformed { field: found, .. },
                bytes_done: 0,
            })) => same("the field", found, field)?,
            other => return Err(format!("word {word}: {other:?}").into()),
        }
    }
    expect(area.is_all(0..1, 0), "it was written all the same")?;
    fill(&mut consumer, area.address(0), PAGE, BYTE)?;
    expect(area.is_all(0..1, BYTE), "it was not written")
}

fn unknown_pasid(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, 1)?;
    let address = area.address(0);
    fill(&mut consumer, address, PAGE, 1)?;
    let control = Control::expecting_faults()?;
    control.set(register::PAGE_RESPONSE_TIMEOUT_MS, 500)?;
    control.set(register::INJECT_PASID, 0xabcde)?;
    control.set(register::INJECT_FOREIGN_PASIDS, 1)?;
    match fill(&mut consumer, address, PAGE, 2) {
        Err(Error::Failed(Failed {
            reason:
                Reason::Fault {
                    status,
                    address: found,
                },
            bytes_done: 0,
        })) => {
            println!("# {status:?}");
            same("the address", found, address)?;
        }
        other => return Err(format!("it should have failed: {other:?}").into()),
    }
    expect(area.is_all(0..1, 1), "it was written all the same")?;
    fill(&mut consumer, address, PAGE, BYTE)?;
    expect(area.is_all(0..1, BYTE), "it was not written")
}

/// What was translated for a process is not when it is unbound, by the device's cache or past it.
fn after_unbind(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(1)?;
    area.set(0..1, 1);
    let address = area.address(0);
    if mode == Mode::Pinned {
        crate::work::pin(&consumer, &area, 1)?;
    }
    fill(&mut consumer, address, PAGE, BYTE)?;
    let pasid = own_pasid()?;
    let control = Control::expecting_faults()?;
    let found = control.probe(Probe::Read, pasid, address)?;
    same("a probe of what is bound", found, ProbeResult::Reached)?;
    let word = control.get(register::PROBE_DATA)?;
    same("what it reads", word, u32::from_le_bytes([BYTE; 4]))?;
    drop(consumer);
    for probe in Probe::ALL {
        let found = control.probe(*probe, pasid, address)?;
        same("a probe after that", found, ProbeResult::Untranslated)?;
    }
    expect(area.is_all(0..1, BYTE), "it was written all the same")
}

/// Bytes of a frame.
const FRAME: usize = 1024;

/// Receives frames until there are `frames` of them, and hands each one's number to `seen`. The memory
/// for it is another page each time, which is taken away as often as not.
fn receive(
    mode: Mode,
    stream: Stream,
    frames: u64,
    mut seen: impl FnMut(u64) -> Result,
) -> Result<Consumer> {
    const PAGES: usize = 16;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    consumer.set_stream(stream)?;
    for count in 0..frames {
        let page = count as usize % PAGES;
        if page == 0 && mode != Mode::Pinned {
            area.advise(0, PAGES / 2, libc::MADV_DONTNEED)?;
        }
        let descriptor = Descriptor {
            operation: Operation::Receive.number(),
            destination: area.address(page),
            length: PAGE as u64,
            ..Descriptor::default()
        };
        // SAFETY: It is an area.
        let done = unsafe { consumer.carry_out(descriptor) }?;
        same("bytes", done.bytes, FRAME as u64)?;
        for word in 0..FRAME / 8 {
            let found = area.number(page * PAGE + word * 8);
            same("a word", found, frame_word(done.result, word as u64))?;
        }
        seen(done.result)?;
    }
    Ok(consumer)
}

/// Nothing is lost of a sender that can be held back, however fast it is.
fn held_back(mode: Mode) -> Result {
    const FRAMES: u32 = 200;
    for bytes_per_ms in [10_000, 100_000_000] {
        let stream = Stream {
            mode: StreamMode::Cooperate.number(),
            frame_bytes: FRAME as u32,
            bytes_per_ms,
            buffer_bytes: 8 * FRAME as u32,
            frames: FRAMES,
        };
        let mut next = 0;
        let consumer = receive(mode, stream, FRAMES.into(), |frame| {
            same("the frame", frame, next)?;
            next += 1;
            Ok(())
        })?;
        same("lost", consumer.count(Counter::StreamDropped), 0)?;
        let delivered = consumer.count(Counter::StreamDelivered);
        same("delivered", delivered, FRAMES.into())?;
        let most = consumer.count(Counter::StreamBufferedMax);
        expect(most <= 8 * FRAME as u64, "it has kept more than fits")?;
        if mode != Mode::Pinned {
            let faults = consumer.count(Counter::PageGroups);
            expect(faults > 0, "no page was missing")?;
        }
    }
    Ok(())
}

/// What is lost of a sender that cannot be held back is known, frame by frame.
fn losing(mode: Mode) -> Result {
    const RECEIVED: u64 = 100;
    let stream = Stream {
        mode: StreamMode::Drop.number(),
        frame_bytes: FRAME as u32,
        bytes_per_ms: 100_000_000,
        buffer_bytes: 8 * FRAME as u32,
        frames: 0,
    };
    let (mut next, mut missing) = (0, 0);
    let consumer = receive(mode, stream, RECEIVED, |frame| {
        expect(frame >= next, "a frame has come twice, or late")?;
        missing += frame - next;
        next = frame + 1;
        Ok(())
    })?;
    expect(missing > 0, "nothing was lost")?;
    consumer.set_stream(Stream {
        mode: StreamMode::Off.number(),
        ..stream
    })?;
    let count = |counter| consumer.count(counter);
    same("delivered", count(Counter::StreamDelivered), RECEIVED)?;
    let kept = count(Counter::StreamArrived) - count(Counter::StreamDropped) - RECEIVED;
    expect(
        kept <= 8,
        format_args!("{kept} frames are neither lost nor here"),
    )?;
    expect(
        count(Counter::StreamDropped) >= missing,
        "more are missing than were counted",
    )?;
    Ok(())
}
