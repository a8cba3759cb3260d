//! What is durable becomes visible: continuations, claims, faces, and the output of a job.

use microlambda::{Claim, Head, Version};
use microlambda_faces::FaceAt;
use microlambda_faces::fold::event_id;
use microlambda_runtime::{Message, PublishError};
use microlambda_wire::{
    Blob, ChainOrigin, ClaimNote, Continuation, DONE_PEOPLE_MAX, DoneNote, EventKind, EventNote, FaceNote, Name,
    Record, Topic, UnitFailure,
};

use super::chain_run::{Announcement, ChainRun};
use super::{ASKED_US, Node, NodeError, World};
use crate::store::{ChainSummary, Store};

/// With `done` at most so many faces are said again, those seen last: half of what the connection takes at once, so that `done` always fits behind them.
const FACES_WITH_DONE_MAX: usize = 512;
/// So many sayings are handed to the connection before other inputs are looked at: a step may have found thousands of people.
const SAID_AT_ONCE_MAX: usize = 64;
/// Nothing is said while so many messages wait for the broker, half of what the connection holds: claims and continuations are to find room, and so is
/// `done` with its faces.
const QUEUED_MAX: usize = 512;
/// Sayings that wait at most; events beyond are left to the book.
const SAYINGS_MAX: usize = 16_384;
/// What the connection did not take is offered again after this, µs.
pub(super) const SAY_AGAIN_US: u64 = 10_000;

/// What is to be said behind a continuation, one message each.
pub(super) enum Saying {
    /// An event of a chain's step.
    Event(EventNote),
    /// A person of that chain, by number.
    Face(Name, usize),
    /// The output of that chain.
    Done(Name),
}

impl<S: Store, W: World> Node<S, W> {
    /// Carries out [`microlambda::Effect::PublishHead`]: the continuation, then what the step found.
    pub(super) fn publish_head(&mut self, chain: &Name, parent: Head) -> Result<(), NodeError> {
        let Some(run) = self.chains.get_mut(chain) else { return Ok(()) };
        let Announcement { delta, timing, frames } = std::mem::take(&mut run.announcement);
        let done = run.chain.is_done();
        let Some(again) = self.continuation_again(chain) else { return Ok(()) };
        let delta = (!delta.is_empty()).then_some(Blob(delta));
        let note = Continuation { parent, delta, again: false, timing, frames, ..again };
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
                self.sayings.push_back(Saying::Event(event));
            }
            self.sayings.push_back(Saying::Face(chain.clone(), person));
        }
        self.sayings.truncate(SAYINGS_MAX);
        if done {
            self.sayings.push_back(Saying::Done(chain.clone()));
        }
        self.say_tick()?;
        self.withdraw_tick();
        Ok(())
    }

    /// Says what the connection takes now; the rest follows. What is lost with the connection, the book or the next announcement says again, once those who
    /// watch are back too.
    pub(super) fn say_tick(&mut self) -> Result<(), NodeError> {
        if !self.world.is_connected() {
            self.sayings.clear();
        }
        for _ in 0..SAID_AT_ONCE_MAX {
            if !self.is_settled() || self.world.queued() >= QUEUED_MAX {
                return Ok(());
            }
            let Some(saying) = self.sayings.pop_front() else { return Ok(()) };
            let message = match &saying {
                Saying::Event(event) => self.message(&Topic::Event, event, false),
                Saying::Face(chain, person) => self.face_message(chain, *person)?,
                Saying::Done(chain) => {
                    self.publish_done(chain)?;
                    continue;
                }
            };
            match message.map_or(Ok(()), |message| self.world.publish(message)) {
                Ok(()) => {}
                Err(PublishError::Full) => {
                    self.sayings.push_front(saying);
                    return Ok(());
                }
                Err(why) => self.not_published(&why),
            }
        }
        Ok(())
    }

    /// Events of records that another branch has replaced are none: they are not said any more.
    pub(super) fn unsay(&mut self, chain: &Name, from_sequence: u64) {
        let replaced = |event: &EventNote| event.chain == *chain && event.sequence >= from_sequence;
        self.book.forget(replaced);
        self.outbox.retain(|(_, event)| !replaced(event));
        self.sayings.retain(|saying| !matches!(saying, Saying::Event(event) if replaced(event)));
    }

    /// That a chain is where it is, without what led there.
    pub(super) fn continuation_again(&self, chain: &Name) -> Option<Continuation> {
        let run = self.chains.get(chain)?;
        Some(self.continuation_at(chain, run.origin(), run.chain.head()))
    }

    fn continuation_at(&self, chain: &Name, origin: ChainOrigin, head: Head) -> Continuation {
        Continuation {
            chain: chain.clone(),
            node: self.name.clone(),
            boot: self.boot.clone(),
            lambda: self.lambda,
            origin: Some(origin),
            parent: head,
            head,
            delta: None,
            again: true,
            timing: None,
            frames: Vec::new(),
        }
    }

    /// Says the same of a chain that is not open.
    pub(super) fn announce_unopened(&mut self, held: ChainSummary) {
        let origin = ChainOrigin { camera: held.camera, class: held.class };
        let note = self.continuation_at(&held.name, origin, held.head);
        self.publish(&Topic::Continuation { chain: held.name }, &note, false);
    }

    /// Carries out [`microlambda::Effect::Reannounce`].
    pub(super) fn reannounce(&mut self, chain: &Name) -> Result<(), NodeError> {
        let Some(note) = self.continuation_again(chain) else { return Ok(()) };
        let unsaid = self.chains.get(chain).is_some_and(|run| run.chain.is_done() && !run.done_on_bus);
        self.publish(&Topic::Continuation { chain: chain.clone() }, &note, false);
        if unsaid {
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
        if let Some(message) = self.face_message(chain, person)? {
            self.publish_message(message);
        }
        Ok(())
    }

    /// Somebody who is known, for the bus.
    fn face_message(&mut self, chain: &Name, person: usize) -> Result<Option<Message>, NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(None) };
        let Some(known) = run.fold.gallery().person(person) else { return Ok(None) };
        let Ok(face) = Name::new(event_id(chain.as_str(), known.first)) else { return Ok(None) };
        let label = self.store.entries(chain, known.first.sequence, 1)?.0.first().map(|entry| match &entry.record {
            Record::Frame { label, .. } => label.clone(),
            Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => String::new(),
        });
        let note = FaceNote {
            name: String::new(),
            camera: run.camera.clone(),
            chain: chain.clone(),
            first_sequence: known.first.sequence,
            first_seen_ms: known.first_seen_ms,
            last_seen_ms: known.last_seen_ms,
            frames: known.frames,
            label: label.unwrap_or_default(),
            thumbnail: Blob(self.store.thumbnail(face.as_str())?.unwrap_or_default()),
            face: face.clone(),
        };
        Ok(self.message(&Topic::Face { face }, &note, true))
    }

    /// The face of an event that made somebody new; others' are on the bus.
    pub(super) fn publish_new_face(&mut self, event: &EventNote) -> Result<(), NodeError> {
        let Some(run) = self.chains.get(&event.chain).filter(|_| event.kind == EventKind::NewFace) else {
            return Ok(());
        };
        let first = FaceAt { sequence: event.sequence, face_index: event.face_index };
        let person = run.fold.gallery().people.iter().find(|person| person.first == first);
        let person = person.map(|person| person.number);
        person.map_or(Ok(()), |person| self.publish_face(&event.chain, person))
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
        let Some(run) = self.chains.get(chain).filter(|run| run.chain.is_done()) else { return Ok(()) };
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
        let mut known: Vec<(u64, usize)> =
            run.fold.gallery().people.iter().map(|person| (person.last_sequence, person.number)).collect();
        known.sort_unstable_by(|a, b| b.cmp(a));
        known.truncate(FACES_WITH_DONE_MAX);
        known.into_iter().try_for_each(|(_, person)| self.publish_face(chain, person))?;
        self.publish(&Topic::Done { chain: chain.clone() }, &note, true);
        Ok(())
    }

    pub(super) fn publish_claim(&mut self, chain: &Name, claim: Claim, failed: Option<UnitFailure>) {
        let note = ClaimNote { chain: chain.clone(), boot: self.boot.clone(), claim, failed };
        self.publish(&Topic::Claim { chain: chain.clone() }, &note, false);
    }

    pub(super) fn publish_failure(&mut self, chain: &Name, at: Version, times: u32, why: String) {
        let claim = Claim { step: at, epoch: 0, node: self.name.to_string(), lease_ms: 0 };
        self.publish_claim(chain, claim, Some(UnitFailure { version: at, times, why }));
    }

    /// Tells peers which units have failed here: those that ended the process, nobody has heard of.
    pub(super) fn repeat_failures(&mut self) {
        let failure = |(name, run): (&Name, &ChainRun)| {
            let (times, why) = run.chain.own_failure()?;
            Some((name.clone(), run.chain.head().version, times, why.to_owned()))
        };
        let failures: Vec<(Name, Version, u32, String)> = self.chains.iter().filter_map(failure).collect();
        for (chain, at, times, why) in failures {
            self.publish_failure(&chain, at, times, why);
        }
    }
}
