//! The source's thread: take a picture, make it a frame, hand it to the spool; open the source again when it fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc as blocking;
use std::time::Duration;

use microlambda_runtime::{LogLimiter, monotonic_us};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::{oneshot, watch};

use super::crash_guard::CrashGuard;
use super::dashboard::Dashboard;
use super::{Captured, Given, Next, Source, SourceError};
use crate::luma::Cells;
use crate::motion::{Gate, Verdict};
use crate::picture::{self, FrameBounds, ORDINARY_BYTES_MAX, Picture, Prepared};
use crate::spool::thread::{Outcome, SourceHandle};
use crate::spool::{Input, NewFrame};

/// A source that has not begun for so long is in trouble, µs.
const NOT_YET_TOLD_US: u64 = 60_000_000;
/// The first pause before a failed source is opened again; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause before a failed source is opened again.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Said of a picture at which this program has ended again and again.
const TOO_MUCH_MEMORY: &str = "it took more memory than there is, and ended this program twice in a row: scale it down, or \
     raise MemoryMax of the service (`systemctl edit camera-agent`) and read the input again with --new-job";

/// Opens the source; gets what a finite one has given already.
pub type Opener = Box<dyn FnMut(Given, &Arc<ProcessGroupKiller>) -> Result<Box<dyn Source>, SourceError> + Send>;

/// How the source is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What the source is doing.
    pub phase: Phase,
    /// Frames taken into the spool.
    pub frames: u64,
    /// Pictures passed over, for they could not be used.
    pub unreadable: u64,
    /// Of those, what was no picture at all in this reading of a finite input: the spool does not remember it.
    pub garbage: u64,
    /// Pictures left out because nothing moved in them.
    pub still: u64,
    /// Frames that are not the source's own bytes, for they were encoded again.
    pub reencoded: u64,
    /// Times it failed and was opened again.
    pub reopened: u64,
    /// When the last picture came, or else the source was first opened, µs of the monotonic clock; 0 before that.
    pub quiet_since_us: u64,
}

impl Report {
    /// Pictures that were good, whether kept or left out.
    fn given(&self) -> u64 {
        self.frames + self.still
    }
}

/// What a source is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Phase {
    /// The source was not opened yet.
    #[default]
    Starting,
    /// The source is open and gives pictures.
    Running,
    /// The source failed, for this reason, and is to be opened again.
    Trouble(String),
    /// The source is at its end, and the end record is written.
    Ended,
    /// The source will not work until somebody does what the text says.
    Failed(String),
}

/// The process group of a running command, so that it can be killed while its reader waits for it.
#[derive(Debug, Default)]
pub struct ProcessGroupKiller {
    group: Mutex<Option<Pid>>,
}

impl ProcessGroupKiller {
    /// Holds `group`, or nothing.
    pub fn hold(&self, group: Option<Pid>) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = group;
    }

    /// Kills the group held, if any.
    pub fn kill(&self) {
        if let Some(group) = self.group.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Settings of a pump.
pub struct PumpConfig {
    /// What a frame may be at most.
    pub frame: FrameBounds,
    /// Where a large picture that is being prepared is noted.
    pub state_dir: PathBuf,
    /// How often a small picture for dashboards is made; `None` for never.
    pub image_interval: Option<Duration>,
    /// Whether the source has an end.
    pub finite: bool,
    /// It is given up once it has failed so often in a row without a new picture; `None`: it is opened again for ever.
    pub failures_max: Option<u32>,
    /// Of pictures in which nothing moves one is kept this often; `None` keeps them all. A finite source gives all of its pictures anyway.
    pub still_interval: Option<Duration>,
}

/// A running pump; dropping it lets the thread end at its next picture.
pub struct Pump {
    /// How the source is doing.
    pub report: watch::Receiver<Report>,
    /// The newest picture for dashboards.
    pub image: watch::Receiver<Option<Vec<u8>>>,
    ended: oneshot::Receiver<()>,
    stop: blocking::Sender<()>,
    killer: Arc<ProcessGroupKiller>,
    guard: CrashGuard,
}

impl Pump {
    /// Starts the thread. `spool` says what a finite source has given already, also after later failures.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(opener: Opener, spool: SourceHandle, config: PumpConfig) -> std::io::Result<Self> {
        let (report_out, report) = watch::channel(Report::default());
        let (image_out, image) = watch::channel(None);
        let (stop, stopped) = blocking::channel();
        let (at_end, ended) = oneshot::channel();
        let killer = Arc::new(ProcessGroupKiller::default());
        let gate = config.still_interval.filter(|_| !config.finite).map(|interval| {
            log::info!(still_interval_s = interval.as_secs(); "pictures in which nothing moves are left out but for one an interval, and counted");
            Gate::new(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX))
        });
        let start_dashboard = |interval| Dashboard::start(interval, config.frame, image_out);
        let dashboard = config.image_interval.map(start_dashboard).transpose()?;
        let guard = CrashGuard::new(&config.state_dir);
        let mut worker = Worker {
            opener,
            spool,
            config,
            report: report_out,
            dashboard,
            stopped,
            killer: killer.clone(),
            guard: guard.clone(),
            warnings: LogLimiter::default(),
            unsaid: 0,
            fruitless: 0,
            failure: None,
            failures: LogLimiter::standing(),
            gate,
        };
        std::thread::Builder::new().name("source".into()).spawn(move || {
            // Code that reads devices and pictures may panic; an agent without its source must not seem well.
            if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                let why = "the source's thread has panicked, as told before: please report that; a restart may help";
                worker.report.send_modify(|report| report.phase = Phase::Failed(why.into()));
            }
            drop(at_end);
        })?;
        Ok(Self { report, image, ended, stop, killer, guard })
    }

    /// Stops the source and kills its command; waits up to `timeout` for the thread to end.
    pub async fn stop(self, timeout: Duration) {
        drop(self.stop);
        self.killer.kill();
        if tokio::time::timeout(timeout, self.ended).await.is_err() {
            log::debug!("the source still waits for its device; it ends with this program");
        }
        // A picture that is stopped at has not ended the program.
        self.guard.end();
    }
}

struct Worker {
    opener: Opener,
    spool: SourceHandle,
    config: PumpConfig,
    report: watch::Sender<Report>,
    dashboard: Option<Dashboard>,
    stopped: blocking::Receiver<()>,
    killer: Arc<ProcessGroupKiller>,
    guard: CrashGuard,
    /// Pictures of a live source that are passed over, as the log tells them.
    warnings: LogLimiter,
    /// Pictures passed over without a word since the last warning.
    unsaid: u64,
    /// How often in a row the source failed without a new picture.
    fruitless: u32,
    /// Why the source failed last, if it has given nothing since.
    failure: Option<String>,
    /// The same reason again and again, as the log tells it: a camera may be missing for months.
    failures: LogLimiter,
    /// For live sources, unless it is switched off.
    gate: Option<Gate>,
}

/// Why [`Worker::session`] ended without an error.
enum Finished {
    End,
    Stopped,
}

impl Worker {
    fn run(&mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let given_before = self.report.borrow().given();
            match self.session() {
                Ok(Finished::Stopped) => return,
                Ok(Finished::End) => {
                    if let Some(dashboard) = self.dashboard.take() {
                        dashboard.finish();
                    }
                    if let Some((end, passed_over)) = self.spool.finish() {
                        let passed_over = passed_over + self.report.borrow().garbage;
                        log::info!(count = end.count, passed_over, manifest:% = end.manifest.short(16); "the input has ended");
                        self.report.send_modify(|report| report.phase = Phase::Ended);
                    }
                    return;
                }
                Err(SourceError::Fatal(why)) => {
                    self.report.send_modify(|report| report.phase = Phase::Failed(why));
                    return;
                }
                // A command that was killed because the agent stops is no trouble.
                Err(SourceError::Trouble(_)) if self.is_stopped_within(Duration::ZERO) => return,
                Err(SourceError::Trouble(why)) => {
                    let gave = self.report.borrow().given() > given_before;
                    self.fruitless = if gave { 0 } else { self.fruitless.saturating_add(1) };
                    if self.config.failures_max.is_some_and(|most| self.fruitless >= most) {
                        self.give_up(&why);
                        return;
                    }
                    self.tell_failure(why, pause);
                    if gave {
                        pause = PAUSE_MIN;
                        self.failure = None;
                    }
                    if self.is_stopped_within(pause) {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn tell_failure(&mut self, why: String, pause: Duration) {
        if self.failure.as_ref() != Some(&why) {
            self.failures = LogLimiter::standing();
        }
        if self.failures.is_due(monotonic_us()) {
            log::warn!(why = why.as_str(), pause_ms = pause.as_millis() as u64; "the source failed and will be opened again");
        }
        self.failure = Some(why.clone());
        self.report.send_modify(|report| {
            report.phase = Phase::Trouble(why);
            report.reopened += 1;
        });
    }

    fn give_up(&self, why: &str) {
        let why = format!(
            "{why}. It is not tried again, for it failed {} times in a row without a new picture: correct it, then start the job \
             again",
            self.fruitless
        );
        self.report.send_modify(|report| report.phase = Phase::Failed(why));
    }

    fn session(&mut self) -> Result<Finished, SourceError> {
        let already: Given =
            if self.config.finite { Box::new(self.spool.inputs()) } else { Box::new(std::iter::empty()) };
        let mut source = (self.opener)(already, &self.killer)?;
        self.report.send_modify(|report| {
            report.phase = Phase::Running;
            report.garbage = 0;
            if report.quiet_since_us == 0 {
                report.quiet_since_us = monotonic_us();
            }
        });
        let mut waits_since_us = None;
        loop {
            if self.is_stopped_within(Duration::ZERO) {
                return Ok(Finished::Stopped);
            }
            let next = source.next()?;
            if !matches!(next, Next::NotYet(_)) && waits_since_us.take().is_some() {
                self.report.send_modify(|report| report.phase = Phase::Running);
            }
            match next {
                Next::End => return Ok(Finished::End),
                Next::NotYet(pause) => {
                    let since_us = *waits_since_us.get_or_insert_with(monotonic_us);
                    if monotonic_us().saturating_sub(since_us) >= NOT_YET_TOLD_US {
                        let why = "the folder never stops changing, and nothing is read before: let a program write elsewhere, and move \
                                   its files here";
                        self.report.send_modify(|report| report.phase = Phase::Trouble(why.into()));
                    }
                    if self.is_stopped_within(pause) {
                        return Ok(Finished::Stopped);
                    }
                }
                Next::Frame(captured) => {
                    if !self.take(captured) {
                        return Ok(Finished::Stopped);
                    }
                }
                Next::PassedOver { why, input } => {
                    if !self.pass_over(&why, input) {
                        return Ok(Finished::Stopped);
                    }
                }
            }
        }
    }

    /// False when the spool is closing.
    fn take(&mut self, captured: Captured) -> bool {
        let Captured { picture, captured_at_ms, label, input } = captured;
        let now_us = monotonic_us();
        let cells = self.gate.as_ref().and_then(|_| Cells::of(&picture));
        if self.gate.as_mut().is_some_and(|gate| gate.judge(cells, now_us) == Verdict::Still) {
            self.leave_out(picture);
            return true;
        }
        let prepared = match self.prepare(picture, input.as_ref()) {
            Ok(prepared) => prepared,
            Err(why) => {
                let what = if label.is_empty() { "a picture" } else { label.as_str() };
                let goes_on = self.pass_over(&format!("{what}: {why}"), input);
                // Not before the spool remembers it.
                self.guard.end();
                return goes_on;
            }
        };
        let for_dashboard = self.dashboard.as_ref().map(|_| prepared.jpeg.clone());
        let moved = self.gate.as_ref().and_then(Gate::moved).filter(|_| !prepared.reshaped);
        let frame = NewFrame { jpeg: prepared.jpeg, captured_at_ms, label, moved, input };
        let outcome = self.spool.append(frame);
        if let Some(gate) = self.gate.as_mut().filter(|_| outcome == Outcome::Kept) {
            gate.kept();
        }
        self.report.send_modify(|report| {
            report.quiet_since_us = monotonic_us();
            report.frames += u64::from(outcome == Outcome::Kept);
            report.reencoded += u64::from(prepared.reencoded && outcome == Outcome::Kept);
            report.phase = Phase::Running;
        });
        if let Some((dashboard, jpeg)) = self.dashboard.as_ref().zip(for_dashboard) {
            dashboard.show(Picture::File(jpeg));
        }
        outcome != Outcome::Closed
    }

    /// Makes a frame of a picture, or says why it can be none.
    fn prepare(&self, picture: Picture, input: Option<&Input>) -> Result<Prepared, String> {
        // What a live source gave does not come again after a restart, and for ordinary pictures nothing is synced.
        let is_tried = |_: &&Input| picture::prepare_bytes(&picture, self.config.frame) > ORDINARY_BYTES_MAX;
        let tried = input.filter(is_tried);
        if let Some(input) = tried {
            match self.guard.begin(input.digest) {
                Ok(true) => {}
                Ok(false) => return Err(TOO_MUCH_MEMORY.into()),
                // Without a note it is tried at each start, as long as that ends the program.
                Err(error) => {
                    log::warn!(why:% = error; "a large picture cannot be noted in the state directory: check the disk");
                }
            }
        }
        let prepared = picture::prepare(picture, self.config.frame);
        if tried.is_some() {
            self.guard.end();
        }
        prepared.map_err(|error| error.to_string())
    }

    /// Nothing moved in this picture: it gets no number, and dashboards see it all the same.
    fn leave_out(&mut self, picture: Picture) {
        self.report.send_modify(|report| {
            report.quiet_since_us = monotonic_us();
            report.still += 1;
            report.phase = Phase::Running;
        });
        if let Some(dashboard) = &self.dashboard {
            dashboard.show(picture);
        }
    }

    /// False when the spool is closing.
    fn pass_over(&mut self, why: &str, input: Option<Input>) -> bool {
        self.report.send_modify(|report| {
            report.unreadable += 1;
            report.garbage += u64::from(input.is_none());
        });
        // Each piece of a finite input is named; a live source could fill the log.
        if self.warnings.is_due(monotonic_us()) || input.is_some() {
            log::warn!(why = why, more = self.unsaid; "a picture is passed over");
            self.unsaid = 0;
        } else {
            self.unsaid += 1;
        }
        input.is_none_or(|input| self.spool.pass_over(input))
    }

    fn is_stopped_within(&self, time: Duration) -> bool {
        match self.stopped.recv_timeout(time) {
            Err(blocking::RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(blocking::RecvTimeoutError::Disconnected) => true,
        }
    }
}

#[cfg(test)]
mod tests;
