//! What a node says of its events on a bus that takes little at once, and of those of a branch that has lost.

use std::collections::BTreeSet;
use std::rc::Rc;

use microlambda::Stop;
use microlambda_faces::proto::{CLASS_DETECT, FromWorker, StepTimes, UnitOutcome};
use microlambda_faces::{Analysis, FrameAnalysis};
use microlambda_runtime::Message;
use microlambda_tests::histories::{crowd, somebody};
use microlambda_tests::sim::bench::{Bench, camera};
use microlambda_tests::sim::camera::SimCamera;
use microlambda_wire::{EventNote, FaceNote, from_payload};

/// A node in a step, and what its worker finds in the first frame.
fn found(bench: &mut Bench, camera: &mut SimCamera, analysis: FrameAnalysis) {
    bench.serve(camera);
    bench.pass_us(1_000_000);
    bench.serve(camera);
    let (outcome, run) = (UnitOutcome::Done(Analysis::Frame(analysis)), (CLASS_DETECT, 1, 20_000));
    bench.worker_says(FromWorker::Unit { step: 1, sequence: 0, prepare: None, run, outcome, thumbnail: None });
    let report = StepTimes { units: 1, ..StepTimes::default() };
    bench.worker_says(FromWorker::Stopped { step: 1, stop: Stop::Limit, report });
}

fn events(said: &[Rc<Message>]) -> Vec<EventNote> {
    let events = said.iter().filter(|message| message.topic.ends_with("/event"));
    events.map(|message| from_payload(&message.payload).expect("an event")).collect()
}

#[test]
fn a_step_that_found_more_people_than_the_connection_takes_says_all_of_them_as_it_does() {
    let mut bench = Bench::new();
    let mut camera = camera();
    bench.io.borrow_mut().room = Some(100);
    let crowd = crowd(0);
    let people = crowd.faces.len();
    found(&mut bench, &mut camera, crowd);
    let mut said = std::mem::take(&mut bench.said);
    assert!(events(&said).len() < people, "else this says nothing");
    // Far less than after which a peer, or the node itself, would say them again.
    for _ in 0..60 {
        bench.io.borrow_mut().room = Some(40);
        bench.pass_us(10_000);
        said.append(&mut bench.said);
    }
    let events = events(&said);
    let faces = said.iter().filter(|message| message.topic.contains("/face/"));
    let faces: BTreeSet<String> =
        faces.map(|message| from_payload::<FaceNote>(&message.payload).expect("a face").face.to_string()).collect();
    assert_eq!(events.len(), people, "each once");
    assert_eq!(events.iter().map(|event| event.face.to_string()).collect::<BTreeSet<_>>(), faces);
}

#[test]
fn nothing_is_said_of_events_while_the_connection_is_half_full() {
    let (mut bench, mut camera) = (Bench::new(), camera());
    bench.io.borrow_mut().held_up = 512;
    let crowd = crowd(0);
    let people = crowd.faces.len();
    found(&mut bench, &mut camera, crowd);
    bench.pass_us(10_000);
    assert!(bench.said.iter().any(|message| message.topic.ends_with("/continuation")), "its state finds room");
    assert_eq!(events(&bench.said), []);
    bench.io.borrow_mut().held_up = 0;
    (0..60).for_each(|_| bench.pass_us(10_000));
    assert_eq!(events(&bench.said).len(), people, "each once");
}

#[test]
fn an_event_of_a_branch_that_lost_is_not_said_any_more() {
    let alone = |person| FrameAnalysis { faces: vec![somebody(person, 0, 0.0)], ..FrameAnalysis::default() };
    let pair = FrameAnalysis { faces: vec![somebody(2, 0, 0.0), somebody(3, 2, 0.0)], ..FrameAnalysis::default() };
    let (mut loser, mut winner) = (Bench::open("a", Default::default()), Bench::open("b", Default::default()));
    let (mut camera, mut same) = (camera(), self::camera());
    // Its word of the event is lost.
    found(&mut loser, &mut camera, pair);
    assert_eq!(events(&loser.said).len(), 2);
    loser.said.clear();
    found(&mut winner, &mut same, alone(1));
    winner.serve(&mut same);
    winner.pass_us(1_000_000);
    winner.serve(&mut same);
    winner.end_step();
    let said = std::mem::take(&mut winner.said);
    said.iter().filter(|message| !message.topic.ends_with("/event")).for_each(|message| loser.hears(message));
    for _ in 0..100 {
        // A peer's answer takes less than a lease.
        loser.pass_us(100_000);
        winner.pass_us(100_000);
        let (from_loser, from_winner) = (std::mem::take(&mut loser.said), std::mem::take(&mut winner.said));
        assert!(events(&from_loser).iter().all(|event| event.face_index == 0), "the second face is nobody's now");
        from_winner
            .iter()
            .filter(|message| !message.topic.ends_with("/event"))
            .for_each(|message| loser.hears(message));
        from_loser.iter().for_each(|message| winner.hears(message));
    }
    assert_eq!(loser.counter("suffixes-replaced"), 1);
}

#[test]
fn what_a_lost_connection_left_unsaid_waits_for_those_who_watch() {
    let mut bench = Bench::new();
    let mut camera = camera();
    bench.io.borrow_mut().room = Some(10);
    let crowd = crowd(0);
    let people = crowd.faces.len();
    found(&mut bench, &mut camera, crowd);
    let before = events(&bench.said).len();
    bench.said.clear();
    bench.io.borrow_mut().connected = false;
    bench.pass_us(100_000);
    {
        let mut io = bench.io.borrow_mut();
        (io.connected, io.room) = (true, None);
    }
    bench.node.on_connected().expect("no failure of the store");
    bench.pass_us(10_000);
    assert_eq!(events(&bench.said), [], "they are on their way back");
    let mut said = Vec::new();
    for _ in 0..200 {
        bench.pass_us(50_000);
        said.append(&mut bench.said);
    }
    let ids: BTreeSet<String> = events(&said).iter().map(|event| event.id.to_string()).collect();
    assert!(ids.len() + before >= people, "{} of {people}", ids.len() + before);
}
