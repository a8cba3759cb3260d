//! How long units take on the worker that runs now: what tells a unit that hangs from one that is slow because its
//! computer is slow at the moment.

use std::collections::BTreeMap;

use microlambda::{Budget, CostClass};
use microlambda_faces::proto::CLASS_DECODE;

/// From so many kills at one place on, a unit is out of hand that ran for so many times, in 1/1000, what such units
/// take on its worker: that the computer stood still in just this unit is the less likely, the more often it would
/// have done so. Before, only [`Budget::is_runaway`] says so.
///
/// Not below 4/3: a pixel takes 1.3 times as long in tiles in which all layers of the detector's pyramid are searched
/// as in others. Where `r_limit` is shorter than that, a unit that hangs cannot be told from a slow one, and no unit
/// may be set aside for being slow.
const FACTORS_PERMILLE: [(u32, u64); 3] = [(12, 1_334), (6, 1_500), (3, 2_000)];
/// Decoding must have taken at least so many times as long, in 1/1000: it depends on how a picture was encoded, too.
const DECODE_FACTOR_PERMILLE: u64 = 3_000;
/// What the trial suggests for other pictures is right within this factor, in 1/1000: its own one is very small.
const TRIAL_FACTOR_PERMILLE: u64 = 2_000;
/// Kinds of units told apart at most: a worker in its right mind has some thirty.
const KINDS_MAX: usize = 64;

/// A unit that ended, or its preparation.
#[derive(Debug, Clone, Copy)]
struct Ended {
    /// At least 1.
    work: u64,
    took_us: u64,
}

impl Ended {
    /// What so much work takes at the same rate, µs.
    fn scaled_us(&self, work: u64) -> u64 {
        let scaled_us = u128::from(self.took_us) * u128::from(work) / u128::from(self.work);
        u64::try_from(scaled_us).unwrap_or(u64::MAX)
    }
}

/// How long units take on one worker process, from its start on: former ones say how fast the computer was then.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What units of the worker's own picture took as it started.
    trial: Budget,
    /// The slowest unit since, by class and size: the power of two that its work reaches.
    slowest: BTreeMap<(CostClass, u32), Ended>,
}

impl Pace {
    /// What units of the worker's own picture have taken: class, work, µs.
    pub fn tried(&mut self, units: &[(CostClass, u64, u64)]) {
        self.trial = Budget::default();
        units.iter().for_each(|&(class, work, took_us)| self.trial.observe(class, work, took_us));
    }

    /// A unit has ended, or its preparation.
    pub fn ended(&mut self, class: CostClass, work: u64, took_us: u64) {
        let ended = Ended { work: work.max(1), took_us };
        let kind = (class, ended.work.ilog2());
        let former = self.slowest.get(&kind);
        let is_slowest = former.is_none_or(|former| former.scaled_us(ended.work) < took_us);
        let has_room = former.is_some() || self.slowest.len() < KINDS_MAX;
        if is_slowest && has_room {
            self.slowest.insert(kind, ended);
        }
    }

    /// Whether a unit is out of hand that was killed after `busy_us`, and `kills` times before: if so, what such units
    /// take here, µs.
    pub fn outlasted_us(&self, class: CostClass, work: u64, busy_us: u64, kills: u32) -> Option<u64> {
        let (_, permille) = FACTORS_PERMILLE.into_iter().find(|(from, _)| kills >= *from)?;
        let permille = if class == CLASS_DECODE { permille.max(DECODE_FACTOR_PERMILLE) } else { permille };
        let of_its_kind = self.slowest_us(class, work).map(|usual_us| (usual_us, permille));
        // That a node has no other work must not make it wait for ever.
        let of_trial = || self.trial.expect_us(class, work).map(|usual_us| (usual_us, TRIAL_FACTOR_PERMILLE));
        let (usual_us, permille) = of_its_kind.or_else(of_trial)?;
        let least_us = u128::from(usual_us.max(1)) * u128::from(permille) / 1_000;
        (u128::from(busy_us) >= least_us).then_some(usual_us)
    }

    /// What so much work takes at the slowest rate of what ended here and was as large, or somewhat smaller, µs. A rate
    /// says little of units of another size.
    fn slowest_us(&self, class: CostClass, work: u64) -> Option<u64> {
        let work = work.max(1);
        let size = work.ilog2();
        let alike = self.slowest.range((class, size.saturating_sub(1))..=(class, size));
        alike.map(|(_, ended)| ended.scaled_us(work)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: CostClass = CostClass(7);
    const WORK: u64 = 76_800;

    /// A worker on which a unit took 1 ms.
    fn pace() -> Pace {
        let mut pace = Pace::default();
        pace.ended(CLASS, WORK, 1_000);
        pace
    }

    #[test]
    fn the_more_often_a_unit_was_killed_the_less_it_must_exceed_others() {
        let pace = pace();
        let is_out_of_hand = |kills, busy_us| pace.outlasted_us(CLASS, WORK, busy_us, kills).is_some();
        assert!(!is_out_of_hand(0, u64::MAX) && !is_out_of_hand(2, u64::MAX));
        for (kills, least_us) in [(3, 2_000), (5, 2_000), (6, 1_500), (11, 1_500), (12, 1_334), (u32::MAX, 1_334)] {
            assert!(is_out_of_hand(kills, least_us) && !is_out_of_hand(kills, least_us - 1), "{kills} kills");
        }
        assert!(pace.outlasted_us(CostClass(8), WORK, u64::MAX, 12).is_none(), "of its class nothing has ended");
    }

    #[test]
    fn a_picture_may_take_longer_to_decode_than_others_of_its_size() {
        let mut pace = Pace::default();
        pace.ended(CLASS_DECODE, WORK, 1_000);
        let is_out_of_hand = |busy_us| pace.outlasted_us(CLASS_DECODE, WORK, busy_us, u32::MAX).is_some();
        assert!(is_out_of_hand(3_000) && !is_out_of_hand(2_999));
    }

    #[test]
    fn the_slowest_unit_of_a_worker_says_how_slow_its_computer_is() {
        let mut pace = pace();
        pace.ended(CLASS, WORK / 2, 800);
        pace.ended(CLASS, WORK / 2, 500);
        pace.ended(CLASS, WORK, 1_200);
        assert_eq!(pace.outlasted_us(CLASS, WORK, 2_500, 12), Some(1_600));
        assert_eq!(pace.outlasted_us(CLASS, WORK, 2_100, 12), None);
    }

    #[test]
    fn work_of_another_size_says_nothing_and_the_trial_not_more_than_its_factor() {
        let mut pace = Pace::default();
        pace.ended(CLASS, WORK / 8, 1);
        pace.ended(CLASS, WORK * 8, 1);
        assert_eq!(pace.outlasted_us(CLASS, WORK, u64::MAX, u32::MAX), None);
        pace.tried(&[(CLASS, WORK / 8, 1_000)]);
        let outlasted = |busy_us, kills| pace.outlasted_us(CLASS, WORK, busy_us, kills).is_some();
        assert!(!outlasted(u64::MAX, 2) && outlasted(16_000, 3) && !outlasted(15_000, u32::MAX));
    }

    #[test]
    fn a_worker_that_makes_up_kinds_of_units_fills_no_memory() {
        let mut pace = pace();
        (0..1_000).for_each(|class| pace.ended(CostClass(class), 0, 1));
        assert_eq!(pace.slowest.len(), KINDS_MAX);
        pace.ended(CLASS, WORK, 5_000);
        assert_eq!(pace.outlasted_us(CLASS, WORK, 10_000, 3), Some(5_000), "a kind that is known is still learnt of");
        assert_eq!(pace.outlasted_us(CLASS, u64::MAX, u64::MAX, 3), None);
        pace.ended(CLASS, WORK, u64::MAX);
        assert_eq!(pace.outlasted_us(CLASS, WORK, u64::MAX, 3), None);
    }
}
