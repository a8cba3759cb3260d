//! One edge node and its worker: what it makes of a worker that is slow, hangs, dies, or cannot read a picture.

use std::sync::{Arc, Mutex};

use microlambda::{Budget, UnitCost};
use microlambda_faces::Analysis;
use microlambda_faces::proto::{CLASS_DETECT, FromWorker, ToWorker, UnitOutcome};
use microlambda_tests::sim::bench::{Bench, camera};
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::disk::Media;
use microlambda_tests::sim::world::Order;
use microlambda_wire::NodeStatus;

/// A camera whose first frames the node has; it claimed a step `pass_us` after it had heard of them.
fn camera_served(bench: &mut Bench, pass_us: u64) -> SimCamera {
    let mut camera = camera();
    bench.serve(&mut camera);
    bench.pass_us(pass_us);
    bench.serve(&mut camera);
    camera
}

fn count(status: &NodeStatus, counter: &str) -> Option<u64> {
    status.counters.iter().find(|(name, _)| name == counter).map(|(_, count)| *count)
}

#[test]
fn a_unit_that_had_to_be_killed_is_told_with_the_remedy_and_not_tried_again_at_once() {
    let mut bench = Bench::new();
    camera_served(&mut bench, 1_000_000);
    for step in 1..=2 {
        assert_eq!(bench.starts(), step, "the first kill may be the computer's fault");
        bench.worker_says(FromWorker::Begin { step: step as u64, part: (CLASS_DETECT, 320 * 240) });
        bench.pass_us(1_100_000);
        bench.worker_is_ready();
        bench.pass_us(100_000);
    }
    assert_eq!(bench.starts(), 2, "after the second it waits");
    let status = bench.status();
    assert!(status.trouble.contains("raise it"), "{}", status.trouble);
    assert_eq!(count(&status, "overruns"), Some(2));
    let costs = bench.orders.iter().rev().find_map(|order| match order {
        Order::Tell(message) => match &**message {
            ToWorker::Start { costs, .. } => Some(costs.clone()),
            _ => None,
        },
        _ => None,
    });
    let budget = Budget::from_table(&costs.expect("a second try, some seconds later"));
    let tile = UnitCost::run(CLASS_DETECT, 640 * 640);
    assert!(!budget.fits_first(&tile, 0, 1_000_000), "the budget has learnt that a larger unit does not fit either");
}

/// Teaches the node what a search of 320×240 px takes: 20 ms.
fn learn_short_searches(bench: &mut Bench) {
    for _ in 0..3 {
        // Of whatever step: costs are what they are.
        let outcome = UnitOutcome::Done(Analysis::Unreadable { why: "costs only".into() });
        let run = (CLASS_DETECT, 320 * 240, 20_000);
        bench.worker_says(FromWorker::Unit { step: 0, sequence: 0, prepare: None, run, outcome, thumbnail: None });
    }
}

#[test]
fn a_unit_that_hangs_has_failed_where_such_units_are_known_to_be_short() {
    let mut bench = Bench::new();
    learn_short_searches(&mut bench);
    let mut camera = camera_served(&mut bench, 100_000);
    for step in 1..=3 {
        assert_eq!(bench.starts(), step);
        bench.worker_says(FromWorker::Begin { step: step as u64, part: (CLASS_DETECT, 320 * 240) });
        bench.pass_us(1_100_000);
        bench.worker_is_ready();
        bench.pass_us(100_000);
        bench.serve(&mut camera);
    }
    let status = bench.status();
    let count = |counter: &str| count(&status, counter);
    assert_eq!(
        [count("units-run-away"), count("unit-failures"), count("units-set-aside")],
        [Some(3), Some(3), Some(1)]
    );
    let [unit] = status.set_aside.as_slice() else { panic!("{:?}", status.set_aside) };
    assert!(unit.why.contains("a: 3 × killed after 1100 ms, where such units take 19 ms"), "{}", unit.why);
    assert_eq!(status.trouble, "", "it is no matter of r-limit-ms");
}

#[test]
fn a_unit_that_waited_for_a_processor_has_not_failed() {
    let mut bench = Bench::new();
    learn_short_searches(&mut bench);
    camera_served(&mut bench, 100_000);
    bench.io.borrow_mut().worker_waited_us = 5_000_000;
    bench.worker_says(FromWorker::Begin { step: 1, part: (CLASS_DETECT, 320 * 240) });
    bench.io.borrow_mut().worker_waited_us += 1_040_000;
    bench.pass_us(1_100_000);
    let status = bench.status();
    let count = |counter: &str| count(&status, counter);
    assert_eq!([count("kills"), count("units-run-away"), count("unit-failures")], [Some(1), Some(0), Some(0)]);
}

#[test]
fn an_agent_that_stood_still_itself_holds_nothing_against_the_unit() {
    let mut bench = Bench::new();
    learn_short_searches(&mut bench);
    camera_served(&mut bench, 1_000_000);
    bench.worker_says(FromWorker::Begin { step: 1, part: (CLASS_DETECT, 320 * 240) });
    bench.pass_us(8_000_000);
    let status = bench.status();
    let count = |counter: &str| count(&status, counter);
    assert_eq!([count("kills"), count("unit-failures"), count("units-run-away")], [Some(1), Some(0), Some(0)]);
    let cost = status.costs.iter().find(|cost| cost.class == CLASS_DETECT).expect("what is known");
    assert_eq!(cost.samples, 3, "nor does it say anything of costs");
}

#[test]
fn a_unit_that_ends_the_whole_process_is_set_aside_too() {
    let (media, mut camera): (Arc<Mutex<Media>>, _) = (Arc::default(), camera());
    for life in 1..=5 {
        let mut bench = Bench::open("a", media.clone());
        camera.restart(1_000_000);
        bench.serve(&mut camera);
        bench.pass_us(100_000);
        bench.serve(&mut camera);
        if life < 5 {
            // Here the computer goes down.
            assert_eq!(bench.starts(), 1, "life {life}");
        } else {
            assert_eq!(bench.counter("units-set-aside"), 1);
        }
    }
}

#[test]
fn a_worker_that_dies_before_it_was_given_anything_says_nothing_about_the_unit() {
    let mut bench = Bench::new();
    bench.hears_head("door", 0, 50);
    bench.pass_us(100_000);
    assert!(bench.said.iter().any(|message| message.topic.ends_with("/want")), "the step waits for its frames");
    bench.worker_dies("no memory");
    assert_eq!(bench.counter("unit-failures"), 0);
}

#[test]
fn frames_that_the_worker_cannot_read_are_counted() {
    let mut bench = Bench::new();
    camera_served(&mut bench, 1_000_000);
    bench.end_step();
    assert_eq!(bench.counter("frames-unreadable"), 1);
}

#[test]
fn a_worker_that_never_gets_ready_is_no_overrun_and_is_tried_again_later() {
    let mut bench = Bench::new();
    bench.worker_dies("no memory");
    let spawned = |bench: &Bench| bench.orders.iter().filter(|order| matches!(order, Order::Spawn(_))).count();
    let before = spawned(&bench);
    bench.pass_us(61_000_000);
    assert!(bench.orders.iter().any(|order| matches!(order, Order::Kill)), "it is ended");
    assert_eq!(spawned(&bench), before, "and not started again at once");
    bench.pass_us(1_000_000);
    assert_eq!(spawned(&bench), before + 1);
    assert_eq!([bench.counter("kills"), bench.counter("overruns"), bench.counter("worker-restarts")], [0, 0, 2]);
}

#[test]
fn however_much_is_wrong_the_status_is_said() {
    let mut bench = Bench::new();
    let message = "ü".repeat(5_000);
    bench.worker_dies("no memory");
    bench.worker_says(FromWorker::Fatal { message });
    assert!(bench.status().trouble.starts_with("üü"));
}
