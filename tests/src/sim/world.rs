//! What a simulated node acts on: everything it does is noted for the simulation, and some of it checked on the spot.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_agent::node::World;
use edge_agent::store::Room;
use microlambda_faces::proto::ToWorker;
use microlambda_runtime::{LinkCounters, Message, PublishError};

use super::disk::{Blow, Media, Trigger};
use super::invariants::{self, Violation};

/// What a node asks of its worker process.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Start one.
    Spawn(u64),
    /// Tell it this.
    Tell(Box<ToWorker>),
    /// End it.
    Kill,
}

/// What passes between a node and the simulation.
#[derive(Debug, Default)]
pub struct Io {
    /// The node's clock, µs.
    pub local_us: u64,
    /// Whether it is connected.
    pub connected: bool,
    /// So many more messages find room in its connection, if that is bounded.
    pub room: Option<usize>,
    /// Messages that wait for the broker, those of this event aside.
    pub held_up: usize,
    /// Messages published, each with whether the process stood still before it was sent.
    pub outbox: Vec<(Rc<Message>, bool)>,
    /// For the worker, in order.
    pub orders: Vec<Order>,
    /// What the node did and must not do.
    pub violation: Option<Violation>,
    /// Whether the node was told to stop.
    pub stopping: bool,
    /// Whether the worker has just said something that gives every reason to end it.
    pub worker_is_mad: bool,
    /// How long the worker has waited for a processor, µs.
    pub worker_waited_us: u64,
    /// When the running step began and its limit, µs.
    step: Option<(u64, u64)>,
    paused: bool,
}

/// A node's world.
pub struct SimWorld {
    /// What passes between the node and its surroundings.
    pub io: Rc<RefCell<Io>>,
    /// Its disk, and what may befall it.
    pub media: Arc<Mutex<Media>>,
}

impl SimWorld {
    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Io {
    /// Whether a step was started and not ended, by what was told to the worker.
    pub fn end_step(&mut self) {
        self.step = None;
    }

    /// A process that stood still goes on.
    pub fn resume(&mut self) {
        self.paused = false;
    }
}

impl World for SimWorld {
    fn now_us(&self) -> u64 {
        self.io.borrow().local_us
    }

    fn is_connected(&self) -> bool {
        self.io.borrow().connected
    }

    fn publish(&mut self, message: Message) -> Result<(), PublishError> {
        let mut media = self.media();
        let mut io = self.io.borrow_mut();
        if media.dead {
            return Ok(());
        }
        if !io.connected {
            return Err(PublishError::NotConnected);
        }
        if let Some(room) = &mut io.room {
            *room = room.checked_sub(1).ok_or(PublishError::Full)?;
        }
        match media.act(Trigger::Publish) {
            Some(Blow::Crash) => return Ok(()),
            Some(Blow::Disconnect) => {
                io.connected = false;
                return Err(PublishError::NotConnected);
            }
            Some(Blow::Pause) => io.paused = true,
            None => {}
        }
        if io.violation.is_none() {
            let durable = media.unsynced.as_ref().unwrap_or(&media.disk);
            io.violation = invariants::nothing_is_visible_that_is_not_durable(durable, &message).err();
        }
        let paused = io.paused;
        io.outbox.push((Rc::new(message), paused));
        Ok(())
    }

    fn queued(&self) -> usize {
        let io = self.io.borrow();
        io.held_up + io.outbox.len()
    }

    fn bus_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }

    fn spawn_worker(&mut self, incarnation: u64) -> Result<(), String> {
        let mut io = self.io.borrow_mut();
        io.step = None;
        io.orders.push(Order::Spawn(incarnation));
        Ok(())
    }

    fn send_to_worker(&mut self, message: &ToWorker) -> bool {
        let mut io = self.io.borrow_mut();
        if let ToWorker::Start { r_limit_us, .. } = message {
            io.step = Some((io.local_us, *r_limit_us));
        }
        io.orders.push(Order::Tell(Box::new(message.clone())));
        true
    }

    fn worker_waited_us(&self) -> u64 {
        self.io.borrow().worker_waited_us
    }

    /// A simulated disk has no size.
    fn room(&self) -> Option<Room> {
        None
    }

    fn kill_worker(&mut self) {
        let mut io = self.io.borrow_mut();
        if io.violation.is_none() && !io.worker_is_mad && !io.stopping {
            io.violation = invariants::no_claim_stops_a_run(io.local_us, io.step).err();
        }
        io.step = None;
        io.worker_is_mad = false;
        io.orders.push(Order::Kill);
    }

    fn show_status(&mut self, _line: &str) {}
}
