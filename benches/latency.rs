//! What splitting buys: how long a live picture waits beside a batch, what a crash loses, how soon a node is free.

use std::process::ExitCode;

use clap::Parser;
use microlambda_benches::chart::Chart;
use microlambda_benches::figure::line::UNLIMITED_MS;
use microlambda_benches::latency::drain::{Drain, drain};
use microlambda_benches::latency::live::{Beside, PAUSE_MS, Run, run as live_run};
use microlambda_benches::latency::lost::{Crash, Victim, crash};
use microlambda_benches::latency::{SIZE_PX, STRUCK_MS, Work, title};
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::random::Random;
use microlambda_benches::raw_table::{RawTable, value, value_if};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, GRACE_MS, Machine, check_programs, exit};
use serde::Serialize;

/// Different pictures of the live camera; they come again and again.
const FACES: usize = 16;
/// A node that stops is free after its unit and this, ms: a peer waits so long at the most, 100 ms after a node is reported gone, and a place
/// in the queue of bidders.
const HAND_ON_MS: f64 = 140.0;

/// Measures live events beside a batch, time lost to crashes, and time to stop a node, under limits and in one long invocation.
///
/// With --quick less of everything: about two minutes.
#[derive(Debug, Parser)]
#[command(name = "latency")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Limits of an invocation, ms [default: 100,300,1000; with --quick 300]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    r_limit_ms: Vec<u64>,
    /// Pictures of the batch beside the live camera [default: 500; with --quick 200]
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    /// Batches of each limit beside the live camera [default: 2; with --quick 1]
    #[arg(long, value_name = "N")]
    batches: Option<usize>,
    /// Crashes and stops of each series [default: 12; with --quick 3]
    #[arg(long, value_name = "N")]
    strikes: Option<usize>,
    /// Pictures of the jobs that are struck
    #[arg(long, value_name = "N", default_value_t = 200)]
    struck_images: usize,
    /// Seed of the random instants
    #[arg(long, value_name = "N", default_value_t = 20_260_101)]
    seed: u64,
}

/// What is measured, after `--quick`.
struct Plan {
    /// The last is [`UNLIMITED_MS`].
    r_limit_ms: Vec<u64>,
    images: usize,
    batches: usize,
    strikes: usize,
}

impl Plan {
    fn of(args: &Args) -> Self {
        let or = |given: Option<usize>, full: usize, quick: usize| {
            given.unwrap_or(if args.common.quick { quick } else { full })
        };
        let usual: &[u64] = if args.common.quick { &[300] } else { &[100, 300, 1_000] };
        let mut r_limit_ms = if args.r_limit_ms.is_empty() { usual.to_vec() } else { args.r_limit_ms.clone() };
        r_limit_ms.push(UNLIMITED_MS);
        let (images, batches) = (or(args.images, 500, 200), or(args.batches, 2, 1));
        Self { r_limit_ms, images, batches, strikes: or(args.strikes, 12, 3) }
    }
}

/// Live events beside a batch under one limit, or beside nothing.
#[derive(Debug, Serialize)]
struct Live {
    /// `None` beside nothing.
    r_limit_ms: Option<u64>,
    latency_ms: Stats,
    batch_ms: Option<Stats>,
    runs: Vec<Run>,
}

/// Crashes under one limit.
#[derive(Debug, Serialize)]
struct Lost {
    r_limit_ms: u64,
    victim: Victim,
    lost_ms: Stats,
    crashes: Vec<Crash>,
}

/// Stops under one limit.
#[derive(Debug, Serialize)]
struct Drained {
    r_limit_ms: u64,
    gone_ms: Stats,
    peer_ms: Stats,
    drains: Vec<Drain>,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let plan = Plan::of(args);
    println!("seed {}", args.seed);
    let mut random = Random::new(args.seed);
    let live = live(&plan, &mut random)?;
    let work = Work::of(args.struck_images)?;
    eprintln!("a unit takes {:.1} ms, {:.1} ms of it on a core", work.unit_ms, work.unit_cpu_ms);
    let mut lost = Vec::new();
    for victim in Victim::ALL {
        for &r_limit_ms in &plan.r_limit_ms {
            let one = |_| crash(&work, r_limit_ms, victim, &mut random);
            let crashes = (0..plan.strikes).map(one).collect::<Result<Vec<Crash>, Error>>()?;
            let lost_ms = Stats::of(crashes.iter().map(|crash| crash.lost_ms)).ok_or("no crash: give --strikes")?;
            lost.push(Lost { r_limit_ms, victim, lost_ms, crashes });
        }
    }
    let mut drained = Vec::new();
    for &r_limit_ms in &plan.r_limit_ms {
        let one = |_| drain(&work, r_limit_ms, &mut random);
        let drains = (0..plan.strikes).map(one).collect::<Result<Vec<Drain>, Error>>()?;
        let stats = |part: fn(&Drain) -> f64| Stats::of(drains.iter().map(part)).ok_or("no stop: give --strikes");
        let (gone_ms, peer_ms) = (stats(|drain| drain.gone_ms)?, stats(|drain| drain.peer_ms)?);
        drained.push(Drained { r_limit_ms, gone_ms, peer_ms, drains });
    }
    let aims = [live_aims(&live), lost_aims(&lost, &work), drain_aims(&drained, &work)].concat();
    let figures = serde_json::json!({
        "seed": args.seed, "images": plan.images, "struck_images": args.struck_images, "grace_ms": GRACE_MS, "unit_ms": work.unit_ms,
        "unit_cpu_ms": work.unit_cpu_ms, "live": live, "lost": lost, "drained": drained, "aims": aims,
    });
    let note = if args.common.quick { "**A quick run, with few trials: no more than a look.**\n\n" } else { "" };
    let texts = [live_text(args, &plan, &live), lost_text(args, &lost, &work), drain_text(&drained)];
    let text = format!("{note}{}\n{}", texts.join("\n"), Aim::list(&aims));
    let (charts, raw) = (charts(&live, &lost), vec![raw_live(&live), raw_lost(&lost), raw_drained(&drained)]);
    publish(&args.common, &Finding { name: "latency", text, figures: &figures, charts, raw, machine: &machine })
}

/// A limit as a cell; none is that of one long invocation.
fn limit_cell(r_limit_ms: u64) -> String {
    if r_limit_ms == UNLIMITED_MS { "none".into() } else { r_limit_ms.to_string() }
}

/// Every live event in the order shown.
fn raw_live(live: &[Live]) -> RawTable {
    let runs = live.iter().flat_map(|live| {
        let beside = live.r_limit_ms.map_or_else(|| "nothing".to_owned(), limit_cell);
        live.runs.iter().enumerate().map(move |(number, run)| (beside.clone(), number, run))
    });
    let rows = runs.flat_map(|(beside, number, run)| {
        run.latency_ms.iter().enumerate().map(move |(event, latency_ms)| {
            let first = [beside.clone(), number.to_string(), event.to_string()];
            first.into_iter().chain([value(*latency_ms), value_if(run.batch_ms)]).collect::<Vec<String>>()
        })
    });
    let columns = ["beside_r_limit_ms", "run", "event", "latency_ms", "batch_ms"];
    RawTable::new("latency", &columns, rows.collect())
}

/// Every crash.
fn raw_lost(lost: &[Lost]) -> RawTable {
    let rows = lost.iter().flat_map(|lost| {
        lost.crashes.iter().map(move |crash| {
            let first = [lost.victim.title().to_owned(), limit_cell(lost.r_limit_ms)];
            let times = [crash.into_ms, crash.lost_ms].map(value);
            first.into_iter().chain(times).chain([crash.kept.to_string()]).collect::<Vec<String>>()
        })
    });
    let columns = ["struck", "r_limit_ms", "into_ms", "lost_ms", "pictures_kept"];
    RawTable::new("lost", &columns, rows.collect())
}

/// Every stop.
fn raw_drained(drained: &[Drained]) -> RawTable {
    let rows = drained.iter().flat_map(|drained| {
        let row = move |drain: &Drain| vec![limit_cell(drained.r_limit_ms), value(drain.gone_ms), value(drain.peer_ms)];
        drained.drains.iter().map(row)
    });
    RawTable::new("drain", &["r_limit_ms", "gone_ms", "peer_ms"], rows.collect())
}

fn charts(live: &[Live], lost: &[Lost]) -> Vec<Chart> {
    let plain = |r_limit_ms: u64| title(r_limit_ms).replace('`', "");
    let events = live.iter().map(|live| {
        let beside = live.r_limit_ms.map_or_else(|| "nothing".to_owned(), plain);
        (format!("beside {beside}"), live.runs.iter().flat_map(|run| run.latency_ms.iter().copied()).collect())
    });
    let crashes = lost.iter().map(|lost| {
        let title = format!("{} of {}", lost.victim.title(), plain(lost.r_limit_ms));
        (title, lost.crashes.iter().map(|crash| crash.lost_ms).collect())
    });
    vec![
        Chart::distribution("latency", "Capture to event of live faces, beside a batch", "ms", events.collect()),
        Chart::distribution("lost", "Work lost to a crash", "ms", crashes.collect()),
    ]
}

/// Live events beside nothing, then beside batches under each limit.
fn live(plan: &Plan, random: &mut Random) -> Result<Vec<Live>, Error> {
    let batch = pictures::make(Motif::Scenes, plan.images, SIZE_PX.0, SIZE_PX.1)?;
    let faces = pictures::make(Motif::Portraits, FACES, SIZE_PX.0, SIZE_PX.1)?;
    let series = |r_limit_ms: Option<u64>, runs: Vec<Run>| {
        let latencies = runs.iter().flat_map(|run| run.latency_ms.iter().copied());
        let latency_ms = Stats::of(latencies).ok_or("no live event: give more --images")?;
        let batch_ms = Stats::of(runs.iter().filter_map(|run| run.batch_ms));
        eprintln!("{r_limit_ms:?}: {latency_ms:?}, batch {batch_ms:?}");
        Ok::<Live, Error>(Live { r_limit_ms, latency_ms, batch_ms, runs })
    };
    let mut beside_batch = Vec::new();
    for &r_limit_ms in &plan.r_limit_ms {
        let one = |_| live_run(Beside::Batch(&batch), r_limit_ms, &faces, random);
        let runs = (0..plan.batches).map(one).collect::<Result<Vec<Run>, Error>>()?;
        beside_batch.push(series(Some(r_limit_ms), runs)?);
    }
    // As many as beside the batches, so that the percentiles compare.
    let counts = beside_batch.iter().map(|live| live.latency_ms.count);
    let count = counts.max().unwrap_or(0);
    // Without a limit: under one that hardly holds a unit, a busy machine's node pauses before it tries such a unit again.
    let alone = series(None, vec![live_run(Beside::Nothing(count), UNLIMITED_MS, &faces, random)?])?;
    Ok([alone].into_iter().chain(beside_batch).collect())
}

fn live_aims(live: &[Live]) -> Vec<Aim> {
    let alone_ms = live.iter().find(|live| live.r_limit_ms.is_none()).map_or(0.0, |live| live.latency_ms.p99);
    let aim = |live: &Live| {
        let r_limit_ms = live.r_limit_ms.filter(|r_limit_ms| *r_limit_ms != UNLIMITED_MS)?;
        let bound_ms = alone_ms + (r_limit_ms + GRACE_MS) as f64;
        Some(Aim {
            aim: format!(
                "live events during a batch with `r_limit` {r_limit_ms} ms within p99 without a batch + `r_limit` + grace, {bound_ms:.0} ms, at p99"
            ),
            measured: format!(
                "{:.0} ms of {} events; p90 {:.0} ms",
                live.latency_ms.p99, live.latency_ms.count, live.latency_ms.p90
            ),
            met: live.latency_ms.p99 <= bound_ms,
        })
    };
    live.iter().filter_map(aim).collect()
}

fn lost_aims(lost: &[Lost], work: &Work) -> Vec<Aim> {
    let aim = |lost: &Lost| {
        let limited = lost.r_limit_ms != UNLIMITED_MS;
        let (most, bound_ms, lost_ms) = match lost.victim {
            Victim::Node if limited => ("one invocation", lost.r_limit_ms as f64, lost.lost_ms.max),
            Victim::Node => return None,
            Victim::Worker => ("one unit on average", work.unit_cpu_ms, lost.lost_ms.mean),
        };
        let (title, victim) = (title(lost.r_limit_ms), lost.victim.title());
        Some(Aim {
            aim: format!("{title}: a crash of {victim} loses at most {most}, {bound_ms:.0} ms"),
            measured: format!("{lost_ms:.0} ms"),
            met: lost_ms <= bound_ms,
        })
    };
    lost.iter().filter_map(aim).collect()
}

fn drain_aims(drained: &[Drained], work: &Work) -> Vec<Aim> {
    let bound_ms = work.unit_ms + HAND_ON_MS;
    let aim = |drained: &Drained| {
        let worst_ms = drained.gone_ms.max.max(drained.peer_ms.max);
        Aim {
            aim: format!(
                "{}: the agent exits and the peer continues within a unit and {HAND_ON_MS:.0} ms, {bound_ms:.0} ms",
                title(drained.r_limit_ms)
            ),
            measured: format!("{worst_ms:.0} ms at most"),
            met: worst_ms <= bound_ms,
        }
    };
    drained.iter().map(aim).collect()
}

fn live_text(args: &Args, plan: &Plan, live: &[Live]) -> String {
    let row = |live: &Live| {
        let beside = live.r_limit_ms.map_or_else(|| "nothing".to_owned(), title);
        let stats = &live.latency_ms;
        let [p50, p90, max] = [stats.p50, stats.p90, stats.max].map(|ms| format!("{ms:.0}"));
        let figures = [p50, p90, stats.p99_text(0), max];
        let batch = live.batch_ms.map_or_else(|| "–".to_owned(), |stats| format!("{:.1}", stats.mean / 1_000.0));
        [beside, stats.count.to_string()].into_iter().chain(figures).chain([batch]).collect()
    };
    let header = ["beside", "events", "p50, ms", "p90, ms", "p99, ms", "largest, ms", "batch, mean, s"];
    let counts = || live.iter().map(|live| live.latency_ms.count);
    format!(
        "**Live events.** One edge agent works through a folder of {} pictures of {}×{} px with and without people, and at the same time through a live\n\
         camera, which shows a face at random intervals of {} to {} ms (seed {}), whether or not the last one was processed; each is reported\n\
         (`absence-ms` 1). Measured from the moment a picture is given to the live camera's agent to its event on the bus. {} batches with each limit,\n\
         each on a fresh site. *One long invocation* is the same agent with an `r_limit` of an hour: a live picture waits for the rest of the\n\
         batch, and then for the live pictures that came before it. A row has {} to {} events: of fewer than 100 the p99, which\n\
         is judged, is the largest (\"–\" in the table).\n\n{}",
        plan.images,
        SIZE_PX.0,
        SIZE_PX.1,
        PAUSE_MS.0,
        PAUSE_MS.1,
        args.seed,
        plan.batches,
        counts().min().unwrap_or(0),
        counts().max().unwrap_or(0),
        table(&header, &live.iter().map(row).collect::<Vec<_>>()),
    )
}

fn lost_text(args: &Args, lost: &[Lost], work: &Work) -> String {
    let row = |lost: &Lost| {
        let stats = &lost.lost_ms;
        let figures = [stats.mean, stats.p50, stats.max].map(|ms| format!("{ms:.0}"));
        let first = [lost.victim.title().to_owned(), title(lost.r_limit_ms), stats.count.to_string()];
        first.into_iter().chain(figures).collect()
    };
    let header = ["killed", "batch", "crashes", "mean, ms", "p50, ms", "largest, ms"];
    format!(
        "**Lost in a crash.** One node works through {} pictures without faces, each of which is one unit of {:.1} ms on average ({:.1} ms of it on\n\
         a core). SIGKILL at a random moment up to {} s after the job's first claim, each on a fresh site. The loss is the worker's time on a\n\
         core (`schedstat`) from the last unit that was kept to the kill. If only the worker died, what was kept of its step counts as these pictures cost\n\
         in an undisturbed run, so single figures are less exact there. Not included: the time to restart, and that a chain runs its next units one by one. A long\n\
         invocation loses everything it has done, so longer jobs lose more.\n\n{}",
        args.struck_images,
        work.unit_ms,
        work.unit_cpu_ms,
        STRUCK_MS / 1_000,
        table(&header, &lost.iter().map(row).collect::<Vec<_>>()),
    )
}

fn drain_text(drained: &[Drained]) -> String {
    let row = |drained: &Drained| {
        let (gone, peer) = (&drained.gone_ms, &drained.peer_ms);
        let figures = [gone.p50, gone.max, peer.p50, peer.max].map(|ms| format!("{ms:.0}"));
        [title(drained.r_limit_ms), gone.count.to_string()].into_iter().chain(figures).collect()
    };
    let header = ["batch", "stops", "agent gone p50, ms", "largest, ms", "peer's claim p50, ms", "largest, ms"];
    format!(
        "**Time to drain a node.** Two nodes with placement *stay* share the same job; the agent that runs its steps gets SIGTERM at such a random\n\
         moment. Measured to the end of the agent's process (polled every 5 ms), and to the claim of the peer that continues. A stopping agent asks its\n\
         worker to stop after the current unit, whatever the limit: a long invocation ends just as soon, because it consists of units too.\n\n{}",
        table(&header, &drained.iter().map(row).collect::<Vec<_>>()),
    )
}
