//! One edge node beside others that work on the same finite job: what it analyses ahead of the job's steps, and what becomes of it.

use std::sync::Arc;

use microlambda::{Claim, Digest, Stop, Version};
use microlambda_faces::content::{Ahead, Entry};
use microlambda_faces::fold::lambda_digest;
use microlambda_faces::proto::{CLASS_DETECT, FromWorker, StepTimes, ToWorker, UnitOutcome};
use microlambda_faces::{Analysis, FaceParams};
use microlambda_runtime::Message;
use microlambda_tests::name;
use microlambda_tests::sim::bench::{Bench, peer_status};
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::disk::Media;
use microlambda_tests::sim::world::Order;
use microlambda_tests::sim::{prefix, truth};
use microlambda_wire::{
    AheadNote, Blob, CameraHead, ChainClass, ClaimNote, Name, Payload, Topic, Want, from_payload, to_payload,
};

const JOB: &str = "camera-0-spool";

/// A folder of twelve pictures.
fn camera() -> SimCamera {
    let mut camera = SimCamera::new(0, ChainClass::Batch, 12, 100, None);
    for _ in 0..13 {
        camera.take_picture(1_000_000);
    }
    camera
}

fn message<T: Payload>(topic: Topic, payload: &T) -> Message {
    Message { topic: topic.build(&prefix()), payload: to_payload(payload).expect("a payload"), retain: false }
}

fn claim(node: &str, sequence: u64) -> Message {
    let claim = Claim { step: Version::at(sequence), epoch: 0, node: node.into(), lease_ms: 1_500 };
    let note = ClaimNote { chain: name(JOB), boot: name("b1"), claim, failed: None };
    message(Topic::Claim { chain: name(JOB) }, &note)
}

fn ahead(node: &str, records: std::ops::Range<u64>, found: Option<Vec<Entry>>) -> Message {
    let note = AheadNote {
        chain: name(JOB),
        node: name(node),
        boot: name("b1"),
        lambda: lambda_digest(&FaceParams::default()),
        from: records.start,
        count: u32::try_from(records.end - records.start).expect("few"),
        lease_ms: 1_500,
        found: found.map(|entries| {
            let found = Ahead { entries, thumbnails: Vec::new() };
            Blob(microlambda_faces::content::to_bytes(&found).expect("bytes"))
        }),
    };
    message(Topic::Ahead { chain: name(JOB) }, &note)
}

/// What an engine sees in these pictures, of the records as [`camera`] has them.
fn found(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    let record = |number: u64| {
        let digest = Digest::of(&truth::jpeg(0, number));
        microlambda_wire::Record::Frame { captured_at_ms: 2_000, digest, label: format!("{number:03}"), moved: None }
    };
    let analysis = |number| Some(truth::picture(5, 0, number, false).analysis(0));
    let entry =
        |number| Entry { sequence: number, record: record(number), analysis: analysis(number), engine: "b's".into() };
    numbers.map(entry).collect()
}

/// A node `a` that knows of the job and of a live peer `b`, which claims the first step.
fn beside_a_claimer() -> (Bench, SimCamera) {
    let mut bench = Bench::new();
    let mut camera = camera();
    bench.hears(&peer_status("b", true));
    bench.hears_head("camera-0", 0, 0);
    bench.hears(&claim("b", 0));
    bench.serve(&mut camera);
    (bench, camera)
}

fn notes(bench: &mut Bench) -> Vec<AheadNote> {
    let said = bench.said.iter().filter(|message| message.topic.ends_with("/ahead"));
    said.map(|message| from_payload(&message.payload).expect("a sound note")).collect()
}

/// The frames that the worker was given, and the number of its invocation.
fn work(bench: &Bench) -> (u64, Vec<u64>) {
    let (mut id, mut frames) = (0, Vec::new());
    for order in &bench.orders {
        match order {
            Order::Tell(message) => match &**message {
                ToWorker::Start { step, .. } => {
                    id = *step;
                    frames.clear();
                }
                ToWorker::Frame { sequence, .. } => frames.push(*sequence),
                ToWorker::NoMoreFrames | ToWorker::Stop => {}
            },
            Order::Spawn(_) | Order::Kill => {}
        }
    }
    (id, frames)
}

fn unit(step: u64, sequence: u64) -> FromWorker {
    let outcome = UnitOutcome::Done(truth::picture(5, 0, sequence, false).analysis(0));
    let run = (CLASS_DETECT, 320 * 240, 20_000);
    FromWorker::Unit { step, sequence, prepare: None, run, outcome, thumbnail: None }
}

fn stopped(step: u64, units: u32) -> FromWorker {
    let used_us = 20_000 * u64::from(units);
    let report =
        StepTimes { units, used_us, busy_us: used_us, first_unit_start_us: 1, last_unit_end_us: 2, cpu_us: used_us };
    FromWorker::Stopped { step, stop: Stop::Starved, report }
}

#[test]
fn a_node_beside_a_claimer_analyses_frames_further_on_and_tells_what_it_found() {
    let (mut bench, _camera) = beside_a_claimer();
    let (id, frames) = work(&bench);
    let &first = frames.first().expect("frames for the worker");
    assert!(first > 0, "the claimer's frames are left to it: {frames:?}");
    for &frame in &frames {
        bench.worker_says(unit(id, frame));
    }
    bench.worker_says(stopped(id, 4));
    let told: Vec<u64> = notes(&mut bench)
        .into_iter()
        .filter_map(|note| note.found)
        .flat_map(|found| Ahead::from_bytes(&found.0).expect("sound analyses").entries)
        .map(|entry| entry.sequence)
        .collect();
    assert_eq!(told, frames);
    assert_eq!(bench.counter("frames-ahead"), frames.len() as u64);
}

#[test]
fn a_node_alone_works_on_nothing_but_its_steps() {
    let mut bench = Bench::new();
    bench.serve(&mut camera());
    bench.pass_us(50_000);
    assert_eq!(bench.starts(), 1);
    assert_eq!(notes(&mut bench), []);
}

#[test]
fn analyses_that_a_peer_found_are_folded_without_the_worker() {
    let media: Arc<std::sync::Mutex<Media>> = Arc::default();
    let mut bench = Bench::open("a", media.clone());
    bench.hears(&peer_status("b", true));
    bench.hears(&ahead("b", 0..4, None));
    let head = CameraHead {
        camera: name("camera-0"),
        chain: name(JOB),
        class: ChainClass::Batch,
        oldest: 0,
        next: 4,
        end: None,
    };
    bench.hears(&message(Topic::CameraHead { camera: name("camera-0") }, &head));
    bench.hears(&ahead("b", 0..4, None));
    bench.hears(&ahead("b", 0..0, Some(found(0..4))));
    bench.pass_us(100_000);
    assert_eq!(bench.starts(), 0, "the worker has nothing to do");
    let boundary = media.lock().expect("nobody panicked").disk.chains[&name(JOB)].boundary;
    assert_eq!(boundary.version, Version::at(4));
    assert_eq!(bench.counter("frames-ahead-used"), 4);
}

#[test]
fn what_is_only_analysed_is_not_reported_as_committed() {
    let (mut bench, mut camera) = beside_a_claimer();
    bench.hears(&ahead("b", 0..0, Some(found(1..6))));
    bench.pass_us(300_000);
    bench.serve(&mut camera);
    let wants = bench.said.iter().filter(|message| message.topic.ends_with("/want"));
    assert!(wants.map(|want| from_payload::<Want>(&want.payload).expect("sound")).all(|want| want.committed == 0));
}

#[test]
fn a_step_waits_for_a_peer_that_works_on_its_frames_and_not_for_long() {
    let mut bench = Bench::new();
    bench.hears(&peer_status("b", true));
    bench.hears_head("camera-0", 0, 0);
    bench.hears(&ahead("b", 0..12, None));
    bench.serve(&mut camera());
    bench.pass_us(500_000);
    assert_eq!(bench.starts(), 0, "b has them");
    bench.pass_us(1_100_000);
    bench.serve(&mut camera());
    bench.pass_us(100_000);
    assert!(bench.starts() > 0, "b has had its time");
}

#[test]
fn a_step_waits_for_nobody_that_is_gone() {
    let will = peer_status("b", false);
    // By which a person removes a node for good.
    let nothing = Message { payload: Vec::new(), ..will.clone() };
    for end in [will, nothing] {
        let mut bench = Bench::new();
        bench.hears(&peer_status("b", true));
        bench.hears_head("camera-0", 0, 0);
        bench.hears(&ahead("b", 0..12, None));
        bench.serve(&mut camera());
        bench.hears(&end);
        bench.serve(&mut camera());
        bench.pass_us(50_000);
        assert!(bench.starts() > 0);
    }
}

#[test]
fn a_unit_that_fails_ahead_is_nobodys_failure_and_is_left_to_the_chain() {
    let (mut bench, mut camera) = beside_a_claimer();
    let (_, frames) = work(&bench);
    assert!(!frames.is_empty());
    bench.worker_dies("it ended");
    bench.orders.clear();
    bench.worker_is_ready();
    for _ in 0..10 {
        bench.hears(&peer_status("b", true));
        bench.hears(&claim("b", 0));
        bench.pass_us(500_000);
        bench.serve(&mut camera);
    }
    assert!(!work(&bench).1.is_empty(), "it goes on with others");
    assert!(!work(&bench).1.contains(&frames[0]), "frame {} is left to the chain's own order", frames[0]);
    let status = bench.status();
    let count = |counter: &str| status.counters.iter().find(|(name, _)| name == counter).map(|(_, count)| *count);
    assert_eq!([count("unit-failures"), count("units-set-aside")], [Some(0), Some(0)]);
}

#[test]
fn analyses_with_something_set_aside_or_of_what_is_no_frame_are_refused() {
    let (mut bench, _camera) = beside_a_claimer();
    let mut set_aside = found(6..7);
    set_aside[0].analysis = Some(Analysis::SetAside { why: "so it says".into() });
    let mut gap = found(6..7);
    gap[0].record = microlambda_wire::Record::Gap { count: 1, reason: microlambda_wire::GapReason::SpoolFull };
    let backwards = found(6..8).into_iter().rev().collect();
    for entries in [set_aside, gap, backwards] {
        bench.hears(&ahead("b", 0..0, Some(entries)));
    }
    let other = AheadNote { lambda: Digest::default(), ..note_of(&ahead("b", 0..0, Some(found(6..8)))) };
    bench.hears(&message(Topic::Ahead { chain: name(JOB) }, &other));
    assert_eq!(bench.counter("refused-messages"), 3);
    assert_eq!(bench.counter("other-lambda"), 1);
}

fn note_of(message: &Message) -> AheadNote {
    from_payload(&message.payload).expect("a note")
}

#[test]
fn a_stranger_who_takes_everything_and_delivers_nothing_holds_a_job_up_and_does_not_stop_it() {
    let mut bench = Bench::new();
    bench.hears(&peer_status("b", true));
    bench.hears_head("camera-0", 0, 0);
    let mut camera = camera();
    for _ in 0..50 {
        bench.hears(&ahead("b", 0..1_000, None));
        bench.pass_us(100_000);
        bench.serve(&mut camera);
    }
    assert!(bench.starts() > 0);
    let huge: Vec<Name> = (0..200).map(|number| name(&format!("stranger-{number}"))).collect();
    for stranger in &huge {
        bench.hears(&ahead(stranger.as_str(), 0..1_000, None));
    }
}
