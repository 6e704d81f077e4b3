// SPDX-License-Identifier: GPL-2.0

//! How many other pages are accessed between two accesses to the same one.
//!
//! That distance says whether an LRU of a given size still has the page, so a histogram of it holds
//! the hits of all sizes at once (Mattson, Gecsei, Slutz and Traiger, Evaluation techniques for storage
//! hierarchies, IBM Systems Journal 1970). A binary indexed tree over time, with a mark where each page
//! was last accessed, counts the marks since then in the logarithm of the number of accesses (Bennett
//! and Kruskal, LRU stack processing, IBM Journal of Research and Development 1975).

use std::collections::HashMap;

/// A tree of counts, of which any first part can be added up.
struct Marks(Vec<i64>);

impl Marks {
    fn new(len: usize) -> Self {
        Self(vec![0; len + 1])
    }

    fn add(&mut self, index: usize, count: i64) {
        let mut at = index + 1;
        while let Some(sum) = self.0.get_mut(at) {
            *sum += count;
            at += at & at.wrapping_neg();
        }
    }

    /// The sum of what is before `index`.
    fn before(&self, index: usize) -> i64 {
        let (mut at, mut sum) = (index, 0);
        while at > 0 {
            sum += self.0[at];
            at &= at - 1;
        }
        sum
    }
}

/// The distances of all accesses of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distances {
    /// How many accesses have each distance.
    counts: Vec<u64>,
    /// First accesses.
    pages: u64,
}

impl Distances {
    /// Those of accesses to `pages`, in order.
    pub fn of(pages: &[u64]) -> Self {
        let mut distances = Self::default();
        let mut marks = Marks::new(pages.len());
        let mut last = HashMap::new();
        for (now, page) in pages.iter().enumerate() {
            match last.insert(*page, now) {
                None => distances.pages += 1,
                Some(then) => {
                    let between = marks.before(now) - marks.before(then + 1);
                    // Marks are never more than accesses.
                    let distance = between as usize;
                    if distances.counts.len() <= distance {
                        distances.counts.resize(distance + 1, 0);
                    }
                    distances.counts[distance] += 1;
                    marks.add(then, -1);
                }
            }
            marks.add(now, 1);
        }
        distances
    }

    /// Different pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Accesses.
    pub fn accesses(&self) -> u64 {
        self.pages + self.counts.iter().sum::<u64>()
    }

    /// Accesses that an LRU of `entries` pages has.
    pub fn hits(&self, entries: usize) -> u64 {
        self.counts.iter().take(entries).sum()
    }

    /// Distances up to 0, 1, 3, 7 and so on, and how many accesses have them.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        let (mut from, mut largest) = (0, 0);
        while from < self.counts.len() {
            let to = (largest + 1).min(self.counts.len());
            ranges.push((largest as u64, self.counts[from..to].iter().sum()));
            from = to;
            largest = largest * 2 + 1;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The same by a list of pages, the last one first.
    fn by_stack(pages: &[u64]) -> Distances {
        let mut stack: Vec<u64> = Vec::new();
        let mut distances = Distances::default();
        for page in pages {
            match stack.iter().position(|other| other == page) {
                None => distances.pages += 1,
                Some(distance) => {
                    stack.remove(distance);
                    let len = distances.counts.len().max(distance + 1);
                    distances.counts.resize(len, 0);
                    distances.counts[distance] += 1;
                }
            }
            stack.insert(0, *page);
        }
        distances
    }

    #[test]
    fn nothing_has_no_distances() {
        let none = Distances::of(&[]);
        assert_eq!((none.accesses(), none.pages(), none.hits(9)), (0, 0, 0));
        assert!(none.ranges().is_empty());
    }

    #[test]
    fn others_in_between_count_once() {
        let distances = Distances::of(&[1, 2, 3, 2, 2, 1]);
        assert_eq!((distances.accesses(), distances.pages()), (6, 3));
        // 2 after 3; 2 at once; 1 after 2 and 3.
        assert_eq!(distances.counts, [1, 1, 1]);
        assert_eq!(
            (0..4).map(|it| distances.hits(it)).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn a_stream_that_comes_again_has_the_distance_of_all_its_pages() {
        let stream: Vec<u64> = (0..100).chain(0..100).collect();
        let distances = Distances::of(&stream);
        assert_eq!((distances.hits(99), distances.hits(100)), (0, 100));
        assert_eq!(distances.ranges().last(), Some(&(127, 100)));
        assert_eq!(
            distances.ranges().iter().map(|range| range.1).sum::<u64>(),
            100
        );
    }

    #[test]
    fn it_says_what_a_stack_says() {
        let mut random = Random::new(1);
        for (accesses, pages) in [(1, 1), (50, 3), (300, 40), (300, 400), (1000, 17)] {
            let load: Vec<u64> = (0..accesses).map(|_| random.below(pages)).collect();
            assert_eq!(Distances::of(&load), by_stack(&load));
        }
    }

    #[test]
    fn ranges_double_and_leave_nothing_out() {
        let load: Vec<u64> = (0..9).chain((0..9).rev()).collect();
        let ranges = Distances::of(&load).ranges();
        assert_eq!(ranges, [(0, 1), (1, 1), (3, 2), (7, 4), (15, 1)]);
    }
}
