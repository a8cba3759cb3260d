//! A whole node on the real store: whatever it has said on the bus is on its disk after a power cut at that moment.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use edge_agent::config::Config;
use edge_agent::node::{Node, World};
use edge_agent::store::{Depth, Room, SqliteStore, Store};
use edge_agent::worker::WorkerEvent;
use microlambda::sabotage::Sabotage;
use microlambda_faces::FaceParams;
use microlambda_faces::proto::ToWorker;
use microlambda_runtime::{LinkCounters, Message, PublishError};
use microlambda_tests::name;
use microlambda_tests::powercut::tap::Watch;
use microlambda_tests::powercut::{Covered, cut_everywhere};
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::sim::prefix;
use microlambda_tests::sim::random::Random;
use microlambda_tests::sim::worker::{Next, SimWorker};
use microlambda_tests::sim::world::Order;
use microlambda_wire::{ChainClass, ClaimNote, Continuation, DoneNote, EventNote, Topic, Want, from_payload};

use crate::{Recording, over_seeds, recorded, state_dir};

/// Jobs, and the pictures of each.
const JOBS: u64 = 2;
const PICTURES: u64 = 8;
const MIXED_DISKS: u64 = 1;
/// So many disks at least are opened and checked in all.
const CHECKED_MIN: usize = 500;
/// A job of so few pictures takes fewer turns.
const TURNS_MAX: usize = 5_000;

/// What passes between the node and its surroundings; what it says is noted with the moment.
#[derive(Default)]
struct Io {
    now_us: u64,
    orders: Vec<Order>,
    outbox: Vec<Message>,
    said: Vec<(usize, Message)>,
}

struct Tapped<'a> {
    io: Rc<RefCell<Io>>,
    watch: &'a Watch,
}

impl World for Tapped<'_> {
    fn now_us(&self) -> u64 {
        self.io.borrow().now_us
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn publish(&mut self, message: Message) -> Result<(), PublishError> {
        let mut io = self.io.borrow_mut();
        io.said.push((self.watch.moment(), message.clone()));
        io.outbox.push(message);
        Ok(())
    }

    fn queued(&self) -> usize {
        self.io.borrow().outbox.len()
    }

    fn bus_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }

    fn spawn_worker(&mut self, incarnation: u64) -> Result<(), String> {
        self.io.borrow_mut().orders.push(Order::Spawn(incarnation));
        Ok(())
    }

    fn send_to_worker(&mut self, message: &ToWorker) -> bool {
        self.io.borrow_mut().orders.push(Order::Tell(Box::new(message.clone())));
        true
    }

    /// It has a processor of its own.
    fn worker_waited_us(&self) -> u64 {
        0
    }

    /// How full the disk is has no part in this.
    fn room(&self) -> Option<Room> {
        None
    }

    fn kill_worker(&mut self) {
        self.io.borrow_mut().orders.push(Order::Kill);
    }

    fn show_status(&mut self, _line: &str) {}
}

/// A node with its camera and its worker, driven until the job is done.
struct Bench<'a> {
    node: Node<SqliteStore, Tapped<'a>>,
    io: Rc<RefCell<Io>>,
    camera: SimCamera,
    worker: Option<SimWorker>,
    unit_ends_us: Option<u64>,
    random: Random,
    seed: u64,
    done: bool,
}

impl<'a> Bench<'a> {
    fn new(root: &Path, watch: &'a Watch, seed: u64) -> Self {
        let io: Rc<RefCell<Io>> = Rc::default();
        io.borrow_mut().now_us = 1_000_000;
        let mut config = Config::defaults().expect("defaults");
        config.site = name("simulated");
        config.node = Some(name("a"));
        config.chain.r_limit_ms = 200;
        let opened = SqliteStore::open_or_renew(&state_dir(root), &FaceParams::default());
        let store = opened.expect("a store").store;
        let world = Tapped { io: io.clone(), watch };
        let mut node = Node::open(config, name("boot"), store, world).expect("a node");
        node.on_connected().expect("no failure of the store");
        let mut camera = SimCamera::new(0, ChainClass::Batch, PICTURES, 100, None);
        while !camera.has_ended() {
            camera.take_picture(1_000_000);
        }
        camera.on_connected(1_000);
        let random = Random::new(seed);
        Self { node, io, camera, worker: None, unit_ends_us: None, random, seed, done: false }
    }

    fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.done {
                return;
            }
            self.turn();
        }
        panic!("the job is not done after {TURNS_MAX} turns");
    }

    fn turn(&mut self) {
        let orders = std::mem::take(&mut self.io.borrow_mut().orders);
        orders.into_iter().for_each(|order| self.order(order));
        let said = std::mem::take(&mut self.io.borrow_mut().outbox);
        let now_us = self.io.borrow().now_us;
        for message in said {
            self.done |= message.topic.ends_with("/done");
            if message.topic.ends_with("/want") || message.topic.ends_with("/status") {
                self.camera.on_message(&message, now_us);
            }
            // The broker sends a node its own events too.
            if message.topic.ends_with("/event") {
                self.node.on_message(&message.topic, &message.payload, false).expect("no failure of the store");
            }
        }
        let (messages, camera_due_us) = self.camera.tick(now_us);
        for message in messages {
            self.node.on_message(&message.topic, &message.payload, message.retain).expect("no failure of the store");
        }
        self.work(now_us);
        self.node.tick().expect("no failure of the store");
        let unit_us = self.unit_ends_us.unwrap_or(u64::MAX);
        let next_us = self.node.next_wake_us().min(unit_us).min(camera_due_us);
        let mut io = self.io.borrow_mut();
        // What is under way arrives before the time goes on.
        let rests = io.orders.is_empty() && io.outbox.is_empty();
        io.now_us = if rests { next_us.clamp(now_us + 1, now_us + 1_000_000) } else { now_us + 1 };
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Spawn(incarnation) => {
                let (worker, _, ready) = SimWorker::spawn(incarnation, 0, 1_000, self.seed, false, &mut self.random);
                self.worker = Some(worker);
                self.node.on_worker(WorkerEvent::Said(incarnation, Box::new(ready))).expect("no failure of the store");
            }
            Order::Tell(message) => {
                let now_us = self.io.borrow().now_us;
                if let Some(worker) = &mut self.worker {
                    worker.hears(&message, now_us);
                }
            }
            Order::Kill => {
                let killed = self.worker.take().map(|worker| worker.incarnation);
                self.unit_ends_us = None;
                if let Some(incarnation) = killed {
                    let gone = WorkerEvent::Gone(incarnation, "killed".into());
                    self.node.on_worker(gone).expect("no failure of the store");
                }
            }
        }
    }

    /// Lets the worker say all it has to say.
    fn work(&mut self, now_us: u64) {
        while let Some(worker) = &mut self.worker {
            let next = match self.unit_ends_us.filter(|at_us| *at_us <= now_us) {
                Some(_) => {
                    self.unit_ends_us = None;
                    worker.unit_ended(now_us)
                }
                None => worker.goes_on(now_us, &mut self.random),
            };
            match next {
                Next::Says(message) => {
                    let event = WorkerEvent::Said(worker.incarnation, message);
                    self.node.on_worker(event).expect("no failure of the store");
                }
                Next::UnitEndsAt(at_us) => self.unit_ends_us = Some(at_us),
                Next::Nothing => return,
                Next::Dies => unreachable!("nothing befalls this worker"),
            }
        }
    }
}

/// A job, with what was said when.
fn run(seed: u64, sabotage: Option<Sabotage>) -> (Vec<(usize, Message)>, Recording) {
    recorded(sabotage, |root, watch| {
        let mut bench = Bench::new(root, watch, seed);
        bench.run();
        bench.node.end_stop().expect("no failure of the store");
        std::mem::take(&mut bench.io.borrow_mut().said)
    })
}

/// Whether the disk bears out what the node has said.
fn is_borne_out(store: &SqliteStore, message: &Message) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let topic = Topic::parse(&prefix(), &message.topic).map_err(|error| text(&error))?;
    match topic {
        Topic::Continuation { chain } => {
            let note: Continuation = from_payload(&message.payload).map_err(|error| text(&error))?;
            let held = store.chain(&chain).map_err(|error| text(&error))?.ok_or("the chain is gone")?;
            let (boundary, head) = (note.head.version.sequence, held.head);
            if note.head.version.unit == 0 {
                let stored = store.boundary(&chain, boundary).map_err(|error| text(&error))?;
                if stored != Some(note.head) {
                    return Err(format!("the head at {} was announced and is not held", note.head.version));
                }
            } else if note.head.beats(&head) {
                return Err(format!(
                    "the head at {} was announced, the one held is at {}",
                    note.head.version, head.version
                ));
            }
            Ok(())
        }
        Topic::Event => {
            let note: EventNote = from_payload(&message.payload).map_err(|error| text(&error))?;
            let held = store.events(u64::from(u32::MAX)).map_err(|error| text(&error))?;
            let known = held.iter().any(|row| row.event == note);
            known.then_some(()).ok_or_else(|| format!("event {} was published and is not held", note.id))
        }
        Topic::CameraWant { .. } => {
            let want: Want = from_payload(&message.payload).map_err(|error| text(&error))?;
            let held = store.chain(&want.chain).map_err(|error| text(&error))?;
            let boundary = held.map_or(0, |chain| chain.boundary.version.sequence);
            let safe = boundary >= want.committed;
            safe.then_some(()).ok_or_else(|| format!("{} were reported as committed, {boundary} are", want.committed))
        }
        Topic::Done { chain } => {
            let note: DoneNote = from_payload(&message.payload).map_err(|error| text(&error))?;
            let held = store.chain(&chain).map_err(|error| text(&error))?;
            let known = held.is_some_and(|chain| chain.done && chain.head == note.head);
            known.then_some(()).ok_or_else(|| "the end was published and is not held".into())
        }
        // A claim prevents a start and promises nothing; faces follow from events.
        Topic::Claim { .. } => from_payload::<ClaimNote>(&message.payload).map(|_| ()).map_err(|error| text(&error)),
        _ => Ok(()),
    }
}

fn check(folder: &Path, said: &[(usize, Message)], at: usize) -> Result<(), String> {
    let store = SqliteStore::open(folder).map_err(|error| error.to_string())?;
    let found = store.check(&FaceParams::default(), Depth::Everything, None).map_err(|error| error.to_string())?;
    if !found.sound {
        return Err(format!("{:?}", found.problems));
    }
    said.iter().filter(|(moment, _)| *moment <= at).try_for_each(|(_, message)| is_borne_out(&store, message))
}

fn cut(seed: u64, sabotage: Option<Sabotage>) -> Result<Covered, String> {
    let (said, recording) = run(seed, sabotage);
    let mut random = Random::new(seed ^ 0xC07);
    let stage = |at| said.partition_point(|(moment, _)| *moment <= at);
    cut_everywhere(&recording.start, &recording.events, MIXED_DISKS, &mut random, stage, |at, root| {
        check(&state_dir(root), &said, at)
    })
}

#[test]
fn whatever_a_node_has_said_is_on_its_disk_after_a_power_cut() {
    let sum = over_seeds(JOBS, |seed| cut(seed, None));
    println!("node: {sum:?}");
    assert!(sum.checked >= CHECKED_MIN, "{sum:?}");
}

#[test]
fn a_node_that_publishes_before_it_commits_is_found() {
    let why = cut(0, Some(Sabotage::PublishBeforeCommit)).expect_err("a head was announced that is not held");
    println!("{why}");
    assert!(why.contains("was announced"), "{why}");
}

#[test]
fn a_node_whose_store_does_not_sync_is_found() {
    let why = cut(0, Some(Sabotage::UnsyncedCommits)).expect_err("what was said is not held");
    println!("{why}");
    assert!(why.contains("the chain is gone") || why.contains("was announced"), "{why}");
}
