//! Content becomes durable, and then visible.

use microlambda::sabotage::{self, Sabotage};
use microlambda::{Attempt, Claim, Commit, Event, Head, Version};
use microlambda_faces::content::{Delta, Entry, PartialEntry};
use microlambda_faces::fold::{FoldState, Folded, event_id};
use microlambda_faces::{Analysis, FaceOutcome, FrameAnalysis};
use microlambda_wire::{
    Blob, ClaimNote, Continuation, DONE_PEOPLE_MAX, DoneNote, EventKind, EventNote, FaceNote, FrameSummary, Name,
    Record, SetAsideNote, Topic, UnitFailure,
};

use microlambda_runtime::Message;

use super::chain_run::{Announcement, Pending};
use super::{ASKED_US, Node, NodeError, World};
use crate::store::{Advance, Store};

/// Units set aside that the node's status names at most; the database has all.
const SET_ASIDE_TOLD_MAX: usize = 8;
/// Frames named in a continuation at most.
const SUMMARIES_MAX: usize = 64;

/// A state folded on trial, and what each entry gave.
type Trial = (FoldState, Vec<Folded>);

impl<S: Store, W: World> Node<S, W> {
    /// Folds a delta and keeps the result in `pending`; false (and the state unchanged) if it does not lead where it says.
    pub(super) fn fold_on_trial(&mut self, chain: &Name, delta: Delta) -> Result<bool, NodeError> {
        match self.try_fold(chain, &delta)? {
            Ok((fold, folded)) => {
                if let Some(run) = self.chains.get_mut(chain) {
                    run.pending = Some(Pending { fold, folded, delta, timing: None });
                }
                Ok(true)
            }
            Err(why) => {
                self.counters.deltas_refused += 1;
                log::warn!(chain:% = chain; "content refused: it {why}");
                Ok(false)
            }
        }
    }

    fn try_fold(&mut self, chain: &Name, delta: &Delta) -> Result<Result<Trial, String>, NodeError> {
        let fold = self.fold_at(chain, delta.parent.version.sequence)?;
        Ok(fold.and_then(|mut fold| {
            let folded = fold.apply(delta).map_err(|error| error.to_string());
            folded.map(|folded| (fold, folded))
        }))
    }

    /// The folded state before record `sequence`: the current one is lent, an older one is read from the store. Inside: why there
    /// is none, if it is not the store that fails.
    pub(super) fn fold_at(&mut self, chain: &Name, sequence: u64) -> Result<Result<FoldState, String>, NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(Err("is of a chain that is not open".into())) };
        if run.boundary() == sequence {
            return Ok(Ok(run.fold.clone()));
        }
        let Some(boundary) = self.store.boundary(chain, sequence)? else {
            return Ok(Err(format!("starts at record {sequence}, which is not folded here")));
        };
        let gallery = self.store.gallery_at(chain, sequence)?;
        Ok(Ok(FoldState::restore(self.params, boundary, gallery)))
    }

    /// Forgets content that the chain did not take.
    pub(super) fn drop_pending(&mut self, chain: &Name) {
        if let Some(run) = self.chains.get_mut(chain) {
            run.pending = None;
        }
    }

    /// Carries out [`microlambda::Effect::Persist`].
    pub(super) fn persist(&mut self, chain: &Name, commit: Commit) -> Result<Event, NodeError> {
        let own = self.name.to_string();
        let committed = match commit {
            Commit::Attempt(attempt) => {
                self.store.begin(chain, &attempt)?;
                return Ok(self.unchanged(chain, Some(attempt)));
            }
            Commit::Result { then, .. } => self.commit_pending(chain, &own, then)?,
            Commit::Adopt { then, .. } => {
                let holder = self.announcer.take().unwrap_or_default();
                if then.is_some() {
                    self.want_ahead(chain);
                }
                self.commit_pending(chain, &holder, then)?
            }
            Commit::Withdraw => {
                self.store.withdraw(chain)?;
                None
            }
            Commit::Failure { times, why, .. } => {
                self.counters.unit_failures += 1;
                if let Some(head) = self.chains.get(chain).map(|run| run.chain.head()) {
                    self.store.fail(chain, &head, times, &why)?;
                }
                None
            }
            Commit::SetAside { at, why } => {
                if self.fold_without_unit(chain, &why)? {
                    self.counters.units_set_aside += 1;
                    self.tell_set_aside(SetAsideNote { chain: chain.clone(), version: at.version, why: why.clone() });
                    log::warn!(chain:% = chain; "a unit is set aside: {why}");
                    self.commit_pending(chain, &own, None)?
                } else {
                    self.want_record(chain);
                    None
                }
            }
        };
        Ok(committed.unwrap_or_else(|| self.unchanged(chain, None)))
    }

    fn unchanged(&self, chain: &Name, attempt: Option<Attempt>) -> Event {
        let run = self.chains.get(chain);
        let head = run.map_or(Head::genesis(self.lambda), |run| run.chain.head());
        let done = run.is_some_and(|run| run.chain.is_done());
        Event::Committed { head, attempt, done, holder: run.and_then(|run| run.chain.holder().map(str::to_owned)) }
    }

    /// Makes pending content durable. `None` if there is none, or it does not beat the head.
    pub(super) fn commit_pending(
        &mut self,
        chain: &Name,
        holder: &str,
        then: Option<Attempt>,
    ) -> Result<Option<Event>, NodeError> {
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        let Some(pending) = run.pending.take() else { return Ok(None) };
        let Pending { fold, folded, delta, timing } = pending;
        if !delta.head.beats(&run.chain.head()) {
            return Ok(None);
        }
        // Records that are here already, with the same digests, stay as they are; from the first other one on they are replaced.
        let boundary = run.boundary();
        let mut entries: Vec<(&Entry, &Folded)> = delta.entries.iter().zip(&folded).collect();
        let mut from_sequence = delta.parent.version.sequence;
        while let Some((entry, folded)) = entries.first().filter(|(entry, _)| entry.next_sequence() <= boundary) {
            let held = self.store.boundary(chain, entry.next_sequence())?;
            if held.is_none_or(|held| held.digest != folded.head.digest) {
                break;
            }
            from_sequence = entry.next_sequence();
            entries.remove(0);
        }
        if from_sequence < boundary {
            self.counters.suffixes_replaced += 1;
            log::warn!(chain:% = chain, from_sequence; "another branch of the chain wins: its records replace ours from here on");
        }
        let fresh: Vec<(Entry, Folded)> =
            entries.iter().map(|(entry, folded)| ((*entry).clone(), (*folded).clone())).collect();
        if sabotage::is_chosen(Sabotage::PublishBeforeCommit) && holder == self.name.as_str() {
            let note = Continuation {
                chain: chain.clone(),
                node: self.name.clone(),
                boot: self.boot.clone(),
                lambda: self.lambda,
                origin: None,
                parent: delta.parent,
                head: delta.head,
                delta: None,
                again: true,
                timing: None,
                frames: Vec::new(),
            };
            self.publish(&Topic::Continuation { chain: chain.clone() }, &note, false);
        }
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        let started_us = self.world.now_us();
        self.store.advance(&Advance {
            chain,
            from_sequence,
            entries,
            partial: delta.partial.as_ref(),
            head: delta.head,
            holder,
            fold: &fold,
            thumbnails: run.pictures(),
            then,
        })?;
        let now_us = self.world.now_us();
        self.counters.commits += 1;
        let done = folded.last().map_or(run.chain.is_done(), |folded| folded.done);
        run.fold = fold;
        run.partial = delta.partial.clone();
        run.staged = None;
        run.open_since_us = now_us;
        run.trim();
        run.ahead.moved_to(run.boundary());
        let own = holder == self.name.as_str();
        if own {
            let inline_bytes_max = (self.config.chain.inline_kb as usize) << 10;
            run.announcement = Announcement {
                delta: delta.to_bytes().ok().filter(|bytes| bytes.len() <= inline_bytes_max).unwrap_or_default(),
                timing: timing.map(|timing| microlambda_wire::StepTiming {
                    commit_us: now_us.saturating_sub(started_us),
                    ..timing
                }),
                frames: delta
                    .entries
                    .iter()
                    .zip(&folded)
                    .filter_map(|(e, f)| summary(e, f))
                    .take(SUMMARIES_MAX)
                    .collect(),
            };
        }
        self.note_events(chain, &fresh, own);
        Ok(Some(Event::Committed { head: delta.head, attempt: then, done, holder: Some(holder.to_owned()) }))
    }

    /// Events of records just committed: published right after the continuation if this node made them, else expected from
    /// the node that did.
    fn note_events(&mut self, chain: &Name, fresh: &[(Entry, Folded)], own: bool) {
        let now_us = self.world.now_us();
        let at_us = now_us.saturating_add(self.lease_us());
        if own {
            let forgotten = fresh.iter().flat_map(|(_, folded)| &folded.forgotten);
            self.withdraw_faces(forgotten.map(|first| event_id(chain.as_str(), first.0, first.1)));
        }
        let Some(run) = self.chains.get(chain) else { return };
        let mut events = Vec::new();
        for (entry, folded) in fresh {
            let Record::Frame { captured_at_ms, label, .. } = &entry.record else { continue };
            for sighting in &folded.sightings {
                let Some(kind) = sighting.event else { continue };
                let id = event_id(chain.as_str(), entry.sequence, sighting.face_index);
                let face = event_id(chain.as_str(), sighting.first.0, sighting.first.1);
                let (Ok(id), Ok(face)) = (Name::new(id), Name::new(face)) else { continue };
                events.push((
                    sighting.person,
                    EventNote {
                        id,
                        kind,
                        face,
                        camera: run.camera.clone(),
                        chain: chain.clone(),
                        sequence: entry.sequence,
                        face_index: sighting.face_index,
                        captured_at_ms: *captured_at_ms,
                        label: label.clone(),
                    },
                ));
            }
        }
        for (person, event) in events {
            match event.kind {
                EventKind::NewFace => self.counters.new_faces += 1,
                EventKind::Recognised => self.counters.recognised += 1,
            }
            if own || !sabotage::is_chosen(Sabotage::EventsNotRescued) {
                self.book.expect(event.clone(), now_us, at_us);
            }
            if own {
                self.outbox.push((person, event));
            }
        }
    }

    /// Carries out [`microlambda::Effect::PublishHead`]: the continuation, then what the step found.
    pub(super) fn publish_head(&mut self, chain: &Name, parent: Head) -> Result<(), NodeError> {
        let Some(run) = self.chains.get_mut(chain) else { return Ok(()) };
        let announcement = std::mem::take(&mut run.announcement);
        let note = Continuation {
            chain: chain.clone(),
            node: self.name.clone(),
            boot: self.boot.clone(),
            lambda: self.lambda,
            origin: Some(run.origin()),
            parent,
            head: run.chain.head(),
            delta: (!announcement.delta.is_empty()).then_some(Blob(announcement.delta)),
            again: false,
            timing: announcement.timing,
            frames: announcement.frames,
        };
        let done = run.chain.is_done();
        let inline = note.delta.is_some();
        self.publish(&Topic::Continuation { chain: chain.clone() }, &note, false);
        if !inline {
            let peers = self.live_peers().into_iter().map(|peer| peer.node);
            self.owed = peers.filter(|node| *node != *self.name.as_str()).collect();
            self.owed_until_us = self.world.now_us().saturating_add(ASKED_US);
        }
        // Right after a reconnect those who watch may still be on their way back: the book publishes these a little later.
        let settled = self.is_settled();
        for (person, event) in std::mem::take(&mut self.outbox) {
            if settled {
                self.publish(&Topic::Event, &event, false);
            }
            self.publish_face(chain, person)?;
        }
        self.withdraw_tick();
        if done {
            self.publish_done(chain)?;
        }
        Ok(())
    }

    /// Carries out [`microlambda::Effect::Reannounce`].
    pub(super) fn reannounce(&mut self, chain: &Name) -> Result<(), NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(()) };
        let head = run.chain.head();
        let (done, done_on_bus) = (run.chain.is_done(), run.done_on_bus);
        let note = Continuation {
            chain: chain.clone(),
            node: self.name.clone(),
            boot: self.boot.clone(),
            lambda: self.lambda,
            origin: Some(run.origin()),
            parent: head,
            head,
            delta: None,
            again: true,
            timing: None,
            frames: Vec::new(),
        };
        self.publish(&Topic::Continuation { chain: chain.clone() }, &note, false);
        if done && !done_on_bus {
            self.publish_done(chain)?;
        }
        Ok(())
    }

    pub(super) fn reannounce_all(&mut self) -> Result<(), NodeError> {
        let names: Vec<Name> = self.chains.keys().cloned().collect();
        names.iter().try_for_each(|name| match self.chains.get(name) {
            Some(run) if run.chain.head().version > Version::default() => self.reannounce(name),
            _ => Ok(()),
        })
    }

    fn publish_face(&mut self, chain: &Name, person: usize) -> Result<(), NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(()) };
        let Some(known) = run.fold.gallery().person(person) else { return Ok(()) };
        let Ok(face) = Name::new(event_id(chain.as_str(), known.first_sequence, known.first_face_index)) else {
            return Ok(());
        };
        let label = self.store.entries(chain, known.first_sequence, 1)?.0.first().map(|entry| match &entry.record {
            Record::Frame { label, .. } => label.clone(),
            Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => String::new(),
        });
        let note = FaceNote {
            name: String::new(),
            camera: run.camera.clone(),
            chain: chain.clone(),
            first_sequence: known.first_sequence,
            first_seen_ms: known.first_seen_ms,
            last_seen_ms: known.last_seen_ms,
            frames: known.frames,
            label: label.unwrap_or_default(),
            thumbnail: Blob(self.store.thumbnail(face.as_str())?.unwrap_or_default()),
            face: face.clone(),
        };
        self.publish(&Topic::Face { face }, &note, true);
        Ok(())
    }

    /// Takes faces off the bus: a broker is not to keep those of all who ever passed.
    pub(super) fn withdraw_faces(&mut self, ids: impl IntoIterator<Item = String>) {
        self.forgotten.extend(ids.into_iter().filter_map(|id| Name::new(id).ok()));
    }

    /// Withdraws what the connection takes; the rest follows.
    pub(super) fn withdraw_tick(&mut self) {
        while self.world.is_connected()
            && let Some(face) = self.forgotten.pop()
        {
            let topic = Topic::Face { face: face.clone() }.build(&self.prefix);
            if self.world.publish(Message { topic, payload: Vec::new(), retain: true }).is_err() {
                self.forgotten.push(face);
                return;
            }
        }
    }

    fn publish_done(&mut self, chain: &Name) -> Result<(), NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(()) };
        let totals = self.store.totals(chain)?;
        let note = DoneNote {
            chain: chain.clone(),
            camera: run.camera.clone(),
            head: run.chain.head(),
            frames: totals.frames,
            unreadable: totals.unreadable,
            faces_seen: totals.faces_seen,
            people: self
                .store
                .people(chain, DONE_PEOPLE_MAX)?
                .into_iter()
                .filter_map(|id| Name::new(id).ok())
                .collect(),
        };
        let known: Vec<usize> = run.fold.gallery().people.iter().map(|person| person.number).collect();
        known.into_iter().try_for_each(|person| self.publish_face(chain, person))?;
        self.publish(&Topic::Done { chain: chain.clone() }, &note, true);
        Ok(())
    }

    pub(super) fn publish_claim(&mut self, chain: &Name, claim: Claim, failed: Option<UnitFailure>) {
        let note = ClaimNote { chain: chain.clone(), boot: self.boot.clone(), claim, failed };
        self.publish(&Topic::Claim { chain: chain.clone() }, &note, false);
    }

    pub(super) fn publish_failure(&mut self, chain: &Name, at: Version, times: u32, why: String) {
        log::warn!(chain:% = chain, version:% = at, times; "a unit failed here: {why}");
        let claim = Claim { step: at, epoch: 0, node: self.name.to_string(), lease_ms: 0 };
        self.publish_claim(chain, claim, Some(UnitFailure { version: at, times, why }));
    }

    fn tell_set_aside(&mut self, note: SetAsideNote) {
        if self.set_aside.len() >= SET_ASIDE_TOLD_MAX {
            self.set_aside.pop_front();
        }
        self.set_aside.push_back(note);
        self.status_at_us = 0;
    }

    /// Builds the content that sets the unit at the head aside.
    fn fold_without_unit(&mut self, chain: &Name, why: &str) -> Result<bool, NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(false) };
        let base = run.fold.head();
        let Some(record) = run.buffered(base.version.sequence).map(|buffered| buffered.record.clone()) else {
            // The record itself is needed to write it down; the next try follows once it has arrived.
            return Ok(false);
        };
        let sequence = base.version.sequence;
        let entry =
            |analysis| Entry { sequence, record: record.clone(), analysis: Some(analysis), engine: String::new() };
        let (entries, partial) = match run.partial.clone() {
            None => (vec![entry(Analysis::SetAside { why: why.to_owned() })], None),
            Some(PartialEntry { mut partial, .. }) => {
                let plan = partial.plan(self.params.picture_px_max);
                plan.set_aside(&mut partial, why);
                match plan.finished(&partial) {
                    Some(analysis) => (vec![entry(Analysis::Frame(analysis))], None),
                    None => (Vec::new(), Some(PartialEntry { sequence, partial })),
                }
            }
        };
        Ok(self.fold_own(chain, base, entries, partial)?.is_some())
    }

    /// Folds content made here and keeps it in `pending`; the head it leads to, or `None` if it cannot be folded.
    pub(super) fn fold_own(
        &mut self,
        chain: &Name,
        base: Head,
        entries: Vec<Entry>,
        partial: Option<PartialEntry>,
    ) -> Result<Option<Head>, NodeError> {
        let fold = self.fold_at(chain, base.version.sequence)?.and_then(|mut fold| {
            let mut delta = Delta { parent: base, entries, partial, head: base };
            delta.check().map_err(|error| error.to_string())?;
            let folded = delta.entries.iter().map(|entry| fold.fold(entry)).collect::<Result<Vec<_>, _>>();
            let folded = folded.map_err(|error| error.to_string())?;
            delta.head = match &delta.partial {
                Some(partial) => fold.partial_head(partial).map_err(|error| error.to_string())?,
                None => fold.head(),
            };
            Ok(Pending { fold, folded, delta, timing: None })
        });
        match fold {
            Ok(pending) => {
                let head = pending.delta.head;
                let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
                run.pending = Some(pending);
                Ok(Some(head))
            }
            Err(why) => {
                self.counters.deltas_refused += 1;
                log::error!(chain:% = chain; "the worker's result is not sound and is dropped: it {why}");
                Ok(None)
            }
        }
    }
}

fn summary(entry: &Entry, folded: &Folded) -> Option<FrameSummary> {
    let Record::Frame { label, .. } = &entry.record else { return None };
    let none = FrameAnalysis::default();
    let faces = match &entry.analysis {
        Some(Analysis::Frame(analysis)) => &analysis.faces,
        Some(Analysis::Unreadable { .. } | Analysis::SetAside { .. }) | None => &none.faces,
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let usable = faces.iter().filter(|face| matches!(face.outcome, FaceOutcome::Encoded(_))).count();
    let new = folded.sightings.iter().filter(|sighting| sighting.event == Some(EventKind::NewFace)).count();
    Some(FrameSummary {
        sequence: entry.sequence,
        label: label.clone(),
        faces: count(faces.len()),
        usable: count(usable),
        new_people: count(new),
    })
}
