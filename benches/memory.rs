//! Resident memory of the three programs while they work on 1280×720 pictures.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use microlambda_benches::chart::Chart;
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::{Common, Error, Machine, Resident, Site, exit, since};
use microlambda_wire::Name;
use serde::Serialize;

/// Size of the pictures, px.
const SIZE_PX: (u32, u32) = (1_280, 720);
/// The agents are looked at this often.
const SAMPLE: Duration = Duration::from_millis(250);
/// Limit of a step, ms.
const R_LIMIT_MS: u64 = 1_000;
/// What each program may have resident, MB.
const AIMS_MB: [(&str, f64); 3] = [("edge-agent", 25.0), ("face-worker", 110.0), ("camera-agent", 15.0)];

/// Resident memory of edge agent, worker and camera agent while they work on a folder of 1280×720 pictures.
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
}

/// Memory of one program over the run, MB.
#[derive(Debug, Clone, Serialize)]
struct Row {
    program: &'static str,
    median: f64,
    largest_sample: f64,
    /// `VmHWM`: the largest ever, from the start on.
    peak: f64,
    /// Median of what is backed by files.
    files: f64,
    aim: f64,
}

/// What was seen of each process, by its program and pid: when, s, and how much.
type Samples = BTreeMap<(&'static str, u32), Vec<(f64, Resident)>>;

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let mut site = Site::new()?;
    let folder = site.folder("pictures");
    pictures::write(&folder, &pictures::make(Motif::Scenes, args.frames, SIZE_PX.0, SIZE_PX.1)?)?;
    let nodes: Vec<Name> = (0..args.nodes).map(|n| Name::new(format!("node-{n}"))).collect::<Result<_, _>>()?;
    for node in &nodes {
        site.start_node(node.as_str(), R_LIMIT_MS, "spread")?;
    }
    for node in &nodes {
        site.wait_ready(node, 1)?;
    }
    site.play(&folder)?;
    let mut samples = Samples::new();
    let start = Instant::now();
    let mut next = start;
    site.wait_for("end of the job", Duration::from_secs(900), |site, _| {
        if Instant::now() >= next {
            next = Instant::now() + SAMPLE;
            sample(site, &nodes, start, &mut samples);
        }
        site.tally.agreed(&nodes).is_some()
    })?;
    sample(&mut site, &nodes, start, &mut samples);
    let outcome = site.outcome(Duration::from_secs(60))?;
    let rows = AIMS_MB.map(|(program, aim)| row(program, aim, &samples));
    let rows = rows.into_iter().collect::<Option<Vec<Row>>>().ok_or("a process was never seen")?;
    let aims: Vec<Aim> = rows.iter().map(aim).collect();
    let charts = vec![chart(&samples)];
    let (frames, steps, samples) = (outcome.frames, site.steps.len(), samples.values().map(Vec::len).sum::<usize>());
    let figures =
        serde_json::json!({ "rows": rows, "aims": aims, "frames": frames, "steps": steps, "samples": samples });
    let header =
        ["program", "median, MB", "largest sample, MB", "`VmHWM`, MB", "of the median in files, MB", "aim, MB"];
    let cells = |row: &Row| {
        let figures = [row.median, row.largest_sample, row.peak, row.files].map(|mb| format!("{mb:.1}"));
        [row.program.to_owned()].into_iter().chain(figures).chain([format!("{:.0}", row.aim)]).collect()
    };
    let text = format!(
        "A camera agent played {frames} pictures of {}×{} px to {} edge agents; {steps} steps. Resident memory (`VmRSS`) of every process,\n\
         {samples} samples; MB of 10^6 bytes. `VmHWM` is the highest that the kernel ever counted, from the start of the process on.\n\n{}\n{}",
        SIZE_PX.0,
        SIZE_PX.1,
        args.nodes,
        table(&header, &rows.iter().map(cells).collect::<Vec<_>>()),
        Aim::list(&aims),
    );
    publish(&args.common, &Finding { name: "memory", text, figures: &figures, charts, machine: &machine })
}

fn chart(samples: &Samples) -> Chart {
    let mut processes: BTreeMap<&str, usize> = BTreeMap::new();
    let curves = samples.iter().map(|((program, _), samples)| {
        let number = processes.entry(program).or_default();
        *number += 1;
        (format!("{program} {number}"), samples.iter().map(|(at_s, resident)| (*at_s, resident.now)).collect())
    });
    Chart::course("memory", "Resident memory while the job runs", ["s", "MB"], curves.collect())
}

fn aim(row: &Row) -> Aim {
    Aim {
        aim: format!("{} at most {:.0} MB resident", row.program, row.aim),
        measured: format!("{:.1} MB at the highest", row.peak),
        met: row.peak <= row.aim,
    }
}

fn row(program: &'static str, aim: f64, samples: &Samples) -> Option<Row> {
    let of = |figure: fn(&Resident) -> f64| {
        let samples = samples.iter().filter(|((of, _), _)| *of == program).flat_map(|(_, samples)| samples);
        Stats::of(samples.map(|(_, resident)| figure(resident)))
    };
    let now = of(|resident| resident.now)?;
    let peak = of(|resident| resident.peak)?.max;
    let files = of(|resident| resident.files)?.p50;
    Some(Row { program, median: now.p50, largest_sample: now.max, peak, files, aim })
}

fn sample(site: &mut Site, nodes: &[Name], start: Instant, samples: &mut Samples) {
    let at_s = since(start) / 1_000.0;
    let mut pids = Vec::new();
    for node in nodes {
        if let Ok(agent) = site.node(node) {
            pids.extend(agent.pid().map(|pid| ("edge-agent", pid)));
            pids.extend(agent.children().into_iter().map(|pid| ("face-worker", pid)));
        }
    }
    pids.extend(site.camera().ok().and_then(|agent| agent.pid()).map(|pid| ("camera-agent", pid)));
    for (program, pid) in pids {
        if let Some(resident) = Resident::of(pid) {
            samples.entry((program, pid)).or_default().push((at_s, resident));
        }
    }
}
