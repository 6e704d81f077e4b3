// SPDX-License-Identifier: GPL-2.0

//! A machine with one device: memory, page tables, an operating system that brings in pages when
//! asked, and a clock that stands still unless it is moved.

use std::collections::{BTreeMap, BTreeSet};

use svadma_model::abi::{
    doorbell, queue, Completion, Counter, Descriptor, Element, PAGE_BYTES, QUEUES, VECTORS,
};
use svadma_model::host::{
    Access, NoMemory, PageRequest, PageResponse, Permissions, Refused, Translation,
    TranslationRequest,
};
use svadma_model::{Device, Host};

/// Bytes of a page, as an index.
pub const PAGE: usize = PAGE_BYTES as usize;

/// Where the ring of a queue is in the tests.
pub const RING: u64 = 0x10_0000;
/// Where its completions are.
pub const COMPLETIONS: u64 = 0x20_0000;
/// Where data is.
pub const DATA: u64 = 0x40_0000;

/// May be read and written.
pub const RW: Permissions = Permissions {
    read: true,
    write: true,
};
/// May be read.
pub const RO: Permissions = Permissions {
    read: true,
    write: false,
};

/// Where the frames of the machine's memory start.
const MEMORY: u64 = 1 << 40;

/// All but the device.
#[derive(Default)]
pub struct World {
    frames: Vec<Vec<u8>>,
    /// What belongs to an address space, by page: its frame, and whether the IOMMU has it.
    pages: BTreeMap<(u32, u64), (usize, Permissions, bool)>,
    /// PASIDs of which the IOMMU takes requests.
    pub known: BTreeSet<u32>,
    pub attached: BTreeSet<u32>,
    /// What the device has asked for.
    pub requests: Vec<PageRequest>,
    pub interrupts: Vec<u32>,
    pub now: u64,
    pub call_at: Option<u64>,
    /// Translations are answered for twice as much as was asked.
    pub generous: bool,
}

impl World {
    /// Which frame an address on the bus is in, which must be mapped for some address space.
    fn frame(&self, address: u64) -> Option<(usize, usize)> {
        let offset = address.checked_sub(MEMORY)?;
        let frame = usize::try_from(offset / PAGE_BYTES).ok()?;
        let mapped = self.pages.values().any(|page| page.0 == frame && page.2);
        assert!(mapped, "a stale translation was used");
        Some((frame, (offset % PAGE_BYTES) as usize))
    }
}

impl Host for World {
    fn translate(&mut self, request: TranslationRequest, found: &mut Vec<Translation>) {
        assert_eq!(request.address % PAGE_BYTES, 0);
        let pages = u64::from(request.pages) * if self.generous { 2 } else { 1 };
        for number in 0..pages {
            let Some(address) = request.address.checked_add(number * PAGE_BYTES) else {
                return;
            };
            if let Some((frame, permissions, true)) =
                self.pages.get(&(request.pasid, address / PAGE_BYTES))
            {
                found.push(Translation {
                    address,
                    bytes: PAGE_BYTES,
                    target: MEMORY + *frame as u64 * PAGE_BYTES,
                    permissions: *permissions,
                });
            }
        }
    }

    fn request_page(&mut self, request: PageRequest) -> Result<(), Refused> {
        assert_eq!(request.address % PAGE_BYTES, 0);
        if !self.known.contains(&request.pasid) {
            return Err(Refused);
        }
        self.requests.push(request);
        Ok(())
    }

    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        let (frame, offset) = self.frame(address).ok_or(NoMemory)?;
        data.copy_from_slice(&self.frames[frame][offset..offset + data.len()]);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        let (frame, offset) = self.frame(address).ok_or(NoMemory)?;
        self.frames[frame][offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn interrupt(&mut self, vector: u32) {
        assert!(vector < VECTORS);
        self.interrupts.push(vector);
    }

    fn attach(&mut self, pasid: u32) -> Result<(), Refused> {
        if !self.known.contains(&pasid) {
            return Err(Refused);
        }
        assert!(self.attached.insert(pasid), "attached twice");
        Ok(())
    }

    fn detach(&mut self, pasid: u32) {
        assert!(self.attached.remove(&pasid), "detached twice");
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn call_at(&mut self, time: u64) {
        self.call_at = Some(time);
    }
}

/// The machine.
#[derive(Default)]
pub struct Machine {
    pub device: Device,
    pub world: World,
    /// Descriptors submitted, by queue.
    tails: BTreeMap<u32, u32>,
}

impl Machine {
    /// With the first queues running, each with `1 << ring_log2` descriptors, queue `n` for PASID
    /// `n + 1`.
    pub fn new(queues: u32, ring_log2: u32) -> Self {
        let mut machine = Self::default();
        for index in 0..queues.min(QUEUES) {
            machine.start(index, index + 1, ring_log2);
        }
        machine
    }

    /// Starts a queue, whose memory is there as far as the operating system is concerned.
    pub fn start(&mut self, index: u32, pasid: u32, ring_log2: u32) {
        self.world.known.insert(pasid);
        self.back(pasid, RING, Descriptor::BYTES << ring_log2, RW);
        self.back(pasid, COMPLETIONS, Completion::BYTES << ring_log2, RW);
        self.set(index, queue::PASID, pasid);
        self.set(index, queue::RING_LOG2, ring_log2);
        self.set(index, queue::RING_ADDRESS, RING as u32);
        self.set(index, queue::COMPLETIONS_ADDRESS, COMPLETIONS as u32);
        self.set(index, queue::VECTOR, index % VECTORS);
        self.set(index, queue::CONTROL, 1);
        self.tails.insert(index, 0);
    }

    /// Reads a register of a queue.
    pub fn get(&mut self, index: u32, register: u64) -> u32 {
        let offset = queue::block(index) + register;
        self.device.read(&mut self.world, offset)
    }

    /// Writes one.
    pub fn set(&mut self, index: u32, register: u64, value: u32) {
        let offset = queue::block(index) + register;
        self.device.write(&mut self.world, offset, value);
    }

    /// Reads a register of the device.
    pub fn read(&mut self, offset: u64) -> u32 {
        self.device.read(&mut self.world, offset)
    }

    /// Writes one.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.device.write(&mut self.world, offset, value);
    }

    /// Gives an address space memory, which the IOMMU does not know of before it is asked for.
    pub fn back(&mut self, pasid: u32, address: u64, bytes: u64, permissions: Permissions) {
        for page in address / PAGE_BYTES..(address + bytes).div_ceil(PAGE_BYTES) {
            if let Some(page) = self.world.pages.get_mut(&(pasid, page)) {
                page.1 = permissions;
                continue;
            }
            let frame = self.world.frames.len();
            self.world.frames.push(vec![0; PAGE]);
            let page = (pasid, page);
            self.world.pages.insert(page, (frame, permissions, false));
        }
    }

    /// Lets the IOMMU know of it.
    pub fn map(&mut self, pasid: u32, address: u64) {
        let page = (pasid, address / PAGE_BYTES);
        self.world.pages.get_mut(&page).unwrap().2 = true;
    }

    /// Takes it away from the IOMMU, and the device is told.
    pub fn unmap(&mut self, pasid: u32, address: u64) {
        if let Some(page) = self.world.pages.get_mut(&(pasid, address / PAGE_BYTES)) {
            page.2 = false;
        }
        // The IOMMU tells only those who have asked it to.
        if self.world.attached.contains(&pasid) {
            let first = address / PAGE_BYTES * PAGE_BYTES;
            self.device.invalidate(pasid, first, first + PAGE_BYTES - 1);
        }
    }

    /// What may be done to the page at `address`, as far as the operating system is concerned.
    pub fn backed(&self, pasid: u32, address: u64) -> Option<Permissions> {
        let page = self.world.pages.get(&(pasid, address / PAGE_BYTES));
        page.map(|page| page.1)
    }

    /// The processor writes.
    pub fn poke(&mut self, pasid: u32, address: u64, data: &[u8]) {
        for (address, byte) in (address..).zip(data) {
            let (frame, ..) = self.world.pages[&(pasid, address / PAGE_BYTES)];
            self.world.frames[frame][(address % PAGE_BYTES) as usize] = *byte;
        }
    }

    /// The processor reads.
    pub fn peek(&self, pasid: u32, address: u64, bytes: usize) -> Vec<u8> {
        let byte = |address: u64| {
            let (frame, ..) = self.world.pages[&(pasid, address / PAGE_BYTES)];
            self.world.frames[frame][(address % PAGE_BYTES) as usize]
        };
        (address..).take(bytes).map(byte).collect()
    }

    /// Writes a list.
    pub fn poke_list(&mut self, pasid: u32, address: u64, list: &[(u64, u64)]) {
        for (number, (start, length)) in (0..).zip(list) {
            let element = Element {
                address: *start,
                length: *length,
            };
            let place = address + number * Element::BYTES;
            self.poke(pasid, place, &bytes(&element.to_words()));
        }
    }

    fn pasid_of(&mut self, index: u32) -> u32 {
        self.get(index, queue::PASID)
    }

    fn entries(&mut self, index: u32) -> u32 {
        1 << self.get(index, queue::RING_LOG2)
    }

    /// Writes a descriptor and rings. Returns its number.
    pub fn submit(&mut self, index: u32, descriptor: Descriptor) -> u32 {
        let number = self.tails[&index];
        let pasid = self.pasid_of(index);
        let slot = u64::from(number % self.entries(index));
        self.poke(
            pasid,
            RING + slot * Descriptor::BYTES,
            &bytes(&descriptor.to_words()),
        );
        let empty = Completion::default();
        self.poke(
            pasid,
            COMPLETIONS + slot * Completion::BYTES,
            &bytes(&empty.to_words()),
        );
        self.tails.insert(index, number + 1);
        let offset = doorbell::page(index) + doorbell::TAIL;
        self.write(offset, number + 1);
        number
    }

    /// The completion of descriptor `number`.
    pub fn completion(&mut self, index: u32, number: u32) -> Completion {
        let pasid = self.pasid_of(index);
        let slot = u64::from(number % self.entries(index));
        let data = self.peek(
            pasid,
            COMPLETIONS + slot * Completion::BYTES,
            Completion::BYTES as usize,
        );
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let words: Vec<u32> = data.chunks_exact(4).map(word).collect();
        Completion::from_words(words.try_into().unwrap())
    }

    /// Submits, and serves the device until it is done.
    pub fn carry_out(&mut self, index: u32, descriptor: Descriptor) -> Completion {
        let number = self.submit(index, descriptor);
        self.settle();
        self.completion(index, number)
    }

    /// Lets the device run as long as it wants to without time passing.
    pub fn run(&mut self) {
        while self
            .world
            .call_at
            .is_some_and(|time| time <= self.world.now)
        {
            self.world.call_at = None;
            self.device.run(&mut self.world);
        }
    }

    /// Lets it run once.
    pub fn run_once(&mut self) {
        self.world.call_at = None;
        self.device.run(&mut self.world);
    }

    /// Takes the first group of page requests that is complete.
    pub fn take_group(&mut self) -> Option<Vec<PageRequest>> {
        let requests = &mut self.world.requests;
        let last = requests.iter().position(|request| request.last)?;
        let group = requests[last].group;
        let (taken, left) = requests.drain(..).partition(|it| it.group == group);
        *requests = left;
        Some(taken)
    }

    /// Brings in what a group asks for, as far as it is there, and answers.
    pub fn serve(&mut self, group: &[PageRequest]) {
        let mut response = PageResponse::Success;
        for request in group {
            match self.backed(request.pasid, request.address) {
                Some(permissions) if permissions.allow(request.access) => {
                    self.map(request.pasid, request.address);
                }
                // Of pages behind the first one, nobody has said that they are there.
                _ if request.address == group[0].address => response = PageResponse::Invalid,
                _ => {}
            }
        }
        self.respond(&group[0], response);
    }

    /// Answers a group.
    pub fn respond(&mut self, request: &PageRequest, response: PageResponse) {
        self.device
            .page_response(&mut self.world, request.pasid, request.group, response);
    }

    /// Runs the device and serves it until neither has anything to do.
    pub fn settle(&mut self) {
        loop {
            self.run();
            match self.take_group() {
                Some(group) => self.serve(&group),
                None => return,
            }
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ns: u64) {
        self.world.now += ns;
        self.run();
    }

    /// What a counter of the device stands at.
    pub fn count(&self, counter: Counter) -> u64 {
        self.device.counter(counter)
    }
}

/// How words lie in memory.
pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `length` bytes, no two stretches of them alike.
pub fn noise(length: usize) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8;
    (0..length).map(byte).collect()
}

/// What a page request is for, to be compared.
pub fn asked(group: &[PageRequest]) -> Vec<(u64, Access)> {
    let asked = group.iter().map(|it| (it.address, it.access));
    asked.collect()
}
