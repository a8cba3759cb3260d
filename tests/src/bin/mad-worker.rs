//! A worker process for tests: it speaks the agent's protocol without an engine, sees nobody in any picture, and misbehaves as a
//! comment in the picture says, `mad:` and one of the words below.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use microlambda::Stop;
use microlambda_faces::proto::{
    CLASS_DETECT, FromWorker, MESSAGE_BYTES_MAX, PROTOCOL, StepTimes, ToWorker, UnitOutcome, body_bytes, decode, encode,
};
use microlambda_faces::{Analysis, FrameAnalysis, Partial};

/// Every picture is taken to have this size, px: one tile.
const SIZE_PX: (u32, u32) = (320, 240);
/// What a unit is said to have cost, µs; many times less than any limit in the tests.
const UNIT_US: u64 = 2_000;
/// What a `slow` unit takes: ten times as long as the tests' camera waits between pictures.
const SLOW: Duration = Duration::from_millis(500);

/// What a picture tells its worker to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// Its work.
    Work,
    /// Its work, slowly.
    Slow,
    /// `SIGABRT`, as a C++ library that aborts.
    Abort,
    /// An end without a word.
    Exit,
    /// Nothing, for ever.
    Hang,
    /// A message of the right length that is none.
    Garbage,
    /// Half of a message, and the end.
    Truncated,
    /// Half of a message, and nothing more, for ever.
    Stuck,
    /// A message longer than any may be.
    Oversized,
    /// A message as long as the longest may be, full of nonsense.
    Huge,
    /// A state that cannot follow from the one before.
    Nonsense,
    /// Its work, and after the step once more, and again for a step that was never started.
    Late,
}

const DEEDS: [(&str, Deed); 11] = [
    ("mad:slow", Deed::Slow),
    ("mad:abort", Deed::Abort),
    ("mad:exit", Deed::Exit),
    ("mad:hang", Deed::Hang),
    ("mad:garbage", Deed::Garbage),
    ("mad:truncated", Deed::Truncated),
    ("mad:stuck", Deed::Stuck),
    ("mad:oversized", Deed::Oversized),
    ("mad:huge", Deed::Huge),
    ("mad:nonsense", Deed::Nonsense),
    ("mad:late", Deed::Late),
];

fn deed_of(picture: &[u8]) -> Deed {
    let says = |word: &str| picture.windows(word.len()).any(|window| window == word.as_bytes());
    DEEDS.iter().find(|(word, _)| says(word)).map_or(Deed::Work, |(_, deed)| *deed)
}

struct Worker {
    agent: UnixStream,
    step: u64,
    units: u32,
    units_max: u32,
    running: bool,
    /// What is said once the step has ended.
    late: Vec<FromWorker>,
}

fn main() -> io::Result<()> {
    let agent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut worker = Worker { agent, step: 0, units: 0, units_max: 0, running: false, late: Vec::new() };
    worker.say(&FromWorker::Ready { protocol: PROTOCOL, engine: "mad".into(), load_us: 1 })?;
    loop {
        match worker.hear()? {
            ToWorker::Start { step, units_max, .. } => {
                (worker.step, worker.units, worker.units_max, worker.running) = (step, 0, units_max, true);
            }
            ToWorker::Frame { sequence, jpeg, more, .. } if worker.running => worker.frame(sequence, &jpeg, more)?,
            ToWorker::Frame { .. } => {}
            ToWorker::NoMoreFrames | ToWorker::Stop if worker.running => worker.stop(Stop::Starved)?,
            ToWorker::NoMoreFrames | ToWorker::Stop => {}
        }
    }
}

impl Worker {
    fn say(&mut self, message: &FromWorker) -> io::Result<()> {
        self.agent.write_all(&encode(message).map_err(io::Error::other)?)
    }

    fn hear(&mut self) -> io::Result<ToWorker> {
        let mut prefix = [0; 4];
        self.agent.read_exact(&mut prefix)?;
        let mut body = vec![0; body_bytes(prefix).map_err(io::Error::other)?];
        self.agent.read_exact(&mut body)?;
        decode(&body).map_err(io::Error::other)
    }

    fn frame(&mut self, sequence: u64, jpeg: &[u8], more: bool) -> io::Result<()> {
        self.say(&FromWorker::Begin { step: self.step, part: (CLASS_DETECT, work()) })?;
        match deed_of(jpeg) {
            Deed::Work => {}
            Deed::Slow => std::thread::sleep(SLOW),
            Deed::Abort => std::process::abort(),
            Deed::Exit => std::process::exit(0),
            Deed::Hang => hang(),
            Deed::Garbage => self.agent.write_all(&[&64_u32.to_le_bytes(), [0xee; 64].as_slice()].concat())?,
            Deed::Truncated => {
                self.agent.write_all(&half_a_message())?;
                std::process::exit(0);
            }
            Deed::Stuck => {
                self.agent.write_all(&half_a_message())?;
                hang();
            }
            Deed::Oversized => self.agent.write_all(&[0xff; 64])?,
            Deed::Huge => {
                let bytes = MESSAGE_BYTES_MAX as u32;
                self.agent.write_all(&bytes.to_le_bytes())?;
                self.agent.write_all(&vec![0xee; MESSAGE_BYTES_MAX])?;
            }
            Deed::Nonsense => {
                let mut partial = Partial { width_px: 1, height_px: 1, tiles_done: 70_000, ..Partial::default() };
                partial.tiles_set_aside.clear();
                let nonsense = self.unit(sequence, UnitOutcome::Partial(partial));
                self.say(&nonsense)?;
            }
            Deed::Late => {
                let again = self.unit(sequence, nobody());
                let FromWorker::Unit { run, outcome, .. } = again.clone() else { return Ok(()) };
                let step = self.step + 1_000;
                let never = FromWorker::Unit { step, sequence, prepare: None, run, outcome, thumbnail: None };
                self.late = vec![again, never];
            }
        }
        let unit = self.unit(sequence, nobody());
        self.say(&unit)?;
        self.units += 1;
        if self.units >= self.units_max {
            return self.stop(Stop::UnitsMax);
        }
        if more { Ok(()) } else { self.stop(Stop::Done) }
    }

    fn unit(&self, sequence: u64, outcome: UnitOutcome) -> FromWorker {
        let run = (CLASS_DETECT, work(), UNIT_US);
        FromWorker::Unit { step: self.step, sequence, prepare: None, run, outcome, thumbnail: None }
    }

    fn stop(&mut self, stop: Stop) -> io::Result<()> {
        self.running = false;
        let used_us = u64::from(self.units) * UNIT_US;
        let report = StepTimes {
            units: self.units,
            used_us,
            busy_us: used_us,
            first_unit_start_us: 0,
            last_unit_end_us: 0,
            cpu_us: 0,
        };
        self.say(&FromWorker::Stopped { step: self.step, stop, report })?;
        for message in std::mem::take(&mut self.late) {
            self.say(&message)?;
        }
        Ok(())
    }
}

/// Pixels of the one tile.
fn work() -> u64 {
    u64::from(SIZE_PX.0) * u64::from(SIZE_PX.1)
}

/// The analysis of a picture without faces.
fn nobody() -> UnitOutcome {
    let analysis = FrameAnalysis { width_px: SIZE_PX.0, height_px: SIZE_PX.1, ..FrameAnalysis::default() };
    UnitOutcome::Done(Analysis::Frame(analysis))
}

/// A prefix that promises more than follows.
fn half_a_message() -> Vec<u8> {
    [&1_000_u32.to_le_bytes(), [1; 10].as_slice()].concat()
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
