//! A cold start: from the spawn of a worker process to its first unit.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use edge_agent::config::Engine;
use microlambda::Budget;
use microlambda_benches::chart::Chart;
use microlambda_benches::pictures::{self, Motif};
use microlambda_benches::raw_table::{RawTable, value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Stats;
use microlambda_benches::worker::Driven;
use microlambda_benches::{Common, Error, Machine, check_programs, exit, since};
use microlambda_faces::FaceParams;
use microlambda_faces::proto::{FromWorker, ToWorker};
use serde::Serialize;

/// Size of the picture whose first unit is waited for, px.
const SIZE_PX: (u32, u32) = (640, 480);
/// Limit of the step, µs: longer than any unit takes.
const R_LIMIT_US: u64 = 60_000_000;
/// How long the first unit may let wait for itself, ms.
const FIRST_UNIT_MS_MAX: f64 = 150.0;

/// Times how soon a worker that is spawned anew is ready, and at work.
#[derive(Debug, Parser)]
#[command(name = "start")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Workers of each engine
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
}

/// What one start took, ms from the spawn on.
#[derive(Debug, Clone, Copy)]
struct Start {
    ready_ms: f64,
    first_unit_ms: f64,
    first_result_ms: f64,
}

/// All starts with one engine, ms.
#[derive(Debug, Serialize)]
struct Row {
    engine: &'static str,
    ready_ms: Stats,
    first_unit_ms: Stats,
    first_result_ms: Stats,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let jpeg = pictures::make(Motif::Scenes, 1, SIZE_PX.0, SIZE_PX.1)?.remove(0);
    let engines = [Engine::BuiltIn, Engine::Dlib];
    let mut starts = [Vec::new(), Vec::new()];
    for _ in 0..args.workers {
        // By turns, so that a slow minute is in both.
        for (engine, starts) in engines.iter().zip(&mut starts) {
            starts.push(runtime.block_on(start(*engine, &jpeg))?);
        }
    }
    let rows = engines.iter().zip(&starts).map(|(engine, starts)| row(engine.name(), starts));
    let rows: Vec<Row> = rows.collect::<Option<_>>().ok_or("nothing was started")?;
    let aim = aim(&rows[0]);
    let cells = |row: &Row| {
        let times = [row.ready_ms, row.first_unit_ms, row.first_result_ms].map(|stats| {
            let [p50, p90, max] = [stats.p50, stats.p90, stats.max].map(|ms| format!("{ms:.0}"));
            [p50, p90, stats.p99_text(0), max]
        });
        [row.engine.to_owned()].into_iter().chain(times.into_iter().flatten()).collect()
    };
    let header = [
        "engine",
        "ready p50, ms",
        "p90",
        "p99",
        "largest",
        "first unit p50",
        "p90",
        "p99",
        "largest",
        "its result p50",
        "p90",
        "p99",
        "largest",
    ];
    let text = format!(
        "A worker process is spawned as an edge agent spawns it, {} times with each engine, alternately: *ready* when it reports that its models are loaded (their\n\
         checksums are computed every time; the files are in the page cache), *first unit* when it starts on a picture of {}×{} px sent to it then, and\n\
         *its result* when that unit has ended.\n\n{}\n{}",
        args.workers,
        SIZE_PX.0,
        SIZE_PX.1,
        table(&header, &rows.iter().map(cells).collect::<Vec<_>>()),
        Aim::list(std::slice::from_ref(&aim)),
    );
    let figures = serde_json::json!({ "rows": rows, "aims": [aim] });
    let (charts, raw) = (vec![chart(&engines, &starts)], vec![raw(&engines, &starts)]);
    publish(&args.common, &Finding { name: "start", text, figures: &figures, charts, raw, machine: &machine })
}

/// Every start; of those with one number the first engine's was the first.
fn raw(engines: &[Engine], starts: &[Vec<Start>]) -> RawTable {
    let rows = (0..starts.iter().map(Vec::len).max().unwrap_or(0)).flat_map(move |number| {
        let turn = engines.iter().zip(starts).filter_map(move |(engine, starts)| Some((engine, starts.get(number)?)));
        turn.map(move |(engine, start)| {
            let times = [start.ready_ms, start.first_unit_ms, start.first_result_ms].map(value);
            [number.to_string(), engine.name().to_owned()].into_iter().chain(times).collect::<Vec<String>>()
        })
    });
    let columns = ["number", "engine", "ready_ms", "first_unit_ms", "first_result_ms"];
    RawTable::new("start", &columns, rows.collect())
}

fn chart(engines: &[Engine], starts: &[Vec<Start>]) -> Chart {
    let samples = engines.iter().zip(starts).flat_map(|(engine, starts)| {
        let of = |part: fn(&Start) -> f64| starts.iter().map(part).collect();
        let name = engine.name();
        [
            (format!("{name}: ready"), of(|start| start.ready_ms)),
            (format!("{name}: first unit"), of(|start| start.first_unit_ms)),
            (format!("{name}: its result"), of(|start| start.first_result_ms)),
        ]
    });
    Chart::distribution("start", "A worker from its spawn on", "ms", samples.collect())
}

async fn start(engine: Engine, jpeg: &[u8]) -> Result<Start, Error> {
    let spawned = Instant::now();
    let mut worker = Driven::spawn(engine)?;
    let (mut ready_ms, mut first_unit_ms) = (0.0, None);
    loop {
        match worker.next().await? {
            FromWorker::Ready { .. } => {
                ready_ms = since(spawned);
                let (costs, params) = (Budget::default().table(), FaceParams::default());
                let (r_limit_us, units_max, resume) = (R_LIMIT_US, 1, None);
                worker.send(&ToWorker::Start { step: 1, r_limit_us, units_max, costs, params, resume })?;
                worker.send(&ToWorker::Frame { sequence: 0, jpeg: jpeg.to_vec(), moved: None, more: false })?;
            }
            FromWorker::Tried { .. } => {}
            FromWorker::Begin { .. } => first_unit_ms = first_unit_ms.or(Some(since(spawned))),
            FromWorker::Unit { .. } => {
                let first_unit_ms = first_unit_ms.ok_or("a unit ended that had not begun")?;
                return Ok(Start { ready_ms, first_unit_ms, first_result_ms: since(spawned) });
            }
            other => return Err(format!("the worker said {other:?} before its first result").into()),
        }
    }
}

fn row(engine: &'static str, starts: &[Start]) -> Option<Row> {
    let of = |part: fn(&Start) -> f64| Stats::of(starts.iter().map(part));
    Some(Row {
        engine,
        ready_ms: of(|start| start.ready_ms)?,
        first_unit_ms: of(|start| start.first_unit_ms)?,
        first_result_ms: of(|start| start.first_result_ms)?,
    })
}

fn aim(built_in: &Row) -> Aim {
    Aim {
        aim: format!("the default engine's first unit begins within {FIRST_UNIT_MS_MAX:.0} ms of the spawn, at p50"),
        measured: format!(
            "{:.0} ms; p90 {:.0} ms, the largest of {} {:.0} ms",
            built_in.first_unit_ms.p50,
            built_in.first_unit_ms.p90,
            built_in.first_unit_ms.count,
            built_in.first_unit_ms.max
        ),
        met: built_in.first_unit_ms.p50 <= FIRST_UNIT_MS_MAX,
    }
}
