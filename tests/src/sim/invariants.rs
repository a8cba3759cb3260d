//! What must hold after every event, each with its reason, and what must hold once the faults have stopped.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use camera_agent::audience::Release;
use microlambda::{Digest, Head, Version};
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, event_id};
use microlambda_faces::{Analysis, FaceAt, FaceOutcome, FaceParams, Unusable};
use microlambda_runtime::Message;
use microlambda_wire::{Continuation, EventKind, EventNote, Name, Record, Topic, from_payload};

use super::disk::{Disk, DiskChain};
use super::truth;

/// A message that a node may send while it handles one event, at most: more would be a flood.
const MESSAGES_PER_EVENT_MAX: usize = 400;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What was found.
    pub what: String,
}

/// Nothing, or what was found.
pub type Checked = Result<(), Violation>;

fn violation(invariant: &'static str, what: impl Into<String>) -> Checked {
    Err(Violation { invariant, what: what.into() })
}

/// Commit, then publish: a head or an event that others have heard of must survive its node's power cut, or they would build
/// on a state that nobody can show.
///
/// # Errors
/// [`Violation`], as in all of these.
pub fn nothing_is_visible_that_is_not_durable(durable: &Disk, message: &Message) -> Checked {
    const NAME: &str = "nothing is visible that is not durable";
    match Topic::parse(&super::prefix(), &message.topic) {
        Ok(Topic::Continuation { chain }) => {
            let Ok(note) = from_payload::<Continuation>(&message.payload) else { return Ok(()) };
            let head = durable.chains.get(&chain).map(|chain| chain.head);
            match head {
                // Nothing is in the state before the first record that could be lost.
                None if note.head.version == Version::default() => Ok(()),
                Some(head) if head.prefer(&note.head) != Ordering::Less => Ok(()),
                _ => violation(NAME, format!("{} announces {}, durable is {head:?}", note.node, note.head.version)),
            }
        }
        Ok(Topic::Event) => {
            let Ok(note) = from_payload::<EventNote>(&message.payload) else { return Ok(()) };
            let known = durable.events.contains_key(note.id.as_str());
            if known { Ok(()) } else { violation(NAME, format!("event {} is published and not durable", note.id)) }
        }
        _ => Ok(()),
    }
}

/// A claim prevents a start, it never stops a run: else two nodes with slow news of each other would stop each other for ever.
/// `step` is when the running step began, and its limit, µs.
pub fn no_claim_stops_a_run(now_us: u64, step: Option<(u64, u64)>) -> Checked {
    match step {
        Some((start_us, r_limit_us)) if now_us < start_us + r_limit_us => {
            let what = format!("a worker is killed {} µs into a step of {r_limit_us} µs", now_us - start_us);
            violation("no claim stops a run", what)
        }
        _ => Ok(()),
    }
}

/// Only a start that vanished is held against its unit: a node that was asked to stop ends or withdraws its own.
///
/// # Errors
/// [`Violation`], as in all of these.
pub fn a_clean_stop_leaves_no_attempt(disk: &Disk, inherited: &Disk) -> Checked {
    let left = disk.chains.iter().find_map(|(name, chain)| {
        let attempt = chain.attempt.filter(|attempt| attempt.step == chain.head)?;
        let former = inherited.chains.get(name).and_then(|chain| chain.attempt);
        (former != Some(attempt)).then_some((name, attempt))
    });
    match left {
        Some((name, attempt)) => violation("a clean stop leaves no attempt", format!("{name}: {attempt:?}")),
        None => Ok(()),
    }
}

/// Handling one event ends, and sends a bounded number of messages.
pub fn bounds_hold(messages: usize, held: usize, held_max: usize) -> Checked {
    if messages > MESSAGES_PER_EVENT_MAX {
        return violation("bounds hold", format!("{messages} messages in answer to one event"));
    }
    if held > held_max {
        return violation("bounds hold", format!("a spool holds {held} frames, {held_max} are allowed"));
    }
    Ok(())
}

/// What cameras have given out, by chain and number: the truth that everything else is held against.
#[derive(Debug, Default)]
pub struct GivenOut(BTreeMap<(Name, u64), Record>);

impl GivenOut {
    /// A number means one record for ever: were it used twice, or a frame taken back as a gap, two nodes would fold
    /// different things at one place.
    pub fn no_number_is_used_twice(&mut self, chain: &Name, sequence: u64, record: &Record) -> Checked {
        match self.0.get(&(chain.clone(), sequence)) {
            Some(known) if known != record => {
                violation("no number is used twice", format!("{chain} {sequence}: {known:?}, then {record:?}"))
            }
            Some(_) => Ok(()),
            None => {
                self.0.insert((chain.clone(), sequence), record.clone());
                Ok(())
            }
        }
    }

    /// What is folded is what the camera gave out: a node that is behind what is still held gets the state from its peers and
    /// makes nothing up.
    fn every_record_is_the_cameras(&self, chain: &Name, entry: &Entry) -> Checked {
        let given = self.0.get(&(chain.clone(), entry.sequence));
        if given == Some(&entry.record) {
            return Ok(());
        }
        let what = format!("{chain} {}: folded {:?}, given out {given:?}", entry.sequence, entry.record);
        violation("every record is the camera's", what)
    }
}

/// What the simulation remembers of each node's disk, to compare.
#[derive(Debug, Default)]
pub struct Memory {
    heads: BTreeMap<(usize, Name), Head>,
    /// How far each node has ever come.
    reached: BTreeMap<(usize, Name), u64>,
    /// Digest of every boundary seen, by chain and version; only where engines agree to the last bit and nothing was set aside.
    digests: BTreeMap<(Name, Version), Digest>,
}

impl Memory {
    /// A node's disk was replaced: it starts anew.
    pub fn forget(&mut self, node: usize) {
        self.heads.retain(|(known, _), _| *known != node);
    }

    /// Whether a node holds again all that it ever held.
    pub fn is_whole(&self, node: usize, disk: &Disk) -> bool {
        let at = |chain: &Name| disk.chains.get(chain).map_or(0, |chain| chain.boundary.version.sequence);
        self.reached.iter().filter(|((known, _), _)| *known == node).all(|((_, chain), reached)| at(chain) >= *reached)
    }

    /// A frame is freed when two nodes hold its result, or the only one that lives does: one disk may be lost.
    pub fn what_is_freed_is_held_twice(&self, chain: &Name, release: Release) -> Checked {
        let hold = self.reached.iter().filter(|((_, of), at)| of == chain && **at >= release.below).count();
        let enough = if release.on_one { 1 } else { 2 };
        if hold >= enough {
            return Ok(());
        }
        violation("what is freed is held twice", format!("{chain} below {}: {hold} nodes hold it", release.below))
    }

    /// Checks what a node's disk holds of a chain after a transaction. `exact` says whether all engines agree to the last bit.
    pub fn check(
        &mut self,
        node: usize,
        (name, chain): (&Name, &DiskChain),
        given_out: &GivenOut,
        seed: u64,
        exact: bool,
    ) -> Checked {
        let before = self.heads.insert((node, name.clone()), chain.head);
        let reached = self.reached.entry((node, name.clone())).or_default();
        *reached = (*reached).max(chain.boundary.version.sequence);
        a_cursor_never_goes_back(before, chain.head)?;
        no_frame_is_skipped(chain)?;
        // Entries below the former head are as they were, unless a fork was replaced: then all are looked at again.
        let from = before.map_or(0, |head| head.version.sequence.saturating_sub(4));
        for (_, (entry, _)) in chain.entries.range(from..) {
            given_out.every_record_is_the_cameras(name, entry)?;
            every_observation_derives_from_its_frame(entry, seed)?;
        }
        if exact && chain.head.set_aside == 0 {
            self.equal_cursors_have_equal_digests(name, chain.head)?;
            for (_, (_, head)) in chain.entries.range(from..) {
                self.equal_cursors_have_equal_digests(name, *head)?;
            }
        }
        Ok(())
    }

    /// The result does not depend on how the work was cut, or on who did it.
    fn equal_cursors_have_equal_digests(&mut self, chain: &Name, head: Head) -> Checked {
        let known = *self.digests.entry((chain.clone(), head.version)).or_insert(head.digest);
        if known == head.digest {
            return Ok(());
        }
        violation("equal cursors have equal digests", format!("{chain} {}: {known} and {}", head.version, head.digest))
    }
}

/// What was reached stays reached, whatever dies: a head is only followed by one that beats it.
fn a_cursor_never_goes_back(before: Option<Head>, now: Head) -> Checked {
    match before {
        Some(before) if now.prefer(&before) == Ordering::Less => {
            violation("a cursor never goes back", format!("from {before:?} to {now:?}"))
        }
        _ => Ok(()),
    }
}

/// Records follow one another without a hole, from the first one to the boundary: a frame is looked at, or its gap is recorded.
fn no_frame_is_skipped(chain: &DiskChain) -> Checked {
    let mut next = 0;
    for (sequence, (entry, _)) in &chain.entries {
        if *sequence != next {
            return violation("no frame is skipped", format!("{sequence} stands where {next} is due"));
        }
        next = entry.next_sequence();
    }
    if next == chain.boundary.version.sequence {
        return Ok(());
    }
    violation("no frame is skipped", format!("records end at {next}, the boundary is {}", chain.boundary.version))
}

/// What is recorded of a frame is what some engine sees in that very frame, or that it was set aside.
fn every_observation_derives_from_its_frame(entry: &Entry, seed: u64) -> Checked {
    const NAME: &str = "every observation derives from its frame";
    let Record::Frame { label, digest, .. } = &entry.record else {
        return if entry.analysis.is_none() { Ok(()) } else { violation(NAME, format!("{entry:?}")) };
    };
    let Ok(number) = label.parse::<u64>() else { return violation(NAME, format!("a frame named {label}")) };
    let camera = (0..super::site::CAMERAS_MAX).find(|camera| Digest::of(&truth::jpeg(*camera, number)) == *digest);
    let Some(camera) = camera else { return violation(NAME, format!("no camera took {label}")) };
    let picture = truth::picture(seed, camera, number, false);
    let seen = match &entry.analysis {
        Some(Analysis::Frame(seen)) => seen,
        Some(Analysis::SetAside { .. }) => return Ok(()),
        Some(unreadable @ Analysis::Unreadable { .. }) if *unreadable == picture.analysis(0) => return Ok(()),
        other => return violation(NAME, format!("{label}: {other:?}")),
    };
    let kernels = 0..super::site::NODES_MAX as u32;
    let truths: Vec<_> = kernels.map(|kernel| picture.analysis(kernel)).collect();
    for face in &seen.faces {
        let set_aside = matches!(face.outcome, FaceOutcome::Unusable(Unusable::SetAside { .. }));
        let found = |truth: &Analysis| matches!(truth, Analysis::Frame(truth) if truth.faces.iter().any(|known| known == face || set_aside && known.seen == face.seen));
        if !truths.iter().any(found) {
            return violation(NAME, format!("{label}: {face:?} is not in the picture"));
        }
    }
    let all = |truth: &Analysis| matches!(truth, Analysis::Frame(truth) if truth.faces.len() == seen.faces.len());
    if seen.tiles_set_aside.is_empty() && !truths.iter().any(all) {
        return violation(NAME, format!("{label}: {} faces", seen.faces.len()));
    }
    Ok(())
}

/// Every person is reported once: one row for each event that the records give, on every node, and none beside them.
pub fn events_are_those_of_the_records(name: &Name, chain: &DiskChain, disk: &Disk) -> Checked {
    const NAME: &str = "events are those of the records";
    let mut fold = FoldState::genesis(FaceParams::default());
    let mut expected = BTreeSet::new();
    for (entry, head) in chain.entries.values() {
        let folded = match fold.fold(entry) {
            Ok(folded) => folded,
            Err(why) => return violation(NAME, format!("{name} {}: {why}", entry.sequence)),
        };
        if folded.head != *head {
            return violation(
                NAME,
                format!("{name} {}: folds to {:?}, stored is {head:?}", entry.sequence, folded.head),
            );
        }
        for sighting in folded.sightings {
            if let Some(kind) = sighting.event {
                let at = FaceAt { sequence: entry.sequence, face_index: sighting.face_index };
                expected.insert((event_id(name.as_str(), at), kind == EventKind::NewFace));
            }
        }
    }
    let rows = disk.events.values().filter(|event| event.note.chain == *name && !event.superseded);
    let rows: BTreeSet<(String, bool)> =
        rows.map(|event| (event.note.id.to_string(), event.note.kind == EventKind::NewFace)).collect();
    if rows == expected {
        return Ok(());
    }
    violation(NAME, format!("{name}: rows {rows:?}, records give {expected:?}"))
}

/// What one node that runs everything in one go comes to: the digest, and the ids of all events.
pub fn single_run(name: &Name, records: &[(u64, Record)], camera: usize, seed: u64) -> (Head, BTreeSet<String>) {
    let mut fold = FoldState::genesis(FaceParams::default());
    let mut events = BTreeSet::new();
    for (sequence, record) in records {
        let analysis = match record {
            Record::Frame { label, .. } => {
                let number = label.parse().unwrap_or_default();
                Some(truth::picture(seed, camera, number, false).analysis(0))
            }
            Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => None,
        };
        let entry = Entry { sequence: *sequence, record: record.clone(), analysis, engine: String::new() };
        let folded = fold.fold(&entry).expect("records in order");
        let seen = folded.sightings.iter().filter(|sighting| sighting.event.is_some());
        let at = seen.map(|sighting| FaceAt { sequence: *sequence, face_index: sighting.face_index });
        events.extend(at.map(|at| event_id(name.as_str(), at)));
    }
    (fold.head(), events)
}
