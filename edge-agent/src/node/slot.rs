//! The place of the node's worker process: who is in it, what it does, and when it is to be ended or started.

use microlambda::{Budget, CostClass, UnitCost};
use microlambda_wire::Name;

use super::{Node, World};
use crate::store::Store;

/// A worker that dies before it is ready is started again after this, doubled each time, µs.
const RESPAWN_US: u64 = 250_000;
/// … at most this long, µs.
const RESPAWN_US_MAX: u64 = 30_000_000;
/// A worker is killed this long after `r_limit`, µs: the way of its last message, not more time for its units.
pub const KILL_SLACK_US: u64 = 50_000;
/// An agent that comes to a kill so much later than it is due was held up itself, by its disk perhaps, µs: that the worker has ended
/// in time may be said and not be heard yet.
const LATE_TICK_US: u64 = 3_000;
/// Such a kill is put off by this, once, µs: time enough to hear what was said.
pub(super) const LATE_KILL_US: u64 = 20_000;
/// A worker that is not ready by then is started again, µs: loading the models takes 0.4 s on a PC.
const READY_US: u64 = 60_000_000;

/// After so many kills without a unit in between, what the worker's trial has cost says whether the unit is out of hand …
const TRIAL_KILLS: u32 = 3;
/// … which it is after so many times what it would take at that rate.
const TRIAL_FACTOR: u64 = 2;

/// What the worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// A step of this chain.
    Step(Name),
    /// Frames of this chain that its steps have not come to.
    Ahead(Name),
}

/// The state of the node's worker process, or the wait for the next one.
pub(super) struct WorkerSlot {
    pub incarnation: u64,
    pub ready: bool,
    pub work: Option<Work>,
    /// What the running unit consists of, its preparation first: class, work, and when it began, µs.
    pub parts: Vec<((CostClass, u64), u64)>,
    /// How long the worker had waited for a processor when its unit began, µs.
    pub waited_us: u64,
    /// Workers killed at the limit since a unit last ended.
    pub kills_in_a_row: u32,
    /// What units of this worker's own picture have cost as it started: how fast this computer is now, whatever pictures it was given.
    pub trial: Budget,
    /// When the running step reaches its limit, µs.
    pub limit_at_us: u64,
    pub kill_at_us: u64,
    /// Whether the kill of this invocation was put off, as the agent came late to it.
    pub kill_put_off: bool,
    /// The unit that the running invocation has no room for, as its worker says.
    pub refused: Option<UnitCost>,
    /// What was refused last, and what it was expected to take then: class, work, µs. `None` once a unit was done.
    pub told_refused: Option<((CostClass, u64), u64)>,
    pub respawn_at_us: u64,
    pub failures: u32,
    pub engine: String,
    /// What is wrong with the worker, for people; empty while it works.
    pub trouble: String,
    /// That a unit is too much for `r_limit` here, for people; empty once one was done.
    pub too_slow: String,
    /// Time of steps since `load_since_us`, µs.
    pub busy_us: u64,
    load_since_us: u64,
    /// Part of the last whole window that the worker was busy.
    load_permille: u32,
    pub cpu_us: u64,
}

impl Default for WorkerSlot {
    fn default() -> Self {
        Self {
            incarnation: 0,
            ready: false,
            work: None,
            parts: Vec::new(),
            waited_us: 0,
            kills_in_a_row: 0,
            trial: Budget::default(),
            limit_at_us: 0,
            kill_at_us: u64::MAX,
            kill_put_off: false,
            refused: None,
            told_refused: None,
            respawn_at_us: u64::MAX,
            failures: 0,
            engine: String::new(),
            trouble: String::new(),
            too_slow: String::new(),
            busy_us: 0,
            load_since_us: 0,
            load_permille: 0,
            cpu_us: 0,
        }
    }
}

impl WorkerSlot {
    pub fn retry_later(&mut self, now_us: u64) {
        let pause_us = RESPAWN_US.saturating_mul(1 << self.failures.min(10)).min(RESPAWN_US_MAX);
        self.failures = self.failures.saturating_add(1);
        self.ready = false;
        self.kill_at_us = u64::MAX;
        self.respawn_at_us = now_us.saturating_add(pause_us);
    }

    /// Whether a unit is killed again and again after it has taken much longer than the worker's own picture, tried before each time, says that such
    /// a unit takes: so it is not slow, but out of hand. That a node was given no other picture before must not make it wait for ever.
    pub fn outlasts_trial(&self, class: CostClass, work: u64, cost_us: u64) -> bool {
        let expected_us = self.trial.expect_us(class, work).filter(|_| self.kills_in_a_row >= TRIAL_KILLS);
        expected_us.is_some_and(|expected_us| cost_us >= expected_us.max(1).saturating_mul(TRIAL_FACTOR))
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Part of the last `window_us` or a little more that the worker was busy, 0 to 1000. A status that is said early repeats the former one.
    pub fn load_permille(&mut self, now_us: u64, window_us: u64) -> u32 {
        let since_us = now_us.saturating_sub(self.load_since_us);
        if since_us >= window_us.max(1) {
            let permille = self.busy_us.saturating_mul(1_000) / since_us;
            self.load_permille = u32::try_from(permille).unwrap_or(u32::MAX).min(1_000);
            (self.busy_us, self.load_since_us) = (0, now_us);
        }
        self.load_permille
    }

    /// The chain whose step runs.
    pub fn step_of(&self) -> Option<&Name> {
        match &self.work {
            Some(Work::Step(chain)) => Some(chain),
            Some(Work::Ahead(_)) | None => None,
        }
    }

    /// The chain that is worked on ahead of its steps.
    pub fn ahead_of(&self) -> Option<&Name> {
        match &self.work {
            Some(Work::Ahead(chain)) => Some(chain),
            Some(Work::Step(_)) | None => None,
        }
    }

    /// An invocation begins, and is to be ended at its limit.
    pub fn began(&mut self, now_us: u64, r_limit_us: u64) {
        self.parts.clear();
        self.refused = None;
        self.kill_put_off = false;
        self.limit_at_us = now_us.saturating_add(r_limit_us);
        self.kill_at_us = self.limit_at_us.saturating_add(KILL_SLACK_US);
    }

    /// Whether an invocation that has not ended is to be killed now. If the agent comes late, it listens for a moment first.
    pub fn kill_is_due(&mut self, now_us: u64) -> bool {
        if now_us < self.kill_at_us {
            return false;
        }
        if self.kill_put_off || now_us - self.kill_at_us <= LATE_TICK_US {
            return true;
        }
        self.kill_put_off = true;
        self.kill_at_us = now_us.saturating_add(LATE_KILL_US);
        false
    }

    /// Whether a kill was put off and is still to come: until then the worker's word goes before everything else.
    pub fn listens(&self) -> bool {
        self.kill_put_off && self.ready && self.kill_at_us != u64::MAX
    }

    pub fn deadline_us(&self) -> u64 {
        self.kill_at_us.min(self.respawn_at_us)
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// Starts a worker in place of the former one, or plans the next try.
    pub(super) fn spawn_worker(&mut self, now_us: u64) {
        let slot = &mut self.worker;
        slot.incarnation += 1;
        slot.ready = false;
        slot.respawn_at_us = u64::MAX;
        match self.world.spawn_worker(slot.incarnation) {
            Ok(()) => slot.kill_at_us = now_us.saturating_add(READY_US),
            Err(why) => {
                log::error!("{why}");
                slot.trouble = why;
                slot.retry_later(now_us);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_of_a_whole_window_however_often_it_is_said() {
        let mut slot = WorkerSlot::default();
        assert_eq!(slot.load_permille(10, 1_000), 0);
        slot.busy_us = 600;
        assert_eq!(slot.load_permille(400, 1_000), 0, "not a whole one yet");
        assert_eq!(slot.load_permille(1_000, 1_000), 600);
        slot.busy_us = 300;
        assert_eq!(slot.load_permille(1_100, 1_000), 600);
        assert_eq!(slot.load_permille(2_500, 1_000), 200);
        slot.busy_us = 9_000;
        assert_eq!(slot.load_permille(3_500, 1_000), 1_000);
    }

    #[test]
    fn a_kill_that_the_agent_comes_late_to_is_put_off_once() {
        let mut slot = WorkerSlot { ready: true, ..WorkerSlot::default() };
        assert!(!slot.kill_is_due(u64::MAX - 1), "nothing runs");
        slot.began(1_000, 100_000);
        let due_us = 101_000 + KILL_SLACK_US;
        assert!(!slot.kill_is_due(due_us - 1) && !slot.listens());
        assert!(slot.kill_is_due(due_us + LATE_TICK_US), "a timer is not exact");
        let late_us = due_us + LATE_TICK_US + 1;
        assert!(!slot.kill_is_due(late_us) && slot.listens());
        assert!(!slot.kill_is_due(late_us + LATE_KILL_US - 1));
        assert!(slot.kill_is_due(late_us + 10 * LATE_KILL_US), "not twice, however late it is then");
        slot.kill_at_us = u64::MAX;
        assert!(!slot.listens(), "it has ended");
        slot.began(1_000_000, 100_000);
        assert!(!slot.kill_is_due(2_000_000) && slot.listens(), "the next one has its own");
    }
}
