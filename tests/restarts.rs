//! A restart: the results of released frames are lost, and the chain goes on behind them in a new generation, wherever a node stands that comes back.

use std::sync::{Arc, Mutex};

use microlambda::{Stop, Version};
use microlambda_faces::fold::event_id;
use microlambda_faces::plan::Plan;
use microlambda_faces::proto::{CLASS_ENCODE, FromWorker, StepTimes, UnitOutcome};
use microlambda_faces::{Analysis, Face, FaceOutcome, FaceParams, Rect, SeenFace};
use microlambda_tests::sim::bench::Bench;
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::disk::Media;
use microlambda_wire::ChainClass;

/// Numbers that are lost.
const LOST: u64 = 10;

/// A live camera with twelve pictures.
fn camera() -> SimCamera {
    let mut camera = SimCamera::new(0, ChainClass::Live, 12, 100, None);
    (0..12).for_each(|_| assert!(camera.take_picture(1_000_000)));
    camera
}

/// Lets time pass, and the camera answer.
fn work(bench: &mut Bench, camera: &mut SimCamera) {
    for _ in 0..4 {
        bench.pass_us(100_000);
        bench.serve(camera);
    }
}

/// What the node's disk holds of the chain.
fn front(media: &Arc<Mutex<Media>>, camera: &SimCamera) -> Version {
    media.lock().expect("nobody panicked").disk.chains[&camera.chain].head.version
}

/// A node that worked on its own until `stop`, and comes back when the first numbers are lost.
fn returned(stop: impl Fn(&mut Bench)) -> (Bench, SimCamera, Arc<Mutex<Media>>) {
    let media: Arc<Mutex<Media>> = Arc::default();
    let mut camera = camera();
    let mut bench = Bench::open("a", media.clone());
    work(&mut bench, &mut camera);
    stop(&mut bench);
    assert_eq!(front(&media, &camera).generation, 0);
    drop(bench);
    camera.restart(2_000_000);
    camera.write_restart(0, LOST, 1);
    (Bench::open("a", media.clone()), camera, media)
}

fn goes_on_behind_what_was_lost((mut bench, mut camera, media): (Bench, SimCamera, Arc<Mutex<Media>>)) {
    let starts = bench.starts();
    for _ in 0..4 {
        // A step that waited for what is lost is given up first.
        if bench.starts() == starts {
            work(&mut bench, &mut camera);
        }
    }
    assert_eq!(front(&media, &camera), Version { generation: 1, sequence: LOST, unit: 0 });
    bench.end_step();
    assert_eq!(front(&media, &camera), Version { generation: 1, sequence: LOST + 1, unit: 0 });
}

#[test]
fn a_node_that_had_begun_a_frame_goes_on_behind_a_restart_in_its_place() {
    let node = returned(|bench| {
        let plan = Plan::of(320, 240, FaceParams::default().picture_px_max);
        let mut searched = plan.begin();
        let rect = Rect { left: 10, top: 10, right: 70, bottom: 70 };
        plan.tile_done(&mut searched, &[SeenFace { rect, score: 2.0 }]);
        let (outcome, run) = (UnitOutcome::Partial(searched), (CLASS_ENCODE, 1, 20_000));
        bench.worker_says(FromWorker::Unit { step: 1, sequence: 0, prepare: None, run, outcome, thumbnail: None });
        let report = StepTimes { units: 1, ..StepTimes::default() };
        bench.worker_says(FromWorker::Stopped { step: 1, stop: Stop::Limit, report });
    });
    goes_on_behind_what_was_lost(node);
}

#[test]
fn a_node_in_the_middle_of_the_lost_numbers_goes_on_behind_them() {
    goes_on_behind_what_was_lost(returned(Bench::end_step));
}

#[test]
fn a_node_that_still_has_lost_frames_at_hand_takes_the_restart_as_well() {
    let media: Arc<Mutex<Media>> = Arc::default();
    let mut camera = camera();
    let mut bench = Bench::open("a", media.clone());
    work(&mut bench, &mut camera);
    camera.restart(2_000_000);
    camera.write_restart(0, LOST, 1);
    // It works on what was sent before, and finds itself in the middle of what is lost.
    for _ in 0..8 {
        if front(&media, &camera).generation > 0 {
            break;
        }
        bench.end_step();
        work(&mut bench, &mut camera);
    }
    // What it was at is of no use any more.
    bench.end_step();
    assert_eq!(front(&media, &camera).sequence, LOST);
    goes_on_behind_what_was_lost((bench, camera, media));
}

#[test]
fn people_of_the_generation_that_is_over_are_taken_off_the_bus() {
    let (mut bench, mut camera, media) = returned(|bench| {
        let plan = Plan::of(320, 240, FaceParams::default().picture_px_max);
        let mut searched = plan.begin();
        let rect = Rect { left: 10, top: 10, right: 70, bottom: 70 };
        let seen = SeenFace { rect, score: 2.0 };
        plan.tile_done(&mut searched, &[seen]);
        let encoding = (0..128).map(|value| if value == 0 { 1.0 } else { 0.0 }).collect();
        searched.faces.push(Face { seen, sharpness: 50.0, outcome: FaceOutcome::Encoded(encoding) });
        let outcome = UnitOutcome::Done(Analysis::Frame(plan.finished(&searched).expect("nothing is left")));
        let run = (CLASS_ENCODE, 1, 20_000);
        bench.worker_says(FromWorker::Unit { step: 1, sequence: 0, prepare: None, run, outcome, thumbnail: None });
        let report = StepTimes { units: 1, ..StepTimes::default() };
        bench.worker_says(FromWorker::Stopped { step: 1, stop: Stop::Limit, report });
    });
    let ghost = format!("/face/{}", event_id(camera.chain.as_str(), 0, 0));
    let mut cleared = 0;
    for _ in 0..20 {
        bench.pass_us(100_000);
        let now_us = bench.io.borrow().local_us;
        for said in std::mem::take(&mut bench.said) {
            cleared += usize::from(said.topic.ends_with(&ghost) && said.payload.is_empty() && said.retain);
            if said.topic.ends_with("/want") {
                camera.on_message(&said, now_us);
            }
        }
        camera.tick(now_us).0.iter().for_each(|message| bench.hears(message));
    }
    assert_eq!(front(&media, &camera), Version { generation: 1, sequence: LOST, unit: 0 });
    assert_eq!(cleared, 1);
}
