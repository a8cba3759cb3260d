//! The built-in encoder against dlib's, on every face of every photo: nearly the same numbers, and the same decisions.

mod support;

use face_worker::{Dlib, Engine, EngineChoice};
use microlambda_faces::plan::clipped;
use microlambda_faces::{Encoding, FaceParams};
use support::{models, photos, scales};

/// How far the two encodings of a face may be from each other. People are told apart at 0.6.
const DISTANCE_MAX: f64 = 1e-5;
/// Weaker than any face that counts, so that odd ones are encoded as well.
const SCORE_MIN: f32 = -0.2;

/// Both encodings of every face that the detector finds in the photos as they are, halved, and halved again.
fn encodings() -> Vec<[Encoding; 2]> {
    let mut engines =
        [EngineChoice::BuiltIn, EngineChoice::Dlib].map(|encoder| Dlib::load_for(&models(), encoder).expect("models"));
    let mut all = Vec::new();
    for name in photos() {
        for pixels in scales(&name) {
            let picture = engines[0].open(&pixels);
            for (rect, _) in engines[0].search(&pixels, None, SCORE_MIN).expect("a search") {
                let rect = clipped(rect, pixels.width_px(), pixels.height_px());
                let (face, _) = engines[0].align(&pixels, &picture, rect).expect("landmarks");
                let values = engines.each_mut().map(|engine| engine.encode(&picture, &face).expect("values"));
                all.push(values.map(|values| Encoding::try_from(values).expect("an encoding")));
            }
        }
    }
    all
}

#[test]
fn both_encoders_give_nearly_the_same_numbers_and_the_same_people() {
    let faces = encodings();
    assert!(faces.len() >= 30, "only {} faces", faces.len());
    let farthest = faces.iter().map(|[ours, theirs]| ours.distance(theirs)).fold(0.0, f64::max);
    println!("{} faces, at most {farthest:e} apart", faces.len());
    assert!(farthest <= DISTANCE_MAX, "{farthest}");
    let threshold = FaceParams::default().distance_max;
    for (i, j) in (0..faces.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
        let [ours, theirs] = [0, 1].map(|encoder| faces[i][encoder].distance(&faces[j][encoder]) < threshold);
        assert_eq!(ours, theirs, "whether faces {i} and {j} are of one person");
    }
}

#[test]
fn an_engine_names_its_encoder() {
    let name = |encoder| Dlib::load_for(&models(), encoder).expect("models").describe();
    let (ours, theirs) = (name(EngineChoice::BuiltIn), name(EngineChoice::Dlib));
    assert!(ours.contains("built-in") && !ours.contains("openblas"), "{ours}");
    assert!(theirs.contains("openblas") && !theirs.contains("built-in"), "{theirs}");
    // Frames are JPEG, and `image` decodes none of them.
    assert!(ours.starts_with("zune-jpeg ") && theirs.starts_with("zune-jpeg "), "{ours}, {theirs}");
}
