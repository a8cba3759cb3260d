//! Content as the store and the bus hold it, and the fold of what was decoded.

use microlambda::{Head, Version};
use microlambda_faces::content::{Ahead, DELTA_BYTES_MAX, Delta, Entry, PartialEntry, from_bytes, to_bytes};
use microlambda_faces::fold::{EXEMPLARS_MAX, FoldError, FoldState, Folded, Gallery, PEOPLE_MAX};
use microlambda_faces::proto::THUMBNAIL_BYTES_MAX;
use microlambda_faces::{Analysis, FACES_MAX, FaceParams, Partial};
use microlambda_wire::{Record, SEQUENCE_MAX};
use serde::{Deserialize, Serialize};

/// The first byte chooses what the rest is taken for.
pub fn checkpoint(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => read::<Entry>(bytes),
        1 => read::<PartialEntry>(bytes),
        2 => read::<Option<Analysis>>(bytes),
        3 => read::<Partial>(bytes),
        5 => ahead(bytes),
        _ => delta(bytes),
    }
}

/// What is read can be written no longer than it was, and is read again as the same.
fn read<T: Serialize + for<'a> Deserialize<'a>>(bytes: &[u8]) {
    let Ok(value) = from_bytes::<T>(bytes) else { return };
    let written = to_bytes(&value).expect("content that was read");
    assert!(written.len() <= bytes.len());
    let again: T = from_bytes(&written).expect("what this program wrote");
    assert_eq!(to_bytes(&again).expect("once more"), written);
}

/// What is accepted are frames, whole, each once; and each can be folded where its turn comes.
fn ahead(bytes: &[u8]) {
    read::<Ahead>(bytes);
    let Ok(ahead) = Ahead::from_bytes(bytes) else { return };
    assert!(bytes.len() <= DELTA_BYTES_MAX);
    assert!(ahead.to_bytes().expect("analyses that were read").len() <= bytes.len());
    assert!(ahead.entries.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    assert!(ahead.thumbnails.iter().all(|picture| picture.jpeg.len() <= THUMBNAIL_BYTES_MAX));
    for entry in &ahead.entries {
        assert!(matches!(entry.record, Record::Frame { .. }) && entry.next_sequence() <= SEQUENCE_MAX);
        let genesis = FoldState::genesis(FaceParams::default());
        let version = Version { sequence: entry.sequence, ..Version::default() };
        let head = Head { version, ..genesis.head() };
        let mut state = FoldState::restore(FaceParams::default(), head, Gallery::default());
        let folded = state.fold(entry).expect("an analysis that was accepted");
        assert_eq!(folded.head.set_aside, 0, "nothing is set aside ahead of the chain");
    }
}

fn delta(bytes: &[u8]) {
    read::<Delta>(bytes);
    let Ok(mut delta) = Delta::from_bytes(bytes) else { return };
    assert!(bytes.len() <= DELTA_BYTES_MAX);
    assert!(delta.check().is_ok() && delta.to_bytes().expect("a delta that was read").len() <= bytes.len());
    for entry in &delta.entries {
        assert_eq!(matches!(entry.record, Record::Frame { .. }), entry.analysis.is_some());
        assert!(entry.next_sequence() > entry.sequence && entry.next_sequence() <= SEQUENCE_MAX);
    }
    let start = start_of(&delta);
    let mut state = start.clone();
    match state.apply(&delta) {
        Ok(_) => {}
        // What a stranger announces is hardly ever what its content leads to: so it is given the right head.
        Err(FoldError::OtherHead { found, .. }) => delta.head = found,
        // A state inside a frame that no picture can have.
        Err(_) => return,
    }
    let mut state = start.clone();
    let folded = state.apply(&delta).expect("a delta that leads where it says");
    assert_sound(&start, &state, &delta, &folded);
    assert_cut_makes_no_difference(&start, &state, &delta);
}

/// An empty state where the delta begins.
fn start_of(delta: &Delta) -> FoldState {
    let params = FaceParams::default();
    let genesis = FoldState::genesis(params);
    let version = Version { sequence: delta.parent.version.sequence, ..Version::default() };
    FoldState::restore(params, Head { version, ..genesis.head() }, Gallery::default())
}

fn assert_sound(start: &FoldState, state: &FoldState, delta: &Delta, folded: &[Folded]) {
    assert_eq!(folded.len(), delta.entries.len());
    let moved = !delta.entries.is_empty() || delta.partial.is_some();
    assert_eq!(delta.head.beats(&start.head()), moved, "every unit makes a state that beats the one before");
    let people = &state.gallery().people;
    assert!(people.len() <= PEOPLE_MAX);
    assert!(people.iter().all(|person| (1..=EXEMPLARS_MAX).contains(&person.exemplars.len())));
    assert!(people.iter().all(|person| person.frames >= 1 && person.frames <= delta.entries.len() as u64));
    for (entry, folded) in delta.entries.iter().zip(folded) {
        let faces = match &entry.analysis {
            Some(Analysis::Frame(frame)) => frame.faces.len(),
            Some(Analysis::Unreadable { .. } | Analysis::SetAside { .. }) | None => 0,
        };
        assert!(faces <= FACES_MAX && folded.sightings.len() + folded.unassigned as usize <= faces);
        assert!(folded.sightings.iter().all(|seen| seen.person < state.gallery().ever && seen.distance >= 0.0));
        assert!(folded.sightings.iter().all(|seen| (seen.face_index as usize) < faces));
        assert_eq!(folded.head.version.sequence, entry.next_sequence());
        assert_eq!(folded.done, matches!(entry.record, Record::End { .. }));
    }
}

/// The state is a function of the records, not of the pieces in which they came.
fn assert_cut_makes_no_difference(start: &FoldState, state: &FoldState, delta: &Delta) {
    let mut pieces = start.clone();
    for entry in &delta.entries {
        let parent = pieces.head();
        let mut ahead = pieces.clone();
        let head = ahead.fold(entry).expect("a record of a sound delta").head;
        let one = Delta { parent, entries: vec![entry.clone()], partial: None, head };
        let bytes = one.to_bytes().expect("a part of a sound delta");
        pieces.apply(&Delta::from_bytes(&bytes).expect("what this program wrote")).expect("a part that folds");
    }
    assert_eq!(pieces.head(), state.head());
    assert_eq!(pieces.gallery(), state.gallery());
}
