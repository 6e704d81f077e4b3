// SPDX-License-Identifier: GPL-2.0

//! `pool`: the device works on copies of buffers, in memory that was mapped in advance.
//!
//! Map takes a slot of the pool and copies the buffer into it, unmap copies back what the device
//! may have written; no page table is written and nothing is flushed. What the device can still
//! reach after unmap: nothing that is not the pool. What shares a page with a buffer is out of its
//! reach even while the buffer is mapped.
//!
//! "Allocate in advance" in *Utilizing IOMMUs for Virtualization in Linux and Xen*, OLS 2006; the
//! kernel's own form of it is `kernel/dma/swiotlb.c`, for devices that reach too little and for
//! untrusted ones.
//!
//! What is copied is what `swiotlb_tbl_map_single()` copies: every buffer on map, whatever the
//! direction and the attributes, because a device that writes less than the whole of it must leave
//! the rest as it was, and what a slot held before belongs to others; and on unmap what the device
//! may write, unless [`Pool::discard`] says that nobody wants it.
//!
//! # Memory
//!
//! Memory comes in chunks of [`CHUNK_BYTES`], each of which is cut into slots of one size, a power
//! of two. A slot is aligned to its size, so that as many low bits of an address as the device asks
//! for stay the same, and no slot lies across a boundary that a smaller alignment would avoid. A
//! chunk whose slots are all free is *spare*: it serves any size next, or is given back.
//!
//! Free slots are in a stack of each CPU and size. A map or an unmap is one compare-and-exchange
//! of its head:
//!
//! ```text
//! 63        32 31    24 23         0
//! changes      length   first slot
//! ```
//!
//! The number of changes keeps a head that was read too long ago from being taken for the present
//! one. Empty and full stacks exchange many slots at a time with the chunks, under a lock.
//!
//! The address of a slot is its place in the window, in units of the smallest slot; the same
//! number finds what is known of it in a sparse table.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    AtomicU64,
    Ordering::{
        Acquire,
        Relaxed,
        Release,
        SeqCst, //
    }, //
};

use super::{
    address::{
        pages_of,
        Buffer,
        Iova,
        Layout,
        PageRange,
        Phys,
        Window,
        PAGE_SHIFT, //
    },
    backend::{
        Access,
        Backend,
        Lock,
        Memory,
        OutOfMemory,
        Sparse,
        Target, //
    },
    counted::{
        Mapped,
        Served, //
    },
    counter::{
        Counter,
        Flow, //
    },
    engine::Reach,
    tunable::{
        Range,
        Tunable, //
    },
};

/// log2 of the smallest slot: less is copied in no time, and would need more state than memory.
const UNIT_SHIFT: u32 = 8;
/// log2 of a chunk, and of the largest slot: more cannot be expected in one piece where nobody may
/// sleep (`PAGE_ALLOC_COSTLY_ORDER` is half of it).
const CHUNK_SHIFT: u32 = 16;
/// Bytes in a chunk.
pub const CHUNK_BYTES: u64 = 1 << CHUNK_SHIFT;
/// Pages in a chunk.
const CHUNK_PAGES: u64 = CHUNK_BYTES >> PAGE_SHIFT;
/// Units in a chunk.
const CHUNK_UNITS: u32 = 1 << (CHUNK_SHIFT - UNIT_SHIFT);
/// Sizes of slots: a unit shifted left by 0 to 8.
const CLASSES: usize = (CHUNK_SHIFT - UNIT_SHIFT + 1) as usize;

/// Bytes that a pool can have: four times what the kernel's swiotlb has for all devices.
const MAX_BYTES: u64 = 256 << 20;
/// Chunks that a pool can have.
const CHUNKS: u32 = (MAX_BYTES >> CHUNK_SHIFT) as u32;

/// Low bits of an address that stay the same in any case: those within a cache line, which is the
/// most that drivers expect of memory that they did not ask for by the page.
const KEPT_MASK: u64 = 63;

/// Milliseconds after which a spare chunk is given back, and a stack that nobody touches emptied.
const IDLE_MS: u32 = 1000;

/// log2 of the end of memory that a pool can use: as far as a window reaches.
const MEMORY_SHIFT: u32 = 44;
/// Position of the memory in [`Slot::memory`]; the class is below.
const MEMORY_POSITION: u32 = 4;
/// The class in [`Slot::memory`].
const CLASS_MASK: u32 = (1 << MEMORY_POSITION) - 1;

/// Position of what the device may do in [`Slot::origin`].
const ACCESS_POSITION: u32 = 62;

/// The first slot in the head of a stack; all ones: there is none.
const FIRST: u64 = (1 << 24) - 1;
/// No slot, no chunk.
const NONE: u32 = FIRST as u32;
/// Position of the length in the head of a stack. It only says when to exchange slots.
const LENGTH_POSITION: u32 = 24;
/// The length in the head of a stack, once it is in position.
const LENGTH_MASK: u64 = 0xff;
/// A slot more in the head of a stack.
const ONE_SLOT: u64 = 1 << LENGTH_POSITION;
/// A change more in the head of a stack.
const ONE_CHANGE: u64 = 1 << 32;

/// A size of slots: the number of doublings from a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class(u32);

impl Class {
    /// No class: that of memory that was never cut.
    const UNCUT: Self = Self(CLASSES as u32);

    /// The smallest slots that hold `bytes` bytes, of which there are at least 1 and at most those
    /// of a chunk.
    #[inline(always)]
    const fn holding(bytes: u64) -> Self {
        Self((bytes.wrapping_sub(1) | ((1 << UNIT_SHIFT) - 1)).ilog2() - (UNIT_SHIFT - 1))
    }

    /// Bytes in a slot.
    #[inline(always)]
    const fn bytes(self) -> u64 {
        1u64.wrapping_shl(UNIT_SHIFT + self.0)
    }

    /// Units in a slot.
    #[inline(always)]
    const fn units(self) -> u32 {
        1u32.wrapping_shl(self.0)
    }

    /// Slots in a chunk.
    const fn slots(self) -> u32 {
        CHUNK_UNITS >> self.0
    }

    /// Slots in a stack: 64, as many as a network driver refills or cleans at a time, but not more
    /// than 256 KiB.
    #[inline(always)]
    const fn stack_limit(self) -> u64 {
        let slots = 1024 >> self.0;

        if slots < 64 {
            slots
        } else {
            64
        }
    }
}

/// What is known of a unit, or of the slot that begins with it.
#[derive(Default)]
pub struct Slot {
    /// Physical address of the buffer, and what the device may do with it from
    /// [`ACCESS_POSITION`] on, which is never 0; 0: the slot is free.
    origin: AtomicU64,
    /// In a free slot the next one of its stack or chunk, in one in use the number of bytes before
    /// the buffer.
    link: AtomicU32,
    /// Where the chunk is in memory, in units of chunks, and the class of its slots. Of every unit,
    /// not only of those that begin a slot.
    memory: AtomicU32,
}

impl Slot {
    /// The buffer, and whether the device may write; none if the slot is free.
    #[inline(always)]
    fn origin(&self) -> Option<(Phys, bool)> {
        let origin = self.origin.load(Relaxed);

        (origin != 0).then_some((
            Phys(origin & ((1 << ACCESS_POSITION) - 1)),
            origin >> ACCESS_POSITION != Self::READ,
        ))
    }

    /// [`Access::Read`] in [`Slot::origin`].
    const READ: u64 = 1;

    /// Makes a free slot that of a buffer which begins `offset` bytes after it does.
    #[inline(always)]
    fn occupy(&self, phys: Phys, access: Access, offset: u64) {
        let access = match access {
            Access::Read => Self::READ,
            Access::Write => 2,
            Access::ReadWrite => 3,
        };

        self.link.store(offset as u32, Relaxed);
        self.origin
            .store(phys.0 | (access << ACCESS_POSITION), Relaxed);
    }
}

/// Where a buffer is in the pool.
struct Found<'a> {
    slot: &'a Slot,
    /// The first unit of the slot.
    unit: u32,
    class: Class,
    /// Where the bytes that were asked for are in the pool.
    copy: Phys,
    /// Where they are in the buffer.
    origin: Phys,
    /// How many of them the slot has.
    room: u64,
    /// Whether the device may write them.
    may_write: bool,
}

/// How a buffer goes into a slot.
#[derive(Clone, Copy)]
struct Fit {
    class: Class,
    /// Bytes of the slot before the buffer.
    offset: u64,
}

/// The free slots of one CPU; it shares no cache line with another.
#[repr(align(128))]
struct Stacks {
    heads: [AtomicU64; CLASSES],
    /// The changes that were seen when idle stacks were last looked for, and when.
    seen: [AtomicU64; CLASSES],
}

impl Stacks {
    /// Stacks that are empty.
    fn new() -> Self {
        Self {
            heads: [const { AtomicU64::new(FIRST) }; CLASSES],
            seen: [const { AtomicU64::new(0) }; CLASSES],
        }
    }
}

/// Slots that are linked.
#[derive(Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
    slots: u64,
}

/// A list of chunks.
#[derive(Clone, Copy)]
enum Shelf {
    /// Without memory.
    Absent,
    /// All slots are free.
    Spare,
    /// Some slots are free, but not all.
    Partial(Class),
    /// Being unmapped.
    Leaving,
    /// Unmapped, not flushed.
    Left,
}

impl Shelf {
    /// Number of lists.
    const COUNT: usize = CLASSES + 4;

    /// Position among the lists.
    fn index(self) -> usize {
        match self {
            Self::Partial(class) => class.0 as usize,
            Self::Absent => CLASSES,
            Self::Spare => CLASSES + 1,
            Self::Leaving => CLASSES + 2,
            Self::Left => CLASSES + 3,
        }
    }
}

/// Memory that is cut into slots of one size.
struct Chunk<B: Backend> {
    memory: Option<B::Memory>,
    class: Class,
    /// The first slot that is free and in no stack.
    free: u32,
    /// Number of such slots.
    slots: u32,
    /// When it became spare.
    spare_since_ms: u32,
    /// Neighbours on the shelf.
    before: u32,
    after: u32,
}

impl<B: Backend> Chunk<B> {
    /// A chunk without memory.
    const ABSENT: Self = Self {
        memory: None,
        class: Class::UNCUT,
        free: NONE,
        slots: 0,
        spare_since_ms: 0,
        before: NONE,
        after: NONE,
    };
}

/// What all CPUs share.
struct Shared<B: Backend> {
    /// All chunks that there can be, once the strategy was used.
    chunks: Option<B::List<Chunk<B>>>,
    /// The first chunk of each shelf.
    shelves: [u32; Shelf::COUNT],
}

impl<B: Backend> Shared<B> {
    /// A chunk.
    fn chunk(&mut self, index: u32) -> Option<&mut Chunk<B>> {
        self.chunks.as_mut()?.get_mut(index as usize)
    }

    /// The first chunk on a shelf.
    fn first_on(&self, shelf: Shelf) -> Option<u32> {
        self.shelves
            .get(shelf.index())
            .copied()
            .filter(|&index| index != NONE)
    }

    /// Puts a chunk on a shelf.
    fn put(&mut self, shelf: Shelf, index: u32) {
        let Some(head) = self.shelves.get_mut(shelf.index()) else {
            return;
        };
        let after = core::mem::replace(head, index);

        if let Some(chunk) = self.chunk(after) {
            chunk.before = index;
        }
        if let Some(chunk) = self.chunk(index) {
            chunk.before = NONE;
            chunk.after = after;
        }
    }

    /// Takes a chunk off the shelf that it is on.
    fn take_off(&mut self, shelf: Shelf, index: u32) {
        let Some((before, after)) = self.chunk(index).map(|chunk| (chunk.before, chunk.after))
        else {
            return;
        };

        if let Some(chunk) = self.chunk(before) {
            chunk.after = after;
        } else if let Some(head) = self.shelves.get_mut(shelf.index()) {
            *head = after;
        }
        if let Some(chunk) = self.chunk(after) {
            chunk.before = before;
        }
    }

    /// Takes the first chunk off a shelf.
    fn pick(&mut self, shelf: Shelf) -> Option<u32> {
        let index = self.first_on(shelf)?;

        self.take_off(shelf, index);
        Some(index)
    }

    /// A chunk with free slots of a class.
    fn supplier(&mut self, slots: &B::Sparse<Slot>, class: Class) -> Option<u32> {
        /// Spare chunks that are looked at for one that need not be cut anew.
        const LOOKS: usize = 8;

        let partial = Shelf::Partial(class);

        if let Some(index) = self.first_on(partial) {
            return Some(index);
        }

        let first = self.first_on(Shelf::Spare)?;
        let mut index = first;

        for _ in 0..LOOKS {
            match self.chunk(index) {
                Some(chunk) if chunk.class != class => index = chunk.after,
                _ => break,
            }
        }
        if self.chunk(index).is_none_or(|chunk| chunk.class != class) {
            index = first;
            self.cut(slots, index, class);
        }
        self.take_off(Shelf::Spare, index);
        self.put(partial, index);
        Some(index)
    }

    /// Cuts a spare chunk into slots of a class.
    fn cut(&mut self, slots: &B::Sparse<Slot>, index: u32, class: Class) {
        let Some(chunk) = self.chunk(index) else {
            return;
        };
        let Some(memory) = chunk.memory.as_ref().map(|memory| memory.phys().0) else {
            return;
        };
        let memory = ((memory >> CHUNK_SHIFT) as u32) << MEMORY_POSITION | class.0;
        let first = index * CHUNK_UNITS;
        let mut next = NONE;

        for unit in (first..first + CHUNK_UNITS).rev() {
            let Some(slot) = slots.get(unit.into()) else {
                continue;
            };

            slot.memory.store(memory, Relaxed);
            if unit & (class.units() - 1) == 0 {
                slot.link.store(next, Relaxed);
                next = unit;
            }
        }
        chunk.class = class;
        chunk.free = next;
        chunk.slots = class.slots();
    }

    /// Takes up to `max` free slots of a class.
    fn take(&mut self, slots: &B::Sparse<Slot>, class: Class, max: u64) -> Option<Chain> {
        let mut chain: Option<Chain> = None;

        while chain.is_none_or(|chain| chain.slots < max) {
            let Some(index) = self.supplier(slots, class) else {
                break;
            };
            let Some(chunk) = self.chunk(index) else {
                break;
            };
            let unit = chunk.free;
            let Some(slot) = slots.get(unit.into()) else {
                break;
            };

            chunk.free = slot.link.load(Relaxed);
            chunk.slots -= 1;
            if chunk.slots == 0 {
                self.take_off(Shelf::Partial(class), index);
            }

            chain = Some(match chain {
                None => Chain {
                    first: unit,
                    last: unit,
                    slots: 1,
                },
                Some(chain) => {
                    slot.link.store(chain.first, Relaxed);
                    Chain {
                        first: unit,
                        slots: chain.slots + 1,
                        ..chain
                    }
                }
            });
        }
        chain
    }

    /// Gives back the slots from `first` on.
    fn give(&mut self, slots: &B::Sparse<Slot>, first: u32, now_ms: u32) {
        let mut unit = first;

        while let Some(slot) = slots.get(unit.into()).filter(|_| unit != NONE) {
            let index = unit / CHUNK_UNITS;
            let next = slot.link.load(Relaxed);
            let Some(chunk) = self.chunk(index) else {
                return;
            };
            let class = chunk.class;

            slot.link.store(chunk.free, Relaxed);
            chunk.free = unit;
            chunk.slots += 1;
            chunk.spare_since_ms = now_ms;

            let home = chunk.slots;

            if home == class.slots() {
                if home != 1 {
                    self.take_off(Shelf::Partial(class), index);
                }
                self.put(Shelf::Spare, index);
            } else if home == 1 {
                self.put(Shelf::Partial(class), index);
            }
            unit = next;
        }
    }

    /// Makes spare chunks leave until `max` have left or none is left that `idle` says so of, by
    /// the time since when it has been spare. Returns how many do.
    fn dismiss(&mut self, max: u64, idle: impl Fn(u32) -> bool) -> u64 {
        let mut left = 0;
        let mut next = self.first_on(Shelf::Spare);

        while let Some(index) = next.filter(|_| left < max) {
            let Some(chunk) = self.chunk(index) else {
                break;
            };

            next = Some(chunk.after).filter(|&index| index != NONE);
            if idle(chunk.spare_since_ms) {
                self.take_off(Shelf::Spare, index);
                self.put(Shelf::Leaving, index);
                left += 1;
            }
        }
        left
    }
}

/// How much memory the pool takes, and for what.
pub struct Limits {
    /// Bytes that stay mapped when nothing is in use, so that traffic that begins finds slots. The
    /// default of 1 MiB holds the buffers of a network queue of 512 entries.
    pub min_bytes: Tunable,
    /// Bytes that are mapped at most; what does not fit is mapped exactly. The default is that of
    /// the kernel's swiotlb, 64 MiB (`IO_TLB_DEFAULT_SIZE`).
    pub max_bytes: Tunable,
    /// Bytes of the largest buffer that is copied; larger ones are mapped exactly. An exact mapping
    /// takes some 2,600 instructions more than a slot, and a copy one for each word: as many for
    /// 10 KiB that are copied there and back, and for 20 KiB that are copied once. The default of
    /// 16 KiB lies between them.
    pub max_buffer_bytes: Tunable,
}

/// The strategy.
pub struct Pool<B: Backend> {
    /// What a user can set.
    pub limits: Limits,
    /// The first address of the window.
    base: u64,
    /// The last address that the pool uses.
    last: u64,
    /// What lies above was not there when this was made, and may be in the reach of no CPU.
    ram_end: u64,
    /// Whether maps are served.
    serving: AtomicBool,
    /// Bytes that are mapped. Written with the lock held.
    mapped_bytes: AtomicU64,
    /// By unit.
    slots: B::Sparse<Slot>,
    /// One for each CPU.
    stacks: B::List<Stacks>,
    shared: B::Lock<Shared<B>>,
}

impl<B: Backend> Pool<B> {
    /// Without memory. Buffers above `ram_end` are left to the fallback. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(layout: Layout, ram_end: Phys) -> Result<Self, OutOfMemory> {
        let base = layout.base(Window::Pool);

        Ok(Self {
            limits: Limits {
                min_bytes: Tunable::new(Range {
                    min: 0,
                    max: MAX_BYTES,
                    step: CHUNK_BYTES,
                    default: 1 << 20,
                }),
                max_bytes: Tunable::new(Range {
                    min: 0,
                    max: MAX_BYTES,
                    step: CHUNK_BYTES,
                    default: 64 << 20,
                }),
                max_buffer_bytes: Tunable::new(Range {
                    min: 1 << UNIT_SHIFT,
                    max: CHUNK_BYTES,
                    step: 1 << UNIT_SHIFT,
                    default: 16 << 10,
                }),
            },
            base,
            last: base + (MAX_BYTES - 1),
            ram_end: ram_end.0,
            serving: AtomicBool::new(false),
            mapped_bytes: AtomicU64::new(0),
            slots: B::sparse(MAX_BYTES >> UNIT_SHIFT)?,
            stacks: B::list(B::cpus(), || Ok(Stacks::new()))?,
            shared: B::lock(Shared {
                chunks: None,
                shelves: [NONE; Shelf::COUNT],
            }),
        })
    }

    /// Serves maps from now on. Memory that cannot be had now is looked for when it is needed.
    ///
    /// The caller keeps others from starting and retiring meanwhile. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing changed.
    pub fn start(&self, backend: &B) -> Result<(), OutOfMemory> {
        if self.shared.with(|shared| shared.chunks.is_none()) {
            let chunks = B::list(CHUNKS as usize, || Ok(Chunk::ABSENT))?;

            self.shared.with(|shared| {
                shared.chunks = Some(chunks);
                for index in (0..CHUNKS).rev() {
                    shared.put(Shelf::Absent, index);
                }
            });
        }

        self.serving.store(true, SeqCst);
        self.grow_to_min(backend);
        Ok(())
    }

    /// Bytes that are mapped for the pool.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes.load(Relaxed)
    }

    /// How a buffer goes into a slot.
    ///
    /// [`None`]: it is too large, or the device does not reach the pool, or no CPU the buffer.
    #[inline(always)]
    fn fit(&self, buffer: Buffer, limit: u64, align_mask: u64) -> Option<Fit> {
        let mask = align_mask | KEPT_MASK;
        let offset = buffer.phys.0 & mask;
        // A slot that is smaller than what stays the same of an address could be at the wrong end.
        let bytes = offset.wrapping_add(buffer.len).max(mask.wrapping_add(1));
        let too_large = buffer.len.wrapping_sub(1) >= self.limits.max_buffer_bytes.get();

        if too_large
            || bytes > CHUNK_BYTES
            || limit < self.last
            || buffer.phys.0.wrapping_add(buffer.len) > self.ram_end
        {
            return None;
        }

        Some(Fit {
            class: Class::holding(bytes),
            offset,
        })
    }

    /// The stack of this CPU for a class.
    #[inline(always)]
    fn stack(&self, backend: &B, class: Class) -> Option<&AtomicU64> {
        self.stacks.get(backend.cpu())?.heads.get(class.0 as usize)
    }

    /// Takes a slot from a stack.
    #[inline(always)]
    fn pop(&self, stack: &AtomicU64) -> Option<(u32, &Slot)> {
        loop {
            let head = stack.load(Acquire);
            let unit = head & FIRST;
            // There is nothing known of `NONE`.
            let slot = self.slots.get(unit)?;
            // Of a slot that was taken meanwhile this is nonsense, and the exchange fails.
            let next = u64::from(slot.link.load(Relaxed)) & FIRST;
            let rest = (head & !FIRST).wrapping_add(ONE_CHANGE - ONE_SLOT) | next;

            if stack.compare_exchange(head, rest, Acquire, Relaxed).is_ok() {
                return Some((unit as u32, slot));
            }
        }
    }

    /// Puts slots on a stack.
    #[inline(always)]
    fn push(&self, stack: &AtomicU64, chain: Chain, last: &Slot) {
        loop {
            let head = stack.load(Relaxed);

            last.link.store((head & FIRST) as u32, Relaxed);

            let more = (head & !FIRST).wrapping_add(ONE_CHANGE + chain.slots * ONE_SLOT)
                | u64::from(chain.first);

            if stack.compare_exchange(head, more, Release, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Maps a buffer if a slot is at hand: the case to be fast in. Counts the map and the hit, too.
    ///
    /// [`None`] says nothing about the buffer; [`Pool::map`] serves all of them.
    #[inline(always)]
    pub fn map_hit(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
        align_mask: u64,
    ) -> Option<Iova> {
        let fit = self.fit(buffer, limit, align_mask)?;
        let (unit, slot) = self.pop(self.stack(backend, fit.class)?)?;
        let pages = buffer.pages();

        // As in `map`.
        backend.count(Counter::PoolHits, 1);
        if pages > 1 {
            backend.count(Counter::In(Flow::Pages(Window::Pool)), pages - 1);
        }
        if !self.serving.load(Relaxed) {
            return self.decline(backend, unit, slot, pages);
        }
        Some(self.fill(backend, unit, slot, fit, buffer, access))
    }

    /// Takes back what was counted for a buffer that is not served after all.
    #[cold]
    fn decline(&self, backend: &B, unit: u32, slot: &Slot, pages: u64) -> Option<Iova> {
        backend.count(Counter::Out(Flow::Pages(Window::Pool)), pages);
        backend.count(Counter::Maps, u64::MAX);
        backend.count(Counter::Hits, u64::MAX);
        slot.link.store(NONE, Relaxed);
        self.give_back(backend, unit);
        None
    }

    /// Copies a buffer into its slot.
    #[inline(always)]
    fn fill(
        &self,
        backend: &B,
        unit: u32,
        slot: &Slot,
        fit: Fit,
        buffer: Buffer,
        access: Access,
    ) -> Iova {
        let iova = Iova(self.base | (u64::from(unit) << UNIT_SHIFT) | fit.offset);

        slot.occupy(buffer.phys, access, fit.offset);
        backend.copy(
            memory_of(slot.memory.load(Relaxed), iova),
            buffer.phys,
            buffer.len,
        );
        backend.count(Counter::CopiedBytes, buffer.len);
        iova
    }

    /// Maps a buffer.
    ///
    /// [`None`]: no slot can be had, or the strategy is on its way out.
    pub fn map(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
        align_mask: u64,
    ) -> Option<(Iova, Served)> {
        let fit = self.fit(buffer, limit, align_mask)?;
        let at_hand = self
            .stack(backend, fit.class)
            .and_then(|stack| self.pop(stack));
        let (unit, slot, served) = match at_hand {
            Some((unit, slot)) => (unit, slot, Served::Hit),
            None => self.refill(backend, fit.class)?,
        };

        // Counted first and checked then: `retire` clears the flag, lets every CPU see it, and
        // who looks at the count only then sees this one, or this sees the flag.
        backend.count(Counter::In(Flow::Pages(Window::Pool)), buffer.pages());
        if !self.serving.load(Relaxed) {
            backend.count(Counter::Out(Flow::Pages(Window::Pool)), buffer.pages());
            slot.link.store(NONE, Relaxed);
            self.give_back(backend, unit);
            return None;
        }
        Some((self.fill(backend, unit, slot, fit, buffer, access), served))
    }

    /// Maps a segment of a list. It must not lie across a boundary that its slot lies across.
    pub fn map_segment(&self, backend: &B, buffer: Buffer, access: Access, reach: Reach) -> Mapped {
        let fits = self
            .fit(buffer, reach.limit, reach.align_mask)
            .is_some_and(|fit| fit.class.bytes() - 1 <= reach.segment.boundary_mask);

        if !fits {
            return Mapped::Fallback;
        }

        match self.map(backend, buffer, access, reach.limit, reach.align_mask) {
            Some((iova, served)) => Mapped::At(iova, served),
            None => Mapped::Fallback,
        }
    }

    /// Fills the stack of this CPU, and takes one slot for the caller.
    #[cold]
    #[inline(never)]
    fn refill(&self, backend: &B, class: Class) -> Option<(u32, &Slot, Served)> {
        let max = class.stack_limit() / 2;
        let mut served = Served::Hit;

        loop {
            let chain = self
                .shared
                .with(|shared| shared.take(&self.slots, class, max));

            if let Some(chain) = chain {
                let first = self.slots.get(chain.first.into())?;
                let rest = Chain {
                    first: first.link.load(Relaxed),
                    slots: chain.slots - 1,
                    ..chain
                };

                if rest.slots != 0 {
                    let last = self.slots.get(rest.last.into())?;

                    match self.stack(backend, class) {
                        Some(stack) => self.push(stack, rest, last),
                        None => {
                            last.link.store(NONE, Relaxed);
                            self.give_back(backend, rest.first);
                        }
                    }
                }
                return Some((chain.first, first, served));
            }
            if !self.grow(backend) {
                return None;
            }
            served = Served::Miss;
        }
    }

    /// Gives a chain of slots that are in no stack back to their chunks.
    #[cold]
    fn give_back(&self, backend: &B, first: u32) {
        let now_ms = backend.now_ms();

        self.shared
            .with(|shared| shared.give(&self.slots, first, now_ms));
    }

    /// What the pool has at `iova`.
    #[inline(always)]
    fn find(&self, iova: Iova) -> Option<Found<'_>> {
        let at = iova.0.wrapping_sub(self.base) >> UNIT_SHIFT;
        let unit = self.slots.get(at)?;
        let memory = unit.memory.load(Relaxed);
        let class = Class(memory & CLASS_MASK);
        let first = at & !u64::from(class.units() - 1);
        let slot = if first == at {
            unit
        } else {
            self.slots.get(first)?
        };
        let (origin, may_write) = slot.origin()?;
        let within = iova.0 & (class.bytes() - 1);
        let into = within.checked_sub(slot.link.load(Relaxed).into())?;

        Some(Found {
            slot,
            unit: first as u32,
            class,
            copy: memory_of(memory, iova),
            origin: Phys(origin.0.wrapping_add(into)),
            room: class.bytes().wrapping_sub(within),
            may_write,
        })
    }

    /// Takes down what is mapped at `iova`, in a window of the pool, for a buffer of `len` bytes.
    /// Counts it, too.
    #[inline(always)]
    pub fn unmap(&self, backend: &B, iova: Iova, len: u64) {
        // A driver that unmaps what is not mapped harms nobody but itself.
        let Some(found) = self.find(iova) else {
            return;
        };
        let pages = pages_of(found.origin.0, len.max(1));

        if found.may_write {
            let len = len.min(found.room);

            backend.copy(found.origin, found.copy, len);
            backend.count(Counter::CopiedBytes, len);
        }
        backend.count(Counter::PoolUnmaps, 1);
        if pages > 1 {
            backend.count(Counter::Out(Flow::Pages(Window::Pool)), pages - 1);
        }
        self.free(backend, found);
    }

    /// Takes down what [`Pool::map`] has mapped at `iova` for a buffer of `len` bytes, and nobody
    /// has been told of.
    #[cold]
    pub fn cancel(&self, backend: &B, iova: Iova, len: u64) {
        let Some(found) = self.find(iova) else {
            return;
        };
        let pages = pages_of(found.origin.0, len);

        self.free(backend, found);
        backend.count(Counter::Out(Flow::Pages(Window::Pool)), pages);
    }

    /// Puts a slot on the stack of this CPU.
    #[inline(always)]
    fn free(&self, backend: &B, found: Found<'_>) {
        found.slot.origin.store(0, Relaxed);

        match self.stack(backend, found.class) {
            Some(stack)
                if stack.load(Relaxed) >> LENGTH_POSITION & LENGTH_MASK
                    < found.class.stack_limit() =>
            {
                let chain = Chain {
                    first: found.unit,
                    last: found.unit,
                    slots: 1,
                };

                self.push(stack, chain, found.slot);
            }
            stack => self.overflow(backend, stack, found.unit, found.slot),
        }
    }

    /// Gives all slots of a full stack back to their chunks, and one more.
    #[cold]
    #[inline(never)]
    fn overflow(&self, backend: &B, stack: Option<&AtomicU64>, unit: u32, slot: &Slot) {
        let others = stack.map_or(NONE, |stack| self.empty(stack));

        slot.link.store(others, Relaxed);
        self.give_back(backend, unit);
    }

    /// Takes all slots from a stack, and returns the first.
    fn empty(&self, stack: &AtomicU64) -> u32 {
        loop {
            let head = stack.load(Acquire);
            let changes = (head & !(ONE_CHANGE - 1)).wrapping_add(ONE_CHANGE);

            if stack
                .compare_exchange(head, changes | FIRST, Acquire, Relaxed)
                .is_ok()
            {
                return (head & FIRST) as u32;
            }
        }
    }

    /// Says of what is mapped at `iova` that nobody wants to see what the device writes to it.
    pub fn discard(&self, iova: Iova) {
        if let Some(found) = self.find(iova) {
            found.slot.occupy(
                found.origin,
                Access::Read,
                found.slot.link.load(Relaxed).into(),
            );
        }
    }

    /// Lets the device see what the CPU has written to `len` bytes of a buffer that is mapped.
    pub fn sync_for_device(&self, backend: &B, iova: Iova, len: u64) {
        if let Some(found) = self.find(iova) {
            let len = len.min(found.room);

            backend.copy(found.copy, found.origin, len);
            backend.count(Counter::CopiedBytes, len);
        }
    }

    /// Lets the CPU see what the device has written to `len` bytes of a buffer that is mapped.
    pub fn sync_for_cpu(&self, backend: &B, iova: Iova, len: u64) {
        if let Some(found) = self.find(iova) {
            let len = len.min(found.room);

            backend.copy(found.origin, found.copy, len);
            backend.count(Counter::CopiedBytes, len);
        }
    }

    /// Maps a chunk more. Returns whether there is one.
    #[cold]
    fn grow(&self, backend: &B) -> bool {
        let max_bytes = self.limits.max_bytes.get();
        let reserved = self.shared.with(|shared| {
            if self.mapped_bytes() + CHUNK_BYTES > max_bytes || !self.serving.load(Relaxed) {
                return None;
            }

            let index = shared.pick(Shelf::Absent)?;

            self.mapped_bytes.fetch_add(CHUNK_BYTES, Relaxed);
            Some(index)
        });
        let Some(index) = reserved else {
            return false;
        };
        let memory = self.furnish(backend, index);
        let now_ms = backend.now_ms();
        let grown = memory.is_some();

        self.shared.with(|shared| {
            if let Some(chunk) = shared.chunk(index).filter(|_| grown) {
                chunk.class = Class::UNCUT;
                chunk.memory = memory;
                chunk.spare_since_ms = now_ms;
                shared.put(Shelf::Spare, index);
            } else {
                self.mapped_bytes.fetch_sub(CHUNK_BYTES, Relaxed);
                shared.put(Shelf::Absent, index);
            }
        });
        grown
    }

    /// Finds memory for a chunk and maps it.
    fn furnish(&self, backend: &B, index: u32) -> Option<B::Memory> {
        let first = index * CHUNK_UNITS;

        for unit in first..first + CHUNK_UNITS {
            self.slots.get_or_alloc(unit.into()).ok()?;
        }

        let memory = backend.alloc(CHUNK_PAGES)?;
        let phys = memory.phys();

        if phys.0 >> MEMORY_SHIFT != 0 {
            return None;
        }
        backend
            .map(self.range(index), phys, Access::ReadWrite, Target::Memory)
            .ok()?;
        Some(memory)
    }

    /// Where a chunk is for the device.
    fn range(&self, index: u32) -> PageRange {
        PageRange {
            start: Iova(self.base | (u64::from(index) << CHUNK_SHIFT)),
            pages: CHUNK_PAGES,
        }
    }

    /// Maps as much as is to stay mapped.
    fn grow_to_min(&self, backend: &B) {
        while self.mapped_bytes() < self.limits.min_bytes.get() && self.grow(backend) {}
    }

    /// Gives back what nobody has needed for a while, and brings the pool within its limits. To be
    /// called now and then. May sleep.
    ///
    /// The caller keeps others from trimming, starting and retiring meanwhile.
    pub fn trim(&self, backend: &B) {
        let now_ms = backend.now_ms();
        let min = self.limits.min_bytes.get();
        let max = self.limits.max_bytes.get();

        self.collect(backend, |seen| {
            now_ms.wrapping_sub(seen) >= IDLE_MS || self.mapped_bytes() > max
        });

        let dismiss = |keep: u64, idle: &dyn Fn(u32) -> bool| {
            let chunks = self.mapped_bytes().saturating_sub(keep) >> CHUNK_SHIFT;

            self.shared.with(|shared| shared.dismiss(chunks, idle))
        };

        let idle = dismiss(min, &|since| now_ms.wrapping_sub(since) >= IDLE_MS);
        let surplus = dismiss(max + (idle << CHUNK_SHIFT), &|_| true);

        self.release(backend, idle + surplus);
        self.grow_to_min(backend);
    }

    /// Gives slots that wait in stacks back to their chunks: those of the stacks that `idle` says
    /// so of, by the time of the first look that has found them as they are.
    fn collect(&self, backend: &B, idle: impl Fn(u32) -> bool) {
        let now_ms = backend.now_ms();

        for stacks in self.stacks.iter() {
            for (head, seen) in stacks.heads.iter().zip(&stacks.seen) {
                let changes = head.load(Relaxed) >> 32;
                let before = seen.load(Relaxed);

                if changes != before >> 32 {
                    seen.store(changes << 32 | u64::from(now_ms), Relaxed);
                }
                if idle(seen.load(Relaxed) as u32) {
                    let first = self.empty(head);

                    if first != NONE {
                        self.give_back(backend, first);
                    }
                }
            }
        }
    }

    /// Unmaps the chunks that are leaving, if there are any, with one invalidation for all, and
    /// gives their memory back.
    fn release(&self, backend: &B, chunks: u64) {
        if chunks == 0 {
            return;
        }

        backend.unmap(core::iter::from_fn(|| {
            self.shared.with(|shared| {
                let index = shared.pick(Shelf::Leaving)?;

                shared.put(Shelf::Left, index);
                Some(self.range(index))
            })
        }));
        backend.flush();

        while let Some(memory) = self.shared.with(|shared| {
            let index = shared.pick(Shelf::Left)?;
            let memory = shared.chunk(index).map(|chunk| chunk.memory.take());

            shared.put(Shelf::Absent, index);
            self.mapped_bytes.fetch_sub(CHUNK_BYTES, Relaxed);
            memory
        }) {
            drop(memory);
        }
    }

    /// Serves no maps any more. May sleep.
    pub fn retire(&self, backend: &B) {
        // With the lock, so that who looks at what is mapped from now on sees all that ever will
        // be: see `grow`.
        self.shared.with(|_| self.serving.store(false, SeqCst));
        backend.synchronize();
    }

    /// Gives back all that is not in use and returns whether nothing is left. May sleep.
    ///
    /// The caller keeps others from trimming, starting and retiring meanwhile.
    pub fn settle(&self, backend: &B) -> bool {
        if self.mapped_bytes() == 0 {
            return true;
        }
        if self.serving.load(Relaxed) {
            return false;
        }

        self.collect(backend, |_| true);

        let chunks = self
            .shared
            .with(|shared| shared.dismiss(u64::MAX, |_| true));

        self.release(backend, chunks);
        self.mapped_bytes() == 0
    }
}

/// Where in memory the pool has what the device finds at `iova`.
#[inline(always)]
const fn memory_of(memory: u32, iova: Iova) -> Phys {
    Phys(((memory >> MEMORY_POSITION) as u64) << CHUNK_SHIFT | (iova.0 & (CHUNK_BYTES - 1)))
}
