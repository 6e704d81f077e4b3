// SPDX-License-Identifier: GPL-2.0

//! The device as a whole: which queue is at work when, and which address spaces are in use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::abi::{
    Counter, Field, Probe, ProbeResult, Status, StreamMode, PAGE_BYTES, PAGE_RESPONSE_TIMEOUT_MS,
    QUEUES,
};
use crate::cache::Geometry;
use crate::counters::Counters;
use crate::host::{Access, Host, PageResponse};
use crate::injection::Injection;
use crate::memory::{Memory, Place};
use crate::page_requests::{PageRequests, Settled};
use crate::queue::{Queue, Shared, Step};
use crate::registers::Settings;
use crate::stream;

/// Bytes that a queue may move before it is the next one's turn: so large that a switch costs
/// nothing, so small that the host is not kept from other things for long.
const TURN_BYTES: u64 = 1 << 20;

/// Steps that a queue may take in a turn: those of [`TURN_BYTES`] in small operations.
const TURN_STEPS: u32 = 1 << 12;

/// The device.
pub struct Device {
    pub(crate) queues: Vec<Queue>,
    pub(crate) shared: Shared,
    pub(crate) settings: Settings,
    /// Of events that are no queue's, and of queues that were started again.
    pub(crate) counters: Counters,
    /// Queues that may have something to do, each once.
    ready: VecDeque<u32>,
    /// Queues that are to be looked at again whenever something has happened.
    later: BTreeSet<u32>,
    /// How many queues use a PASID.
    users: BTreeMap<u32, u32>,
    /// Which PASID a queue is counted as a user of.
    uses: BTreeMap<u32, u32>,
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// As after a reset.
    pub fn new() -> Self {
        Self {
            queues: (0..QUEUES).map(Queue::new).collect(),
            shared: Shared {
                memory: Memory::new(Geometry::DEFAULT),
                requests: PageRequests::new(),
                injection: Injection::default(),
                window: 1,
                timeout_ms: PAGE_RESPONSE_TIMEOUT_MS,
            },
            settings: Settings::new(Geometry::DEFAULT),
            counters: Counters::new(),
            ready: VecDeque::new(),
            later: BTreeSet::new(),
            users: BTreeMap::new(),
            uses: BTreeMap::new(),
        }
    }

    /// Stops everything, lets go of all address spaces, and forgets all settings. The host owes no
    /// answers any more.
    pub fn reset(&mut self, host: &mut impl Host) {
        let used: Vec<u32> = self.shared.memory.attached().collect();
        for pasid in used {
            self.shared.memory.detach(host, pasid);
        }
        *self = Self::new();
    }

    /// Does what there is to do. The host calls it when [`Host::call_at`] says.
    pub fn run(&mut self, host: &mut impl Host) {
        let now = host.now();
        while let Some(settled) = self.shared.requests.expire(now) {
            self.settle(host, settled);
        }
        for index in core::mem::take(&mut self.later) {
            self.wake(index);
        }
        for _ in 0..self.ready.len() {
            if let Some(index) = self.ready.pop_front() {
                self.turn(host, index);
            }
        }
        self.schedule(host);
    }

    /// Lets a queue do its share.
    fn turn(&mut self, host: &mut impl Host, index: u32) {
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return;
        };
        let mut bytes = 0;
        for _ in 0..TURN_STEPS {
            match queue.step(host, &mut self.shared) {
                Step::Moved(more) => bytes += more,
                Step::Idle => return,
                Step::Later => {
                    self.later.insert(index);
                    return;
                }
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        self.ready.push_back(index);
    }

    /// A queue may have something to do.
    fn wake(&mut self, index: u32) {
        if !self.ready.contains(&index) {
            self.ready.push_back(index);
        }
    }

    /// Tells the host when there will be something to do.
    fn schedule(&mut self, host: &mut impl Host) {
        if !self.ready.is_empty() {
            host.call_at(host.now());
            return;
        }
        let arrivals = self.later.iter().filter_map(|index| {
            let queue = self.queues.get(*index as usize);
            queue.and_then(Queue::next_arrival)
        });
        let next = arrivals.chain(self.shared.requests.next_expiry()).min();
        if let Some(time) = next {
            host.call_at(time);
        }
    }

    /// A group of page requests has ended.
    fn settle(&mut self, host: &mut impl Host, settled: Settled) {
        if let Some(index) = settled.queue {
            if let Some(queue) = self.queues.get_mut(index as usize) {
                queue.answered(host, settled.answer, settled.elapsed);
            }
            self.wake(index);
        }
        self.release(host, settled.pasid);
    }

    /// The host has answered a group of page requests.
    pub fn page_response(
        &mut self,
        host: &mut impl Host,
        pasid: u32,
        group: u16,
        response: PageResponse,
    ) {
        let settled = self.shared.requests.respond(
            &mut self.counters,
            &mut self.shared.injection,
            host.now(),
            pasid,
            group,
            response,
        );
        if let Some(settled) = settled {
            self.settle(host, settled);
        }
        // An index may be free again.
        for index in core::mem::take(&mut self.later) {
            self.wake(index);
        }
        self.schedule(host);
    }

    /// The host says that what is from `first` to `last` is no longer where it was.
    pub fn invalidate(&mut self, pasid: u32, first: u64, last: u64) {
        let memory = &mut self.shared.memory;
        let found = memory.invalidate(pasid, first / PAGE_BYTES, last / PAGE_BYTES);
        self.counters.add(Counter::Invalidations, 1);
        self.counters.add(Counter::Invalidated, found);
    }

    /// What `counter` stands at, for the device as a whole.
    pub fn counter(&self, counter: Counter) -> u64 {
        let mut sum = self.counters.clone();
        for queue in &self.queues {
            sum.include(queue.counters());
        }
        sum.get(counter)
    }

    /// All counters begin at 0 again.
    pub(crate) fn reset_counters(&mut self) {
        self.counters = Counters::new();
        for queue in &mut self.queues {
            *queue.counters_mut() = Counters::new();
        }
    }

    /// Starts a queue, or halts it with what is wrong.
    pub(crate) fn start(&mut self, host: &mut impl Host, index: u32) {
        self.stop(host, index);
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return;
        };
        self.counters.include(queue.counters());
        queue.start();
        if let Err(field) = queue.config.check() {
            queue.halt(host, Status::Malformed, field, 0);
            return;
        }
        let pasid = queue.config.pasid;
        if self.shared.memory.attach(host, pasid).is_err() {
            queue.halt(host, Status::Malformed, Field::Pasid, 0);
            return;
        }
        self.uses.insert(index, pasid);
        *self.users.entry(pasid).or_insert(0) += 1;
    }

    /// Stops a queue.
    pub(crate) fn stop(&mut self, host: &mut impl Host, index: u32) {
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return;
        };
        queue.stop();
        self.later.remove(&index);
        self.shared.requests.abandon(index);
        if let Some(pasid) = self.uses.remove(&index) {
            if let Some(users) = self.users.get_mut(&pasid) {
                *users -= 1;
                if *users == 0 {
                    self.users.remove(&pasid);
                }
            }
            self.release(host, pasid);
        }
    }

    /// Lets go of a PASID if nothing uses it.
    fn release(&mut self, host: &mut impl Host, pasid: u32) {
        if !self.users.contains_key(&pasid) && !self.shared.requests.are_under_way(pasid) {
            self.shared.memory.detach(host, pasid);
            self.shared.requests.forget(pasid);
        }
    }

    /// A consumer has rung.
    pub(crate) fn ring(&mut self, host: &mut impl Host, index: u32, tail: u32) {
        if let Some(queue) = self.queues.get_mut(index as usize) {
            queue.ring(host, tail);
            self.wake(index);
            self.schedule(host);
        }
    }

    /// Starts or ends the stream of a queue.
    pub(crate) fn set_stream(&mut self, host: &mut impl Host, index: u32, mode: StreamMode) {
        if let Some(queue) = self.queues.get_mut(index as usize) {
            let settings = stream::Settings {
                mode,
                ..queue.stream_settings
            };
            queue.set_stream(host.now(), settings);
            self.wake(index);
            self.schedule(host);
        }
    }

    /// Tries an access that nobody asked for.
    pub(crate) fn probe(&mut self, host: &mut impl Host, probe: Probe) -> ProbeResult {
        let place = Place {
            pasid: self.settings.probe_pasid,
            address: self.settings.probe_address,
            ahead: 8,
        };
        let (access, cached) = match probe {
            Probe::Read => (Access::Read, true),
            Probe::Write => (Access::Write, true),
            Probe::ReadUncached => (Access::Read, false),
            Probe::WriteUncached => (Access::Write, false),
        };
        let memory = &mut self.shared.memory;
        let counters = &mut self.counters;
        let target = match cached {
            true => memory.translate(host, counters, place, access).ok(),
            false => memory.translate_uncached(host, counters, place, access),
        };
        let Some(target) = target else {
            return ProbeResult::Untranslated;
        };
        let mut data = self.settings.probe_data.to_le_bytes();
        let result = match access {
            Access::Read => host.read(target, &mut data),
            Access::Write => host.write(target, &data),
        };
        self.settings.probe_data = u64::from_le_bytes(data);
        match result {
            Ok(()) => ProbeResult::Reached,
            Err(_) => ProbeResult::Bus,
        }
    }
}
