//! How costs grow: a face among ever more people, a chain that gets older and older, ever more cameras on one broker.

use std::process::ExitCode;

use clap::Parser;
use microlambda_benches::chart::{Chart, Curve};
use microlambda_benches::growth::histories::{History, LACKING_STEPS};
use microlambda_benches::growth::{cameras, galleries, histories};
use microlambda_benches::report::{Aim, Finding, publish, table};
use microlambda_benches::stats::Growth;
use microlambda_benches::{Common, Error, Machine, exit};
use microlambda_faces::fold::{EXEMPLARS_MAX, PEOPLE_MAX};
use serde::Serialize;

/// Sizes of galleries; one of them is the largest that a chain makes.
const PEOPLE: [usize; 5] = [100, 1_000, PEOPLE_MAX, 10_000, 100_000];
/// Lengths of histories.
const STEPS: [u64; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
/// Numbers of cameras.
const CAMERAS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
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
    #[arg(long, value_name = "N", default_value_t = 40)]
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
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let parts = args.parts.iter().map(|part| match part {
        Part::Galleries => tell_galleries(args),
        Part::Histories => tell_histories(args),
        Part::Cameras => tell_cameras(args),
    });
    let told = parts.collect::<Result<Vec<Told>, Error>>()?;
    let text: String = told.iter().map(|part| format!("{}\n{}\n", part.text, Aim::list(&part.aims))).collect();
    let text = format!(
        "Below each column stands how it grows: the exponent of the power that fits its figures best (least squares through the logarithms; 0 is\n\
         level, 1 is proportional), and in brackets what each doubling multiplies it by.\n\n{text}"
    );
    let charts = told.iter().map(|part| part.chart.clone()).collect();
    let figures: Vec<&serde_json::Value> = told.iter().map(|part| &part.figures).collect();
    publish(&args.common, &Finding { name: "growth", text, figures: &figures, charts, machine: &machine })
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
    let cell = |column: &Column<R>, row| format!("{:.*}", column.decimals, (column.figure)(row));
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
fn no_larger(what: &str, growth: Option<Growth>, sizes: f64) -> Aim {
    let ratio_max = sizes.powf(LEVEL_EXPONENT_MAX);
    Aim {
        aim: format!(
            "{what}, at the longest history by the shortest: at most ×{ratio_max:.2} (exponent {LEVEL_EXPONENT_MAX} over ×{sizes:.0} steps)"
        ),
        measured: growth.map_or_else(
            || "one size only".into(),
            |growth| format!("×{:.2}; fitted exponent {growth}", growth.last_by_first),
        ),
        met: growth.is_some_and(|growth| growth.last_by_first <= ratio_max),
    }
}

fn value(rows: &impl Serialize, aims: &[Aim], part: &str) -> Result<serde_json::Value, Error> {
    Ok(serde_json::json!({ "part": part, "rows": serde_json::to_value(rows)?, "aims": aims }))
}

fn tell_galleries(args: &Args) -> Result<Told, Error> {
    type Row = galleries::Row;
    let size = Column::<Row> { title: "people", decimals: 0, figure: |row| row.people as f64 };
    let columns = [
        Column { title: "somebody known, p50, ms", decimals: 3, figure: |row: &Row| row.known_ms.p50 },
        Column { title: "p99, ms", decimals: 3, figure: |row| row.known_ms.p99 },
        Column { title: "a stranger, p50, ms", decimals: 3, figure: |row| row.stranger_ms.p50 },
        Column { title: "p99, ms", decimals: 3, figure: |row| row.stranger_ms.p99 },
        Column { title: "fold of a frame, p50, ms", decimals: 3, figure: |row| row.fold_ms.p50 },
        Column { title: "p99, ms", decimals: 3, figure: |row| row.fold_ms.p99 },
    ];
    let mut text = format!(
        "**People.** One face is matched with a gallery (`Gallery::nearest`) of people drawn at random, all about equally far from each other: no\n\
         search can leave many of them out, as it can among real people. A face is of somebody known or of a stranger; {} of each, one core. A fold\n\
         copies the state first, as a node does on trial. A chain compares with {PEOPLE_MAX} people at most, with {EXEMPLARS_MAX} encodings each; larger\n\
         galleries are put together here.\n",
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
    Ok(Told { text, figures: value(&all, &aims, "galleries")?, chart, aims })
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
        Column { title: "p99, ms", decimals: 3, figure: |row| row.commit_ms.p99 },
        Column { title: "sync, p50, ms", decimals: 3, figure: |row| row.sync_ms.p50 },
        Column { title: "sync, bytes", decimals: 0, figure: |row| row.sync_bytes as f64 },
    ];
    let (table, growths) = grown(&size, &columns, &rows);
    let growth = |title: &str| columns.iter().position(|column| column.title == title).and_then(|at| growths[at]);
    let sizes = rows.first().zip(rows.last()).map_or(1.0, |(first, last)| last.steps as f64 / first.steps as f64);
    let aims = vec![
        level("start of an agent", growth("start to status, p50, ms")),
        no_larger("start after an orderly end, p50", growth("start to status, p50, ms"), sizes),
        no_larger("start after SIGKILL, p50", growth("after SIGKILL, p50, ms"), sizes),
        level("what `edge-agent status` reads", growth("`status` read, ms")),
        level("commit of a step", growth("commit, p50, ms")),
        level("time to bring a peer up to date", growth("sync, p50, ms")),
        level("bytes to bring a peer up to date", growth("sync, bytes")),
    ];
    let text = format!(
        "**History.** A chain of steps of one frame each, in each of which one of two people is seen, in an edge agent's own database, written\n\
         through its store. *Start*: from the start of the process to its first status on the bus, after an orderly end, and after SIGKILL, when\n\
         the database is checked beside the work; the parts that concern the database are shown by themselves. *Commit*: one step more, with the\n\
         attempt of the next one, {} of them. *Sync*: a peer lacks {LACKING_STEPS} steps, hears the head, asks, and commits what it is sent; without the bus. The database is in the page cache.\n\n{table}",
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
    Ok(Told { text, figures: value(&rows, &aims, "histories")?, chart, aims })
}

fn tell_cameras(args: &Args) -> Result<Told, Error> {
    type Row = cameras::Row;
    let frames = if args.common.quick { args.frames / 8 } else { args.frames };
    let mut rows = Vec::new();
    for cameras in sizes(args, &CAMERAS) {
        let row = cameras::measure(cameras, frames)?;
        eprintln!("{row:?}");
        rows.push(row);
    }
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
    let aims = vec![level("time per frame", growth("time per frame, ms"))];
    let text = format!(
        "**Cameras.** {frames} small pictures without faces, divided among one to many camera agents with a folder each; two edge agents with\n\
         `r_limit` {} ms work through all chains over one mosquitto, all on this machine. Times are from the first announcement of a camera to the\n\
         last chain's output, with both nodes at work. The memory is that of the larger edge agent, without its worker. Messages are those that\n\
         were published, with the bytes of their payloads.\n\n{table}",
        cameras::R_LIMIT_MS
    );
    let drawn = [("time per frame, ms", "a frame"), ("time per step, ms", "a step"), ("commit, p50, ms", "commit")];
    let lines = curves(&size, &columns, &rows, &drawn);
    let chart = Chart::growth("cameras", "Two nodes and many cameras", ["cameras", "ms"], lines);
    Ok(Told { text, figures: value(&rows, &aims, "cameras")?, chart, aims })
}
