//! The site: nodes, cameras and the bus, driven event by event.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_agent::config::{ChainSettings, Config, PlacementPolicy};
use edge_agent::node::{Node, NodeError};
use edge_agent::worker::WorkerEvent;
use microlambda_faces::proto::FromWorker;
use microlambda_runtime::Message;
use microlambda_wire::{ChainClass, EventNote, Name, Record, RecordNote, Topic, from_payload, read_frame_meta};

use super::bus::{Bus, ClientId, Delivery, Manners};
use super::camera::SimCamera;
use super::disk::{Disk, Media, SimStore};
use super::fault::{FaultKind, Phase};
use super::invariants::{self, Checked, GivenOut, Memory, Violation};
use super::random::Random;
use super::worker::{self, Next, SimWorker};
use super::world::{Io, Order, SimWorld};
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
    UnitEnds(usize, u64, u64),
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
    Worker(WorkerEvent),
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
            Happening::Publish(node, life, message) => {
                if self.nodes[node].life == life && self.nodes[node].io.borrow().connected {
                    self.publish(&message);
                }
            }
            Happening::NodeWake(node, wake) => {
                if self.nodes[node].wake == wake || self.nodes[node].stop_by_us.is_some() {
                    return self.feed(node, Input::Tick);
                }
            }
            Happening::NodeStart(node) => return self.start_node(node),
            Happening::NodeConnect(node, life) => {
                if self.nodes[node].life == life && self.nodes[node].is_up() {
                    return self.connect_node(node);
                }
            }
            Happening::NodeResume(node, life) => return self.resume(node, life),
            Happening::NodeWill(node, session) => {
                let client = self.nodes[node].client;
                if self.bus.clients[client].session == session && self.bus.clients[client].connected {
                    self.bus_disconnect(client, false);
                }
            }
            Happening::Usual(node) => {
                self.nodes[node].slowness_permille = 1_000;
                if let Some(worker) = &mut self.nodes[node].worker {
                    worker.slowness_permille = 1_000;
                }
            }
            Happening::WorkerSays(node, incarnation, life, message) => {
                let lives = self.nodes[node].worker.as_ref().is_some_and(|worker| worker.incarnation == incarnation);
                let in_time = lives || !matches!(*message, FromWorker::Ready { .. });
                if self.nodes[node].life == life && in_time {
                    if matches!(*message, FromWorker::Stopped { .. }) {
                        self.nodes[node].io.borrow_mut().end_step();
                        self.outcome.steps += 1;
                    }
                    self.nodes[node].io.borrow_mut().worker_is_mad |= worker::is_garbage(&message);
                    return self.feed(node, Input::Worker(WorkerEvent::Said(incarnation, *message)));
                }
            }
            Happening::WorkerGone(node, incarnation, life) => {
                if self.nodes[node].life == life {
                    let why = "the simulated worker died".to_owned();
                    return self.feed(node, Input::Worker(WorkerEvent::Gone(incarnation, why)));
                }
            }
            Happening::UnitEnds(node, incarnation, at_us) => {
                let _ = at_us;
                self.unit_ended(node, incarnation);
            }
            Happening::CameraWake(camera, wake) => {
                if self.cameras[camera].wake == wake {
                    return self.tick_camera(camera);
                }
            }
            Happening::CameraStart(camera) => {
                let now_us = self.now_us;
                let slot = &mut self.cameras[camera];
                slot.up = true;
                slot.camera.restart(now_us);
                self.note(|| format!("camera-{camera} starts"));
                self.after(3_000, Happening::CameraConnect(camera));
            }
            Happening::CameraConnect(camera) => return self.connect_camera(camera),
            Happening::TakePicture(camera) => return self.take_picture(camera),
            Happening::BrokerBack => self.broker_back(),
            Happening::BusCalms => self.bus.manners = Self::calm(),
            Happening::Fault => {
                if self.faulty {
                    self.fault()?;
                    let pause_us = self.random.below(2 * self.fault_pause_us) + 1_000;
                    self.after(pause_us, Happening::Fault);
                }
            }
            Happening::FaultsEnd => self.end_faults(),
        }
        Ok(())
    }

    fn calm() -> Manners {
        Manners { delay_us_max: 2_000, ..Manners::default() }
    }

    // --- the bus ---

    fn publish(&mut self, message: &Rc<Message>) {
        if !self.broker_up {
            return;
        }
        if let Ok(Topic::Event) = Topic::parse(&super::prefix(), &message.topic)
            && let Ok(event) = from_payload::<EventNote>(&message.payload)
        {
            self.on_bus.insert(event.id.to_string());
        }
        let deliveries = self.bus.publish(message, self.now_us, &mut self.random);
        self.schedule(deliveries);
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

    // --- nodes ---

    fn start_node(&mut self, index: usize) -> Checked {
        if self.nodes[index].is_up() {
            return Ok(());
        }
        let luck = self.random.bits();
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        node.media().restart();
        node.life += 1;
        let found = node.media().disk.clone();
        node.inherited = found;
        node.transactions = 0;
        node.paused_until = None;
        node.backlog.clear();
        node.worker = None;
        node.io = Rc::default();
        node.io.borrow_mut().local_us = node.clock.local_us(now_us);
        let store = SimStore::new(node.media.clone(), luck);
        let world = SimWorld { io: node.io.clone(), media: node.media.clone() };
        let mut config = Config::defaults().expect("defaults");
        config.site = super::name("simulated");
        config.node = Some(node.name.clone());
        config.chain = self.settings.clone();
        let boot = super::name(&format!("boot-{}", node.life));
        let (life, name) = (node.life, node.name.clone());
        match Node::open(config, boot, store, world) {
            Ok(opened) => self.nodes[index].node = Some(opened),
            Err(why) => {
                return Err(Violation { invariant: "a store opens after a power cut", what: format!("{name}: {why}") });
            }
        }
        self.note(|| format!("{name} starts"));
        self.after(5_000, Happening::NodeConnect(index, life));
        self.settle(index, Ok(()))
    }

    fn connect_node(&mut self, index: usize) -> Checked {
        let node = &self.nodes[index];
        if !self.broker_up || node.io.borrow().connected {
            return Ok(());
        }
        if node.paused_until.is_some() {
            let life = node.life;
            self.after(100_000, Happening::NodeConnect(index, life));
            return Ok(());
        }
        let Some(running) = &node.node else { return Ok(()) };
        let (will, client) = (running.last_will(), node.client);
        node.io.borrow_mut().connected = true;
        if self.bus.clients[client].connected {
            // The broker notices the dead former session now.
            self.bus_disconnect(client, false);
        }
        let retained = self.bus.connect(client, Some(will), self.now_us, &mut self.random);
        self.schedule(retained);
        let name = self.nodes[index].name.clone();
        self.note(|| format!("{name} is connected"));
        self.feed(index, Input::Connected)
    }

    fn feed(&mut self, index: usize, input: Input) -> Checked {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        if node.paused_until.is_some() {
            if !matches!(input, Input::Tick) {
                node.backlog.push_back(input);
            }
            return Ok(());
        }
        let Some(running) = node.node.as_mut() else { return Ok(()) };
        node.io.borrow_mut().local_us = node.clock.local_us(now_us);
        if self.options.log {
            let text = match &input {
                Input::Tick | Input::Stop | Input::Connected => None,
                Input::Message(message, retained) => {
                    let body = String::from_utf8_lossy(&message.payload);
                    let body: String = body.chars().take(220).collect();
                    (!message.topic.contains("/status")).then(|| format!("hears {} {retained} {body}", message.topic))
                }
                Input::Worker(event) => Some(format!("worker: {event:?}").chars().take(200).collect()),
            };
            if let Some(text) = text {
                let line = format!("{:>12.6} {} {text}", now_us as f64 / 1e6, node.name);
                self.outcome.log.push(line);
            }
        }
        let result = match input {
            Input::Tick => Ok(()),
            Input::Stop => running.begin_stop(),
            Input::Connected => running.on_connected(),
            Input::Message(message, retained) => running.on_message(&message.topic, &message.payload, retained),
            Input::Worker(event) => running.on_worker(event),
        };
        let result = result.and_then(|()| running.tick());
        self.settle(index, result)
    }

    /// Carries out what the node asked for, and checks what it did.
    fn settle(&mut self, index: usize, result: Result<(), NodeError>) -> Checked {
        let stopping = self.nodes[index].stop_by_us;
        let busy = self.nodes[index].node.as_ref().is_some_and(Node::is_busy);
        let result = match (stopping, self.nodes[index].node.as_mut()) {
            // As the agent's loop does it: once the running unit has ended, or patience has.
            (Some(by_us), Some(running)) if result.is_ok() && (!busy || by_us <= self.now_us) => {
                let ended = running.end_stop();
                self.nodes[index].stop_by_us = None;
                self.nodes[index].leaves = true;
                ended
            }
            _ => result,
        };
        let node = &mut self.nodes[index];
        let (outbox, orders, violation, connected) = {
            let mut io = node.io.borrow_mut();
            (std::mem::take(&mut io.outbox), std::mem::take(&mut io.orders), io.violation.take(), io.connected)
        };
        if let Some(violation) = violation {
            return Err(violation);
        }
        let (dead, blown) = {
            let mut media = node.media();
            (media.dead, media.blown.take())
        };
        invariants::bounds_hold(outbox.len(), 0, 0)?;
        let announced = outbox.iter().any(|(message, _)| message.topic.ends_with("/continuation"));
        let pause_us = self.random.between(100_000, 3_000_000);
        let life = self.nodes[index].life;
        let paused = outbox.iter().any(|(_, late)| *late);
        for (message, late) in outbox {
            if self.options.log && !message.topic.contains("/status") {
                let body: String = String::from_utf8_lossy(&message.payload).chars().take(160).collect();
                let name = self.nodes[index].name.clone();
                self.note(|| format!("{name} says {} {body}", message.topic));
            }
            if late {
                self.after(pause_us, Happening::Publish(index, life, message));
            } else {
                self.publish(&message);
            }
        }
        self.check_disk(index)?;
        if dead || result.is_err() {
            let lost_power = matches!(blown, Some((super::disk::Blow::Crash, _)));
            let name = self.nodes[index].name.clone();
            self.note(|| format!("{name} is down ({})", result.err().map_or(String::new(), |why| why.to_string())));
            self.stop_node(index, lost_power);
            return Ok(());
        }
        if self.nodes[index].leaves {
            let node = &self.nodes[index];
            invariants::a_clean_stop_leaves_no_attempt(&node.media().disk, &node.inherited)?;
            let client = self.nodes[index].client;
            self.bus_disconnect(client, true);
            self.stop_node(index, false);
            return Ok(());
        }
        if !connected && self.bus.clients[self.nodes[index].client].connected {
            self.lose_connection(index);
        }
        self.carry_out(index, orders);
        if paused {
            self.pause(index, pause_us);
        }
        let transactions = self.nodes[index].media().disk.transactions;
        let committed = transactions != self.nodes[index].transactions;
        self.nodes[index].transactions = transactions;
        self.spring_ambush(index, committed, announced)?;
        self.set_wake(index);
        Ok(())
    }

    fn set_wake(&mut self, index: usize) {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        let Some(running) = &node.node else { return };
        node.wake += 1;
        let at_us = node.clock.global_us(running.next_wake_us()).max(now_us + 1);
        let wake = node.wake;
        self.at(at_us.min(now_us + 3_600_000_000), Happening::NodeWake(index, wake));
    }

    fn check_disk(&mut self, index: usize) -> Checked {
        let node = &self.nodes[index];
        let media = node.media();
        if media.disk.transactions == node.transactions {
            return Ok(());
        }
        for (name, chain) in &media.disk.chains {
            self.memory.check(index, (name, chain), &self.given_out, self.options.seed, self.exact)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, index: usize, orders: Vec<Order>) {
        let (seed, poison, now_us) = (self.options.seed, self.poison, self.now_us);
        for order in orders {
            match order {
                Order::Spawn(incarnation) => {
                    let (kernel, slowness) = (self.nodes[index].kernel, self.nodes[index].slowness_permille);
                    let (worker, load_us, ready) =
                        SimWorker::spawn(incarnation, kernel, slowness, seed, poison, &mut self.random);
                    self.nodes[index].worker = Some(worker);
                    let life = self.nodes[index].life;
                    self.after(load_us, Happening::WorkerSays(index, incarnation, life, Box::new(ready)));
                }
                Order::Tell(message) => {
                    if let Some(worker) = &mut self.nodes[index].worker {
                        worker.hears(&message, now_us);
                    }
                }
                Order::Kill => self.nodes[index].worker = None,
            }
        }
        self.pump_worker(index);
    }

    fn pump_worker(&mut self, index: usize) {
        let (now_us, life) = (self.now_us, self.nodes[index].life);
        while let Some(worker) = &mut self.nodes[index].worker {
            let incarnation = worker.incarnation;
            match worker.goes_on(now_us, &mut self.random) {
                Next::Nothing | Next::Dies => return,
                Next::UnitEndsAt(at_us) => self.at(at_us, Happening::UnitEnds(index, incarnation, at_us)),
                Next::Says(message) => self.after(80, Happening::WorkerSays(index, incarnation, life, message)),
            }
        }
    }

    fn unit_ended(&mut self, index: usize, incarnation: u64) {
        let (now_us, life) = (self.now_us, self.nodes[index].life);
        let Some(worker) = self.nodes[index].worker.as_mut().filter(|worker| worker.incarnation == incarnation) else {
            return;
        };
        match worker.unit_ended(now_us) {
            Next::Says(message) => self.after(80, Happening::WorkerSays(index, incarnation, life, message)),
            Next::Dies => self.worker_dies(index),
            Next::Nothing | Next::UnitEndsAt(_) => {}
        }
        self.pump_worker(index);
    }

    fn worker_dies(&mut self, index: usize) {
        let life = self.nodes[index].life;
        if let Some(worker) = self.nodes[index].worker.take() {
            self.after(500, Happening::WorkerGone(index, worker.incarnation, life));
        }
    }

    /// A node goes down; what the broker makes of it depends on how.
    fn stop_node(&mut self, index: usize, lost_power: bool) {
        let node = &mut self.nodes[index];
        node.node = None;
        node.worker = None;
        node.backlog.clear();
        node.paused_until = None;
        node.stop_by_us = None;
        node.leaves = false;
        node.media().dead = true;
        node.io.borrow_mut().connected = false;
        let (client, was_connected) = (node.client, self.bus.clients[node.client].connected);
        let session = self.bus.clients[client].session;
        if was_connected {
            let will_us = if lost_power { self.random.between(5_000_000, 15_000_000) } else { 3_000 };
            self.after(will_us, Happening::NodeWill(index, session));
        }
        let back_us = self.random.between(50_000, 3_000_000);
        self.after(back_us, Happening::NodeStart(index));
    }

    fn lose_connection(&mut self, index: usize) {
        let (client, life) = (self.nodes[index].client, self.nodes[index].life);
        self.nodes[index].io.borrow_mut().connected = false;
        self.bus_disconnect(client, false);
        let back_us = self.random.between(100_000, 4_000_000);
        self.after(back_us, Happening::NodeConnect(index, life));
    }

    fn pause(&mut self, index: usize, for_us: u64) {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        node.paused_until = Some(now_us + for_us);
        let life = node.life;
        self.after(for_us, Happening::NodeResume(index, life));
    }

    fn resume(&mut self, index: usize, life: u32) -> Checked {
        let node = &mut self.nodes[index];
        if node.life != life || node.paused_until.is_none_or(|until| until > self.now_us) {
            return Ok(());
        }
        node.paused_until = None;
        node.io.borrow_mut().resume();
        let backlog = std::mem::take(&mut node.backlog);
        for input in backlog {
            self.feed(index, input)?;
        }
        self.feed(index, Input::Tick)
    }

    // --- cameras ---

    fn connect_camera(&mut self, index: usize) -> Checked {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        if !self.broker_up || !slot.up || self.bus.clients[slot.client].connected {
            return Ok(());
        }
        slot.camera.on_connected(now_us);
        let client = slot.client;
        let retained = self.bus.connect(client, None, now_us, &mut self.random);
        self.schedule(retained);
        self.tick_camera(index)
    }

    fn take_picture(&mut self, index: usize) -> Checked {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        let pause_us = slot.pause_us;
        if slot.up && !slot.camera.has_ended() {
            slot.camera.take_picture(now_us);
            invariants::bounds_hold(0, slot.camera.held(), slot.camera.frames_max())?;
            self.tick_camera(index)?;
        }
        if !self.cameras[index].camera.has_ended() {
            self.after(pause_us, Happening::TakePicture(index));
        }
        Ok(())
    }

    fn tick_camera(&mut self, index: usize) -> Checked {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        if !slot.up {
            return Ok(());
        }
        if !self.bus.clients[slot.client].connected {
            return Ok(());
        }
        let (messages, wake_us) = slot.camera.tick(now_us);
        if let Some(release) = slot.camera.take_release() {
            self.memory.what_is_freed_is_held_twice(&slot.camera.chain, release)?;
        }
        slot.wake += 1;
        let wake = slot.wake;
        self.at(wake_us, Happening::CameraWake(index, wake));
        for message in messages {
            self.given_out(index, &message)?;
            self.publish(&Rc::new(message));
        }
        Ok(())
    }

    /// Notes a record that a camera sends.
    fn given_out(&mut self, index: usize, message: &Message) -> Checked {
        let (chain, sequence, record) = match Topic::parse(&super::prefix(), &message.topic) {
            Ok(Topic::CameraFrame { .. }) => {
                let Ok(meta) = read_frame_meta(&message.payload) else { return Ok(()) };
                let record =
                    Record::Frame { captured_at_ms: meta.captured_at_ms, digest: meta.digest, label: meta.label };
                (meta.chain, meta.sequence, record)
            }
            Ok(Topic::CameraRecord { .. }) => {
                let Ok(note) = from_payload::<RecordNote>(&message.payload) else { return Ok(()) };
                (note.chain, note.sequence, note.record)
            }
            _ => return Ok(()),
        };
        let records = &mut self.cameras[index].records;
        if let Err(place) = records.binary_search_by_key(&sequence, |(at, _)| *at) {
            records.insert(place, (sequence, record.clone()));
        }
        self.given_out.no_number_is_used_twice(&chain, sequence, &record)
    }

    // --- faults ---

    /// What the node is doing, as a fault finds it.
    fn phase(&self, index: usize) -> Phase {
        let node = &self.nodes[index];
        let busy = |node: &SimNode| node.node.as_ref().is_some_and(Node::is_busy);
        if node.worker.as_ref().is_some_and(SimWorker::is_in_unit) {
            Phase::InUnit
        } else if busy(node) {
            Phase::Waiting
        } else if self.nodes.iter().any(busy) {
            Phase::Standby
        } else {
            Phase::Idle
        }
    }

    fn fault(&mut self) -> Checked {
        let kind = self.random.pick(&FaultKind::ALL);
        let index = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or_default();
        if !self.nodes[index].is_up() {
            return Ok(());
        }
        match self.random.below(4) {
            0 => self.lie_in_wait(index, kind, Phase::AtCommit),
            1 => self.lie_in_wait(index, kind, Phase::AtPublish),
            _ => {
                let phase = self.phase(index);
                return self.strike(index, kind, phase);
            }
        }
        Ok(())
    }

    /// Sets a fault up for the node's next transaction or announcement.
    fn lie_in_wait(&mut self, index: usize, kind: FaultKind, phase: Phase) {
        use super::disk::{Blow, Trigger};
        let blow = match kind {
            FaultKind::Kill | FaultKind::PowerCut => Some(Blow::Crash),
            FaultKind::Disconnect => Some(Blow::Disconnect),
            FaultKind::Pause => Some(Blow::Pause),
            _ => None,
        };
        let trigger = if phase == Phase::AtCommit { Trigger::Commit } else { Trigger::Publish };
        let count = self.random.below(3) as u32;
        let node = &mut self.nodes[index];
        match blow {
            // A connection breaks or a process stands still between a transaction and its announcement.
            Some(Blow::Disconnect | Blow::Pause) | None if phase == Phase::AtCommit => node.ambush.push((kind, phase)),
            None => node.ambush.push((kind, phase)),
            Some(blow) => {
                node.media().fuse = Some((blow, trigger, count));
                *self.outcome.faults.entry((kind, phase)).or_default() += 1;
            }
        }
    }

    fn spring_ambush(&mut self, index: usize, committed: bool, announced: bool) -> Checked {
        let due = |phase: Phase| phase == Phase::AtCommit && committed || phase == Phase::AtPublish && announced;
        let waiting = std::mem::take(&mut self.nodes[index].ambush);
        let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, phase)| due(*phase));
        self.nodes[index].ambush = later;
        for (kind, phase) in due {
            if self.faulty && self.nodes[index].is_up() {
                self.strike(index, kind, phase)?;
            }
        }
        Ok(())
    }

    fn strike(&mut self, index: usize, kind: FaultKind, phase: Phase) -> Checked {
        use super::worker::Mishap;
        let name = self.nodes[index].name.clone();
        self.note(|| format!("FAULT {kind:?} on {name}, {phase:?}"));
        let camera = usize::try_from(self.random.below(self.cameras.len() as u64)).unwrap_or_default();
        match kind {
            // One that stands still hears of it later; patience runs from then on.
            FaultKind::Stop if self.nodes[index].paused_until.is_some() => return Ok(()),
            FaultKind::Stop => {
                self.nodes[index].stop_by_us = Some(self.now_us + STOP_PATIENCE_US);
                self.nodes[index].io.borrow_mut().stopping = true;
                self.after(STOP_PATIENCE_US, Happening::NodeWake(index, u64::MAX));
                self.feed(index, Input::Stop)?;
            }
            FaultKind::Kill => self.stop_node(index, false),
            FaultKind::PowerCut => self.stop_node(index, true),
            FaultKind::Pause => {
                let for_us = self.random.between(100_000, 4_000_000);
                self.pause(index, for_us);
            }
            FaultKind::Disconnect => {
                if self.nodes[index].io.borrow().connected {
                    self.lose_connection(index);
                }
            }
            FaultKind::ClockJump => self.jump_clock(index),
            FaultKind::SlowDown => {
                let slowness = self.random.between(1_500, 4_000);
                self.nodes[index].slowness_permille = slowness;
                if let Some(worker) = &mut self.nodes[index].worker {
                    worker.slowness_permille = slowness;
                }
                let for_us = self.random.between(500_000, 5_000_000);
                self.after(for_us, Happening::Usual(index));
            }
            FaultKind::WorkerDies if phase != Phase::InUnit => self.worker_dies(index),
            FaultKind::WorkerDies | FaultKind::WorkerHangs | FaultKind::WorkerSlow | FaultKind::WorkerGarbage => {
                let mishap = match kind {
                    FaultKind::WorkerDies => Mishap::Die,
                    FaultKind::WorkerHangs => Mishap::Hang,
                    FaultKind::WorkerSlow => Mishap::Slow,
                    _ => Mishap::Garbage,
                };
                if let Some(worker) = &mut self.nodes[index].worker {
                    worker.befall(mishap);
                }
            }
            FaultKind::CameraKill => self.kill_camera(camera),
            FaultKind::CameraDisconnect => {
                let client = self.cameras[camera].client;
                if self.bus.clients[client].connected {
                    self.bus_disconnect(client, false);
                    self.cameras[camera].camera.on_disconnected();
                    let back_us = self.random.between(100_000, 3_000_000);
                    self.after(back_us, Happening::CameraConnect(camera));
                }
            }
            FaultKind::BrokerRestart => {
                if self.broker_up {
                    self.broker_restarts();
                }
            }
            FaultKind::BusTrouble => {
                self.bus.manners = Manners {
                    lost_permille: self.random.below(300),
                    repeated_permille: self.random.below(200),
                    late_permille: self.random.below(200),
                    delay_us_max: self.random.between(1_000, 60_000),
                };
                let for_us = self.random.between(500_000, 4_000_000);
                self.after(for_us, Happening::BusCalms);
            }
            FaultKind::DiskLoss => {
                if !self.may_lose_disk(index) {
                    return Ok(());
                }
                self.stop_node(index, true);
                self.nodes[index].media().replace();
                self.memory.forget(index);
            }
        }
        *self.outcome.faults.entry((kind, phase)).or_default() += 1;
        Ok(())
    }

    fn jump_clock(&mut self, index: usize) {
        let jump_us = self.random.below(3_000_000);
        let clock = &mut self.nodes[index].clock;
        clock.jumped_us = match self.options.sabotage {
            // A clock that people set also goes back.
            Some(Sabotage::WallClockLease) => clock.jumped_us.saturating_sub(3_600_000_000),
            _ => clock.jumped_us + jump_us,
        };
        self.set_wake(index);
    }

    fn kill_camera(&mut self, index: usize) {
        if self.cameras[index].up {
            self.cameras[index].up = false;
            self.bus_disconnect(self.cameras[index].client, false);
            let back_us = self.random.between(50_000, 2_000_000);
            self.after(back_us, Happening::CameraStart(index));
        }
    }

    /// One disk may be lost at a time, and not the only one: another node holds what cameras have freed, and no other is still
    /// without what it has lost.
    fn may_lose_disk(&self, index: usize) -> bool {
        let mut others = (0..self.nodes.len()).filter(|other| *other != index).peekable();
        let alone = others.peek().is_none();
        let whole = others.clone().all(|other| self.memory.is_whole(other, &self.nodes[other].media().disk));
        let held = self.cameras.iter().all(|slot| {
            let reached = others.clone().map(|other| {
                let media = self.nodes[other].media();
                media.disk.chains.get(&slot.camera.chain).map_or(0, |chain| chain.boundary.version.sequence)
            });
            slot.camera.oldest() <= reached.max().unwrap_or(0)
        });
        !alone && whole && held
    }

    fn end_faults(&mut self) {
        self.note(|| "the faults stop".to_owned());
        self.faulty = false;
        self.bus.manners = Self::calm();
        for node in &mut self.nodes {
            node.slowness_permille = 1_000;
            node.ambush.clear();
            node.media().fuse = None;
            if let Some(worker) = &mut node.worker {
                worker.slowness_permille = 1_000;
            }
        }
    }

    // --- the end ---

    /// What is not done yet, if anything.
    fn unfinished(&self) -> Option<String> {
        for slot in &self.cameras {
            let camera = &slot.camera;
            if !camera.has_ended() {
                return Some(format!("{} still takes pictures", camera.name));
            }
            let mut first = None;
            for node in &self.nodes {
                if !node.is_up() || node.paused_until.is_some() {
                    return Some(format!("{} is not there", node.name));
                }
                let media = node.media();
                let Some(chain) = media.disk.chains.get(&camera.chain) else {
                    return (camera.next() > 0).then(|| format!("{} does not know {}", node.name, camera.chain));
                };
                if chain.boundary.version.sequence < camera.next() {
                    let at = chain.head.version;
                    return Some(format!("{} is at {at} of {} {}", node.name, camera.next(), camera.chain));
                }
                if *first.get_or_insert(chain.head) != chain.head {
                    return Some(format!("the nodes do not agree on {}", camera.chain));
                }
                if camera.class == ChainClass::Batch && !chain.done {
                    return Some(format!("{} has not noticed the end of {}", node.name, camera.chain));
                }
                if let Some(event) = media.disk.events.values().find(|event| !event.on_bus && !event.superseded) {
                    return Some(format!("{} still wants to see event {} on the bus", node.name, event.note.id));
                }
            }
        }
        None
    }

    fn at_the_end(&self) -> Checked {
        for slot in &self.cameras {
            let camera = &slot.camera;
            for node in &self.nodes {
                let media = node.media();
                let Some(chain) = media.disk.chains.get(&camera.chain) else { continue };
                invariants::events_are_those_of_the_records(&camera.chain, chain, &media.disk)?;
                self.every_event_was_published(&media.disk)?;
                if chain.head.set_aside == 0 && self.exact {
                    let (head, events) =
                        invariants::single_run(&camera.chain, &slot.records, camera.index, self.options.seed);
                    let rows = media.disk.events.values().filter(|event| event.note.chain == camera.chain);
                    let rows: BTreeSet<String> =
                        rows.filter(|event| !event.superseded).map(|event| event.note.id.to_string()).collect();
                    if (head.digest, &events) != (chain.head.digest, &rows) {
                        let what = format!("{}: {:?} instead of {head:?}", camera.chain, chain.head);
                        return Err(Violation { invariant: "the result is that of a single run", what });
                    }
                }
                if chain.head.set_aside > 0 && !self.poison && self.nodes.len() > 1 {
                    let what = format!("{} units of {}", chain.head.set_aside, camera.chain);
                    let accidents = self.outcome.faults.iter().any(|((kind, _), _)| {
                        matches!(
                            kind,
                            FaultKind::WorkerDies | FaultKind::WorkerGarbage | FaultKind::Kill | FaultKind::PowerCut
                        )
                    });
                    if !accidents {
                        return Err(Violation { invariant: "only what fails is set aside", what });
                    }
                }
            }
        }
        Ok(())
    }

    fn every_event_was_published(&self, disk: &Disk) -> Checked {
        let missing =
            disk.events.values().find(|event| !event.superseded && !self.on_bus.contains(event.note.id.as_str()));
        match missing {
            None => Ok(()),
            Some(event) => {
                let what = format!("event {} of {}", event.note.id, event.note.chain);
                Err(Violation { invariant: "every event was on the bus", what })
            }
        }
    }
}
