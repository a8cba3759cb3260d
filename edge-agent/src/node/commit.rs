//! Content becomes durable; [`super::publish`] makes it visible.

use std::collections::BTreeSet;

use microlambda::sabotage::{self, Sabotage};
use microlambda::{Attempt, Commit, Event, Head, REASON_BYTES_MAX};
use microlambda_faces::content::{Delta, Entry, PartialEntry};
use microlambda_faces::fold::{FoldState, Folded, event_id};
use microlambda_faces::{Analysis, FaceAt, FaceOutcome, FrameAnalysis};
use microlambda_runtime::printable;
use microlambda_wire::{
    CONTINUATION_FRAMES_MAX, Continuation, EventKind, EventNote, FrameSummary, Name, Record, STATUS_SET_ASIDE_MAX,
    SetAsideNote, StepTiming, TEXT_BYTES_MAX, Topic,
};

use super::chain_run::{Announcement, Pending};
use super::{Node, NodeError, World};
use crate::store::{Advance, Store};

// Why a unit was set aside is told in the status.
const _: () = assert!(REASON_BYTES_MAX <= TEXT_BYTES_MAX);

/// A state folded on trial, and what each entry gave.
type Trial = (FoldState, Vec<Folded>);

/// Where people were first seen whom only records know that another branch replaces, from `from_sequence` on. What the
/// other branch has not come to is left: it may hold the same people there.
fn ghosts(former: &FoldState, now: &FoldState, from_sequence: u64) -> Vec<FaceAt> {
    let decided = from_sequence..now.head().version.sequence;
    let known: BTreeSet<FaceAt> = now.gallery().people.iter().map(|person| person.first).collect();
    let before = former.gallery().people.iter().map(|person| person.first);
    before.filter(|first| decided.contains(&first.sequence) && !known.contains(first)).collect()
}

impl<S: Store, W: World> Node<S, W> {
    /// Folds a delta and keeps the result in `pending`; false (and the state unchanged) if it does not lead where it says.
    pub(super) fn fold_on_trial(&mut self, chain: &Name, delta: Delta) -> Result<bool, NodeError> {
        match self.try_fold(chain, &delta)? {
            Ok((fold, folded)) => {
                if let Some(run) = self.chains.get_mut(chain) {
                    run.pending = Some(Pending { fold, folded, delta, timing: None, unpublished: None });
                }
                Ok(true)
            }
            Err(why) => {
                self.counters.deltas_refused += 1;
                if self.refusals.is_due(self.world.now_us()) {
                    log::warn!(chain:% = chain; "content refused: it {why}");
                }
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
                self.store_chain(chain)?;
                self.store.begin(chain, &attempt)?;
                return Ok(self.unchanged(chain, Some(attempt)));
            }
            Commit::Result { then, .. } => self.commit_pending(chain, &own, then)?,
            Commit::Adopt { from, then, .. } => {
                if then.is_some() {
                    self.want_ahead(chain);
                }
                self.commit_pending(chain, &from, then)?
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

    /// Makes pending content durable. `None` if there is none, it does not beat the head, or what it replaces is copied first.
    pub(super) fn commit_pending(
        &mut self,
        chain: &Name,
        holder: &str,
        then: Option<Attempt>,
    ) -> Result<Option<Event>, NodeError> {
        let Some(run) = self.chains.get_mut(chain) else { return Ok(None) };
        let Some(pending) = run.pending.take() else { return Ok(None) };
        let Pending { fold, folded, delta, timing, unpublished } = pending;
        if !delta.head.beats(&run.chain.head()) {
            return Ok(None);
        }
        let begins_anew = delta.head.version.generation > run.chain.head().version.generation;
        let boundary = run.boundary();
        let (held, from_sequence) = self.first_other_record(chain, boundary, &delta, &folded)?;
        if from_sequence < boundary && begins_anew && self.waits_for_copy(chain, boundary, &delta) {
            return Ok(None);
        }
        let entries: Vec<(&Entry, &Folded)> = delta.entries.iter().zip(&folded).skip(held).collect();
        if from_sequence < boundary {
            self.counters.suffixes_replaced += 1;
            self.copies.forget(chain);
            log::warn!(chain:% = chain, from_sequence; "another branch of the chain wins: its records replace ours from here on");
            self.unsay(chain, from_sequence);
        }
        let fresh: Vec<(Entry, Folded)> =
            entries.iter().map(|(entry, folded)| ((*entry).clone(), (*folded).clone())).collect();
        let own = holder == self.name.as_str();
        if own && sabotage::is_chosen(Sabotage::PublishBeforeCommit) {
            self.publish_early(chain, &delta);
        }
        self.store_chain(chain)?;
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
        let ghosts = ghosts(&run.fold, &fold, from_sequence);
        let done = folded.last().map_or(run.chain.is_done(), |folded| folded.done);
        run.fold = fold;
        run.partial = delta.partial.clone();
        run.kills_at_head = 0;
        run.staged = None;
        run.open_since_us = now_us;
        run.touched_us = now_us;
        run.trim();
        run.ahead.moved_to(run.boundary());
        if own {
            let commit_us = now_us.saturating_sub(started_us);
            let timing = timing.map(|timing| StepTiming { commit_us, ..timing });
            let inline_bytes_max = (self.config.chain.inline_kb as usize) << 10;
            run.announcement = announcement_of(&delta, &folded, timing, inline_bytes_max);
        }
        self.withdraw_faces(ghosts.into_iter().map(|first| event_id(chain.as_str(), first)));
        self.note_events(chain, &fresh, own, unpublished.as_deref());
        Ok(Some(Event::Committed { head: delta.head, attempt: then, done, holder: Some(holder.to_owned()) }))
    }

    /// Passes over the entries of a delta whose records are here already, with the same digests, and stay as they are: how many, and the number of
    /// the record behind them, from which on records are replaced.
    fn first_other_record(
        &self,
        chain: &Name,
        boundary: u64,
        delta: &Delta,
        folded: &[Folded],
    ) -> Result<(usize, u64), NodeError> {
        let (mut held, mut from_sequence) = (0, delta.parent.version.sequence);
        for (entry, folded) in delta.entries.iter().zip(folded) {
            let next = entry.next_sequence();
            if next > boundary {
                break;
            }
            let stored = self.store.boundary(chain, next)?;
            if stored.is_none_or(|stored| stored.digest != folded.head.digest) {
                break;
            }
            held += 1;
            from_sequence = next;
        }
        Ok((held, from_sequence))
    }

    /// Announces a delta that is not durable yet: a sabotage.
    fn publish_early(&mut self, chain: &Name, delta: &Delta) {
        if let Some(again) = self.continuation_again(chain) {
            let note = Continuation { parent: delta.parent, head: delta.head, ..again };
            self.publish(&Topic::Continuation { chain: chain.clone() }, &note, false);
        }
    }

    /// Events of records just committed: published right after the continuation if this node made them, else expected from
    /// the node that did, unless they were on the bus long ago.
    fn note_events(&mut self, chain: &Name, fresh: &[(Entry, Folded)], own: bool, unpublished: Option<&[Name]>) {
        let now_us = self.world.now_us();
        let at_us = now_us.saturating_add(self.lease_us());
        if own {
            let forgotten = fresh.iter().flat_map(|(_, folded)| &folded.forgotten);
            self.withdraw_faces(forgotten.map(|first| event_id(chain.as_str(), *first)));
        }
        let Some(run) = self.chains.get(chain) else { return };
        let mut events = Vec::new();
        for (entry, folded) in fresh {
            let Record::Frame { captured_at_ms, label, .. } = &entry.record else { continue };
            for sighting in &folded.sightings {
                let Some(kind) = sighting.event else { continue };
                let at = FaceAt { sequence: entry.sequence, face_index: sighting.face_index };
                let (id, face) = (event_id(chain.as_str(), at), event_id(chain.as_str(), sighting.first));
                let (Ok(id), Ok(face)) = (Name::new(id), Name::new(face)) else { continue };
                events.push((
                    sighting.person,
                    EventNote {
                        id,
                        kind,
                        face,
                        camera: run.camera.clone(),
                        chain: chain.clone(),
                        sequence: at.sequence,
                        face_index: at.face_index,
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
            if unpublished.is_some_and(|ids| !ids.contains(&event.id)) {
                self.book.note_on_bus(&event, now_us);
            } else if own || !sabotage::is_chosen(Sabotage::EventsNotRescued) {
                self.book.expect(event.clone(), now_us, at_us);
            }
            if own {
                self.outbox.push((person, event));
            }
        }
    }

    fn tell_set_aside(&mut self, note: SetAsideNote) {
        // The database has all.
        if self.set_aside.len() >= STATUS_SET_ASIDE_MAX {
            self.set_aside.pop_front();
        }
        self.set_aside.push_back(note);
        self.status_at_us = 0;
    }

    fn tell_unreadable(&mut self, chain: &Name, entry: &Entry) {
        let (Record::Frame { label, .. }, Some(Analysis::Unreadable { why })) = (&entry.record, &entry.analysis) else {
            return;
        };
        self.counters.frames_unreadable += 1;
        let (label, why) = (printable(label), printable(why));
        if self.unreadable.is_due(self.world.now_us()) {
            let more = std::mem::take(&mut self.unreadable_unsaid);
            log::warn!(chain:% = chain, sequence = entry.sequence, more; "frame {label} cannot be read: {why}");
        } else {
            self.unreadable_unsaid += 1;
            log::debug!(chain:% = chain, sequence = entry.sequence; "frame {label} cannot be read: {why}");
        }
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
        let entry = |analysis| Entry { sequence, record: record.clone(), analysis, engine: String::new() };
        let (entries, partial) = match run.partial.clone() {
            // What failed is given up by its camera too, which says so in its place.
            _ if !matches!(record, Record::Frame { .. }) => (vec![entry(None)], None),
            None => (vec![entry(Some(Analysis::SetAside { why: why.to_owned() }))], None),
            Some(PartialEntry { mut partial, .. }) => {
                let plan = partial.plan(self.params.picture_px_max);
                plan.set_aside(&mut partial, why);
                match plan.finished(&partial) {
                    Some(analysis) => (vec![entry(Some(Analysis::Frame(analysis)))], None),
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
            let extended = fold.extend(&delta.entries, delta.partial.as_ref());
            let (folded, head) = extended.map_err(|error| error.to_string())?;
            delta.head = head;
            Ok(Pending { fold, folded, delta, timing: None, unpublished: None })
        });
        match fold {
            Ok(pending) => {
                let head = pending.delta.head;
                pending.delta.entries.iter().for_each(|entry| self.tell_unreadable(chain, entry));
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

/// What is said of an own commit: its content only up to `inline_bytes_max`.
fn announcement_of(
    delta: &Delta,
    folded: &[Folded],
    timing: Option<StepTiming>,
    inline_bytes_max: usize,
) -> Announcement {
    let bytes = delta.to_bytes().ok().filter(|bytes| bytes.len() <= inline_bytes_max);
    let frames = delta.entries.iter().zip(folded).filter_map(|(entry, folded)| summary(entry, folded));
    Announcement { delta: bytes.unwrap_or_default(), timing, frames: frames.take(CONTINUATION_FRAMES_MAX).collect() }
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
