//! Predicts what the next unit will cost, from what units of its class have cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CostClass, UnitCost};

/// Added to every prediction, in 1/1000: room for a unit somewhat slower than any seen lately.
const MARGIN_PERMILLE: u64 = 60;
/// Weight of a new sample in mean and deviation is 1 in this many (as TCP's retransmission timer, RFC 6298).
const SMOOTHING: u64 = 8;
/// How many deviations above the mean a prediction lies at least (RFC 6298 takes 4).
const DEVIATIONS: u64 = 4;
/// Below this many samples a class is new on this node and its prediction is doubled (slow start).
const NEW_CLASS_SAMPLES: u32 = 3;
/// A unit that takes so many times what is predicted for it, with its margins, is not slow but out of hand.
const RUNAWAY_FACTOR: u64 = 4;
/// A class never seen is taken to need this part of `r_limit`: it may run where half of the limit is left.
const UNKNOWN_PART: u64 = 2;
/// Rates are kept in µs per 2^20 pieces of work, so that rates below 1 µs a piece keep their precision. They are
/// rounded up: with a rate of 0 everything would fit.
const RATE_SCALE: u128 = 1 << 20;

/// What a node has measured of one class; rates in µs per 2^20 pieces of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCost {
    /// The class.
    pub class: CostClass,
    /// Smoothed mean rate.
    pub mean: u64,
    /// Smoothed mean deviation of the rate.
    pub deviation: u64,
    /// The slowest recent rate; it sinks towards the mean by an eighth of the distance a sample.
    pub peak: u64,
    /// Units measured since the class was new here, or was relaxed (saturating).
    pub samples: u32,
}

/// All that a budget knows: kept over a worker's restart and published in a node's status.
pub type CostTable = Vec<ClassCost>;

/// Learns a cost rate per class and says whether the next unit fits what is left of `r_limit`.
///
/// The prediction is the larger of the recent peak and mean + 4 deviations, plus 6 %. One slow unit raises it at once; it
/// sinks over the next dozen. A class never seen may start where half of `r_limit` is left, and is predicted at
/// twice its rate until three units are measured. The first unit of a step only has to fit on average.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    classes: BTreeMap<CostClass, ClassCost>,
}

impl Budget {
    /// A budget that starts from what another one had learnt.
    pub fn from_table(table: &[ClassCost]) -> Self {
        Self { classes: table.iter().map(|cost| (cost.class, *cost)).collect() }
    }

    /// All classes measured so far, by class.
    pub fn table(&self) -> CostTable {
        self.classes.values().copied().collect()
    }

    /// Records that `work` pieces of `class` took `cost_us`.
    pub fn observe(&mut self, class: CostClass, work: u64, cost_us: u64) {
        let rate = (u128::from(cost_us) * RATE_SCALE).div_ceil(u128::from(work.max(1)));
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.classes
            .entry(class)
            .and_modify(|cost| {
                let off = cost.mean.abs_diff(rate);
                cost.deviation = cost.deviation - cost.deviation / SMOOTHING + off / SMOOTHING;
                cost.mean = cost.mean - cost.mean / SMOOTHING + rate / SMOOTHING;
                cost.peak = rate.max(cost.peak - cost.peak.saturating_sub(cost.mean) / SMOOTHING);
                cost.samples = cost.samples.saturating_add(1);
            })
            .or_insert(ClassCost { class, mean: rate, deviation: rate / 4, peak: rate, samples: 1 });
    }

    /// Records that `work` pieces of `class` had not ended after `cost_us`, when they were killed: they cost more than that, so
    /// the mean is raised to it at once.
    pub fn observe_killed(&mut self, class: CostClass, work: u64, cost_us: u64) {
        self.observe(class, work, cost_us);
        if let Some(cost) = self.classes.get_mut(&class) {
            cost.mean = cost.mean.max(cost.peak);
        }
    }

    /// Lowers what is known of the cost of a refused unit's longest part by half, and takes its class for new: called now and then
    /// while a node does not bid because this unit is predicted to exceed `r_limit`, so that one freeze does not silence it for ever.
    ///
    /// Other classes keep what is known of them: nothing of theirs was refused, and nobody may measure them for hours. What is too
    /// long for a limit is half as long as the limit at least once it is relaxed, so that no cost sinks to nothing.
    pub fn relax(&mut self, refused: &UnitCost) {
        let (class, _) = self.longest_part(refused);
        if let Some(cost) = self.classes.get_mut(&class) {
            cost.peak /= 2;
            cost.mean /= 2;
            cost.deviation /= 2;
            cost.samples = 0;
        }
    }

    /// Which of a unit and its preparation is expected to take longer: class and work.
    pub fn longest_part(&self, unit: &UnitCost) -> (CostClass, u64) {
        let expected_us = |(class, work)| self.expect_us(class, work).unwrap_or(0);
        match unit.prepare {
            Some(prepare) if expected_us(prepare) > expected_us(unit.run) => prepare,
            Some(_) | None => unit.run,
        }
    }

    /// Predicted cost of `work` pieces of `class`, µs; `None` if the class was never measured.
    pub fn predict_us(&self, class: CostClass, work: u64) -> Option<u64> {
        let cost = self.classes.get(&class)?;
        let spread = cost.mean.saturating_add(DEVIATIONS.saturating_mul(cost.deviation));
        let mut rate = u128::from(cost.peak.max(spread)) * u128::from(1_000 + MARGIN_PERMILLE) / 1_000;
        if cost.samples < NEW_CLASS_SAMPLES {
            rate *= 2;
        }
        let cost_us = rate.saturating_mul(u128::from(work.max(1))) / RATE_SCALE;
        Some(u64::try_from(cost_us).unwrap_or(u64::MAX))
    }

    /// Whether `work` pieces of `class` that had not ended after `cost_us` are out of hand: they have taken many times what such
    /// units take here. Never so of a class that is new here, or was relaxed and not measured since.
    pub fn is_runaway(&self, class: CostClass, work: u64, cost_us: u64) -> bool {
        let known = self.classes.get(&class).is_some_and(|cost| cost.samples >= NEW_CLASS_SAMPLES);
        let predicted_us = self.predict_us(class, work).filter(|_| known);
        predicted_us.is_some_and(|predicted_us| cost_us >= predicted_us.max(1).saturating_mul(RUNAWAY_FACTOR))
    }

    /// What `work` pieces of `class` are expected to cost on average, µs; `None` if the class was never measured.
    pub fn expect_us(&self, class: CostClass, work: u64) -> Option<u64> {
        let rate = self.classes.get(&class)?.mean;
        Some(u64::try_from(u128::from(rate) * u128::from(work.max(1)) / RATE_SCALE).unwrap_or(u64::MAX))
    }

    /// Whether the first unit of a step, `elapsed_us` after its start, is expected to end within `r_limit_us`. There is no
    /// better moment to run it, so the mean decides, without the margin that protects what a step has done already.
    pub fn fits_first(&self, cost: &UnitCost, elapsed_us: u64, r_limit_us: u64) -> bool {
        let expected_us = |(class, work)| self.expect_us(class, work).unwrap_or(0);
        let unit_us = cost.prepare.map_or(0, expected_us).saturating_add(expected_us(cost.run));
        elapsed_us.saturating_add(unit_us) <= r_limit_us
    }

    /// Whether a further unit that starts `elapsed_us` into a step is predicted to end within `r_limit_us`.
    pub fn fits(&self, cost: &UnitCost, elapsed_us: u64, r_limit_us: u64) -> bool {
        let part = |(class, work)| self.predict_us(class, work);
        let (run_us, prepare_us) = (part(cost.run), cost.prepare.map_or(Some(0), part));
        let known_us = run_us.unwrap_or(0).saturating_add(prepare_us.unwrap_or(0));
        // However many parts are unknown, they are tried where half of the limit is left: there is no other way to learn
        // what they cost, and no unit starts at exactly the step's beginning.
        let unit_us = match (run_us, prepare_us) {
            (Some(_), Some(_)) => known_us,
            (None, _) | (_, None) => known_us.max(r_limit_us / UNKNOWN_PART),
        };
        elapsed_us.saturating_add(unit_us) <= r_limit_us
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLASS: CostClass = CostClass(7);

    fn trained(costs_us: &[u64]) -> Budget {
        let mut budget = Budget::default();
        for &cost_us in costs_us {
            budget.observe(CLASS, 1, cost_us);
        }
        budget
    }

    #[test]
    fn an_unknown_class_starts_only_where_half_of_the_limit_is_left() {
        let budget = Budget::default();
        let unit = UnitCost::run(CLASS, 1);
        assert!(budget.fits(&unit, 500, 1_000));
        assert!(!budget.fits(&unit, 501, 1_000));
    }

    #[test]
    fn the_first_unit_of_a_step_needs_no_margin_and_no_experience() {
        let unit = UnitCost { run: (CLASS, 1), prepare: Some((CostClass(8), 1)) };
        assert!(Budget::default().fits_first(&unit, 0, 1_000), "there is no other way to learn what it costs");
        let budget = trained(&[1_000; 50]);
        assert!(budget.fits_first(&unit, 0, 1_010), "a limit of barely more than one unit is enough");
        assert!(!budget.fits(&unit, 0, 1_010));
        assert!(!budget.fits_first(&unit, 11, 1_010));
        assert!(!budget.fits_first(&unit, 0, 990));
    }

    #[test]
    fn a_slow_unit_raises_the_prediction_at_once_and_fades() {
        let mut budget = trained(&[1_000; 50]);
        let before = budget.predict_us(CLASS, 1).unwrap_or_default();
        budget.observe(CLASS, 1, 3_000);
        assert!(budget.predict_us(CLASS, 1).unwrap_or_default() >= 3_000);
        for _ in 0..60 {
            budget.observe(CLASS, 1, 1_000);
        }
        let after = budget.predict_us(CLASS, 1).unwrap_or_default();
        assert!(after < before * 11 / 10, "{after} against {before}");
    }

    #[test]
    fn a_unit_that_was_killed_is_not_tried_again_at_once_however_many_went_well_before() {
        let mut budget = trained(&[1_000; 50]);
        let unit = UnitCost::run(CLASS, 1);
        assert!(budget.fits_first(&unit, 0, 5_000));
        budget.observe_killed(CLASS, 1, 5_500);
        assert!(!budget.fits_first(&unit, 0, 5_000));
    }

    #[test]
    fn a_unit_is_out_of_hand_only_where_such_units_are_known_to_be_much_shorter() {
        assert!(!Budget::default().is_runaway(CLASS, 1, u64::MAX), "nothing is known");
        assert!(!trained(&[1_000; 2]).is_runaway(CLASS, 1, 1_000_000), "too little is known");
        let budget = trained(&[1_000; 50]);
        assert!(budget.is_runaway(CLASS, 1, 5_000));
        assert!(!budget.is_runaway(CLASS, 1, 3_000), "slow is not out of hand");
        assert!(!budget.is_runaway(CLASS, 10, 30_000), "ten times the work");
    }

    #[test]
    fn a_unit_of_more_pieces_than_a_rate_can_tell_is_never_taken_to_cost_less_than_it_did() {
        let mut budget = Budget::default();
        for _ in 0..50 {
            budget.observe(CLASS, 1 << 40, 90_000);
        }
        assert!(budget.expect_us(CLASS, 1 << 40).is_some_and(|expected_us| expected_us >= 90_000));
        assert!(!budget.fits_first(&UnitCost::run(CLASS, 1 << 40), 0, 50_000));
    }

    #[test]
    fn relaxing_lets_a_silenced_node_try_again() {
        let mut budget = trained(&[50_000; 5]);
        let unit = UnitCost::run(CLASS, 1);
        assert!(!budget.fits_first(&unit, 0, 10_000));
        let tries = (0..).take_while(|_| {
            budget.relax(&unit);
            !budget.fits_first(&unit, 0, 10_000)
        });
        assert!(tries.count() < 5);
    }

    #[test]
    fn only_what_does_not_fit_is_relaxed_and_not_to_nothing() {
        let (decode, encode, limit_us) = (CostClass(1), CostClass(3), 10_000);
        let mut budget = trained(&[9_000; 5]);
        for _ in 0..5 {
            budget.observe(decode, 1, 200_000);
            budget.observe(encode, 1, 3_000);
        }
        let others = |budget: &Budget| [CLASS, encode].map(|class| budget.predict_us(class, 1));
        let before = others(&budget);
        let unit = UnitCost { run: (CLASS, 1), prepare: Some((decode, 1)) };
        assert_eq!(budget.longest_part(&unit), (decode, 1));
        while !budget.fits_first(&UnitCost::run(decode, 1), 0, limit_us) {
            budget.relax(&unit);
        }
        assert_eq!(others(&budget), before, "neither the unit itself, which fits, nor what was not asked for");
        assert!(budget.expect_us(decode, 1).is_some_and(|expected_us| expected_us >= limit_us / 2));
    }

    #[test]
    fn what_was_relaxed_makes_no_unit_out_of_hand_until_it_was_measured_again() {
        let mut budget = trained(&[50_000; 50]);
        assert!(budget.is_runaway(CLASS, 1, 1_000_000));
        (0..20).for_each(|_| budget.relax(&UnitCost::run(CLASS, 1)));
        assert!(!budget.is_runaway(CLASS, 1, 1_000_000), "it was only taken to be short");
        (0..NEW_CLASS_SAMPLES).for_each(|_| budget.observe(CLASS, 1, 50_000));
        assert!(budget.is_runaway(CLASS, 1, 1_000_000));
        assert!(!budget.is_runaway(CLASS, 1, 150_000), "slow is not out of hand");
    }

    proptest! {
        #[test]
        fn steady_costs_are_predicted_between_one_and_one_and_a_half_times(cost_us in 100_u64..1_000_000, work in 1_u64..100_000) {
            let mut budget = Budget::default();
            for _ in 0..40 {
                budget.observe(CLASS, work, cost_us);
            }
            let predicted = budget.predict_us(CLASS, work).unwrap_or_default();
            prop_assert!(predicted + 2 >= cost_us, "{predicted} < {cost_us}");
            prop_assert!(predicted <= cost_us * 3 / 2 + 2, "{predicted} >> {cost_us}");
        }

        #[test]
        fn no_measurement_makes_a_prediction_overflow(samples in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50), work: u64) {
            let mut budget = Budget::default();
            for (amount, cost_us) in samples {
                budget.observe(CLASS, amount, cost_us);
                let _ = budget.predict_us(CLASS, work);
                budget.fits(&UnitCost::run(CLASS, work), 1, u64::MAX);
            }
        }

        #[test]
        fn a_table_carries_everything_over(costs in prop::collection::vec(1_u64..1_000_000, 1..50)) {
            let budget = trained(&costs);
            prop_assert_eq!(Budget::from_table(&budget.table()), budget);
        }
    }
}
