//! A worker process as an edge agent starts it, driven by a benchmark.

use std::time::Duration;

use edge_agent::config::Engine;
use edge_agent::worker::{Worker, WorkerCommand, WorkerEvent};
use microlambda_demo::Programs;
use microlambda_faces::proto::{FromWorker, ToWorker};
use tokio::sync::mpsc;

use crate::{Error, data_dir};

/// Memory the worker may use, MB: the agent's default.
pub(crate) const MEMORY_MB: u32 = 1_024;
/// Nothing the worker does takes longer.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running worker, and what it says. Ends on drop.
pub struct Driven {
    worker: Worker,
    events: mpsc::Receiver<WorkerEvent>,
}

impl Driven {
    /// Spawns one with this engine; [`FromWorker::Ready`] is the first that it says. Needs a tokio runtime.
    ///
    /// # Errors
    /// The programs are missing, or the process cannot be started.
    pub fn spawn(engine: Engine) -> Result<Self, Error> {
        let programs = Programs::find()?;
        programs.check()?;
        let command = WorkerCommand {
            program: programs.worker,
            models_dir: data_dir().join("models"),
            engine,
            memory_mb: MEMORY_MB,
        };
        let (sender, events) = mpsc::channel(64);
        Ok(Self { worker: Worker::spawn(&command, 0, sender)?, events })
    }

    /// What it says next.
    ///
    /// # Errors
    /// It cannot work, is gone, or says nothing for [`PATIENCE`].
    pub async fn next(&mut self) -> Result<FromWorker, Error> {
        match tokio::time::timeout(PATIENCE, self.events.recv()).await? {
            Some(WorkerEvent::Said(_, message)) => match *message {
                FromWorker::Fatal { message } => Err(message.into()),
                message => Ok(message),
            },
            Some(WorkerEvent::Gone(_, why)) => Err(why.into()),
            None => Err("the worker is gone".into()),
        }
    }

    /// Hands it a message.
    ///
    /// # Errors
    /// It takes none any more.
    pub fn send(&self, message: &ToWorker) -> Result<(), Error> {
        if self.worker.send(message) { Ok(()) } else { Err("the worker takes no messages".into()) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }
}
