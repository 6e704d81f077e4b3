// SPDX-License-Identifier: GPL-2.0

//! A parser of the kernel's test output.
//!
//! See `Documentation/dev-tools/ktap.rst` in the kernel tree. It is strict
//! where a lenient reader would call a broken run good: no plan, too few or
//! too many results, numbers out of order, or a parent that says `ok` over a
//! subtest that says `not ok` are failures.

use std::collections::VecDeque;

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`.
    Passed,
    /// `not ok`, or an expectation of this parser that did not hold.
    Failed,
    /// `ok … # SKIP`, with the reason.
    Skipped(String),
}

/// One result line of the outermost level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What the test calls itself.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The last lines that it wrote for a reader, at most 12 of them.
    pub notes: Vec<String>,
}

/// How many lines of a test that failed say why, as a rule.
const NOTES: usize = 12;

/// Everything that a test program reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The results, in order.
    pub cases: Vec<Case>,
    /// What is wrong with the report itself; each entry counts as a failure.
    pub errors: Vec<String>,
}

impl Report {
    /// Number of results that passed.
    pub fn passed(&self) -> usize {
        self.count(&Outcome::Passed)
    }

    /// Number of results that failed, and of errors in the report.
    pub fn failed(&self) -> usize {
        self.count(&Outcome::Failed) + self.errors.len()
    }

    /// Number of results that were skipped.
    pub fn skipped(&self) -> usize {
        self.cases.len() - self.count(&Outcome::Passed) - self.count(&Outcome::Failed)
    }

    fn count(&self, outcome: &Outcome) -> usize {
        let same = |case: &&Case| case.outcome == *outcome;
        self.cases.iter().filter(same).count()
    }
}

/// Exit status of a kselftest that could not run here.
const KSFT_SKIP: i32 = 4;

#[derive(Default)]
struct Level {
    indent: usize,
    plan: Option<usize>,
    seen: usize,
    failed: bool,
    errors: Vec<String>,
}

impl Level {
    fn at(indent: usize) -> Self {
        Self {
            indent,
            ..Self::default()
        }
    }

    fn close(mut self) -> (bool, Vec<String>) {
        match self.plan {
            None => self.errors.push("no plan".into()),
            Some(plan) if plan != self.seen => self
                .errors
                .push(format!("{} results where the plan says {plan}", self.seen)),
            Some(_) => {}
        }
        (self.failed, self.errors)
    }
}

/// Reads the output of a test program that ended with `status`.
///
/// # Examples
///
/// ```
/// let report = pdio::ktap::parse("TAP version 13\n1..1\nok 1 attach\n", 0);
/// assert_eq!((report.passed(), report.failed()), (1, 0));
/// ```
pub fn parse(text: &str, status: i32) -> Report {
    let mut report = Report::default();
    let mut levels = vec![Level::at(0)];
    // Failures of subtests that wait for their parent's result line.
    let mut pending: Vec<String> = Vec::new();
    let mut notes = VecDeque::new();

    for line in text.lines() {
        let body = line.trim_start_matches(' ');
        let indent = line.len() - body.len();
        let Some(item) = Item::parse(body.trim_end()) else {
            if let Some(note) = body.strip_prefix('#') {
                if notes.len() == NOTES {
                    notes.pop_front();
                }
                notes.push_back(note.trim().to_owned());
            }
            continue;
        };

        // A line further out ends the levels that are further in.
        while levels.len() > 1 && levels.last().is_some_and(|level| level.indent > indent) {
            close_inner(&mut levels, &mut pending);
        }
        if levels.last().is_some_and(|level| level.indent < indent) {
            levels.push(Level::at(indent));
        }
        let outermost = levels.len() == 1;
        let Some(level) = levels.last_mut() else {
            continue;
        };

        match item {
            Item::Version => {}
            Item::Plan(0, reason) if outermost => {
                level.plan = Some(0);
                report.cases.push(Case {
                    name: "all".into(),
                    outcome: Outcome::Skipped(reason),
                    notes: vec![],
                });
            }
            Item::Plan(count, _) => {
                if level.plan.replace(count).is_some() {
                    level.errors.push("more than one plan".into());
                }
            }
            Item::BailOut(reason) => level.errors.push(format!("bailed out: {reason}")),
            Item::Result {
                number,
                name,
                mut outcome,
            } => {
                level.seen += 1;
                if number.is_some_and(|number| number != level.seen) {
                    level
                        .errors
                        .push(format!("`{name}` has another number than {}", level.seen));
                    level.seen = number.unwrap_or(level.seen);
                }
                if !pending.is_empty() && outcome == Outcome::Passed {
                    level
                        .errors
                        .push(format!("`{name}` is ok, but {}", pending.join(", ")));
                    outcome = Outcome::Failed;
                }
                pending.clear();
                level.failed |= outcome == Outcome::Failed;
                if outermost {
                    report.cases.push(Case {
                        name,
                        outcome,
                        notes: notes.drain(..).collect(),
                    });
                }
            }
        }
    }

    while levels.len() > 1 {
        close_inner(&mut levels, &mut pending);
    }
    for error in pending {
        report
            .errors
            .push(format!("subtests without a result: {error}"));
    }
    if let Some(level) = levels.pop() {
        if status == KSFT_SKIP && level.plan.is_none() && level.seen == 0 {
            let last = text.lines().last().unwrap_or_default().to_owned();
            report.cases.push(Case {
                name: "all".into(),
                outcome: Outcome::Skipped(last),
                notes: vec![],
            });
            return report;
        }
        report.errors.extend(level.close().1);
    }
    if !matches!(status, 0 | KSFT_SKIP) && report.failed() == 0 {
        report.errors.push(format!("exit status {status}"));
    }
    report
}

fn close_inner(levels: &mut Vec<Level>, pending: &mut Vec<String>) {
    if let Some(level) = levels.pop() {
        let (failed, errors) = level.close();
        if failed {
            pending.push("a subtest failed".into());
        }
        pending.extend(
            errors
                .into_iter()
                .map(|error| format!("its subtests: {error}")),
        );
    }
}

enum Item {
    Version,
    Plan(usize, String),
    BailOut(String),
    Result {
        number: Option<usize>,
        name: String,
        outcome: Outcome,
    },
}

impl Item {
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with("KTAP version") || line.starts_with("TAP version") {
            return Some(Self::Version);
        }
        if let Some(reason) = line.strip_prefix("Bail out!") {
            return Some(Self::BailOut(reason.trim().to_owned()));
        }
        if let Some(rest) = line.strip_prefix("1..") {
            let (count, reason) = split_directive(rest);
            return Some(Self::Plan(count.trim().parse().ok()?, reason.to_owned()));
        }
        let (good, rest) = match line.strip_prefix("not ok") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok")?),
        };
        if !rest.is_empty() && !rest.starts_with(' ') {
            return None;
        }
        let (text, directive) = split_directive(rest.trim_start());
        let (number, text) = match text.split_once(' ') {
            Some((first, tail)) if first.parse::<usize>().is_ok() => (first.parse().ok(), tail),
            _ => match text.trim().parse() {
                Ok(number) => (Some(number), ""),
                Err(_) => (None, text),
            },
        };
        let name = text.trim().trim_start_matches("- ").to_owned();
        let upper = directive.to_ascii_uppercase();
        let outcome = if upper.starts_with("SKIP") {
            let reason = directive.get(4..).unwrap_or_default();
            Outcome::Skipped(reason.trim_start_matches([':', ' ']).to_owned())
        } else if good || upper.starts_with("XFAIL") || upper.starts_with("TODO") {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        Some(Self::Result {
            number,
            name,
            outcome,
        })
    }
}

fn split_directive(text: &str) -> (&str, &str) {
    match text.split_once('#') {
        Some((before, after)) => (before, after.trim()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str, status: i32) -> (usize, usize, usize) {
        let report = parse(text, status);
        (report.passed(), report.failed(), report.skipped())
    }

    #[test]
    fn a_flat_report() {
        let text = "TAP version 13\n1..4\nok 1 a\nnot ok 2 - b\nok 3 c # SKIP no disk\nnot ok 4 d # XFAIL known\n";
        assert_eq!(counts(text, 1), (2, 1, 1));
        let report = parse(text, 1);
        assert_eq!(report.cases[1].name, "b");
        assert_eq!(report.cases[2].outcome, Outcome::Skipped("no disk".into()));
    }

    #[test]
    fn diagnostics_and_noise_are_ignored() {
        let text = "noise\nTAP version 13\n1..1\n# ok 5 not a result\nokay then\n#  RUN  x ...\nok 1 x\n# Totals: pass:1\n";
        assert_eq!(counts(text, 0), (1, 0, 0));
    }

    #[test]
    fn a_test_has_the_notes_before_its_result() {
        let many: Vec<_> = (0..20).map(|note| format!("# note {note}")).collect();
        let many = many.join("\n");
        let text = format!("1..3\n# why\nok 1 a\nnot ok 2 b\n{many}\nnot ok 3 c\n");
        let report = parse(&text, 1);

        assert_eq!(report.cases[0].notes, ["why"]);
        assert!(report.cases[1].notes.is_empty());
        assert_eq!(report.cases[2].notes.len(), NOTES);
        assert_eq!(report.cases[2].notes[NOTES - 1], "note 19");
    }

    #[test]
    fn the_plan_may_come_last_but_has_to_come() {
        assert_eq!(counts("ok 1 a\nok 2 b\n1..2\n", 0), (2, 0, 0));
        assert_eq!(counts("TAP version 13\nok 1 a\n", 0), (1, 1, 0));
        assert_eq!(counts("", 0), (0, 1, 0));
    }

    #[test]
    fn too_few_and_too_many_results_fail() {
        assert_eq!(counts("1..3\nok 1 a\nok 2 b\n", 0), (2, 1, 0));
        assert_eq!(counts("1..1\nok 1 a\nok 2 b\n", 0), (2, 1, 0));
    }

    #[test]
    fn numbers_have_to_follow_each_other() {
        assert_eq!(counts("1..2\nok 1 a\nok 1 b\n", 0).1, 2);
    }

    #[test]
    fn nested_subtests_count_as_their_parent() {
        let text = "KTAP version 1\n1..2\n  KTAP version 1\n  1..2\n    1..1\n    ok 1 deep\n  ok 1 a\n  ok 2 b\nok 1 first\nok 2 second\n";
        assert_eq!(counts(text, 0), (2, 0, 0));
    }

    #[test]
    fn a_parent_cannot_be_ok_over_a_failed_or_unfinished_subtest() {
        let failed = "1..1\n  1..1\n  not ok 1 a\nok 1 parent\n";
        assert_eq!(counts(failed, 0).0, 0);
        assert!(counts(failed, 0).1 > 0);
        let unfinished = "1..1\n  1..2\n  ok 1 a\nok 1 parent\n";
        assert_eq!(counts(unfinished, 0).0, 0);
        let orphan = "1..0\n  1..1\n  not ok 1 a\n";
        assert!(counts(orphan, 0).1 > 0);
        let honest = "1..1\n  1..1\n  not ok 1 a\nnot ok 1 parent\n";
        assert_eq!(counts(honest, 1), (0, 1, 0));
    }

    #[test]
    fn a_bad_exit_status_fails_a_good_report() {
        assert_eq!(counts("1..1\nok 1 a\n", 139), (1, 1, 0));
        assert_eq!(counts("1..1\nnot ok 1 a\n", 1), (0, 1, 0));
    }

    #[test]
    fn skipping_everything() {
        assert_eq!(counts("1..0 # SKIP needs root\n", 4), (0, 0, 1));
        assert_eq!(counts("no such device\n", 4), (0, 0, 1));
        assert_eq!(counts("crashed\n", 1), (0, 1, 0));
    }

    #[test]
    fn bailing_out_fails() {
        assert_eq!(counts("1..2\nok 1 a\nBail out! disk gone\n", 1), (1, 2, 0));
    }
}
