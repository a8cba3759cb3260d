//! Real invocations of the real worker: is `r_limit` kept, and how much of it is used?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use edge_agent::config::Engine;
use edge_agent::node::KILL_SLACK_US;
use microlambda::Budget;
use microlambda_benches::chart::{Chart, Curve};
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::worker::{Driven, PATIENCE};
use microlambda_benches::{Common, Error, Machine, check_programs, exit, ms, schedstat_us};
use microlambda_demo::Process;
use microlambda_faces::proto::{FromWorker, StepTimes, ToWorker, UnitOutcome};
use microlambda_faces::{FaceParams, Partial};
use serde::Serialize;

/// Side of a picture, px: a search takes a few ms, so that thousands of invocations take minutes.
const SIDE_PX: u32 = 128;
/// Pictures that are played in turn.
const PICTURES: usize = 60;
/// Frames handed to the worker and not finished at most, as the agent does it.
const FEED_AHEAD: u64 = 4;
/// Units whose median is called the unit, and units before them that only warm up.
const CALIBRATION: (usize, usize) = (150, 30);
/// `r_limit` in units, and the part of all invocations that run with it, in percent: long ones take the time.
const LIMITS: [(u64, u32); 4] = [(2, 35), (5, 35), (10, 22), (50, 8)];
/// From this many units on the use of `r_limit` has an aim.
const AIM_FROM_UNITS: u64 = 10;
/// That use.
const AIM_USE: f64 = 0.85;

/// Runs real invocations of the real worker with limits of 2, 5, 10 and 50 units, on an idle and on a loaded machine.
#[derive(Debug, Parser)]
#[command(name = "budget")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Invocations in each of the two main series
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    invocations: u32,
    /// Burn one core until the parent is gone: the load
    #[arg(long, hide = true)]
    burn: bool,
}

/// What a row of the table is made from.
#[derive(Debug, Clone, Serialize)]
struct Row {
    series: &'static str,
    unit_ms: f64,
    units_per_limit: u64,
    r_limit_ms: f64,
    invocations: usize,
    units: u64,
    overruns: usize,
    overrun_max_ms: f64,
    /// Overruns no longer than the worker waited for a core in that invocation: other processes had it.
    overruns_waiting: usize,
    /// Part of the invocations' time that the worker waited for a core.
    waiting: f64,
    /// Overruns so long that an agent would have killed the worker.
    kills: usize,
    /// Invocations that ran no unit, because none was expected to fit.
    empty: usize,
    use_mean: f64,
    use_p10: f64,
    /// Of each invocation its time, and its time in units, by the limit.
    #[serde(skip)]
    by_limit: Vec<(f64, f64)>,
}

impl Row {
    fn overruns_percent(&self) -> f64 {
        self.overruns as f64 / self.invocations.max(1) as f64 * 100.0
    }
}

/// One invocation.
#[derive(Debug, Clone, Copy)]
struct Step {
    times: StepTimes,
    /// Time that the worker was ready to run and had no core, µs.
    waited_us: u64,
}

/// One series of invocations.
#[derive(Debug, Clone, Copy)]
struct Series {
    name: &'static str,
    motif: Motif,
    invocations: u32,
    loaded: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.burn {
        burn();
        return ExitCode::SUCCESS;
    }
    exit(run(&args))
}

/// Keeps a core busy as long as the process that started it lives.
fn burn() {
    let parent = std::os::unix::process::parent_id();
    let mut value = 1_u64;
    while std::os::unix::process::parent_id() == parent {
        for _ in 0..1_000_000 {
            value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let all = args.invocations;
    let series = [
        Series { name: "searches", motif: Motif::Faceless, invocations: all, loaded: false },
        Series { name: "searches, loaded machine", motif: Motif::Faceless, invocations: all, loaded: true },
        Series { name: "searches and encodings", motif: Motif::Portraits, invocations: all / 10, loaded: false },
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = Vec::new();
    // What was learnt is carried from one series to the next, as an agent carries it: the load comes as a surprise.
    let mut budget = Budget::default();
    for series in series {
        let _load = if series.loaded { burners(machine.cpus)? } else { Vec::new() };
        rows.extend(runtime.block_on(run_series(series, &mut budget))?);
    }
    let aims = aims(&rows);
    let figures = serde_json::json!({ "rows": rows, "aims": aims });
    let text = text(&rows, &aims, machine.cpus);
    publish(
        &args.common,
        &Finding { name: "budget", text, figures: &figures, charts: charts(&rows), raw: Vec::new(), machine: &machine },
    )
}

fn charts(rows: &[Row]) -> Vec<Chart> {
    let curves = |figure: fn(&Row) -> f64| {
        let mut curves: Vec<Curve> = Vec::new();
        for row in rows {
            if curves.last().is_none_or(|(series, _)| series != row.series) {
                curves.push((row.series.to_owned(), Vec::new()));
            }
            if let Some((_, points)) = curves.last_mut() {
                points.push((row.units_per_limit as f64, figure(row)));
            }
        }
        curves
    };
    let all = rows.iter().map(|row| (format!("{}, {} units", row.series, row.units_per_limit), row.by_limit.clone()));
    let limit = "r_limit, units";
    vec![
        Chart::sizes(
            "budget",
            "Use of r_limit",
            [limit, "time in units, % of r_limit, mean"],
            curves(|row| row.use_mean * 100.0),
        ),
        Chart::sizes(
            "budget-overruns",
            "Invocations longer than r_limit",
            [limit, "% of all"],
            curves(Row::overruns_percent),
        ),
        Chart::data("budget-invocations", ["time by r_limit", "time in units by r_limit"], all.collect()),
    ]
}

/// One process for each core that does nothing but compute; ended when dropped.
fn burners(cpus: usize) -> Result<Vec<Process>, Error> {
    let program = std::env::current_exe()?;
    let log = PathBuf::from("/dev/null");
    let start = |_| Process::start("load", vec![program.clone().into(), "--burn".into()], &log);
    Ok((0..cpus).map(start).collect::<Result<_, _>>()?)
}

async fn run_series(series: Series, budget: &mut Budget) -> Result<Vec<Row>, Error> {
    let pictures = pictures::make(series.motif, PICTURES, SIDE_PX, SIDE_PX)?;
    let mut session = Session::open(pictures).await?;
    let unit_us = session.unit_us().await?;
    session.budget = std::mem::take(budget);
    let mut rows = Vec::new();
    for (units, percent) in LIMITS {
        eprintln!("{}: r_limit of {units} units of {:.1} ms", series.name, ms(unit_us));
        let r_limit_us = units * unit_us;
        let mut steps = Vec::new();
        for _ in 0..(series.invocations * percent).div_ceil(100) {
            steps.push(session.step(r_limit_us, u32::MAX).await?);
        }
        rows.push(row(series.name, unit_us, units, &steps));
    }
    *budget = session.budget;
    Ok(rows)
}

fn row(series: &'static str, unit_us: u64, units_per_limit: u64, steps: &[Step]) -> Row {
    let r_limit_us = unit_us * units_per_limit;
    let over_us = |step: &Step| step.times.used_us.saturating_sub(r_limit_us);
    let overruns: Vec<&Step> = steps.iter().filter(|step| over_us(step) > 0).collect();
    let by_limit = |us: u64| us as f64 / r_limit_us as f64;
    let used = Stats::of(steps.iter().map(|step| by_limit(step.times.busy_us)));
    let (waited_us, wall_us) =
        steps.iter().fold((0, 0), |sum, step| (sum.0 + step.waited_us, sum.1 + step.times.used_us));
    Row {
        series,
        unit_ms: ms(unit_us),
        units_per_limit,
        r_limit_ms: ms(r_limit_us),
        invocations: steps.len(),
        units: steps.iter().map(|step| u64::from(step.times.units)).sum(),
        overruns: overruns.len(),
        overrun_max_ms: ms(overruns.iter().map(|step| over_us(step)).max().unwrap_or(0)),
        overruns_waiting: overruns.iter().filter(|step| step.waited_us >= over_us(step)).count(),
        waiting: waited_us as f64 / wall_us.max(1) as f64,
        kills: overruns.iter().filter(|step| over_us(step) > KILL_SLACK_US).count(),
        empty: steps.iter().filter(|step| step.times.units == 0).count(),
        use_mean: used.map_or(0.0, |used| used.mean),
        use_p10: used.map_or(0.0, |used| used.p10),
        by_limit: steps.iter().map(|step| (by_limit(step.times.used_us), by_limit(step.times.busy_us))).collect(),
    }
}

fn aims(rows: &[Row]) -> Vec<Aim> {
    let unloaded: Vec<&Row> = rows.iter().filter(|row| row.series == "searches").collect();
    let overruns: usize = unloaded.iter().map(|row| row.overruns).sum();
    let invocations: usize = unloaded.iter().map(|row| row.invocations).sum();
    let largest_ms = unloaded.iter().map(|row| row.overrun_max_ms).fold(0.0, f64::max);
    let long = unloaded.iter().filter(|row| row.units_per_limit >= AIM_FROM_UNITS);
    let worst = long.map(|row| row.use_mean).fold(f64::INFINITY, f64::min);
    let waiting: usize = unloaded.iter().map(|row| row.overruns_waiting).sum();
    let measured = match overruns {
        0 => format!("none in {invocations} invocations"),
        _ => format!(
            "{overruns} in {invocations} invocations, the largest {largest_ms:.2} ms; in {waiting} of them the worker had to wait for \
             a core for at least as long: the machine was not idle"
        ),
    };
    vec![
        Aim { aim: "no overruns on the unloaded machine".into(), measured, met: overruns == 0 },
        Aim {
            aim: format!("use of at least {:.0} % from {AIM_FROM_UNITS} units on, unloaded", AIM_USE * 100.0),
            measured: format!("at least {:.1} % on average", worst * 100.0),
            met: worst >= AIM_USE,
        },
    ]
}

fn text(rows: &[Row], aims: &[Aim], cpus: usize) -> String {
    let header = [
        "series",
        "unit, ms",
        "`r_limit`",
        "ms",
        "invocations",
        "units",
        "overruns",
        "of them for want of a core",
        "largest, ms",
        "killed",
        "no unit fits",
        "use, mean",
        "use, p10",
        "waiting for a core",
    ];
    let cells = |row: &Row| {
        vec![
            row.series.to_owned(),
            format!("{:.2}", row.unit_ms),
            format!("{} units", row.units_per_limit),
            format!("{:.1}", row.r_limit_ms),
            row.invocations.to_string(),
            row.units.to_string(),
            format!("{} ({:.2} %)", row.overruns, row.overruns_percent()),
            row.overruns_waiting.to_string(),
            format!("{:.2}", row.overrun_max_ms),
            row.kills.to_string(),
            row.empty.to_string(),
            format!("{:.1} %", row.use_mean * 100.0),
            format!("{:.1} %", row.use_p10 * 100.0),
            format!("{:.1} %", row.waiting * 100.0),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    format!(
        "Each invocation is a step of the real worker process on pictures of {SIDE_PX}×{SIDE_PX} px, stopped by its budget. Costs are carried over\n\
         from one to the next, as in an edge agent. *Searches*: a unit decodes a picture and searches it. *Searches and encodings*:\n\
         each picture has one face, and the unit that counts is the encoding, the larger one. A unit is the median of {} units measured\n\
         just before, under the load of its series; the limit is a multiple of it. *Loaded*: {cpus} compute-only processes run\n\
         at the same time, one per core; the budget comes from the unloaded series. *Use* is time in units divided by `r_limit`;\n\
         *waiting for a core* is the share of time in which other processes had the worker's core (the kernel's `schedstat`);\n\
         *killed* are overruns after which an agent would have killed the worker ({} ms beyond the limit).\n\n{}\n{}",
        CALIBRATION.0,
        KILL_SLACK_US / 1_000,
        table(&header, &rows),
        Aim::list(aims),
    )
}

/// A worker and what an agent would know about it.
struct Session {
    worker: Driven,
    pictures: Vec<Vec<u8>>,
    budget: Budget,
    next_step: u64,
    /// The frame that comes next.
    sequence: u64,
    /// State inside that frame.
    resume: Option<Partial>,
    /// Cost of each unit with its preparation, µs, by class.
    costs_us: Vec<(u16, u64)>,
}

impl Session {
    async fn open(pictures: Vec<Vec<u8>>) -> Result<Self, Error> {
        let worker = Driven::spawn(Engine::default())?;
        let (budget, next_step, sequence, resume, costs_us) = (Budget::default(), 1, 0, None, Vec::new());
        let mut session = Self { worker, pictures, budget, next_step, sequence, resume, costs_us };
        match session.worker.next().await? {
            FromWorker::Ready { .. } => Ok(session),
            other => Err(format!("the worker began with {other:?}").into()),
        }
    }

    fn frame(&self, sequence: u64) -> ToWorker {
        let index = usize::try_from(sequence).unwrap_or(0) % self.pictures.len();
        ToWorker::Frame { sequence, jpeg: self.pictures[index].clone(), moved: None, more: true }
    }

    /// How long the worker's main thread has waited for a core so far, µs.
    fn waited_us(&self) -> u64 {
        let pid = self.worker.pid();
        let [_, waited_us] = schedstat_us(pid, pid);
        waited_us
    }

    /// The median cost of the units of the largest class, after a warm-up, µs.
    async fn unit_us(&mut self) -> Result<u64, Error> {
        let (count, warm_up) = CALIBRATION;
        let units = u32::try_from(count + warm_up)?;
        self.step(PATIENCE.as_micros().try_into()?, units).await?;
        let costs = self.costs_us.split_off(warm_up.min(self.costs_us.len()));
        let class = costs.iter().map(|(class, _)| *class).max().ok_or("the worker ran no unit")?;
        let of_class = costs.iter().filter(|(known, _)| *known == class).map(|(_, us)| *us as f64);
        Ok(Stats::of(of_class).map_or(0, |stats| stats.p50 as u64))
    }

    /// One invocation, driven as the agent drives it.
    async fn step(&mut self, r_limit_us: u64, units_max: u32) -> Result<Step, Error> {
        let waited_before_us = self.waited_us();
        let id = self.next_step;
        self.next_step += 1;
        let (costs, params) = (self.budget.table(), FaceParams::default());
        self.worker.send(&ToWorker::Start {
            step: id,
            r_limit_us,
            units_max,
            costs,
            params,
            resume: self.resume.clone(),
        })?;
        let mut fed = self.sequence;
        while fed < self.sequence + FEED_AHEAD {
            self.worker.send(&self.frame(fed))?;
            fed += 1;
        }
        loop {
            match self.worker.next().await? {
                FromWorker::Unit { step, sequence, prepare, run, outcome, .. } if step == id => {
                    for (class, work, cost_us) in prepare.into_iter().chain([run]) {
                        self.budget.observe(class, work, cost_us);
                    }
                    self.costs_us.push((run.0.0, run.2 + prepare.map_or(0, |(_, _, us)| us)));
                    self.resume = match outcome {
                        UnitOutcome::Partial(partial) => Some(partial),
                        UnitOutcome::Done(_) => {
                            self.sequence = sequence + 1;
                            self.worker.send(&self.frame(fed))?;
                            fed += 1;
                            None
                        }
                    };
                }
                FromWorker::Refused { unit, .. } => self.budget.relax(&unit),
                FromWorker::Prepared { prepare: (class, work, cost_us), .. } => {
                    self.budget.observe(class, work, cost_us);
                }
                FromWorker::Stopped { step, report, .. } if step == id => {
                    let waited_us = self.waited_us().saturating_sub(waited_before_us);
                    return Ok(Step { times: report, waited_us });
                }
                FromWorker::Begin { .. }
                | FromWorker::Unit { .. }
                | FromWorker::Stopped { .. }
                | FromWorker::Ready { .. }
                | FromWorker::Tried { .. } => {}
                FromWorker::Fatal { message } => return Err(message.into()),
            }
        }
    }
}
