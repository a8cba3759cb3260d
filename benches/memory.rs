//! Resident memory of the three programs while they work on 1280×720 pictures.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use edge_agent::config::Engine;
use microlambda_benches::chart::Chart;
use microlambda_benches::pairs::Order;
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, Resident, Site, check_programs, exit, since};
use microlambda_wire::Name;
use serde::Serialize;

/// Size of the pictures, px.
const SIZE_PX: (u32, u32) = (1_280, 720);
/// The agents are looked at this often.
const SAMPLE: Duration = Duration::from_millis(250);
/// Limit of a step, ms.
const R_LIMIT_MS: u64 = 1_000;
/// What each program may have resident, MB.
const AIMS_MB: [(&str, f64); 3] = [("edge-agent", 25.0), (WORKER, 110.0), ("camera-agent", 15.0)];
const WORKER: &str = "face-worker";
/// The default engine, and the one that it is compared with.
const ENGINES: [Engine; 2] = [Engine::BuiltIn, Engine::Dlib];

/// Resident memory of edge agent, worker and camera agent while they work on a folder of 1280×720 pictures, with either engine by turns.
#[derive(Debug, Parser)]
#[command(name = "memory")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Pictures
    #[arg(long, value_name = "N", default_value_t = 60)]
    frames: usize,
    /// Nodes; the highest figure of each program counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: u8,
    /// Jobs with each engine; with --quick 1
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Decides which engine goes first
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Memory of one program over all jobs with one engine, MB.
#[derive(Debug, Clone, Serialize)]
struct Row {
    program: &'static str,
    engine: &'static str,
    median: f64,
    largest_sample: f64,
    /// `VmHWM`: the largest ever, from the start on.
    peak: f64,
    /// Median of what is backed by files.
    files: f64,
    /// `None` for the engine that is only compared with.
    aim: Option<f64>,
}

/// A process of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    job: u8,
    engine: &'static str,
    program: &'static str,
    pid: u32,
}

/// What was seen of each process: when, s from its job's start, and how much.
type Samples = BTreeMap<Process, Vec<(f64, Resident)>>;

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let jobs = if args.common.quick { 1 } else { args.jobs };
    let pictures = pictures::make(Motif::Scenes, args.frames, SIZE_PX.0, SIZE_PX.1)?;
    let (mut samples, mut steps, mut order) = (Samples::new(), Vec::new(), Order::new(args.seed));
    for job in 0..jobs {
        let [ours, theirs] = ENGINES;
        let turn = if order.ours_first() { [ours, theirs] } else { [theirs, ours] };
        for engine in turn {
            steps.push(play(args, (job, engine), &pictures, &mut samples)?);
        }
    }
    let [built_in, dlib] = ENGINES.map(Engine::name);
    let judged = AIMS_MB.map(|(program, aim)| row(program, built_in, Some(aim), &samples));
    let rows = judged.into_iter().chain([row(WORKER, dlib, None, &samples)]);
    let rows = rows.collect::<Option<Vec<Row>>>().ok_or("a process was never seen")?;
    let aims: Vec<Aim> = rows.iter().filter_map(aim).chain(no_more(&rows, built_in, dlib)).collect();
    let (charts, raw) = (vec![chart(&samples)], vec![raw(&samples)]);
    let count = samples.values().map(Vec::len).sum::<usize>();
    let figures =
        serde_json::json!({ "rows": rows, "aims": aims, "frames": args.frames, "steps": steps, "samples": count });
    let header = [
        "program",
        "engine",
        "median, MB",
        "largest sample, MB",
        "`VmHWM`, MB",
        "of the median in files, MB",
        "aim, MB",
    ];
    let cells = |row: &Row| {
        let figures = [row.median, row.largest_sample, row.peak, row.files].map(|mb| format!("{mb:.1}"));
        let aim = row.aim.map_or_else(|| "–".to_owned(), |mb| format!("{mb:.0}"));
        [row.program, row.engine].map(str::to_owned).into_iter().chain(figures).chain([aim]).collect()
    };
    let text = format!(
        "A camera agent played {} pictures of {}×{} px to {} edge agents whose workers have the built-in engine, and to as many with dlib's\n\
         ({dlib}), {jobs} time(s) each by turns, a seed drawing which goes first. Resident memory (`VmRSS`) of every process, {count} samples; MB of\n\
         10^6 bytes. `VmHWM` is the highest that the kernel ever counted, from the start of the process on.\n\n{}\n{}",
        args.frames,
        SIZE_PX.0,
        SIZE_PX.1,
        args.nodes,
        table(&header, &rows.iter().map(cells).collect::<Vec<_>>()),
        Aim::list(&aims),
    );
    publish(&args.common, &Finding { name: "memory", text, figures: &figures, charts, raw, machine: &machine })
}

/// One job on a site of its own; in how many steps.
fn play(args: &Args, (job, engine): (u8, Engine), pictures: &[Vec<u8>], samples: &mut Samples) -> Result<usize, Error> {
    let mut site = Site::new()?;
    site.engine = engine;
    let folder = site.folder("pictures");
    pictures::write(&folder, pictures)?;
    let nodes: Vec<Name> = (0..args.nodes).map(|n| Name::new(format!("node-{n}"))).collect::<Result<_, _>>()?;
    for node in &nodes {
        site.start_node(node.as_str(), R_LIMIT_MS, "spread")?;
    }
    for node in &nodes {
        site.wait_ready(node, 1)?;
    }
    site.play(&folder)?;
    let start = Instant::now();
    let mut next = start;
    site.wait_for("end of the job", Duration::from_secs(900), |site, _| {
        if Instant::now() >= next {
            next = Instant::now() + SAMPLE;
            sample(site, &nodes, (job, engine), start, samples);
        }
        site.tally.agreed(&nodes).is_some()
    })?;
    sample(&mut site, &nodes, (job, engine), start, samples);
    site.outcome(Duration::from_secs(60))?;
    eprintln!("job {job} with {}: {} steps", engine.name(), site.steps.len());
    Ok(site.steps.len())
}

/// Every sample of every process.
fn raw(samples: &Samples) -> RawTable {
    let rows = samples.iter().flat_map(|(process, samples)| {
        samples.iter().map(move |(at_s, resident)| {
            let Process { job, engine, program, pid } = process;
            let of = [job.to_string(), (*engine).to_owned(), (*program).to_owned(), pid.to_string()];
            let figures = [*at_s, resident.now, resident.peak, resident.files].map(value);
            of.into_iter().chain(figures).collect::<Vec<String>>()
        })
    });
    let columns = ["job", "engine", "program", "pid", "at_s", "resident_mb", "peak_mb", "in_files_mb"];
    RawTable::new("memory", &columns, rows.collect())
}

/// The first job with each engine.
fn chart(samples: &Samples) -> Chart {
    let mut processes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let first = samples.iter().filter(|(process, _)| process.job == 0);
    let curves = first.map(|(Process { engine, program, .. }, samples)| {
        let number = processes.entry((*program, *engine)).or_default();
        *number += 1;
        (
            format!("{program} {number}, {engine}"),
            samples.iter().map(|(at_s, resident)| (*at_s, resident.now)).collect(),
        )
    });
    Chart::course("memory", "Resident memory while the job runs", ["s", "MB"], curves.collect())
}

fn aim(row: &Row) -> Option<Aim> {
    let aim = row.aim?;
    Some(Aim {
        aim: format!("{} at most {aim:.0} MB resident", row.program),
        measured: format!("{:.1} MB at the highest", row.peak),
        met: row.peak <= aim,
    })
}

/// That the default engine takes no more memory than the one it stands for.
fn no_more(rows: &[Row], ours: &str, theirs: &str) -> Option<Aim> {
    let worker = |engine: &str| rows.iter().find(|row| row.program == WORKER && row.engine == engine);
    let (ours, theirs) = (worker(ours)?, worker(theirs)?);
    Some(Aim {
        aim: format!(
            "a worker with the engine {} not more than the reference engine's, {}",
            ours.engine, theirs.engine
        ),
        measured: format!(
            "{:.1} and {:.1} MB at the highest, {:.1} and {:.1} MB at the median",
            ours.peak, theirs.peak, ours.median, theirs.median
        ),
        met: ours.peak <= theirs.peak && ours.median <= theirs.median,
    })
}

fn row(program: &'static str, engine: &'static str, aim: Option<f64>, samples: &Samples) -> Option<Row> {
    let of = |figure: fn(&Resident) -> f64| {
        let is_of = |process: &Process| (process.program, process.engine) == (program, engine);
        let samples = samples.iter().filter(|(process, _)| is_of(process)).flat_map(|(_, samples)| samples);
        Stats::of(samples.map(|(_, resident)| figure(resident)))
    };
    let now = of(|resident| resident.now)?;
    let peak = of(|resident| resident.peak)?.max;
    let files = of(|resident| resident.files)?.p50;
    Some(Row { program, engine, median: now.p50, largest_sample: now.max, peak, files, aim })
}

fn sample(site: &mut Site, nodes: &[Name], (job, engine): (u8, Engine), start: Instant, samples: &mut Samples) {
    let at_s = since(start) / 1_000.0;
    let mut pids = Vec::new();
    for node in nodes {
        if let Ok(agent) = site.node(node) {
            pids.extend(agent.pid().map(|pid| ("edge-agent", pid)));
            pids.extend(agent.children().into_iter().map(|pid| (WORKER, pid)));
        }
    }
    pids.extend(site.camera().ok().and_then(|agent| agent.pid()).map(|pid| ("camera-agent", pid)));
    for (program, pid) in pids {
        if let Some(resident) = Resident::of(pid) {
            let process = Process { job, engine: engine.name(), program, pid };
            samples.entry(process).or_default().push((at_s, resident));
        }
    }
}
