//! Who a face is taken for: somebody near, somebody followed, somebody new.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use microlambda::{Digest, Head};
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, Gallery, Sighting};
use microlambda_faces::judge::Why;
use microlambda_faces::recent::{RECENT_FRAMES_MAX, Recent, Seen};
use microlambda_faces::{
    Analysis, ENCODING_LEN, Encoding, Face, FaceOutcome, FaceParams, FrameAnalysis, Rect, SCENE_BLOCKS, Scene, SeenFace,
};
use microlambda_wire::{Area, Areas, EventKind, GapReason, Record};
use proptest::prelude::*;

/// A view of a face: whose, how far from that person's plain view, and how it was seen.
#[derive(Debug, Clone, Copy)]
struct View {
    person: usize,
    turned: f32,
    left_px: i32,
    side_px: i32,
    score: f32,
    sharpness: f32,
}

const CLEAR: View = View { person: 1, turned: 0.0, left_px: 100, side_px: 60, score: 1.5, sharpness: 60.0 };
/// Usable, but no more.
const POOR: View = View { score: 0.4, sharpness: 6.0, ..CLEAR };

fn face(view: View) -> Face {
    let mut values = vec![0.0_f32; ENCODING_LEN];
    values[view.person] = 1.0;
    values[64 + view.person] = view.turned;
    let (right, bottom) = (view.left_px + view.side_px - 1, 100 + view.side_px - 1);
    let rect = Rect { left: view.left_px, top: 100, right, bottom };
    let seen = SeenFace { rect, score: view.score };
    let outcome = FaceOutcome::Encoded(Encoding::try_from(values).unwrap());
    Face { seen, sharpness: view.sharpness, outcome }
}

/// A frame, 200 ms behind the one before it, of the scene of that number.
fn frame(sequence: u64, scene: usize, views: &[View]) -> Entry {
    frame_of(sequence, scene, views, None)
}

/// One that was searched there alone: left, top, width, height.
fn frame_of(sequence: u64, scene: usize, views: &[View], moved: Option<[u16; 4]>) -> Entry {
    let moved = moved.map(|sides| Areas::try_from(vec![Area::try_from(sides).unwrap()]).unwrap());
    let scene =
        Scene(std::array::from_fn::<u8, SCENE_BLOCKS, _>(|at| if (at + scene).is_multiple_of(3) { 200 } else { 20 }));
    let faces = views.iter().copied().map(face).collect();
    let analysis = FrameAnalysis { width_px: 640, height_px: 480, faces, scene: Some(scene), tiles_set_aside: vec![] };
    let digest = Digest::of(&sequence.to_le_bytes());
    let record = Record::Frame { captured_at_ms: 10_000 + 200 * sequence, digest, label: String::new(), moved };
    Entry { sequence, record, analysis: Some(Analysis::Frame(analysis)), engine: "test".into() }
}

/// What a frame of the one scene shows.
fn analysis_of(views: &[View]) -> FrameAnalysis {
    match frame(0, 0, views).analysis {
        Some(Analysis::Frame(analysis)) => analysis,
        other => unreachable!("{other:?}"),
    }
}

/// Folds a video of one scene: why each face of each frame was taken for whom.
fn judged(frames: &[&[View]]) -> (FoldState, Vec<Vec<Why>>) {
    let mut state = FoldState::genesis(FaceParams::default());
    let mut all = Vec::new();
    for (views, sequence) in frames.iter().zip(0..) {
        let entry = frame(sequence, 0, views);
        let (Record::Frame { captured_at_ms, .. }, Some(Analysis::Frame(analysis))) = (&entry.record, &entry.analysis)
        else {
            unreachable!()
        };
        all.push(state.explain(*captured_at_ms, analysis).iter().map(|judgement| judgement.why).collect());
        state.fold(&entry).unwrap();
    }
    (state, all)
}

#[test]
fn a_person_seen_clearly_in_a_video_is_new_at_the_first_sight() {
    let (state, why) = judged(&[&[], &[CLEAR], &[CLEAR]]);
    assert_eq!(why, [vec![], vec![Why::NewFar], vec![Why::Near]]);
    assert_eq!(state.gallery().people.len(), 1);
}

#[test]
fn a_face_in_a_picture_that_continues_no_other_is_new_at_once_however_poor() {
    let (_, why) = judged(&[&[POOR]]);
    assert_eq!(why, [[Why::NewAtOnce]]);
}

#[test]
fn a_poor_first_view_waits_and_the_person_is_new_once_in_a_clear_one() {
    // Somebody else is known, whom a blurred face is like, too.
    let (other, blurred) = (View { person: 1, ..CLEAR }, View { turned: 0.7, ..POOR });
    let clear = View { turned: 1.2, ..CLEAR };
    let (state, why) = judged(&[&[other], &[], &[blurred], &[clear], &[blurred]]);
    assert_eq!(why[2..], [vec![Why::Waiting], vec![Why::NewFar], vec![Why::Near]]);
    assert_eq!(state.gallery().people.len(), 2, "the blurred view alone makes nobody");
}

#[test]
fn a_person_like_somebody_known_who_is_never_seen_clearly_is_new_after_three_views() {
    let alike = View { turned: 0.7, ..POOR };
    let (state, why) = judged(&[&[CLEAR], &[], &[alike], &[], &[alike], &[alike], &[alike]]);
    assert_eq!(why[2..], [vec![Why::Waiting], vec![], vec![Why::Waiting], vec![Why::NewByVote], vec![Why::Near]]);
    assert_eq!(state.gallery().people[1].first.sequence, 5);
}

#[test]
fn somebody_whom_no_view_shows_well_is_new_once_seen_to_move() {
    let at = |left_px: i32| View { score: 0.1, left_px, ..CLEAR };
    let (_, standing) = judged(&[&[], &[at(100)], &[at(101)], &[at(102)], &[at(101)]]);
    assert_eq!(standing[1..], [[Why::Weak], [Why::Weak], [Why::Weak], [Why::Weak]], "a pattern on a wall does that");
    let (_, walking) = judged(&[&[], &[at(100)], &[at(140)], &[at(180)], &[at(220)]]);
    assert_eq!(walking[1..], [[Why::Weak], [Why::Weak], [Why::NewByVote], [Why::Near]]);
}

#[test]
fn a_match_close_to_the_threshold_is_no_ground_to_follow_somebody() {
    let at = |turned: f32| View { turned, ..CLEAR };
    // The second view is 0.58 from somebody known, and the third, much like it, 0.61: three such views are somebody else.
    let (state, why) = judged(&[&[at(0.0)], &[at(0.61)], &[at(0.58)], &[at(0.61)]]);
    assert_eq!(why[1..], [[Why::Waiting], [Why::Near], [Why::NewByVote]]);
    assert_eq!(state.gallery().people.len(), 2);
}

#[test]
fn somebody_who_stood_still_while_others_moved_is_followed_as_if_nothing_had_happened() {
    let at = |turned: f32| View { turned, ..CLEAR };
    let frames: Vec<Entry> = (0..40)
        .map(|sequence| match sequence {
            0 => frame(0, 0, &[at(0.0)]),
            1 => frame(1, 0, &[at(0.29)]),
            // Somebody walks about on the right; on the left nothing is searched.
            2..39 => frame_of(sequence, 0, &[View { person: 2, left_px: 400, ..CLEAR }], Some([380, 80, 120, 120])),
            _ => frame_of(sequence, 0, &[at(0.65)], Some([80, 80, 120, 120])),
        })
        .collect();
    let mut state = FoldState::genesis(FaceParams::default());
    for entry in &frames[..39] {
        state.fold(entry).unwrap();
    }
    let Some(Analysis::Frame(last)) = &frames[39].analysis else { unreachable!() };
    let judged = state.explain(10_000 + 200 * 39, last);
    assert_eq!(judged.iter().map(|judgement| judgement.why).collect::<Vec<_>>(), [Why::Followed]);
}

#[test]
fn somebody_who_turns_is_followed_and_the_new_view_is_kept() {
    let at = |turned: f32| View { turned, ..CLEAR };
    // The last view is 0.66 from the first, but 0.36 from the one before it.
    let (state, why) = judged(&[&[at(0.0)], &[at(0.3)], &[at(0.66)], &[at(0.66)]]);
    assert_eq!(why, [[Why::NewAtOnce], [Why::Near], [Why::Near], [Why::Near]]);
    assert_eq!(state.gallery().people.len(), 1);
    let far = View { turned: 0.65, ..POOR };
    let (state, why) = judged(&[&[at(0.0)], &[at(0.29)], &[far], &[far]]);
    assert_eq!(why[1..], [[Why::Near], [Why::Followed], [Why::Followed]]);
    assert_eq!(state.gallery().people[0].exemplars.len(), 1, "a poor view is not kept");
    assert_eq!(state.gallery().people[0].frames, 4);
}

#[test]
fn a_face_too_far_away_to_be_the_one_before_is_not_followed() {
    let (turning, turned) = (View { turned: 0.29, ..CLEAR }, View { turned: 0.65, left_px: 560, ..POOR });
    let (_, why) = judged(&[&[CLEAR], &[turning], &[turned]]);
    assert_eq!(why[2], [Why::Waiting]);
}

#[test]
fn whoever_is_still_in_the_picture_is_not_followed_to_a_second_face() {
    let beside = View { turned: 0.65, left_px: 180, ..CLEAR };
    let (state, why) = judged(&[&[CLEAR], &[CLEAR, beside]]);
    assert_eq!(why[1], [Why::Near, Why::Waiting], "within the margin of somebody known, so it takes a vote");
    assert_eq!(state.gallery().people.len(), 1);
}

#[test]
fn two_people_who_pass_each_other_stay_two() {
    let at = |person: usize, left_px: i32| View { person, left_px, ..CLEAR };
    let frames: Vec<[View; 2]> = (0..8).map(|n| [at(1, 50 + 60 * n), at(2, 500 - 60 * n)]).collect();
    let frames: Vec<&[View]> = frames.iter().map(|views| views.as_slice()).collect();
    let (state, _) = judged(&frames);
    assert_eq!(state.gallery().people.iter().map(|person| person.frames).collect::<Vec<_>>(), [8, 8]);
}

#[test]
fn nothing_is_followed_into_another_scene_or_past_a_gap() {
    let (turning, turned) = (View { turned: 0.29, ..CLEAR }, View { turned: 0.65, ..POOR });
    let mut state = FoldState::genesis(FaceParams::default());
    state.fold(&frame(0, 0, &[CLEAR])).unwrap();
    state.fold(&frame(1, 0, &[turning])).unwrap();
    let gap = Record::Gap { count: 1, reason: GapReason::SpoolFull };
    let mut past_gap = state.clone();
    past_gap.fold(&Entry { sequence: 2, record: gap, analysis: None, engine: String::new() }).unwrap();
    let news = |state: &mut FoldState, entry: Entry| state.fold(&entry).unwrap().sightings[0].event;
    assert_eq!(news(&mut past_gap, frame(3, 0, &[turned])), Some(EventKind::NewFace));
    assert_eq!(news(&mut state.clone(), frame(2, 1, &[turned])), Some(EventKind::NewFace));
    assert_eq!(news(&mut state, frame(2, 0, &[turned])), None);
}

#[test]
fn one_face_found_twice_in_a_picture_is_one_person() {
    let (state, why) = judged(&[&[CLEAR, View { left_px: 110, turned: 0.1, ..CLEAR }]]);
    assert_eq!(why, [[Why::NewAtOnce, Why::Near]]);
    assert_eq!((state.gallery().people.len(), state.gallery().people[0].frames), (1, 1));
}

#[test]
fn two_faces_beside_each_other_are_two_people_unless_they_are_much_alike() {
    let beside = View { turned: 0.55, left_px: 300, ..CLEAR };
    let (state, why) = judged(&[&[CLEAR, beside]]);
    assert_eq!(why, [[Why::NewAtOnce, Why::NewAtOnce]]);
    let (_, why) = judged(&[&[CLEAR, View { left_px: 110, ..beside }]]);
    assert_eq!(why, [[Why::NewAtOnce, Why::Near]], "unless it is one face found twice");
    let (_, why) = judged(&[&[CLEAR, View { turned: 0.45, ..beside }]]);
    assert_eq!(why, [[Why::NewAtOnce, Why::Near]], "or may be a mirror");
    let (_, why) = judged(&[&[CLEAR, View { sharpness: 20.0, ..beside }]]);
    assert_eq!(why, [[Why::NewAtOnce, Why::NewAtOnce]], "however sharp");
    assert_eq!(state.gallery().people.len(), 2);
}

#[test]
fn each_of_two_faces_is_given_the_person_that_it_is_nearest_to() {
    // The one that is found first is nearer to nobody else, but the other is nearer to the same person.
    let (near, far) = (View { turned: 0.1, left_px: 300, ..CLEAR }, View { turned: 0.58, ..CLEAR });
    let (state, why) = judged(&[&[CLEAR], &[far, near], &[far, near], &[far, near]]);
    assert_eq!(why[1], [Why::Waiting, Why::Near]);
    assert_eq!(why[3], [Why::NewByVote, Why::Near], "somebody like the first one, seen often enough");
    let judgement = state.explain(20_000, &analysis_of(&[far, near]));
    assert_eq!(judgement.iter().map(|judged| judged.person).collect::<Vec<_>>(), [Some(1), Some(0)]);
    let two = state.explain(20_000, &analysis_of(&[View { left_px: 400, ..far }, far]));
    assert_eq!(two[1].person, Some(1));
    assert_eq!(two[0].elsewhere, None, "as near as the one beside it: a mirror");
}

#[test]
fn somebody_found_weakly_who_comes_nearer_has_moved() {
    let weak = |sides: i32| View { score: 0.1, side_px: sides, ..CLEAR };
    let (_, why) = judged(&[&[weak(60)], &[weak(72)], &[weak(92)]]);
    assert_eq!(why, [[Why::Weak], [Why::Weak], [Why::NewByVote]]);
    let (_, why) = judged(&[&[weak(60)], &[weak(72)], &[weak(72)]]);
    assert_eq!(why[2], [Why::Weak], "a pattern may be found in two sizes");
}

fn any_view() -> impl Strategy<Value = View> {
    let turned = prop::sample::select(vec![0.0_f32, 0.2, 0.4, 0.62, 0.7, 0.9]);
    let seen = prop::sample::select(vec![(1.5_f32, 60.0_f32), (0.4, 6.0), (0.1, 60.0)]);
    (1..4_usize, turned, 0..500_i32, seen).prop_map(|(person, turned, left_px, (score, sharpness))| View {
        person,
        turned,
        left_px,
        side_px: 60,
        score,
        sharpness,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What a store does: it keeps records, people and sightings, and makes the rest from the last records.
    #[test]
    fn the_last_records_are_all_there_is_to_remember(
        frames in prop::collection::vec((0..400_usize, prop::collection::vec(any_view(), 0..4), prop::option::of(0..600_u16)), 1..100),
    ) {
        let mut state = FoldState::genesis(FaceParams::default());
        let mut past: Vec<(Entry, Vec<Seen>)> = Vec::new();
        for ((scene, views, moved), sequence) in frames.into_iter().zip(0..) {
            // Mostly the same scene, so that there is something to follow.
            let moved = moved.map(|left_px| [left_px, 80, 200, 200]);
            let entry = frame_of(sequence, if scene < 396 { 0 } else { scene }, &views, moved);
            let folded = state.fold(&entry).unwrap();
            let seen = |s: &Sighting| Seen { face_index: s.face_index, person: s.person, distance: s.distance };
            past.push((entry, folded.sightings.iter().map(seen).collect()));
            let mut recent = Recent::default();
            for (entry, people) in &past[past.len().saturating_sub(RECENT_FRAMES_MAX)..] {
                recent.push(entry, people);
            }
            let gallery = Gallery { recent, ..state.gallery().clone() };
            prop_assert_eq!(&gallery, state.gallery());
            let head: Head = state.head();
            state = FoldState::restore(FaceParams::default(), head, gallery);
        }
    }

    /// Whatever is seen, each face is somebody's at most once, people are numbered as they come, and those known stay known.
    #[test]
    fn judgements_and_sightings_agree(frames in prop::collection::vec(prop::collection::vec(any_view(), 0..5), 1..20)) {
        let mut state = FoldState::genesis(FaceParams::default());
        for (views, sequence) in frames.iter().zip(0..) {
            let entry = frame(sequence, 0, views);
            let Some(Analysis::Frame(analysis)) = &entry.analysis else { unreachable!() };
            let before = state.gallery().people.len();
            let judgements = state.explain(10_000 + 200 * sequence, analysis);
            let folded = state.fold(&entry).unwrap();
            prop_assert_eq!(judgements.len(), views.len());
            let people: Vec<usize> = judgements.iter().filter_map(|judgement| judgement.person).collect();
            prop_assert_eq!(people, folded.sightings.iter().map(|seen| seen.person).collect::<Vec<_>>());
            let new = judgements.iter().filter(|judgement| judgement.why.is_new()).count();
            prop_assert_eq!(state.gallery().people.len(), before + new);
            prop_assert!(folded.sightings.iter().all(|seen| seen.person < before + new));
        }
    }
}
