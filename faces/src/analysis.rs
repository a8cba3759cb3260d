//! What a frame showed: recorded once, kept and replicated, never recomputed.

use microlambda_wire::{Area, Areas};
use serde::{Deserialize, Serialize};

use crate::plan::{NextUnit, Plan};
use crate::{Encoding, Scene};

/// No picture has more faces: of more, the surest are taken.
pub const FACES_MAX: usize = 256;

/// A rectangle in pixels of the upright picture; all four sides are inside it, as in dlib and Python's `face_recognition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rect {
    /// Leftmost column.
    pub left: i32,
    /// Topmost row.
    pub top: i32,
    /// Rightmost column.
    pub right: i32,
    /// Bottom row.
    pub bottom: i32,
}

impl Rect {
    /// Columns, at least 0.
    pub fn width(&self) -> i64 {
        (i64::from(self.right) - i64::from(self.left) + 1).max(0)
    }

    /// Rows, at least 0.
    pub fn height(&self) -> i64 {
        (i64::from(self.bottom) - i64::from(self.top) + 1).max(0)
    }

    /// Pixels inside.
    pub fn area(&self) -> i64 {
        self.width() * self.height()
    }

    /// Whether the middle of `other` lies inside.
    pub fn holds_middle_of(&self, other: &Self) -> bool {
        let twice = |from: i32, to: i32| i64::from(from) + i64::from(to);
        let inside = |from: i32, middle: i64, to: i32| 2 * i64::from(from) <= middle && middle <= 2 * i64::from(to);
        inside(self.left, twice(other.left, other.right), self.right)
            && inside(self.top, twice(other.top, other.bottom), self.bottom)
    }

    /// The part inside `other`; of area 0 if there is none.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }
}

impl From<Area> for Rect {
    fn from(area: Area) -> Self {
        let last = |first: u16, length: u16| i32::from(first) + i32::from(length) - 1;
        Self {
            left: area.left_px.into(),
            top: area.top_px.into(),
            right: last(area.left_px, area.width_px),
            bottom: last(area.top_px, area.height_px),
        }
    }
}

/// What decides an analysis beside the pixels. Part of the lambda's identity: nodes with different values do not share a chain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FaceParams {
    /// Two encodings closer than this are of one person (Euclidean).
    pub distance_max: f64,
    /// Faces whose box is smaller than this on its shorter side are unusable, px. The default is the smallest box that the
    /// detector gives: such faces compare as well as larger ones (`docs/quality.md`).
    pub face_px_min: u32,
    /// Faces whose aligned chip has a smaller sharpness (variance of its Laplacian) are unusable. At the default nine of ten
    /// encodings lie within 0.4 of the same face unblurred (`docs/quality.md`).
    pub sharpness_min: f32,
    /// Detections with a lower score are not recorded at all (dlib's own threshold is 0), unless a second look makes somebody new of them.
    pub score_min: f32,
    /// A face with a lower score may be recognised, but is no evidence for somebody new: it is in profile, cut, or no face at
    /// all, and what it is compared with later would differ.
    pub new_person_score_min: f32,
    /// Somebody known is reported again after not having been seen for this long, ms of capture time.
    pub absence_ms: u64,
    /// Pictures of more pixels are scaled down to this before they are searched.
    pub picture_px_max: u32,
}

impl Default for FaceParams {
    fn default() -> Self {
        Self {
            distance_max: 0.6,
            face_px_min: 36,
            sharpness_min: 4.0,
            score_min: 0.0,
            new_person_score_min: 0.4,
            absence_ms: 60_000,
            picture_px_max: 16_000_000,
        }
    }
}

/// Why a face that was seen cannot be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unusable {
    /// The shorter side of the box is below [`FaceParams::face_px_min`].
    TooSmall {
        /// Shorter side, px.
        face_px: u32,
    },
    /// Sharpness is below [`FaceParams::sharpness_min`].
    Blurred {
        /// Variance of the Laplacian.
        sharpness: f32,
    },
    /// The engine gave an encoding that is not 128 finite numbers.
    NoEncoding,
    /// Encoding this face failed on different nodes, or repeatedly where there is only one.
    SetAside {
        /// What happened.
        why: String,
    },
    /// Found below [`FaceParams::score_min`], and a second look did not make it sure. Left out of finished analyses.
    NoFace,
}

/// What became of a face.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FaceOutcome {
    /// Usable.
    Encoded(Encoding),
    /// Seen, but not comparable.
    Unusable(Unusable),
}

/// A face found in a picture, not yet encoded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SeenFace {
    /// The box, clipped to the picture.
    pub rect: Rect,
    /// The detector's score, of an encoded face below [`crate::judge::CLEAR_SCORE_MIN`] that of a second look; higher is surer, true faces are mostly above 0.6.
    pub score: f32,
}

/// A face of a finished analysis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Face {
    /// Where, and how sure.
    pub seen: SeenFace,
    /// Variance of the Laplacian of the aligned chip; 0 if no chip was cut.
    pub sharpness: f32,
    /// The encoding, or the reason why there is none.
    pub outcome: FaceOutcome,
}

/// A tile of the search plan that was set aside, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// Index into the picture's plan.
    pub index: u32,
    /// What happened.
    pub why: String,
}

/// The finished analysis of a picture that could be read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FrameAnalysis {
    /// Columns of the upright picture, px.
    pub width_px: u32,
    /// Rows of the upright picture, px.
    pub height_px: u32,
    /// Faces from the surest down (ties by box).
    pub faces: Vec<Face>,
    /// Tiles in which nothing could be searched.
    pub tiles_set_aside: Vec<Tile>,
    /// The picture's coarse light, to tell whether it continues the one before; `None` if it is too small, or its first unit was set aside.
    pub scene: Option<Scene>,
}

/// What one frame showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Analysis {
    /// The picture was searched.
    Frame(FrameAnalysis),
    /// The picture cannot be decoded or is outside the bounds; says why, and what to do.
    Unreadable {
        /// Reason, for people.
        why: String,
    },
    /// The first unit of the frame failed on different nodes, or repeatedly where there is only one.
    SetAside {
        /// Reason, for people.
        why: String,
    },
}

/// An analysis under way: the state inside a frame, after `units()` units.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Partial {
    /// Columns of the upright picture, px.
    pub width_px: u32,
    /// Rows of the upright picture, px.
    pub height_px: u32,
    /// Tiles of the plan done (or set aside) so far.
    pub tiles_done: u32,
    /// Raw detections of these tiles in picture coordinates, in the order found; emptied by the merge after the last tile.
    pub found: Vec<SeenFace>,
    /// After the last tile: all faces to encode, surest first.
    pub to_encode: Vec<SeenFace>,
    /// Faces of `to_encode` done so far, in its order.
    pub faces: Vec<Face>,
    /// Tiles set aside so far.
    pub tiles_set_aside: Vec<Tile>,
    /// As [`FrameAnalysis::scene`], from the first unit on.
    pub scene: Option<Scene>,
    /// Where alone the picture is searched; `None` for all of it.
    pub moved: Option<Areas>,
}

impl Face {
    /// Whether it is in a finished analysis.
    pub fn is_recorded(&self) -> bool {
        !matches!(self.outcome, FaceOutcome::Unusable(Unusable::NoFace))
    }

    /// Whether its unit was set aside.
    pub fn is_set_aside(&self) -> bool {
        matches!(self.outcome, FaceOutcome::Unusable(Unusable::SetAside { .. }))
    }
}

impl Partial {
    /// Units done inside the frame: the third part of a chain's version.
    pub fn units(&self) -> u32 {
        self.tiles_done.saturating_add(u32::try_from(self.faces.len()).unwrap_or(u32::MAX))
    }

    /// The plan that it is a state of.
    pub fn plan(&self, picture_px_max: u32) -> Plan {
        Plan::of_moved(self.width_px, self.height_px, picture_px_max, self.moved.as_ref())
    }

    /// Whether it can be the state of some picture between two of its units.
    pub fn is_sound(&self, picture_px_max: u32) -> bool {
        let plan = self.plan(picture_px_max);
        self.units() > 0 && plan.accepts(self) && plan.next_unit(self) != NextUnit::Finished
    }
}
