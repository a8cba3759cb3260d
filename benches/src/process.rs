//! Whole processes over the same pictures: from the start to the end, with all that they load.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use edge_agent::config::Engine;
use microlambda_demo::Programs;
use microlambda_faces::proto::{self, FromWorker, ToWorker, UnitOutcome};
use microlambda_faces::{Analysis, FaceParams};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::Serialize;

use crate::worker::{MEMORY_MB, PATIENCE};
use crate::{Error, Resident, data_dir, since};

/// Limit of a step, µs: longer than any picture takes.
const R_LIMIT_US: u64 = PATIENCE.as_micros() as u64;

/// A process that looks at one picture after the other.
pub trait Looks {
    /// Has it find and encode the faces in a picture file, and says how many it found.
    ///
    /// # Errors
    /// It has ended, or cannot read the picture.
    fn faces(&mut self, file: &[u8]) -> Result<usize, Error>;

    /// Its process id.
    fn pid(&self) -> u32;

    /// Tells it that nothing more comes, waits for its end, and says what processor time it took in its life, ms.
    ///
    /// # Errors
    /// It did not end well.
    fn end(&mut self) -> Result<f64, Error>;
}

/// What a process took for all pictures.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Whole {
    /// From its start until it had looked at the first one, ms.
    pub first_ms: f64,
    /// From its start to its end, ms.
    pub wall_ms: f64,
    /// Processor time of all its threads, ms.
    pub cpu_ms: f64,
    /// Most memory that it ever had resident, MB of 10^6 bytes.
    pub peak_mb: f64,
    /// Faces found in all pictures.
    pub faces: usize,
}

impl Whole {
    /// Starts a process, hands it the pictures one by one, each once the one before is done, and waits for its end.
    ///
    /// # Errors
    /// It cannot start, fails at a picture, or there is none.
    pub fn of<'a, L: Looks>(
        start: impl FnOnce() -> Result<L, Error>,
        files: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        let mut process = start()?;
        let (mut first_ms, mut faces) = (None, 0);
        for file in files {
            faces += process.faces(file)?;
            first_ms.get_or_insert_with(|| since(began));
        }
        let peak_mb = Resident::of(process.pid()).ok_or("the process ended before it was told to")?.peak;
        let cpu_ms = process.end()?;
        let first_ms = first_ms.ok_or("there is no picture")?;
        Ok(Self { first_ms, wall_ms: since(began), cpu_ms, peak_mb, faces })
    }
}

/// The worker process with the default engine, as an edge agent starts it. Unlike [`crate::worker::Driven`] it is waited for here, as its processor
/// time is known at its end only.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    /// `None` once it is to end.
    stream: Option<UnixStream>,
    step: u64,
}

impl WorkerProcess {
    /// Starts one; `environment` is what it would else start itself again for.
    ///
    /// # Errors
    /// The programs are missing, or the process cannot be started.
    pub fn start(environment: &[(&str, &str)]) -> Result<Self, Error> {
        let programs = Programs::find()?;
        programs.check()?;
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let child = Command::new(programs.worker)
            .arg("--models")
            .arg(data_dir().join("models"))
            .args(["--engine", Engine::BuiltIn.name()])
            .args(["--memory-max-mb", &MEMORY_MB.to_string()])
            .envs(environment.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, stream: Some(stream), step: 0 })
    }

    fn stream(&mut self) -> Result<&mut UnixStream, Error> {
        self.stream.as_mut().ok_or_else(|| "the worker was told to end".into())
    }

    fn send(&mut self, message: &ToWorker) -> Result<(), Error> {
        Ok(self.stream()?.write_all(&proto::encode(message)?)?)
    }

    fn next(&mut self) -> Result<FromWorker, Error> {
        let stream = self.stream()?;
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix)?;
        let mut body = vec![0; proto::body_bytes(prefix)?];
        stream.read_exact(&mut body)?;
        Ok(proto::decode(&body)?)
    }
}

impl Looks for WorkerProcess {
    fn faces(&mut self, file: &[u8]) -> Result<usize, Error> {
        self.step += 1;
        let (step, costs, params) = (self.step, Vec::new(), FaceParams::default());
        self.send(&ToWorker::Start { step, r_limit_us: R_LIMIT_US, units_max: u32::MAX, costs, params, resume: None })?;
        self.send(&ToWorker::Frame { sequence: 0, jpeg: file.to_vec(), moved: None, more: false })?;
        let mut found = None;
        loop {
            match self.next()? {
                FromWorker::Unit { outcome: UnitOutcome::Done(Analysis::Frame(frame)), .. } => {
                    found = Some(frame.faces.len());
                }
                FromWorker::Ready { .. }
                | FromWorker::Tried { .. }
                | FromWorker::Begin { .. }
                | FromWorker::Unit { .. }
                | FromWorker::Refused { .. }
                | FromWorker::Prepared { .. } => {}
                FromWorker::Stopped { stop, .. } => {
                    return found.ok_or_else(|| format!("the worker stopped without a result: {stop:?}").into());
                }
                FromWorker::Fatal { message } => return Err(message.into()),
            }
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn end(&mut self) -> Result<f64, Error> {
        self.stream = None;
        ended(&mut self.child)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a process's end, and says what processor time it took in its life, ms.
pub(crate) fn ended(child: &mut Child) -> Result<f64, Error> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the process has no id")?;
    // Once it is waited for, nobody knows any more; before its end, not all of it is known.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the process ended with {status}").into());
    }
    let ticks = cpu_ticks(&stat).ok_or_else(|| format!("not a process's state: {stat}"))?;
    Ok(ticks as f64 * 1e3 / clock_ticks_per_second() as f64)
}

/// Time in user and in kernel mode out of proc(5)'s `stat`, ticks of the clock.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name may hold blanks and brackets itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) Z 1 7 7 0 -1 4227084 10 0 0 0 123 45 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(168));
        assert_eq!(cpu_ticks("7 (a) Z 1"), None);
    }

    #[test]
    fn a_process_that_has_ended_tells_what_it_took() {
        let mut busy =
            Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).spawn().expect("sh");
        let cpu_ms = ended(&mut busy).expect("its end");
        assert!(cpu_ms > 0.0, "{cpu_ms}");
        let mut failing = Command::new("false").spawn().expect("false");
        assert!(ended(&mut failing).is_err());
    }
}
