// SPDX-License-Identifier: GPL-2.0

//! A few numbers for many.

/// The middle of some values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl Summary {
    /// Summarizes `values`; nothing comes from nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use pdio::stats::Summary;
    ///
    /// let summary = Summary::of([3.0, 1.0, 2.0]).unwrap();
    /// assert_eq!((summary.median, summary.min, summary.max), (2.0, 1.0, 3.0));
    /// ```
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            *values.get(middle)?
        } else {
            (values.get(middle - 1)? + values.get(middle)?) / 2.0
        };
        Some(Self { median, min, max })
    }

    /// Half the distance from the smallest to the largest value, relative to
    /// the median: the `x` of `median ± x`.
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 {
            0.0
        } else {
            (self.max - self.min) / 2.0 / self.median.abs()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn an_even_number_of_values_has_its_median_in_between() {
        let summary = Summary::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(summary.median, 2.5);
        assert_eq!(summary.spread(), 0.6);
    }

    #[test]
    fn one_value_has_no_spread() {
        assert_eq!(Summary::of([7.0]).unwrap().spread(), 0.0);
        assert_eq!(Summary::of([0.0, 0.0]).unwrap().spread(), 0.0);
    }
}
