// SPDX-License-Identifier: GPL-2.0

//! How software speaks to the test device `svadma`: registers, descriptors, completions.
//!
//! The device, its driver and the library for programs all compile this file. It is `core` only and
//! has no state.
//!
//! A consumer has a queue: a ring of [`Descriptor`]s and an array of as many [`Completion`]s, both in
//! its own memory and named by its own virtual addresses. It writes a descriptor, then the number of
//! descriptors that it has written so far to its [doorbell](doorbell::TAIL). The descriptors of a
//! queue are carried out one after the other; the completion of the one at index `n` of the ring is
//! written at index `n` of the array. Whatever is not there when the device comes to it, the ring and
//! the completions included, it requests from the host.
//!
//! All numbers are little endian. A register has 32 bits and is accessed as such; one of 64 bits is
//! two, the low half first. A value that a register cannot take leaves it as it was.

/// PCI vendor: that of QEMU's other test devices.
pub const VENDOR: u16 = 0x1234;
/// PCI device.
pub const DEVICE: u16 = 0x5ad1;
/// PCI revision, and [`register::VERSION`]. Another one is another interface.
pub const VERSION: u8 = 1;
/// What [`register::IDENTITY`] reads as: "SVAD".
pub const IDENTITY: u32 = 0x4441_5653;

/// Bytes of a page: the unit of doorbells, translations and page requests.
pub const PAGE_BYTES: u64 = 4096;
/// Number of queues.
pub const QUEUES: u32 = 1024;
/// Number of interrupt vectors, which queues may share.
pub const VECTORS: u32 = 64;
/// Bits of a PASID (PCIe 6.0, 7.8.9.2).
pub const PASID_BITS: u32 = 20;
/// Page request groups that can be outstanding at once: as many as there are group indexes (PCIe
/// 6.0, 10.4.1).
pub const PAGE_GROUPS: usize = 512;

/// Registers that belong to no queue, by offset in BAR 0. For the driver only.
pub mod register {
    /// Read only: [`IDENTITY`](super::IDENTITY).
    pub const IDENTITY: u64 = 0x00;
    /// Read only: [`VERSION`](super::VERSION).
    pub const VERSION: u64 = 0x04;
    /// Read only: [`QUEUES`](super::QUEUES).
    pub const QUEUES: u64 = 0x08;
    /// Read only: [`VECTORS`](super::VECTORS).
    pub const VECTORS: u64 = 0x0c;

    /// Entries of the translation cache, 0 to [`CACHE_ENTRIES_MAX`](super::CACHE_ENTRIES_MAX); 0:
    /// none. What is written to the three registers of the cache takes effect with
    /// [`CACHE_APPLY`].
    pub const CACHE_ENTRIES: u64 = 0x10;
    /// Entries of a set, 1 to [`CACHE_ENTRIES`], which they divide.
    pub const CACHE_WAYS: u64 = 0x14;
    /// Which entry of a full set gives way: a [`Replacement`](super::Replacement).
    pub const CACHE_REPLACEMENT: u64 = 0x18;
    /// Write any value: the cache is emptied and has the new shape. Reads as 0, or as the offset of
    /// the register whose value was refused, in which case nothing was changed.
    pub const CACHE_APPLY: u64 = 0x1c;

    /// Pages that a page request group asks for at most, 1 to [`WINDOW_MAX`](super::WINDOW_MAX).
    pub const PAGE_REQUEST_WINDOW: u64 = 0x20;
    /// Pages that a translation request asks for at most, 1 to [`WINDOW_MAX`](super::WINDOW_MAX).
    pub const TRANSLATION_WINDOW: u64 = 0x24;
    /// Milliseconds after which a page request counts as unanswered, 1 to
    /// [`PAGE_RESPONSE_TIMEOUT_MS_MAX`](super::PAGE_RESPONSE_TIMEOUT_MS_MAX).
    pub const PAGE_RESPONSE_TIMEOUT_MS: u64 = 0x28;
    /// Write any value: all counters of the device and of its queues begin at 0 again.
    pub const COUNTERS_RESET: u64 = 0x2c;

    /// Error injection: how many of the next page responses are ignored. Counts down.
    pub const INJECT_DROPPED_RESPONSES: u64 = 0x40;
    /// Error injection: how many of the next page responses take effect late. Counts down.
    pub const INJECT_LATE_RESPONSES: u64 = 0x44;
    /// How late, in milliseconds.
    pub const INJECT_LATE_MS: u64 = 0x48;
    /// Error injection: how many of the next descriptors arrive damaged. Counts down.
    pub const INJECT_DAMAGED_DESCRIPTORS: u64 = 0x4c;
    /// Which of the 16 words of the descriptor is inverted.
    pub const INJECT_DAMAGED_WORD: u64 = 0x50;
    /// Error injection: how many of the next descriptors are carried out with
    /// [`INJECT_PASID`] in place of the queue's own PASID. Counts down.
    pub const INJECT_FOREIGN_PASIDS: u64 = 0x54;
    /// With which one.
    pub const INJECT_PASID: u64 = 0x58;

    /// Where the device tries an access that nobody asked for. 64 bits, a multiple of 8.
    pub const PROBE_ADDRESS: u64 = 0x60;
    /// In which address space.
    pub const PROBE_PASID: u64 = 0x68;
    /// Write a [`Probe`](super::Probe): the access is tried before the write returns.
    pub const PROBE_COMMAND: u64 = 0x6c;
    /// Read only: what became of it, a [`ProbeResult`](super::ProbeResult).
    pub const PROBE_RESULT: u64 = 0x70;
    /// What was read, or is to be written. 64 bits.
    pub const PROBE_DATA: u64 = 0x78;

    /// Read only: sums over the device's life or since the last reset, of 64 bits each, in the order
    /// of [`Counter`](super::Counter).
    pub const COUNTERS: u64 = 0x200;

    /// The first offset after them.
    pub const END: u64 = 0x400;
}

/// Largest value of [`register::CACHE_ENTRIES`].
pub const CACHE_ENTRIES_MAX: u32 = 1 << 16;
/// Largest value of [`register::PAGE_REQUEST_WINDOW`] and [`register::TRANSLATION_WINDOW`].
pub const WINDOW_MAX: u32 = 64;
/// [`register::PAGE_RESPONSE_TIMEOUT_MS`] of a device that nobody has touched: longer than any
/// host needs, shorter than the patience of a test.
pub const PAGE_RESPONSE_TIMEOUT_MS: u32 = 10_000;
/// Largest value of [`register::PAGE_RESPONSE_TIMEOUT_MS`].
pub const PAGE_RESPONSE_TIMEOUT_MS_MAX: u32 = 600_000;

/// Registers of one queue, by offset from [`queue::block`]. For the driver only.
pub mod queue {
    /// Offset in BAR 0 of the registers of queue `index`.
    pub const fn block(index: u32) -> u64 {
        0x8_0000 + index as u64 * BLOCK_BYTES
    }
    /// Bytes of the registers of a queue.
    pub const BLOCK_BYTES: u64 = 0x200;

    /// Write 1: the queue starts, with both of its counts at 0, or halts at once. Write 0: it stops
    /// where it is, and nothing is written any more when the write has returned. The registers of
    /// its ring can be written while it is stopped only.
    pub const CONTROL: u64 = 0x00;
    /// Read only: the bits of [`status`](super::status).
    pub const STATUS: u64 = 0x04;
    /// Whose memory it works on.
    pub const PASID: u64 = 0x08;
    /// Binary logarithm of the number of descriptors in the ring, 1 to
    /// [`RING_LOG2_MAX`](super::RING_LOG2_MAX).
    pub const RING_LOG2: u64 = 0x0c;
    /// Virtual address of the ring, 64 bits, a multiple of [`Descriptor::BYTES`].
    ///
    /// [`Descriptor::BYTES`]: super::Descriptor::BYTES
    pub const RING_ADDRESS: u64 = 0x10;
    /// Virtual address of the completions, 64 bits, a multiple of [`Completion::BYTES`].
    ///
    /// [`Completion::BYTES`]: super::Completion::BYTES
    pub const COMPLETIONS_ADDRESS: u64 = 0x18;
    /// Read only: the address at which a halted queue could not go on, 64 bits.
    pub const HALT_ADDRESS: u64 = 0x20;
    /// Interrupt vector.
    pub const VECTOR: u64 = 0x28;
    /// Read only: descriptors completed so far, modulo 2^32.
    pub const HEAD: u64 = 0x30;
    /// Read only: what was last written to the doorbell.
    pub const TAIL: u64 = 0x34;

    /// Write a [`StreamMode`](super::StreamMode): the receive stream starts from frame 0, with an
    /// empty buffer, or ends. Reads as the mode; stays 0 if the other registers do not fit.
    pub const STREAM_MODE: u64 = 0x40;
    /// Bytes of a frame, [`FRAME_BYTES_MIN`](super::FRAME_BYTES_MIN) to
    /// [`FRAME_BYTES_MAX`](super::FRAME_BYTES_MAX), a multiple of 8.
    pub const STREAM_FRAME_BYTES: u64 = 0x44;
    /// Bytes that arrive in a millisecond; not 0.
    pub const STREAM_BYTES_PER_MS: u64 = 0x48;
    /// Bytes that the device can keep until a buffer is posted, from one frame to
    /// [`STREAM_BUFFER_BYTES_MAX`](super::STREAM_BUFFER_BYTES_MAX).
    pub const STREAM_BUFFER_BYTES: u64 = 0x4c;
    /// Frames after which nothing arrives any more; 0: it goes on for ever.
    pub const STREAM_FRAMES: u64 = 0x50;

    /// Read only: sums since the queue was started or since the last reset, of 64 bits each, in the
    /// order of [`Counter`](super::Counter).
    pub const COUNTERS: u64 = 0x100;
}

/// Largest value of [`queue::RING_LOG2`].
pub const RING_LOG2_MAX: u32 = 12;
/// Smallest value of [`queue::STREAM_FRAME_BYTES`]: that of an Ethernet frame.
pub const FRAME_BYTES_MIN: u32 = 64;
/// Largest value of [`queue::STREAM_FRAME_BYTES`].
pub const FRAME_BYTES_MAX: u32 = 1 << 16;
/// Largest value of [`queue::STREAM_BUFFER_BYTES`].
pub const STREAM_BUFFER_BYTES_MAX: u32 = 1 << 26;

/// What a consumer may map: a page for each queue, by offset from [`doorbell::page`].
pub mod doorbell {
    /// Offset in BAR 0 of the page of queue `index`.
    pub const fn page(index: u32) -> u64 {
        0x40_0000 + index as u64 * super::PAGE_BYTES
    }

    /// Write: how many descriptors were written so far, modulo 2^32. Reads as what was written last.
    pub const TAIL: u64 = 0x00;
    /// Read only: [`HEAD`](super::queue::HEAD).
    pub const HEAD: u64 = 0x04;
    /// Read only: [`STATUS`](super::queue::STATUS).
    pub const STATUS: u64 = 0x08;
    /// Read only: [`HALT_ADDRESS`](super::queue::HALT_ADDRESS).
    pub const HALT_ADDRESS: u64 = 0x10;
    /// Read only: [`COUNTERS`](super::queue::COUNTERS).
    pub const COUNTERS: u64 = 0x100;
}

/// Bytes of BAR 0.
pub const BAR_BYTES: u64 = 0x80_0000;

/// Bits of [`queue::STATUS`].
pub mod status {
    /// Takes descriptors.
    pub const RUNNING: u32 = 1 << 0;
    /// Waits for the answer to a page request.
    pub const WAITING: u32 = 1 << 1;
    /// Cannot go on, for the reason in [`CAUSE`] and, if that is
    /// [`Status::Malformed`](super::Status::Malformed), in [`FIELD`]. It has to be started again.
    pub const HALTED: u32 = 1 << 2;
    /// A page request for its PASID that nobody waits for any more is not answered yet. The PASID
    /// may be taken away when this is clear.
    pub const DRAINING: u32 = 1 << 3;
    /// A [`Status`](super::Status).
    pub const CAUSE: u32 = 0xff << CAUSE_SHIFT;
    /// Where it starts.
    pub const CAUSE_SHIFT: u32 = 8;
    /// A [`Field`](super::Field).
    pub const FIELD: u32 = 0xff << FIELD_SHIFT;
    /// Where it starts.
    pub const FIELD_SHIFT: u32 = 16;
}

/// Defines a C-like enum with its number, from it, and all of its variants.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$doc])* $variant = $number,)+
        }

        impl $name {
            /// All there are, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What stands for it in registers and memory.
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// What `number` stands for.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

numbered! {
    /// Which entry of a full set the translation cache gives up.
    Replacement {
        /// The one used longest ago.
        LeastRecentlyUsed = 0,
        /// The one brought in longest ago.
        FirstInFirstOut = 1,
        /// Any.
        Random = 2,
        /// The first one, from where the hand stands, that was not used since the hand last passed.
        Clock = 3,
    }
}

numbered! {
    /// What arrives while the buffer for a receive stream is full.
    StreamMode {
        /// There is no stream.
        Off = 0,
        /// The sender is held back: nothing is lost, and time passes.
        Cooperate = 1,
        /// It is lost, and counted.
        Drop = 2,
    }
}

numbered! {
    /// What a descriptor asks for. A field that an operation does not name must be 0.
    Operation {
        /// Nothing, successfully.
        Nop = 0,
        /// `length` bytes from `source` to `destination`, from the first to the last; the two must not
        /// overlap, or what is written is not defined.
        Copy = 1,
        /// `pattern`, again and again, to `length` bytes at `destination`.
        Fill = 2,
        /// The CRC32C of `length` bytes at `source`, going on from the one in `pattern`, to `result`.
        Checksum = 3,
        /// `length` bytes from where the list of `list_entries` at `source` says, to `destination`.
        Gather = 4,
        /// `length` bytes from `source` to where the list of `list_entries` at `destination` says.
        Scatter = 5,
        /// The next frame of the queue's stream, when it is there, to `destination`, where `length`
        /// bytes are free; its number to `result`.
        Receive = 6,
    }
}

numbered! {
    /// How the carrying out of a descriptor, or of a queue, has ended.
    Status {
        /// Not yet. The device never writes this; the consumer does, before it submits.
        Pending = 0,
        /// As it should.
        Done = 1,
        /// A field of the descriptor, which is named, has a value that it must not have. Nothing was
        /// done but what `bytes_done` says.
        Malformed = 2,
        /// The host answered a page request with "invalid request": nothing is there for the device.
        FaultInvalid = 3,
        /// The host answered a page request with "response failure".
        FaultFailed = 4,
        /// The host did not answer a page request in time.
        FaultUnanswered = 5,
        /// The page request could not be sent.
        FaultRefused = 6,
        /// The page was answered for, and gone again, [`ATTEMPTS`] times.
        FaultPersistent = 7,
        /// The address was translated, and there is no memory.
        Bus = 8,
        /// There is no stream to receive from.
        NoStream = 9,
    }
}

/// Page requests for one access after which the device gives up.
pub const ATTEMPTS: u32 = 16;

numbered! {
    /// Which value is malformed.
    Field {
        /// None is.
        None = 0,
        /// [`Descriptor::operation`].
        Operation = 1,
        /// [`Descriptor::flags`].
        Flags = 2,
        /// [`Descriptor::source`].
        Source = 3,
        /// [`Descriptor::destination`].
        Destination = 4,
        /// [`Descriptor::length`].
        Length = 5,
        /// [`Descriptor::pattern`].
        Pattern = 6,
        /// [`Descriptor::list_entries`]: not allowed, or too few for the length.
        ListEntries = 7,
        /// [`Descriptor::reserved`].
        Reserved = 8,
        /// The element of a list at the address that is given as `fault_address`.
        ListElement = 9,
        /// [`doorbell::TAIL`]: more descriptors than the ring has.
        Tail = 10,
        /// [`queue::PASID`].
        Pasid = 11,
        /// [`queue::RING_LOG2`].
        RingLog2 = 12,
        /// [`queue::RING_ADDRESS`].
        RingAddress = 13,
        /// [`queue::COMPLETIONS_ADDRESS`].
        CompletionsAddress = 14,
    }
}

numbered! {
    /// An access that nobody asked for, of 8 bytes.
    Probe {
        /// Read through the translation cache, which keeps nothing of it.
        Read = 1,
        /// Write likewise.
        Write = 2,
        /// Read, past the translation cache.
        ReadUncached = 3,
        /// Write, past the translation cache.
        WriteUncached = 4,
    }
}

numbered! {
    /// What became of it.
    ProbeResult {
        /// None was tried yet.
        None = 0,
        /// The memory was reached.
        Reached = 1,
        /// There was no translation.
        Untranslated = 2,
        /// There was one, to no memory.
        Bus = 3,
    }
}

numbered! {
    /// What is counted.
    Counter {
        /// Descriptors completed.
        Descriptors = 0,
        /// Of these, malformed ones.
        Malformed = 1,
        /// Of these, ended by a fault or by the bus.
        Failed = 2,
        /// Bytes that the operations have moved.
        Bytes = 3,
        /// Accesses whose translation was in the cache.
        CacheHits = 4,
        /// Accesses whose translation was not.
        CacheMisses = 5,
        /// Entries that gave way to others.
        CacheEvictions = 6,
        /// Translation requests.
        Translations = 7,
        /// Of these, without what was asked for.
        TranslationsFailed = 8,
        /// Pages requested.
        PageRequests = 9,
        /// Groups that they were requested in.
        PageGroups = 10,
        /// Groups answered with success.
        GroupsResolved = 11,
        /// Groups answered with "invalid request".
        GroupsInvalid = 12,
        /// Groups answered with "response failure".
        GroupsFailed = 13,
        /// Groups not answered in time.
        GroupsUnanswered = 14,
        /// Groups that could not be sent.
        GroupsRefused = 15,
        /// Nanoseconds from request to answer, over all groups answered.
        ResponseNs = 16,
        /// The longest of these.
        ResponseNsMax = 17,
        /// Answers to nothing that was outstanding. Of the device as a whole.
        ResponsesUnexpected = 18,
        /// Answers ignored as [injected](register::INJECT_DROPPED_RESPONSES). Of the device as a
        /// whole.
        ResponsesDropped = 19,
        /// Invalidations that the host has asked for. Of the device as a whole.
        Invalidations = 20,
        /// Entries of the cache that these found. Of the device as a whole.
        Invalidated = 21,
        /// Interrupts raised.
        Interrupts = 22,
        /// Times that a queue halted.
        Halts = 23,
        /// Frames that have arrived on the stream, lost ones included.
        StreamArrived = 24,
        /// Frames delivered to buffers.
        StreamDelivered = 25,
        /// Frames lost.
        StreamDropped = 26,
        /// Nanoseconds for which the sender was held back.
        StreamHeldNs = 27,
        /// The most bytes that the buffer has held.
        StreamBufferedMax = 28,
    }
}

/// A request for one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The number of an [`Operation`].
    pub operation: u32,
    /// [`Descriptor::INTERRUPT`], or 0.
    pub flags: u32,
    /// Virtual address.
    pub source: u64,
    /// Virtual address.
    pub destination: u64,
    /// Bytes, up to [`Descriptor::LENGTH_MAX`].
    pub length: u64,
    /// Eight bytes to fill with, or a CRC32C to go on from.
    pub pattern: u64,
    /// Number of [`Element`]s of a list, whose address is a multiple of [`Element::BYTES`].
    pub list_entries: u32,
    /// Must be 0.
    pub reserved: [u32; 5],
}

impl Descriptor {
    /// Bytes of it in memory, and its alignment.
    pub const BYTES: u64 = 64;
    /// Largest length.
    pub const LENGTH_MAX: u64 = 1 << 40;
    /// Largest number of elements in a list.
    pub const LIST_ENTRIES_MAX: u32 = 1 << 16;
    /// Flag: an interrupt follows the completion.
    pub const INTERRUPT: u32 = 1 << 0;

    /// As it lies in memory.
    pub const fn to_words(self) -> [u32; 16] {
        [
            self.operation,
            self.flags,
            low(self.source),
            high(self.source),
            low(self.destination),
            high(self.destination),
            low(self.length),
            high(self.length),
            low(self.pattern),
            high(self.pattern),
            self.list_entries,
            self.reserved[0],
            self.reserved[1],
            self.reserved[2],
            self.reserved[3],
            self.reserved[4],
        ]
    }

    /// From what lies in memory.
    pub const fn from_words(w: [u32; 16]) -> Self {
        Self {
            operation: w[0],
            flags: w[1],
            source: joined(w[2], w[3]),
            destination: joined(w[4], w[5]),
            length: joined(w[6], w[7]),
            pattern: joined(w[8], w[9]),
            list_entries: w[10],
            reserved: [w[11], w[12], w[13], w[14], w[15]],
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// The number of a [`Status`]. Written last.
    pub status: u32,
    /// The number of a [`Field`].
    pub field: u32,
    /// The virtual address that could not be reached, or at which the malformed element is.
    pub fault_address: u64,
    /// Bytes moved, from the start.
    pub bytes_done: u64,
    /// What the operation says.
    pub result: u64,
}

impl Completion {
    /// Bytes of it in memory, and its alignment.
    pub const BYTES: u64 = 32;

    /// As it lies in memory.
    pub const fn to_words(self) -> [u32; 8] {
        [
            self.status,
            self.field,
            low(self.fault_address),
            high(self.fault_address),
            low(self.bytes_done),
            high(self.bytes_done),
            low(self.result),
            high(self.result),
        ]
    }

    /// From what lies in memory.
    pub const fn from_words(w: [u32; 8]) -> Self {
        Self {
            status: w[0],
            field: w[1],
            fault_address: joined(w[2], w[3]),
            bytes_done: joined(w[4], w[5]),
            result: joined(w[6], w[7]),
        }
    }
}

/// An element of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Virtual address.
    pub address: u64,
    /// Bytes; not 0.
    pub length: u64,
}

impl Element {
    /// Bytes of it in memory, and its alignment.
    pub const BYTES: u64 = 16;

    /// As it lies in memory.
    pub const fn to_words(self) -> [u32; 4] {
        [
            low(self.address),
            high(self.address),
            low(self.length),
            high(self.length),
        ]
    }

    /// From what lies in memory.
    pub const fn from_words(w: [u32; 4]) -> Self {
        Self {
            address: joined(w[0], w[1]),
            length: joined(w[2], w[3]),
        }
    }
}

/// The 64-bit word at index `word` of frame `frame` of a receive stream. The first one is the number
/// of the frame.
pub const fn frame_word(frame: u64, word: u64) -> u64 {
    // 2^64 divided by the golden ratio, as in Knuth's multiplicative hash: neighbours differ in many
    // bits.
    frame ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

const fn joined(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}
