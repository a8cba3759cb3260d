//! How many of the faces that a video shows were found.

use std::fmt;
use std::iter::Sum;

use serde::Serialize;

use super::Shown;

/// Faces below this are not asked for, px: the smallest that the detector finds at twice the picture's size.
pub const FACE_PX_MIN: f64 = 40.0;
/// Faces of which less is visible are not asked for: they enter, leave, or stand behind somebody.
pub const VISIBLE_MIN: f64 = 0.95;
/// A box is a face's if its middle is not further from the face's than this, in sides of the face …
const OFF_FACES_MAX: f64 = 0.35;
/// … and if neither is larger than the other by more than this factor.
const SCALE_MAX: f64 = 1.7;

/// Faces that were to be found, and what was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Recall {
    /// Faces that were to be found.
    pub faces: u64,
    /// Those that were.
    pub found: u64,
    /// Boxes where there is no face at all.
    pub false_boxes: u64,
}

impl Recall {
    /// Counts a frame; boxes are left, top, right, bottom, px.
    pub fn add(&mut self, shown: &[Shown], boxes: &[[f64; 4]]) {
        for face in shown.iter().filter(|face| face.face_px >= FACE_PX_MIN && face.visible >= VISIBLE_MIN) {
            self.faces += 1;
            self.found += u64::from(boxes.iter().any(|found| is_of(found, face)));
        }
        let no_face = boxes.iter().filter(|found| !shown.iter().any(|face| is_of(found, face)));
        self.false_boxes += no_face.count() as u64;
    }

    /// Of the faces that were to be found those that were, %; `None` if there were none.
    pub fn percent(&self) -> Option<f64> {
        (self.faces > 0).then(|| 100.0 * self.found as f64 / self.faces as f64)
    }
}

/// The share, and of how many faces it is one; a dash if there were none.
impl fmt::Display for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.percent() {
            Some(percent) => write!(f, "{percent:.1} % of {}", self.faces),
            None => f.write_str("–"),
        }
    }
}

/// Of several pictures or videos together.
impl Sum for Recall {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            faces: sum.faces + one.faces,
            found: sum.found + one.found,
            false_boxes: sum.false_boxes + one.false_boxes,
        })
    }
}

/// Whether a box (left, top, right, bottom, px) is around that face.
pub fn is_of([left, top, right, bottom]: &[f64; 4], face: &Shown) -> bool {
    let off = ((left + right) / 2.0 - face.x_px).hypot((top + bottom) / 2.0 - face.y_px);
    let scale = (right - left) / face.face_px;
    off <= OFF_FACES_MAX * face.face_px && (1.0 / SCALE_MAX..=SCALE_MAX).contains(&scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x_px: f64, face_px: f64, visible: f64) -> Shown {
        Shown { walk: 0, name: "somebody", x_px, y_px: 100.0, face_px, visible }
    }

    #[test]
    fn small_and_cut_faces_are_not_asked_for_and_no_false_boxes_if_found() {
        let shown = [face(100.0, 60.0, 1.0), face(300.0, 60.0, 1.0), face(500.0, 30.0, 1.0), face(700.0, 60.0, 0.5)];
        let around = |x: f64, half: f64| [x - half, 100.0 - half, x + half, 100.0 + half];
        let boxes = [around(105.0, 33.0), around(500.0, 15.0), around(700.0, 30.0), around(900.0, 30.0)];
        let mut recall = Recall::default();
        recall.add(&shown, &boxes);
        assert_eq!(recall, Recall { faces: 2, found: 1, false_boxes: 1 });
        assert_eq!(recall.to_string(), "50.0 % of 2");
    }

    #[test]
    fn of_nothing_that_was_to_be_found_no_share_is_said() {
        let recall = Recall { false_boxes: 3, ..Recall::default() };
        assert_eq!((recall.percent(), recall.to_string()), (None, "–".to_owned()));
        let both: Recall = [recall, Recall { faces: 4, found: 3, false_boxes: 1 }].into_iter().sum();
        assert_eq!(both, Recall { faces: 4, found: 3, false_boxes: 4 });
    }
}
