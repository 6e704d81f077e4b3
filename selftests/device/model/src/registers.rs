// SPDX-License-Identifier: GPL-2.0

//! What the processor sees of the device.

use crate::abi::{
    doorbell, queue, register, status, Counter, Probe, ProbeResult, Replacement, StreamMode,
    BAR_BYTES, CACHE_ENTRIES_MAX, IDENTITY, PAGE_BYTES, PAGE_RESPONSE_TIMEOUT_MS_MAX, PASID_BITS,
    QUEUES, RING_LOG2_MAX, VECTORS, VERSION, WINDOW_MAX,
};
use crate::cache::{Geometry, GeometryError};
use crate::device::Device;
use crate::host::Host;

/// What reads when nothing is there, as on a bus.
const NOTHING: u32 = u32::MAX;

/// What was written to registers and has no effect by itself.
pub(crate) struct Settings {
    cache_entries: u32,
    cache_ways: u32,
    cache_replacement: Replacement,
    /// Offset of the register of the cache that was refused.
    cache_refused: u64,
    pub(crate) probe_address: u64,
    pub(crate) probe_pasid: u32,
    pub(crate) probe_data: u64,
    probe_result: ProbeResult,
}

impl Settings {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            cache_entries: geometry.entries(),
            cache_ways: geometry.ways(),
            cache_replacement: geometry.replacement(),
            cache_refused: 0,
            probe_address: 0,
            probe_pasid: 0,
            probe_data: 0,
            probe_result: ProbeResult::None,
        }
    }
}

/// Where an offset in BAR 0 leads.
enum Place {
    /// To a register of the device.
    Device(u64),
    /// To a register of a queue.
    Queue(u32, u64),
    /// To the page that a consumer has.
    Doorbell(u32, u64),
    Nowhere,
}

fn place(offset: u64) -> Place {
    let queues = queue::block(0)..queue::block(QUEUES);
    let doorbells = doorbell::page(0)..doorbell::page(QUEUES);
    // There are so many queues that their number has 32 bits.
    if offset % 4 != 0 {
        Place::Nowhere
    } else if offset < register::END {
        Place::Device(offset)
    } else if queues.contains(&offset) {
        let offset = offset - queues.start;
        let index = (offset / queue::BLOCK_BYTES) as u32;
        Place::Queue(index, offset % queue::BLOCK_BYTES)
    } else if doorbells.contains(&offset) {
        let offset = offset - doorbells.start;
        let index = (offset / PAGE_BYTES) as u32;
        Place::Doorbell(index, offset % PAGE_BYTES)
    } else {
        Place::Nowhere
    }
}

// The pages of the queues end where the BAR does, or before.
const _: () = assert!(doorbell::page(QUEUES) <= BAR_BYTES);
const _: () = assert!(queue::block(QUEUES) <= doorbell::page(0));

/// The half of `value` that the register at `offset` has, of those that start at `start`.
fn half(value: u64, start: u64, offset: u64) -> u32 {
    if offset == start {
        value as u32
    } else {
        (value >> 32) as u32
    }
}

/// Sets that half.
fn set_half(value: &mut u64, start: u64, offset: u64, half: u32) {
    if offset == start {
        *value = *value >> 32 << 32 | u64::from(half);
    } else {
        *value = *value & u64::from(u32::MAX) | u64::from(half) << 32;
    }
}

/// The second half of a register of 64 bits.
const fn upper(start: u64) -> u64 {
    start + 4
}

/// Sets a register to what it can take.
fn set(register: &mut u32, value: u32, range: core::ops::RangeInclusive<u32>) {
    if range.contains(&value) {
        *register = value;
    }
}

/// Which counter the register at `offset` has a half of, of those that start at `start`.
fn counter(start: u64, offset: u64) -> Option<Counter> {
    let index = offset.checked_sub(start)? / 8;
    Counter::from_number(u32::try_from(index).ok()?)
}

const PASIDS: core::ops::RangeInclusive<u32> = 0..=(1 << PASID_BITS) - 1;

impl Device {
    /// Reads the register at `offset` in BAR 0. What is none reads as all ones.
    pub fn read(&mut self, host: &mut impl Host, offset: u64) -> u32 {
        match place(offset) {
            Place::Device(offset) => self.read_device(host, offset),
            Place::Queue(index, offset) => self.read_queue(host, index, offset),
            Place::Doorbell(index, offset) => {
                let offset = match offset {
                    doorbell::TAIL => queue::TAIL,
                    doorbell::HEAD => queue::HEAD,
                    doorbell::STATUS => queue::STATUS,
                    doorbell::HALT_ADDRESS => queue::HALT_ADDRESS,
                    offset if offset == upper(doorbell::HALT_ADDRESS) => upper(queue::HALT_ADDRESS),
                    offset if offset >= doorbell::COUNTERS => {
                        queue::COUNTERS + (offset - doorbell::COUNTERS)
                    }
                    _ => return NOTHING,
                };
                self.read_queue(host, index, offset)
            }
            Place::Nowhere => NOTHING,
        }
    }

    fn read_device(&mut self, host: &mut impl Host, offset: u64) -> u32 {
        let settings = &self.settings;
        let injection = &self.shared.injection;
        match offset {
            register::IDENTITY => IDENTITY,
            register::VERSION => VERSION.into(),
            register::QUEUES => QUEUES,
            register::VECTORS => VECTORS,
            register::CACHE_ENTRIES => settings.cache_entries,
            register::CACHE_WAYS => settings.cache_ways,
            register::CACHE_REPLACEMENT => settings.cache_replacement.number(),
            // Lower than all that is 64 bits wide.
            register::CACHE_APPLY => settings.cache_refused as u32,
            register::PAGE_REQUEST_WINDOW => self.shared.window,
            register::TRANSLATION_WINDOW => self.shared.memory.window(),
            register::PAGE_RESPONSE_TIMEOUT_MS => self.shared.timeout_ms,
            register::INJECT_DROPPED_RESPONSES => injection.dropped_responses,
            register::INJECT_LATE_RESPONSES => injection.late_responses,
            register::INJECT_LATE_MS => injection.late_ms,
            register::INJECT_DAMAGED_DESCRIPTORS => injection.damaged_descriptors,
            register::INJECT_DAMAGED_WORD => injection.damaged_word,
            register::INJECT_FOREIGN_PASIDS => injection.foreign_pasids,
            register::INJECT_PASID => injection.pasid,
            register::PROBE_PASID => settings.probe_pasid,
            register::PROBE_RESULT => settings.probe_result.number(),
            offset => {
                for (start, value) in [
                    (register::PROBE_ADDRESS, settings.probe_address),
                    (register::PROBE_DATA, settings.probe_data),
                ] {
                    if offset == start || offset == upper(start) {
                        return half(value, start, offset);
                    }
                }
                match counter(register::COUNTERS, offset) {
                    Some(counter) => {
                        self.advance_streams(host);
                        half(self.counter(counter), offset / 8 * 8, offset)
                    }
                    None => NOTHING,
                }
            }
        }
    }

    fn advance_streams(&mut self, host: &mut impl Host) {
        let now = host.now();
        for queue in &mut self.queues {
            queue.advance_stream(now);
        }
    }

    fn read_queue(&mut self, host: &mut impl Host, index: u32, offset: u64) -> u32 {
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return NOTHING;
        };
        queue.advance_stream(host.now());
        match offset {
            queue::CONTROL => queue.is_running().into(),
            queue::STATUS => {
                let pasid = queue.config.pasid;
                match self.shared.requests.are_draining(pasid) {
                    true => queue.status() | status::DRAINING,
                    false => queue.status(),
                }
            }
            queue::PASID => queue.config.pasid,
            queue::RING_LOG2 => queue.config.ring_log2,
            queue::VECTOR => queue.config.vector,
            queue::HEAD => queue.head(),
            queue::TAIL => queue.tail(),
            queue::STREAM_MODE => queue.stream().settings().mode.number(),
            queue::STREAM_FRAME_BYTES => queue.stream_settings.frame_bytes,
            queue::STREAM_BYTES_PER_MS => queue.stream_settings.bytes_per_ms,
            queue::STREAM_BUFFER_BYTES => queue.stream_settings.buffer_bytes,
            queue::STREAM_FRAMES => queue.stream_settings.frames,
            offset => {
                for (start, value) in [
                    (queue::RING_ADDRESS, queue.config.ring),
                    (queue::COMPLETIONS_ADDRESS, queue.config.completions),
                    (queue::HALT_ADDRESS, queue.halt_address()),
                ] {
                    if offset == start || offset == upper(start) {
                        return half(value, start, offset);
                    }
                }
                match counter(queue::COUNTERS, offset) {
                    Some(counter) => half(queue.counters().get(counter), offset / 8 * 8, offset),
                    None => NOTHING,
                }
            }
        }
    }

    /// Writes the register at `offset` in BAR 0. What is none ignores it.
    pub fn write(&mut self, host: &mut impl Host, offset: u64, value: u32) {
        match place(offset) {
            Place::Device(offset) => self.write_device(host, offset, value),
            Place::Queue(index, offset) => self.write_queue(host, index, offset, value),
            Place::Doorbell(index, doorbell::TAIL) => self.ring(host, index, value),
            Place::Doorbell(..) | Place::Nowhere => {}
        }
    }

    fn write_device(&mut self, host: &mut impl Host, offset: u64, value: u32) {
        let settings = &mut self.settings;
        let injection = &mut self.shared.injection;
        match offset {
            register::CACHE_ENTRIES => {
                set(&mut settings.cache_entries, value, 0..=CACHE_ENTRIES_MAX);
            }
            register::CACHE_WAYS => set(&mut settings.cache_ways, value, 1..=CACHE_ENTRIES_MAX),
            register::CACHE_REPLACEMENT => {
                if let Some(replacement) = Replacement::from_number(value) {
                    settings.cache_replacement = replacement;
                }
            }
            register::CACHE_APPLY => self.apply_geometry(),
            register::PAGE_REQUEST_WINDOW => set(&mut self.shared.window, value, 1..=WINDOW_MAX),
            register::TRANSLATION_WINDOW => {
                let mut window = self.shared.memory.window();
                set(&mut window, value, 1..=WINDOW_MAX);
                self.shared.memory.set_window(window);
            }
            register::PAGE_RESPONSE_TIMEOUT_MS => set(
                &mut self.shared.timeout_ms,
                value,
                1..=PAGE_RESPONSE_TIMEOUT_MS_MAX,
            ),
            register::COUNTERS_RESET => self.reset_counters(),
            register::INJECT_DROPPED_RESPONSES => injection.dropped_responses = value,
            register::INJECT_LATE_RESPONSES => injection.late_responses = value,
            register::INJECT_LATE_MS => injection.late_ms = value,
            register::INJECT_DAMAGED_DESCRIPTORS => injection.damaged_descriptors = value,
            register::INJECT_DAMAGED_WORD => set(&mut injection.damaged_word, value, 0..=15),
            register::INJECT_FOREIGN_PASIDS => injection.foreign_pasids = value,
            register::INJECT_PASID => set(&mut injection.pasid, value, PASIDS),
            register::PROBE_PASID => set(&mut settings.probe_pasid, value, PASIDS),
            register::PROBE_COMMAND => {
                if let (Some(probe), 0) = (Probe::from_number(value), settings.probe_address % 8) {
                    self.settings.probe_result = self.probe(host, probe);
                }
            }
            offset => {
                for (start, register) in [
                    (register::PROBE_ADDRESS, &mut settings.probe_address),
                    (register::PROBE_DATA, &mut settings.probe_data),
                ] {
                    if offset == start || offset == upper(start) {
                        set_half(register, start, offset, value);
                    }
                }
            }
        }
    }

    /// Gives the translation cache the shape that its registers say.
    fn apply_geometry(&mut self) {
        let settings = &mut self.settings;
        let geometry = Geometry::new(
            settings.cache_entries,
            settings.cache_ways,
            settings.cache_replacement,
        );
        settings.cache_refused = match geometry {
            Ok(geometry) => {
                self.shared.memory.set_geometry(geometry);
                0
            }
            Err(GeometryError::Entries) => register::CACHE_ENTRIES,
            Err(GeometryError::Ways) => register::CACHE_WAYS,
        };
    }

    fn write_queue(&mut self, host: &mut impl Host, index: u32, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return;
        };
        let stream = &mut queue.stream_settings;
        match offset {
            queue::CONTROL => match value {
                0 => return self.stop(host, index),
                1 => return self.start(host, index),
                _ => return,
            },
            queue::STREAM_MODE => {
                if let Some(mode) = StreamMode::from_number(value) {
                    self.set_stream(host, index, mode);
                }
                return;
            }
            queue::STREAM_FRAME_BYTES => stream.frame_bytes = value,
            queue::STREAM_BYTES_PER_MS => stream.bytes_per_ms = value,
            queue::STREAM_BUFFER_BYTES => stream.buffer_bytes = value,
            queue::STREAM_FRAMES => stream.frames = value,
            _ => {}
        }
        if queue.is_running() {
            return;
        }
        let config = &mut queue.config;
        match offset {
            queue::PASID => set(&mut config.pasid, value, PASIDS),
            queue::RING_LOG2 => set(&mut config.ring_log2, value, 1..=RING_LOG2_MAX),
            queue::VECTOR => set(&mut config.vector, value, 0..=VECTORS - 1),
            offset => {
                for (start, register) in [
                    (queue::RING_ADDRESS, &mut config.ring),
                    (queue::COMPLETIONS_ADDRESS, &mut config.completions),
                ] {
                    if offset == start || offset == upper(start) {
                        set_half(register, start, offset, value);
                    }
                }
            }
        }
    }
}
