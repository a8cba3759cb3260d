//! A restart: the results of released frames are lost, and the chain goes on behind them in a new generation, wherever a node stands that comes back.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edge_agent::config::Config;
use edge_agent::node::Node;
use edge_agent::store::{EventRow, FaceRow, SqliteStore, Store as _};
use microlambda::{Stop, Version};
use microlambda_faces::content::{Delta, Entry};
use microlambda_faces::fold::{FoldState, event_id};
use microlambda_faces::plan::Plan;
use microlambda_faces::proto::{CLASS_ENCODE, FromWorker, StepTimes, UnitOutcome};
use microlambda_faces::{Analysis, ENCODING_LEN, Encoding, Face, FaceAt, FaceOutcome, FaceParams, Rect, SeenFace};
use microlambda_runtime::Message;
use microlambda_tests::histories::{crowd, extend_with};
use microlambda_tests::name;
use microlambda_tests::sim::bench::Bench;
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::disk::Media;
use microlambda_tests::sim::prefix;
use microlambda_tests::sim::world::{Io, SimWorld};
use microlambda_wire::{Blob, ChainClass, NodeStatus, Record, SyncHave, Topic, from_payload, to_payload};

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
        let encoding = Encoding::try_from(vec![0.1_f32; ENCODING_LEN]).expect("an encoding");
        searched.faces.push(Face { seen, sharpness: 50.0, outcome: FaceOutcome::Encoded(encoding) });
        let outcome = UnitOutcome::Done(Analysis::Frame(plan.finished(&searched).expect("nothing is left")));
        let run = (CLASS_ENCODE, 1, 20_000);
        bench.worker_says(FromWorker::Unit { step: 1, sequence: 0, prepare: None, run, outcome, thumbnail: None });
        let report = StepTimes { units: 1, ..StepTimes::default() };
        bench.worker_says(FromWorker::Stopped { step: 1, stop: Stop::Limit, report });
    });
    let ghost = FaceAt { sequence: 0, face_index: 0 };
    let ghost = format!("/face/{}", event_id(camera.chain.as_str(), ghost));
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

#[test]
fn a_node_keeps_a_copy_of_what_it_has_before_a_new_generation_replaces_it() {
    let (mut bench, mut camera, media) = returned(Bench::end_step);
    media.lock().expect("nobody panicked").copy_questions = 2;
    for _ in 0..40 {
        if front(&media, &camera).generation > 0 {
            break;
        }
        assert!(media.lock().expect("nobody panicked").copy.is_none());
        work(&mut bench, &mut camera);
    }
    assert_eq!(front(&media, &camera), Version { generation: 1, sequence: LOST, unit: 0 });
    let copy = media.lock().expect("nobody panicked").copy.take().expect("a copy");
    assert_eq!(copy.chains[&camera.chain].head.version, Version::at(1));
    assert_eq!(bench.counter("databases-kept-aside"), 1);
}

/// A node on a real database that knows people of three frames.
fn on_sqlite(state_dir: &Path) -> (Node<SqliteStore, SimWorld>, Rc<RefCell<Io>>) {
    let params = FaceParams::default();
    let mut store = SqliteStore::open_or_renew(state_dir, &params).expect("a store").store;
    extend_with(&mut store, &name("door-1"), params, 3, crowd).expect("frames");
    let io: Rc<RefCell<Io>> = Rc::default();
    io.borrow_mut().local_us = 1_000_000;
    let mut config = Config::defaults().expect("defaults");
    config.site = name("simulated");
    config.node = Some(name("a"));
    let world = SimWorld { io: io.clone(), media: Arc::default() };
    (Node::open(config, name("boot"), store, world).expect("a node"), io)
}

/// What a peer answers for which the chain began anew in the place of these frames.
fn begun_anew() -> Message {
    let mut fold = FoldState::genesis(FaceParams::default());
    let parent = fold.head();
    let record = Record::Restart { count: LOST, generation: 1 };
    let entry = Entry { sequence: 0, record, analysis: None, engine: String::new() };
    fold.fold(&entry).expect("a record in order");
    let delta = Delta { parent, entries: vec![entry], partial: None, head: fold.head() };
    let have = SyncHave {
        node: name("b"),
        chain: name("door-1"),
        lambda: parent.digest,
        base: (0, parent.digest),
        newest: fold.head(),
        delta: Blob(delta.to_bytes().expect("a small delta")),
        unpublished: Vec::new(),
    };
    let topic = Topic::SyncHave { node: name("a") }.build(&prefix());
    Message { topic, payload: to_payload(&have).expect("a payload"), retain: false }
}

/// What `edge-agent events` and `faces list` read with this state directory.
fn reports(state_dir: &Path) -> (Vec<EventRow>, Vec<FaceRow>) {
    let store = SqliteStore::open_read_only(state_dir).expect("a database");
    (store.events(10_000).expect("events"), store.faces(None).expect("faces"))
}

#[test]
fn what_a_new_generation_replaced_can_be_read_from_a_copy_of_the_database() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut node, _) = on_sqlite(dir.path());
    let (before, answer) = (reports(dir.path()), begun_anew());
    assert!(!before.0.is_empty() && !before.1.is_empty());
    let until = Instant::now() + Duration::from_secs(60);
    while reports(dir.path()) == before {
        assert!(Instant::now() < until, "the copy takes too long");
        // As often as announcements come.
        std::thread::sleep(Duration::from_millis(10));
        node.on_message(&answer.topic, &answer.payload, false).expect("no failure of the store");
    }
    assert_eq!(reports(dir.path()), (Vec::new(), Vec::new()));
    assert_eq!(reports(&dir.path().join("replaced-1")), before);
    assert!(!dir.path().join("replaced-begun").exists() && !dir.path().join("replaced-2").exists());
}

#[test]
fn where_no_copy_can_be_kept_a_new_generation_is_taken_all_the_same_and_the_loss_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let folders = ["replaced-1", "replaced-2", "replaced-begun"].map(|folder| dir.path().join(folder));
    folders.iter().for_each(|folder| std::fs::create_dir(folder).expect("a folder"));
    let (mut node, io) = on_sqlite(dir.path());
    assert!(!folders[2].exists(), "what was begun of a copy is removed by the next start");
    let answer = begun_anew();
    node.on_message(&answer.topic, &answer.payload, false).expect("no failure of the store");
    assert_eq!(reports(dir.path()), (Vec::new(), Vec::new()));
    io.borrow_mut().connected = true;
    node.on_connected().expect("no failure of the store");
    node.tick().expect("no failure of the store");
    let io = io.borrow();
    let status = io.outbox.iter().rev().find(|(said, _)| said.topic.ends_with("/status")).expect("a status");
    let trouble = from_payload::<NodeStatus>(&status.0.payload).expect("a sound one").trouble;
    assert!(trouble.contains("no copy is kept") && trouble.contains("2 copies are kept"), "{trouble}");
}
