//! Order statistics of measured times.

use serde::Serialize;

/// A sample's order statistics, in the unit of its values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// Values.
    pub count: usize,
    /// A tenth of the values is at most this.
    pub p10: f64,
    /// Half of the values is at most this.
    pub p50: f64,
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
            p99: rank(99)?,
            max: *values.last()?,
            mean: values.iter().sum::<f64>() / count as f64,
        })
    }

    /// Of times in µs, as ms.
    pub fn of_us(values: impl IntoIterator<Item = u64>) -> Option<Self> {
        Self::of(values.into_iter().map(crate::ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let stats = Stats::of((1..=200).rev().map(f64::from)).expect("values");
        assert_eq!((stats.p10, stats.p50, stats.p99, stats.max), (20.0, 100.0, 198.0, 200.0));
        assert!((stats.mean - 100.5).abs() < 1e-9);
        let one = Stats::of([7.0]).expect("a value");
        assert_eq!((one.p10, one.p50, one.p99, one.max), (7.0, 7.0, 7.0, 7.0));
        assert_eq!(Stats::of([]), None);
    }
}
