//! The worker process as the agent sees it: spawned, fed, listened to, killed.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use microlambda_faces::proto::{FromWorker, MESSAGE_BYTES_MAX, ToWorker, body_bytes, decode, encode};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::config::Engine;

/// Messages that wait for the worker at most; a step's frames are fed a few at a time, so it never fills.
const QUEUE_LEN: usize = 64;
/// A process whose stream has ended is waited for so long, for how it ended.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// How to start a worker.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The worker program's path.
    pub program: PathBuf,
    /// The folder of the recognition models.
    pub models_dir: PathBuf,
    /// Which code searches and encodes.
    pub engine: Engine,
    /// Memory it may use, MB.
    pub memory_mb: u32,
}

/// What a worker says, or that it is gone; tagged with the incarnation given to [`Worker::spawn`].
#[derive(Debug)]
pub enum WorkerEvent {
    /// A message from this incarnation.
    Said(u64, Box<FromWorker>),
    /// The socket is closed or carries something else: the process is dead or to be killed.
    Gone(u64, String),
}

/// A running worker process. Dropping it kills the process.
pub struct Worker {
    pid: u32,
    /// The process, and no other that gets its number later.
    process: OwnedFd,
    write: Arc<OwnedWriteHalf>,
    queue: mpsc::Sender<Vec<u8>>,
    /// Messages that are in the queue, or partly written.
    queued: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts the process. What it says arrives in `events`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(
        command: &WorkerCommand,
        incarnation: u64,
        events: mpsc::Sender<WorkerEvent>,
    ) -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = UnixStream::from_std(ours)?;
        let pass = ["OPENBLAS_CORETYPE", "LD_LIBRARY_PATH"].map(|name| (name, std::env::var_os(name)));
        let mut child = Command::new(&command.program)
            .arg("--models")
            .arg(&command.models_dir)
            .args(["--engine", command.engine.name()])
            .args(["--memory-max-mb", &command.memory_mb.to_string()])
            .env_clear()
            // Two BLAS threads were measured to cost more CPU, and many times the wall time on a busy machine.
            .env("OPENBLAS_NUM_THREADS", "1")
            // One arena keeps the worker's memory near what it uses.
            .env("MALLOC_ARENA_MAX", "1")
            .envs(pass.iter().filter_map(|(name, value)| Some((OsStr::new(*name), value.as_ref()?))))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        let number = Pid::from_raw(pid.try_into().unwrap_or_default()).ok_or(ErrorKind::NotFound)?;
        let process = pidfd_open(number, PidfdFlags::empty()).inspect_err(|_| drop(child.start_kill()))?;
        let (read, write) = stream.into_split();
        let (queue, queue_rx) = mpsc::channel(QUEUE_LEN);
        let (write, queued) = (Arc::new(write), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(write_queued(Arc::clone(&write), queue_rx, Arc::clone(&queued)));
        tokio::spawn(read_all(read, child, incarnation, events));
        Ok(Self { pid, process, write, queue, queued })
    }

    /// Hands a message on, at once as far as the socket takes it; false if the worker is gone or does not take messages any more.
    pub fn send(&self, message: &ToWorker) -> bool {
        let Ok(mut bytes) = encode(message) else { return false };
        // Behind others it waits for its turn.
        if self.queued.load(Ordering::Acquire) == 0 {
            match self.write.try_write(&bytes) {
                Ok(written) if written == bytes.len() => return true,
                Ok(written) => drop(bytes.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        // A message that was partly written finds the queue empty, so that its rest is never refused.
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.queue.try_send(bytes).is_ok()
    }

    /// How long it has waited for a processor since its start, while others used them, µs; 0 where the kernel does not tell (proc(5), `schedstat`).
    pub fn waited_us(&self) -> u64 {
        // Of its main thread, which does the work.
        waited_us(self.pid).unwrap_or(0)
    }

    /// Ends the process at once, whatever it is doing.
    pub fn kill(&mut self) {
        if let Err(error) = pidfd_send_signal(&self.process, Signal::KILL) {
            log::debug!(error:% = error; "the worker was gone before it was killed");
        }
    }

    /// The process id of the worker.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn waited_us(pid: u32) -> Option<u64> {
    // Time on a processor, time in wait for one, turns; ns.
    let told = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    told.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|waited_ns| waited_ns / 1_000)
}

async fn write_queued(write: Arc<OwnedWriteHalf>, mut queue: mpsc::Receiver<Vec<u8>>, queued: Arc<AtomicUsize>) {
    while let Some(bytes) = queue.recv().await {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // A failed write shows as the end of the other direction too.
            if write.writable().await.is_err() {
                return;
            }
            match write.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
        queued.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn read_all(mut read: OwnedReadHalf, mut child: Child, incarnation: u64, events: mpsc::Sender<WorkerEvent>) {
    loop {
        let event = match read_message(&mut read).await {
            Ok(message) => WorkerEvent::Said(incarnation, Box::new(message)),
            Err(Unread::Ended { midway }) => {
                let status = tokio::time::timeout(END_PATIENCE, child.wait()).await;
                WorkerEvent::Gone(incarnation, ended(status.ok().and_then(Result::ok), midway))
            }
            Err(Unread::Nonsense(why)) => WorkerEvent::Gone(incarnation, why),
        };
        let last = matches!(event, WorkerEvent::Gone(..));
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

/// How a worker's process ended, for people.
fn ended(status: Option<ExitStatus>, midway: bool) -> String {
    let how = match status.map(|status| (status.signal(), status.code())) {
        Some((Some(signal), _)) => format!(" by signal {signal}"),
        Some((None, Some(code))) => format!(" with status {code}"),
        Some((None, None)) | None => String::new(),
    };
    // An abort, or a panic: so ends what is allocated without a way to fail.
    let is_abort = |status: ExitStatus| status.signal() == Some(Signal::ABORT.as_raw()) || status.code() == Some(101);
    let hint = if status.is_some_and(is_abort) {
        ", as where memory runs out: if so, raise worker-memory-mb or send smaller pictures"
    } else {
        ""
    };
    let midway = if midway { " in the middle of a message" } else { "" };
    format!("the worker process ended{midway}{how}{hint}")
}

/// Why there is no message.
enum Unread {
    /// The stream is at its end, between messages or in one.
    Ended { midway: bool },
    /// It carries something else.
    Nonsense(String),
}

async fn read_message(read: &mut OwnedReadHalf) -> Result<FromWorker, Unread> {
    let mut prefix = [0; 4];
    read.read_exact(&mut prefix).await.map_err(|_| Unread::Ended { midway: false })?;
    let bytes = body_bytes(prefix).map_err(|error| Unread::Nonsense(error.to_string()))?;
    debug_assert!(bytes <= MESSAGE_BYTES_MAX);
    let mut body = vec![0; bytes];
    read.read_exact(&mut body).await.map_err(|_| Unread::Ended { midway: true })?;
    decode(&body).map_err(|error| Unread::Nonsense(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_to_share_a_processor_has_waited() {
        let busy = || std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh");
        // One more than there are processors.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut children: Vec<_> = (0..=processors).map(|_| busy()).collect();
        let began = std::time::Instant::now();
        let waited = || children.iter().filter_map(|child| waited_us(child.id())).max();
        let mut most_us = waited();
        while most_us.is_some_and(|us| us < 1_000) && began.elapsed().as_secs() < 60 {
            std::thread::yield_now();
            most_us = waited();
        }
        for child in &mut children {
            child.kill().and_then(|()| child.wait()).expect("its end");
        }
        assert!(most_us.is_some_and(|us| us >= 1_000), "{most_us:?}");
    }
}
