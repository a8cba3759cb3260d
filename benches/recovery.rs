//! Agents, workers and the broker are struck at random instants inside steps: when does the chain go on, and is the result
//! the same?

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use microlambda_benches::chart::Chart;
use microlambda_benches::faults::{Fault, Trial, away_us_max, strike_once};
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::random::Random;
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, GRACE_MS, Machine, Outcome, Site, check_programs, exit};
use microlambda_wire::Name;
use serde::Serialize;

/// Size of the pictures, px: a search takes a tenth of a second, so that a step is two or three units.
const SIZE_PX: (u32, u32) = (480, 360);
/// The nodes; one of them is always there.
const NODES: [&str; 2] = ["a", "b"];
/// The limit of the run that nothing interrupts, ms.
const LONG_MS: u64 = 3_600_000;
/// Nothing is struck when so few frames are left: the job could end without another step.
const FRAMES_LEFT_MIN: u64 = 16;
/// Longest wait for a step of each node.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for the end of a job.
const JOB_PATIENCE: Duration = Duration::from_secs(1_200);

/// Strikes inside steps, again and again, and measures until the next unit begins.
#[derive(Debug, Parser)]
#[command(name = "recovery")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Faults of each series that count: those inside a step
    #[arg(long, value_name = "N", default_value_t = 100)]
    faults: usize,
    /// Only these series; without `--dry` the report has no others
    #[arg(long, value_enum, value_name = "SERIES", value_delimiter = ',', default_values_t = Fault::ALL)]
    series: Vec<Fault>,
    /// Frames of the folder; it is played again until there were enough faults
    #[arg(long, value_name = "N", default_value_t = 400)]
    frames: usize,
    /// Limit of a step, ms
    #[arg(long, value_name = "N", default_value_t = 300)]
    r_limit_ms: u64,
    /// Seed of the random instants
    #[arg(long, value_name = "N", default_value_t = 20_260_101)]
    seed: u64,
}

/// All trials of one fault.
#[derive(Debug, Serialize)]
struct Series {
    fault: Fault,
    /// Of the trials inside a step.
    recovery_ms: Stats,
    /// Trials inside a step that took longer than the bound.
    late: usize,
    jobs: usize,
    jobs_like_the_long_run: usize,
    trials: Vec<Trial>,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    println!("seed {}", args.seed);
    let pictures = pictures::make(Motif::Scenes, args.frames, SIZE_PX.0, SIZE_PX.1)?;
    let long = long_run(&pictures)?;
    let mut random = Random::new(args.seed);
    let mut all = Vec::new();
    for &fault in &args.series {
        all.push(series(args, fault, &pictures, &long, &mut random)?);
    }
    let aims: Vec<Aim> = all.iter().map(|series| in_time(args, series)).chain([same_result(&all, &long)]).collect();
    let figures = serde_json::json!({
        "seed": args.seed, "r_limit_ms": args.r_limit_ms, "grace_ms": GRACE_MS, "digest": long.digest.to_string(), "events": long.events.len(),
        "series": all, "aims": aims,
    });
    let text = text(args, &all, &aims);
    let (charts, raw) = (vec![chart(&all)], vec![raw(&all)]);
    publish(&args.common, &Finding { name: "recovery", text, figures: &figures, charts, raw, machine: &machine })
}

/// Every fault, also those that hit no step.
fn raw(all: &[Series]) -> RawTable {
    let rows = all.iter().flat_map(|series| &series.trials).map(|trial| {
        let first = [trial.fault.title().to_owned(), trial.job.to_string(), trial.node.clone()];
        let times = [trial.into_step_ms, trial.away_ms, trial.recovery_ms].map(value);
        first.into_iter().chain(times).chain([trial.inside.to_string()]).collect::<Vec<String>>()
    });
    let columns = ["struck", "job", "node", "into_step_ms", "away_ms", "recovery_ms", "inside_a_step"];
    RawTable::new("recovery", &columns, rows.collect())
}

fn chart(all: &[Series]) -> Chart {
    let samples = all.iter().map(|series| {
        let inside = series.trials.iter().filter(|trial| trial.inside).map(|trial| trial.recovery_ms);
        (series.fault.title().to_owned(), inside.collect())
    });
    Chart::distribution("recovery", "From a fault to the next unit", "ms", samples.collect())
}

fn in_time(args: &Args, series: &Series) -> Aim {
    let Series { fault, recovery_ms, late, .. } = series;
    Aim {
        aim: format!("{}: the next unit within {:.0} ms", fault.title(), fault.bound_ms(args.r_limit_ms)),
        measured: format!("{late} of {} later, the latest after {:.0} ms", recovery_ms.count, recovery_ms.max),
        met: *late == 0,
    }
}

fn same_result(all: &[Series], long: &Outcome) -> Aim {
    let jobs: usize = all.iter().map(|series| series.jobs).sum();
    let same: usize = all.iter().map(|series| series.jobs_like_the_long_run).sum();
    Aim {
        aim: "digest and events equal those of one long run".into(),
        measured: format!("{same} of {jobs} jobs, {} events each", long.events.len()),
        met: same == jobs,
    }
}

fn text(args: &Args, all: &[Series], aims: &[Aim]) -> String {
    let header = ["struck", "measured from … to", "faults", "p50, ms", "p99, ms", "largest, ms", "bound, ms", "jobs"];
    let row = |series: &Series| {
        let stats = &series.recovery_ms;
        let bound_ms = series.fault.bound_ms(args.r_limit_ms);
        let [p50, max, bound] = [stats.p50, stats.max, bound_ms].map(|ms| format!("{ms:.0}"));
        let figures = [p50, stats.p99_text(0), max, bound];
        let first = [series.fault.title().to_owned(), series.fault.measured().to_owned(), stats.count.to_string()];
        first.into_iter().chain(figures).chain([series.jobs.to_string()]).collect()
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let outside: usize = all.iter().map(|series| series.trials.len() - series.recovery_ms.count).sum();
    let away_s = away_us_max(args.r_limit_ms) as f64 / 1e6;
    format!(
        "Two nodes with placement *spread* and `r_limit` {} ms work on {} pictures of {}×{} px over mosquitto. At a random moment after a\n\
         claim (seed {}) a fault is injected; the next one follows once the chain has continued and both nodes have finished a step. Each series\n\
         plays the folder as often as needed. Camera and mosquitto stay away for a random time of up to {away_s:.1} s, and their time counts\n\
         from their return; a stopped node is resumed after its peer has taken over. The time ends with the first unit of the\n\
         first step that begins after the fault. Faults that fell between two steps ({outside}) are not counted. The bound is\n\
         `r_limit` + grace; a frozen node keeps its claim for that long, so its peer gets one more slot.\n\n{}\n{}",
        args.r_limit_ms,
        args.frames,
        SIZE_PX.0,
        SIZE_PX.1,
        args.seed,
        table(&header, &rows),
        Aim::list(aims),
    )
}

/// Jobs over the folder until there were enough faults of one kind.
fn series(
    args: &Args,
    fault: Fault,
    pictures: &[Vec<u8>],
    long: &Outcome,
    random: &mut Random,
) -> Result<Series, Error> {
    let (mut trials, mut outcomes) = (Vec::new(), Vec::new());
    while counted(&trials) < args.faults {
        let before = trials.len();
        outcomes.push(job(args, fault, pictures, outcomes.len() + 1, random, &mut trials)?);
        if trials.len() == before {
            return Err("a whole job passed without a fault: give more --frames".into());
        }
    }
    let inside = || trials.iter().filter(|trial| trial.inside).map(|trial| trial.recovery_ms);
    Ok(Series {
        fault,
        recovery_ms: Stats::of(inside()).ok_or("no fault was inside a step")?,
        late: inside().filter(|&ms| ms > fault.bound_ms(args.r_limit_ms)).count(),
        jobs: outcomes.len(),
        jobs_like_the_long_run: outcomes.iter().filter(|outcome| *outcome == long).count(),
        trials,
    })
}

fn counted(trials: &[Trial]) -> usize {
    trials.iter().filter(|trial| trial.inside).count()
}

/// One job over the folder, with faults until there were enough or too few frames are left.
fn job(
    args: &Args,
    fault: Fault,
    pictures: &[Vec<u8>],
    number: usize,
    random: &mut Random,
    trials: &mut Vec<Trial>,
) -> Result<Outcome, Error> {
    let mut site = site_with(pictures)?;
    for node in NODES {
        site.start_node(node, args.r_limit_ms, "spread")?;
    }
    let frames = pictures.len() as u64;
    let mut since_us = 0;
    while counted(trials) < args.faults && all_work(&mut site, since_us, frames)? {
        let Some(trial) = strike_once(&mut site, fault, args.r_limit_ms, random)? else { continue };
        since_us = microlambda_demo::monotonic_us();
        let trial = Trial { job: number, ..trial };
        let verdict = if trial.inside { "" } else { " (between two steps: not counted)" };
        eprintln!(
            "{fault:?} {} of job {number}: {} {:.0} ms into its step, on after {:.0} ms{verdict}",
            trials.len() + 1,
            trial.node,
            trial.into_step_ms,
            trial.recovery_ms
        );
        if trial.recovery_ms > fault.bound_ms(args.r_limit_ms) {
            eprintln!("late; the ends of the logs:\n{}", site.logs());
        }
        trials.push(trial);
    }
    site.outcome(JOB_PATIENCE)
}

/// Waits until each node has finished a step that began after `since_us`; false if too few frames are left.
fn all_work(site: &mut Site, since_us: u64, frames: u64) -> Result<bool, Error> {
    let names = NODES.iter().map(|node| Name::new(*node)).collect::<Result<Vec<_>, _>>()?;
    let over = |site: &Site| site.tally.front().sequence + FRAMES_LEFT_MIN >= frames;
    site.wait_for("step of each node", PATIENCE, |site, _| {
        let worked = |name: &Name| {
            let own = site.steps.iter().rev().filter(|step| step.node == *name);
            own.map(|step| step.timing.first_unit_at_us).next().is_some_and(|at_us| at_us > since_us)
        };
        over(site) || names.iter().all(worked)
    })?;
    Ok(!over(site))
}

/// A site whose camera plays these pictures, without nodes.
fn site_with(pictures: &[Vec<u8>]) -> Result<Site, Error> {
    let mut site = Site::new()?;
    // Every claim is to be for a step that the worker runs.
    site.fan_out = false;
    let folder = site.folder("pictures");
    pictures::write(&folder, pictures)?;
    site.play(&folder)?;
    Ok(site)
}

/// The same folder on one node that is never interrupted.
fn long_run(pictures: &[Vec<u8>]) -> Result<Outcome, Error> {
    eprintln!("one long run over the same pictures");
    let mut site = site_with(pictures)?;
    site.start_node("long", LONG_MS, "stay")?;
    site.outcome(JOB_PATIENCE)
}
