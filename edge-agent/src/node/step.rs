//! Steps on the worker: started, fed, listened to, killed at `r_limit`.

use std::collections::VecDeque;

use microlambda::{Attempt, Budget, Event, StepEnd, StepMode, Stop};
use microlambda_faces::content::{Entry, PartialEntry};
use microlambda_faces::proto::{FromWorker, PROTOCOL, StepTimes, ToWorker, UnitOutcome};
use microlambda_wire::{Name, Record, StepTiming};

use super::chain_run::{ChainRun, Step};
use super::slot::Work;
use super::{Node, NodeError, World};
use crate::store::Store;
use crate::worker::WorkerEvent;

/// A step whose first frame does not come is given up after this, µs.
pub(super) const INPUT_US: u64 = 400_000;
/// Frames handed to the worker and not finished at most.
pub(super) const FEED_AHEAD: usize = 4;

impl<S: Store, W: World> Node<S, W> {
    /// Carries out [`microlambda::Effect::Start`].
    pub(super) fn start_step(&mut self, chain: &Name, attempt: Attempt) -> Result<Option<Event>, NodeError> {
        let now_us = self.world.now_us();
        let id = self.next_step;
        self.next_step += 1;
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        let base = run.fold.head();
        let sequence = base.version.sequence;
        // A frame that was begun ahead goes on from there.
        let begun = if run.partial.is_none() { run.ahead.take_begun(sequence) } else { None };
        let (begun, thumbnails) = begun.map_or((None, Vec::new()), |begun| (begun.partial, begun.thumbnails));
        run.step = Some(Step {
            attempt,
            id,
            base,
            entries: Vec::new(),
            partial: begun.map(|partial| PartialEntry { sequence, partial }).or_else(|| run.partial.clone()),
            open_since_us: run.open_since_us,
            began_us: now_us,
            running_since_us: None,
            next_feed: sequence,
            fed: VecDeque::new(),
            absorbed: 0,
            told_no_more: false,
        });
        for (face, jpeg) in thumbnails {
            run.keep_picture(sequence, face, jpeg);
        }
        if run.ahead.holds(sequence) {
            // What is here is folded without the worker, which may be at something else.
            return self.end_step(chain, StepEnd::Finished, None);
        }
        self.worker.work = Some(Work::Step(chain.clone()));
        self.pump(chain)
    }

    /// Hands the step's next records on, as far as they are here. A returned event is to be fed to the chain.
    pub(super) fn pump(&mut self, chain: &Name) -> Result<Option<Event>, NodeError> {
        let now_us = self.world.now_us();
        let r_limit_us = self.config.chain.r_limit_us();
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        run.absorb();
        let Some(step) = run.step.as_ref() else { return Ok(None) };
        if step.running_since_us.is_none() {
            if !step.entries.is_empty() {
                return self.end_step(chain, StepEnd::Finished, None);
            }
            match run.buffered(step.next_feed).map(|buffered| &buffered.record) {
                None => {
                    self.want_frames(chain, now_us);
                    return Ok(None);
                }
                Some(Record::Gap { .. } | Record::End { .. } | Record::Restart { .. }) => {
                    return self.end_step(chain, StepEnd::Finished, None);
                }
                Some(Record::Frame { .. }) => {}
            }
            let start = ToWorker::Start {
                step: step.id,
                r_limit_us,
                units_max: if step.attempt.mode == StepMode::OneUnit { 1 } else { u32::MAX },
                costs: self.budget.table(),
                params: self.params,
                resume: step.partial.as_ref().map(|partial| partial.partial.clone()),
            };
            if !self.world.send_to_worker(&start) {
                return self.end_step(chain, StepEnd::NoInput, None);
            }
            self.worker.began(now_us, r_limit_us);
        }
        self.feed_step(chain, now_us);
        self.want_frames(chain, now_us);
        Ok(None)
    }

    /// Hands frames on until the worker has enough, or nothing follows that this step is to do.
    fn feed_step(&mut self, chain: &Name, now_us: u64) {
        let lease_us = self.lease_us();
        let Some(run) = self.chains.get_mut(chain) else { return };
        let Some(mut step) = run.step.take() else { return };
        step.running_since_us.get_or_insert(now_us);
        let input_next = run.chain.input_next();
        // What others have analysed is passed over; what they are at ends the step, but for the record that was claimed.
        let claimed = step.base.version.sequence;
        let others = |sequence| sequence != claimed && run.is_left_to_peer(sequence, lease_us, now_us);
        let ends_at = |sequence| sequence >= input_next || others(sequence);
        while step.fed.len() < FEED_AHEAD && !step.told_no_more {
            step.next_feed = run.ahead.first_not_held(step.next_feed);
            let sequence = step.next_feed;
            let more = !ends_at(run.ahead.first_not_held(sequence.saturating_add(1)));
            let message = match run.buffered(sequence) {
                _ if ends_at(sequence) => ToWorker::NoMoreFrames,
                Some(buffered) => match &buffered.record {
                    Record::Frame { moved, .. } => {
                        ToWorker::Frame { sequence, jpeg: buffered.jpeg.clone(), moved: moved.clone(), more }
                    }
                    // Before a record that is no frame this step's input ends.
                    Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => ToWorker::NoMoreFrames,
                },
                None => break,
            };
            step.told_no_more = !more || matches!(message, ToWorker::NoMoreFrames);
            if matches!(message, ToWorker::Frame { .. }) {
                step.fed.push_back(sequence);
                step.next_feed = sequence.saturating_add(1);
            }
            if !self.world.send_to_worker(&message) {
                log::warn!(chain:% = chain; "the worker does not take frames any more");
                self.world.kill_worker();
                break;
            }
        }
        run.step = Some(step);
    }

    /// Handles what the worker says, or that it is gone.
    ///
    /// # Errors
    /// As for [`Node::on_connected`].
    pub fn on_worker(&mut self, event: WorkerEvent) -> Result<(), NodeError> {
        let (incarnation, message) = match event {
            WorkerEvent::Said(incarnation, message) => (incarnation, Ok(*message)),
            WorkerEvent::Gone(incarnation, why) => (incarnation, Err(why)),
        };
        if incarnation != self.worker.incarnation {
            return Ok(());
        }
        match message {
            Ok(FromWorker::Ready { protocol, engine, load_us }) => self.worker_ready(protocol, engine, load_us),
            Ok(FromWorker::Tried { units }) => {
                self.worker.trial = Budget::default();
                units.iter().for_each(|&(class, work, cost_us)| self.worker.trial.observe(class, work, cost_us));
                Ok(())
            }
            Ok(FromWorker::Begin { part, .. }) => {
                // A preparation and its unit; more is nonsense.
                if self.worker.parts.len() < 2 {
                    self.worker.parts.push((part, self.world.now_us()));
                    self.worker.waited_us = self.world.worker_waited_us();
                }
                Ok(())
            }
            Ok(FromWorker::Unit { step, sequence, prepare, run, outcome, thumbnail }) => {
                self.learn_unit(prepare.into_iter().chain([run]));
                self.unit_ended(step, sequence, outcome, thumbnail)
            }
            Ok(FromWorker::Refused { unit, .. }) => {
                self.worker.refused = Some(unit);
                Ok(())
            }
            Ok(FromWorker::Prepared { prepare, .. }) => {
                self.learn_preparation(prepare);
                Ok(())
            }
            Ok(FromWorker::Stopped { step, stop, report }) => self.worker_stopped(step, stop, report),
            Ok(FromWorker::Fatal { message }) => {
                log::error!("the worker cannot work: {message}");
                self.worker.trouble = message;
                Ok(())
            }
            Err(why) => self.worker_gone(&why),
        }
    }

    fn worker_ready(&mut self, protocol: u32, engine: String, load_us: u64) -> Result<(), NodeError> {
        if protocol != PROTOCOL {
            self.worker.trouble = format!(
                "face-worker speaks protocol {protocol}, this edge-agent {PROTOCOL}: install both from one release"
            );
            log::error!("{}", self.worker.trouble);
            self.world.kill_worker();
            return Ok(());
        }
        log::info!(engine:% = engine, load_ms = load_us / 1_000; "worker ready");
        self.worker.engine = engine;
        self.worker.ready = true;
        self.worker.failures = 0;
        self.worker.trouble.clear();
        self.worker.kill_at_us = u64::MAX;
        self.status_at_us = 0;
        for name in self.chains_by_turn() {
            self.drive(&name, Event::Tick)?;
        }
        Ok(())
    }

    fn unit_ended(
        &mut self,
        id: u64,
        sequence: u64,
        outcome: UnitOutcome,
        thumbnail: Option<Vec<u8>>,
    ) -> Result<(), NodeError> {
        if let Some(chain) = self.worker.ahead_of().cloned() {
            return self.unit_ended_ahead(&chain, (id, sequence), outcome, thumbnail);
        }
        let Some(chain) = self.worker.step_of().cloned() else { return Ok(()) };
        let engine = self.worker.engine.clone();
        let Some(run) = self.chains.get_mut(&chain) else { return Ok(()) };
        let record = run.buffered(sequence).map(|buffered| buffered.record.clone());
        let Some(step) = run.step.as_mut().filter(|step| step.id == id && step.cursor() == sequence) else {
            return Ok(());
        };
        let Some(record) = record else { return Ok(()) };
        if !outcome.follows(step.partial.as_ref().map(|partial| &partial.partial), self.params.picture_px_max) {
            self.counters.worker_nonsense += 1;
            self.world.kill_worker();
            return self.worker_gone("the worker's answer cannot follow from the state it was given");
        }
        let faces = outcome.faces();
        match outcome {
            UnitOutcome::Partial(partial) => step.partial = Some(PartialEntry { sequence, partial }),
            UnitOutcome::Done(analysis) => {
                step.partial = None;
                step.entries.push(Entry { sequence, record, analysis: Some(analysis), engine });
                step.fed.pop_front();
                run.buffer_drop(sequence);
            }
        }
        if let (Some(jpeg), Some(index)) = (thumbnail, faces.checked_sub(1)) {
            run.keep_picture(sequence, u32::try_from(index).unwrap_or(u32::MAX), jpeg);
        }
        let event = self.pump(&chain)?;
        self.drive_some(&chain, event)
    }

    fn worker_stopped(&mut self, id: u64, stop: Stop, times: StepTimes) -> Result<(), NodeError> {
        self.worker.kill_at_us = u64::MAX;
        self.worker.cpu_us = times.cpu_us;
        if let Some(chain) = self.worker.ahead_of().cloned() {
            return self.stopped_ahead(&chain, id, stop, times);
        }
        let Some(chain) = self.worker.step_of().cloned() else { return Ok(()) };
        let running = self.chains.get(&chain).and_then(|run| run.step.as_ref()).is_some_and(|step| step.id == id);
        if !running {
            return Ok(());
        }
        let end = match stop {
            Stop::Limit | Stop::UnitsMax | Stop::Done => StepEnd::Finished,
            Stop::Prepared => StepEnd::Prepared,
            Stop::Starved if times.units == 0 => StepEnd::NoInput,
            Stop::Starved => StepEnd::Finished,
            Stop::TooLarge => {
                self.refuse_too_large();
                StepEnd::TooLarge
            }
        };
        self.count_invocation(&times);
        self.counters.steps += 1;
        let Some(event) = self.end_step(&chain, end, Some(times))? else { return Ok(()) };
        self.drive(&chain, event)?;
        self.wake_others(&chain)
    }

    /// Ends the running step and folds what it reached. The event returned tells the chain.
    fn end_step(&mut self, chain: &Name, end: StepEnd, times: Option<StepTimes>) -> Result<Option<Event>, NodeError> {
        let now_us = self.world.now_us();
        let had_worker = self.worker.work.take_if(|work| *work == Work::Step(chain.clone())).is_some();
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        // What the worker has prepared is lost with its next step for another chain.
        if had_worker && end != StepEnd::Prepared {
            run.worked_at_us = now_us;
        }
        if matches!(end, StepEnd::Finished) {
            run.take_what_needs_no_worker();
        }
        let Some(step) = run.step.take() else { return Ok(None) };
        self.counters.frames_ahead_used += step.absorbed;
        let frames = frames_in(&step.entries).saturating_sub(step.absorbed);
        if frames > 0 || step.absorbed == 0 {
            run.frames_per_step_x16 = run.frames_per_step_x16 - run.frames_per_step_x16 / 4 + frames * 4;
        }
        if let Some(times) = &times {
            run.ahead.learn(frames, times.used_us);
        }
        // A step that only folded took no time of the worker's.
        let folded_only = step.absorbed > 0 && step.running_since_us.is_none();
        let times = times.or_else(|| folded_only.then(|| StepTimes::at(now_us, self.worker.cpu_us)));
        let nothing_new = step.entries.is_empty() && step.partial == run.partial && step.base == run.fold.head();
        let started_from = step.attempt.step;
        let times = times.map(|times| StepTiming {
            r_limit_us: self.config.chain.r_limit_us(),
            used_us: times.used_us,
            busy_us: times.busy_us,
            units: times.units,
            claim_us: times.first_unit_start_us.saturating_sub(step.open_since_us),
            commit_us: 0,
            first_unit_at_us: times.first_unit_start_us,
            last_unit_at_us: times.last_unit_end_us,
            worker_cpu_us: times.cpu_us,
        });
        self.worker.busy_us += times.map_or(0, |times| times.used_us);
        let result = if nothing_new {
            started_from
        } else {
            let folded = self.fold_own(chain, step.base, step.entries, step.partial)?;
            if let Some(pending) = self.chains.get_mut(chain).and_then(|run| run.pending.as_mut()) {
                pending.timing = times;
            }
            folded.unwrap_or(started_from)
        };
        log::debug!(chain:% = chain, from:% = started_from.version, to:% = result.version, end:? = end; "step ended");
        Ok(Some(Event::StepEnded { result, end }))
    }

    pub(super) fn worker_gone(&mut self, how: &str) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        let was_ready = self.worker.ready;
        self.worker.kill_at_us = u64::MAX;
        self.worker.ready = false;
        if self.stopping {
            return self.end_work(StepEnd::Abandoned);
        }
        self.counters.worker_restarts += 1;
        // What it said itself says more than how it ended.
        let why = if self.worker.trouble.is_empty() { how.to_owned() } else { self.worker.trouble.clone() };
        if was_ready {
            log::warn!("{why}: starting another");
            self.spawn_worker(now_us);
        } else {
            log::error!("the worker ended before it was ready: {why}; its own messages say more");
            self.worker.retry_later(now_us);
        }
        let end = match self.worker.step_of().and_then(|chain| self.chains.get(chain)?.step.as_ref()) {
            // It was given nothing yet: no unit is to blame.
            Some(step) if step.running_since_us.is_none() => StepEnd::NoInput,
            _ => StepEnd::Died { why },
        };
        self.end_work(end)
    }

    pub(super) fn worker_tick(&mut self, now_us: u64) -> Result<(), NodeError> {
        if self.worker.respawn_at_us <= now_us {
            self.spawn_worker(now_us);
        }
        if self.worker.kill_at_us <= now_us && !self.worker.ready {
            self.world.kill_worker();
            // That it ends is known.
            self.worker.incarnation += 1;
            self.worker_gone("it took too long to load its models")?;
        }
        if self.worker.kill_is_due(now_us) {
            log::warn!(work:? = self.worker.work; "the worker is killed: it ran beyond its limit");
            self.counters.kills += 1;
            let waited_us = self.world.worker_waited_us().saturating_sub(self.worker.waited_us);
            self.world.kill_worker();
            // What the worker still says belongs to a step that is over.
            self.spawn_worker(now_us);
            if self.worker.work.is_some() {
                let end = self.judge_kill(now_us, waited_us);
                self.end_work(end)?;
            }
        }
        let starved = self.worker.step_of().cloned().filter(|chain| {
            let step = self.chains.get(chain).and_then(|run| run.step.as_ref());
            step.is_some_and(|step| step.running_since_us.is_none() && step.input_deadline_us() <= now_us)
        });
        match starved {
            Some(chain) => {
                self.counters.steps_without_input += 1;
                self.end_and_drive(&chain, StepEnd::NoInput)
            }
            None => Ok(()),
        }
    }

    /// Ends what the worker was at, for a reason of the worker's.
    fn end_work(&mut self, end: StepEnd) -> Result<(), NodeError> {
        match self.worker.work.clone() {
            Some(Work::Step(chain)) => self.end_and_drive(&chain, end),
            Some(Work::Ahead(chain)) => self.failed_ahead(&chain, &end),
            None => Ok(()),
        }
    }

    fn end_and_drive(&mut self, chain: &Name, end: StepEnd) -> Result<(), NodeError> {
        let event = self.end_step(chain, end, None)?;
        self.drive_some(chain, event)?;
        self.wake_others(chain)
    }

    /// The worker may be free again: other chains have waited for it.
    pub(super) fn wake_others(&mut self, but: &Name) -> Result<(), NodeError> {
        self.drop_pending(but);
        for name in self.chains_by_turn().into_iter().filter(|name| name != but) {
            self.drive(&name, Event::Tick)?;
        }
        Ok(())
    }

    pub(super) fn stop_running_step(&mut self) {
        if self.worker.work.is_some() {
            self.world.send_to_worker(&ToWorker::Stop);
        }
    }

    /// The running unit does not end in time: it is given up, what was done before it is kept.
    pub(super) fn abandon_running_step(&mut self) -> Result<(), NodeError> {
        self.end_work(StepEnd::Abandoned)
    }
}

impl ChainRun {
    /// What was begun of a frame that is lost, as its camera says by a restart, is of a generation that is over.
    fn leave_what_was_lost(&mut self) {
        let cursor = self.step.as_ref().map(Step::cursor);
        let is_lost = cursor.and_then(|cursor| self.buffered(cursor)).is_some_and(|buffered| buffered.is_restart());
        if let Some(step) = self.step.as_mut().filter(|_| is_lost) {
            step.partial = None;
        }
    }

    /// Records that follow the step's last one, and need no worker: analysed ahead, or no frames.
    fn take_what_needs_no_worker(&mut self) {
        // Frames that the worker has not finished are not its any more.
        if let Some(step) = &mut self.step {
            step.fed.clear();
        }
        self.leave_what_was_lost();
        loop {
            self.absorb();
            let Some(sequence) = self.step.as_ref().filter(|step| step.partial.is_none()).map(Step::cursor) else {
                return;
            };
            let record = self.buffered(sequence).map(|buffered| buffered.record.clone());
            let Some(record) = record.filter(|record| !matches!(record, Record::Frame { .. })) else { return };
            if let Some(step) = &mut self.step {
                step.entries.push(Entry { sequence, record, analysis: None, engine: String::new() });
            }
        }
    }
}

/// Frames of a step that were finished.
fn frames_in(entries: &[Entry]) -> u64 {
    entries.iter().filter(|entry| matches!(entry.record, Record::Frame { .. })).count() as u64
}
