//! The lambda's rules with an engine that does as it is told.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};
use microlambda::{Budget, StepLimit, Stop, run_step};
use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, CLASS_ENCODE, CLASS_NOTE};
use microlambda_faces::{Analysis, Area, ENCODING_LEN, FrameAnalysis};

use super::*;
use crate::ffi::DlibError;
use crate::picture::Pixels;

/// Finds the same faces in every tile.
#[derive(Default)]
struct Fake {
    faces: Vec<(Rect, f32)>,
    sharpness: f32,
    encoding: Vec<f32>,
    fails: bool,
    searched: Vec<(u32, u32)>,
    aligned: Vec<Rect>,
    encoded: u32,
    looks: Vec<(u32, Rect)>,
    score_again: f32,
}

impl Engine for Fake {
    type Picture = ();
    type Aligned = ();

    fn search(&mut self, tile: &Pixels, _: Option<u32>, score_min: f32) -> Result<Vec<(Rect, f32)>, EngineError> {
        if self.fails {
            return Err(DlibError("out of memory".into()).into());
        }
        self.searched.push((tile.width_px(), tile.height_px()));
        Ok(self.faces.iter().copied().filter(|face| face.1.is_nan() || face.1 >= score_min).collect())
    }

    fn look_again(&mut self, pixels: &Pixels, rect: Rect, (): &()) -> Result<f32, EngineError> {
        self.looks.push((pixels.width_px(), rect));
        Ok(self.score_again)
    }

    fn open(&mut self, _pixels: &Pixels) {}

    fn align(&mut self, _pixels: &Pixels, (): &(), rect: Rect) -> Result<((), f32), EngineError> {
        self.aligned.push(rect);
        Ok(((), self.sharpness))
    }

    fn encode(&mut self, (): &(), (): &()) -> Result<Vec<f32>, EngineError> {
        self.encoded += 1;
        Ok(self.encoding.clone())
    }
}

fn fake() -> Fake {
    Fake { sharpness: 100.0, score_again: 0.9, encoding: vec![0.5; ENCODING_LEN], ..Fake::default() }
}

fn square(left: i32, top: i32, side: i32) -> Rect {
    Rect { left, top, right: left + side - 1, bottom: top + side - 1 }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    RgbImage::new(width, height).write_to(&mut png, ImageFormat::Png).expect("a PNG");
    png.into_inner()
}

fn frame_of(engine: &mut Fake, params: FaceParams, bytes: Vec<u8>) -> FrameAnalysis {
    match analyse(engine, params, bytes).expect("an analysis") {
        Analysis::Frame(frame) => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_small_face_is_recorded_without_asking_the_engine() {
    let mut engine = Fake { faces: vec![(square(5, 5, 30), 1.0)], ..fake() };
    let frame = frame_of(&mut engine, FaceParams::default(), png(100, 100));
    assert_eq!(frame.faces[0].outcome, FaceOutcome::Unusable(Unusable::TooSmall { face_px: 30 }));
    assert_eq!((engine.aligned.len(), engine.encoded), (0, 0));
}

#[test]
fn a_blurred_face_is_recorded_with_its_sharpness_and_not_encoded() {
    let mut engine = Fake { faces: vec![(square(5, 5, 60), 1.0)], sharpness: 1.5, ..fake() };
    let frame = frame_of(&mut engine, FaceParams::default(), png(100, 100));
    assert_eq!(frame.faces[0].outcome, FaceOutcome::Unusable(Unusable::Blurred { sharpness: 1.5 }));
    assert_eq!((frame.faces[0].sharpness, engine.encoded), (1.5, 0));
}

#[test]
fn a_face_found_weakly_is_looked_at_again_where_it_is_no_larger_than_needed() {
    let mut engine = Fake { faces: vec![(square(5, 5, 60), 0.3), (square(80, 5, 60), 0.7)], ..fake() };
    let frame = frame_of(&mut engine, FaceParams::default(), png(200, 100));
    assert_eq!(frame.faces.iter().map(|face| face.seen.score).collect::<Vec<_>>(), [0.7, 0.9], "the order stays");
    assert_eq!(engine.looks, [(200, square(5, 5, 60))]);
    let mut engine = Fake { faces: vec![(square(50, 50, 200), 0.3)], ..fake() };
    frame_of(&mut engine, FaceParams::default(), png(1_280, 640));
    // Found in the tiles of the finest level and in that of the coarsest, where it is twice as large in the picture.
    assert!(engine.looks.iter().all(|(width_px, rect)| *width_px == 640 && rect.width() >= 92), "{:?}", engine.looks);
    assert!(!engine.looks.is_empty());
}

#[test]
fn what_is_found_below_the_bound_is_a_face_only_if_a_second_look_makes_somebody_new_of_it() {
    let faces =
        vec![(square(5, 5, 60), 1.0), (square(80, 5, 60), -0.1), (square(5, 80, 30), -0.2), (square(80, 80, 60), -0.3)];
    for (score_again, left_px) in [(0.9, &[5, 80][..]), (0.2, &[5])] {
        let mut engine = Fake { faces: faces.clone(), score_again, ..fake() };
        let frame = frame_of(&mut engine, FaceParams::default(), png(200, 200));
        assert_eq!(frame.faces.iter().map(|face| face.seen.rect.left).collect::<Vec<_>>(), left_px);
        assert_eq!((engine.looks.len(), engine.encoded as usize), (1, left_px.len()));
    }
}

#[test]
fn an_encoding_that_is_not_128_finite_numbers_is_none() {
    for encoding in [vec![0.5; 127], vec![], [vec![0.1; 127], vec![f32::NAN]].concat()] {
        let mut engine = Fake { faces: vec![(square(5, 5, 60), 1.0)], encoding, ..fake() };
        let frame = frame_of(&mut engine, FaceParams::default(), png(100, 100));
        assert_eq!(frame.faces[0].outcome, FaceOutcome::Unusable(Unusable::NoEncoding));
    }
}

#[test]
fn a_box_over_the_edge_is_clipped_before_landmarks_and_one_outside_is_dropped() {
    let mut engine = Fake { faces: vec![(square(-20, 60, 80), 1.0), (square(150, 20, 50), 0.9)], ..fake() };
    let frame = frame_of(&mut engine, FaceParams::default(), png(100, 100));
    let clipped = Rect { left: 0, top: 60, right: 59, bottom: 100 };
    assert_eq!(frame.faces.iter().map(|face| face.seen.rect).collect::<Vec<_>>(), [clipped]);
    assert_eq!(engine.aligned, [clipped]);
}

#[test]
fn a_score_that_is_no_number_is_no_detection() {
    let mut engine = Fake { faces: vec![(square(5, 5, 60), f32::NAN)], ..fake() };
    assert!(frame_of(&mut engine, FaceParams::default(), png(100, 100)).faces.is_empty());
}

#[test]
fn a_picture_above_the_bound_is_encoded_from_the_smaller_one_and_keeps_its_coordinates() {
    let params = FaceParams { picture_px_max: 100_000, ..FaceParams::default() };
    let mut engine = Fake { faces: vec![(square(40, 40, 50), 1.0)], ..fake() };
    let frame = frame_of(&mut engine, params, png(600, 500));
    assert_eq!((frame.width_px, frame.height_px), (600, 500));
    assert_eq!(frame.faces[0].seen.rect, Rect { left: 80, top: 80, right: 179, bottom: 179 });
    assert_eq!(engine.aligned, [square(40, 40, 50)]);
}

/// What the engine is given of a picture in which something moved at its upper left.
fn searched_of(bytes: Vec<u8>) -> Vec<(u32, u32)> {
    let mut engine = fake();
    let moved = Areas::try_from(vec![Area { left_px: 0, top_px: 0, width_px: 32, height_px: 48 }]).ok();
    analyse_frame(&mut engine, FaceParams::default(), Frame { sequence: 0, bytes, moved }).expect("an analysis");
    engine.searched
}

#[test]
fn only_around_what_moved_is_searched() {
    assert_eq!(searched_of(png(640, 480)), [(120, 136)]);
    assert_eq!(searched_of(png(1280, 720)), [(120, 136), (104, 112)], "on both levels");
    assert_eq!(searched_of(png(100, 100)), [(100, 100)]);
}

#[test]
fn a_picture_that_is_stored_turned_is_searched_whole() {
    let mut exif = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif).expect("EXIF fits");
    encoder.write_image(&[0; 600 * 400 * 3], 600, 400, ExtendedColorType::Rgb8).expect("a JPEG");
    assert_eq!(searched_of(bytes), [(400, 600)]);
}

#[test]
fn a_unit_that_fails_leaves_the_state_as_it_was() {
    let mut engine = Fake { fails: true, ..fake() };
    let source = Some(Frame { sequence: 1, bytes: png(50, 50), moved: None });
    let mut lambda = FaceLambda::new(&mut engine, FaceParams::default(), source, Cache::default());
    let mut state = Progress::default();
    let limit = StepLimit::new(u64::MAX);
    let error = run_step(&mut lambda, &mut state, &mut Budget::default(), limit, &mut || 0).expect_err("it fails");
    assert!(error.to_string().contains("out of memory"));
    assert_eq!(state, Progress::default());
}

#[test]
fn only_whole_units_teach_the_budget() {
    let faces = vec![(square(5, 5, 60), 1.0), (square(80, 80, 30), 0.5)];
    let mut engine = Fake { faces, sharpness: 1.0, ..fake() };
    let source = Some(Frame { sequence: 1, bytes: png(120, 120), moved: None });
    let mut lambda = FaceLambda::new(&mut engine, FaceParams::default(), source, Cache::default());
    let (mut state, mut budget) = (Progress::default(), Budget::default());
    let report = run_step(&mut lambda, &mut state, &mut budget, StepLimit::new(u64::MAX), &mut || 0).expect("a step");
    assert_eq!((report.units, report.stop), (3, Stop::Starved));
    let samples: Vec<_> = budget.table().iter().map(|cost| (cost.class, cost.samples)).collect();
    assert_eq!(samples, [(CLASS_DECODE, 1), (CLASS_DETECT, 1), (CLASS_NOTE, 1)], "the blurred face is not a sample");
    assert!(budget.predict_us(CLASS_ENCODE, 1).is_none());
}

#[test]
fn a_picture_whose_damage_shows_only_in_its_pixels_teaches_nothing_about_decoding_and_searching() {
    let mut bytes = png(300, 300);
    bytes.truncate(bytes.len() - 40);
    let mut engine = fake();
    let source = Some(Frame { sequence: 4, bytes, moved: None });
    let mut lambda = FaceLambda::new(&mut engine, FaceParams::default(), source, Cache::default());
    let (mut state, mut budget) = (Progress::default(), Budget::default());
    run_step(&mut lambda, &mut state, &mut budget, StepLimit::new(u64::MAX), &mut || 0).expect("a step");
    assert!(matches!(&state.finished[..], [(4, Analysis::Unreadable { .. })]), "{state:?}");
    assert_eq!(budget, Budget::default());
}

#[test]
fn a_saved_state_without_units_left_is_finished_as_it_is() {
    let plan = Plan::of(50, 50, FaceParams::default().picture_px_max);
    let mut partial = plan.begin();
    plan.set_aside(&mut partial, "it took two nodes down");
    let mut state = Progress { partial: Some(partial), finished: Vec::new() };
    let mut engine = Fake { fails: true, ..fake() };
    let source = Some(Frame { sequence: 2, bytes: png(50, 50), moved: None });
    let mut lambda = FaceLambda::new(&mut engine, FaceParams::default(), source, Cache::default());
    let limit = StepLimit::new(u64::MAX);
    run_step(&mut lambda, &mut state, &mut Budget::default(), limit, &mut || 0).expect("the engine is not asked");
    let [(2, Analysis::Frame(frame))] = &state.finished[..] else { panic!("{state:?}") };
    assert_eq!(frame.tiles_set_aside.len(), 1);
}
