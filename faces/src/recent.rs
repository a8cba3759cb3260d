//! What the last frames of a view showed: who was where a moment ago.
//!
//! A function of the last [`RECENT_FRAMES_MAX`] records alone, so that a store need not keep it: it is made again from these.

use std::collections::VecDeque;
use std::sync::Arc;

use microlambda_wire::{Areas, Record};

use crate::content::Entry;
use crate::fold::CONFIDENT_PART;
use crate::{Analysis, Encoding, FaceOutcome, FaceParams, Rect, Scene};

/// Frames that are remembered: more than a camera takes in `still-interval-s` at its default and 10 a second, for after that it has all of a
/// picture searched.
pub const RECENT_FRAMES_MAX: usize = 64;
/// Of them so many are looked back on that were searched where the face is; in the others it looked as before. A face is found in most
/// frames of a walk, but seldom missed in more than three in a row.
const LOOKED_MAX: usize = 10;
/// Frames further apart in time do not continue each other, ms: longer than a camera leaves out pictures in which nothing moves.
const PAUSE_MS_MAX: u64 = 10_000;
/// Two views of one person a moment apart are nearer than the threshold by this: they are of the same pose, in the same light. On generated
/// videos (`benches/quality.rs`) 0.2 is usual.
pub(crate) const VIEW_SLACK: f64 = 0.1;
/// How far a face gets, in thousandths of its size: in no time (what its box jumps by) …
const REACH_AT_ONCE: i64 = 500;
/// … and for each ms: at walking pace, 1.4 m/s, some 9 faces of 0.16 m a second.
const REACH_PER_MS: i64 = 10;
/// Times between frames are taken for at least and at most this, ms: those of files may be anything.
const STEP_MS: std::ops::RangeInclusive<u64> = 100..=500;

/// A usable face of a recent frame.
#[derive(Debug, Clone, PartialEq)]
struct RecentFace {
    rect: Rect,
    encoding: Encoding,
    /// Whom it was taken for, if anybody.
    seen: Option<Seen>,
}

#[derive(Debug, Clone, PartialEq)]
struct RecentFrame {
    captured_at_ms: u64,
    scene: Scene,
    /// Where alone it was searched, if not everywhere.
    moved: Option<Areas>,
    faces: Vec<RecentFace>,
}

impl RecentFrame {
    fn was_searched_at(&self, rect: Rect) -> bool {
        let touches = |area| rect.intersect(&Rect::from(area)).area() > 0;
        self.moved.as_ref().is_none_or(|areas| areas.iter().any(touches))
    }
}

/// Whom a face of a record was taken for, as stores keep it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// The face in its frame.
    pub face_index: u32,
    /// [`crate::fold::Person::number`].
    pub person: usize,
    /// To that person's nearest kept encoding then.
    pub distance: f64,
}

impl Seen {
    /// A match close to the threshold is no ground to follow that person; one beyond it was followed from where it was sure.
    fn is_sure(&self, params: &FaceParams) -> bool {
        self.distance <= params.distance_max * CONFIDENT_PART || self.distance > params.distance_max
    }
}

/// The last frames of one view, the newest last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recent(VecDeque<Arc<RecentFrame>>);

/// What a face has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Trail {
    /// Who was surely there a moment ago, and how far that view is.
    pub person: Option<(usize, f64)>,
    /// Views of it in recent frames, if they are surely of nobody.
    pub views: u32,
    /// Whether it has moved by half of its size, or come that much nearer.
    pub moved: bool,
}

impl Recent {
    /// Whether a frame goes on with the view.
    pub(crate) fn continued_by(&self, captured_at_ms: u64, scene: Option<&Scene>) -> bool {
        self.0.back().zip(scene).is_some_and(|(last, scene)| {
            captured_at_ms.abs_diff(last.captured_at_ms) <= PAUSE_MS_MAX && scene.continues(&last.scene)
        })
    }

    /// Takes what a record showed, and whom its faces were taken for. The last [`RECENT_FRAMES_MAX`] records, in order, lead to the same wherever
    /// it began.
    pub fn push(&mut self, entry: &Entry, seen: &[Seen]) {
        let frame = match (&entry.record, &entry.analysis) {
            (Record::Frame { captured_at_ms, moved, .. }, Some(Analysis::Frame(analysis))) => {
                Some((*captured_at_ms, moved, analysis))
            }
            _ => None,
        };
        let frame = frame.and_then(|(at, moved, found)| Some((at, moved.clone(), found, found.scene?)));
        let Some((captured_at_ms, moved, analysis, scene)) = frame else {
            self.0.clear();
            return;
        };
        if !self.continued_by(captured_at_ms, Some(&scene)) {
            self.0.clear();
        }
        let faces = analysis.faces.iter().zip(0_u32..).filter_map(|(face, index)| {
            let FaceOutcome::Encoded(encoding) = &face.outcome else { return None };
            let seen = seen.iter().find(|seen| seen.face_index == index).copied();
            Some(RecentFace { rect: face.seen.rect, encoding: encoding.clone(), seen })
        });
        self.0.push_back(Arc::new(RecentFrame { captured_at_ms, scene, moved, faces: faces.collect() }));
        while self.0.len() > RECENT_FRAMES_MAX {
            self.0.pop_front();
        }
    }

    /// Follows a face back through the frames: in each the most similar one that is near enough in place and view.
    pub(crate) fn trail(&self, params: &FaceParams, captured_at_ms: u64, rect: Rect, encoding: &Encoding) -> Trail {
        let mut trail = Trail::default();
        let (first, mut at_ms, mut rect, mut encoding) = (rect, captured_at_ms, rect, encoding);
        let mut looked = 0;
        for frame in self.0.iter().rev() {
            looked += usize::from(frame.was_searched_at(rect));
            if looked > LOOKED_MAX {
                break;
            }
            let near =
                frame.faces.iter().filter(|face| in_reach(rect, face.rect, at_ms.abs_diff(frame.captured_at_ms)));
            let views = near.map(|face| (face, face.encoding.distance(encoding)));
            let nearest = views.min_by(|a, b| a.1.total_cmp(&b.1));
            let Some((face, far)) = nearest.filter(|(_, far)| *far <= params.distance_max - VIEW_SLACK) else {
                continue;
            };
            if let Some(seen) = face.seen.filter(|seen| seen.is_sure(params)) {
                trail.person = Some((seen.person, far));
                break;
            }
            trail.views += 1;
            trail.moved |= has_moved(first, face.rect);
            (at_ms, rect, encoding) = (frame.captured_at_ms, face.rect, &face.encoding);
        }
        trail
    }
}

/// Whether one face can have moved from `a` to `b` in a time.
fn in_reach(a: Rect, b: Rect, time_ms: u64) -> bool {
    let (larger, smaller) = (a.width().max(b.width()), a.width().min(b.width()));
    let time_ms = i64::try_from(time_ms.clamp(*STEP_MS.start(), *STEP_MS.end())).unwrap_or(i64::MAX);
    let reach = larger * (REACH_AT_ONCE + REACH_PER_MS * time_ms) / 1_000;
    let (moved_x, moved_y) = moved(a, b);
    // Half again as large, at most.
    2 * larger <= 3 * smaller && moved_x <= reach && moved_y <= reach
}

/// Whether the middle is further than half of the larger box's width away, or one box is larger by more than two steps of the detector's sizes: what
/// stays in its place may be found in neighbouring ones.
fn has_moved(a: Rect, b: Rect) -> bool {
    let (moved_x, moved_y) = moved(a, b);
    let (larger, smaller) = (a.width().max(b.width()), a.width().min(b.width()));
    2 * moved_x.max(moved_y) >= larger || 2 * larger >= 3 * smaller
}

/// How far the middles are from each other, px.
fn moved(a: Rect, b: Rect) -> (i64, i64) {
    let twice = |from: i32, to: i32| i64::from(from) + i64::from(to);
    let moved_x = (twice(a.left, a.right) - twice(b.left, b.right)).abs() / 2;
    let moved_y = (twice(a.top, a.bottom) - twice(b.top, b.bottom)).abs() / 2;
    (moved_x, moved_y)
}
