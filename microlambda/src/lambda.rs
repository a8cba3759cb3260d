//! What a user of the library writes, and the loop that runs it for at most one `r_limit`.

use serde::{Deserialize, Serialize};

use crate::Budget;

/// Units of one class cost about the same for each piece of work; the budget learns a rate per class.
///
/// Do not mix units of very different cost in one class: its slow ones make the prediction for all. With units of 1 ms
/// and of 40 ms by turns in one class a step uses 0.21 of its limit instead of 0.82.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CostClass(pub u16);

/// What a unit will cost, in amounts of work that the budget turns into time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitCost {
    /// Class and amount (pixels, numbers, faces …) of the unit itself. Rates are whole µs per 2^20 pieces, rounded up:
    /// with more than some 2^31 pieces (2 ms too many), count in larger ones.
    pub run: (CostClass, u64),
    /// Class and amount of rebuilding volatile things first (a decoded picture, say), if they are not at hand.
    pub prepare: Option<(CostClass, u64)>,
}

impl UnitCost {
    /// A unit that needs no preparation.
    pub fn run(class: CostClass, work: u64) -> Self {
        Self { run: (class, work), prepare: None }
    }
}

/// What a lambda would do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// One more unit, of this cost.
    Unit(UnitCost),
    /// Nothing until more input arrives.
    Starved,
    /// Nothing ever: the computation is finished.
    Done,
}

/// A computation that can be cut between any two units.
///
/// The state after `n` units must be a function of the input and `n` alone: not of time, of how the units were cut
/// into steps, or of anything the implementation keeps outside the state.
pub trait Lambda {
    /// The state `s_k`: what a checkpoint saves.
    type State;
    /// Why a unit failed.
    type Error;

    /// Says what the next unit is, without advancing the state. May be called more than once per unit.
    fn next(&mut self, state: &Self::State) -> Next;

    /// Rebuilds what the next unit needs and a checkpoint does not hold. Called when [`UnitCost::prepare`] is set.
    ///
    /// # Errors
    /// Ends the step; the state is unchanged.
    fn prepare(&mut self, _state: &Self::State) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Advances the state by one unit.
    ///
    /// # Errors
    /// Ends the step; the state must be as before the unit.
    fn advance(&mut self, state: &mut Self::State) -> Result<(), Self::Error>;

    /// False if what ran last, a unit or its preparation, ended early, so that its cost says nothing about its class (a picture
    /// that turned out to be damaged, say): the budget then learns nothing from it.
    fn ran_in_full(&self) -> bool {
        true
    }
}

/// How long one step may take. A unit that is slower than predicted ends late; killing it is the driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimit {
    /// Wall time from the start of the step to the end of its last unit, µs.
    pub r_limit_us: u64,
    /// At most this many units, whatever the time: 1 when a step that vanished is retried.
    pub units_max: u32,
}

impl StepLimit {
    /// A limit on time alone.
    pub fn new(r_limit_us: u64) -> Self {
        Self { r_limit_us, units_max: u32::MAX }
    }
}

/// Why a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// The next unit was predicted to end after `r_limit`.
    Limit,
    /// No unit ran, because a single one is expected to take longer than a step has: `r_limit` less what it takes to begin.
    /// The budget stays as it is: call [`Budget::relax`], after a pause, or no step will ever run here.
    TooLarge,
    /// No unit ran, because preparation and unit do not fit one step together; but the preparation is done, and the next step
    /// here has its whole time for the unit.
    Prepared,
    /// All the units that were asked for are done.
    UnitsMax,
    /// No input is left.
    Starved,
    /// The computation is finished.
    Done,
}

/// What a step did, all times in µs of its driver's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Why it ended.
    pub stop: Stop,
    /// Units done.
    pub units: u32,
    /// From the start of the step to the end of its last unit, or of the preparation that is all it did.
    pub used_us: u64,
    /// Spent in units and their preparation; the rest of `used_us` is waiting for input and bookkeeping.
    pub busy_us: u64,
    /// When the first unit, or its preparation, began; equals `last_unit_end_us` if nothing ran.
    pub first_unit_start_us: u64,
    /// When the last unit ended, or the preparation that is all the step did.
    pub last_unit_end_us: u64,
}

/// What a step may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The unit, with its preparation.
    Unit,
    /// Its preparation alone; the step ends with [`Stop::Prepared`] then.
    Preparation,
}

/// One step under way: admits units while the budget says that they fit, and keeps the account.
///
/// For drivers whose units do not run in the calling thread: ask [`StepRun::admit`] before each unit, report it with
/// [`StepRun::unit_ended`], or with [`StepRun::preparation_ended`] what ran alone. [`run_step`] does just that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRun {
    limit: StepLimit,
    start_us: u64,
    report: StepReport,
}

impl StepRun {
    /// A step that received its state at `start_us`.
    pub fn begin(limit: StepLimit, start_us: u64) -> Self {
        let report = StepReport {
            stop: Stop::Done,
            units: 0,
            used_us: 0,
            busy_us: 0,
            first_unit_start_us: start_us,
            last_unit_end_us: start_us,
        };
        Self { limit, start_us, report }
    }

    /// Whether all the units that were asked for are done.
    pub fn is_full(&self) -> bool {
        self.report.units >= self.limit.units_max
    }

    /// What of a unit of this cost may begin at `now_us`; else why the step ends here.
    ///
    /// # Errors
    /// The reason for which the step ends.
    pub fn admit(&self, budget: &Budget, cost: &UnitCost, now_us: u64) -> Result<Admission, Stop> {
        if self.is_full() {
            return Err(Stop::UnitsMax);
        }
        let (elapsed_us, r_limit_us) = (now_us.saturating_sub(self.start_us), self.limit.r_limit_us);
        if self.report.units > 0 {
            return if budget.fits(cost, elapsed_us, r_limit_us) { Ok(Admission::Unit) } else { Err(Stop::Limit) };
        }
        if budget.fits_first(cost, elapsed_us, r_limit_us) {
            return Ok(Admission::Unit);
        }
        // A large picture takes long to decode: then the units that follow find it decoded, a step later.
        let alone = |(class, work), elapsed_us| budget.fits_first(&UnitCost::run(class, work), elapsed_us, r_limit_us);
        match cost.prepare {
            Some(prepare) if alone(prepare, elapsed_us) && alone(cost.run, elapsed_us) => Ok(Admission::Preparation),
            Some(_) | None => Err(Stop::TooLarge),
        }
    }

    /// A unit ran from `start_us` to `end_us`.
    pub fn unit_ended(&mut self, start_us: u64, end_us: u64) {
        self.took(start_us, end_us);
        self.report.units = self.report.units.saturating_add(1);
    }

    /// A preparation ran from `start_us` to `end_us` without its unit: it has taken the step's time, and is no unit.
    pub fn preparation_ended(&mut self, start_us: u64, end_us: u64) {
        self.took(start_us, end_us);
    }

    fn took(&mut self, start_us: u64, end_us: u64) {
        let report = &mut self.report;
        if report.units == 0 {
            report.first_unit_start_us = start_us;
        }
        report.busy_us = report.busy_us.saturating_add(end_us.saturating_sub(start_us));
        report.last_unit_end_us = end_us;
    }

    /// The account of the step that ends because of `stop`.
    pub fn end(self, stop: Stop) -> StepReport {
        StepReport { stop, used_us: self.report.last_unit_end_us.saturating_sub(self.start_us), ..self.report }
    }
}

/// Runs units until the budget says that the next one would end after the limit, and teaches the budget what they cost.
///
/// `clock` reads a monotonic clock in µs; the step starts at its first reading.
///
/// # Errors
/// The lambda's own error, from the unit that failed; what was done before it is in `state`.
pub fn run_step<L: Lambda>(
    lambda: &mut L,
    state: &mut L::State,
    budget: &mut Budget,
    limit: StepLimit,
    clock: &mut dyn FnMut() -> u64,
) -> Result<StepReport, L::Error> {
    let mut run = StepRun::begin(limit, clock());
    let stop = loop {
        if run.is_full() {
            break Stop::UnitsMax;
        }
        let cost = match lambda.next(state) {
            Next::Unit(cost) => cost,
            Next::Starved => break Stop::Starved,
            Next::Done => break Stop::Done,
        };
        let unit_start_us = clock();
        let admission = match run.admit(budget, &cost, unit_start_us) {
            Ok(admission) => admission,
            Err(stop) => break stop,
        };
        let mut run_start_us = unit_start_us;
        if let Some((class, work)) = cost.prepare {
            lambda.prepare(state)?;
            run_start_us = clock();
            if lambda.ran_in_full() {
                budget.observe(class, work, run_start_us.saturating_sub(unit_start_us));
            }
        }
        if admission == Admission::Preparation {
            run.preparation_ended(unit_start_us, run_start_us);
            break Stop::Prepared;
        }
        lambda.advance(state)?;
        let end_us = clock();
        if lambda.ran_in_full() {
            budget.observe(cost.run.0, cost.run.1, end_us.saturating_sub(run_start_us));
        }
        run.unit_ended(unit_start_us, end_us);
    };
    Ok(run.end(stop))
}
