//! Who is on the reported photos: nine people, none twice, none missed, and nobody on the pictures without faces.
//!
//! At twenty-one sizes and sharpnesses, for what decides must not hang on how a picture happens to be sampled. The defaults that this test uses
//! were chosen on other photos (`docs/quality.md`).

mod support;

use std::io::Cursor;

use face_worker::{Dlib, analyse};
use image::ImageFormat;
use image::imageops::{FilterType, resize};
use microlambda::Digest;
use microlambda_faces::content::Entry;
use microlambda_faces::fold::FoldState;
use microlambda_faces::{Analysis, FaceParams};
use microlambda_wire::Record;
use support::{models, photo};

const PEOPLE: [&str; 9] = [
    "people/32bit.png",
    "people/astronaut.png",
    "people/biden.jpg",
    "people/obama.jpg",
    "people/obama2.jpg",
    "people/obama3.jpg",
    "people/obama_partial_face.jpg",
    "people/obama_partial_face2.jpg",
    "people/t1.jpg",
];
/// Counted by eye.
const PEOPLE_COUNT: usize = 9;
const FACELESS: [&str; 6] = [
    "faceless/brick.png",
    "faceless/chelsea.png",
    "faceless/coffee.png",
    "faceless/coins.png",
    "faceless/grass.png",
    "faceless/moon.png",
];
const SCALES: [f64; 11] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5];

fn scaled(name: &str, scale: f64, filter: FilterType) -> Vec<u8> {
    let bytes = photo(name);
    if scale == 1.0 {
        return bytes;
    }
    let picture = image::load_from_memory(&bytes).expect("a photo").into_rgb8();
    let side = |px: u32| (f64::from(px) * scale).round() as u32;
    let small = resize(&picture, side(picture.width()), side(picture.height()), filter);
    let mut png = Cursor::new(Vec::new());
    small.write_to(&mut png, ImageFormat::Png).expect("a PNG");
    png.into_inner()
}

fn analysis(engine: &mut Dlib, name: &str, scale: f64, filter: FilterType) -> Analysis {
    analyse(engine, FaceParams::default(), scaled(name, scale, filter)).expect("an analysis")
}

/// How many people a chain of these pictures knows in the end.
fn people<'a>(pictures: impl Iterator<Item = &'a Analysis>) -> usize {
    let mut fold = FoldState::genesis(FaceParams::default());
    for (sequence, analysis) in (0_u64..).zip(pictures) {
        let digest = Digest::of(&sequence.to_le_bytes());
        let record = Record::Frame { captured_at_ms: 1_000 * sequence, digest, label: String::new(), moved: None };
        let entry = Entry { sequence, record, analysis: Some(analysis.clone()), engine: String::new() };
        fold.fold(&entry).expect("a record in its turn");
    }
    fold.gallery().people.len()
}

fn nine_people(filter: FilterType) {
    let mut engine = Dlib::load(&models()).expect("models");
    let mut all = Vec::new();
    for scale in SCALES {
        let of_scale: Vec<Analysis> = PEOPLE.iter().map(|name| analysis(&mut engine, name, scale, filter)).collect();
        assert_eq!(people(of_scale.iter()), PEOPLE_COUNT, "at scale {scale}");
        assert_eq!(people(of_scale.iter().rev()), PEOPLE_COUNT, "at scale {scale}, the last one first");
        all.extend(of_scale);
    }
    assert_eq!(people(all.iter()), PEOPLE_COUNT, "at all scales together");
    assert_eq!(people(all.iter().rev()), PEOPLE_COUNT, "from the smallest scale up");
}

#[test]
fn there_are_nine_people_at_every_scale_and_at_all_scales_together() {
    nine_people(FilterType::Lanczos3);
}

#[test]
fn there_are_nine_people_in_softly_scaled_pictures_too() {
    nine_people(FilterType::Triangle);
}

#[test]
fn there_is_nobody_on_pictures_without_faces() {
    let mut engine = Dlib::load(&models()).expect("models");
    for name in FACELESS {
        for scale in SCALES.into_iter().step_by(2) {
            assert!(is_empty(&analysis(&mut engine, name, scale, FilterType::Lanczos3)), "{name} at scale {scale}");
        }
    }
}

fn is_empty(analysis: &Analysis) -> bool {
    matches!(analysis, Analysis::Frame(frame) if frame.faces.is_empty())
}
