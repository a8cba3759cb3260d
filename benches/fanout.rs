//! The same finite job on one node and on two: how much sooner it is done, and whether it comes to the same.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use microlambda_benches::chart::{Chart, Curve};
use microlambda_benches::inference::Interval;
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, Outcome, Site, check_programs, exit, ms};
use microlambda_demo::Note;
use microlambda_wire::NodeStatus;
use serde::Serialize;

/// The nodes of the larger site; the smaller one has the first of them.
const NODES: [&str; 2] = ["a", "b"];
/// A job may take so long.
const PATIENCE: Duration = Duration::from_secs(900);
/// Two nodes are to be so many times as fast as one.
const SPEED_UP_MIN: f64 = 1.8;
/// Of the interval of the mean speed-up.
const CONFIDENCE: f64 = 0.97;

/// Times a folder's job on one edge agent and on two, by turns.
#[derive(Debug, Parser)]
#[command(name = "fanout")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Pictures of the folder
    #[arg(long, value_name = "N", default_value_t = 120)]
    frames: usize,
    /// Longer and shorter side of a picture, px
    #[arg(long, value_names = ["W", "H"], num_args = 2, default_values_t = [1_280, 720])]
    size_px: Vec<u32>,
    /// Limit of an invocation, ms
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    r_limit_ms: u64,
    /// Pairs of jobs
    #[arg(long, value_name = "N", default_value_t = 7)]
    repetitions: usize,
}

/// One job.
#[derive(Debug, Clone, Serialize)]
struct Job {
    /// From the first sight of the whole input to the output's publication, ms.
    took: f64,
    /// Announced steps, and how many of them only folded what was there.
    steps: usize,
    steps_without_worker: usize,
    /// Frames analysed ahead, of each node.
    ahead: Vec<u64>,
    /// Frames folded whose analyses had been made ahead, on all nodes.
    used: u64,
    #[serde(skip)]
    outcome: Option<Outcome>,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let &[width_px, height_px] = args.size_px.as_slice() else { return Err("a picture has two sides".into()) };
    let pictures = pictures::make(Motif::Scenes, args.frames, width_px, height_px)?;
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for repetition in 0..args.repetitions {
        // The order changes, so that a machine that becomes slower or faster favours neither.
        let order = if repetition % 2 == 0 { [1, 2] } else { [2, 1] };
        for nodes in order {
            let job = job(args, &pictures, &NODES[..nodes])?;
            eprintln!("{nodes} node(s): {:.0} ms, {job:?}", job.took);
            if nodes == 1 { &mut alone } else { &mut together }.push(job);
        }
    }
    let pairs: Vec<(f64, f64)> = alone.iter().zip(&together).map(|(one, two)| (one.took, two.took)).collect();
    let ratios: Vec<f64> = pairs.iter().map(|(one, two)| one / two).collect();
    let none = || "no pair of jobs: give --repetitions";
    let speed_up = Stats::of(ratios.iter().copied()).ok_or_else(none)?;
    let mean = Interval::of_ratio(&pairs, CONFIDENCE).ok_or_else(none)?;
    let first = alone.first().and_then(|job| job.outcome.as_ref()).ok_or_else(none)?;
    let equal = alone.iter().chain(&together).filter(|job| job.outcome.as_ref() == Some(first)).count();
    let aims = [
        Aim {
            aim: format!("two nodes at least {SPEED_UP_MIN} times as fast as one, at the median of the pairs"),
            measured: format!("{:.2}; the mean {}", speed_up.p50, interval(&mean)),
            met: speed_up.p50 >= SPEED_UP_MIN,
        },
        Aim {
            aim: "digest and events of all jobs the same".into(),
            measured: format!("{equal} of {} jobs, {} events each", alone.len() + together.len(), first.events.len()),
            met: equal == alone.len() + together.len(),
        },
    ];
    let text = text(args, [(1, &alone), (2, &together)], (&speed_up, &mean), &aims);
    let figures = serde_json::json!({
        "frames": args.frames, "size_px": args.size_px, "r_limit_ms": args.r_limit_ms, "one_node": alone, "two_nodes": together,
        "ratios": ratios, "speed_up": speed_up, "mean_speed_up": mean, "aims": aims,
    });
    publish(
        &args.common,
        &Finding {
            name: "fanout",
            text,
            figures: &figures,
            charts: vec![chart(&pairs)],
            raw: Vec::new(),
            machine: &machine,
        },
    )
}

fn chart(pairs: &[(f64, f64)]) -> Chart {
    let curve = |name: &str, of: fn(&(f64, f64)) -> f64| -> Curve {
        (name.to_owned(), pairs.iter().zip(1..).map(|(pair, number)| (f64::from(number), of(pair))).collect())
    };
    let curves = vec![
        curve("one node, s", |(one, _)| one / 1_000.0),
        curve("two nodes, s", |(_, two)| two / 1_000.0),
        curve("one by two", |(one, two)| one / two),
    ];
    Chart::course("fanout", "A finite job on one node and on two", ["pair", "s, or ratio"], curves)
}

fn interval(mean: &Interval) -> String {
    format!("{:.2} ± {:.2} at {:.0} %", mean.mean, mean.half, CONFIDENCE * 100.0)
}

fn text(args: &Args, series: [(usize, &Vec<Job>); 2], (speed_up, mean): (&Stats, &Interval), aims: &[Aim]) -> String {
    let row = |(nodes, jobs): (usize, &Vec<Job>)| {
        let took = Stats::of(jobs.iter().map(|job| job.took))?;
        let mean = |count: fn(&Job) -> f64| jobs.iter().map(count).sum::<f64>() / jobs.len().max(1) as f64;
        let means = [
            mean(|job| job.steps as f64),
            mean(|job| job.steps_without_worker as f64),
            mean(|job| job.ahead.iter().sum::<u64>() as f64),
            mean(|job| job.used as f64),
        ];
        let times = [took.p50, took.p10, took.max].map(|ms| format!("{:.2}", ms / 1_000.0));
        let cells = [nodes.to_string(), took.count.to_string()].into_iter().chain(times);
        Some(cells.chain(means.map(|mean| format!("{mean:.1}"))).collect::<Vec<String>>())
    };
    let rows: Vec<Vec<String>> = series.into_iter().filter_map(row).collect();
    let header = [
        "nodes",
        "jobs",
        "job p50, s",
        "p10, s",
        "largest, s",
        "steps",
        "of them without the worker",
        "frames analysed ahead",
        "of them folded",
    ];
    format!(
        "A camera agent holds a folder of {} pictures of {}×{} px. One edge agent works through it, or two in parallel on the machine's two\n\
         cores, with `r_limit` {} ms and placement *stay*. Jobs alternate between one node and two, in {} pairs, each on a fresh site. A job begins when the\n\
         whole input is announced and ends with its output (`done`). The speed-up is computed per pair: {:.2} at p50, {:.2} at p10, {:.2} at most;\n\
         on average {} (Student's t).\n\n{}\n{}",
        args.frames,
        args.size_px.first().unwrap_or(&0),
        args.size_px.get(1).unwrap_or(&0),
        args.r_limit_ms,
        speed_up.count,
        speed_up.p50,
        speed_up.p10,
        speed_up.max,
        interval(mean),
        table(&header, &rows),
        Aim::list(aims),
    )
}

fn job(args: &Args, pictures: &[Vec<u8>], nodes: &[&str]) -> Result<Job, Error> {
    let mut site = Site::new()?;
    let folder = site.prepare(pictures, nodes, args.r_limit_ms, "stay")?;
    site.show("camera", &folder)?;
    let (mut began_us, mut ended_us) = (None, None);
    site.wait_for("end of the job", PATIENCE, |_, seen| {
        match seen.map(|seen| (&seen.note, seen.at_us)) {
            Some((Note::CameraHead(head), at_us)) if head.end.is_some() => began_us = began_us.or(Some(at_us)),
            Some((Note::Done(_), at_us)) => ended_us = Some(at_us),
            _ => {}
        }
        ended_us.is_some()
    })?;
    let (Some(began_us), Some(ended_us)) = (began_us, ended_us) else { return Err("a job without a beginning".into()) };
    // Statuses are repeated every few seconds: the first behind the end counts everything.
    site.wait_for("status of every node behind the end", PATIENCE, |site, _| {
        let head = site.tally.done.as_ref().map(|done| done.head.version);
        let knows = |status: &NodeStatus| status.chains.iter().any(|chain| Some(chain.version) == head);
        site.tally.nodes.len() == nodes.len() && site.tally.nodes.values().all(knows)
    })?;
    let outcome = site.outcome(PATIENCE)?;
    let counter = |node: &str, counter: &str| {
        let status = site.tally.nodes.iter().find(|(name, _)| name.as_str() == node);
        let counters = status.into_iter().flat_map(|(_, status)| &status.counters);
        counters.clone().find(|(name, _)| name == counter).map_or(0, |(_, count)| *count)
    };
    Ok(Job {
        took: ms(ended_us.saturating_sub(began_us)),
        steps: site.steps.len(),
        steps_without_worker: site.steps.iter().filter(|step| step.timing.units == 0).count(),
        ahead: nodes.iter().map(|node| counter(node, "frames-ahead")).collect(),
        used: nodes.iter().map(|node| counter(node, "frames-ahead-used")).sum(),
        outcome: Some(outcome),
    })
}
