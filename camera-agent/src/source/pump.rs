//! The source's thread: take a picture, make it a frame, hand it to the spool; open the source again when it fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};

use microlambda_runtime::{Seldom, monotonic_us};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::{oneshot, watch};

use super::{Captured, Given, Next, Source, SourceError};
use crate::luma::Cells;
use crate::motion::{Gate, Verdict};
use crate::picture::{self, Picture};
use crate::spool::clerk::{Intake, Outcome};
use crate::spool::{Input, NewFrame};

/// A source that has not begun for so long is in trouble, µs.
const NOT_YET_TOLD_US: u64 = 60_000_000;
/// The first pause before a failed source is opened again; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Opens the source; gets what a finite one has given already.
pub type Opener = Box<dyn FnMut(Given, &Arc<Leash>) -> Result<Box<dyn Source>, SourceError> + Send>;

/// How the source is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What it is doing.
    pub phase: Phase,
    /// Frames taken into the spool.
    pub frames: u64,
    /// Pictures passed over.
    pub unreadable: u64,
    /// Of those, what was no picture at all in this reading of a finite input: the spool does not remember it.
    pub garbage: u64,
    /// Pictures left out because nothing moved in them.
    pub still: u64,
    /// Frames re-encoded.
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
    /// Not opened yet.
    #[default]
    Starting,
    /// Giving pictures.
    Running,
    /// Failed, to be opened again.
    Trouble(String),
    /// At its end; the end record is written.
    Ended,
    /// It will not work until somebody acts.
    Failed(String),
}

/// The process group of a running command, so that it can be killed while its reader waits for it.
#[derive(Debug, Default)]
pub struct Leash {
    group: Mutex<Option<Pid>>,
}

impl Leash {
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
    /// No frame is longer, bytes.
    pub frame_bytes_max: usize,
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
    leash: Arc<Leash>,
}

impl Pump {
    /// Starts the thread. `intake` says what a finite source has given already, also after later failures.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(opener: Opener, intake: Intake, config: PumpConfig) -> std::io::Result<Self> {
        let (report_out, report) = watch::channel(Report::default());
        let (image_out, image) = watch::channel(None);
        let (stop, stopped) = blocking::channel();
        let (at_end, ended) = oneshot::channel();
        let leash = Arc::new(Leash::default());
        let gate = config.still_interval.filter(|_| !config.finite).map(|interval| {
            log::info!(still_interval_s = interval.as_secs(); "pictures in which nothing moves are left out but for one an interval, and counted");
            Gate::new(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX))
        });
        let mut worker = Worker {
            opener,
            intake,
            config,
            report: report_out,
            image: image_out,
            stopped,
            leash: leash.clone(),
            next_image: Instant::now(),
            warnings: Seldom::default(),
            unsaid: 0,
            fruitless: 0,
            failure: None,
            failures: Seldom::standing(),
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
        Ok(Self { report, image, ended, stop, leash })
    }

    /// Stops the source and kills its command; waits up to `timeout` for the thread to end.
    pub async fn stop(self, timeout: Duration) {
        drop(self.stop);
        self.leash.kill();
        if tokio::time::timeout(timeout, self.ended).await.is_err() {
            log::debug!("the source still waits for its device; it ends with this program");
        }
    }
}

struct Worker {
    opener: Opener,
    intake: Intake,
    config: PumpConfig,
    report: watch::Sender<Report>,
    image: watch::Sender<Option<Vec<u8>>>,
    stopped: blocking::Receiver<()>,
    leash: Arc<Leash>,
    next_image: Instant,
    /// Pictures of a live source that are passed over, as the log tells them.
    warnings: Seldom,
    /// Pictures passed over without a word since the last warning.
    unsaid: u64,
    /// How often in a row the source failed without a new picture.
    fruitless: u32,
    /// Why the source failed last, if it has given nothing since.
    failure: Option<String>,
    /// The same reason again and again, as the log tells it: a camera may be missing for months.
    failures: Seldom,
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
                    if let Some((end, passed_over)) = self.intake.finish() {
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
            self.failures = Seldom::standing();
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
            if self.config.finite { Box::new(self.intake.inputs()) } else { Box::new(std::iter::empty()) };
        let mut source = (self.opener)(already, &self.leash)?;
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
        let prepared = match picture::prepare(picture, self.config.frame_bytes_max) {
            Ok(prepared) => prepared,
            Err(error) => {
                let what = if label.is_empty() { "a picture" } else { label.as_str() };
                return self.pass_over(&format!("{what}: {error}"), input);
            }
        };
        let for_image = self.is_image_due().then(|| prepared.jpeg.clone());
        let moved = self.gate.as_ref().and_then(Gate::moved).filter(|_| !prepared.reshaped);
        let frame = NewFrame { jpeg: prepared.jpeg, captured_at_ms, label, moved, input };
        let outcome = self.intake.append(frame);
        if let Some(gate) = self.gate.as_mut().filter(|_| outcome == Outcome::Kept) {
            gate.kept();
        }
        self.report.send_modify(|report| {
            report.quiet_since_us = monotonic_us();
            report.frames += u64::from(outcome == Outcome::Kept);
            report.reencoded += u64::from(prepared.reencoded && outcome == Outcome::Kept);
            report.phase = Phase::Running;
        });
        if let Some(small) = for_image.and_then(|jpeg| picture::small(&jpeg)) {
            self.image.send_replace(Some(small));
        }
        outcome != Outcome::Closed
    }

    /// Nothing moved in this picture: it gets no number, and dashboards see it all the same.
    fn leave_out(&mut self, picture: Picture) {
        self.report.send_modify(|report| {
            report.quiet_since_us = monotonic_us();
            report.still += 1;
            report.phase = Phase::Running;
        });
        if self.is_image_due() {
            let prepared = picture::prepare(picture, self.config.frame_bytes_max);
            if let Some(small) = prepared.ok().and_then(|prepared| picture::small(&prepared.jpeg)) {
                self.image.send_replace(Some(small));
            }
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
        input.is_none_or(|input| self.intake.pass_over(input))
    }

    fn is_image_due(&mut self) -> bool {
        let Some(interval) = self.config.image_interval else { return false };
        let due = Instant::now() >= self.next_image;
        if due {
            self.next_image = Instant::now() + interval;
        }
        due
    }

    fn is_stopped_within(&self, time: Duration) -> bool {
        match self.stopped.recv_timeout(time) {
            Err(blocking::RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(blocking::RecvTimeoutError::Disconnected) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use microlambda_wire::{ChainClass, Name};

    use super::*;
    use crate::spool::clerk::Clerk;
    use crate::spool::{Identity, Limits, Spool};
    use crate::testing::photo_jpeg;

    /// Starts a pump, waits until its report is as it must be, and gives that report.
    async fn reported(opener: Opener, failures_max: Option<u32>, is_there: impl FnMut(&Report) -> bool) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let camera = Name::new("door").unwrap();
        let identity = Identity { camera, class: ChainClass::Live, source: String::new() };
        let spool = Spool::open(folder.path(), &identity, Limits { bytes_max: 1 << 20, frames_max: 10 }, 0).unwrap();
        let clerk = Clerk::start(spool).unwrap();
        let config = PumpConfig {
            frame_bytes_max: 1 << 16,
            image_interval: None,
            finite: false,
            failures_max,
            still_interval: None,
        };
        let mut pump = Pump::start(opener, clerk.intake(), config).unwrap();
        let report = tokio::time::timeout(Duration::from_secs(30), pump.report.wait_for(is_there)).await;
        report.unwrap().unwrap().clone()
    }

    #[tokio::test]
    async fn a_source_that_panics_has_failed_and_does_not_merely_fall_silent() {
        let opener: Opener = Box::new(|_, _| panic!("a driver's library is wrong"));
        reported(opener, None, |report| matches!(report.phase, Phase::Failed(_))).await;
    }

    /// A source that gives what is left here, and then fails.
    struct Brittle(Vec<Next>);

    impl Source for Brittle {
        fn next(&mut self) -> Result<Next, SourceError> {
            self.0.pop().ok_or_else(|| SourceError::Trouble("no such clip".into()))
        }
    }

    #[tokio::test]
    async fn a_source_that_fails_again_and_again_without_a_picture_is_given_up_if_that_was_asked_for() {
        let opener: Opener = Box::new(|_, _| Ok(Box::new(Brittle(Vec::new()))));
        let report = reported(opener, Some(3), |report| matches!(report.phase, Phase::Failed(_))).await;
        assert_eq!(report.reopened, 2);
        let Phase::Failed(why) = report.phase else { panic!("{report:?}") };
        assert!(why.starts_with("no such clip. ") && why.contains("failed 3 times in a row"), "{why}");
    }

    #[tokio::test]
    async fn a_source_that_gives_a_picture_between_its_failures_is_opened_again() {
        let mut opened = 0;
        let opener: Opener = Box::new(move |_, _| {
            opened += 1;
            let picture = Picture::File(photo_jpeg(64, 48, 1));
            let frame = Next::Frame(Captured { picture, captured_at_ms: 1, label: String::new(), input: None });
            Ok(Box::new(Brittle(if opened == 3 { vec![frame] } else { Vec::new() })))
        });
        let report = reported(opener, Some(3), |report| report.reopened >= 5).await;
        assert_eq!(report.frames, 1);
    }

    #[tokio::test]
    async fn the_silence_of_a_source_counts_from_when_it_was_opened() {
        struct Silent(blocking::Receiver<Next>);
        impl Source for Silent {
            fn next(&mut self) -> Result<Next, SourceError> {
                self.0.recv().map_err(|error| SourceError::Fatal(error.to_string()))
            }
        }
        let (_held, silence) = blocking::channel();
        let mut silence = Some(silence);
        let opener: Opener = Box::new(move |_, _| Ok(Box::new(Silent(silence.take().unwrap()))));
        let began_us = monotonic_us();
        let report = reported(opener, None, |report| report.phase == Phase::Running).await;
        assert!((began_us..=monotonic_us()).contains(&report.quiet_since_us));
    }
}
