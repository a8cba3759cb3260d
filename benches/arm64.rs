//! Instructions of a search and of an encoding on arm64, by either engine, counted in user-mode emulation.

use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use microlambda_benches::report::{Finding, publish, table};
use microlambda_benches::{Common, Error, Machine, data_dir, exit, workspace};
use serde::Serialize;

/// The photo, in the folder of data.
const PHOTO: &str = "photos/people/obama.jpg";

/// Counts what a search and an encoding take of an arm64 processor's instructions; it says nothing of time. Takes some minutes.
#[derive(Debug, Parser)]
#[command(name = "arm64")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// How often the photo is halved first
    #[arg(long, value_name = "N", default_value_t = 2)]
    halvings: u32,
}

/// One piece of work by both engines.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    built_in: u64,
    dlib: u64,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    let machine = Machine::here();
    let counted = count(args.halvings)?;
    let of = |what: &str, engine: &str| {
        let found = counted.iter().find(|(w, e, _)| w == what && e == engine);
        found.map(|(_, _, instructions)| *instructions).ok_or_else(|| format!("no count of {what} by {engine}"))
    };
    let row = |what: &str| Ok(Row { what: what.to_owned(), built_in: of(what, "built-in")?, dlib: of(what, "dlib")? });
    let rows = ["search", "encode"].map(row).into_iter().collect::<Result<Vec<_>, Error>>()?;
    let cells = |row: &Row| {
        let million = |instructions: u64| format!("{:.1}", instructions as f64 / 1e6);
        let ratio = row.built_in as f64 / row.dlib as f64;
        vec![row.what.clone(), million(row.built_in), million(row.dlib), format!("{ratio:.3}")]
    };
    let text = format!(
        "**Counted in emulation** (QEMU user mode), not measured on a board: emulation has no caches, pipelines or clock, so this shows how\n\
         much work there is on arm64, not how long it takes. One photo, halved {} time(s), is searched at twice its size, and its first face\n\
         is encoded, by a cross-compiled program. dlib uses OpenBLAS's kernel for the emulated processor, with one thread.\n\n{}",
        args.halvings,
        table(
            &["", "built-in, million instructions", "dlib, million instructions", "built-in by dlib"],
            &rows.iter().map(cells).collect::<Vec<_>>()
        ),
    );
    let figures = serde_json::json!({ "halvings": args.halvings, "rows": rows });
    let (charts, raw) = (Vec::new(), Vec::new());
    publish(&args.common, &Finding { name: "arm64", text, figures: &figures, charts, raw, machine: &machine })
}

/// What, by which engine, and how many instructions.
fn count(halvings: u32) -> Result<Vec<(String, String, u64)>, Error> {
    let mut command = Command::new(workspace().join("image-build/count-instructions"));
    command.arg(data_dir().join(PHOTO)).arg(halvings.to_string()).stderr(Stdio::inherit());
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("image-build/count-instructions ended with {}", output.status).into());
    }
    let lines = String::from_utf8(output.stdout)?;
    let line = |line: &str| {
        let mut cells = line.split(',').map(str::to_owned);
        let (Some(what), Some(engine), Some(number)) = (cells.next(), cells.next(), cells.next()) else {
            return Err(format!("not a count: {line}").into());
        };
        Ok((what, engine, number.parse()?))
    };
    lines.lines().skip(1).map(line).collect()
}
