//! Invocations of the worker, for a step and ahead of steps alike: started, given frames, heard of unit by unit, ended.
//! What becomes of their results is up to `step.rs` and `ahead.rs`.

use std::collections::VecDeque;

use microlambda::{StepEnd, Stop};
use microlambda_faces::Partial;
use microlambda_faces::content::Entry;
use microlambda_faces::proto::{StepTimes, ToWorker, UnitOutcome};
use microlambda_wire::{Name, Record};

use super::ahead_of::AheadEnd;
use super::chain_run::{Buffered, ChainRun};
use super::slot::Work;
use super::{Node, NodeError, World};
use crate::store::Store;

/// An invocation whose first frame does not come is given up after this, µs.
const INPUT_US: u64 = 400_000;
/// Frames handed to the worker and not finished at most.
const FEED_AHEAD: usize = 4;

/// One run of the worker: from its first frame, which may still be on its way, to its end.
pub(super) struct Invocation {
    /// Its number, by which the worker's answers name it.
    pub id: u64,
    /// When the worker was kept for it, µs; of a step also when it was started, and its lease with it.
    pub began_us: u64,
    /// The next record to hand to the worker.
    pub next_feed: u64,
    /// State inside the first frame that is not finished, if that was begun.
    pub partial: Option<Partial>,
    /// Frames handed over and not finished.
    fed: VecDeque<(u64, Record)>,
    /// Whether the worker got its `Start`.
    running: bool,
    told_no_more: bool,
}

/// What an invocation is to be given next.
pub(super) struct NextFeed {
    /// The record.
    pub sequence: u64,
    /// Whether it is not this invocation's any more, which ends before it.
    pub is_over: bool,
    /// Whether another record follows it in this invocation.
    pub more: bool,
}

/// An answer that no worker in its right mind gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nonsense;

impl Invocation {
    /// One that begins with record `first`, inside whose frame `partial` is the state.
    pub fn new(id: u64, first: u64, partial: Option<Partial>, now_us: u64) -> Self {
        Self {
            id,
            began_us: now_us,
            next_feed: first,
            partial,
            fed: VecDeque::new(),
            running: false,
            told_no_more: false,
        }
    }

    /// Whether the worker was told to start it.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Without its first frame by then it is given up, µs; `None` once it runs.
    pub fn input_deadline_us(&self) -> Option<u64> {
        (!self.running).then(|| self.began_us.saturating_add(INPUT_US))
    }

    /// Whether the worker is at this frame: the first one that it was given and has not finished.
    pub fn is_at(&self, sequence: u64) -> bool {
        self.fed.front().is_some_and(|(fed, _)| *fed == sequence)
    }

    /// The record that it has come to.
    pub fn place(&self) -> u64 {
        self.fed.front().map_or(self.next_feed, |(fed, _)| *fed)
    }

    /// What comes before this record was analysed elsewhere, a frame that is begun here with it.
    pub fn pass_over_to(&mut self, sequence: u64) {
        self.partial = None;
        self.next_feed = self.next_feed.max(sequence);
    }

    /// It has ended: frames that the worker has not finished are not its any more.
    pub fn take_back(&mut self) {
        self.fed.clear();
    }

    /// Hands frames on by `send` until the worker has enough, or nothing follows that this invocation is to do; false if
    /// the worker takes no more. `next` says what is to be fed from a record on, `buffered` gives what is here.
    pub fn feed<'a>(
        &mut self,
        next: impl Fn(u64) -> NextFeed,
        buffered: impl Fn(u64) -> Option<&'a Buffered>,
        mut send: impl FnMut(&ToWorker) -> bool,
    ) -> bool {
        while self.fed.len() < FEED_AHEAD && !self.told_no_more {
            let NextFeed { sequence, is_over, more } = next(self.next_feed);
            self.next_feed = sequence;
            let message = match buffered(sequence) {
                _ if is_over => ToWorker::NoMoreFrames,
                Some(Buffered { record, jpeg }) => match record {
                    Record::Frame { moved, .. } => {
                        self.fed.push_back((sequence, record.clone()));
                        self.next_feed = sequence.saturating_add(1);
                        ToWorker::Frame { sequence, jpeg: jpeg.clone(), moved: moved.clone(), more }
                    }
                    // Before a record that is no frame its input ends.
                    Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => ToWorker::NoMoreFrames,
                },
                None => break,
            };
            self.told_no_more = !more || matches!(message, ToWorker::NoMoreFrames);
            if !send(&message) {
                return false;
            }
        }
        true
    }

    /// A unit of the frame that the worker is at has ended. The frame with its analysis if that is finished now.
    ///
    /// # Errors
    /// [`Nonsense`] if that cannot follow from the state that the worker was given.
    pub fn unit_ended(
        &mut self,
        outcome: UnitOutcome,
        picture_px_max: u32,
        engine: &str,
    ) -> Result<Option<Entry>, Nonsense> {
        if !outcome.follows(self.partial.as_ref(), picture_px_max) {
            return Err(Nonsense);
        }
        match outcome {
            UnitOutcome::Partial(partial) => {
                self.partial = Some(partial);
                Ok(None)
            }
            UnitOutcome::Done(analysis) => {
                self.partial = None;
                let finished = self.fed.pop_front();
                Ok(finished.map(|(sequence, record)| Entry {
                    sequence,
                    record,
                    analysis: Some(analysis),
                    engine: engine.to_owned(),
                }))
            }
        }
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// Tells the worker to begin the invocation that it is kept for; false if it takes no message.
    pub(super) fn start_invocation(&mut self, work: &Work, units_max: u32) -> bool {
        let (now_us, r_limit_us) = (self.world.now_us(), self.config.chain.r_limit_us());
        let run = self.chains.get_mut(work.chain());
        let Some(invocation) = run.and_then(|run| run.invocation_mut(work)) else { return false };
        let start = ToWorker::Start {
            step: invocation.id,
            r_limit_us,
            units_max,
            costs: self.budget.table(),
            params: self.params,
            resume: invocation.partial.clone(),
        };
        invocation.running = self.worker.begin(now_us, r_limit_us) && self.world.send_to_worker(&start);
        invocation.running
    }

    /// The worker did not take a frame: it is ended, which is heard of like any other end.
    pub(super) fn kill_unresponsive_worker(&mut self, chain: &Name) {
        log::warn!(chain:% = chain; "the worker does not take frames any more");
        self.world.kill_worker();
    }

    /// A unit of what the worker is at has ended.
    pub(super) fn unit_ended(
        &mut self,
        id: u64,
        sequence: u64,
        outcome: UnitOutcome,
        thumbnail: Option<Vec<u8>>,
    ) -> Result<(), NodeError> {
        let Some(work) = self.worker.work().cloned() else { return Ok(()) };
        let Some(run) = self.chains.get_mut(work.chain()) else { return Ok(()) };
        if !run.awaits_unit(&work, id, sequence) {
            return Ok(());
        }
        let Some(invocation) = run.invocation_mut(&work) else { return Ok(()) };
        // A picture is of the last face.
        let face = outcome.faces().checked_sub(1).map(|index| u32::try_from(index).unwrap_or(u32::MAX));
        let picture = face.zip(thumbnail);
        let Ok(finished) = invocation.unit_ended(outcome, self.params.picture_px_max, &self.worker.engine) else {
            self.counters.worker_nonsense += 1;
            self.world.kill_worker();
            return self.worker_gone("the worker's answer cannot follow from the state it was given");
        };
        match work {
            Work::Step(chain) => self.step_advanced(&chain, sequence, finished, picture),
            Work::Ahead(chain) => self.ahead_advanced(&chain, sequence, finished, picture),
        }
    }

    /// The worker says that an invocation has ended.
    pub(super) fn worker_stopped(&mut self, id: u64, stop: Stop, times: StepTimes) -> Result<(), NodeError> {
        self.worker.cpu_us = times.cpu_us;
        let Some(work) = self.worker.work().cloned() else {
            self.worker.abandoned_ended();
            return Ok(());
        };
        let invocation = self.chains.get(work.chain()).and_then(|run| run.invocation(&work));
        if invocation.is_none_or(|invocation| invocation.id != id) {
            return Ok(());
        }
        if stop == Stop::TooLarge {
            self.refuse_too_large();
        }
        let end = StepEnd::of(stop, times.units);
        self.count_invocation(&times);
        match work {
            Work::Step(chain) => self.step_stopped(&chain, end, times),
            Work::Ahead(chain) => self.end_ahead(&chain, AheadEnd::from(&end), Some(times)),
        }
    }
}

impl ChainRun {
    fn invocation(&self, work: &Work) -> Option<&Invocation> {
        match work {
            Work::Step(_) => self.step.as_ref().map(|step| &step.invocation),
            Work::Ahead(_) => self.ahead.run.as_ref().map(|ahead| &ahead.invocation),
        }
    }

    fn invocation_mut(&mut self, work: &Work) -> Option<&mut Invocation> {
        match work {
            Work::Step(_) => self.step.as_mut().map(|step| &mut step.invocation),
            Work::Ahead(_) => self.ahead.run.as_mut().map(|ahead| &mut ahead.invocation),
        }
    }

    /// Whether a unit of this frame is what the invocation comes to next.
    fn awaits_unit(&self, work: &Work, id: u64, sequence: u64) -> bool {
        let is_its_next = |invocation: &Invocation| invocation.id == id && invocation.is_at(sequence);
        let is_of_use = match work {
            // What was committed meanwhile, from a peer, is in the buffer no more.
            Work::Step(_) => {
                self.step.as_ref().is_some_and(|step| step.cursor() == sequence) && self.buffered(sequence).is_some()
            }
            Work::Ahead(_) => true,
        };
        is_of_use && self.invocation(work).is_some_and(is_its_next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use microlambda::Digest;
    use microlambda_faces::{Analysis, FaceParams};
    use microlambda_wire::GapReason;

    use super::*;

    fn frames(numbers: std::ops::Range<u64>) -> BTreeMap<u64, Buffered> {
        let record =
            || Record::Frame { captured_at_ms: 0, digest: Digest::default(), label: String::new(), moved: None };
        numbers.map(|number| (number, Buffered { record: record(), jpeg: vec![0xff] })).collect()
    }

    fn invocation() -> Invocation {
        Invocation::new(1, 0, None, 1_000)
    }

    /// What an invocation for the records before `end` tells the worker: each frame and whether more follow, or `None` if
    /// none do.
    fn told(invocation: &mut Invocation, end: u64, here: &BTreeMap<u64, Buffered>) -> Vec<Option<(u64, bool)>> {
        let next = |sequence| NextFeed { sequence, is_over: sequence >= end, more: sequence + 1 < end };
        let mut told = Vec::new();
        let send = |message: &ToWorker| {
            told.push(match message {
                ToWorker::Frame { sequence, more, .. } => Some((*sequence, *more)),
                ToWorker::NoMoreFrames => None,
                ToWorker::Start { .. } | ToWorker::Stop => panic!("{message:?}"),
            });
            true
        };
        assert!(invocation.feed(next, |sequence| here.get(&sequence), send));
        told
    }

    fn done() -> UnitOutcome {
        UnitOutcome::Done(Analysis::Unreadable { why: "a test".into() })
    }

    fn finishes(invocation: &mut Invocation) -> Result<Option<u64>, Nonsense> {
        let ended = invocation.unit_ended(done(), FaceParams::default().picture_px_max, "test");
        ended.map(|finished| finished.map(|entry| entry.sequence))
    }

    #[test]
    fn frames_are_handed_on_until_the_worker_has_enough_and_further_ones_as_it_finishes_some() {
        let (mut invocation, here) = (invocation(), frames(0..9));
        let first: Vec<_> = (0..FEED_AHEAD as u64).map(|sequence| Some((sequence, true))).collect();
        assert_eq!(told(&mut invocation, 9, &here), first);
        assert!(told(&mut invocation, 9, &here).is_empty());
        assert_eq!((finishes(&mut invocation), invocation.place()), (Ok(Some(0)), 1));
        assert_eq!(told(&mut invocation, 9, &here), [Some((FEED_AHEAD as u64, true))]);
    }

    #[test]
    fn the_last_frame_says_that_it_is_the_last_and_nothing_is_said_after_it() {
        let (mut invocation, here) = (invocation(), frames(0..9));
        assert_eq!(told(&mut invocation, 2, &here), [Some((0, true)), Some((1, false))]);
        assert_eq!(finishes(&mut invocation), Ok(Some(0)));
        assert!(told(&mut invocation, 9, &here).is_empty());
    }

    #[test]
    fn a_frame_that_is_not_here_is_waited_for() {
        let mut invocation = invocation();
        assert_eq!(told(&mut invocation, 9, &frames(0..1)), [Some((0, true))]);
        assert_eq!((told(&mut invocation, 9, &frames(2..3)), invocation.next_feed), (vec![], 1));
        assert_eq!(told(&mut invocation, 9, &frames(0..2)), [Some((1, true))]);
    }

    #[test]
    fn the_input_ends_before_a_record_that_is_no_frame() {
        let (mut invocation, mut here) = (invocation(), frames(0..3));
        let gap = Record::Gap { count: 1, reason: GapReason::SpoolFull };
        here.insert(1, Buffered { record: gap, jpeg: Vec::new() });
        assert_eq!(told(&mut invocation, 3, &here), [Some((0, true)), None]);
        assert_eq!((told(&mut invocation, 3, &here), invocation.next_feed), (vec![], 1));
    }

    #[test]
    fn a_worker_that_takes_no_message_is_found_out_at_the_first() {
        let (mut invocation, here, mut times) = (invocation(), frames(0..3), 0);
        let next = |sequence| NextFeed { sequence, is_over: false, more: true };
        let send = |_: &ToWorker| {
            times += 1;
            false
        };
        assert!(!invocation.feed(next, |sequence| here.get(&sequence), send));
        assert_eq!(times, 1);
    }

    #[test]
    fn what_cannot_follow_is_nonsense_and_changes_nothing() {
        let mut invocation = invocation();
        told(&mut invocation, 3, &frames(0..3));
        let outcomes = [
            UnitOutcome::Partial(Partial { tiles_done: 77, ..Partial::default() }),
            UnitOutcome::Done(Analysis::SetAside { why: "so it says".into() }),
        ];
        for outcome in outcomes {
            let ended = invocation.unit_ended(outcome, FaceParams::default().picture_px_max, "test");
            assert_eq!((ended, invocation.partial.clone()), (Err(Nonsense), None));
            assert!(invocation.is_at(0));
        }
    }

    #[test]
    fn only_what_was_not_started_waits_for_its_first_frame() {
        let mut invocation = invocation();
        assert_eq!(invocation.input_deadline_us(), Some(1_000 + INPUT_US));
        invocation.running = true;
        assert_eq!(invocation.input_deadline_us(), None);
    }
}
