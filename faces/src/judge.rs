//! Who a face is taken for, and why.
//!
//! A face near a kept encoding is that person's, unless another face beside it in the picture is nearer. One that is not may still be somebody just seen in an odd view: it is followed back through the last
//! frames. Only what is left can be somebody new: at once if nobody known is anywhere near, or in a picture that continues no other, else after a
//! vote of further views. So a walk past the camera is one person, and a single photo decides as it always did.

use serde::Serialize;

use crate::fold::Gallery;
use crate::recent::VIEW_SLACK;
use crate::{Encoding, Face, FaceOutcome, FaceParams, FrameAnalysis};

/// A view is clear from this detector score on: below lie profiles and faces half covered (`docs/quality.md`). What the detector finds more weakly is
/// looked at again.
pub const CLEAR_SCORE_MIN: f32 = 0.6;
/// … and from this sharpness on: 90 % of encodings lie within 0.32 of the same face unblurred (`docs/quality.md`).
pub const CLEAR_SHARPNESS_MIN: f32 = 10.0;
/// A clear view is somebody new if nobody known is nearer than the threshold and this …
const CLEAR_MARGIN: f64 = 0.05;
/// … and one that is not clear if nobody is nearer than the threshold and this: views of the same person hardly ever are as far from each other.
const UNCLEAR_MARGIN: f64 = 0.15;
/// So many views, the last one counted, are enough for somebody new who is within these margins.
pub const VIEWS_MIN: u32 = 3;

/// Why a face was taken for whom it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A kept encoding of that person is within the threshold.
    Near,
    /// It is too far from all of them, but goes on where that person was seen a moment before.
    Followed,
    /// Somebody new: the picture continues no other, so there is nothing to wait for.
    NewAtOnce,
    /// Somebody new: nobody known is anywhere near.
    NewFar,
    /// Somebody new: not far from somebody known, but seen often enough in a row.
    NewByVote,
    /// Nobody yet: further views have to confirm it.
    Waiting,
    /// Nobody: found too weakly to be evidence for somebody new.
    Weak,
}

impl Why {
    /// Whether it makes somebody new.
    pub fn is_new(self) -> bool {
        matches!(self, Self::NewAtOnce | Self::NewFar | Self::NewByVote)
    }
}

/// What was decided about a usable face, and on which grounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// The face in its frame.
    pub face_index: u32,
    /// Whom it was taken for: [`crate::fold::Person::number`].
    pub person: Option<usize>,
    /// Why.
    pub why: Why,
    /// The nearest person known before, and the distance.
    pub nearest: Option<(usize, f64)>,
    /// Somebody known who is within the threshold, but whom another face of the picture is nearer to, and the distance.
    pub elsewhere: Option<(usize, f64)>,
    /// Who was surely there a moment ago, and how far that view is.
    pub followed: Option<(usize, f64)>,
    /// Views of it in a row, this one counted, if nobody is followed.
    pub views: u32,
    /// Whether it has moved by half of its size over these views.
    pub moved: bool,
    /// Whether it may be evidence for somebody new by itself.
    pub strong: bool,
    /// Whether the view is clear: score and sharpness.
    pub clear: bool,
}

/// A usable face under judgement.
type Judged<'a> = (Judgement, &'a Face, &'a Encoding);

/// Judges the usable faces of a frame, in their order.
pub(crate) fn judge(
    params: &FaceParams,
    gallery: &Gallery,
    captured_at_ms: u64,
    frame: &FrameAnalysis,
) -> Vec<Judgement> {
    let alone = !gallery.recent.continued_by(captured_at_ms, frame.scene.as_ref());
    let usable = frame.faces.iter().zip(0_u32..).filter_map(|(face, index)| match &face.outcome {
        FaceOutcome::Encoded(encoding) => Some((face, index, encoding)),
        FaceOutcome::Unusable(_) => None,
    });
    let mut judged: Vec<Judged<'_>> = usable
        .map(|(face, face_index, encoding)| {
            let judgement = Judgement {
                face_index,
                person: None,
                why: Why::Near,
                nearest: gallery.nearest(encoding),
                elsewhere: None,
                followed: None,
                views: 0,
                moved: false,
                strong: face.seen.score >= params.new_person_score_min,
                clear: face.seen.score >= CLEAR_SCORE_MIN && face.sharpness >= CLEAR_SHARPNESS_MIN,
            };
            (judgement, face, encoding)
        })
        .collect();
    take_nearest(params, gallery, &mut judged);
    let mut new: Vec<(&Face, &Encoding)> = Vec::new();
    for at in 0..judged.len() {
        let (mut judgement, face, encoding) = judged[at];
        if judgement.person.is_some() {
            continue;
        }
        let here: Vec<usize> = judged.iter().filter_map(|(other, _, _)| other.person).collect();
        if !alone {
            let trail = gallery.recent.trail(params, captured_at_ms, face.seen.rect, encoding);
            // Whoever is in the picture already is not this one.
            let may_be = |person: &usize| !here.contains(person) && gallery.person(*person).is_some();
            judgement.followed = trail.person.filter(|(person, _)| may_be(person));
            (judgement.views, judgement.moved) = (trail.views + 1, trail.moved);
        }
        let is_twin = |other: &(&Face, &Encoding)| {
            let far = other.1.distance(encoding);
            far <= params.distance_max && !are_two(params, far, other.0, face)
        };
        let twin = new.iter().position(is_twin);
        (judgement.person, judgement.why) = match (twin, judgement.followed) {
            (Some(twin), _) => (Some(gallery.ever + twin), Why::Near),
            (None, Some((person, _))) => (Some(person), Why::Followed),
            (None, None) => match unknown(params, &judgement, alone) {
                why if why.is_new() => (Some(gallery.ever + new.len()), why),
                why => (None, why),
            },
        };
        if judgement.why.is_new() {
            new.push((face, encoding));
        }
        judged[at].0 = judgement;
    }
    judged.into_iter().map(|(judgement, _, _)| judgement).collect()
}

/// Gives each face the nearest person within the threshold, the nearest pair first. Whoever is surely in the picture already is not this one as
/// well; then the next one may be, and after that nobody.
fn take_nearest(params: &FaceParams, gallery: &Gallery, judged: &mut [Judged<'_>]) {
    let within = |nearest: Option<(usize, f64)>| nearest.filter(|(_, far)| *far <= params.distance_max);
    let mut claims: Vec<(usize, Option<(usize, f64)>)> =
        judged.iter().enumerate().map(|(at, (judgement, _, _))| (at, within(judgement.nearest))).collect();
    let far = |claim: &Option<(usize, f64)>| claim.map_or(f64::INFINITY, |(_, far)| far);
    while let Some(least) = (0..claims.len()).min_by(|a, b| far(&claims[*a].1).total_cmp(&far(&claims[*b].1))) {
        let (at, Some((person, far))) = claims[least] else { return };
        let (_, face, encoding) = judged[at];
        let is_there =
            judged.iter().any(|(other, beside, _)| other.person == Some(person) && are_two(params, far, beside, face));
        let judgement = &mut judged[at].0;
        if !is_there {
            judgement.person = Some(person);
            claims.swap_remove(least);
        } else if judgement.elsewhere.is_none() {
            judgement.elsewhere = Some((person, far));
            claims[least].1 = within(gallery.nearest_but(encoding, Some(person)));
        } else {
            claims.swap_remove(least);
        }
    }
}

/// Whether two faces beside each other in a picture are two people, though within the threshold of one. What is nearer than a view of the same person a
/// moment before may be a mirror or a screen, and what lies within the other's box one face found twice.
fn are_two(params: &FaceParams, far: f64, a: &Face, b: &Face) -> bool {
    let (a, b) = (a.seen.rect, b.seen.rect);
    far > params.distance_max - VIEW_SLACK && !a.holds_middle_of(&b) && !b.holds_middle_of(&a)
}

/// What becomes of a face that is nobody's.
fn unknown(params: &FaceParams, judgement: &Judgement, alone: bool) -> Why {
    let beyond = |margin: f64| judgement.nearest.is_none_or(|(_, far)| far > params.distance_max + margin);
    let far = beyond(if judgement.clear { CLEAR_MARGIN } else { UNCLEAR_MARGIN });
    let vote = judgement.views >= VIEWS_MIN;
    // What is found weakly again and again at one place may be a pattern on a wall.
    let evidence = judgement.strong || (vote && judgement.moved && beyond(CLEAR_MARGIN));
    if !evidence {
        Why::Weak
    } else if alone {
        Why::NewAtOnce
    } else if judgement.strong && far {
        Why::NewFar
    } else if vote {
        Why::NewByVote
    } else {
        Why::Waiting
    }
}
