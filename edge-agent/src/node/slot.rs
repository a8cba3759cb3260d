//! The place of the node's worker process: its phase, what it works on, and when it is to be ended or started.

use microlambda::{CostClass, UnitCost};
use microlambda_wire::Name;

use super::pace::Pace;
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

/// So much a worker may say while no invocation runs: that it is ready, and what its trial has cost.
const IDLE_MESSAGES_MAX: u32 = 16;

/// What the worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// A step of this chain.
    Step(Name),
    /// Frames of this chain that its steps have not come to.
    Ahead(Name),
}

impl Work {
    /// The chain that it is for.
    pub fn chain(&self) -> &Name {
        match self {
            Self::Step(chain) | Self::Ahead(chain) => chain,
        }
    }
}

/// Until when an invocation may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// When it reaches its limit, µs.
    pub at_us: u64,
    /// When it is killed if it has not ended, µs.
    kill_at_us: u64,
    /// Whether its kill was put off, as the agent came late to it.
    pub kill_put_off: bool,
}

/// An invocation that ran beyond its limit and is to be killed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun {
    /// What it was for; `None` if that was given up before.
    pub work: Option<Work>,
    pub limit: Limit,
}

/// What the worker process is doing, as far as the agent knows.
#[derive(Debug, Default)]
enum WorkerPhase {
    /// There is none, and none is to come: the first one is about to be started, or the node stops.
    #[default]
    Off,
    /// There is none until the next one is started.
    Down { respawn_at_us: u64 },
    /// It loads its models, and is ended if it is not ready by then.
    Loading { until_us: u64 },
    /// It waits for work.
    Idle,
    /// It is kept for work whose first frame is on its way, and was given nothing yet.
    Reserved { work: Work },
    /// An invocation runs.
    Busy { work: Work, limit: Limit },
    /// An invocation runs whose work was given up: nobody waits for what it comes to.
    Abandoned { limit: Limit },
}

/// The state of the node's worker process, or the wait for the next one.
#[derive(Default)]
pub(super) struct WorkerSlot {
    incarnation: u64,
    phase: WorkerPhase,
    /// What the running unit consists of, its preparation first: class, work, and when it began, µs.
    pub parts: Vec<((CostClass, u64), u64)>,
    /// How long the worker had waited for a processor when its unit began, µs.
    pub waited_us: u64,
    /// Workers killed at the limit since a unit last ended.
    pub kills_in_a_row: u32,
    /// How long units take on this worker: how fast this computer is now.
    pub pace: Pace,
    /// The unit that the running invocation has no room for, as its worker says.
    pub refused: Option<UnitCost>,
    /// What was refused last, and what it was expected to take then: class, work, µs. `None` once a unit was done.
    pub told_refused: Option<((CostClass, u64), u64)>,
    /// What the worker has said since its start, or its last invocation.
    idle_messages: u32,
    /// Workers in a row that did not get ready.
    failures: u32,
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

impl WorkerSlot {
    /// The worker that is spoken of from now on: of former ones nothing counts any more.
    pub fn next_incarnation(&mut self) -> u64 {
        self.incarnation += 1;
        self.incarnation
    }

    pub fn is_current(&self, incarnation: u64) -> bool {
        incarnation == self.incarnation
    }

    /// A process was started.
    pub fn started(&mut self, now_us: u64) {
        self.idle_messages = 0;
        self.phase = WorkerPhase::Loading { until_us: now_us.saturating_add(READY_US) };
    }

    /// It says that it is ready. One that was ready before goes on with what it is at.
    pub fn became_ready(&mut self, engine: String) {
        if matches!(self.phase, WorkerPhase::Loading { .. }) {
            self.phase = WorkerPhase::Idle;
            self.pace = Pace::default();
        }
        self.engine = engine;
        self.failures = 0;
        self.trouble.clear();
    }

    /// Keeps a worker that waits for work for this one; false if there is none.
    pub fn reserve(&mut self, work: Work) -> bool {
        let is_idle = self.is_idle();
        if is_idle {
            self.phase = WorkerPhase::Reserved { work };
        }
        is_idle
    }

    /// The invocation that the worker is kept for begins, and has until its limit; false if it is kept for none.
    pub fn begin(&mut self, now_us: u64, r_limit_us: u64) -> bool {
        let WorkerPhase::Reserved { work } = &self.phase else { return false };
        let at_us = now_us.saturating_add(r_limit_us);
        let limit = Limit { at_us, kill_at_us: at_us.saturating_add(KILL_SLACK_US), kill_put_off: false };
        self.phase = WorkerPhase::Busy { work: work.clone(), limit };
        self.idle_messages = 0;
        self.parts.clear();
        self.refused = None;
        true
    }

    /// The worker has ended its invocation for this work, or gets none, and waits for other work. False if it was at
    /// something else.
    pub fn release(&mut self, work: &Work) -> bool {
        let is_its_own = self.work() == Some(work);
        if is_its_own {
            self.phase = WorkerPhase::Idle;
        }
        is_its_own
    }

    /// Gives up what the worker is at, and hands it out. An invocation that runs is still to end by its limit.
    pub fn give_up(&mut self) -> Option<Work> {
        let (phase, work) = match std::mem::take(&mut self.phase) {
            WorkerPhase::Reserved { work } => (WorkerPhase::Idle, Some(work)),
            WorkerPhase::Busy { work, limit } => (WorkerPhase::Abandoned { limit }, Some(work)),
            phase @ (WorkerPhase::Off
            | WorkerPhase::Down { .. }
            | WorkerPhase::Loading { .. }
            | WorkerPhase::Idle
            | WorkerPhase::Abandoned { .. }) => (phase, None),
        };
        self.phase = phase;
        work
    }

    /// An invocation has ended whose work was given up.
    pub fn abandoned_ended(&mut self) {
        if matches!(self.phase, WorkerPhase::Abandoned { .. }) {
            self.phase = WorkerPhase::Idle;
        }
    }

    /// The process is gone, or as good as gone. Hands out what it was at.
    pub fn lost(&mut self) -> Option<Work> {
        let work = self.give_up();
        self.phase = WorkerPhase::Off;
        work
    }

    /// Plans the next try after a process that did not get ready.
    pub fn retry_later(&mut self, now_us: u64) {
        let pause_us = RESPAWN_US.saturating_mul(1 << self.failures.min(10)).min(RESPAWN_US_MAX);
        self.failures = self.failures.saturating_add(1);
        self.phase = WorkerPhase::Down { respawn_at_us: now_us.saturating_add(pause_us) };
    }

    /// Whether the next process is to be started now.
    pub fn respawn_is_due(&self, now_us: u64) -> bool {
        matches!(self.phase, WorkerPhase::Down { respawn_at_us } if respawn_at_us <= now_us)
    }

    /// Whether the process has had its time to load its models.
    pub fn loads_too_long(&self, now_us: u64) -> bool {
        matches!(self.phase, WorkerPhase::Loading { until_us } if until_us <= now_us)
    }

    /// Hands out an invocation that has not ended and is to be killed now, with its worker. If the agent comes late, it
    /// listens for a moment first.
    pub fn take_overrun(&mut self, now_us: u64) -> Option<Overrun> {
        let (WorkerPhase::Busy { limit, .. } | WorkerPhase::Abandoned { limit }) = &mut self.phase else { return None };
        let late_us = now_us.checked_sub(limit.kill_at_us)?;
        if late_us > LATE_TICK_US && !limit.kill_put_off {
            limit.kill_put_off = true;
            limit.kill_at_us = now_us.saturating_add(LATE_KILL_US);
            return None;
        }
        let limit = *limit;
        Some(Overrun { work: self.lost(), limit })
    }

    /// Counts what the worker says; true if it says more than it can have to say while no invocation runs. As its word
    /// goes before the bus, and nothing else would end it then, it could keep the node from everything.
    pub fn says_too_much(&mut self) -> bool {
        if self.limit().is_some() {
            return false;
        }
        self.idle_messages = self.idle_messages.saturating_add(1);
        self.idle_messages > IDLE_MESSAGES_MAX
    }

    /// Whether a kill was put off and is still to come: until then the worker's word goes before everything else.
    pub fn listens(&self) -> bool {
        self.limit().is_some_and(|limit| limit.kill_put_off)
    }

    /// When something is to be done about the process, µs.
    pub fn deadline_us(&self) -> u64 {
        match self.phase {
            WorkerPhase::Off | WorkerPhase::Idle | WorkerPhase::Reserved { .. } => u64::MAX,
            WorkerPhase::Down { respawn_at_us } => respawn_at_us,
            WorkerPhase::Loading { until_us } => until_us,
            WorkerPhase::Busy { limit, .. } | WorkerPhase::Abandoned { limit } => limit.kill_at_us,
        }
    }

    /// Whether its models are loaded, whatever it does since.
    pub fn is_ready(&self) -> bool {
        match self.phase {
            WorkerPhase::Off | WorkerPhase::Down { .. } | WorkerPhase::Loading { .. } => false,
            WorkerPhase::Idle
            | WorkerPhase::Reserved { .. }
            | WorkerPhase::Busy { .. }
            | WorkerPhase::Abandoned { .. } => true,
        }
    }

    /// Whether it waits for work.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, WorkerPhase::Idle)
    }

    /// Whether a step of this chain could have it: it waits for work, or is at a step of this very chain.
    pub fn is_free_for(&self, chain: &Name) -> bool {
        self.is_idle() || self.step_of() == Some(chain)
    }

    /// What the worker is at, or is kept for.
    pub fn work(&self) -> Option<&Work> {
        match &self.phase {
            WorkerPhase::Reserved { work } | WorkerPhase::Busy { work, .. } => Some(work),
            WorkerPhase::Off
            | WorkerPhase::Down { .. }
            | WorkerPhase::Loading { .. }
            | WorkerPhase::Idle
            | WorkerPhase::Abandoned { .. } => None,
        }
    }

    /// The chain whose step the worker is at, or is kept for.
    pub fn step_of(&self) -> Option<&Name> {
        match self.work() {
            Some(Work::Step(chain)) => Some(chain),
            Some(Work::Ahead(_)) | None => None,
        }
    }

    /// The chain that is worked on ahead of its steps, or is to be.
    pub fn ahead_of(&self) -> Option<&Name> {
        match self.work() {
            Some(Work::Ahead(chain)) => Some(chain),
            Some(Work::Step(_)) | None => None,
        }
    }

    /// Until when the running invocation may run.
    fn limit(&self) -> Option<Limit> {
        match self.phase {
            WorkerPhase::Busy { limit, .. } | WorkerPhase::Abandoned { limit } => Some(limit),
            WorkerPhase::Off
            | WorkerPhase::Down { .. }
            | WorkerPhase::Loading { .. }
            | WorkerPhase::Idle
            | WorkerPhase::Reserved { .. } => None,
        }
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
}

impl<S: Store, W: World> Node<S, W> {
    /// Starts a worker in place of the former one, or plans the next try.
    pub(super) fn spawn_worker(&mut self, now_us: u64) {
        let incarnation = self.worker.next_incarnation();
        match self.world.spawn_worker(incarnation) {
            Ok(()) => self.worker.started(now_us),
            Err(why) => {
                log::error!("{why}");
                self.worker.trouble = why;
                self.worker.retry_later(now_us);
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

    fn name(name: &str) -> Name {
        Name::new(name).unwrap()
    }

    fn step() -> Work {
        Work::Step(name("door"))
    }

    /// A worker that waits for work.
    fn idle() -> WorkerSlot {
        let mut slot = WorkerSlot::default();
        slot.started(0);
        slot.became_ready("test".into());
        slot
    }

    /// One in a step that began at 1 ms and has 100 ms.
    fn busy() -> WorkerSlot {
        let mut slot = idle();
        assert!(slot.reserve(step()) && slot.begin(1_000, 100_000));
        slot
    }

    const DUE_US: u64 = 101_000 + KILL_SLACK_US;

    #[test]
    fn a_worker_is_killed_when_its_invocation_is_over_its_limit_and_not_before() {
        let mut slot = busy();
        assert_eq!((slot.deadline_us(), slot.take_overrun(DUE_US - 1)), (DUE_US, None));
        // A timer is not exact.
        let overrun = slot.take_overrun(DUE_US + LATE_TICK_US).expect("a kill");
        assert_eq!((overrun.work, overrun.limit.at_us, overrun.limit.kill_put_off), (Some(step()), 101_000, false));
        assert!(!slot.is_ready() && slot.work().is_none());
        assert_eq!((slot.deadline_us(), slot.take_overrun(u64::MAX)), (u64::MAX, None), "it is gone");
    }

    #[test]
    fn a_kill_that_the_agent_comes_late_to_is_put_off_once() {
        let mut slot = busy();
        let late_us = DUE_US + LATE_TICK_US + 1;
        assert!(!slot.listens() && slot.take_overrun(late_us).is_none() && slot.listens());
        assert!(slot.take_overrun(late_us + LATE_KILL_US - 1).is_none());
        let overrun = slot.take_overrun(late_us + 10 * LATE_KILL_US).expect("not twice, however late it is then");
        assert!(overrun.limit.kill_put_off && !slot.listens());
    }

    #[test]
    fn an_invocation_that_follows_one_whose_kill_was_put_off_has_its_own_limit() {
        let mut slot = busy();
        assert!(slot.take_overrun(1_000_000).is_none() && slot.listens());
        assert!(slot.release(&step()) && !slot.listens(), "it has ended");
        assert!(slot.take_overrun(u64::MAX).is_none(), "nothing runs");
        assert!(slot.reserve(step()) && slot.begin(1_000_000, 100_000) && !slot.listens());
        assert!(slot.take_overrun(2_000_000).is_none() && slot.listens());
    }

    #[test]
    fn only_a_worker_that_waits_for_work_is_kept_for_some() {
        let (mut slot, ahead) = (WorkerSlot::default(), Work::Ahead(name("job")));
        assert!(!slot.reserve(step()), "there is none");
        slot.started(0);
        assert!(!slot.reserve(step()) && !slot.begin(0, 1), "it is not ready");
        slot.became_ready("test".into());
        assert!(!slot.begin(0, 1), "it has no work");
        assert!(slot.reserve(step()) && !slot.reserve(ahead.clone()) && !slot.release(&ahead));
        assert_eq!((slot.step_of(), slot.ahead_of()), (Some(&name("door")), None));
        assert!(slot.is_free_for(&name("door")) && !slot.is_free_for(&name("job")));
        assert!(slot.release(&step()) && slot.reserve(ahead));
    }

    #[test]
    fn what_is_given_up_while_it_runs_keeps_the_worker_until_it_ends_or_is_killed() {
        let mut waiting = idle();
        assert!(waiting.reserve(step()));
        assert_eq!((waiting.give_up(), waiting.is_idle()), (Some(step()), true), "it was given nothing");
        let mut slot = busy();
        assert_eq!((slot.give_up(), slot.work(), slot.is_idle()), (Some(step()), None, false));
        assert!(slot.is_ready() && slot.deadline_us() == DUE_US);
        let overrun = slot.take_overrun(DUE_US).expect("a kill");
        assert_eq!(overrun.work, None);
        let mut slot = busy();
        assert_eq!(slot.give_up(), Some(step()));
        slot.abandoned_ended();
        assert!(slot.is_idle());
    }

    #[test]
    fn a_worker_that_says_again_that_it_is_ready_keeps_its_limit() {
        let mut slot = busy();
        slot.became_ready("test".into());
        assert_eq!((slot.work(), slot.deadline_us()), (Some(&step()), DUE_US));
    }

    #[test]
    fn workers_that_do_not_get_ready_are_started_after_pauses_that_double() {
        let mut slot = WorkerSlot::default();
        let mut fails = || {
            slot.started(0);
            assert!(!slot.loads_too_long(READY_US - 1) && slot.loads_too_long(READY_US));
            assert_eq!(slot.lost(), None);
            slot.retry_later(0);
            let at_us = slot.deadline_us();
            assert!(!slot.respawn_is_due(at_us - 1) && slot.respawn_is_due(at_us));
            at_us
        };
        assert_eq!([fails(), fails(), fails()], [RESPAWN_US, 2 * RESPAWN_US, 4 * RESPAWN_US]);
        for _ in 0..100 {
            fails();
        }
        assert_eq!(fails(), RESPAWN_US_MAX);
    }
}
