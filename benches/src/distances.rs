//! How far views of people are from each other, counted so that the errors of every threshold can be read from it.

use crate::chart::Curve;

/// Distances are counted in steps of this.
const STEP: f64 = 0.01;
/// Steps: beyond the last one nothing is told apart.
const STEPS: usize = 150;
/// Thresholds that a curve shows.
const SHOWN: std::ops::RangeInclusive<usize> = 30..=90;

/// Pairs of views of one person, and of two, by their distance.
#[derive(Debug, Clone)]
pub struct Distances {
    same: [u64; STEPS],
    different: [u64; STEPS],
}

impl Default for Distances {
    fn default() -> Self {
        Self { same: [0; STEPS], different: [0; STEPS] }
    }
}

impl Distances {
    /// Counts a pair of views of the `same` person or of two.
    pub fn add(&mut self, same: bool, distance: f64) {
        // The first step that, as a threshold, holds the pair.
        let step = ((distance / STEP).ceil() as usize).min(STEPS - 1);
        let counts = if same { &mut self.same } else { &mut self.different };
        counts[step] += 1;
    }

    /// For each threshold the share of one person's pairs beyond it and of two people's within it, in percent; `name` is put before both.
    pub fn errors(&self, name: &str) -> [Curve; 2] {
        let curve = |counts: &[u64; STEPS], what: &str, beyond: bool| {
            let all = counts.iter().sum::<u64>();
            let within = |threshold: usize| counts[..=threshold].iter().sum::<u64>();
            let wrong = |threshold: usize| if beyond { all - within(threshold) } else { within(threshold) };
            let percent = |threshold: usize| 100.0 * wrong(threshold) as f64 / all.max(1) as f64;
            let points = SHOWN.map(|threshold| (threshold as f64 * STEP, percent(threshold))).collect();
            (format!("{name}: {what}"), points)
        };
        [
            curve(&self.same, "one person's views beyond", true),
            curve(&self.different, "two people's views within", false),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_errs_on_one_persons_pairs_beyond_it_and_on_two_peoples_within() {
        let mut distances = Distances::default();
        for (same, distance) in [(true, 0.305), (true, 0.52), (true, 0.6), (true, 7.0), (false, 0.6), (false, 0.88)] {
            distances.add(same, distance);
        }
        let [beyond, within] = distances.errors("some");
        assert_eq!(
            (beyond.0.as_str(), within.0.as_str()),
            ("some: one person's views beyond", "some: two people's views within")
        );
        let at = |curve: &Curve, percent: usize| curve.1[percent - 30].1;
        assert_eq!(
            [30, 31, 51, 52, 59, 60, 90].map(|threshold| at(&beyond, threshold)),
            [100.0, 75.0, 75.0, 50.0, 50.0, 25.0, 25.0]
        );
        assert_eq!([30, 59, 60, 87, 88].map(|threshold| at(&within, threshold)), [0.0, 0.0, 50.0, 50.0, 100.0]);
    }

    #[test]
    fn without_pairs_nothing_is_wrong() {
        assert!(Distances::default().errors("none").iter().all(|(_, points)| points.iter().all(|(_, y)| *y == 0.0)));
    }
}
