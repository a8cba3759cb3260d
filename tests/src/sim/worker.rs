//! A worker process in virtual time: the real budget and step account, pictures from [`super::truth`], and faults.

use std::collections::VecDeque;

use microlambda::{Admission, Budget, CostClass, StepLimit, StepRun, Stop, UnitCost};
use microlambda_faces::plan::NextUnit;
use microlambda_faces::proto::{
    CLASS_DECODE, CLASS_DETECT, CLASS_ENCODE, CLASS_NOTE, ENCODE_WORK, FromWorker, PROTOCOL, StepTimes, ToWorker,
    UnitOutcome,
};
use microlambda_faces::{Analysis, Partial};

use super::random::Random;
use super::truth::{self, Picture};

/// Loading the models, µs.
const LOAD_US: std::ops::Range<u64> = 100_000..500_000;
/// Searching a tile of 320×240 px on a node of speed 1, µs; other tiles by their pixels.
const TILE_US: u64 = 30_000;
/// Encoding a face, µs.
const ENCODE_US: u64 = 25_000;
/// Decoding a picture, µs.
const DECODE_US: u64 = 4_000;
/// A unit that hangs ends after this, µs: long after every limit.
const HANG_US: u64 = 3_600_000_000;

/// What befalls the unit that runs, or the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It takes many times as long as usual.
    Slow,
    /// It never ends.
    Hang,
    /// The process dies in it.
    Die,
    /// The process answers with nonsense.
    Garbage,
}

/// What the worker does next, as far as the simulation must act.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing until it hears something.
    Nothing,
    /// Call [`SimWorker::unit_ended`] at this time, µs.
    UnitEndsAt(u64),
    /// It says this and goes on.
    Says(Box<FromWorker>),
    /// It is dead.
    Dies,
}

/// One worker process.
#[derive(Debug)]
pub struct SimWorker {
    /// The incarnation it was spawned as.
    pub incarnation: u64,
    /// The kernel that decides its last bits.
    kernel: u32,
    /// Its node's slowness, 1000 for an ordinary one.
    pub slowness_permille: u64,
    seed: u64,
    poison: bool,
    mishap: Option<Mishap>,
    step: Option<SimStep>,
    /// A picture that a former step decoded.
    warm: Option<(u64, Picture)>,
}

#[derive(Debug)]
struct SimStep {
    id: u64,
    run: StepRun,
    budget: Budget,
    frames: VecDeque<(u64, Vec<u8>)>,
    no_more: bool,
    stop_asked: bool,
    partial: Option<Partial>,
    current: Option<Current>,
    unit: Option<RunningUnit>,
    /// A unit that began and was not told yet.
    begun: Vec<(CostClass, u64)>,
    /// Whether it has told of a unit that does not fit.
    refused: bool,
}

#[derive(Debug)]
struct Current {
    sequence: u64,
    picture: Picture,
    decoded: bool,
}

#[derive(Debug)]
struct RunningUnit {
    start_us: u64,
    prepare: Option<(CostClass, u64, u64)>,
    run: (CostClass, u64, u64),
    mishap: Option<Mishap>,
}

impl SimWorker {
    /// A process just started, and what it will say and when.
    pub fn spawn(
        incarnation: u64,
        kernel: u32,
        slowness_permille: u64,
        seed: u64,
        poison: bool,
        random: &mut Random,
    ) -> (Self, u64, FromWorker) {
        let load_us = random.between(LOAD_US.start, LOAD_US.end);
        let ready = FromWorker::Ready { protocol: PROTOCOL, engine: format!("simulated kernel {kernel}"), load_us };
        let worker =
            Self { incarnation, kernel, slowness_permille, seed, poison, mishap: None, step: None, warm: None };
        (worker, load_us, ready)
    }

    /// Sets what befalls the running unit, or the next one.
    pub fn befall(&mut self, mishap: Mishap) {
        self.mishap = Some(mishap);
    }

    /// Whether a unit runs at this moment.
    pub fn is_in_unit(&self) -> bool {
        self.step.as_ref().is_some_and(|step| step.unit.is_some())
    }

    /// Takes a message of the agent.
    pub fn hears(&mut self, message: &ToWorker, now_us: u64) {
        match message {
            ToWorker::Start { step, r_limit_us, units_max, costs, resume, .. } => {
                let limit = StepLimit { r_limit_us: *r_limit_us, units_max: *units_max };
                self.step = Some(SimStep {
                    id: *step,
                    run: StepRun::begin(limit, now_us),
                    budget: Budget::from_table(costs),
                    frames: VecDeque::new(),
                    no_more: false,
                    stop_asked: false,
                    partial: resume.clone(),
                    current: None,
                    unit: None,
                    begun: Vec::new(),
                    refused: false,
                });
            }
            ToWorker::Frame { sequence, jpeg, moved: _, more } => {
                if let Some(step) = &mut self.step {
                    step.frames.push_back((*sequence, jpeg.clone()));
                    step.no_more |= !more;
                }
            }
            ToWorker::NoMoreFrames => {
                if let Some(step) = &mut self.step {
                    step.no_more = true;
                }
            }
            ToWorker::Stop => {
                if let Some(step) = &mut self.step {
                    step.stop_asked = true;
                }
            }
        }
    }

    /// Goes on as far as it can; to be called after everything it heard and said, until it does nothing.
    pub fn goes_on(&mut self, now_us: u64, random: &mut Random) -> Next {
        let (seed, poison) = (self.seed, self.poison);
        let Some(step) = &mut self.step else { return Next::Nothing };
        if let Some(part) = step.begun.pop() {
            return Next::Says(Box::new(FromWorker::Begin { step: step.id, part }));
        }
        if step.unit.is_some() {
            return Next::Nothing;
        }
        let stop = loop {
            if step.run.is_full() {
                break Stop::UnitsMax;
            }
            if step.stop_asked {
                break Stop::Starved;
            }
            let Some(current) = &mut step.current else {
                match step.frames.pop_front() {
                    Some((sequence, jpeg)) => {
                        let (camera, number) = truth::which(&jpeg).unwrap_or_default();
                        let picture = truth::picture(seed, camera, number, poison);
                        let decoded = self.warm.take().is_some_and(|warm| warm == (sequence, picture.clone()));
                        step.current = Some(Current { sequence, picture, decoded });
                        continue;
                    }
                    None if step.no_more => break Stop::Starved,
                    None => return Next::Nothing,
                }
            };
            let cost = cost_of(current, step.partial.as_ref());
            let admission = match step.run.admit(&step.budget, &cost, now_us) {
                Ok(admission) => admission,
                Err(Stop::TooLarge) if !step.refused => {
                    step.refused = true;
                    return Next::Says(Box::new(FromWorker::Refused { step: step.id, unit: cost }));
                }
                Err(stop) => break stop,
            };
            let slowness = self.slowness_permille;
            let mut takes_us = |us: u64| us * slowness / 1_000 * random.between(900, 1_150) / 1_000;
            let prepare = cost.prepare.map(|(class, work)| (class, work, takes_us(DECODE_US)));
            if admission == Admission::Preparation {
                current.decoded = true;
                self.warm = Some((current.sequence, current.picture.clone()));
                break Stop::Prepared;
            }
            let mut run_us = takes_us(usual_us(&cost));
            let mishap = self.mishap.take();
            match mishap {
                Some(Mishap::Slow) => run_us *= 12,
                Some(Mishap::Hang) => run_us = HANG_US,
                Some(Mishap::Die | Mishap::Garbage) | None => {}
            }
            step.begun = [Some(cost.run), cost.prepare].into_iter().flatten().collect();
            let end_us = now_us + prepare.map_or(0, |(.., us)| us) + run_us;
            step.unit = Some(RunningUnit { start_us: now_us, prepare, run: (cost.run.0, cost.run.1, run_us), mishap });
            return Next::UnitEndsAt(end_us);
        };
        let Some(step) = self.step.take() else { return Next::Nothing };
        let report = step.run.end(stop);
        let report = StepTimes::new(&report, report.busy_us);
        Next::Says(Box::new(FromWorker::Stopped { step: step.id, stop, report }))
    }

    /// The running unit ends.
    pub fn unit_ended(&mut self, now_us: u64) -> Next {
        let kernel = self.kernel;
        let Some(step) = &mut self.step else { return Next::Nothing };
        let Some(unit) = step.unit.take() else { return Next::Nothing };
        let Some(current) = &mut step.current else { return Next::Nothing };
        let mut partial = step.partial.clone().filter(|partial| current.picture.plan().accepts(partial));
        let partial = partial.get_or_insert_with(|| current.picture.plan().begin());
        if unit.mishap == Some(Mishap::Die) || current.picture.poison_unit == Some(partial.units()) {
            return Next::Dies;
        }
        current.decoded = true;
        let sequence = current.sequence;
        let outcome = match unit.mishap {
            Some(Mishap::Garbage) => garbage(),
            _ => current.picture.advance(partial, kernel),
        };
        match &outcome {
            UnitOutcome::Partial(partial) => step.partial = Some(partial.clone()),
            UnitOutcome::Done(_) => {
                step.partial = None;
                step.current = None;
            }
        }
        if let Some((class, work, us)) = unit.prepare {
            step.budget.observe(class, work, us);
        }
        step.budget.observe(unit.run.0, unit.run.1, unit.run.2);
        step.run.unit_ended(unit.start_us, now_us);
        let encoded = unit.run.0 == CLASS_ENCODE && !matches!(outcome, UnitOutcome::Done(Analysis::Unreadable { .. }));
        Next::Says(Box::new(FromWorker::Unit {
            step: step.id,
            sequence,
            prepare: unit.prepare,
            run: unit.run,
            outcome,
            thumbnail: encoded.then(|| vec![0xff, 0xd8, 0xff, 0xd9]),
        }))
    }
}

fn garbage() -> UnitOutcome {
    UnitOutcome::Partial(Partial { tiles_done: 77, ..Partial::default() })
}

/// Whether a worker in its right mind cannot have said this.
pub fn is_garbage(message: &FromWorker) -> bool {
    matches!(message, FromWorker::Unit { outcome, .. } if *outcome == garbage())
}

fn cost_of(current: &Current, partial: Option<&Partial>) -> UnitCost {
    let plan = current.picture.plan();
    let prepare = (!current.decoded).then_some((CLASS_DECODE, 1));
    let begin = plan.begin();
    let partial = partial.filter(|partial| plan.accepts(partial)).unwrap_or(&begin);
    match plan.next_unit(partial) {
        NextUnit::Tile(index) => UnitCost { run: (CLASS_DETECT, plan.tiles()[index as usize].pixels()), prepare },
        NextUnit::Face(_) => UnitCost { run: (CLASS_ENCODE, ENCODE_WORK), prepare },
        NextUnit::Finished => UnitCost::run(CLASS_NOTE, 1),
    }
}

fn usual_us(cost: &UnitCost) -> u64 {
    match cost.run {
        (CLASS_DETECT, pixels) => TILE_US * pixels / (320 * 240),
        (CLASS_ENCODE, _) => ENCODE_US,
        _ => 100,
    }
}
