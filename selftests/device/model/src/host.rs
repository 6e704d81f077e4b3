// SPDX-License-Identifier: GPL-2.0

//! What a device finds outside of itself: an IOMMU, memory, interrupts, a clock.

/// What an access does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
}

/// What may be done to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// It may be read.
    pub read: bool,
    /// It may be written.
    pub write: bool,
}

impl Permissions {
    /// Whether `access` may be done.
    pub fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
        }
    }
}

/// Asks the IOMMU for translations (PCIe 6.0, 10.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationRequest {
    /// The address space.
    pub pasid: u32,
    /// The first page: a multiple of [`PAGE_BYTES`](crate::abi::PAGE_BYTES).
    pub address: u64,
    /// How many pages, from there.
    pub pages: u32,
    /// What the first page is wanted for.
    pub access: Access,
}

/// Where a range of virtual addresses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// First virtual address.
    pub address: u64,
    /// Bytes, a multiple of [`PAGE_BYTES`](crate::abi::PAGE_BYTES).
    pub bytes: u64,
    /// Where on the bus it starts.
    pub target: u64,
    /// What may be done there.
    pub permissions: Permissions,
}

/// Asks the host to bring in a page (PCIe 6.0, 10.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The address space.
    pub pasid: u32,
    /// The page: a multiple of [`PAGE_BYTES`](crate::abi::PAGE_BYTES).
    pub address: u64,
    /// What it is wanted for.
    pub access: Access,
    /// Index of the group that is answered as a whole.
    pub group: u16,
    /// Whether this is the last one of the group.
    pub last: bool,
}

/// The answer to a group of page requests (PCIe 6.0, 10.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageResponse {
    /// All of its pages were brought in.
    Success,
    /// One of them is not there for the device.
    Invalid,
    /// The host cannot serve requests of this address space.
    Failure,
}

/// The host did not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// There is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// What is outside of the device.
///
/// None of these may call the device back; what comes of them, the host tells it when it has
/// returned.
pub trait Host {
    /// Adds to `found` what is known of `request`, in any order, for larger ranges than were asked
    /// for if they are mapped as one.
    fn translate(&mut self, request: TranslationRequest, found: &mut Vec<Translation>);

    /// Sends a page request. Its group is answered by
    /// [`Device::page_response`](crate::Device::page_response) once its last one was sent.
    ///
    /// # Errors
    ///
    /// The whole group will not be answered.
    fn request_page(&mut self, request: PageRequest) -> Result<(), Refused>;

    /// Fills `data` from `address` on the bus; both stay within a page.
    ///
    /// # Errors
    ///
    /// Nothing is there.
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory>;

    /// Writes `data` to `address` on the bus; both stay within a page.
    ///
    /// # Errors
    ///
    /// Nothing is there.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory>;

    /// Raises an interrupt, below [`VECTORS`](crate::abi::VECTORS).
    fn interrupt(&mut self, vector: u32);

    /// From now on, the device is told about invalidations of `pasid` and answers to its requests.
    ///
    /// # Errors
    ///
    /// The host cannot do that: no queue may use it.
    fn attach(&mut self, pasid: u32) -> Result<(), Refused>;

    /// The device asks for nothing of `pasid` any more.
    fn detach(&mut self, pasid: u32);

    /// Nanoseconds since any fixed time.
    fn now(&self) -> u64;

    /// Sees to it that [`Device::run`](crate::Device::run) is called at `time`, or soon if that is
    /// past. The last call counts.
    fn call_at(&mut self, time: u64);
}
