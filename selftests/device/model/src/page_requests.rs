// SPDX-License-Identifier: GPL-2.0

//! The page requests that are under way, in groups that are answered as a whole.
//!
//! The index of a group that was not answered in time is not used again while the host may still
//! answer it, or that answer would be taken for another group's.

use crate::abi::{Counter, PAGE_BYTES, PAGE_GROUPS};
use crate::counters::Counters;
use crate::host::{Host, PageRequest, PageResponse};
use crate::injection::{Fate, Injection};
use crate::memory::Wanted;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The host has it.
    Sent,
    /// The host has answered, and that takes effect at this time.
    Late(u64, PageResponse),
    /// The host has answered, which is ignored.
    Dropped,
    /// Nobody waits for the answer any more.
    Expired,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    pasid: u32,
    /// Who waits for it, if anyone still does.
    queue: Option<u32>,
    sent: u64,
    deadline: u64,
    state: State,
}

/// What a queue has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// From the host.
    Response(PageResponse),
    /// None came in time.
    Unanswered,
}

/// The end of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    pub(crate) pasid: u32,
    pub(crate) queue: Option<u32>,
    pub(crate) answer: Answer,
    /// Nanoseconds that it took.
    pub(crate) elapsed: u64,
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// All indexes are in use: try again when one is free.
    Full,
    /// The host did not take it.
    Refused,
}

/// A group to be sent.
pub(crate) struct Plan {
    pub(crate) pasid: u32,
    pub(crate) queue: u32,
    pub(crate) wanted: Wanted,
    /// Pages that it asks for at most.
    pub(crate) window: u32,
    /// Nanoseconds that the host has to answer.
    pub(crate) timeout: u64,
}

/// The groups.
pub(crate) struct PageRequests {
    groups: Vec<Option<Group>>,
    /// Where to look for a free one: the one used longest ago comes last.
    next: usize,
}

impl PageRequests {
    pub(crate) fn new() -> Self {
        Self {
            groups: vec![None; PAGE_GROUPS],
            next: 0,
        }
    }

    /// Requests what `plan` says.
    pub(crate) fn send(
        &mut self,
        host: &mut impl Host,
        counters: &mut Counters,
        plan: &Plan,
    ) -> Result<(), Unsent> {
        let indexes = (self.next..PAGE_GROUPS).chain(0..self.next);
        let mut free = indexes.filter(|index| self.groups[*index].is_none());
        let index = free.next().ok_or(Unsent::Full)?;
        let pages = plan.wanted.pages(plan.window);
        let first = plan.wanted.address / PAGE_BYTES;
        for number in 0..pages {
            let request = PageRequest {
                pasid: plan.pasid,
                address: first.wrapping_add(number.into()).wrapping_mul(PAGE_BYTES),
                access: plan.wanted.access,
                // There are 512 groups.
                group: index as u16,
                last: number + 1 == pages,
            };
            if host.request_page(request).is_err() {
                counters.add(Counter::GroupsRefused, 1);
                return Err(Unsent::Refused);
            }
            counters.add(Counter::PageRequests, 1);
        }
        counters.add(Counter::PageGroups, 1);
        let now = host.now();
        self.groups[index] = Some(Group {
            pasid: plan.pasid,
            queue: Some(plan.queue),
            sent: now,
            deadline: now.saturating_add(plan.timeout),
            state: State::Sent,
        });
        self.next = (index + 1) % PAGE_GROUPS;
        Ok(())
    }

    /// Takes the host's answer. Returns the end of the group if this is it.
    pub(crate) fn respond(
        &mut self,
        device: &mut Counters,
        injection: &mut Injection,
        now: u64,
        pasid: u32,
        index: u16,
        response: PageResponse,
    ) -> Option<Settled> {
        let place = self.groups.get_mut(usize::from(index));
        let Some((place, mut group)) = place.and_then(|place| {
            let group = (*place)?;
            (group.pasid == pasid).then_some((place, group))
        }) else {
            device.add(Counter::ResponsesUnexpected, 1);
            return None;
        };
        match group.state {
            State::Sent => match injection.response() {
                Fate::Now => {
                    *place = None;
                    return Some(group.settled(now, Answer::Response(response)));
                }
                Fate::Late(ms) => {
                    group.state = State::Late(now + u64::from(ms) * 1_000_000, response);
                    *place = Some(group);
                }
                Fate::Dropped => {
                    device.add(Counter::ResponsesDropped, 1);
                    group.state = State::Dropped;
                    *place = Some(group);
                }
            },
            State::Expired => {
                device.add(Counter::ResponsesUnexpected, 1);
                *place = None;
            }
            State::Late(..) | State::Dropped => device.add(Counter::ResponsesUnexpected, 1),
        }
        None
    }

    /// One of the groups that have ended by the mere passing of time.
    pub(crate) fn expire(&mut self, now: u64) -> Option<Settled> {
        for place in &mut self.groups {
            let Some(mut group) = *place else {
                continue;
            };
            match group.state {
                State::Late(due, response) if due <= now && due <= group.deadline => {
                    *place = None;
                    return Some(group.settled(now, Answer::Response(response)));
                }
                State::Sent if group.deadline <= now => {
                    group.state = State::Expired;
                    *place = Some(group);
                    return Some(group.settled(now, Answer::Unanswered));
                }
                State::Late(..) | State::Dropped if group.deadline <= now => {
                    *place = None;
                    return Some(group.settled(now, Answer::Unanswered));
                }
                _ => {}
            }
        }
        None
    }

    /// When [`expire`](Self::expire) will have something, if nothing else happens.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        let groups = self.groups.iter().flatten();
        let due = groups.filter_map(|group| match group.state {
            State::Sent | State::Dropped => Some(group.deadline),
            State::Late(due, _) => Some(due.min(group.deadline)),
            State::Expired => None,
        });
        due.min()
    }

    /// `queue` does not wait any more.
    pub(crate) fn abandon(&mut self, queue: u32) {
        for group in self.groups.iter_mut().flatten() {
            if group.queue == Some(queue) {
                group.queue = None;
            }
        }
    }

    /// Whether anything is under way for `pasid`.
    pub(crate) fn are_under_way(&self, pasid: u32) -> bool {
        let mut groups = self.groups.iter().flatten();
        groups.any(|group| group.pasid == pasid && group.state != State::Expired)
    }

    /// Whether anything is under way for `pasid` that nobody waits for.
    pub(crate) fn are_draining(&self, pasid: u32) -> bool {
        let mut groups = self.groups.iter().flatten();
        groups.any(|group| {
            group.pasid == pasid && group.queue.is_none() && group.state != State::Expired
        })
    }

    /// The host will not answer anything of `pasid` any more.
    pub(crate) fn forget(&mut self, pasid: u32) {
        for place in &mut self.groups {
            if place.is_some_and(|group| group.pasid == pasid) {
                *place = None;
            }
        }
    }
}

impl Group {
    fn settled(&self, now: u64, answer: Answer) -> Settled {
        Settled {
            pasid: self.pasid,
            queue: self.queue,
            answer,
            elapsed: now.saturating_sub(self.sent),
        }
    }
}
