//! Who walks through a video, and before what: faces with their surroundings and backgrounds, cut from the photos of the data set.

use std::sync::Arc;

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage, Rgba, RgbaImage};

use crate::{Error, data_dir};

/// Half of a cut-out's width, in sides of its face.
const HALF_WIDTH_FACES: f32 = 1.0;
/// Half of its height, in sides of its face: with hair and shoulders.
const HALF_HEIGHT_FACES: f32 = 1.15;
/// Outside of this part of a cut-out, from its centre, it fades away.
const FADES_FROM: f32 = 0.7;
/// Cut-outs are halved as often as this at most: a face of 300 px is drawn with 20.
const HALVES_MAX: usize = 4;

/// Which photos a video is made of: thresholds are chosen on one set, and results reported on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Photos {
    /// `photos/people` and `photos/faceless`, of `make setup`.
    Reported,
    /// `photos/calibration`, of `make calibration`.
    Calibration,
}

/// A face in a photo: the middle of its box and the box's side, px of the photo, as dlib's detector gives them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceAt {
    /// Below `photos`, with the folder.
    pub photo: &'static str,
    /// Who it is: faces with the same name are of one person.
    pub name: &'static str,
    /// From the left, px.
    pub x_px: f32,
    /// From the top, px.
    pub y_px: f32,
    /// Side, px.
    pub side_px: f32,
}

/// A face with hair and shoulders that fades away at its edge.
#[derive(Debug, Clone)]
pub struct Cutout {
    /// Who it is.
    pub name: &'static str,
    /// The cut-out and its halves. The face's middle is the picture's.
    halves: Vec<RgbaImage>,
    /// Side of the face in the first of them, px.
    face_px: f32,
}

/// Everybody who may walk through a video, and what they walk before.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The people.
    pub people: Vec<Arc<Cutout>>,
    /// Pictures without faces, of the video's size.
    pub backgrounds: Vec<Arc<RgbImage>>,
}

impl Cast {
    /// Reads the photos and cuts them; backgrounds fill `size_px`.
    ///
    /// # Errors
    /// A photo is missing or cannot be read.
    pub fn of(photos: Photos, size_px: (u32, u32)) -> Result<Self, Error> {
        let (faces, backgrounds) = match photos {
            Photos::Reported => (REPORTED_FACES, REPORTED_BACKGROUNDS),
            Photos::Calibration => (CALIBRATION_FACES, CALIBRATION_BACKGROUNDS),
        };
        let cut = |face: &FaceAt| Ok(Arc::new(Cutout::cut(&open(face.photo)?.into_rgb8(), face)));
        let background = |name: &&str| {
            let filled = open(name)?.resize_to_fill(size_px.0, size_px.1, FilterType::Triangle);
            Ok(Arc::new(filled.into_rgb8()))
        };
        Ok(Self {
            people: faces.iter().map(cut).collect::<Result<_, Error>>()?,
            backgrounds: backgrounds.iter().map(background).collect::<Result<_, Error>>()?,
        })
    }
}

impl Cutout {
    /// Cuts `face` out of its photo; what would lie beyond the photo's edge is transparent.
    pub fn cut(photo: &RgbImage, face: &FaceAt) -> Self {
        let (half_width, half_height) = (HALF_WIDTH_FACES * face.side_px, HALF_HEIGHT_FACES * face.side_px);
        let (left, top) = ((face.x_px - half_width).round() as i64, (face.y_px - half_height).round() as i64);
        let (width, height) = ((2.0 * half_width).round() as u32, (2.0 * half_height).round() as u32);
        let (photo_width, photo_height) = (i64::from(photo.width()), i64::from(photo.height()));
        // The nearest edge fades: the cut-out's own, or the photo's.
        let reach = |at: f32, middle: f32, half: f32, end: i64| {
            let half = if at < middle { half.min(middle) } else { half.min(end as f32 - middle) };
            ((at - middle) / half).abs()
        };
        let cut = RgbaImage::from_fn(width, height, |x, y| {
            let (x, y) = (left + i64::from(x), top + i64::from(y));
            if x < 0 || y < 0 || x >= photo_width || y >= photo_height {
                return Rgba([0; 4]);
            }
            let across = reach(x as f32 + 0.5, face.x_px, half_width, photo_width);
            let down = reach(y as f32 + 0.5, face.y_px, half_height, photo_height);
            let from_middle = (across.powi(4) + down.powi(4)).powf(0.25);
            let alpha = ((1.0 - from_middle) / (1.0 - FADES_FROM)).clamp(0.0, 1.0);
            let [r, g, b] = photo.get_pixel(x as u32, y as u32).0;
            Rgba([r, g, b, (alpha * 255.0).round() as u8])
        });
        let mut halves = vec![cut];
        while halves.len() <= HALVES_MAX {
            let Some(last) = halves.last() else { break };
            let half = image::imageops::resize(last, last.width() / 2, last.height() / 2, FilterType::Triangle);
            halves.push(half);
        }
        Self { name: face.name, halves, face_px: face.side_px }
    }

    /// The picture to draw a face of `face_px` from, never enlarged by less than half, and its pixels per side of the face.
    pub(super) fn for_face(&self, face_px: f32) -> (&RgbaImage, f32) {
        let halvings = (self.face_px / face_px).max(1.0).log2().floor() as usize;
        let halvings = halvings.min(self.halves.len() - 1);
        (&self.halves[halvings], self.face_px / (1 << halvings) as f32)
    }

    /// Half of the cut-out's width and height, in sides of its face.
    pub(super) fn half_size_faces() -> (f32, f32) {
        (HALF_WIDTH_FACES, HALF_HEIGHT_FACES)
    }
}

fn open(name: &str) -> Result<DynamicImage, Error> {
    let path = data_dir().join("photos").join(name);
    image::open(&path).map_err(|error| format!("{}: {error}; run `make setup calibration`", path.display()).into())
}

const REPORTED_BACKGROUNDS: &[&str] =
    &["faceless/coffee.png", "faceless/brick.png", "faceless/grass.png", "faceless/chelsea.png"];
const CALIBRATION_BACKGROUNDS: &[&str] =
    &["calibration/faceless/motorcycle.png", "calibration/faceless/gravel.png", "calibration/faceless/rocket.jpg"];

/// As dlib's detector finds them at twice the photo's size: `face-worker/tests/reference/encodings.json` has the same boxes.
pub(crate) const REPORTED_FACES: &[FaceAt] = &[
    at("people/obama.jpg", "obama", 483.0, 275.5, 268.0),
    at("people/t1.jpg", "t1, far left", 121.0, 336.5, 108.0),
    at("people/astronaut.png", "astronaut", 220.0, 121.0, 90.0),
    at("people/biden.jpg", "biden", 579.5, 401.5, 321.0),
    at("people/t1.jpg", "t1, left", 518.5, 361.5, 129.0),
    at("people/obama2.jpg", "obama", 304.5, 424.0, 267.0),
    at("people/t1.jpg", "t1, right", 778.0, 420.5, 108.0),
    at("people/obama3.jpg", "obama", 793.5, 437.5, 321.0),
    at("people/t1.jpg", "t1, far right", 1_172.0, 336.5, 108.0),
];

/// The same of the calibration photos.
const CALIBRATION_FACES: &[FaceAt] = &[
    at("calibration/grace_hopper.jpg", "hopper", 273.0, 232.0, 186.0),
    at("calibration/two_men_in_a_car.jpg", "driver", 1_338.5, 268.5, 385.0),
    at("calibration/two_coaches.jpg", "coach", 983.5, 193.0, 155.0),
    at("calibration/two_men_in_a_car.jpg", "passenger", 750.5, 334.5, 267.0),
    at("calibration/einstein_tongue.jpg", "einstein", 391.0, 465.5, 666.0),
];

pub(crate) const fn at(photo: &'static str, name: &'static str, x_px: f32, y_px: f32, side_px: f32) -> FaceAt {
    FaceAt { photo, name, x_px, y_px, side_px }
}
