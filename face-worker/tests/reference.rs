//! The engine against stored values of Python's `face_recognition` 1.3.0 with dlib 19.24.6, made by
//! `scripts/reference-encodings.py` from the same pixels.

mod support;

use std::io::Cursor;

use face_worker::{Dlib, Engine, Pixels, analyse, decode};
use image::{ImageFormat, RgbImage};
use microlambda_faces::plan::TILE_SIDE_PX_MAX;
use microlambda_faces::{Analysis, Encoding, FaceOutcome, FaceParams, Rect};
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{models, photo};

/// How far any of the 128 numbers may be from Python's.
const DIFFERENCE_MAX: f32 = 1e-5;

struct Case {
    name: String,
    pixels: Pixels,
    faces: Vec<(Rect, Encoding)>,
}

fn cases() -> Vec<Case> {
    let stored: Value = serde_json::from_str(include_str!("reference/encodings.json")).expect("JSON");
    stored.as_array().expect("a list").iter().map(case).collect()
}

fn case(entry: &Value) -> Case {
    let name = entry["photo"].as_str().expect("a name").to_owned();
    let halvings = entry["halvings"].as_u64().expect("a number");
    let pixels = (0..halvings).fold(decode(&photo(&name)).expect("a photo"), |pixels, _| pixels.half());
    let sum: String = Sha256::digest(pixels.rgb()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        Some(sum.as_str()),
        entry["pixels_sha256"].as_str(),
        "{name} has other pixels than those the reference was made from"
    );
    let side = |face: &Value, key: &str| i32::try_from(face[key].as_i64().expect("a number")).expect("a side");
    let faces = entry["faces"].as_array().expect("a list").iter().map(|face| {
        let rect = Rect {
            left: side(face, "left"),
            top: side(face, "top"),
            right: side(face, "right"),
            bottom: side(face, "bottom"),
        };
        let values = face["encoding"].as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32);
        (rect, Encoding::try_from(values.collect::<Vec<f32>>()).expect("an encoding"))
    });
    Case { name: format!("{name} halved {halvings} times"), faces: faces.collect(), pixels }
}

fn largest_difference(ours: &Encoding, theirs: &Encoding) -> f32 {
    ours.values().iter().zip(theirs.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn encodings_of_pythons_boxes_are_pythons_encodings() {
    let mut engine = Dlib::load(&models()).expect("models");
    let mut compared = 0;
    for Case { name, pixels, faces } in cases() {
        let picture = engine.open(&pixels);
        for (rect, theirs) in faces {
            let (landmarks, _) = engine.align(&pixels, &picture, rect).expect("landmarks");
            let ours = engine.encode(&picture, &landmarks).expect("values");
            let ours = Encoding::try_from(ours).expect("an encoding");
            let difference = largest_difference(&ours, &theirs);
            assert!(difference <= DIFFERENCE_MAX, "{name}, {rect:?}: {difference}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "only {compared} faces");
}

#[test]
fn a_picture_of_one_tile_has_pythons_boxes_and_encodings() {
    let mut engine = Dlib::load(&models()).expect("models");
    let params = FaceParams { face_px_min: 1, sharpness_min: 0.0, score_min: 0.0, ..FaceParams::default() };
    let (mut compared, mut at_an_edge) = (0, 0);
    for Case { name, pixels, faces } in cases() {
        if pixels.width_px().max(pixels.height_px()) > TILE_SIDE_PX_MAX {
            continue;
        }
        let mut png = Cursor::new(Vec::new());
        RgbImage::from_raw(pixels.width_px(), pixels.height_px(), pixels.rgb().to_vec())
            .and_then(|picture| picture.write_to(&mut png, ImageFormat::Png).ok())
            .expect("a PNG");
        let Analysis::Frame(frame) = analyse(&mut engine, params, png.into_inner()).expect("an analysis") else {
            panic!("{name} cannot be read")
        };
        let boxes: Vec<Rect> = frame.faces.iter().map(|face| face.seen.rect).collect();
        let theirs: Vec<Rect> = faces.iter().map(|(rect, _)| *rect).collect();
        assert_eq!(boxes, theirs, "{name}");
        for (face, (rect, theirs)) in frame.faces.iter().zip(&faces) {
            let FaceOutcome::Encoded(ours) = &face.outcome else { panic!("{name}: {face:?}") };
            let difference = largest_difference(ours, theirs);
            assert!(difference <= DIFFERENCE_MAX, "{name}, {rect:?}: {difference}");
            compared += 1;
            let (width, height) = (pixels.width_px() as i32, pixels.height_px() as i32);
            at_an_edge += usize::from(rect.left == 0 || rect.top == 0 || rect.right == width || rect.bottom == height);
        }
    }
    assert!(compared >= 10, "only {compared} faces");
    assert!(at_an_edge > 0, "no box was clipped, so the clipping is not compared");
}
