//! The fold: people and events out of analyses, the same however they were cut into deltas.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Arc;

use microlambda::{Digest, Head, Version};
use microlambda_faces::content::{ContentError, Delta, Entry, PartialEntry};
use microlambda_faces::fold::{
    EXEMPLARS_MAX, Exemplar, FoldError, FoldState, Folded, Gallery, Person, event_id, lambda_digest,
};
use microlambda_faces::proto::UnitOutcome;
use microlambda_faces::{
    Analysis, ENCODING_LEN, Encoding, Face, FaceAt, FaceOutcome, FaceParams, FrameAnalysis, Partial, Rect, SeenFace,
    Unusable,
};
use microlambda_wire::{EventKind, GapReason, Record};
use proptest::prelude::*;

const RECT: Rect = Rect { left: 10, top: 10, right: 109, bottom: 109 };

/// An encoding of `person` at `offset` from that person's centre; people are far apart.
fn face(person: u8, offset: f32, score: f32) -> Face {
    let mut values = vec![0.0_f32; ENCODING_LEN];
    values[usize::from(person)] = 1.0;
    values[127] = offset;
    let outcome = FaceOutcome::Encoded(Encoding::try_from(values).unwrap());
    Face { seen: SeenFace { rect: RECT, score }, sharpness: 100.0, outcome }
}

fn frame(sequence: u64, faces: Vec<Face>) -> Entry {
    let record = Record::Frame {
        captured_at_ms: 1_000 * sequence,
        digest: Digest::of(&sequence.to_le_bytes()),
        label: format!("{sequence}.jpg"),
        moved: None,
    };
    let analysis = FrameAnalysis { width_px: 640, height_px: 480, faces, tiles_set_aside: Vec::new(), scene: None };
    Entry { sequence, record, analysis: Some(Analysis::Frame(analysis)), engine: "test".into() }
}

fn fold_all(entries: &[Entry]) -> (FoldState, Vec<Folded>) {
    let mut state = FoldState::genesis(FaceParams::default());
    let folded = entries.iter().map(|entry| state.fold(entry).unwrap()).collect();
    (state, folded)
}

fn new_people(folded: &[Folded]) -> usize {
    let sightings = folded.iter().flat_map(|folded| &folded.sightings);
    sightings.filter(|sighting| sighting.event == Some(EventKind::NewFace)).count()
}

#[test]
fn a_person_is_new_once() {
    let entries: Vec<Entry> = (0..5).map(|n| frame(n, vec![face(1, 0.0, 1.0)])).collect();
    let (state, folded) = fold_all(&entries);
    assert_eq!(new_people(&folded), 1);
    assert_eq!(state.gallery().people[0].frames, 5);
}

#[test]
fn a_change_of_pose_in_steps_is_not_a_new_person() {
    // Each view is 0.4 from the one before; the last is 1.2 from the first.
    let entries: Vec<Entry> = (0..4_u8).map(|n| frame(n.into(), vec![face(1, 0.4 * f32::from(n), 1.0)])).collect();
    let (state, folded) = fold_all(&entries);
    assert_eq!(new_people(&folded), 1);
    assert_eq!(state.gallery().people[0].exemplars.len(), 4);
}

#[test]
fn kept_encodings_are_bounded() {
    let entries: Vec<Entry> = (0..40_u8).map(|n| frame(n.into(), vec![face(1, 0.4 * f32::from(n), 1.0)])).collect();
    let (state, _) = fold_all(&entries);
    assert!(state.gallery().people.iter().all(|person| person.exemplars.len() <= EXEMPLARS_MAX));
}

#[test]
fn weak_evidence_recognises_somebody_known_but_introduces_nobody() {
    let weak = FaceParams::default().new_person_score_min - 0.01;
    let (state, folded) = fold_all(&[
        frame(0, vec![face(1, 0.0, weak)]),
        frame(1, vec![face(1, 0.0, 1.0)]),
        frame(2, vec![face(1, 0.1, weak)]),
    ]);
    assert_eq!(folded[0].unassigned, 1);
    assert_eq!(new_people(&folded), 1);
    assert_eq!(state.gallery().people[0].first.sequence, 1);
    assert_eq!(folded[2].sightings.len(), 1);
}

#[test]
fn a_face_that_cannot_be_compared_is_recorded_and_nobody() {
    let mut blurred = face(1, 0.0, 1.0);
    blurred.outcome = FaceOutcome::Unusable(Unusable::Blurred { sharpness: 1.0 });
    let (state, folded) = fold_all(&[frame(0, vec![blurred.clone()])]);
    assert!(folded[0].sightings.is_empty() && state.gallery().people.is_empty());
    let (other, _) = fold_all(&[frame(0, vec![])]);
    assert_ne!(state.head().digest, other.head().digest, "the digest covers the reason");
}

#[test]
fn somebody_known_is_reported_again_only_after_an_absence() {
    let absence_s = FaceParams::default().absence_ms / 1_000;
    let at = |sequence: u64, captured_s: u64| {
        let mut entry = frame(sequence, vec![face(1, 0.0, 1.0)]);
        if let Record::Frame { captured_at_ms, .. } = &mut entry.record {
            *captured_at_ms = captured_s * 1_000;
        }
        entry
    };
    let (_, folded) = fold_all(&[at(0, 100), at(1, 101), at(2, 101 + absence_s), at(3, 102 + absence_s)]);
    let events: Vec<Option<EventKind>> = folded.iter().map(|folded| folded.sightings[0].event).collect();
    assert_eq!(events, [Some(EventKind::NewFace), None, Some(EventKind::Recognised), None]);
}

#[test]
fn a_record_out_of_turn_is_refused_and_changes_nothing() {
    let mut state = FoldState::genesis(FaceParams::default());
    let before = state.clone();
    assert_eq!(state.fold(&frame(1, vec![])), Err(ContentError::OutOfOrder { expected: 0, got: 1 }));
    assert_eq!(state, before);
}

#[test]
fn gaps_and_ends_need_no_analysis_and_move_the_cursor() {
    let gap = Record::Gap { count: 7, reason: GapReason::SpoolFull };
    let end = Record::End { count: 8, manifest: Digest::default() };
    let plain = |sequence, record| Entry { sequence, record, analysis: None, engine: String::new() };
    let (state, folded) = fold_all(&[frame(0, vec![]), plain(1, gap), plain(8, end)]);
    assert_eq!(state.head().version.sequence, 9);
    assert_eq!(folded.iter().map(|folded| folded.done).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn a_restart_raises_the_generation_and_keeps_the_people_known_before_it() {
    let restart = |count, generation| Record::Restart { count, generation };
    let plain = |sequence, record| Entry { sequence, record, analysis: None, engine: String::new() };
    let (before, _) = fold_all(&[frame(0, vec![])]);
    let (state, _) = fold_all(&[frame(0, vec![]), plain(1, restart(5, 2)), plain(6, restart(1, 1)), frame(7, vec![])]);
    assert_eq!(state.head().version, Version { generation: 2, sequence: 8, unit: 0 }, "it never falls");
    assert_eq!(state.gallery(), before.gallery());
    let (longer, _) = fold_all(&(0..20).map(|n| frame(n, vec![])).collect::<Vec<_>>());
    assert!(state.head().beats(&longer.head()), "the branch without it is lost, however long");
}

#[test]
fn other_settings_are_another_lambda() {
    let other = FaceParams { distance_max: 0.59, ..FaceParams::default() };
    assert_ne!(lambda_digest(&other), lambda_digest(&FaceParams::default()));
}

#[test]
fn an_event_id_is_the_same_on_every_node_and_differs_by_place() {
    let id = |face_index| event_id("door-1", FaceAt { sequence: 3, face_index });
    assert_eq!(id(0), id(0));
    assert_ne!(id(0), id(1));
    assert_eq!(id(0).len(), 32);
}

#[test]
fn content_that_was_changed_on_the_way_is_refused() {
    let entries = vec![frame(0, vec![face(1, 0.0, 1.0)])];
    let (state, _) = fold_all(&entries);
    let genesis = FoldState::genesis(FaceParams::default());
    let mut delta = Delta { parent: genesis.head(), entries, partial: None, head: state.head() };
    assert!(genesis.clone().apply(&delta).is_ok());
    delta.entries[0] = frame(0, vec![face(1, 0.000_001, 1.0)]);
    assert!(matches!(genesis.clone().apply(&delta), Err(FoldError::OtherHead { .. })));
}

#[test]
fn an_encoding_that_is_not_128_finite_numbers_never_reaches_the_fold() {
    let (last, head) = (0.123_f32, Head::genesis(Digest::default()));
    let delta = Delta { parent: head, entries: vec![frame(0, vec![face(1, last, 1.0)])], partial: None, head };
    let bytes = delta.to_bytes().unwrap();
    assert_eq!(Delta::from_bytes(&bytes), Ok(delta));
    let last_at = bytes.windows(4).position(|value| value == last.to_le_bytes()).unwrap();
    let with = |value: f32| [&bytes[..last_at], &value.to_le_bytes(), &bytes[last_at + 4..]].concat();
    let first_at = last_at + 4 - 4 * ENCODING_LEN;
    // The length takes two bytes, a shorter one takes one.
    let short = [&bytes[..first_at - 2], &[127], &bytes[first_at + 4..]].concat();
    for bytes in [short, with(f32::NAN), with(f32::INFINITY)] {
        assert!(matches!(Delta::from_bytes(&bytes), Err(ContentError::Malformed(_))));
    }
}

/// A stream of frames with up to three of eight people each.
fn stream() -> impl Strategy<Value = Vec<Entry>> {
    let faces = prop::collection::vec((0_u8..8, 0.0_f32..0.5, 0.1_f32..2.0), 0..3);
    prop::collection::vec(faces, 1..30).prop_map(|frames| {
        let faces =
            |faces: Vec<(u8, f32, f32)>| faces.into_iter().map(|(p, offset, score)| face(p, offset, score)).collect();
        frames.into_iter().zip(0..).map(|(of_frame, sequence)| frame(sequence, faces(of_frame))).collect()
    })
}

/// People with the encodings given, each with up to `each` of them.
fn gallery(encodings: &[Encoding], each: usize) -> Gallery {
    let at = FaceAt { sequence: 0, face_index: 0 };
    let exemplar = |encoding: &Encoding| Exemplar { at, encoding: encoding.clone() };
    let person = |(number, kept): (usize, &[Encoding])| Person {
        number,
        first: at,
        first_seen_ms: 0,
        last_seen_ms: 0,
        last_sequence: 0,
        frames: 1,
        exemplars: kept.iter().map(exemplar).collect(),
    };
    let people: Vec<_> = encodings.chunks(each).enumerate().map(|kept| Arc::new(person(kept))).collect();
    Gallery { ever: people.len(), people, ..Gallery::default() }
}

proptest! {
    /// Encodings that are equal, that differ in the last bit, and that are too small or too large for single precision to square.
    #[test]
    fn the_nearest_person_is_the_least_of_all_distances_to_the_bit(
        bases in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 128), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..128_usize, -2..3_i8), 1..40),
        scale in prop::sample::select(vec![0.1_f32, 1.0, 1e-15, 1e-18, 1e-22, 1e-30, 1e18, 1e25]),
        each in 1_usize..4,
    ) {
        let scaled = |base: &Vec<f32>| base.iter().map(|value| value * scale).collect::<Vec<f32>>();
        let changed = |(base, at, by): &(prop::sample::Index, usize, i8)| {
            let mut values = scaled(base.get(&bases));
            values[*at] *= 1.0 + f32::from(*by) * f32::EPSILON;
            Encoding::try_from(values).unwrap()
        };
        let gallery = gallery(&changes.iter().map(changed).collect::<Vec<_>>(), each);
        let face = Encoding::try_from(scaled(&bases[0])).unwrap();
        let least = gallery.distances(&face).reduce(|least, other| if other.1 < least.1 { other } else { least });
        let bits = |found: Option<(usize, f64)>| found.map(|(person, far)| (person, far.to_bits()));
        prop_assert_eq!(bits(gallery.nearest(&face)), bits(least.map(|(person, far)| (person.number, far))));
    }

    #[test]
    fn the_result_is_the_same_however_the_stream_is_cut(entries in stream(), cuts in prop::collection::vec(1_usize..6, 30)) {
        let (long, long_folded) = fold_all(&entries);
        let mut state = FoldState::genesis(FaceParams::default());
        let (mut rest, mut folded) = (&entries[..], Vec::new());
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            // What a step does: fold, announce as bytes; what a peer does: read, restore, apply.
            let mut ahead = state.clone();
            for entry in now {
                ahead.fold(entry).unwrap();
            }
            let delta = Delta { parent: state.head(), entries: now.to_vec(), partial: None, head: ahead.head() };
            let delta = Delta::from_bytes(&delta.to_bytes().unwrap()).unwrap();
            state = FoldState::restore(FaceParams::default(), state.head(), state.gallery().clone());
            folded.extend(state.apply(&delta).unwrap());
        }
        if rest.is_empty() {
            prop_assert_eq!(state, long);
            prop_assert_eq!(folded, long_folded);
        }
    }

    #[test]
    fn no_bytes_make_the_delta_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Delta::from_bytes(&bytes);
    }

    #[test]
    fn a_damaged_delta_is_refused_or_folds_to_another_head(entries in stream(), at: prop::sample::Index, flip in 1_u8..) {
        let (state, _) = fold_all(&entries);
        let genesis = FoldState::genesis(FaceParams::default());
        let delta = Delta { parent: genesis.head(), entries, partial: None, head: state.head() };
        let mut bytes = delta.to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(damaged) = Delta::from_bytes(&bytes) {
            let accepted = genesis.clone().apply(&damaged).is_ok();
            // Only what no digest covers may differ: the engine's name, and the parent's own description.
            let same_content = damaged.head == delta.head
                && damaged.entries.iter().zip(&delta.entries).all(|(a, b)| (a.sequence, &a.record, &a.analysis) == (b.sequence, &b.record, &b.analysis));
            prop_assert!(!accepted || same_content);
        }
    }

    #[test]
    fn a_state_inside_a_frame_has_a_digest_of_its_own(units in 1_u32..20) {
        let state = FoldState::genesis(FaceParams::default());
        let head = state.partial_head(&searched(units)).unwrap();
        prop_assert_eq!(head.version.unit, units);
        prop_assert_ne!(head.digest, state.partial_head(&searched(units + 1)).unwrap().digest);
    }
}

/// A large picture of which some tiles were searched.
fn searched(tiles_done: u32) -> PartialEntry {
    let partial = Partial { width_px: 4_000, height_px: 3_000, tiles_done, ..Partial::default() };
    PartialEntry { sequence: 0, partial }
}

#[test]
fn a_state_that_no_picture_can_have_is_refused() {
    let state = FoldState::genesis(FaceParams::default());
    for tiles_done in [0, 1_000] {
        assert_eq!(
            state.partial_head(&searched(tiles_done)),
            Err(ContentError::WrongAnalysis(0)),
            "{tiles_done} tiles"
        );
    }
    let of_nothing = PartialEntry { sequence: 0, partial: Partial { tiles_done: 77, ..Partial::default() } };
    assert_eq!(state.partial_head(&of_nothing), Err(ContentError::WrongAnalysis(0)));
}

#[test]
fn a_worker_goes_on_by_one_unit_of_the_same_picture() {
    let px_max = FaceParams::default().picture_px_max;
    let partial = |tiles_done| searched(tiles_done).partial;
    let says = |tiles_done| UnitOutcome::Partial(partial(tiles_done));
    assert!(says(1).follows(None, px_max));
    assert!(says(5).follows(Some(&partial(4)), px_max));
    assert!(!says(5).follows(Some(&partial(5)), px_max), "no unit further");
    assert!(!says(5).follows(Some(&partial(3)), px_max), "two units further");
    assert!(!says(77).follows(Some(&partial(76)), px_max), "more tiles than the picture has");
    let other = UnitOutcome::Partial(Partial { width_px: 3_000, ..partial(5) });
    assert!(!other.follows(Some(&partial(4)), px_max), "another picture");
    let set_aside = UnitOutcome::Done(Analysis::SetAside { why: "a worker does not decide that".into() });
    assert!(!set_aside.follows(None, px_max));
}
