//! One edge node without a process, on a clock that only the test moves.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use edge_agent::config::Config;
use edge_agent::node::Node;
use edge_agent::store::{Advance, Store};
use edge_agent::worker::WorkerEvent;
use microlambda::Stop;
use microlambda_faces::content::Entry;
use microlambda_faces::fold::FoldState;
use microlambda_faces::proto::{CLASS_DETECT, FromWorker, PROTOCOL, StepTimes, ToWorker, UnitOutcome};
use microlambda_faces::{Analysis, FaceParams};
use microlambda_runtime::Message;
use microlambda_wire::{CameraHead, ChainClass, NodeStatus, Topic, from_payload, to_payload};

use super::camera::SimCamera;
use super::disk::{Media, SimStore};
use super::world::{Io, Order, SimWorld};
use super::{name, prefix};

/// A node on a clock that only the test moves.
pub struct Bench {
    /// The node.
    pub node: Node<SimStore, SimWorld>,
    /// What passes between it and its world.
    pub io: Rc<RefCell<Io>>,
    /// What it said and nobody looked at yet.
    pub said: Vec<Rc<Message>>,
    /// What it asked of its worker.
    pub orders: Vec<Order>,
    /// Whether the broker passes its statuses on, to itself as to everybody.
    pub hears_itself: bool,
    spawned: u64,
}

/// A camera whose job is four pictures.
pub fn camera() -> SimCamera {
    let mut camera = SimCamera::new(0, ChainClass::Batch, 3, 100, None);
    for _ in 0..4 {
        camera.take_picture(1_000_000);
    }
    camera
}

impl Bench {
    /// Node `a` with an empty disk, connected, its worker ready.
    #[expect(clippy::new_without_default, reason = "a node that runs is no default")]
    pub fn new() -> Self {
        Self::open("a", Arc::default())
    }

    /// A node on this disk, connected, its worker ready.
    ///
    /// # Panics
    /// As everything here: if the node fails.
    pub fn open(node: &str, media: Arc<Mutex<Media>>) -> Self {
        let io: Rc<RefCell<Io>> = Rc::default();
        io.borrow_mut().local_us = 1_000_000;
        let world = SimWorld { io: io.clone(), media: media.clone() };
        let mut config = Config::defaults().expect("defaults");
        config.site = name("simulated");
        config.node = Some(name(node));
        let node = Node::open(config, name("boot"), SimStore::new(media, 1), world).expect("a node");
        let mut bench = Self { node, io, said: Vec::new(), orders: Vec::new(), hears_itself: true, spawned: 0 };
        bench.collect();
        bench.connect();
        bench.worker_is_ready();
        bench
    }

    fn collect(&mut self) {
        let fresh: Vec<Rc<Message>> = self.io.borrow_mut().outbox.drain(..).map(|(message, _)| message).collect();
        for message in fresh.iter().filter(|message| self.hears_itself && message.topic.ends_with("/status")) {
            self.node.on_message(&message.topic, &message.payload, false).expect("no failure of the store");
        }
        self.said.extend(fresh);
        let mut io = self.io.borrow_mut();
        let orders = std::mem::take(&mut io.orders);
        for order in &orders {
            if let Order::Spawn(incarnation) = order {
                self.spawned = *incarnation;
            }
        }
        self.orders.extend(orders);
    }

    /// The bus is there, and everybody had time to be heard.
    pub fn connect(&mut self) {
        self.io.borrow_mut().connected = true;
        self.node.on_connected().expect("no failure of the store");
        self.pass_us(1_000_000);
    }

    /// Time passes.
    pub fn pass_us(&mut self, us: u64) {
        self.io.borrow_mut().local_us += us;
        self.node.tick().expect("no failure of the store");
        self.collect();
    }

    /// The worker says something.
    pub fn worker_says(&mut self, message: FromWorker) {
        self.node.on_worker(WorkerEvent::Said(self.spawned, Box::new(message))).expect("no failure of the store");
        self.node.tick().expect("no failure of the store");
        self.collect();
    }

    /// The worker's process ends.
    pub fn worker_dies(&mut self, why: &str) {
        self.node.on_worker(WorkerEvent::Gone(self.spawned, why.into())).expect("no failure of the store");
        self.node.tick().expect("no failure of the store");
        self.collect();
    }

    /// A worker has started.
    pub fn worker_is_ready(&mut self) {
        self.worker_says(FromWorker::Ready { protocol: PROTOCOL, engine: "test".into(), load_us: 1 });
    }

    /// A message arrives.
    pub fn hears(&mut self, message: &Message) {
        self.node.on_message(&message.topic, &message.payload, message.retain).expect("no failure of the store");
        self.node.tick().expect("no failure of the store");
        self.collect();
    }

    /// A camera with a finite input says what it holds.
    pub fn hears_head(&mut self, camera: &str, oldest: u64, next: u64) {
        let (camera, chain) = (name(camera), name(&format!("{camera}-spool")));
        let topic = Topic::CameraHead { camera: camera.clone() }.build(&prefix());
        let head = CameraHead { camera, chain, class: ChainClass::Batch, oldest, next, end: None };
        // Written without the sender's own check, as a stranger would.
        let payload = to_payload(&head).unwrap_or_else(|_| {
            let text = format!(
                r#"{{"v":1,"camera":"{}","chain":"{}","class":"batch","oldest":{oldest},"next":{next},"end":null}}"#,
                head.camera, head.chain
            );
            text.into_bytes()
        });
        self.hears(&Message { topic, payload, retain: true });
    }

    /// The node's next status.
    pub fn status(&mut self) -> NodeStatus {
        self.said.clear();
        self.pass_us(6_000_000);
        let status = self.said.iter().rev().find(|message| message.topic.ends_with("/status"));
        from_payload(&status.expect("a status").payload).expect("a sound one")
    }

    /// A counter of its next status.
    pub fn counter(&mut self, counter: &str) -> u64 {
        self.status().counters.iter().find(|(known, _)| known == counter).expect("a counter").1
    }

    /// Steps that the worker was told to start.
    pub fn starts(&self) -> usize {
        let is_start =
            |order: &&Order| matches!(order, Order::Tell(message) if matches!(**message, ToWorker::Start { .. }));
        self.orders.iter().filter(is_start).count()
    }

    /// The worker ends the step it was told to start last after one unit, which finishes its first frame.
    ///
    /// # Panics
    /// If it was given no frame.
    pub fn end_step(&mut self) {
        let told = self.orders.iter().rev().filter_map(|order| match order {
            Order::Tell(message) => Some(&**message),
            _ => None,
        });
        let (mut frame, mut start) = (None, None);
        for message in told {
            match message {
                ToWorker::Frame { sequence, .. } => frame = Some(*sequence),
                ToWorker::Start { step, .. } => {
                    start = Some(*step);
                    break;
                }
                _ => {}
            }
        }
        let (step, sequence) = (start.expect("a step"), frame.expect("a frame"));
        let outcome = UnitOutcome::Done(Analysis::Unreadable { why: "a test".into() });
        let run = (CLASS_DETECT, 1, 20_000);
        self.worker_says(FromWorker::Unit { step, sequence, prepare: None, run, outcome, thumbnail: None });
        let report = StepTimes { units: 1, ..StepTimes::default() };
        self.worker_says(FromWorker::Stopped { step, stop: Stop::Limit, report });
    }

    /// A camera with pictures, served until nothing more is asked for.
    pub fn serve(&mut self, camera: &mut SimCamera) {
        self.serve_all(std::slice::from_mut(camera));
    }

    /// The same with several.
    pub fn serve_all(&mut self, cameras: &mut [SimCamera]) {
        for _ in 0..100 {
            let wants: Vec<Rc<Message>> =
                self.said.drain(..).filter(|message| message.topic.ends_with("/want")).collect();
            let now_us = self.io.borrow().local_us;
            let mut messages = Vec::new();
            for camera in &mut *cameras {
                let its_own = format!("/{}/", camera.name);
                for want in wants.iter().filter(|want| want.topic.contains(&its_own)) {
                    camera.on_message(want, now_us);
                }
                messages.extend(camera.tick(now_us).0);
            }
            if messages.is_empty() {
                return;
            }
            for message in messages {
                self.hears(&message);
            }
        }
        panic!("the node asks without end");
    }
}

/// What another node says of itself when it comes, or its will when it goes.
pub fn peer_status(node: &str, online: bool) -> Message {
    let status = NodeStatus::bare(name(node), name("b1"), online);
    let topic = Topic::NodeStatus { node: name(node) }.build(&prefix());
    Message { topic, payload: to_payload(&status).expect("a payload"), retain: false }
}

/// Puts a chain with these records on a disk.
///
/// # Panics
/// If they do not follow one another from the first one on.
pub fn add_chain(media: &Arc<Mutex<Media>>, camera: &str, class: ChainClass, chain: &str, entries: &[Entry]) {
    let mut store = SimStore::new(media.clone(), 1);
    let mut fold = FoldState::genesis(FaceParams::default());
    let chain = name(chain);
    store.add_chain(&chain, &name(camera), class, fold.head()).expect("a chain");
    let folded: Vec<_> = entries.iter().map(|entry| fold.fold(entry).expect("a record in order")).collect();
    let advance = Advance {
        chain: &chain,
        from_sequence: 0,
        entries: entries.iter().zip(&folded).collect(),
        partial: None,
        head: fold.head(),
        holder: "x",
        fold: &fold,
        thumbnails: &[],
        then: None,
    };
    store.advance(&advance).expect("a transaction");
}
