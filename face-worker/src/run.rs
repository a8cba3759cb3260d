//! The process around a session: environment, models, sandbox, streams.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use clap::Parser;
use microlambda_faces::proto::{FromWorker, PROTOCOL};
use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::engine::{Dlib, EngineChoice, LoadError};
use crate::ffi;
use crate::inbox::inbox;
use crate::sandbox::{self, SandboxError};
use crate::session::{self, Clocks, SessionError};
use crate::trial::{TrialError, try_out};

/// What must be in the environment before OpenBLAS and the allocator start: a second BLAS thread costs more than it gives,
/// and a second arena only holds memory.
pub const ENVIRONMENT: [(&str, &str); 2] = [("OPENBLAS_NUM_THREADS", "1"), ("MALLOC_ARENA_MAX", "1")];
/// Once the agent is gone, a unit may still run for so long before the process is killed.
const LAST_UNIT_MAX: Duration = Duration::from_secs(2);

/// Looks at pictures for an edge agent, which starts it; not meant to be started by hand.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    after_help = "The agent's end of a socket pair is file descriptor 0. To look at a photo: edge-agent inspect PHOTO"
)]
pub struct Args {
    /// Directory with the model files (`make models` fetches them)
    #[arg(long, value_name = "DIR")]
    pub models: PathBuf,
    /// Which code searches and encodes
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    pub engine: EngineChoice,
    /// Memory for data, in MB; a picture that needs more ends the worker
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub memory_max_mb: u64,
}

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The environment cannot be set.
    #[error("cannot start again with {}=1: {source}; set it before the start", ENVIRONMENT[0].0)]
    Environment {
        /// Why.
        source: std::io::Error,
    },
    /// File descriptor 0 is no socket.
    #[error(
        "file descriptor 0 is no socket ({source}): face-worker is started by edge-agent; to look at a photo run `edge-agent inspect PHOTO`"
    )]
    NoAgent {
        /// Why.
        source: std::io::Error,
    },
    /// A limit.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Models.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It cannot work at all.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// A thread cannot be started.
    #[error("no thread for the agent's messages: {source}; check the process limit (`ulimit -u`)")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// In the middle of the work.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl RunError {
    /// 3 for what a person must set right before the next start, 1 for what happened while working.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Session(_) => 1,
            Self::Environment { .. }
            | Self::NoAgent { .. }
            | Self::Sandbox(_)
            | Self::Load(_)
            | Self::Trial(_)
            | Self::Thread { .. } => 3,
        }
    }
}

/// Runs the worker until the agent closes its end.
///
/// # Errors
/// If it cannot start, the agent is out of step, or a unit failed.
pub fn run(args: &Args) -> Result<(), RunError> {
    let start_us = monotonic_us();
    start_again_if_needed()?;
    let stream = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let mut out =
        stream.and_then(|stream| stream.local_addr().map(|_| stream)).map_err(|source| RunError::NoAgent { source })?;
    ffi::reserve_blas();
    sandbox::limit(args.memory_max_mb)?;
    let mut engine = Dlib::load_for(&args.models, args.engine).inspect_err(|error| {
        // The reason goes to the agent as well, if it still listens.
        let _ = session::send(&mut out, &FromWorker::Fatal { message: error.to_string() });
    })?;
    let name = engine.describe();
    let sandbox = sandbox::enter();
    report(&name, &sandbox);
    let tried = try_out(&mut engine, monotonic_us).inspect_err(|error| {
        let _ = session::send(&mut out, &FromWorker::Fatal { message: error.to_string() });
    })?;
    let reading = out.try_clone().map_err(|source| RunError::NoAgent { source })?;
    let (reader, mut inbox) = inbox(reading, monotonic_us);
    let (finished, still_working) = channel::<()>();
    std::thread::Builder::new()
        .name("inbox".into())
        .spawn(move || {
            reader.run();
            // The agent is gone. A unit that does not end would outlive it for ever.
            if still_working.recv_timeout(LAST_UNIT_MAX) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(getpid(), Signal::KILL);
            }
        })
        .map_err(|source| RunError::Thread { source })?;
    let clocks = Clocks { monotonic_us, cpu_us };
    let load_us = monotonic_us().saturating_sub(start_us);
    let hello = [FromWorker::Ready { protocol: PROTOCOL, engine: name, load_us }, FromWorker::Tried { units: tried }];
    let served = session::serve(&mut engine, &hello, &mut inbox, &mut out, clocks);
    drop(finished);
    Ok(served?)
}

/// OpenBLAS reads its number of threads before `main`: where it is not set, the process replaces itself once.
fn start_again_if_needed() -> Result<(), RunError> {
    if ENVIRONMENT.iter().all(|(name, value)| std::env::var(name).is_ok_and(|set| set == *value)) {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|source| RunError::Environment { source })?;
    let source = Command::new(program).args(std::env::args_os().skip(1)).envs(ENVIRONMENT).exec();
    Err(RunError::Environment { source })
}

fn report(name: &str, sandbox: &sandbox::Sandbox) {
    let seccomp = if sandbox.seccomp { "on" } else { "off" };
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr(), "face-worker: {name}; landlock {}, seccomp {seccomp}", sandbox.landlock);
}

fn monotonic_us() -> u64 {
    microseconds(clock_gettime(ClockId::Monotonic))
}

fn cpu_us() -> u64 {
    microseconds(clock_gettime(ClockId::ProcessCPUTime))
}

fn microseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000
}
