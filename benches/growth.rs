//! How costs grow: a face among ever more people, a chain that gets older and older, ever more cameras on one broker.

use std::process::ExitCode;

use clap::Parser;
use microlambda_benches::chart::{Chart, Curve};
use microlambda_benches::growth::histories::{History, LACKING_STEPS};
use microlambda_benches::growth::{cameras, galleries, histories};
use microlambda_benches::random::Random;
use microlambda_benches::raw_table::{RawTable, value as raw_value};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::{Growth, Stats};
use microlambda_benches::{Common, Error, Machine, check_programs, exit};
use microlambda_faces::fold::{EXEMPLARS_MAX, PEOPLE_MAX};
use serde::Serialize;

/// Sizes of galleries; one of them is the largest that a chain makes.
const PEOPLE: [usize; 5] = [100, 1_000, PEOPLE_MAX, 10_000, 100_000];
/// Lengths of histories.
const STEPS: [u64; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// Numbers of cameras.
const CAMERAS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Runs of each, all in an order drawn: a slow minute is not all one number's.
const CAMERA_RUNS: usize = 3;
/// Draws that order.
const SEED: u64 = 1;
/// Matching a face is to take less than this, ms.
const MATCH_MS_MAX: f64 = 5.0;
/// What is not to grow may have at most this exponent: over a hundredfold it leaves a quarter for noise.
const LEVEL_EXPONENT_MAX: f64 = 0.05;

/// Measures what a face, a step and a camera cost as galleries, histories and sites become larger.
///
/// With --quick a minute instead of several: the largest sizes are left out.
#[derive(Debug, Parser)]
#[command(name = "growth")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Only these parts; without `--dry` the report has no others
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',', default_values_t = [Part::Galleries, Part::Histories, Part::Cameras])]
    parts: Vec<Part>,
    /// Faces matched in each gallery, of people in it and of strangers each
    #[arg(long, value_name = "N", default_value_t = 100)]
    faces: usize,
    /// Steps committed one by one at each length of a history
    #[arg(long, value_name = "N", default_value_t = 50)]
    commits: usize,
    /// Frames of all cameras together
    #[arg(long, value_name = "N", default_value_t = 2_048)]
    frames: usize,
}

/// What is made larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The people that a face is compared with.
    Galleries,
    /// The steps that a chain has behind it.
    Histories,
    /// The cameras of a site.
    Cameras,
}

/// One figure of each row, and how it is shown.
struct Column<R> {
    title: &'static str,
    decimals: usize,
    figure: fn(&R) -> f64,
}

/// What a part has to say.
struct Told {
    text: String,
    aims: Vec<Aim>,
    figures: serde_json::Value,
    chart: Chart,
    raw: Vec<RawTable>,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    check_programs()?;
    let machine = Machine::here();
    let parts = args.parts.iter().map(|part| match part {
        Part::Galleries => tell_galleries(args),
        Part::Histories => tell_histories(args),
        Part::Cameras => tell_cameras(args),
    });
    let told = parts.collect::<Result<Vec<Told>, Error>>()?;
    let text: String = told.iter().map(|part| format!("{}\n{}\n", part.text, Aim::list(&part.aims))).collect();
    let text = format!(
        "The last row of each table shows how its columns grow: the exponent of the power law that fits the figures best (least squares on the logarithms; 0 is\n\
         constant, 1 is proportional) and, in brackets, the factor for each doubling.\n\n{text}"
    );
    let charts = told.iter().map(|part| part.chart.clone()).collect();
    let figures: Vec<&serde_json::Value> = told.iter().map(|part| &part.figures).collect();
    let raw = told.iter().flat_map(|part| part.raw.clone()).collect();
    publish(&args.common, &Finding { name: "growth", text, figures: &figures, charts, raw, machine: &machine })
}

/// The sizes to measure: without the largest two of a quick run.
fn sizes<T>(args: &Args, all: &[T]) -> Vec<T>
where
    T: Copy,
{
    all[..all.len() - if args.common.quick { 2 } else { 0 }].to_vec()
}

/// A table with each column's growth below it, and the growths.
fn grown<R>(size: &Column<R>, columns: &[Column<R>], rows: &[R]) -> (String, Vec<Option<Growth>>) {
    let growth = |column: &Column<R>| Growth::of(rows.iter().map(|row| ((size.figure)(row), (column.figure)(row))));
    let growths: Vec<Option<Growth>> = columns.iter().map(growth).collect();
    let all = || std::iter::once(size).chain(columns);
    let cell = |column: &Column<R>, row| {
        let (figure, decimals) = ((column.figure)(row), column.decimals);
        if figure.is_nan() { "–".to_owned() } else { format!("{figure:.decimals$}") }
    };
    let mut lines: Vec<Vec<String>> = rows.iter().map(|row| all().map(|column| cell(column, row)).collect()).collect();
    let slopes = growths.iter().map(|growth| growth.map_or_else(String::new, |growth| growth.to_string()));
    lines.push(std::iter::once("*exponent*".to_owned()).chain(slopes).collect());
    let header: Vec<&str> = all().map(|column| column.title).collect();
    (table(&header, &lines), growths)
}

/// What is drawn of columns: each figure above 0 at its size.
fn curves<R>(size: &Column<R>, columns: &[Column<R>], rows: &[R], drawn: &[(&str, &str)]) -> Vec<Curve> {
    let curve = |&(column, name): &(&str, &str)| {
        let column = columns.iter().find(|known| known.title == column)?;
        Some((name.to_owned(), rows.iter().map(|row| ((size.figure)(row), (column.figure)(row))).collect()))
    };
    drawn.iter().filter_map(curve).collect()
}

/// That a figure does not grow.
fn level(what: &str, growth: Option<Growth>) -> Aim {
    Aim {
        aim: format!("{what}: exponent at most {LEVEL_EXPONENT_MAX}"),
        measured: growth.map_or_else(
            || "one size only".into(),
            |growth| format!("{growth}, ×{:.2} from the first row to the last", growth.last_by_first),
        ),
        met: growth.is_some_and(|growth| growth.exponent <= LEVEL_EXPONENT_MAX),
    }
}

/// That a figure of the largest size is no more of the smallest one's than a level figure's could be, over sizes so many times as large.
fn no_larger(what: &str, growth: Option<Growth>, (sizes, unit): (f64, &str)) -> Aim {
    let ratio_max = sizes.powf(LEVEL_EXPONENT_MAX);
    Aim {
        aim: format!(
            "{what}, at the most {unit} by the fewest: at most ×{ratio_max:.2} (exponent {LEVEL_EXPONENT_MAX} over ×{sizes:.0} {unit})"
        ),
        measured: growth.map_or_else(
            || "one size only".into(),
            |growth| format!("×{:.2}; fitted exponent {growth}", growth.last_by_first),
        ),
        met: growth.is_some_and(|growth| growth.last_by_first <= ratio_max),
    }
}

/// As a figure of a column: not a number where it is not told.
fn p99(stats: &Stats) -> f64 {
    stats.p99_if_enough().unwrap_or(f64::NAN)
}

fn value(rows: &impl Serialize, aims: &[Aim], part: &str) -> Result<serde_json::Value, Error> {
    Ok(serde_json::json!({ "part": part, "rows": serde_json::to_value(rows)?, "aims": aims }))
}

fn tell_galleries(args: &Args) -> Result<Told, Error> {
    type Row = galleries::Row;
    let size = Column::<Row> { title: "people", decimals: 0, figure: |row| row.people as f64 };
    let columns = [
        Column { title: "somebody known, p50, ms", decimals: 3, figure: |row: &Row| row.known_ms.p50 },
        Column { title: "p99, ms", decimals: 3, figure: |row| p99(&row.known_ms) },
        Column { title: "a stranger, p50, ms", decimals: 3, figure: |row| row.stranger_ms.p50 },
        Column { title: "p99, ms", decimals: 3, figure: |row| p99(&row.stranger_ms) },
        Column { title: "fold of a frame, p50, ms", decimals: 3, figure: |row| row.fold_ms.p50 },
        Column { title: "p99, ms", decimals: 3, figure: |row| p99(&row.fold_ms) },
    ];
    let mut text = format!(
        "**People.** One face is matched with a gallery (`Gallery::nearest`) of people drawn at random, all about equally far from each other, so that no\n\
         search can skip many of them, as it can with real people. The face is of a known person or of a stranger; {} of each, on one core. A fold\n\
         copies the state first, as a node does for a trial. A chain compares with {PEOPLE_MAX} people at most, with {EXEMPLARS_MAX} encodings each; larger\n\
         galleries exist only in this benchmark.\n",
        args.faces
    );
    let (mut aims, mut all, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for encodings in [1, EXEMPLARS_MAX] {
        let mut rows = Vec::new();
        for people in sizes(args, &PEOPLE) {
            let row = galleries::measure(people, encodings, args.faces)?;
            eprintln!("{row:?}");
            rows.push(row);
        }
        let (table, _) = grown(&size, &columns, &rows);
        let drawn = [("somebody known, p50, ms", "somebody known"), ("a stranger, p50, ms", "a stranger")];
        for (name, points) in curves(&size, &columns, &rows, &drawn) {
            lines.push((format!("{name}, {encodings} encoding(s) of each person"), points));
        }
        text += &format!("\n{encodings} encoding(s) of each person:\n\n{table}");
        let counted =
            rows.iter().filter(|row| row.people == PEOPLE_MAX || Some(row.people) == rows.last().map(|r| r.people));
        aims.extend(counted.map(|row| {
            let p50 = row.known_ms.p50.max(row.stranger_ms.p50);
            Aim {
                aim: format!(
                    "a face matched with {} people of {encodings} encoding(s) in less than {MATCH_MS_MAX} ms at p50",
                    row.people
                ),
                measured: format!("{p50:.2} ms"),
                met: p50 < MATCH_MS_MAX,
            }
        }));
        all.extend(rows);
    }
    let chart = Chart::growth("galleries", "Matching a face with a gallery", ["people", "ms, p50"], lines);
    Ok(Told { text, figures: value(&all, &aims, "galleries")?, chart, aims, raw: Vec::new() })
}

fn tell_histories(args: &Args) -> Result<Told, Error> {
    type Row = histories::Row;
    let mut history = History::new()?;
    let mut rows = Vec::new();
    for steps in sizes(args, &STEPS) {
        let row = history.measure(steps, args.commits)?;
        eprintln!("{row:?}");
        rows.push(row);
    }
    let size = Column::<Row> { title: "steps", decimals: 0, figure: |row| row.steps as f64 };
    let columns = [
        Column { title: "database, MB", decimals: 1, figure: |row: &Row| row.database_mb },
        Column { title: "start to status, p50, ms", decimals: 1, figure: |row| row.start_ms.p50 },
        Column { title: "after SIGKILL, p50, ms", decimals: 1, figure: |row| row.start_after_kill_ms.p50 },
        Column { title: "database opened, ms", decimals: 2, figure: |row| row.open_ms },
        Column { title: "chain read, ms", decimals: 2, figure: |row| row.load_ms },
        Column { title: "`status` read, ms", decimals: 2, figure: |row| row.status_ms },
        Column { title: "commit, p50, ms", decimals: 3, figure: |row| row.commit_ms.p50 },
        Column { title: "p90, ms", decimals: 3, figure: |row| row.commit_ms.p90 },
        Column { title: "sync, p50, ms", decimals: 3, figure: |row| row.sync_ms.p50 },
        Column { title: "sync, bytes", decimals: 0, figure: |row| row.sync_bytes as f64 },
    ];
    let (table, growths) = grown(&size, &columns, &rows);
    let growth = |title: &str| columns.iter().position(|column| column.title == title).and_then(|at| growths[at]);
    let sizes = rows.first().zip(rows.last()).map_or(1.0, |(first, last)| last.steps as f64 / first.steps as f64);
    let aims = vec![
        level("start of an agent", growth("start to status, p50, ms")),
        no_larger("start after an orderly end, p50", growth("start to status, p50, ms"), (sizes, "steps")),
        no_larger("start after SIGKILL, p50", growth("after SIGKILL, p50, ms"), (sizes, "steps")),
        level("what `edge-agent status` reads", growth("`status` read, ms")),
        level("commit of a step", growth("commit, p50, ms")),
        level("time to bring a peer up to date", growth("sync, p50, ms")),
        level("bytes to bring a peer up to date", growth("sync, bytes")),
    ];
    let text = format!(
        "**History.** A chain of steps of one frame each, each showing one of two people, in an edge agent's own database, written\n\
         through its store. *Start*: from the start of the process to its first status on the bus, after a clean shutdown and after SIGKILL, when\n\
         the database is checked alongside the work; the parts that concern the database are also shown separately. *Commit*: one more step, with the\n\
         attempt of the next one, {} times. *Sync*: a peer that lacks {LACKING_STEPS} steps hears the head, requests them, and commits what it gets; without the bus. The database is in the page cache.\n\n{table}",
        args.commits
    );
    let drawn = [
        ("start to status, p50, ms", "start"),
        ("after SIGKILL, p50, ms", "start after SIGKILL"),
        ("database opened, ms", "database opened"),
        ("commit, p50, ms", "commit"),
        ("sync, p50, ms", "sync"),
    ];
    let lines = curves(&size, &columns, &rows, &drawn);
    let chart = Chart::growth("histories", "An edge agent with a long history", ["steps", "ms"], lines);
    Ok(Told { text, figures: value(&rows, &aims, "histories")?, chart, aims, raw: Vec::new() })
}

fn tell_cameras(args: &Args) -> Result<Told, Error> {
    type Row = cameras::Row;
    let frames = if args.common.quick { args.frames / 8 } else { args.frames };
    let (numbers, runs) = (sizes(args, &CAMERAS), if args.common.quick { 1 } else { CAMERA_RUNS });
    let mut order = numbers.repeat(runs);
    Random::new(SEED).shuffle(&mut order);
    let mut all = Vec::new();
    for cameras in order {
        let row = cameras::measure(cameras, frames)?;
        eprintln!("{row:?}");
        all.push(row);
    }
    let rows: Vec<Row> = numbers.iter().filter_map(|&cameras| median_run(&all, cameras)).collect();
    let size = Column::<Row> { title: "cameras", decimals: 0, figure: |row| row.cameras as f64 };
    let columns = [
        Column { title: "steps", decimals: 0, figure: |row: &Row| row.steps as f64 },
        Column { title: "all jobs, s", decimals: 2, figure: |row| row.took_s },
        Column { title: "time per frame, ms", decimals: 2, figure: |row| row.frame_ms },
        Column { title: "time per step, ms", decimals: 1, figure: |row| row.step_ms },
        Column { title: "commit, p50, ms", decimals: 2, figure: |row| row.commit_ms.p50 },
        Column { title: "edge agent, resident, MB", decimals: 1, figure: |row| row.agent.now },
        Column { title: "at the highest, MB", decimals: 1, figure: |row| row.agent.peak },
        Column { title: "messages per frame", decimals: 2, figure: |row| row.messages },
        Column { title: "KB per frame", decimals: 2, figure: |row| row.message_kb },
    ];
    let (table, growths) = grown(&size, &columns, &rows);
    let growth = |title: &str| columns.iter().position(|column| column.title == title).and_then(|at| growths[at]);
    let sizes = rows.first().zip(rows.last()).map_or(1.0, |(first, last)| last.cameras as f64 / first.cameras as f64);
    let aims = vec![
        level("time per frame", growth("time per frame, ms")),
        no_larger("time per frame", growth("time per frame, ms"), (sizes, "cameras")),
    ];
    let text = format!(
        "**Cameras.** {frames} small pictures without faces, divided among one to many camera agents with a folder each; two edge agents with\n\
         `r_limit` {} ms work through all chains over one mosquitto, all on this machine. Times are from the first announcement of a camera to the\n\
         last chain's output, with both nodes at work. Each number of cameras has {runs} run(s), all of them in random order; a row is the run with\n\
         the median time per frame. Memory is that of the larger edge agent, without its worker. Messages are the published\n\
         ones, with the bytes of their payloads.\n\n{table}",
        cameras::R_LIMIT_MS
    );
    let drawn = [("time per frame, ms", "a frame"), ("time per step, ms", "a step"), ("commit, p50, ms", "commit")];
    let lines = curves(&size, &columns, &rows, &drawn);
    let chart = Chart::growth("cameras", "Two nodes and many cameras", ["cameras", "ms"], lines);
    let raw = vec![raw_cameras(&all)];
    Ok(Told { text, figures: value(&all, &aims, "cameras")?, chart, aims, raw })
}

/// Of all runs with so many cameras the one with the median time per frame.
fn median_run(all: &[cameras::Row], cameras: usize) -> Option<cameras::Row> {
    let mut runs: Vec<&cameras::Row> = all.iter().filter(|row| row.cameras == cameras).collect();
    runs.sort_by(|a, b| a.frame_ms.total_cmp(&b.frame_ms));
    runs.get(runs.len() / 2).copied().cloned()
}

/// Every run in the order run.
fn raw_cameras(all: &[cameras::Row]) -> RawTable {
    let rows = all.iter().map(|row| {
        let counts = [row.cameras, row.frames, row.steps].map(|count| count.to_string());
        let times = [1_000.0 * row.took_s, row.frame_ms, row.step_ms, row.commit_ms.p50];
        let figures = [row.agent.now, row.agent.peak, row.messages, row.message_kb];
        counts.into_iter().chain(times.map(raw_value)).chain(figures.map(raw_value)).collect::<Vec<String>>()
    });
    let columns = [
        "cameras",
        "frames",
        "steps",
        "took_ms",
        "frame_ms",
        "step_ms",
        "commit_p50_ms",
        "agent_resident_mb",
        "agent_peak_mb",
        "messages_per_frame",
        "kb_per_frame",
    ];
    RawTable::new("cameras", &columns, rows.collect())
}
