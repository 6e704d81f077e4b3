// SPDX-License-Identifier: GPL-2.0

//! What the device is made to do.

use core::{
    fmt,
    ops::Range, //
};

use kernel::{
    device::Core,
    devres::Devres,
    dma::DataDirection,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::Arc,
    time::{
        delay::{
            fsleep,
            udelay, //
        },
        Delta,
        Instant,
        Monotonic, //
    }, //
};
use pdio::{
    bottom_half::BottomHalvesDisabled,
    dma_master::{
        Frame,
        Mapping,
        Master, //
    }, //
};

use crate::{
    edu::{
        Access,
        Edu,
        Transfer, //
    },
    pattern::Pattern, //
};

/// The part of a page that `neighbour` maps: 100 bytes that start and end within a cache line.
pub(crate) const PART: Range<usize> = 1000..1100;

/// The part of a page by which `wrong-direction` has the mapping used.
const USED: Range<usize> = 0..64;

/// Bytes that `unrelated` tries at each place.
const PROBE: usize = PAGE_SIZE / PLACES;

/// Places that `unrelated` can try at once.
const PLACES: usize = 16;

/// How long before a transfer happens the page is unmapped, one after the other until the machine
/// was quick enough: the shorter, the harder the attack. 0: the transfer is started afterwards.
const LEADS_MS: [i64; 6] = [4, 4, 8, 20, 60, 0];

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Immediate,
    List,
    Reallocated,
    Neighbour,
    NeighbourUnmapped,
    Again,
    WrongDirection,
    Unrelated,
}

impl Scenario {
    const ALL: [(&'static str, Self); 8] = [
        ("immediate", Self::Immediate),
        ("list", Self::List),
        ("reallocated", Self::Reallocated),
        ("neighbour", Self::Neighbour),
        ("neighbour-unmapped", Self::NeighbourUnmapped),
        ("again", Self::Again),
        ("wrong-direction", Self::WrongDirection),
        ("unrelated", Self::Unrelated),
    ];
}

/// What is tried, and how.
pub(crate) struct Plan {
    scenario: Scenario,
    access: Access,
    /// For [`Scenario::Unrelated`].
    offsets: KVec<u64>,
}

impl TryFrom<&str> for Plan {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().ok_or(EINVAL)?;
        let (_, scenario) = Scenario::ALL
            .into_iter()
            .find(|(known, _)| *known == name)
            .ok_or(EINVAL)?;
        let access = match words.next() {
            Some("read") => Access::Read,
            Some("write") => Access::Write,
            _ => return Err(EINVAL),
        };
        let mut offsets = KVec::with_capacity(PLACES, GFP_KERNEL)?;

        for word in words {
            let offset = match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => word.parse(),
            };

            if offsets.len() == PLACES {
                return Err(EINVAL);
            }
            offsets.push(offset.map_err(|_| EINVAL)?, GFP_KERNEL)?;
        }
        if (scenario == Scenario::Unrelated) == offsets.is_empty() {
            return Err(EINVAL);
        }

        Ok(Self {
            scenario,
            access,
            offsets,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Scenario::ALL
            .into_iter()
            .find(|(_, scenario)| *scenario == self.scenario)
            .map_or("", |(name, _)| name);
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
        };

        write!(f, "scenario={name} access={access}")
    }
}

/// Bytes that arrived, of those that would have if nothing had been in the way.
#[derive(Clone, Copy, Default)]
struct Bytes {
    arrived: usize,
    of: usize,
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.arrived, self.of)
    }
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    /// What was mapped for the device at the time.
    mapped: Bytes,
    /// What was not.
    reached: Bytes,
    /// From unmap until the device had tried.
    elapsed_us: i64,
    address: u64,
    phys: u64,
    places: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mapped,
            reached,
            elapsed_us,
            address,
            phys,
            places,
        } = self;

        write!(
            f,
            "mapped={mapped} reached={reached} elapsed_us={elapsed_us} address={address:#x} \
             phys={phys:#x} places={places}"
        )
    }
}

/// A page that the device knew, and no longer should.
struct Victim {
    frame: Arc<Frame>,
    /// Where the page starts for the device.
    address: u64,
    /// What of it was mapped.
    part: Range<usize>,
    access: Access,
    /// What is in the device's buffer to be written.
    sent: Pattern,
    /// When it was unmapped.
    unmapped: Instant<Monotonic>,
}

impl Victim {
    /// How the device tries it.
    fn transfer(&self) -> Transfer {
        whole(self.access, self.address)
    }

    /// Counts the bytes that the device should be kept from and that are those of `pattern` in a
    /// page. If nothing but a part was mapped, it is the rest that matters.
    fn count(&self, page: &Frame, pattern: Pattern) -> Bytes {
        if self.part.len() == PAGE_SIZE {
            count(page, 0..PAGE_SIZE, pattern)
        } else {
            count_around(page, &self.part, pattern)
        }
    }
}

/// Counts the bytes of a part of a page that are those of `pattern`.
fn count(page: &Frame, part: Range<usize>, pattern: Pattern) -> Bytes {
    Bytes {
        of: part.len(),
        arrived: page.count(part, |offset, byte| byte == pattern.byte(offset)),
    }
}

/// As [`count`], for what is around the part.
fn count_around(page: &Frame, part: &Range<usize>, pattern: Pattern) -> Bytes {
    let before = count(page, 0..part.start, pattern);
    let after = count(page, part.end..PAGE_SIZE, pattern);

    Bytes {
        arrived: before.arrived + after.arrived,
        of: before.of + after.of,
    }
}

/// A whole page at an address.
fn whole(access: Access, address: u64) -> Transfer {
    Transfer {
        access,
        address,
        slot: 0,
        len: PAGE_SIZE,
    }
}

/// As [`whole`], for the part by which a mapping is used.
fn used(access: Access, address: u64) -> Transfer {
    Transfer {
        len: USED.len(),
        ..whole(access, address)
    }
}

/// The direction of a buffer that the device may access so.
fn direction(access: Access) -> DataDirection {
    match access {
        Access::Read => DataDirection::ToDevice,
        Access::Write => DataDirection::FromDevice,
    }
}

/// The device, and what it is given.
pub(crate) struct Lab {
    edu: Edu,
    master: Devres<Master>,
    /// By which its buffer is set and seen.
    window: Arc<Frame>,
    /// Never mapped.
    unrelated: Arc<Frame>,
    /// The last pattern that was used.
    pattern: Pattern,
    victim: Option<Victim>,
}

impl Lab {
    /// Sets up a device whose driver is being bound. May sleep.
    ///
    /// # Errors
    ///
    /// `EIO`, `EBUSY`, `ENOMEM`.
    pub(crate) fn new(device: &pci::Device<Core<'_>>) -> Result<Self> {
        Ok(Self {
            edu: Edu::new(device)?,
            master: Master::new(device)?,
            window: Frame::new()?,
            unrelated: Frame::new()?,
            pattern: Pattern::NONE,
            victim: None,
        })
    }

    /// Does what is planned. May sleep.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the machine was too busy. `ENOENT`: there is nothing to try again. `EIO`: a map
    /// failed. `ETIMEDOUT`: the device does not answer. `ENOMEM`.
    pub(crate) fn run(&mut self, plan: &Plan) -> Result<Outcome> {
        let access = plan.access;

        if plan.scenario != Scenario::Again {
            // What is in the device's buffer does not stay.
            self.victim = None;
        }
        match plan.scenario {
            Scenario::Immediate | Scenario::List | Scenario::Reallocated => {
                self.immediate(plan, 0..PAGE_SIZE)
            }
            Scenario::Neighbour => self.neighbour(plan),
            Scenario::NeighbourUnmapped => self.immediate(plan, PART),
            Scenario::Again => self.again(access),
            Scenario::WrongDirection if access == Access::Read => self.read_write_only(),
            Scenario::WrongDirection => self.write_read_only(),
            Scenario::Unrelated => self.unrelated(access, &plan.offsets),
        }
    }

    /// Fills a page with a new pattern.
    fn fill(&mut self, page: &Frame) -> Pattern {
        let pattern = self.pattern.next();

        self.pattern = pattern;
        page.fill(|offset| pattern.byte(offset));
        pattern
    }

    fn map(
        &self,
        frame: &Arc<Frame>,
        part: Range<usize>,
        direction: DataDirection,
    ) -> Result<Mapping> {
        let master = self.master.try_access().ok_or(ENXIO)?;

        master.map(frame, part, direction)
    }

    /// Maps a page as the middle one of a list.
    fn map_between(&self, frame: &Arc<Frame>, direction: DataDirection) -> Result<Mapping> {
        let mut frames = KVec::with_capacity(3, GFP_KERNEL)?;

        for page in [Frame::new()?, frame.clone(), Frame::new()?] {
            frames.push(page, GFP_KERNEL)?;
        }

        let master = self.master.try_access().ok_or(ENXIO)?;

        master.map_list(frames, direction)
    }

    fn sync_for_cpu(&self, mapping: &mut Mapping) -> Result {
        let master = self.master.try_access().ok_or(ENXIO)?;

        master.sync_for_cpu(mapping)
    }

    fn unmap(&self, mapping: Mapping) -> Result {
        let master = self.master.try_access().ok_or(ENXIO)?;

        master.unmap(mapping)
    }

    /// Sets the device's buffer, as a driver would, to a new pattern.
    fn load(&mut self) -> Result<Pattern> {
        let window = self.window.clone();
        let pattern = self.fill(&window);
        let mapping = self.map(&window, 0..PAGE_SIZE, DataDirection::ToDevice)?;
        let done = self
            .edu
            .transfer(whole(Access::Read, mapping.address(0).ok_or(EIO)?));

        self.unmap(mapping)?;
        done?;
        Ok(pattern)
    }

    /// Copies the device's buffer to the window, as a driver would.
    fn dump(&mut self) -> Result {
        let window = self.window.clone();

        // What is not transferred must not look as if it were.
        self.fill(&window);

        let mapping = self.map(&window, 0..PAGE_SIZE, DataDirection::FromDevice)?;
        let done = self
            .edu
            .transfer(whole(Access::Write, mapping.address(0).ok_or(EIO)?));

        self.unmap(mapping)?;
        done
    }

    /// Maps a part of a new page and has the device try all of the page, so that the IOMMU has seen
    /// the mapping. Keeps the page as the victim. Returns what arrived of the part, and of the rest.
    fn lure(&mut self, plan: &Plan, part: Range<usize>) -> Result<(Mapping, Bytes, Bytes)> {
        let access = plan.access;
        let frame = Frame::new()?;
        let own = self.fill(&frame);
        let sent = match access {
            Access::Read => own,
            Access::Write => self.load()?,
        };
        let (mut mapping, index) = match plan.scenario {
            Scenario::List => (self.map_between(&frame, direction(access))?, 1),
            _ => (self.map(&frame, part.clone(), direction(access))?, 0),
        };
        let address = mapping
            .address(index)
            .ok_or(EIO)?
            .wrapping_sub(part.start as u64);

        self.edu.transfer(whole(access, address))?;

        let shown = match access {
            Access::Read => {
                self.dump()?;
                &self.window
            }
            Access::Write => {
                self.sync_for_cpu(&mut mapping)?;
                &frame
            }
        };
        let inside = count(shown, part.clone(), sent);
        let around = count_around(shown, &part, sent);

        self.victim = Some(Victim {
            frame,
            address,
            part,
            access,
            sent,
            unmapped: Instant::now(),
        });
        Ok((mapping, inside, around))
    }

    /// Has the device use a mapping and try again when it is gone, in the same soft interrupt: the
    /// transfer happens `lead` after the unmap.
    fn pursue(&mut self, plan: &Plan, part: Range<usize>, lead: Delta) -> Result<Outcome> {
        let (mapping, mapped, _) = self.lure(plan, part)?;
        let started = !lead.is_zero();

        // Showing what was read has mapped and unmapped another page, and with that the IOMMU may
        // have forgotten this one.
        if plan.access == Access::Read {
            self.edu.transfer(self.victim()?.transfer())?;
        }

        if started {
            self.edu.start(self.victim()?.transfer())?;
            fsleep(Edu::LATENCY - lead);
        }

        let section = BottomHalvesDisabled::begin();

        self.unmap(mapping)?;

        let mut victim = self.victim.take().ok_or(ENOENT)?;

        victim.unmapped = Instant::now();
        if plan.scenario == Scenario::Reallocated {
            victim.frame = victim.frame.give_away()?;
        }
        self.victim = Some(victim);

        let content = self.renew()?;

        if !started {
            self.edu.start(self.victim()?.transfer())?;
        }

        let in_time = self.edu.is_running()?;

        self.edu.finish(|| udelay(Delta::from_micros(50)))?;

        let elapsed = self.victim()?.unmapped.elapsed();

        drop(section);
        if !in_time {
            return Err(EAGAIN);
        }

        Ok(Outcome {
            mapped,
            ..self.judge(content, elapsed)?
        })
    }

    /// [`Lab::pursue`], with ever more time for what has to happen between unmap and transfer.
    fn immediate(&mut self, plan: &Plan, part: Range<usize>) -> Result<Outcome> {
        let leads_ms: &[i64] = match plan.scenario {
            // A transfer is not started before it is certain who owns the page.
            Scenario::Reallocated => &[0],
            _ => &LEADS_MS,
        };

        leads_ms
            .iter()
            .map(|&lead_ms| self.pursue(plan, part.clone(), Delta::from_millis(lead_ms)))
            .find(|outcome| !matches!(outcome, Err(error) if *error == EAGAIN))
            .unwrap_or(Err(EAGAIN))
    }

    /// [`Scenario::Again`].
    fn again(&mut self, access: Access) -> Result<Outcome> {
        if self.victim()?.access != access {
            return Err(ENOENT);
        }

        let content = self.renew()?;

        self.edu.transfer(self.victim()?.transfer())?;
        self.judge(content, self.victim()?.unmapped.elapsed())
    }

    fn victim(&self) -> Result<&Victim> {
        self.victim.as_ref().ok_or(ENOENT)
    }

    /// Gives the victim new content.
    fn renew(&mut self) -> Result<Pattern> {
        let frame = self.victim()?.frame.clone();

        Ok(self.fill(&frame))
    }

    /// What a transfer has reached of the victim, whose content is `content`.
    fn judge(&mut self, content: Pattern, elapsed: Delta) -> Result<Outcome> {
        if self.victim()?.access == Access::Read {
            self.dump()?;
        }

        let victim = self.victim()?;

        Ok(Outcome {
            reached: match victim.access {
                Access::Read => victim.count(&self.window, content),
                Access::Write => victim.count(&victim.frame, victim.sent),
            },
            elapsed_us: elapsed.as_micros_ceil(),
            address: victim.address,
            phys: victim.frame.phys(),
            ..Outcome::default()
        })
    }

    /// [`Scenario::Neighbour`].
    fn neighbour(&mut self, plan: &Plan) -> Result<Outcome> {
        let (mapping, mapped, reached) = self.lure(plan, PART)?;

        self.unmap(mapping)?;

        let victim = self.victim()?;

        Ok(Outcome {
            mapped,
            reached,
            address: victim.address,
            phys: victim.frame.phys(),
            ..Outcome::default()
        })
    }

    /// [`Scenario::WrongDirection`]: the device writes what it may read.
    fn write_read_only(&mut self) -> Result<Outcome> {
        let frame = Frame::new()?;
        let own = self.fill(&frame);
        let mapping = self.map(&frame, 0..PAGE_SIZE, DataDirection::ToDevice)?;
        let address = mapping.address(0).ok_or(EIO)?;

        self.edu.transfer(used(Access::Read, address))?;
        self.dump()?;

        let mapped = count(&self.window, USED, own);
        let sent = self.load()?;

        self.edu.transfer(whole(Access::Write, address))?;
        self.unmap(mapping)?;

        Ok(Outcome {
            mapped,
            reached: count(&frame, 0..PAGE_SIZE, sent),
            address,
            phys: frame.phys(),
            ..Outcome::default()
        })
    }

    /// [`Scenario::WrongDirection`]: the device reads what it may write.
    fn read_write_only(&mut self) -> Result<Outcome> {
        let frame = Frame::new()?;
        let own = self.fill(&frame);
        let sent = self.load()?;
        let mut mapping = self.map(&frame, 0..PAGE_SIZE, DataDirection::FromDevice)?;
        let address = mapping.address(0).ok_or(EIO)?;

        self.edu.transfer(used(Access::Write, address))?;
        self.sync_for_cpu(&mut mapping)?;

        let mapped = count(&frame, USED, sent);

        self.edu.transfer(whole(Access::Read, address))?;
        self.unmap(mapping)?;
        self.dump()?;

        Ok(Outcome {
            mapped,
            reached: count(&self.window, USED.end..PAGE_SIZE, own),
            address,
            phys: frame.phys(),
            ..Outcome::default()
        })
    }

    /// [`Scenario::Unrelated`]. Each place has a part of the page and of the buffer for itself.
    fn unrelated(&mut self, access: Access, offsets: &[u64]) -> Result<Outcome> {
        let frame = self.unrelated.clone();
        let own = self.fill(&frame);
        let sent = match access {
            Access::Read => own,
            Access::Write => self.load()?,
        };
        let slots = || (0..PAGE_SIZE).step_by(PROBE);

        for (&offset, slot) in offsets.iter().zip(slots()) {
            self.edu.transfer(Transfer {
                access,
                address: frame.phys().wrapping_add(offset).wrapping_add(slot as u64),
                slot,
                len: PROBE,
            })?;
        }
        if access == Access::Read {
            self.dump()?;
        }

        let page = match access {
            Access::Read => &self.window,
            Access::Write => &frame,
        };
        let counts = || {
            slots()
                .take(offsets.len())
                .map(|slot| count(page, slot..slot + PROBE, sent).arrived)
        };

        Ok(Outcome {
            reached: Bytes {
                arrived: counts().max().unwrap_or(0),
                of: PROBE,
            },
            places: counts().filter(|&arrived| arrived != 0).count(),
            phys: frame.phys(),
            ..Outcome::default()
        })
    }
}
