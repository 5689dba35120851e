//! Numbers of several runs, summed up. Pure.

use serde::Serialize;

/// Least, middle and greatest of a row of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// The middle one; between the two middle ones when their number is even.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// `None` when there is nothing to sum up.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            n if n % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { min: sorted[0], median, max: sorted[sorted.len() - 1] })
    }
}

/// A ratio of two medians beside the target that the project has set itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Ours divided by the other.
    pub value: f64,
    /// At most this is wanted.
    pub target: f64,
}

impl Ratio {
    /// Median divided by median.
    #[must_use]
    pub fn of(ours: Summary, other: Summary, target: f64) -> Self {
        Self { value: ours.median / other.median, target }
    }

    /// In words, for a table.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        if self.value <= self.target { "within the target" } else { "over the target" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_rows() {
        let of = |values: &[f64]| Summary::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2.0]), Some(Summary { min: 2.0, median: 2.0, max: 2.0 }));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some(Summary { min: 1.0, median: 2.0, max: 9.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some(Summary { min: 1.0, median: 3.0, max: 9.0 }));
    }

    #[test]
    fn a_ratio_on_the_target_is_within_it() {
        let one = |median| Summary { min: median, median, max: median };
        assert_eq!(Ratio::of(one(1.0), one(5.0), 0.2).verdict(), "within the target");
        assert_eq!(Ratio::of(one(3.0), one(1.0), 2.0).verdict(), "over the target");
    }
}
