//! The site: nodes, cameras and the bus, driven event by event.

mod cameras;
mod end;
mod nodes;
mod strike;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_agent::config::{ChainSettings, PlacementPolicy};
use edge_agent::node::Node;
use edge_agent::worker::WorkerEvent;
use microlambda_faces::proto::FromWorker;
use microlambda_runtime::Message;
use microlambda_wire::{ChainClass, EventNote, Name, NodeStatus, Record, Topic, from_payload};

use super::bus::{Bus, ClientId, Delivery, Manners};
use super::camera::SimCamera;
use super::disk::{Disk, Media, SimStore};
use super::fault::{FaultKind, Phase};
use super::invariants::{Checked, GivenOut, Memory, Violation};
use super::random::Random;
use super::worker::SimWorker;
use super::world::{Io, SimWorld};
use super::{Options, Outcome, Sabotage};

/// Nodes of a site at most.
pub const NODES_MAX: usize = 5;
/// Cameras of a site at most.
pub const CAMERAS_MAX: usize = 4;
/// A simulation that takes more events has lost its way.
const EVENTS_MAX: u64 = 150_000;
/// After the faults everything has to be done within this, µs.
const PATIENCE_US: u64 = 400_000_000;

/// A clean stop waits so long for the running unit, as the agent's loop does, µs.
const STOP_PATIENCE_US: u64 = 1_500_000;

/// What happens.
#[derive(Debug)]
enum Happening {
    Deliver(Delivery),
    /// What a paused process says when it goes on.
    Publish(usize, u32, Rc<Message>),
    NodeWake(usize, u64),
    NodeStart(usize),
    NodeConnect(usize, u32),
    NodeResume(usize, u32),
    NodeWill(usize, u32),
    Usual(usize),
    WorkerSays(usize, u64, u32, Box<FromWorker>),
    WorkerGone(usize, u64, u32),
    UnitEnds(usize, u64),
    CameraWake(usize, u64),
    CameraStart(usize),
    CameraConnect(usize),
    TakePicture(usize),
    BrokerBack,
    BusCalms,
    Fault,
    FaultsEnd,
}

/// What a node hears.
enum Input {
    Tick,
    Stop,
    Connected,
    Message(Rc<Message>, bool),
    Worker(Box<WorkerEvent>),
}

/// A node's clock: it runs at its own rate and jumps.
struct Clock {
    rate_ppm: u64,
    jumped_us: u64,
}

impl Clock {
    fn local_us(&self, now_us: u64) -> u64 {
        1_000_000 + now_us * self.rate_ppm / 1_000_000 + self.jumped_us
    }

    fn global_us(&self, local_us: u64) -> u64 {
        let since = local_us.saturating_sub(1_000_000).saturating_sub(self.jumped_us);
        since.saturating_mul(1_000_000) / self.rate_ppm + 1
    }
}

pub(super) struct SimNode {
    name: Name,
    client: ClientId,
    media: Arc<Mutex<Media>>,
    io: Rc<RefCell<Io>>,
    node: Option<Node<SimStore, SimWorld>>,
    /// Raised by each start: what is meant for a former one is void.
    life: u32,
    worker: Option<SimWorker>,
    clock: Clock,
    kernel: u32,
    paused_until: Option<u64>,
    backlog: VecDeque<Input>,
    wake: u64,
    slowness_permille: u64,
    transactions: u64,
    /// Told to stop: it gives up a unit that runs longer than this, µs.
    stop_by_us: Option<u64>,
    /// Has stopped cleanly.
    leaves: bool,
    /// What the disk held when this life began.
    inherited: Disk,
    /// Faults that wait for its next transaction or announcement.
    ambush: Vec<(FaultKind, Phase)>,
}

impl SimNode {
    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_up(&self) -> bool {
        self.node.is_some()
    }
}

struct CameraSlot {
    camera: SimCamera,
    client: ClientId,
    up: bool,
    wake: u64,
    pause_us: u64,
    records: Vec<(u64, Record)>,
}

/// A simulated site.
pub(super) struct Site {
    options: Options,
    random: Random,
    now_us: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_id: u64,
    bus: Bus,
    broker_up: bool,
    nodes: Vec<SimNode>,
    cameras: Vec<CameraSlot>,
    given_out: GivenOut,
    memory: Memory,
    on_bus: BTreeSet<String>,
    poison: bool,
    exact: bool,
    faulty: bool,
    fault_pause_us: u64,
    settings: ChainSettings,
    outcome: Outcome,
}

impl Site {
    pub(super) fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        let settings = ChainSettings {
            r_limit_ms: random.between(160, 700),
            grace_ms: random.between(100, 500),
            placement: if random.permille(500) { PlacementPolicy::Stay } else { PlacementPolicy::Spread },
            announce_ms: random.between(500, 2_000),
            fan_out: random.permille(800),
            inline_kb: if random.permille(200) { 0 } else { 48 },
        };
        let exact = random.permille(500);
        let poison = random.permille(300);
        let fault_pause_us = random.between(200_000, 1_200_000);
        let mut site = Self {
            options,
            now_us: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_id: 0,
            bus: Bus::default(),
            broker_up: true,
            nodes: Vec::new(),
            cameras: Vec::new(),
            given_out: GivenOut::default(),
            memory: Memory::default(),
            on_bus: BTreeSet::new(),
            poison,
            exact,
            faulty: true,
            fault_pause_us,
            settings,
            outcome: Outcome::default(),
            random: random.clone(),
        };
        let nodes = site.random.pick(&[1, 2, 2, 2, 3, 3, 3, 4, 5]);
        for index in 0..nodes {
            site.add_node(index);
        }
        let cameras = site.random.pick(&[1, 1, 1, 2, 2, 3, 4]);
        for index in 0..cameras {
            site.add_camera(index);
        }
        site.at(0, Happening::Fault);
        let end_us = site.random.between(6_000_000, 20_000_000);
        site.at(end_us, Happening::FaultsEnd);
        site
    }

    fn add_node(&mut self, index: usize) {
        let name = super::name(&format!("node-{index}"));
        let client = self.bus.add(&Topic::edge_filters(&super::prefix(), &name));
        let clock = Clock { rate_ppm: self.random.between(900_000, 1_100_000), jumped_us: self.random.below(1 << 40) };
        let lies = self.options.sabotage == Some(Sabotage::UnsyncedCommits);
        self.nodes.push(SimNode {
            name,
            client,
            media: Arc::new(Mutex::new(Media { lies, ..Media::default() })),
            io: Rc::default(),
            node: None,
            life: 0,
            worker: None,
            clock,
            kernel: if self.exact { 0 } else { index as u32 },
            paused_until: None,
            backlog: VecDeque::new(),
            wake: 0,
            slowness_permille: self.random.between(800, 1_300),
            transactions: 0,
            stop_by_us: None,
            leaves: false,
            inherited: Disk::default(),
            ambush: Vec::new(),
        });
        let after_us = self.random.below(1_500_000);
        self.at(after_us, Happening::NodeStart(index));
    }

    fn add_camera(&mut self, index: usize) {
        let class = if self.random.permille(450) { ChainClass::Live } else { ChainClass::Batch };
        let to_take = self.random.between(6, 30);
        let frames_max = if self.random.permille(300) { self.random.between(6, 12) } else { 1_000 };
        let frames_max = usize::try_from(frames_max).unwrap_or(usize::MAX);
        let camera = SimCamera::new(index, class, to_take, frames_max, self.options.sabotage);
        let client = self.bus.add(&Topic::camera_filters(&super::prefix(), &camera.name));
        let pause_us = match class {
            ChainClass::Live => self.random.between(50_000, 800_000),
            ChainClass::Batch => 5_000,
        };
        self.cameras.push(CameraSlot { camera, client, up: false, wake: 0, pause_us, records: Vec::new() });
        let after_us = self.random.below(1_500_000);
        self.at(after_us, Happening::CameraStart(index));
        self.at(after_us, Happening::TakePicture(index));
    }

    pub(super) fn into_outcome(self) -> Outcome {
        Outcome { virtual_us: self.now_us, ..self.outcome }
    }

    fn at(&mut self, at_us: u64, happening: Happening) {
        let id = self.next_id;
        self.next_id += 1;
        self.queue.push(Reverse((at_us.max(self.now_us), id)));
        self.happenings.insert(id, happening);
    }

    fn after(&mut self, delay_us: u64, happening: Happening) {
        self.at(self.now_us + delay_us, happening);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.options.log {
            let line = format!("{:>12.6} {}", self.now_us as f64 / 1e6, text());
            self.outcome.log.push(line);
        }
    }

    /// Runs until everything is done, or an invariant does not hold.
    pub(super) fn run(&mut self) {
        let mut calm_since_us = None;
        while let Some(Reverse((at_us, id))) = self.queue.pop() {
            let Some(happening) = self.happenings.remove(&id) else { continue };
            self.now_us = at_us;
            self.outcome.events += 1;
            if let Err(violation) = self.happen(happening) {
                self.note(|| format!("VIOLATED: {}: {}", violation.invariant, violation.what));
                self.outcome.violation = Some(violation);
                return;
            }
            if self.faulty {
                continue;
            }
            let since_us = *calm_since_us.get_or_insert(self.now_us);
            let unfinished = self.unfinished();
            if unfinished.is_none() {
                self.outcome.violation = self.at_the_end().err();
                return;
            }
            if self.now_us - since_us > PATIENCE_US || self.outcome.events > EVENTS_MAX {
                let what = unfinished.unwrap_or_default();
                let what = format!("{what}, {} s after the last fault", (self.now_us - since_us) / 1_000_000);
                self.outcome.violation = Some(Violation { invariant: "everything is done in the end", what });
                return;
            }
        }
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Deliver(delivery) => return self.delivered(delivery),
            Happening::Publish(node, life, message) => self.publish_late(node, life, &message),
            Happening::NodeWake(node, wake) => return self.wake_node(node, wake),
            Happening::NodeStart(node) => return self.start_node(node),
            Happening::NodeConnect(node, life) => return self.connect_node(node, life),
            Happening::NodeResume(node, life) => return self.resume(node, life),
            Happening::NodeWill(node, session) => self.notice_loss(node, session),
            Happening::Usual(node) => self.speed_up(node),
            Happening::WorkerSays(node, incarnation, life, message) => {
                return self.worker_says(node, incarnation, life, message);
            }
            Happening::WorkerGone(node, incarnation, life) => return self.worker_gone(node, incarnation, life),
            Happening::UnitEnds(node, incarnation) => self.unit_ended(node, incarnation),
            Happening::CameraWake(camera, wake) => return self.wake_camera(camera, wake),
            Happening::CameraStart(camera) => self.start_camera(camera),
            Happening::CameraConnect(camera) => return self.connect_camera(camera),
            Happening::TakePicture(camera) => return self.take_picture(camera),
            Happening::BrokerBack => self.broker_back(),
            Happening::BusCalms => self.bus.manners = Self::calm(),
            Happening::Fault => return self.next_fault(),
            Happening::FaultsEnd => self.end_faults(),
        }
        Ok(())
    }

    fn calm() -> Manners {
        Manners { delay_us_max: 2_000, ..Manners::default() }
    }

    fn publish(&mut self, message: &Rc<Message>) {
        if !self.broker_up {
            return;
        }
        if let Ok(Topic::Event) = Topic::parse(&super::prefix(), &message.topic)
            && let Ok(event) = from_payload::<EventNote>(&message.payload)
        {
            self.on_bus.insert(event.id.to_string());
        }
        self.count_ahead(message);
        let deliveries = self.bus.publish(message, self.now_us, &mut self.random);
        self.schedule(deliveries);
    }

    /// Notes what a node tells of analyses made ahead, and of their use: a status counts from its node's start.
    fn count_ahead(&mut self, message: &Message) {
        if let Ok(Topic::NodeStatus { node }) = Topic::parse(&super::prefix(), &message.topic)
            && let Ok(status) = from_payload::<NodeStatus>(&message.payload)
        {
            let count =
                |counter: &str| status.counters.iter().find(|(name, _)| name == counter).map_or(0, |(_, count)| *count);
            let counted = self.outcome.ahead.entry((node, status.boot.clone())).or_default();
            counted.0 = counted.0.max(count("frames-ahead"));
            counted.1 = counted.1.max(count("frames-ahead-used"));
        }
    }

    fn schedule(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            self.at(delivery.at_us, Happening::Deliver(delivery));
        }
    }

    fn delivered(&mut self, delivery: Delivery) -> Checked {
        let client = &self.bus.clients[delivery.to];
        if !client.connected || client.session != delivery.session {
            return Ok(());
        }
        if let Some(node) = self.nodes.iter().position(|node| node.client == delivery.to) {
            return self.feed(node, Input::Message(delivery.message, delivery.retained));
        }
        if let Some(camera) = self.cameras.iter().position(|camera| camera.client == delivery.to) {
            let now_us = self.now_us;
            if self.cameras[camera].up {
                self.cameras[camera].camera.on_message(&delivery.message, now_us);
                return self.tick_camera(camera);
            }
        }
        Ok(())
    }

    fn bus_disconnect(&mut self, client: ClientId, cleanly: bool) {
        let deliveries = self.bus.disconnect(client, cleanly, self.now_us, &mut self.random);
        self.schedule(deliveries);
    }

    fn broker_restarts(&mut self) {
        self.note(|| "the broker restarts and has forgotten everything".to_owned());
        self.bus.forget();
        self.broker_up = false;
        for node in &self.nodes {
            node.io.borrow_mut().connected = false;
        }
        for slot in &mut self.cameras {
            slot.camera.on_disconnected();
        }
        let back_us = self.random.between(50_000, 1_500_000);
        self.after(back_us, Happening::BrokerBack);
    }

    fn broker_back(&mut self) {
        self.broker_up = true;
        for node in 0..self.nodes.len() {
            let (after_us, life) = (self.random.between(1_000, 500_000), self.nodes[node].life);
            self.after(after_us, Happening::NodeConnect(node, life));
        }
        for camera in 0..self.cameras.len() {
            let after_us = self.random.between(1_000, 500_000);
            self.after(after_us, Happening::CameraConnect(camera));
        }
    }
}
