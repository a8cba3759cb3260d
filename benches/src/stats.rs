//! Order statistics of measured times, and how figures grow.

use serde::Serialize;

use crate::inference::slope_through_origin;

/// Of fewer values the p99 is the largest.
const P99_COUNT_MIN: usize = 100;

/// A sample's order statistics, in the unit of its values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// Values.
    pub count: usize,
    /// A tenth of the values is at most this.
    pub p10: f64,
    /// Half of the values is at most this.
    pub p50: f64,
    /// All but a tenth of the values are at most this.
    pub p90: f64,
    /// All but a hundredth of the values are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
}

impl Stats {
    /// Of `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        // Nearest rank: a value that occurred, never one between two.
        let rank = |percent: usize| values.get((count * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self {
            count,
            p10: rank(10)?,
            p50: rank(50)?,
            p90: rank(90)?,
            p99: rank(99)?,
            max: *values.last()?,
            mean: values.iter().sum::<f64>() / count as f64,
        })
    }

    /// All but a hundredth of the values are at most this; `None` of fewer than a hundred, where it would be the largest.
    pub fn p99_if_enough(&self) -> Option<f64> {
        (self.count >= P99_COUNT_MIN).then_some(self.p99)
    }

    /// As a cell of a table, to so many decimals.
    pub fn p99_text(&self, decimals: usize) -> String {
        self.p99_if_enough().map_or_else(|| "–".to_owned(), |p99| format!("{p99:.decimals$}"))
    }

    /// Of times in µs, as ms.
    pub fn of_us(values: impl IntoIterator<Item = u64>) -> Option<Self> {
        Self::of(values.into_iter().map(crate::ms))
    }
}

/// How one figure grows with another: the line of least squares through the logarithms of both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Growth {
    /// The line's slope: 0 where nothing grows, 1 where twice as much takes twice as long.
    pub exponent: f64,
    /// What each doubling multiplies the figure by, along the line.
    pub per_doubling: f64,
    /// The last point's figure by the first point's: a line hides a bend at its end.
    pub last_by_first: f64,
}

impl Growth {
    /// Through points of what is made larger and what is measured, both above 0; `None` unless there are two sizes.
    pub fn of(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let points: Vec<(f64, f64)> = points.into_iter().collect();
        let (first, last) = (points.first()?, points.last()?);
        let logarithms: Vec<(f64, f64)> = points.iter().map(|(size, figure)| (size.ln(), figure.ln())).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| logarithms.iter().map(of).sum::<f64>() / logarithms.len() as f64;
        let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
        // The line goes through the middle of all points.
        let from_middle: Vec<(f64, f64)> = logarithms.iter().map(|(x, y)| (x - mean_x, y - mean_y)).collect();
        let exponent = slope_through_origin(&from_middle)?;
        let growth = Self { exponent, per_doubling: exponent.exp2(), last_by_first: last.1 / first.1 };
        exponent.is_finite().then_some(growth)
    }
}

/// The exponent, and in brackets what a doubling does.
impl std::fmt::Display for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An exponent that rounds to -0.00 is none.
        let exponent = (self.exponent * 100.0).round() / 100.0 + 0.0;
        write!(f, "{exponent:.2} (×{:.2})", self.per_doubling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_exponent_of_a_power() {
        let cubes = Growth::of([1.0, 2.0, 8.0, 64.0].map(|x: f64| (x, 5.0 * x.powi(3)))).expect("points");
        assert!((cubes.exponent - 3.0).abs() < 1e-12 && (cubes.per_doubling - 8.0).abs() < 1e-9, "{cubes:?}");
        assert!((cubes.last_by_first - 64_f64.powi(3)).abs() < 1e-6);
        let level = Growth::of([(10.0, 7.0), (1_000.0, 7.0)]).expect("points");
        assert_eq!(level.to_string(), "0.00 (×1.00)");
        assert_eq!(Growth::of([(10.0, 7.0)]), None, "one size says nothing");
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let stats = Stats::of((1..=200).rev().map(f64::from)).expect("values");
        assert_eq!((stats.p10, stats.p50, stats.p90, stats.p99, stats.max), (20.0, 100.0, 180.0, 198.0, 200.0));
        assert!((stats.mean - 100.5).abs() < 1e-9);
        let one = Stats::of([7.0]).expect("a value");
        assert_eq!((one.p10, one.p50, one.p99, one.max), (7.0, 7.0, 7.0, 7.0));
        assert_eq!(Stats::of([]), None);
    }

    #[test]
    fn of_fewer_than_a_hundred_values_no_p99_is_told() {
        let of = |count| Stats::of((1..=count).map(f64::from)).expect("values");
        assert_eq!((of(99).p99_if_enough(), of(99).p99_text(1).as_str()), (None, "–"));
        assert_eq!((of(100).p99_if_enough(), of(100).p99_text(1).as_str()), (Some(99.0), "99.0"));
    }
}
