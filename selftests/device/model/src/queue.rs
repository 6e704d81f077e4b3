// SPDX-License-Identifier: GPL-2.0

//! A queue: from a descriptor in a consumer's memory to its completion.
//!
//! Each step is one access, or one piece of an operation. A step that misses a page is taken again
//! when the host has answered; nothing is kept of it but what was missed.

use crate::abi::{
    queue, status, Completion, Counter, Descriptor, Field, Status, ATTEMPTS, PAGE_BYTES,
    RING_LOG2_MAX,
};
use crate::counters::Counters;
use crate::descriptor::{check, fits};
use crate::host::{Host, PageResponse};
use crate::injection::Injection;
use crate::memory::{Memory, Miss, Place, Wanted};
use crate::operation::{words, Obstacle, Progress, Surroundings, Work};
use crate::page_requests::{Answer, PageRequests, Plan, Unsent};
use crate::stream::{Settings, Stream};

/// What the queues of a device have in common.
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    pub(crate) requests: PageRequests,
    pub(crate) injection: Injection,
    /// Pages that a page request group asks for at most.
    pub(crate) window: u32,
    /// Milliseconds after which a page request counts as unanswered.
    pub(crate) timeout_ms: u32,
}

/// What a driver sets before it starts a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Config {
    pub(crate) pasid: u32,
    pub(crate) ring_log2: u32,
    pub(crate) ring: u64,
    pub(crate) completions: u64,
    pub(crate) vector: u32,
}

impl Config {
    fn entries(&self) -> u32 {
        1 << self.ring_log2
    }

    /// # Errors
    ///
    /// The first field with which a queue cannot start.
    pub(crate) fn check(&self) -> Result<(), Field> {
        if !(1..=RING_LOG2_MAX).contains(&self.ring_log2) {
            return Err(Field::RingLog2);
        }
        let array = |address: u64, bytes: u64| {
            address % bytes == 0 && fits(address, u64::from(self.entries()) * bytes)
        };
        if !array(self.ring, Descriptor::BYTES) {
            return Err(Field::RingAddress);
        }
        if !array(self.completions, Completion::BYTES) {
            return Err(Field::CompletionsAddress);
        }
        Ok(())
    }

    /// Where the descriptor or completion of `bytes` with this `count` is, and what follows it.
    fn place(&self, array: u64, count: u32, bytes: u64) -> Place {
        let index = u64::from(count % self.entries());
        Place {
            pasid: self.pasid,
            address: array + index * bytes,
            ahead: bytes,
        }
    }
}

/// What a queue is about.
#[derive(Debug)]
enum Stage {
    /// To fetch the next descriptor.
    Fetch,
    /// To carry one out.
    Work(Work),
    /// To write how that has ended.
    Complete(Completion, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stopped,
    Running,
    Halted(Status, Field),
}

/// How far a step has brought a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes further.
    Moved(u64),
    /// There is nothing to do until the doorbell rings, or the host answers.
    Idle,
    /// It is to be tried again when time has passed or an answer has come.
    Later,
}

/// A queue.
pub(crate) struct Queue {
    index: u32,
    pub(crate) config: Config,
    /// What the next stream is to be like.
    pub(crate) stream_settings: Settings,
    state: State,
    head: u32,
    tail: u32,
    stage: Stage,
    /// What the host was asked for.
    waiting: Option<Wanted>,
    /// How often, for this step.
    attempts: u32,
    halt_address: u64,
    counters: Counters,
    stream: Stream,
}

impl Queue {
    pub(crate) fn new(index: u32) -> Self {
        Self {
            index,
            config: Config::default(),
            stream_settings: Settings::OFF,
            state: State::Stopped,
            head: 0,
            tail: 0,
            stage: Stage::Fetch,
            waiting: None,
            attempts: 0,
            halt_address: 0,
            counters: Counters::new(),
            stream: Stream::off(),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(crate) fn head(&self) -> u32 {
        self.head
    }

    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    pub(crate) fn halt_address(&self) -> u64 {
        self.halt_address
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// When the stream has something for a queue that waits for it.
    pub(crate) fn next_arrival(&self) -> Option<u64> {
        match (&self.stage, self.is_running()) {
            (Stage::Work(_), true) => self.stream.next_arrival(),
            _ => None,
        }
    }

    /// The bits of the status register that the queue itself knows.
    pub(crate) fn status(&self) -> u32 {
        match self.state {
            State::Stopped => 0,
            State::Running if self.waiting.is_some() => status::RUNNING | status::WAITING,
            State::Running => status::RUNNING,
            State::Halted(cause, field) => {
                status::HALTED
                    | cause.number() << status::CAUSE_SHIFT
                    | field.number() << status::FIELD_SHIFT
            }
        }
    }

    /// Begins anew. The configuration must have been checked.
    pub(crate) fn start(&mut self) {
        self.stop();
        self.counters = Counters::new();
        self.state = State::Running;
        self.head = 0;
        self.tail = 0;
        self.halt_address = 0;
    }

    /// Leaves everything as it is.
    pub(crate) fn stop(&mut self) {
        self.state = State::Stopped;
        self.stage = Stage::Fetch;
        self.waiting = None;
        self.attempts = 0;
        self.stream = Stream::off();
    }

    /// Cannot go on.
    pub(crate) fn halt(&mut self, host: &mut impl Host, cause: Status, field: Field, address: u64) {
        self.stop();
        self.state = State::Halted(cause, field);
        self.halt_address = address;
        self.counters.add(Counter::Halts, 1);
        self.interrupt(host);
    }

    fn interrupt(&mut self, host: &mut impl Host) {
        self.counters.add(Counter::Interrupts, 1);
        host.interrupt(self.config.vector);
    }

    /// The consumer has written `tail` descriptors.
    pub(crate) fn ring(&mut self, host: &mut impl Host, tail: u32) {
        if self.is_running() {
            self.tail = tail;
            if tail.wrapping_sub(self.head) > self.config.entries() {
                self.halt(host, Status::Malformed, Field::Tail, 0);
            }
        }
    }

    /// Starts a stream as it was set, or ends it.
    pub(crate) fn set_stream(&mut self, now: u64, settings: Settings) {
        if self.is_running() && settings.are_valid() {
            self.stream = Stream::new(settings, now);
        } else {
            self.stream = Stream::off();
        }
    }

    /// Lets the stream catch up with the time.
    pub(crate) fn advance_stream(&mut self, now: u64) {
        self.stream.advance(now, &mut self.counters);
    }

    /// The host has answered, or has not.
    pub(crate) fn answered(&mut self, host: &mut impl Host, answer: Answer, elapsed: u64) {
        let Some(wanted) = self.waiting.take() else {
            return;
        };
        let (counter, failure) = match answer {
            Answer::Response(PageResponse::Success) => (Counter::GroupsResolved, None),
            Answer::Response(PageResponse::Invalid) => {
                (Counter::GroupsInvalid, Some(Status::FaultInvalid))
            }
            Answer::Response(PageResponse::Failure) => {
                (Counter::GroupsFailed, Some(Status::FaultFailed))
            }
            Answer::Unanswered => (Counter::GroupsUnanswered, Some(Status::FaultUnanswered)),
        };
        self.counters.add(counter, 1);
        if answer != Answer::Unanswered {
            self.counters.add(Counter::ResponseNs, elapsed);
            self.counters.raise(Counter::ResponseNsMax, elapsed);
        }
        if let Some(status) = failure {
            self.fail(host, status, wanted.address);
        }
    }

    /// The present step cannot be taken: the operation ends, or without one the queue.
    fn fail(&mut self, host: &mut impl Host, status: Status, address: u64) {
        self.attempts = 0;
        match &self.stage {
            Stage::Work(_) => self.finish(status, Field::None, address),
            Stage::Fetch | Stage::Complete(..) => self.halt(host, status, Field::None, address),
        }
    }

    /// The operation ends.
    fn finish(&mut self, status: Status, field: Field, fault_address: u64) {
        let Stage::Work(work) = &self.stage else {
            return;
        };
        let completion = Completion {
            status: status.number(),
            field: field.number(),
            fault_address,
            bytes_done: work.done(),
            result: work.result(&self.stream),
        };
        match status {
            Status::Done => work.retire(&mut self.stream, &mut self.counters),
            Status::Malformed => self.counters.add(Counter::Malformed, 1),
            _ => self.counters.add(Counter::Failed, 1),
        }
        self.stage = Stage::Complete(completion, work.interrupt());
    }

    /// Takes the next step.
    pub(crate) fn step(&mut self, host: &mut impl Host, shared: &mut Shared) -> Step {
        if !self.is_running() || self.waiting.is_some() {
            return Step::Idle;
        }
        let mut around = Surroundings {
            host,
            memory: &mut shared.memory,
            counters: &mut self.counters,
            stream: &mut self.stream,
        };
        let result = match &mut self.stage {
            Stage::Fetch => {
                if self.head == self.tail {
                    return Step::Idle;
                }
                fetch(&self.config, self.head, &mut around).map(|words| {
                    self.stage = self.begin(words, &mut shared.injection);
                    Step::Moved(Descriptor::BYTES)
                })
            }
            Stage::Work(work) => {
                let now = around.host.now();
                around.stream.advance(now, around.counters);
                match work.step(&mut around) {
                    Ok(Progress::Moved(bytes)) => Ok(Step::Moved(bytes)),
                    Ok(Progress::Done) => {
                        self.finish(Status::Done, Field::None, 0);
                        Ok(Step::Moved(0))
                    }
                    Ok(Progress::Starved) => return Step::Later,
                    Err(Obstacle::Miss(miss)) => Err(miss),
                    Err(Obstacle::Malformed(field, address)) => {
                        self.finish(Status::Malformed, field, address);
                        Ok(Step::Moved(0))
                    }
                    Err(Obstacle::NoStream) => {
                        self.finish(Status::NoStream, Field::None, 0);
                        Ok(Step::Moved(0))
                    }
                }
            }
            Stage::Complete(completion, interrupt) => {
                let interrupt = *interrupt;
                complete(&self.config, self.head, *completion, &mut around).map(|()| {
                    self.counters.add(Counter::Descriptors, 1);
                    self.head = self.head.wrapping_add(1);
                    self.stage = Stage::Fetch;
                    if interrupt {
                        self.interrupt(host);
                    }
                    Step::Moved(Completion::BYTES)
                })
            }
        };
        match result {
            Ok(step) => {
                self.attempts = 0;
                step
            }
            Err(Miss::Bus(address)) => {
                self.fail(host, Status::Bus, address);
                Step::Moved(0)
            }
            Err(Miss::Page(wanted)) => self.request(host, shared, wanted),
        }
    }

    /// What a descriptor that was fetched makes of the queue.
    fn begin(&mut self, mut words: [u32; 16], injection: &mut Injection) -> Stage {
        injection.descriptor(&mut words);
        let descriptor = Descriptor::from_words(words);
        match check(descriptor) {
            Ok(checked) => Stage::Work(Work::new(checked, injection.pasid(self.config.pasid))),
            Err(field) => {
                self.counters.add(Counter::Malformed, 1);
                Stage::Complete(
                    Completion {
                        status: Status::Malformed.number(),
                        field: field.number(),
                        ..Completion::default()
                    },
                    // Of flags that are not what they must be, that one still counts.
                    descriptor.flags & Descriptor::INTERRUPT != 0,
                )
            }
        }
    }

    /// Asks the host for a page that is missing.
    fn request(&mut self, host: &mut impl Host, shared: &mut Shared, wanted: Wanted) -> Step {
        if self.attempts >= ATTEMPTS {
            self.fail(host, Status::FaultPersistent, wanted.address);
            return Step::Moved(0);
        }
        let plan = Plan {
            pasid: match &self.stage {
                Stage::Work(work) => work.pasid(),
                _ => self.config.pasid,
            },
            queue: self.index,
            wanted,
            window: shared.window,
            timeout: u64::from(shared.timeout_ms) * 1_000_000,
        };
        match shared.requests.send(host, &mut self.counters, &plan) {
            Ok(()) => {
                self.attempts += 1;
                self.waiting = Some(wanted);
                Step::Idle
            }
            Err(Unsent::Full) => Step::Later,
            Err(Unsent::Refused) => {
                self.fail(host, Status::FaultRefused, wanted.address);
                Step::Moved(0)
            }
        }
    }
}

fn fetch<H: Host>(
    config: &Config,
    head: u32,
    around: &mut Surroundings<'_, H>,
) -> Result<[u32; 16], Miss> {
    let place = config.place(config.ring, head, Descriptor::BYTES);
    let mut data = [0; Descriptor::BYTES as usize];
    around.read(place, &mut data)?;
    Ok(words(&data))
}

/// Writes a completion, its status last.
fn complete<H: Host>(
    config: &Config,
    head: u32,
    completion: Completion,
    around: &mut Surroundings<'_, H>,
) -> Result<(), Miss> {
    let place = config.place(config.completions, head, Completion::BYTES);
    let mut data = [0; Completion::BYTES as usize];
    for (bytes, word) in data.chunks_exact_mut(4).zip(completion.to_words()) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let (status, rest) = data.split_at(4);
    let behind = Place {
        address: place.address + 4,
        ..place
    };
    around.write(behind, rest)?;
    around.write(place, status)
}

// A descriptor and a completion are read and written at once.
const _: () = assert!(PAGE_BYTES % Descriptor::BYTES == 0 && PAGE_BYTES % Completion::BYTES == 0);
const _: () = assert!(queue::COUNTERS + 8 * Counter::ALL.len() as u64 <= queue::BLOCK_BYTES);
