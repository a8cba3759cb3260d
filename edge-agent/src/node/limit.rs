//! What units cost, and what becomes of a step that runs beyond `r_limit`.

use microlambda::{CostClass, StepEnd};
use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, CLASS_ENCODE, ENCODE_WORK, StepTimes};

use super::chain_run::ChainRun;
use super::slot::{KILL_SLACK_US, LATE_KILL_US, Limit, Work};
use super::{Node, World};
use crate::store::Store;

/// An agent that comes so much later to a kill than it meant to stood still itself, µs. On a computer that is only busy, one that waits
/// for nothing but its timer gets a processor sooner, so that a unit which hangs is found out at this try or at a later one.
const LATE_US: u64 = 60_000;
/// A camera agent can be told to give no larger pictures than this, px: the least that its `frame.pixels-max` may be.
const CAMERA_PX_MAX_LEAST: u64 = 1_000_000;

impl<S: Store, W: World> Node<S, W> {
    /// A unit that ended, with what had to go before it: class, pieces of work and µs of each.
    pub(super) fn learn_unit(&mut self, parts: impl Iterator<Item = (CostClass, u64, u64)>) {
        let mut unit_us = 0_u64;
        for (class, work, cost_us) in parts {
            self.budget.observe(class, work, cost_us);
            self.worker.pace.ended(class, work, cost_us);
            unit_us = unit_us.saturating_add(cost_us);
        }
        self.counters.unit_max_us = self.counters.unit_max_us.max(unit_us);
        self.worker.parts.clear();
        self.worker.kills_in_a_row = 0;
        self.worker.too_slow.clear();
        self.worker.told_refused = None;
    }

    /// A preparation that ran without its unit: class, pieces of work and µs.
    pub(super) fn learn_preparation(&mut self, (class, work, cost_us): (CostClass, u64, u64)) {
        self.budget.observe(class, work, cost_us);
        self.worker.pace.ended(class, work, cost_us);
        self.worker.parts.clear();
    }

    pub(super) fn count_invocation(&mut self, times: &StepTimes) {
        let over_us = times.used_us.saturating_sub(self.config.chain.r_limit_us());
        self.counters.units += u64::from(times.units);
        self.counters.overruns += u64::from(over_us > 0);
        self.counters.overrun_max_us = self.counters.overrun_max_us.max(over_us);
    }

    /// A unit does not fit a step here: says which and what it would take, and lets the budget forget some of that for the next try.
    pub(super) fn refuse_too_large(&mut self) {
        self.counters.units_too_large += 1;
        let Some(unit) = self.worker.refused.take() else {
            // A worker in its right mind has said which.
            self.tell_too_slow("a unit is expected to take longer here", "raise it");
            return;
        };
        let part = self.budget.longest_part(&unit);
        // At a further try the budget knows less than it did.
        let told_us = self.worker.told_refused.filter(|(told, _)| *told == part).map_or(0, |(_, us)| us);
        let expected_us = self.budget.expect_us(part.0, part.1).unwrap_or(0).max(told_us);
        self.worker.told_refused = Some((part, expected_us));
        self.budget.relax(&unit);
        let expected_ms = expected_us.div_ceil(1_000);
        let least_ms = expected_ms.max(self.config.chain.r_limit_ms.saturating_add(1));
        let smaller = smaller(part);
        self.tell_too_slow(
            &format!("{} is expected to take {expected_ms} ms here", named(part)),
            &format!("raise it to at least {least_ms}{smaller}"),
        );
    }

    fn tell_too_slow(&mut self, what: &str, remedy: &str) {
        let r_limit_ms = self.config.chain.r_limit_ms;
        self.worker.too_slow = format!(
            "{what}, which r-limit-ms = {r_limit_ms} does not hold: {remedy}, or leave the work to a faster node"
        );
        log::error!("{}", self.worker.too_slow);
        self.status_at_us = 0;
    }

    /// The worker ran beyond its limit and was killed in this work: that is an overrun. Its unit is slow, which says
    /// how much it costs at least; or it is out of hand, which is a failure like a worker's death and says nothing of
    /// costs. `waited_us` of its time it had no processor.
    pub(super) fn judge_kill(&mut self, now_us: u64, killed: &Work, limit: Limit, waited_us: u64) -> StepEnd {
        let over_us = now_us.saturating_sub(limit.at_us);
        let late_us = over_us.saturating_sub(KILL_SLACK_US);
        self.counters.overruns += 1;
        self.counters.overrun_max_us = self.counters.overrun_max_us.max(over_us);
        let parts = std::mem::take(&mut self.worker.parts);
        let Some(((class, work), began_us)) = parts.last().copied() else { return StepEnd::Overran };
        // What went before it has ended. An agent that was held up has perhaps heard of both at once.
        let ended = if limit.kill_put_off { 0 } else { parts.len() - 1 };
        for (((class, work), from_us), (_, until_us)) in parts.iter().zip(parts.iter().skip(1)).take(ended) {
            self.budget.observe(*class, *work, until_us.saturating_sub(*from_us));
        }
        let unit_us = now_us.saturating_sub(began_us);
        if unit_us <= late_us {
            // Heard of only when it was to be ended: that says nothing.
            return StepEnd::Overran;
        }
        // The agent's own delay is not the unit's.
        let cost_us = unit_us - late_us;
        // While it waited for a processor it was not out of hand, but the computer busy.
        let busy_us = cost_us.saturating_sub(waited_us);
        // An agent that comes too late to its own deadline stood still, and its worker may have stood still with it.
        let put_off_us = if limit.kill_put_off { LATE_KILL_US } else { 0 };
        let stood_still = late_us > LATE_US + put_off_us;
        let run = self.run_killed_at_head(killed);
        let kills = run.as_ref().map_or(0, |run| run.kills_at_head);
        if let Some(run) = run.filter(|_| !stood_still) {
            run.kills_at_head = run.kills_at_head.saturating_add(1);
        }
        let known_us = self.budget.expect_us(class, work).filter(|_| self.budget.is_runaway(class, work, busy_us));
        let usual_us = known_us.or_else(|| self.worker.pace.outlasted_us(class, work, busy_us, kills));
        if let Some(usual_us) = usual_us {
            if stood_still {
                return StepEnd::Overran;
            }
            self.counters.units_run_away += 1;
            self.worker.kills_in_a_row = 0;
            let usual_ms = usual_us / 1_000;
            let why = format!("killed after {} ms, where such units take {usual_ms} ms", unit_us / 1_000);
            return StepEnd::Died { why };
        }
        // One kill may be the computer's fault, which stood still; of two in a row the unit is too slow.
        if self.worker.kills_in_a_row > 0 {
            self.budget.observe_killed(class, work, cost_us);
        } else {
            self.budget.observe(class, work, cost_us);
        }
        self.worker.kills_in_a_row = self.worker.kills_in_a_row.saturating_add(1);
        let remedy = format!("raise it{}", smaller((class, work)));
        self.tell_too_slow(&format!("a unit was killed after {} ms", unit_us / 1_000), &remedy);
        StepEnd::Overran
    }

    /// The chain whose unit at the head was killed. Of what runs ahead of a chain nothing counts against a unit.
    fn run_killed_at_head(&mut self, killed: &Work) -> Option<&mut ChainRun> {
        match killed {
            Work::Step(chain) => self.chains.get_mut(chain).filter(|run| run.is_at_head()),
            Work::Ahead(_) => None,
        }
    }
}

/// What else helps where this takes too long, for people.
fn smaller((class, work): (CostClass, u64)) -> &'static str {
    match class {
        CLASS_DECODE if work > CAMERA_PX_MAX_LEAST => ", lower frame.pixels-max of its camera",
        CLASS_DECODE => ", scale the picture down",
        _ => "",
    }
}

/// A unit, or its preparation, for people.
fn named((class, work): (CostClass, u64)) -> String {
    let megapixels = work as f64 / 1e6;
    match class {
        CLASS_DECODE => format!("decoding the picture of {megapixels:.1} megapixels"),
        CLASS_DETECT => format!("searching a tile of {megapixels:.1} megapixels"),
        CLASS_ENCODE if work > ENCODE_WORK => "encoding a face, with a second look at it,".to_owned(),
        CLASS_ENCODE => "encoding a face".to_owned(),
        _ => "a unit".to_owned(),
    }
}
