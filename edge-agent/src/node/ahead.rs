//! Analysing ahead: while another node runs the chain's step, a node whose worker is free looks at frames further on, and tells
//! what it found. Whoever folds them finds their analyses there, and needs no worker.
//!
//! Only finite jobs, and never while a live chain waits. An invocation ahead is bounded like a step's and killed like it, but a
//! unit that fails in it is nobody's failure: the frame is left to the chain's own order, which finds out whom to blame.

use microlambda::fanout::Outlook;
use microlambda::sabotage::{self, Sabotage};
use microlambda::{Event, Phase, StepEnd, Version};
use microlambda_faces::content::{Ahead, Entry};
use microlambda_faces::proto::{StepTimes, ToWorker};
use microlambda_faces::{Analysis, FaceOutcome};
use microlambda_wire::{AheadNote, Blob, ChainClass, Name, Record, Topic};

use super::ahead_of::{AheadEnd, HELD_LEN_MAX};
use super::chain_run::{ChainRun, Step};
use super::invocation::NextFeed;
use super::slot::Work;
use super::{Node, NodeError, World};
use crate::store::Store;

/// A peer's word on what it works on is believed for so long at most, µs: the longest lease of a step's first claim.
const WORD_US_MAX: u64 = 120_000_000;
/// A chain that has not moved for so many leases waits for nobody's analyses: whoever said that they come may be wrong.
const PATIENCE_LEASES: u64 = 2;

impl<S: Store, W: World> Node<S, W> {
    /// Puts a worker that is free on a finite chain's next frames, if there are any for this node.
    pub(super) fn go_ahead(&mut self) -> Result<(), NodeError> {
        let may_start = self.is_settled() && self.world.is_connected() && !self.stopping;
        if !self.config.chain.fan_out || !self.worker.is_idle() || !may_start {
            return Ok(());
        }
        for name in self.chains_by_turn() {
            let Some(records) = self.next_ahead(&name) else { continue };
            if !self.worker.reserve(Work::Ahead(name.clone())) {
                return Ok(());
            }
            let (now_us, id) = (self.world.now_us(), self.next_step);
            self.next_step += 1;
            if let Some(run) = self.chains.get_mut(&name) {
                run.ahead.begin(id, records, now_us);
            }
            self.say_ahead(&name, true);
            return self.pump_ahead(&name);
        }
        Ok(())
    }

    /// What this node would take of a chain now.
    fn next_ahead(&self, name: &Name) -> Option<std::ops::Range<u64>> {
        let now_us = self.world.now_us();
        let run = self.chains.get(name).filter(|run| run.class == ChainClass::Batch)?;
        let chain = &run.chain;
        let idle = *chain.phase() == Phase::Idle && chain.has_work() && !chain.is_behind_input();
        let at_start = chain.head().version == Version::default();
        if !idle || chain.is_fetching() || chain.takes_over() || !run.ahead.may_begin(at_start, now_us) {
            return None;
        }
        let peers = self.live_peers();
        if peers.len() < 2 || self.is_others_turn(name) {
            return None;
        }
        let nodes: Vec<&str> = peers.iter().map(|peer| peer.node.as_str()).collect();
        let claim = chain.claimed_by();
        // What is here will be folded before a worker is needed.
        let cursor = run.ahead.first_not_held(claim.map_or(0, |(_, step)| step.sequence).max(run.boundary()));
        let closed = |sequence| run.ahead.is_closed(sequence);
        let records = run.ahead.fanout.next(&Outlook {
            chain: name.as_str(),
            node: self.name.as_str(),
            nodes: &nodes,
            claimer: claim.map(|(node, _)| node),
            cursor,
            end: chain.input_next(),
            closed: &closed,
            batch: run.ahead.batch(self.config.chain.r_limit_us()),
            begun: run.ahead.begun(),
            now_us,
        })?;
        (records.end <= run.boundary().saturating_add(HELD_LEN_MAX)).then_some(records)
    }

    /// Tells what this node works on ahead of a chain, and what it has found since it last did.
    fn say_ahead(&mut self, name: &Name, afresh: bool) {
        let lease_ms = u32::try_from(self.lease_us() / 1_000).unwrap_or(u32::MAX);
        let Some((records, parts)) = self.chains.get_mut(name).and_then(|run| run.ahead.news(afresh)) else { return };
        let mut found: Vec<Option<Blob>> = Vec::new();
        for part in parts {
            match part.to_bytes() {
                Ok(bytes) => found.push(Some(Blob(bytes))),
                Err(error) => log::error!(chain:% = name; "analyses are not told: {error}"),
            }
        }
        if found.is_empty() {
            found.push(None);
        }
        for found in found {
            let note = AheadNote {
                chain: name.clone(),
                node: self.name.clone(),
                boot: self.boot.clone(),
                lambda: self.lambda,
                from: records.start,
                count: u32::try_from(records.end - records.start).unwrap_or(u32::MAX),
                lease_ms,
                found,
            };
            self.publish(&Topic::Ahead { chain: name.clone() }, &note, false);
        }
    }

    /// Hands the next frames of an invocation ahead on, as far as they are here.
    pub(super) fn pump_ahead(&mut self, name: &Name) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        let Some(run) = self.chains.get_mut(name) else { return Ok(()) };
        let Some(ahead) = run.ahead.run.as_ref() else { return Ok(()) };
        if !ahead.invocation.is_running() {
            match run.buffered(ahead.invocation.next_feed).map(|buffered| &buffered.record) {
                Some(Record::Frame { .. }) => {}
                // Nothing to analyse, and nothing behind it that is any nearer.
                Some(Record::Gap { .. } | Record::End { .. } | Record::Restart { .. }) => {
                    let at = ahead.invocation.next_feed;
                    run.ahead.leave(at);
                    return self.end_ahead(name, AheadEnd::Finished, None);
                }
                None => {
                    self.want_frames(name, now_us);
                    return Ok(());
                }
            }
            if !self.start_invocation(&Work::Ahead(name.clone()), u32::MAX) {
                return self.end_ahead(name, AheadEnd::NoInput, None);
            }
        }
        self.feed_ahead(name);
        self.want_frames(name, now_us);
        Ok(())
    }

    /// Hands on the frames that the invocation ahead is for.
    fn feed_ahead(&mut self, name: &Name) {
        let Some(run) = self.chains.get_mut(name) else { return };
        let Some(mut ahead) = run.ahead.run.take() else { return };
        let end = ahead.records.end;
        // Where a peer was faster, the frame is passed over, but for the last one: with that it ends.
        let last = end.saturating_sub(1);
        let next = |from: u64| {
            let sequence = (from..last).find(|at| !run.ahead.holds(*at)).unwrap_or(from.max(last));
            let more = sequence.saturating_add(1) < end;
            NextFeed { sequence, is_over: sequence >= end || run.ahead.holds(sequence), more }
        };
        let send = |message: &ToWorker| self.world.send_to_worker(message);
        let accepted = ahead.invocation.feed(next, |sequence| run.buffered(sequence), send);
        run.ahead.run = Some(ahead);
        if !accepted {
            self.kill_unresponsive_worker(name);
        }
    }

    /// A unit of the invocation ahead has ended, `finished` its frame, and `picture` is of its last face.
    pub(super) fn ahead_advanced(
        &mut self,
        name: &Name,
        sequence: u64,
        finished: Option<Entry>,
        picture: Option<(u32, Vec<u8>)>,
    ) -> Result<(), NodeError> {
        let params = self.params;
        let Some(run) = self.chains.get_mut(name) else { return Ok(()) };
        let Some(ahead) = run.ahead.run.as_mut() else { return Ok(()) };
        ahead.thumbnails.extend(picture);
        if let Some(entry) = finished {
            let mut thumbnails = std::mem::take(&mut ahead.thumbnails);
            ahead.finished += 1;
            self.counters.frames_ahead += 1;
            thumbnails.retain(|(face, _)| run.may_be_new(&entry, *face, &params));
            if sequence >= run.boundary() {
                run.ahead.hold(entry, thumbnails, true);
            }
            run.buffer_drop(sequence);
        }
        self.pump_ahead(name)
    }

    /// Ends the invocation ahead, folds what can be folded, and goes on with what comes first now.
    pub(super) fn end_ahead(&mut self, name: &Name, end: AheadEnd, times: Option<StepTimes>) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        self.worker.release(&Work::Ahead(name.clone()));
        if let Some(run) = self.chains.get_mut(name) {
            if let (Some(times), Some(ahead)) = (&times, run.ahead.run.as_ref()) {
                self.worker.busy_us += times.used_us;
                run.ahead.learn(ahead.finished, times.used_us);
            }
            run.ahead.end(end, now_us);
            log::debug!(chain:% = name, end:? = end; "invocation ahead ended");
        }
        // Where the chain has to wait for a peer, the worker need not wait for this node's transactions.
        let lease_us = self.lease_us();
        let waits = |run: &ChainRun| run.is_left_to_peer(run.ahead.first_not_held(run.boundary()), lease_us, now_us);
        if self.chains.get(name).is_some_and(waits) {
            self.go_ahead()?;
        }
        self.drive(name, Event::Tick)?;
        self.wake_others(name)?;
        self.go_ahead()?;
        self.say_ahead(name, false);
        Ok(())
    }

    /// A peer tells what it works on, and what it has found.
    pub(super) fn ahead(&mut self, note: AheadNote) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        if note.node == self.name {
            return Ok(());
        }
        if let Some(peer) = self.peers.get_mut(&note.node) {
            peer.heard_at_us = now_us;
        }
        if note.lambda != self.lambda {
            self.counters.other_lambda += 1;
            return Ok(());
        }
        let Some(run) = self.chains.get_mut(&note.chain).filter(|run| run.class == ChainClass::Batch) else {
            return Ok(());
        };
        let records = note.from..note.from.saturating_add(note.count.into());
        let until_us = now_us.saturating_add((u64::from(note.lease_ms) * 1_000).min(WORD_US_MAX));
        run.ahead.fanout.takes(note.node.as_str(), records, until_us);
        if let Some(found) = note.found {
            match Ahead::from_bytes(&found.0) {
                Ok(found) => run.keep_ahead(found),
                Err(error) => self.refuse(&format!("ahead of {}", note.chain), &error),
            }
        }
        self.drive(&note.chain, Event::Tick)?;
        let event = self.pump(&note.chain)?;
        self.drive_some(&note.chain, event)
    }

    /// A node is gone: what it works on comes from nobody.
    pub(super) fn forget_ahead_of(&mut self, node: &Name) {
        for run in self.chains.values_mut() {
            run.ahead.fanout.forget(node.as_str());
        }
    }

    /// Gives up an invocation whose frames do not come, and ends one for which a step of a node that is gone would wait.
    pub(super) fn ahead_tick(&mut self, now_us: u64) -> Result<(), NodeError> {
        let Some(name) = self.worker.ahead_of().cloned() else { return Ok(()) };
        let takes_over = self.chains.values().any(|run| run.chain.takes_over() && !run.waits_for_silent_camera(now_us));
        let Some(ahead) = self.chains.get_mut(&name).and_then(|run| run.ahead.run.as_mut()) else { return Ok(()) };
        if ahead.invocation.input_deadline_us().is_some_and(|deadline_us| deadline_us <= now_us) {
            return self.end_ahead(&name, AheadEnd::NoInput, None);
        }
        if ahead.invocation.is_running() && takes_over && !ahead.told_to_stop {
            ahead.told_to_stop = true;
            self.world.send_to_worker(&ToWorker::Stop);
        }
        Ok(())
    }
}

impl From<&StepEnd> for AheadEnd {
    fn from(end: &StepEnd) -> Self {
        match end {
            StepEnd::Finished | StepEnd::Abandoned => Self::Finished,
            StepEnd::Prepared => Self::Prepared,
            StepEnd::NoInput => Self::NoInput,
            StepEnd::TooLarge | StepEnd::Overran | StepEnd::Died { .. } => Self::Failed,
        }
    }
}

impl ChainRun {
    /// The record that the next step begins with: behind content that waits for the chain's decision, if there is any.
    pub(super) fn next_step_at(&self) -> u64 {
        self.pending.as_ref().map_or(self.boundary(), |pending| pending.delta.head.version.sequence)
    }

    /// Whether a record's analysis is to be waited for: a peer works on it, and the chain has not waited for long.
    pub(super) fn is_left_to_peer(&self, sequence: u64, lease_us: u64, now_us: u64) -> bool {
        let patient = now_us < self.patience_us(lease_us);
        patient && self.ahead.fanout.taker(sequence, now_us).is_some()
    }

    /// Until when peers are waited for, µs.
    pub(super) fn patience_us(&self, lease_us: u64) -> u64 {
        self.open_since_us.saturating_add(PATIENCE_LEASES.saturating_mul(lease_us))
    }

    /// What the camera is told to be committed: never what is only analysed, which may be lost with this process.
    pub(super) fn committed(&self) -> u64 {
        if sabotage::is_chosen(Sabotage::ReportAhead) {
            return self.ahead.first_not_held(self.boundary());
        }
        self.boundary()
    }

    /// Moves analyses that are here, from the step's place on, into the step.
    pub(super) fn absorb(&mut self) {
        let place = |step: &Step| Some(step.cursor()).filter(|cursor| !step.invocation.is_at(*cursor));
        while let Some(sequence) = self.step.as_ref().and_then(place) {
            let Some((entry, thumbnails)) = self.ahead.take(sequence) else { return };
            // The camera's own word counts.
            let same = self.buffered(sequence).is_none_or(|buffered| buffered.record == entry.record);
            let Some(step) = self.step.as_mut().filter(|_| same) else { return };
            step.entries.push(entry);
            step.absorbed += 1;
            let cursor = step.cursor();
            step.invocation.pass_over_to(cursor);
            for (face, jpeg) in thumbnails {
                self.keep_picture(sequence, face, jpeg);
            }
        }
    }

    /// Keeps a peer's analyses as far as they lie ahead, near enough, and are of the frames that this node knows.
    fn keep_ahead(&mut self, found: Ahead) {
        let near = self.boundary()..self.boundary().saturating_add(HELD_LEN_MAX);
        for entry in found.entries {
            let sequence = entry.sequence;
            let same = self.buffered(sequence).is_none_or(|buffered| buffered.record == entry.record);
            let own = found.thumbnails.iter().filter(|picture| picture.at.sequence == sequence);
            let own = own.map(|picture| (picture.at.face_index, picture.jpeg.clone())).collect();
            if near.contains(&sequence) && same {
                self.ahead.hold(entry, own, false);
            }
        }
    }

    /// Whether a face may be of somebody who is not known yet: only then is its picture of use to whoever folds it.
    fn may_be_new(&self, entry: &Entry, face: u32, params: &microlambda_faces::FaceParams) -> bool {
        let Some(Analysis::Frame(frame)) = &entry.analysis else { return false };
        let Some(face) = frame.faces.get(face as usize) else { return false };
        let FaceOutcome::Encoded(encoding) = &face.outcome else { return false };
        let known = self.fold.gallery().nearest(encoding).is_some_and(|(_, distance)| distance <= params.distance_max);
        face.seen.score >= params.new_person_score_min && !known
    }
}
