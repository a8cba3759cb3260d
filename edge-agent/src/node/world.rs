//! What a node acts on: a clock, the bus, a worker process. The agent's is real, the simulator's is not.

use std::path::PathBuf;

use microlambda_faces::proto::ToWorker;
use microlambda_runtime::{Link, LinkCounters, Message, PublishError, monotonic_us, notify};
use tokio::sync::mpsc;

use crate::store::Room;
use crate::worker::{Worker, WorkerCommand, WorkerEvent};

/// Everything around a node but its store. Nothing here waits: answers come as inputs of the node.
pub trait World {
    /// A monotonic clock, µs from any origin.
    fn now_us(&self) -> u64;

    /// Whether the bus takes messages now.
    fn is_connected(&self) -> bool;

    /// Hands a message to the bus.
    ///
    /// # Errors
    /// Why it was not taken; it is lost then, and the node says it again in time.
    fn publish(&mut self, message: Message) -> Result<(), PublishError>;

    /// Messages that wait for the broker.
    fn queued(&self) -> usize;

    /// What the connection has counted.
    fn bus_counters(&self) -> LinkCounters;

    /// Starts a worker process in place of the former one; what it says is tagged with `incarnation`.
    ///
    /// # Errors
    /// Why it cannot be started.
    fn spawn_worker(&mut self, incarnation: u64) -> Result<(), String>;

    /// Queues a message for the worker; false if it is gone or takes none.
    fn send_to_worker(&mut self, message: &ToWorker) -> bool;

    /// How long the worker has waited for a processor since its start, µs.
    fn worker_waited_us(&self) -> u64;

    /// The room on the disk of the store, if that can be told.
    fn room(&self) -> Option<Room>;

    /// Ends the worker at once, whatever it is doing.
    fn kill_worker(&mut self);

    /// Shows one line on what the node is doing to whoever supervises it.
    fn show_status(&mut self, line: &str);
}

/// The agent's world: MQTT, a child process, the machine's clock.
pub(super) struct Agent {
    pub link: Link,
    pub state_dir: PathBuf,
    pub command: WorkerCommand,
    pub worker_events: mpsc::Sender<WorkerEvent>,
    pub worker: Option<Worker>,
}

impl World for Agent {
    fn now_us(&self) -> u64 {
        monotonic_us()
    }

    fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    fn publish(&mut self, message: Message) -> Result<(), PublishError> {
        self.link.publish(message.topic, message.payload, message.retain)
    }

    fn queued(&self) -> usize {
        self.link.queued().messages
    }

    fn bus_counters(&self) -> LinkCounters {
        self.link.counters()
    }

    fn spawn_worker(&mut self, incarnation: u64) -> Result<(), String> {
        self.worker = None;
        let worker = Worker::spawn(&self.command, incarnation, self.worker_events.clone());
        let program = self.command.program.display();
        let worker = worker.map_err(|error| format!("cannot start {program}: {error}; correct `worker`"))?;
        self.worker = Some(worker);
        Ok(())
    }

    fn send_to_worker(&mut self, message: &ToWorker) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.send(message))
    }

    fn worker_waited_us(&self) -> u64 {
        self.worker.as_ref().map_or(0, Worker::waited_us)
    }

    fn room(&self) -> Option<Room> {
        Room::of(&self.state_dir).ok()
    }

    fn kill_worker(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.kill();
        }
    }

    fn show_status(&mut self, line: &str) {
        notify::status(line);
    }
}
