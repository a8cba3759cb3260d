//! One edge node and its worker: what it makes of a worker that is slow, hangs, dies, or cannot read a picture.

use std::sync::{Arc, Mutex};

use microlambda::{Budget, CostClass, Stop, UnitCost};
use microlambda_faces::Analysis;
use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, FromWorker, StepTimes, ToWorker, UnitOutcome};
use microlambda_tests::sim::bench::{Bench, camera};
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::disk::Media;
use microlambda_tests::sim::truth;
use microlambda_tests::sim::world::Order;
use microlambda_wire::{ChainClass, NodeStatus};

/// What is searched at once of the cameras' pictures, px.
const TILE_PX: u64 = 320 * 240;

/// A camera whose first frames the node has; it claimed a step `pass_us` after it had heard of them.
fn camera_served(bench: &mut Bench, pass_us: u64) -> SimCamera {
    let mut camera = camera();
    bench.serve(&mut camera);
    bench.pass_us(pass_us);
    bench.serve(&mut camera);
    camera
}

fn is_killed(bench: &Bench) -> bool {
    bench.orders.iter().any(|order| matches!(order, Order::Kill))
}

/// The worker says nothing more, and the node comes in time to all that it wants to be woken for, until it kills the worker.
fn hangs(bench: &mut Bench) {
    bench.orders.retain(|order| !matches!(order, Order::Kill));
    for _ in 0..10_000 {
        if is_killed(bench) {
            return;
        }
        let now_us = bench.io.borrow().local_us;
        // A timer may be a millisecond late.
        let wait_us = bench.node.next_wake_us().saturating_sub(now_us).max(1_000);
        bench.pass_us(wait_us);
    }
    panic!("the worker is never killed");
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
        hangs(&mut bench);
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
    learn_searches(bench, 20_000);
}

fn learn_searches(bench: &mut Bench, took_us: u64) {
    for _ in 0..3 {
        // Of whatever step: costs are what they are.
        let outcome = UnitOutcome::Done(Analysis::Unreadable { why: "costs only".into() });
        let run = (CLASS_DETECT, TILE_PX, took_us);
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
        hangs(&mut bench);
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
    assert!(unit.why.contains("a: 3 × killed after "), "{}", unit.why);
    assert!(unit.why.contains(" ms, where such units take 20 ms"), "{}", unit.why);
    assert_eq!(status.trouble, "", "it is no matter of r-limit-ms");
}

/// The first picture that a node is ever given hangs so often; a search of 96×96 px took each worker `trial_us`.
fn first_picture_hangs(times: usize, trial_us: u64) -> (Bench, NodeStatus) {
    let mut bench = Bench::new();
    let mut camera = camera_served(&mut bench, 1_000_000);
    for killed in 0..times {
        for _ in 0..100 {
            if bench.starts() > killed {
                break;
            }
            bench.pass_us(100_000);
            bench.serve(&mut camera);
        }
        bench.worker_says(FromWorker::Begin { step: bench.starts() as u64, part: (CLASS_DETECT, 320 * 240) });
        hangs(&mut bench);
        bench.worker_is_ready();
        bench.worker_says(FromWorker::Tried { units: vec![(CLASS_DETECT, 96 * 96, trial_us)] });
    }
    let status = bench.status();
    (bench, status)
}

#[test]
fn the_very_first_picture_of_a_node_may_hang_and_a_slow_computer_sets_nothing_aside() {
    // 20 ms a search by the trial, where the limit is a second.
    let (_, status) = first_picture_hangs(6, 2_400);
    let [unit] = status.set_aside.as_slice() else { panic!("{:?}", status.set_aside) };
    assert!(unit.why.contains("where such units take 19 ms") || unit.why.contains("take 20 ms"), "{}", unit.why);
    // By the trial more than a second: the limit is what is wrong.
    let (_, status) = first_picture_hangs(20, 130_000);
    assert!(status.set_aside.is_empty() && status.trouble.contains("raise it"), "{status:?}");
}

/// A node that works for two live cameras. The first one has two pictures, the second one goes on taking some.
struct TwoCameras {
    bench: Bench,
    cameras: [SimCamera; 2],
    /// Steps that the worker was seen to begin.
    begun: usize,
}

/// A step that the worker was told to start, and the frame that it begins with.
struct Begun {
    step: u64,
    camera: usize,
    sequence: u64,
}

impl TwoCameras {
    fn new() -> Self {
        let mut cameras = [0, 1].map(|index| SimCamera::new(index, ChainClass::Live, 10_000, 200, None));
        (0..2).for_each(|_| assert!(cameras[0].take_picture(1_000_000)));
        Self { bench: Bench::new(), cameras, begun: 0 }
    }

    fn next_step(&mut self) -> Begun {
        for _ in 0..100 {
            let now_us = self.bench.io.borrow().local_us;
            assert!(self.cameras[1].take_picture(now_us));
            self.bench.serve_all(&mut self.cameras);
            if self.bench.starts() > self.begun {
                self.begun += 1;
                return self.last_step();
            }
            self.bench.pass_us(100_000);
        }
        panic!("the worker is told to start nothing");
    }

    fn last_step(&self) -> Begun {
        let mut first = None;
        for order in self.bench.orders.iter().rev() {
            let Order::Tell(message) = order else { continue };
            match &**message {
                ToWorker::Frame { sequence, jpeg, .. } => first = truth::which(jpeg).zip(Some(*sequence)),
                ToWorker::Start { step, .. } => {
                    let ((camera, _), sequence) = first.expect("a frame");
                    return Begun { step: *step, camera, sequence };
                }
                ToWorker::NoMoreFrames | ToWorker::Stop => {}
            }
        }
        panic!("the worker was told to start nothing");
    }

    /// The worker finishes the frame that a step began with by one search, and ends the step.
    fn finish(&mut self, begun: &Begun, px: u64, took_us: u64) {
        let Begun { step, sequence, .. } = *begun;
        self.bench.worker_says(FromWorker::Begin { step, part: (CLASS_DETECT, px) });
        self.bench.pass_us(took_us);
        let outcome = UnitOutcome::Done(Analysis::Unreadable { why: "a test".into() });
        let run = (CLASS_DETECT, px, took_us);
        self.bench.worker_says(FromWorker::Unit { step, sequence, prepare: None, run, outcome, thumbnail: None });
        let report = StepTimes { units: 1, ..StepTimes::default() };
        self.bench.worker_says(FromWorker::Stopped { step, stop: Stop::Limit, report });
    }

    /// The first camera's first picture does not end within the limit, all other searches are of `px` and take `took_us`:
    /// how often the worker is killed until the chain goes on, `kills_max` times at most.
    fn work(&mut self, kills_max: usize, px: u64, took_us: u64) -> usize {
        let mut kills = 0;
        for _ in 0..2_000 {
            let begun = self.next_step();
            if (begun.camera, begun.sequence) != (0, 0) {
                self.finish(&begun, px, took_us);
                if begun.camera == 0 {
                    return kills;
                }
                continue;
            }
            self.bench.worker_says(FromWorker::Begin { step: begun.step, part: (CLASS_DETECT, TILE_PX) });
            hangs(&mut self.bench);
            self.bench.worker_is_ready();
            let trial = (CLASS_DETECT, 96 * 96, took_us * 96 * 96 / px);
            self.bench.worker_says(FromWorker::Tried { units: vec![trial] });
            kills += 1;
            if kills == kills_max {
                return kills;
            }
        }
        panic!("the first camera's turn does not come");
    }
}

#[test]
fn a_unit_that_hangs_beside_another_cameras_work_is_set_aside_after_some_tries_and_its_chain_goes_on() {
    // The limit is a second: of 2.5 such units, and of 1.4.
    for (unit_ms, tries) in [(400, 4..=10), (720, 13..=24)] {
        let mut node = TwoCameras::new();
        let kills = node.work(100, TILE_PX, unit_ms * 1_000);
        assert!(tries.contains(&kills), "{kills} tries of {unit_ms} ms");
        let status = node.bench.status();
        let [unit] = status.set_aside.as_slice() else { panic!("{:?}", status.set_aside) };
        assert_eq!(unit.chain, node.cameras[0].chain);
        assert!(unit.why.contains(&format!("where such units take {unit_ms} ms")), "{}", unit.why);
    }
}

#[test]
fn a_unit_that_is_slow_as_its_computer_is_slow_for_now_is_tried_until_it_ends() {
    let mut node = TwoCameras::new();
    // Known to fit the limit of a second …
    learn_searches(&mut node.bench, 750_000);
    // … which it does not while everything takes 1.5 times as long; half as large a picture does.
    assert_eq!(node.work(30, TILE_PX / 2, 562_500), 30);
    let mut ended = Vec::new();
    for _ in 0..100 {
        let begun = node.next_step();
        node.finish(&begun, TILE_PX, 750_000);
        if begun.camera == 0 {
            ended.push(begun.sequence);
        }
    }
    assert_eq!(ended, [0, 1]);
    let status = node.bench.status();
    assert_eq!(["units-run-away", "units-set-aside"].map(|counter| count(&status, counter)), [Some(0), Some(0)]);
}

#[test]
fn a_unit_that_waited_for_a_processor_has_not_failed() {
    let mut bench = Bench::new();
    learn_short_searches(&mut bench);
    camera_served(&mut bench, 100_000);
    bench.io.borrow_mut().worker_waited_us = 5_000_000;
    bench.worker_says(FromWorker::Begin { step: 1, part: (CLASS_DETECT, 320 * 240) });
    bench.io.borrow_mut().worker_waited_us += 1_040_000;
    hangs(&mut bench);
    let status = bench.status();
    let count = |counter: &str| count(&status, counter);
    assert_eq!([count("kills"), count("units-run-away"), count("unit-failures")], [Some(1), Some(0), Some(0)]);
}

#[test]
fn an_agent_that_stood_still_itself_holds_nothing_against_the_unit() {
    let mut bench = Bench::new();
    learn_short_searches(&mut bench);
    camera_served(&mut bench, 100_000);
    bench.worker_says(FromWorker::Begin { step: 1, part: (CLASS_DETECT, 320 * 240) });
    bench.pass_us(8_000_000);
    assert!(!is_killed(&bench), "what it has said may not be heard yet");
    bench.pass_us(20_000);
    assert!(is_killed(&bench), "it has said nothing");
    let status = bench.status();
    let count = |counter: &str| count(&status, counter);
    assert_eq!([count("kills"), count("unit-failures"), count("units-run-away")], [Some(1), Some(0), Some(0)]);
    let cost = status.costs.iter().find(|cost| cost.class == CLASS_DETECT).expect("what is known");
    assert_eq!(cost.samples, 3, "nor does it say anything of costs");
}

#[test]
fn a_unit_that_hangs_has_failed_though_the_agent_is_a_little_late() {
    let in_a_search = || {
        let mut bench = Bench::new();
        learn_short_searches(&mut bench);
        camera_served(&mut bench, 100_000);
        bench.worker_says(FromWorker::Begin { step: 1, part: (CLASS_DETECT, 320 * 240) });
        bench
    };
    let mut punctual = in_a_search();
    hangs(&mut punctual);
    let kill_at_us = punctual.io.borrow().local_us;
    let mut bench = in_a_search();
    let now_us = bench.io.borrow().local_us;
    bench.pass_us(kill_at_us + 10_000 - now_us);
    assert!(!is_killed(&bench));
    bench.pass_us(20_000);
    let status = bench.status();
    assert_eq!(["kills", "units-run-away"].map(|counter| count(&status, counter)), [Some(1), Some(1)]);
}

#[test]
fn a_worker_that_ended_in_time_is_not_killed_by_an_agent_that_was_held_up() {
    let mut bench = Bench::new();
    camera_served(&mut bench, 1_000_000);
    bench.pass_us(1_200_000);
    bench.end_step();
    bench.pass_us(30_000);
    assert!(!is_killed(&bench));
    assert_eq!(bench.counter("frames-unreadable"), 1, "what it found counts");
}

#[test]
fn a_worker_that_tells_of_another_steps_end_or_of_a_second_start_is_still_killed_at_its_limit() {
    let mut bench = Bench::new();
    camera_served(&mut bench, 100_000);
    assert_eq!(bench.starts(), 1);
    let began_us = bench.io.borrow().local_us;
    let report = StepTimes::default();
    bench.worker_says(FromWorker::Stopped { step: 77, stop: Stop::Limit, report });
    bench.worker_is_ready();
    hangs(&mut bench);
    let took_us = bench.io.borrow().local_us - began_us;
    assert!((900_000..1_300_000).contains(&took_us), "the limit is a second: {took_us} µs");
    assert_eq!(bench.counter("kills"), 1);
}

#[test]
fn a_worker_that_goes_on_talking_with_nothing_to_do_is_replaced() {
    let mut bench = Bench::new();
    // As the node hears it before the bus, it would never come to that.
    let said = (1..1_000).find(|_| {
        bench.worker_says(FromWorker::Begin { step: 0, part: (CLASS_DETECT, 320 * 240) });
        is_killed(&bench)
    });
    assert!(said.is_some_and(|said| said <= 64), "after {said:?} messages");
    bench.worker_is_ready();
    camera_served(&mut bench, 100_000);
    assert_eq!(bench.starts(), 1);
    assert_eq!(bench.counter("worker-nonsense"), 1);
}

#[test]
fn a_unit_that_does_not_fit_is_named_with_what_it_takes_and_the_remedy_and_costs_no_other_its_place() {
    let mut bench = Bench::new();
    let (prepare, run) = (Some((CLASS_DECODE, 1_000_000, 52_000)), (CLASS_DETECT, 320 * 240, 20_000));
    let outcome = UnitOutcome::Done(Analysis::Unreadable { why: "costs only".into() });
    bench.worker_says(FromWorker::Unit { step: 0, sequence: 0, prepare, run, outcome, thumbnail: None });
    let mean = |status: &NodeStatus, class: CostClass| {
        status.costs.iter().find(|cost| cost.class == class).map(|cost| cost.mean)
    };
    let before = bench.status();
    camera_served(&mut bench, 100_000);
    let unit = UnitCost { run: (CLASS_DETECT, 640 * 640), prepare: Some((CLASS_DECODE, 100_000_000)) };
    for step in 1..=2 {
        bench.worker_says(FromWorker::Refused { step, unit });
        bench.worker_says(FromWorker::Stopped { step, stop: Stop::TooLarge, report: StepTimes::default() });
        let status = bench.status();
        let expected = "decoding the picture of 100.0 megapixels is expected to take 5201 ms here, which \
                        r-limit-ms = 1000 does not hold: raise it to at least 5201, lower frame.pixels-max of its \
                        camera, or leave the work to a faster node";
        assert_eq!(status.trouble, expected);
        assert_eq!(count(&status, "units-too-large"), Some(step));
        assert_eq!(mean(&status, CLASS_DETECT), mean(&before, CLASS_DETECT));
        assert!(mean(&status, CLASS_DECODE) < mean(&before, CLASS_DECODE), "so that it is tried some time");
    }
}

#[test]
fn a_picture_that_takes_too_long_to_decode_is_told_with_the_cameras_setting_if_that_can_make_it_smaller() {
    for (px, remedy) in [
        (24_000_000, "raise it, lower frame.pixels-max of its camera, or leave the work"),
        (800_000, "raise it, scale the picture down, or leave the work"),
    ] {
        let mut bench = Bench::new();
        camera_served(&mut bench, 1_000_000);
        bench.worker_says(FromWorker::Begin { step: 1, part: (CLASS_DECODE, px) });
        hangs(&mut bench);
        bench.worker_is_ready();
        bench.pass_us(100_000);
        let trouble = bench.status().trouble;
        assert!(trouble.contains("a unit was killed") && trouble.contains(remedy), "{trouble}");
    }
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
