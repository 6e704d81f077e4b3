// SPDX-License-Identifier: GPL-2.0

//! What is to be measured, the machines that share it, and how much each has to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::iopf::Questions;
use crate::qemu::Iommu;
use crate::scenario::{Group, Part, Strategy, Workload};
use crate::vpio;

/// What the clock of the guest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Clock {
    /// Executed instructions, at one per nanosecond (TCG with -icount).
    Instructions,
    /// Nanoseconds.
    Wall,
}

impl Clock {
    /// What records and logs call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Wall => "wall",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What translates in the machines that measure.
    pub iommu: Iommu,
    /// In this order.
    pub strategies: Vec<Strategy>,
    /// In this order.
    pub workloads: Vec<Workload>,
    /// How often.
    pub rounds: u32,
    /// Measured by which clocks.
    pub clocks: Vec<Clock>,
    /// Whether a machine that is not measured checks content.
    pub content: bool,
    /// What is asked about devices that fault.
    pub iopf: Questions,
    /// The library that adds such a device to QEMU, if anything is asked.
    pub svadma: Option<PathBuf>,
    /// What guests with a card do, if they are to.
    pub vpio: Option<vpio::Loads>,
    /// No round begins that would make all of it take longer.
    pub budget: Option<Duration>,
}

/// One machine's share of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A group of workloads under all strategies, by a clock.
    Measure(Group, Clock),
    /// The check of content.
    Content,
    /// What is asked about devices that fault, by a clock.
    Iopf(Clock),
    /// Guests with a card.
    Vpio,
}

impl Plan {
    /// The machines' shares, the longest first, so that none is left to one worker alone at the end.
    pub fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for clock in &self.clocks {
            for group in Group::ALL {
                if self.workloads.iter().any(|it| it.group == group) {
                    jobs.push(Job::Measure(group, *clock));
                }
            }
        }
        if self.content {
            jobs.push(Job::Content);
        }
        for clock in IOPF_CLOCKS {
            if self.questions(clock).is_some() {
                jobs.push(Job::Iopf(clock));
            }
        }
        if self.vpio.is_some() {
            jobs.push(Job::Vpio);
        }
        jobs.sort_by(|a, b| self.weight(*b).total_cmp(&self.weight(*a)));
        jobs
    }

    /// How many machines measure at once. A fault of a device wakes threads on several virtual CPUs: beside
    /// another machine, it takes up to five times as long by the clock.
    pub fn workers(&self, jobs: &[Job]) -> usize {
        let is_iopf = |job: &Job| matches!(job, Job::Iopf(_));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let needed = if jobs.iter().all(is_iopf) {
            1
        } else {
            jobs.len()
        };
        cpus.min(needed)
    }

    /// The command that answers what is asked about devices that fault, if a clock is to.
    pub fn questions(&self, clock: Clock) -> Option<String> {
        self.iopf.command(clock, IOPF_CLOCKS[0])
    }

    /// The workloads of a group.
    pub fn of(&self, group: Group) -> impl Iterator<Item = &Workload> {
        self.workloads.iter().filter(move |it| it.group == group)
    }

    /// Strategies whose content is checked: after identity, isolation cannot
    /// be had back in this emulator's scalable mode.
    pub fn checked(&self) -> impl Iterator<Item = Strategy> {
        let all = self.strategies.iter().copied();
        all.filter(|it| *it != Strategy::KernelIdentity)
    }

    /// Number of steps of a job, for a progress bar.
    pub fn steps(&self, job: Job) -> usize {
        match job {
            Job::Measure(group, _) => self.steps_of_round(group) * self.rounds as usize + 1,
            Job::Content => self.checked().count() * 3 + 1,
            Job::Iopf(_) => 2,
            Job::Vpio => self.vpio.as_ref().map_or(0, |loads| loads.steps()),
        }
    }

    fn steps_of_round(&self, group: Group) -> usize {
        (self.of(group).count() * 2 + 1) * self.strategies.len()
    }

    /// How long a round of a job takes, or all of one that has none, in units of a workload of single
    /// messages under all strategies: as demos came out, with TCG.
    pub fn weight(&self, job: Job) -> f64 {
        match job {
            Job::Measure(group, _) => Self::weight_of(group, self.of(group).count()),
            Job::Content => 2.5,
            Job::Iopf(_) => 0.5,
            Job::Vpio => self
                .vpio
                .as_ref()
                .map_or(0.0, |loads| loads.cards.len() as f64),
        }
    }

    /// The same of so many workloads of a group.
    pub fn weight_of(group: Group, workloads: usize) -> f64 {
        let each = match group {
            Group::Message => 1.0,
            Group::Stream => 1.7,
            // It takes fio some time to start.
            Group::Disk => 3.2,
        };
        workloads as f64 * each
    }

    /// How much is left of a job when the `begun`th of its steps begins, if it does no more of its first
    /// round than it must.
    pub fn left(&self, job: Job, begun: usize) -> f64 {
        let (least, steps) = match job {
            Job::Measure(group, _) => {
                let must = self.of(group).filter(|it| it.part != Part::IfTime);
                let least = Self::weight_of(group, must.count());
                (least, self.steps_of_round(group) + 1)
            }
            _ => (self.weight(job), self.steps(job)),
        };
        let done = begun.saturating_sub(1) as f64 / steps.max(1) as f64;
        least * (1.0 - done).max(0.0)
    }

    /// Number of steps of the whole plan, for a progress bar.
    pub fn total_steps(&self) -> usize {
        self.jobs().into_iter().map(|job| self.steps(job)).sum()
    }
}

/// By what it is measured what devices that fault cost. Instructions come out the same anywhere, and
/// say nothing of what it takes to interrupt a CPU and to wake it up.
pub const IOPF_CLOCKS: [Clock; 2] = [Clock::Instructions, Clock::Wall];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iopf;
    use crate::scenario::WORKLOADS;

    fn plan() -> Plan {
        Plan {
            iommu: Iommu::IntelLegacy,
            strategies: Strategy::ALL.to_vec(),
            workloads: WORKLOADS.to_vec(),
            rounds: 3,
            clocks: vec![Clock::Instructions],
            content: true,
            iopf: Questions::default(),
            svadma: None,
            vpio: None,
            budget: None,
        }
    }

    #[test]
    fn a_plan_has_a_job_for_each_group_and_clock() {
        let both = Plan {
            clocks: vec![Clock::Instructions, Clock::Wall],
            ..plan()
        };
        assert_eq!(both.jobs().len(), 7);
        let network = Plan {
            workloads: plan().of(Group::Stream).copied().collect(),
            content: false,
            ..plan()
        };
        assert_eq!(
            network.jobs(),
            [Job::Measure(Group::Stream, Clock::Instructions)]
        );
        let workloads = network.workloads.len();
        let passes = (workloads * 2 + 1) * Strategy::ALL.len();
        assert_eq!(network.total_steps(), passes * 3 + 1);
    }

    #[test]
    fn what_is_left_of_a_job_shrinks_to_nothing() {
        let plan = plan();
        for job in plan.jobs() {
            let whole = plan.left(job, 0);
            assert!(whole > 0.0 && whole <= plan.weight(job), "{job:?}");
            assert_eq!(plan.left(job, 1), whole, "{job:?}");
            assert!(plan.left(job, 2) < whole, "{job:?}");
            assert_eq!(plan.left(job, usize::MAX), 0.0, "{job:?}");
        }
    }

    #[test]
    fn what_a_job_may_leave_out_is_not_counted_as_left() {
        let stream = Job::Measure(Group::Stream, Clock::Instructions);
        let all = plan();
        let must = Plan {
            workloads: all
                .workloads
                .iter()
                .filter(|it| it.part != Part::IfTime)
                .copied()
                .collect(),
            ..plan()
        };
        assert!(all.weight(stream) > must.weight(stream));
        assert_eq!(all.left(stream, 0), must.weight(stream));
    }

    #[test]
    fn what_depends_on_the_clock_is_asked_of_two_machines() {
        let asks = |question| Plan {
            workloads: Vec::new(),
            content: false,
            iopf: Questions {
                asked: vec![question],
                rounds: 1,
                short: true,
            },
            ..plan()
        };
        let both = IOPF_CLOCKS.map(Job::Iopf);
        assert_eq!(asks(iopf::Question::Modes).jobs(), both);
        assert_eq!(asks(iopf::Question::Loss).jobs(), both[..1]);
        assert_eq!(asks(iopf::Question::Loss).total_steps(), 2);
    }

    #[test]
    fn identity_is_not_checked_for_content() {
        assert!(plan().checked().all(|it| it != Strategy::KernelIdentity));
        assert_eq!(plan().checked().count(), Strategy::ALL.len() - 1);
    }
}
