//! The built-in search against dlib's: the same boxes with the same scores, to the bit. Not on arm64, where dlib takes approximate roots (NEON's).
#![cfg(target_arch = "x86_64")]

mod support;

use face_worker::{Dlib, Engine, EngineChoice, Pixels, decode};
use microlambda_faces::Rect;
use support::{models, photo, photos, scales};

/// So low that every photo has detections, true ones or not.
const SCORE_MIN: f32 = -0.8;

fn engines() -> [Dlib; 2] {
    [EngineChoice::BuiltIn, EngineChoice::Dlib].map(|choice| Dlib::load_for(&models(), choice).expect("models"))
}

/// How many detections there are; they must be the same ones.
fn compare(engines: &mut [Dlib; 2], pixels: &Pixels, what: &str) -> usize {
    let [ours, theirs] = engines.each_mut().map(|engine| {
        let found = engine.search(pixels, None, SCORE_MIN).expect("a search");
        found.into_iter().map(|(rect, score)| (rect, score.to_bits())).collect::<Vec<(Rect, u32)>>()
    });
    assert_eq!(ours, theirs, "{what}, {} by {} px", pixels.width_px(), pixels.height_px());
    ours.len()
}

#[test]
fn every_photo_shows_the_same_faces_with_the_same_scores() {
    let (mut engines, mut found) = (engines(), 0);
    for name in photos() {
        for pixels in scales(&name) {
            found += compare(&mut engines, &pixels, &name);
        }
    }
    assert!(found >= 60, "only {found} detections");
}

#[test]
fn a_search_of_the_smallest_sizes_finds_what_a_search_of_all_finds_of_them() {
    let mut engines = engines();
    let (mut small, mut large) = (0, 0);
    for (name, pixels) in photos().iter().flat_map(|name| scales(name).map(move |pixels| (name, pixels))) {
        let of_few = engines.each_mut().map(|engine| engine.search(&pixels, Some(2), 0.4).expect("a search"));
        assert_eq!(of_few[0], of_few[1], "{name}");
        for (rect, score) in engines[0].search(&pixels, None, 0.4).expect("a search") {
            // The boxes of the first three layers are 36, 43 and 52 px wide.
            let is_small = rect.right - rect.left < 48;
            assert_eq!(of_few[0].contains(&(rect, score)), is_small, "{name}, {rect:?}");
            if is_small { small += 1 } else { large += 1 }
        }
    }
    assert!(small >= 1 && large >= 10, "{small} small and {large} large faces");
}

#[test]
fn a_second_look_gives_the_same_score() {
    let mut engines = engines();
    let mut looked = 0;
    for name in photos() {
        let pixels = decode(&photo(&name)).expect("a photo");
        for (rect, _) in engines[0].search(&pixels, None, 0.0).expect("a search") {
            let scores = engines.each_mut().map(|engine| {
                let picture = engine.open(&pixels);
                let (face, _) = engine.align(&pixels, &picture, rect).expect("a chip");
                engine.look_again(&pixels, rect, &face).expect("a score").to_bits()
            });
            assert_eq!(scores[0], scores[1], "{name}, {rect:?}");
            looked += 1;
        }
    }
    assert!(looked >= 14, "only {looked} faces");
}

#[test]
fn pictures_of_odd_sizes_are_searched_alike_to_the_last_column() {
    let mut engines = engines();
    let whole = decode(&photo("people/astronaut.png")).expect("a photo");
    let mut found = 0;
    for size in 0..24 {
        // Around the face, so that it is found at most sizes, and every remainder by 8 occurs.
        let part = whole.crop(150, 0, 180 + 3 * size, 190 + 5 * size).expect("a part of the photo");
        found += compare(&mut engines, &part, "a part");
    }
    assert!(found >= 24, "only {found} detections");
    for (width, height) in [(1, 1), (2, 9), (5, 3), (11, 16), (39, 40), (40, 39), (41, 45), (200, 8), (8, 200)] {
        let part = whole.crop(100, 50, width, height).expect("a part of the photo");
        compare(&mut engines, &part, "a small part");
    }
}
