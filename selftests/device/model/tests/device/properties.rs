// SPDX-License-Identifier: GPL-2.0

//! Any operations, over memory of which any part is there, with pages taken away at any time.

use proptest::prelude::*;
use svadma_model::abi::{
    register, Counter, Descriptor, Operation, Replacement, Status, PAGE_BYTES,
};
use svadma_model::checksum::crc32c;
use svadma_model::host::{Access, Permissions};

use crate::machine::{noise, Machine, DATA, PAGE, RO, RW};

/// Pages of data; the first half is read and the second written, so that they do not overlap.
const PAGES: u64 = 16;
const HALF: u64 = PAGES / 2 * PAGE_BYTES;
/// Where the list is.
const LIST: u64 = DATA + 0x10_0000;

#[derive(Clone, Debug)]
struct Job {
    operation: Operation,
    source: u64,
    destination: u64,
    length: u64,
    cuts: Vec<u64>,
    /// Pages that are taken away, each after so many groups of page requests.
    taken: Vec<(usize, u64)>,
}

fn job() -> impl Strategy<Value = Job> {
    let operation = prop::sample::select(vec![
        Operation::Copy,
        Operation::Fill,
        Operation::Checksum,
        Operation::Gather,
        Operation::Scatter,
    ]);
    (
        operation,
        0..HALF,
        0..HALF,
        1..=HALF,
        prop::collection::vec(1_u64..9000, 0..6),
        prop::collection::vec((0_usize..6, 0..PAGES), 0..6),
    )
        .prop_map(
            |(operation, source, destination, length, cuts, taken)| Job {
                operation,
                source: DATA + source,
                destination: DATA + HALF + destination,
                length: length.min(HALF - source).min(HALF - destination),
                cuts,
                taken,
            },
        )
}

fn page() -> impl Strategy<Value = Option<Permissions>> {
    prop_oneof![8 => Just(Some(RW)), 1 => Just(Some(RO)), 1 => Just(None)]
}

/// Ranges that follow each other from `start` on and are `length` long together.
fn ranges(start: u64, length: u64, cuts: &[u64]) -> Vec<(u64, u64)> {
    let mut ranges = vec![];
    let mut done = 0;
    for cut in cuts {
        if *cut < length - done {
            ranges.push((start + done, *cut));
            done += cut;
        }
    }
    ranges.push((start + done, length - done));
    ranges
}

/// The first byte of an operation that cannot be accessed, and where.
fn stops(machine: &Machine, job: &Job) -> (u64, Option<u64>) {
    let allowed = |address, access| {
        let permissions = machine.backed(1, address);
        permissions.is_some_and(|permissions| permissions.allow(access))
    };
    for done in 0..job.length {
        let (source, destination) = (job.source + done, job.destination + done);
        if job.operation != Operation::Fill && !allowed(source, Access::Read) {
            return (done, Some(source));
        }
        if job.operation != Operation::Checksum && !allowed(destination, Access::Write) {
            return (done, Some(destination));
        }
    }
    (job.length, None)
}

fn carry_out(machine: &mut Machine, job: &Job) -> svadma_model::abi::Completion {
    let source = ranges(job.source, job.length, &job.cuts);
    let destination = ranges(job.destination, job.length, &job.cuts);
    let empty = Descriptor {
        operation: job.operation.number(),
        length: job.length,
        ..Descriptor::default()
    };
    let descriptor = match job.operation {
        Operation::Fill => Descriptor {
            destination: job.destination,
            pattern: 0x8877_6655_4433_2211,
            ..empty
        },
        Operation::Checksum => Descriptor {
            source: job.source,
            ..empty
        },
        Operation::Gather => {
            machine.poke_list(1, LIST, &source);
            Descriptor {
                source: LIST,
                destination: job.destination,
                list_entries: source.len() as u32,
                ..empty
            }
        }
        Operation::Scatter => {
            machine.poke_list(1, LIST, &destination);
            Descriptor {
                source: job.source,
                destination: LIST,
                list_entries: destination.len() as u32,
                ..empty
            }
        }
        _ => Descriptor {
            source: job.source,
            destination: job.destination,
            ..empty
        },
    };
    let number = machine.submit(0, descriptor);
    for turn in 0.. {
        machine.run();
        for (_, page) in job.taken.iter().filter(|(when, _)| *when == turn) {
            machine.unmap(1, DATA + page * PAGE_BYTES);
        }
        let Some(group) = machine.take_group() else {
            break;
        };
        machine.serve(&group);
    }
    machine.completion(0, number)
}

fn byte_of(job: &Job, before: &[u8], at: u64) -> u8 {
    match job.operation {
        Operation::Fill => 0x8877_6655_4433_2211_u64.to_le_bytes()[(at % 8) as usize],
        _ => before[(job.source - DATA + at) as usize],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Each operation does exactly what it says, up to the first byte that it may not touch.
    #[test]
    fn memory_is_as_it_should_be(
        pages in prop::collection::vec(page(), PAGES as usize),
        jobs in prop::collection::vec(job(), 1..5),
        entries in prop::sample::select(vec![0_u32, 1, 4, 256]),
        replacement in prop::sample::select(Replacement::ALL),
        windows in (1_u32..8, 1_u32..8),
        generous in any::<bool>(),
    ) {
        let mut machine = Machine::new(1, 3);
        machine.world.generous = generous;
        machine.back(1, LIST, PAGE_BYTES, RW);
        let content = noise(PAGE * PAGES as usize);
        for (number, permissions) in (0..).zip(&pages) {
            if let Some(permissions) = permissions {
                let address = DATA + number * PAGE_BYTES;
                let from = number as usize * PAGE;
                machine.back(1, address, PAGE_BYTES, *permissions);
                machine.poke(1, address, &content[from..from + PAGE]);
            }
        }
        machine.write(register::CACHE_ENTRIES, entries);
        machine.write(register::CACHE_WAYS, entries.clamp(1, 4));
        machine.write(register::CACHE_REPLACEMENT, replacement.number());
        machine.write(register::CACHE_APPLY, 1);
        prop_assert_eq!(machine.read(register::CACHE_APPLY), 0);
        machine.write(register::PAGE_REQUEST_WINDOW, windows.0);
        machine.write(register::TRANSLATION_WINDOW, windows.1);

        let mut expected = content;
        for job in &jobs {
            let (done, fault) = stops(&machine, job);
            let completion = carry_out(&mut machine, job);
            let status = match fault {
                None => Status::Done,
                Some(_) => Status::FaultInvalid,
            };
            prop_assert_eq!(completion.status, status.number());
            prop_assert_eq!(completion.bytes_done, done);
            prop_assert_eq!(completion.fault_address, fault.unwrap_or(0));
            let before = expected.clone();
            if job.operation == Operation::Checksum {
                let from = (job.source - DATA) as usize;
                let sum = crc32c(0, &before[from..from + done as usize]);
                prop_assert_eq!(completion.result, u64::from(sum));
            } else {
                for at in 0..done {
                    let place = (job.destination - DATA + at) as usize;
                    expected[place] = byte_of(job, &before, at);
                }
            }
            for (number, permissions) in (0..).zip(&pages) {
                if permissions.is_some() {
                    let from = number as usize * PAGE;
                    let found = machine.peek(1, DATA + number * PAGE_BYTES, PAGE);
                    prop_assert!(found == expected[from..from + PAGE], "page {}", number);
                }
            }
        }
        prop_assert_eq!(machine.count(Counter::Descriptors), jobs.len() as u64);
        prop_assert_eq!(machine.count(Counter::ResponsesUnexpected), 0);
    }
}
