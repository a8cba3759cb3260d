//! Nodes: started, fed, listened to, stopped; their workers and disks.

use std::rc::Rc;

use edge_agent::config::Config;
use edge_agent::node::{Node, NodeError};
use edge_agent::worker::WorkerEvent;
use microlambda_faces::proto::FromWorker;
use microlambda_runtime::Message;

use super::{Happening, Input, Site};
use crate::sim::disk::{Blow, SimStore};
use crate::sim::invariants::{self, Checked, Violation};
use crate::sim::worker::{self, Next, SimWorker};
use crate::sim::world::{Order, SimWorld};

impl Site {
    pub(super) fn start_node(&mut self, index: usize) -> Checked {
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
        config.site = crate::sim::name("simulated");
        config.node = Some(node.name.clone());
        config.chain = self.settings.clone();
        let boot = crate::sim::name(&format!("boot-{}", node.life));
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

    pub(super) fn connect_node(&mut self, index: usize, life: u32) -> Checked {
        let node = &self.nodes[index];
        if node.life != life || !self.broker_up || node.io.borrow().connected {
            return Ok(());
        }
        let Some(running) = &node.node else { return Ok(()) };
        if node.paused_until.is_some() {
            self.after(100_000, Happening::NodeConnect(index, life));
            return Ok(());
        }
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

    /// Only the alarm that was set last counts; while the node stops, any does: its patience may have ended.
    pub(super) fn wake_node(&mut self, index: usize, wake: u64) -> Checked {
        let node = &self.nodes[index];
        if node.wake == wake || node.stop_by_us.is_some() { self.feed(index, Input::Tick) } else { Ok(()) }
    }

    pub(super) fn feed(&mut self, index: usize, input: Input) -> Checked {
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
            Input::Worker(event) => running.on_worker(*event),
        };
        let result = result.and_then(|()| running.tick());
        self.settle(index, result)
    }

    /// Carries out what the node asked for, and checks what it did.
    pub(super) fn settle(&mut self, index: usize, result: Result<(), NodeError>) -> Checked {
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
        let paused = outbox.iter().any(|(_, late)| *late);
        self.send(index, outbox, pause_us);
        self.check_disk(index)?;
        if dead || result.is_err() {
            let lost_power = matches!(blown, Some((Blow::Crash, _)));
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

    /// Publishes what the node says; before a late message its process stands still for `pause_us`.
    fn send(&mut self, index: usize, outbox: Vec<(Rc<Message>, bool)>, pause_us: u64) {
        let life = self.nodes[index].life;
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
    }

    /// What a process had to say as it stood still goes out if its connection is still there.
    pub(super) fn publish_late(&mut self, index: usize, life: u32, message: &Rc<Message>) {
        let node = &self.nodes[index];
        let connected = node.io.borrow().connected;
        if node.life == life && connected {
            self.publish(message);
        }
    }

    pub(super) fn set_wake(&mut self, index: usize) {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        let Some(running) = &node.node else { return };
        node.wake += 1;
        let at_us = node.clock.global_us(running.next_wake_us()).max(now_us + 1);
        let wake = node.wake;
        self.at(at_us.min(now_us + 3_600_000_000), Happening::NodeWake(index, wake));
    }

    pub(super) fn check_disk(&mut self, index: usize) -> Checked {
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

    pub(super) fn carry_out(&mut self, index: usize, orders: Vec<Order>) {
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

    pub(super) fn pump_worker(&mut self, index: usize) {
        let (now_us, life) = (self.now_us, self.nodes[index].life);
        while let Some(worker) = &mut self.nodes[index].worker {
            let incarnation = worker.incarnation;
            match worker.goes_on(now_us, &mut self.random) {
                Next::Nothing | Next::Dies => return,
                Next::UnitEndsAt(at_us) => self.at(at_us, Happening::UnitEnds(index, incarnation)),
                Next::Says(message) => self.after(80, Happening::WorkerSays(index, incarnation, life, message)),
            }
        }
    }

    pub(super) fn unit_ended(&mut self, index: usize, incarnation: u64) {
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

    /// A former worker's words still come, but not that it is ready.
    pub(super) fn worker_says(
        &mut self,
        index: usize,
        incarnation: u64,
        life: u32,
        message: Box<FromWorker>,
    ) -> Checked {
        let node = &self.nodes[index];
        let lives = node.worker.as_ref().is_some_and(|worker| worker.incarnation == incarnation);
        let in_time = lives || !matches!(*message, FromWorker::Ready { .. });
        if node.life != life || !in_time {
            return Ok(());
        }
        if matches!(*message, FromWorker::Stopped { .. }) {
            node.io.borrow_mut().end_step();
            self.outcome.steps += 1;
        }
        node.io.borrow_mut().worker_is_mad |= worker::is_garbage(&message);
        self.feed(index, Input::Worker(Box::new(WorkerEvent::Said(incarnation, message))))
    }

    pub(super) fn worker_gone(&mut self, index: usize, incarnation: u64, life: u32) -> Checked {
        if self.nodes[index].life != life {
            return Ok(());
        }
        let why = "the simulated worker died".to_owned();
        self.feed(index, Input::Worker(Box::new(WorkerEvent::Gone(incarnation, why))))
    }

    pub(super) fn worker_dies(&mut self, index: usize) {
        let life = self.nodes[index].life;
        if let Some(worker) = self.nodes[index].worker.take() {
            self.after(500, Happening::WorkerGone(index, worker.incarnation, life));
        }
    }

    /// A node goes down; what the broker makes of it depends on how.
    pub(super) fn stop_node(&mut self, index: usize, lost_power: bool) {
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

    pub(super) fn lose_connection(&mut self, index: usize) {
        let (client, life) = (self.nodes[index].client, self.nodes[index].life);
        self.nodes[index].io.borrow_mut().connected = false;
        self.bus_disconnect(client, false);
        let back_us = self.random.between(100_000, 4_000_000);
        self.after(back_us, Happening::NodeConnect(index, life));
    }

    /// The broker gives up a session that has gone silent, unless another has taken its place.
    pub(super) fn notice_loss(&mut self, index: usize, session: u32) {
        let client = self.nodes[index].client;
        if self.bus.clients[client].session == session && self.bus.clients[client].connected {
            self.bus_disconnect(client, false);
        }
    }

    pub(super) fn pause(&mut self, index: usize, for_us: u64) {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        node.paused_until = Some(now_us + for_us);
        let life = node.life;
        self.after(for_us, Happening::NodeResume(index, life));
    }

    pub(super) fn resume(&mut self, index: usize, life: u32) -> Checked {
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
}
