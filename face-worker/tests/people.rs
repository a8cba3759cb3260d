//! Who is on the reported photos: nine people, none twice, none missed, and nobody on the pictures without faces.
//!
//! The rule here is the plainest there is, nearest known encoding within the threshold; the gallery of the real fold is
//! tested where it lives. The defaults that this test uses were chosen on other photos (`docs/quality.md`).

mod support;

use std::io::Cursor;

use face_worker::{Dlib, analyse};
use image::ImageFormat;
use image::imageops::{FilterType, resize};
use microlambda_faces::fold::distance;
use microlambda_faces::{Analysis, Encoding, FaceOutcome, FaceParams};
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
const FACELESS: [&str; 6] = [
    "faceless/brick.png",
    "faceless/chelsea.png",
    "faceless/coffee.png",
    "faceless/coins.png",
    "faceless/grass.png",
    "faceless/moon.png",
];
const SCALES: [f64; 6] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5];

/// A usable face: score and encoding.
type Sight = (f32, Encoding);

fn scaled(name: &str, scale: f64) -> Vec<u8> {
    let bytes = photo(name);
    if scale == 1.0 {
        return bytes;
    }
    let picture = image::load_from_memory(&bytes).expect("a photo").into_rgb8();
    let side = |px: u32| (f64::from(px) * scale).round() as u32;
    let small = resize(&picture, side(picture.width()), side(picture.height()), FilterType::Lanczos3);
    let mut png = Cursor::new(Vec::new());
    small.write_to(&mut png, ImageFormat::Png).expect("a PNG");
    png.into_inner()
}

fn sights(engine: &mut Dlib, name: &str, scale: f64) -> Vec<Sight> {
    match analyse(engine, FaceParams::default(), scaled(name, scale)).expect("an analysis") {
        Analysis::Frame(frame) => frame
            .faces
            .into_iter()
            .filter_map(|face| match face.outcome {
                FaceOutcome::Encoded(encoding) => Some((face.seen.score, encoding)),
                FaceOutcome::Unusable(_) => None,
            })
            .collect(),
        Analysis::Unreadable { why } => panic!("{name}: {why}"),
        Analysis::SetAside { .. } => panic!("{name} was set aside"),
    }
}

/// How many people there are in `sights`, in their order.
fn people<'a>(sights: impl Iterator<Item = &'a Sight>) -> usize {
    let params = FaceParams::default();
    let mut known: Vec<Vec<&Encoding>> = Vec::new();
    for (score, encoding) in sights {
        let nearest = |person: &Vec<&Encoding>| person.iter().map(|k| distance(k, encoding)).fold(f64::MAX, f64::min);
        let best = known.iter_mut().map(|person| (nearest(person), person)).min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((distance, person)) if distance < params.distance_max => person.push(encoding),
            _ if *score >= params.new_person_score_min => known.push(vec![encoding]),
            _ => {}
        }
    }
    known.len()
}

#[test]
fn there_are_nine_people_at_every_scale_and_at_all_scales_together() {
    let mut engine = Dlib::load(&models()).expect("models");
    let mut all = Vec::new();
    for scale in SCALES {
        let of_scale: Vec<Sight> = PEOPLE.iter().flat_map(|name| sights(&mut engine, name, scale)).collect();
        assert_eq!(people(of_scale.iter()), 9, "at scale {scale}");
        // Six on the still; one on each of the others, and at most the astronaut's suit beside them.
        assert!((14..=15).contains(&of_scale.len()), "{} usable faces at scale {scale}", of_scale.len());
        all.push(of_scale);
    }
    assert_eq!(people(all.iter().flatten()), 9, "at all scales together");
    assert_eq!(people(all.iter().rev().flatten()), 9, "from the smallest scale up");
}

#[test]
fn there_is_nobody_on_pictures_without_faces() {
    let mut engine = Dlib::load(&models()).expect("models");
    for name in FACELESS {
        for scale in SCALES {
            assert!(sights(&mut engine, name, scale).is_empty(), "{name} at scale {scale}");
        }
    }
}
