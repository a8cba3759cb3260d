//! Steps on the worker: started, fed, listened to, killed at `r_limit`.

use microlambda::{Attempt, Event, StepEnd, StepMode};
use microlambda_faces::content::{Entry, PartialEntry};
use microlambda_faces::proto::{FromWorker, PROTOCOL, StepTimes, ToWorker};
use microlambda_wire::{Name, Record, StepTiming};

use super::ahead_of::AheadEnd;
use super::chain_run::{ChainRun, Step};
use super::invocation::{Invocation, NextFeed};
use super::slot::{Overrun, Work};
use super::{Node, NodeError, World};
use crate::store::Store;
use crate::worker::WorkerEvent;

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
        let partial = begun.or_else(|| run.partial.as_ref().map(|begun| begun.partial.clone()));
        run.step = Some(Step {
            attempt,
            invocation: Invocation::new(id, sequence, partial, now_us),
            base,
            entries: Vec::new(),
            open_since_us: run.open_since_us,
            absorbed: 0,
        });
        for (face, jpeg) in thumbnails {
            run.keep_picture(sequence, face, jpeg);
        }
        if run.ahead.holds(sequence) {
            // What is here is folded without the worker, which may be at something else.
            return self.end_step(chain, StepEnd::Finished, None);
        }
        if !self.worker.reserve(Work::Step(chain.clone())) {
            // It was free when the chain asked for it, and is not any more.
            return self.end_step(chain, StepEnd::NoInput, None);
        }
        self.pump(chain)
    }

    /// Hands the step's next records on, as far as they are here. A returned event is to be fed to the chain.
    pub(super) fn pump(&mut self, chain: &Name) -> Result<Option<Event>, NodeError> {
        let now_us = self.world.now_us();
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        run.absorb();
        let Some(step) = run.step.as_ref() else { return Ok(None) };
        if !step.invocation.is_running() {
            if !step.entries.is_empty() {
                return self.end_step(chain, StepEnd::Finished, None);
            }
            match run.buffered(step.invocation.next_feed).map(|buffered| &buffered.record) {
                None => {
                    self.want_frames(chain, now_us);
                    return Ok(None);
                }
                Some(Record::Gap { .. } | Record::End { .. } | Record::Restart { .. }) => {
                    return self.end_step(chain, StepEnd::Finished, None);
                }
                Some(Record::Frame { .. }) => {}
            }
            let units_max = if step.attempt.mode == StepMode::OneUnit { 1 } else { u32::MAX };
            if !self.start_invocation(&Work::Step(chain.clone()), units_max) {
                return self.end_step(chain, StepEnd::NoInput, None);
            }
        }
        self.feed_step(chain, now_us);
        self.want_frames(chain, now_us);
        Ok(None)
    }

    /// Hands on the frames that this step is to do.
    fn feed_step(&mut self, chain: &Name, now_us: u64) {
        let lease_us = self.lease_us();
        let Some(run) = self.chains.get_mut(chain) else { return };
        let Some(mut step) = run.step.take() else { return };
        let input_next = run.chain.input_next();
        // What others have analysed is passed over; what they are at ends the step, but for the record that was claimed.
        let claimed = step.base.version.sequence;
        let others = |sequence| sequence != claimed && run.is_left_to_peer(sequence, lease_us, now_us);
        let ends_at = |sequence| sequence >= input_next || others(sequence);
        let next = |from| {
            let sequence = run.ahead.first_not_held(from);
            let more = !ends_at(run.ahead.first_not_held(sequence.saturating_add(1)));
            NextFeed { sequence, is_over: ends_at(sequence), more }
        };
        let send = |message: &ToWorker| self.world.send_to_worker(message);
        let accepted = step.invocation.feed(next, |sequence| run.buffered(sequence), send);
        run.step = Some(step);
        if !accepted {
            self.kill_unresponsive_worker(chain);
        }
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
        if !self.worker.is_current(incarnation) {
            return Ok(());
        }
        if message.is_ok() && self.worker.says_too_much() {
            self.counters.worker_nonsense += 1;
            self.world.kill_worker();
            // That it ends is known.
            self.worker.next_incarnation();
            return self.worker_gone("the worker says too much with nothing to do");
        }
        match message {
            Ok(FromWorker::Ready { protocol, engine, load_us }) => self.worker_ready(protocol, engine, load_us),
            Ok(FromWorker::Tried { units }) => {
                self.worker.pace.tried(&units);
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
        self.worker.became_ready(engine);
        self.status_at_us = 0;
        for name in self.chains_by_turn() {
            self.drive(&name, Event::Tick)?;
        }
        Ok(())
    }

    /// A unit of the running step has ended, `finished` its frame, and `picture` is of its last face.
    pub(super) fn step_advanced(
        &mut self,
        chain: &Name,
        sequence: u64,
        finished: Option<Entry>,
        picture: Option<(u32, Vec<u8>)>,
    ) -> Result<(), NodeError> {
        let Some(run) = self.chains.get_mut(chain) else { return Ok(()) };
        if let (Some(step), Some(entry)) = (run.step.as_mut(), finished) {
            step.entries.push(entry);
            run.buffer_drop(sequence);
        }
        if let Some((face, jpeg)) = picture {
            run.keep_picture(sequence, face, jpeg);
        }
        let event = self.pump(chain)?;
        self.drive_some(chain, event)
    }

    /// The worker has ended the running step.
    pub(super) fn step_stopped(&mut self, chain: &Name, end: StepEnd, times: StepTimes) -> Result<(), NodeError> {
        self.counters.steps += 1;
        let Some(event) = self.end_step(chain, end, Some(times))? else { return Ok(()) };
        self.drive(chain, event)?;
        self.wake_others(chain)
    }

    /// Ends the running step and folds what it reached. The event returned tells the chain.
    fn end_step(&mut self, chain: &Name, end: StepEnd, times: Option<StepTimes>) -> Result<Option<Event>, NodeError> {
        let now_us = self.world.now_us();
        // What the worker has prepared is lost with its next step for another chain.
        if self.worker.release(&Work::Step(chain.clone())) && end != StepEnd::Prepared {
            self.had_worker(chain);
        }
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
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
        let folded_only = step.absorbed > 0 && !step.invocation.is_running();
        let times = times.or_else(|| folded_only.then(|| StepTimes::at(now_us, self.worker.cpu_us)));
        let sequence = step.cursor();
        let partial = step.invocation.partial.map(|partial| PartialEntry { sequence, partial });
        let nothing_new = step.entries.is_empty() && partial == run.partial && step.base == run.fold.head();
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
            let folded = self.fold_own(chain, step.base, step.entries, partial)?;
            if let Some(pending) = self.chains.get_mut(chain).and_then(|run| run.pending.as_mut()) {
                pending.timing = times;
            }
            folded.unwrap_or(started_from)
        };
        log::debug!(chain:% = chain, from:% = started_from.version, to:% = result.version, end:? = end; "step ended");
        Ok(Some(Event::StepEnded { result, end }))
    }

    /// This chain has had the worker: those that have waited for it longer come first from now on.
    fn had_worker(&mut self, chain: &Name) {
        let now_us = self.world.now_us();
        if let Some(run) = self.chains.get_mut(chain) {
            run.worked_at_us = now_us;
        }
    }

    pub(super) fn worker_gone(&mut self, how: &str) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        let was_ready = self.worker.is_ready();
        let work = self.worker.lost();
        if self.stopping {
            return self.end_work(work, StepEnd::Abandoned);
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
        let step = match &work {
            Some(Work::Step(chain)) => self.chains.get(chain).and_then(|run| run.step.as_ref()),
            Some(Work::Ahead(_)) | None => None,
        };
        // It was given nothing yet: no unit is to blame.
        let never_started = step.is_some_and(|step| !step.invocation.is_running());
        let end = if never_started { StepEnd::NoInput } else { StepEnd::Died { why } };
        self.end_work(work, end)
    }

    pub(super) fn worker_tick(&mut self, now_us: u64) -> Result<(), NodeError> {
        if self.worker.respawn_is_due(now_us) {
            self.spawn_worker(now_us);
        }
        if self.worker.loads_too_long(now_us) {
            self.world.kill_worker();
            // That it ends is known.
            self.worker.next_incarnation();
            self.worker_gone("it took too long to load its models")?;
        }
        if let Some(Overrun { work, limit }) = self.worker.take_overrun(now_us) {
            log::warn!(work:? = work; "the worker is killed: it ran beyond its limit");
            self.counters.kills += 1;
            let waited_us = self.world.worker_waited_us().saturating_sub(self.worker.waited_us);
            self.world.kill_worker();
            // What the worker still says belongs to a step that is over.
            self.spawn_worker(now_us);
            if let Some(work) = work {
                let end = self.judge_kill(now_us, &work, limit, waited_us);
                self.end_work(Some(work), end)?;
            }
        }
        let starved = self.worker.step_of().cloned().filter(|chain| {
            let step = self.chains.get(chain).and_then(|run| run.step.as_ref());
            let deadline_us = step.and_then(|step| step.invocation.input_deadline_us());
            deadline_us.is_some_and(|deadline_us| deadline_us <= now_us)
        });
        match starved {
            Some(chain) => {
                self.counters.steps_without_input += 1;
                self.end_and_drive(&chain, StepEnd::NoInput)
            }
            None => Ok(()),
        }
    }

    /// Ends what the worker was at when it was lost, or when that was given up.
    fn end_work(&mut self, work: Option<Work>, end: StepEnd) -> Result<(), NodeError> {
        match work {
            Some(Work::Step(chain)) => {
                self.had_worker(&chain);
                self.end_and_drive(&chain, end)
            }
            Some(Work::Ahead(chain)) => self.end_ahead(&chain, AheadEnd::from(&end), None),
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
        if self.worker.work().is_some() {
            self.world.send_to_worker(&ToWorker::Stop);
        }
    }

    /// The running unit does not end in time: it is given up, what was done before it is kept.
    pub(super) fn abandon_running_step(&mut self) -> Result<(), NodeError> {
        let work = self.worker.give_up();
        self.end_work(work, StepEnd::Abandoned)
    }
}

impl ChainRun {
    /// What was begun of a frame that is lost, as its camera says by a restart, is of a generation that is over.
    fn leave_what_was_lost(&mut self) {
        let cursor = self.step.as_ref().map(Step::cursor);
        let is_lost = cursor.and_then(|cursor| self.buffered(cursor)).is_some_and(|buffered| buffered.is_restart());
        if let Some(step) = self.step.as_mut().filter(|_| is_lost) {
            step.invocation.partial = None;
        }
    }

    /// Records that follow the step's last one, and need no worker: analysed ahead, or no frames.
    fn take_what_needs_no_worker(&mut self) {
        if let Some(step) = &mut self.step {
            step.invocation.take_back();
        }
        self.leave_what_was_lost();
        loop {
            self.absorb();
            let step = self.step.as_ref().filter(|step| step.invocation.partial.is_none());
            let Some(sequence) = step.map(Step::cursor) else { return };
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
