//! The conversation with the agent: steps in, units out.

use std::io::Write;

use microlambda::{Budget, CostClass, Lambda, Next, StepLimit, Stop, UnitCost, run_step};
use microlambda_faces::proto::{self, CLASS_NOTE, FromWorker, ProtoError, StepTimes, UnitOutcome};

use crate::engine::Engine;
use crate::inbox::{Inbox, InboxError, Start};
use crate::lambda::{Cache, FaceLambda, Progress, UnitError};

/// Why a session ended other than by the agent's wish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// From the agent.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// To the agent.
    #[error("writing to the agent failed: {0}")]
    Write(#[from] std::io::Error),
    /// A message that is too long.
    #[error(transparent)]
    Proto(#[from] ProtoError),
    /// A unit failed inside the engine: the process may be in any state now.
    #[error("frame {sequence}: {source}")]
    Unit {
        /// Which frame.
        sequence: u64,
        /// Why.
        source: UnitError,
    },
}

/// Clocks in µs.
#[derive(Clone, Copy)]
pub struct Clocks {
    /// Monotonic time of the machine.
    pub monotonic_us: fn() -> u64,
    /// CPU time of this process.
    pub cpu_us: fn() -> u64,
}

/// Says `hello`, that the worker is ready, and runs steps until the agent closes the stream.
///
/// # Errors
/// If the agent is out of step or gone in the middle of a message, or a unit failed; the agent was told if it can be.
pub fn serve<E: Engine>(
    engine: &mut E,
    hello: &[FromWorker],
    inbox: &mut Inbox,
    out: &mut impl Write,
    clocks: Clocks,
) -> Result<(), SessionError> {
    hello.iter().try_for_each(|message| send(out, message))?;
    let mut cache = Cache::default();
    while let Some(start) = inbox.next_start()? {
        match step(engine, start, inbox, out, clocks, cache) {
            Ok(kept) => cache = kept,
            Err(error) => {
                // The agent may be what failed.
                let _ = send(out, &FromWorker::Fatal { message: error.to_string() });
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Sends one message.
///
/// # Errors
/// If it is too long, or the stream is broken.
pub fn send(out: &mut impl Write, message: &FromWorker) -> Result<(), SessionError> {
    out.write_all(&proto::encode(message)?)?;
    Ok(out.flush()?)
}

fn step<E: Engine>(
    engine: &mut E,
    start: Start,
    inbox: &mut Inbox,
    out: &mut impl Write,
    clocks: Clocks,
    cache: Cache<E::Picture>,
) -> Result<Cache<E::Picture>, SessionError> {
    let mut state = Progress { partial: start.resume, finished: Vec::new() };
    let mut budget = Budget::from_table(&start.costs);
    let limit = StepLimit { r_limit_us: start.r_limit_us, units_max: start.units_max };
    // The step begins with the receipt of its `Start`, which the first reading of the clock stands for.
    let mut received_us = Some(start.received_us);
    let mut clock = || received_us.take().unwrap_or_else(clocks.monotonic_us);
    let lambda = FaceLambda::new(engine, start.params, inbox, cache);
    let mut reporting = Reporting { lambda, out, step: start.step, clocks, cost: None, prepare_us: None };
    let report = run_step(&mut reporting, &mut state, &mut budget, limit, &mut clock)?;
    reporting.tell_left(report.stop)?;
    let cache = reporting.lambda.into_cache();
    let report_times = StepTimes::new(&report, (clocks.cpu_us)());
    send(out, &FromWorker::Stopped { step: start.step, stop: report.stop, report: report_times })?;
    Ok(cache)
}

/// The face lambda, which tells the agent of each unit as it ends.
struct Reporting<'a, 'i, E: Engine, W> {
    lambda: FaceLambda<'a, E, &'i mut Inbox>,
    out: &'a mut W,
    step: u64,
    clocks: Clocks,
    /// The unit that comes next, until it has ended.
    cost: Option<UnitCost>,
    /// What its preparation took, if it ran and did not end early.
    prepare_us: Option<u64>,
}

impl<E: Engine, W: Write> Lambda for Reporting<'_, '_, E, W> {
    type State = Progress;
    type Error = SessionError;

    fn next(&mut self, state: &Progress) -> Next {
        if self.lambda.frames().stop_asked() {
            return Next::Starved;
        }
        let next = self.lambda.next(state);
        self.prepare_us = None;
        self.cost = match next {
            Next::Unit(cost) => Some(cost),
            Next::Starved | Next::Done => None,
        };
        next
    }

    fn prepare(&mut self, state: &Progress) -> Result<(), SessionError> {
        self.tell_begin(self.cost.and_then(|cost| cost.prepare))?;
        let start_us = (self.clocks.monotonic_us)();
        let prepared = self.lambda.prepare(state);
        let prepare_us = (self.clocks.monotonic_us)().saturating_sub(start_us);
        self.prepare_us = self.lambda.ran_in_full().then_some(prepare_us);
        prepared.map_err(|source| self.failed(source))
    }

    fn advance(&mut self, state: &mut Progress) -> Result<(), SessionError> {
        let sequence = self.lambda.sequence().unwrap_or_default();
        self.tell_begin(self.cost.map(|cost| cost.run))?;
        #[cfg(feature = "fault-injection")]
        crate::fault::inject(self.lambda.frame_bytes());
        let start_us = (self.clocks.monotonic_us)();
        self.lambda.advance(state).map_err(|source| SessionError::Unit { sequence, source })?;
        let run_us = (self.clocks.monotonic_us)().saturating_sub(start_us);
        let cost = self.cost.take();
        let (class, work) = match cost {
            Some(cost) if self.lambda.ran_in_full() => cost.run,
            Some(_) | None => (CLASS_NOTE, 1),
        };
        let prepare = cost.and_then(|cost| cost.prepare).zip(self.prepare_us.take());
        let unit = FromWorker::Unit {
            step: self.step,
            sequence,
            prepare: prepare.map(|((class, work), us)| (class, work, us)),
            run: (class, work, run_us),
            outcome: match state.finished.pop() {
                Some((_, analysis)) => UnitOutcome::Done(analysis),
                None => UnitOutcome::Partial(state.partial.clone().unwrap_or_default()),
            },
            thumbnail: self.lambda.take_thumbnail(),
        };
        send(self.out, &unit)
    }

    fn ran_in_full(&self) -> bool {
        self.lambda.ran_in_full()
    }
}

impl<E: Engine, W: Write> Reporting<'_, '_, E, W> {
    fn tell_begin(&mut self, part: Option<(CostClass, u64)>) -> Result<(), SessionError> {
        match part {
            Some(part) => send(self.out, &FromWorker::Begin { step: self.step, part }),
            None => Ok(()),
        }
    }

    /// Tells of the unit that the step ends before.
    fn tell_left(&mut self, stop: Stop) -> Result<(), SessionError> {
        let Some(unit) = self.cost else { return Ok(()) };
        let step = self.step;
        match (stop, unit.prepare.zip(self.prepare_us)) {
            (Stop::TooLarge, _) => send(self.out, &FromWorker::Refused { step, unit }),
            (Stop::Prepared, Some(((class, work), us))) => {
                send(self.out, &FromWorker::Prepared { step, prepare: (class, work, us) })
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, source: UnitError) -> SessionError {
        SessionError::Unit { sequence: self.lambda.sequence().unwrap_or_default(), source }
    }
}
