//! The result of an analysis does not depend on where it is cut, nor on what a worker remembers.

mod support;

use face_worker::{Cache, Dlib, FaceLambda, Frame, Progress, analyse};
use microlambda::{Budget, Lambda, StepLimit, Stop, run_step};
use microlambda_faces::{Analysis, FaceParams};
use support::{models, photo};

fn bytes(analysis: &Analysis) -> Vec<u8> {
    microlambda_faces::proto::encode(analysis).expect("encodes")
}

#[test]
fn an_analysis_cut_after_every_unit_and_taken_up_by_a_fresh_worker_is_the_same() {
    let mut engine = Dlib::load(&models()).expect("models");
    let params = FaceParams::default();
    for name in ["people/t1.jpg", "people/obama_partial_face.jpg", "people/astronaut.png"] {
        let picture = photo(name);
        let whole = analyse(&mut engine, params, picture.clone()).expect("an analysis");
        let mut state = Progress::default();
        let mut units = 0;
        while state.finished.is_empty() {
            // A state as another node receives it, and nothing else of the former worker.
            state = Progress { partial: state.partial.take(), finished: Vec::new() };
            let source = Some(Frame { sequence: 0, bytes: picture.clone(), moved: None });
            let mut lambda = FaceLambda::new(&mut engine, params, source, Cache::default());
            let limit = StepLimit { r_limit_us: u64::MAX, units_max: 1 };
            let report = run_step(&mut lambda, &mut state, &mut Budget::default(), limit, &mut || 0).expect("a unit");
            assert_eq!(report.units, 1);
            units += 1;
            if let Some(partial) = &state.partial {
                assert_eq!(partial.units(), units, "{name}: a version is the number of units done");
            }
        }
        assert_eq!(bytes(&state.finished[0].1), bytes(&whole), "{name}");
    }
}

#[test]
fn a_step_that_ends_by_time_leaves_a_state_from_which_the_rest_gives_the_same() {
    let mut engine = Dlib::load(&models()).expect("models");
    let params = FaceParams::default();
    let picture = photo("people/obama3.jpg");
    let whole = analyse(&mut engine, params, picture.clone()).expect("an analysis");
    let mut results = Vec::new();
    // A clock that runs 1 ms a reading makes the cuts a function of the limit alone.
    for r_limit_us in [20_000, 50_000, 1_000_000_000] {
        let (mut state, mut budget, mut cache, mut steps) =
            (Progress::default(), Budget::default(), Cache::default(), 0);
        let mut now_us = 0;
        loop {
            let source = Some(Frame { sequence: 0, bytes: picture.clone(), moved: None });
            let mut lambda = FaceLambda::new(&mut engine, params, source, cache);
            let mut clock = || {
                now_us += 1_000;
                now_us
            };
            let limit = StepLimit::new(r_limit_us);
            let report = run_step(&mut lambda, &mut state, &mut budget, limit, &mut clock).expect("a step");
            cache = lambda.into_cache();
            steps += 1;
            match report.stop {
                Stop::Limit => assert!(report.units > 0, "a step without progress"),
                Stop::Starved => break,
                // What it prepared is kept for the next step.
                Stop::Prepared => assert_eq!(report.units, 0),
                Stop::TooLarge | Stop::UnitsMax | Stop::Done => panic!("{report:?}"),
            }
        }
        assert_eq!(bytes(&state.finished[0].1), bytes(&whole), "limit {r_limit_us} µs");
        results.push(steps);
    }
    assert!(results[0] > results[1] && results[1] > results[2] && results[2] == 1, "{results:?} steps");
}

#[test]
fn the_next_step_on_the_same_frame_does_not_decode_it_again() {
    let mut engine = Dlib::load(&models()).expect("models");
    let picture = photo("people/t1.jpg");
    let source = Some(Frame { sequence: 0, bytes: picture.clone(), moved: None });
    let mut lambda = FaceLambda::new(&mut engine, FaceParams::default(), source, Cache::default());
    let mut state = Progress::default();
    let limit = StepLimit { r_limit_us: u64::MAX, units_max: 1 };
    run_step(&mut lambda, &mut state, &mut Budget::default(), limit, &mut || 0).expect("a unit");
    let cache = lambda.into_cache();
    for (cache, decodes) in [(cache, false), (Cache::default(), true)] {
        let source = Some(Frame { sequence: 0, bytes: picture.clone(), moved: None });
        let mut lambda = FaceLambda::new(&mut engine, FaceParams::default(), source, cache);
        let microlambda::Next::Unit(cost) = lambda.next(&state) else { panic!("units are left") };
        assert_eq!(cost.prepare.is_some(), decodes);
    }
}
