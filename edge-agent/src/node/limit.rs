//! What units cost, and what becomes of a step that runs beyond `r_limit`.

use microlambda::{CostClass, StepEnd};
use microlambda_faces::proto::{CLASS_DETECT, CLASS_ENCODE, ENCODE_WORK, LOOK_WORK, StepTimes};

use super::slot::KILL_SLACK_US;
use super::{Node, World};
use crate::store::Store;

/// An agent that kills a worker so much later than it meant to stood still itself, µs.
const LATE_US: u64 = 200_000;

impl<S: Store, W: World> Node<S, W> {
    /// A unit that ended, with what had to go before it: class, pieces of work and µs of each.
    pub(super) fn learn_unit(&mut self, parts: impl Iterator<Item = (CostClass, u64, u64)>) {
        let mut unit_us = 0_u64;
        for (class, work, cost_us) in parts {
            self.budget.observe(class, work, cost_us);
            unit_us = unit_us.saturating_add(cost_us);
        }
        self.counters.unit_max_us = self.counters.unit_max_us.max(unit_us);
        self.worker.parts.clear();
        self.worker.kills_in_a_row = 0;
        self.worker.too_slow.clear();
    }

    /// The cost of a preparation behind which the worker stopped is not reported with a unit.
    pub(super) fn learn_preparation(&mut self) {
        if let Some(((class, work), began_us)) = self.worker.parts.pop() {
            self.budget.observe(class, work, self.world.now_us().saturating_sub(began_us));
        }
    }

    pub(super) fn count_invocation(&mut self, times: &StepTimes) {
        let over_us = times.used_us.saturating_sub(self.config.chain.r_limit_ms * 1_000);
        self.counters.units += u64::from(times.units);
        self.counters.overruns += u64::from(over_us > 0);
        self.counters.overrun_max_us = self.counters.overrun_max_us.max(over_us);
    }

    /// No unit fits a step here: says so, and lets the budget forget some of it for the next try.
    pub(super) fn refuse_too_large(&mut self) {
        let tile_px = u64::from(microlambda_faces::plan::TILE_SIDE_PX_MAX).pow(2);
        let unit_us = [(CLASS_DETECT, tile_px), (CLASS_ENCODE, ENCODE_WORK + LOOK_WORK)]
            .map(|(class, work)| self.budget.expect_us(class, work));
        let unit_ms = unit_us.into_iter().flatten().max().unwrap_or(0) / 1_000;
        self.counters.units_too_large += 1;
        self.tell_too_slow(format!("a unit is expected to take up to {unit_ms} ms here"));
        self.budget.relax();
    }

    fn tell_too_slow(&mut self, what: String) {
        let r_limit_ms = self.config.chain.r_limit_ms;
        self.worker.too_slow = format!(
            "{what}, which r-limit-ms = {r_limit_ms} does not hold: raise it, or leave the work to a faster node"
        );
        log::error!("{}", self.worker.too_slow);
        self.status_at_us = 0;
    }

    /// The worker ran beyond its limit and was killed: that is an overrun. Its unit is slow, which says how much it costs at
    /// least; or it is out of hand, which is a failure like a worker's death and says nothing of costs. `waited_us` of its time it had no processor.
    pub(super) fn judge_kill(&mut self, now_us: u64, waited_us: u64) -> StepEnd {
        let over_us = now_us.saturating_sub(self.worker.limit_at_us);
        self.counters.overruns += 1;
        self.counters.overrun_max_us = self.counters.overrun_max_us.max(over_us);
        let parts = std::mem::take(&mut self.worker.parts);
        let Some(((class, work), began_us)) = parts.last().copied() else { return StepEnd::Overran };
        // What went before it has ended.
        for (((class, work), from_us), (_, until_us)) in parts.iter().zip(parts.iter().skip(1)) {
            self.budget.observe(*class, *work, until_us.saturating_sub(*from_us));
        }
        let unit_us = now_us.saturating_sub(began_us);
        // While it waited for a processor it was not out of hand, but the computer busy.
        if self.budget.is_runaway(class, work, unit_us.saturating_sub(waited_us)) {
            // An agent that comes too late to its own deadline stood still, and its worker may have stood still with it.
            if over_us > KILL_SLACK_US + LATE_US {
                return StepEnd::Overran;
            }
            self.counters.units_run_away += 1;
            let expected_ms = self.budget.expect_us(class, work).unwrap_or(0) / 1_000;
            let why = format!("killed after {} ms, where such units take {expected_ms} ms", unit_us / 1_000);
            return StepEnd::Died { why };
        }
        // One kill may be the computer's fault, which stood still; of two in a row the unit is too slow.
        if self.worker.kills_in_a_row > 0 {
            self.budget.observe_killed(class, work, unit_us);
        } else {
            self.budget.observe(class, work, unit_us);
        }
        self.worker.kills_in_a_row = self.worker.kills_in_a_row.saturating_add(1);
        self.tell_too_slow(format!("a unit was killed after {} ms", unit_us / 1_000));
        StepEnd::Overran
    }
}
