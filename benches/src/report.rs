//! Where results go: a table on the terminal, JSON for machines, and a section of `docs/benchmarks.md`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::chart::Chart;
use crate::raw_table::RawTable;
use crate::{Common, Error, Machine, bench_dir, workspace};

/// The benchmarks in the order of the page, with their titles.
const SECTIONS: [(&str, &str); 15] = [
    ("figure", "Figure: split, and in one long invocation"),
    ("budget", "Budget: is the limit kept, and used?"),
    ("handover", "Hand-over: from one step to the next"),
    ("migration", "Migration: a step on a peer behind a slow link"),
    ("fanout", "Fan-out: a finite job on two nodes"),
    ("recovery", "Recovery: struck in the middle of a step"),
    ("latency", "Latency: what splitting buys"),
    ("memory", "Memory at 1280×720"),
    ("start", "Cold start: a worker from its spawn to its first unit"),
    ("growth", "Growth: more people, a longer history, more cameras"),
    ("engines", "Engines: the built-in one beside dlib's"),
    ("arm64", "Engines on arm64: instructions, counted in emulation"),
    ("quality", "Quality: who is reported on videos and photos"),
    ("python", "Beside Python, picture by picture"),
    ("video", "Video: the whole pipeline beside Python's face_recognition"),
];

const PREFACE: &str = "\
# Benchmarks

Written by `make bench`. The next full run of a benchmark replaces its section, which names the machine, commit and date of
the run (a + after the commit: with local changes); sections without a commit are from earlier builds. Quick runs only write to `target/bench/quick`.
Nothing here was measured on a Raspberry Pi or any other small computer. Do not scale these figures to one: measure there, with the
same commands. `cargo bench -p microlambda-benches --bench NAME -- --help` lists the options; the figures as JSON are in
`target/bench/NAME.json`, and the trials one by one as CSV in `benchmarks/`, linked below the charts.

- *p50*, *p90*, *p99*: half, 90 % and 99 % of the values are at most this large. Of fewer than 100 values no p99 is given: it would be the largest.
- *Per pair*, *pair by pair*: the ratio of two times that were measured right after each other; of all pairs' ratios the median, not the ratio of two medians.
- *Exponent (×N)*: of the power law that fits best. Each doubling of the size multiplies the figure by N; 0.00 (×1.00) is constant.
- *Stays*: hand-overs from a step to the next on the same node; *to the peer* and *back* are those between nodes.
- *Residual*: what a model leaves of the measured times, its standard deviation; *largest* is the largest amount.
";

/// What a benchmark found.
#[derive(Debug)]
pub struct Finding<'a, T> {
    /// Its name, one of `SECTIONS`.
    pub name: &'a str,
    /// What was done and found, as Markdown.
    pub text: String,
    /// All figures.
    pub figures: &'a T,
    /// Its pictures.
    pub charts: Vec<Chart>,
    /// Its trials one by one.
    pub raw: Vec<RawTable>,
    /// Where.
    pub machine: &'a Machine,
}

/// A goal, and whether it was met.
#[derive(Debug, Clone, Serialize)]
pub struct Aim {
    /// What was to be reached.
    pub aim: String,
    /// What was measured.
    pub measured: String,
    /// Whether it was.
    pub met: bool,
}

impl Aim {
    /// All aims as a Markdown list.
    pub fn list(aims: &[Self]) -> String {
        let line = |aim: &Self| {
            let verdict = if aim.met { "met" } else { "**missed**" };
            format!("- {}: {verdict} ({}).\n", aim.aim, aim.measured)
        };
        aims.iter().map(line).collect()
    }
}

/// A Markdown table.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        format!("|{}\n", cells.map(|cell| format!(" {cell} |")).collect::<String>())
    };
    let mut text = line(&mut header.iter().copied());
    text += &line(&mut header.iter().map(|_| "---"));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Where the page lies that a run has its section in, with pictures and raw data: in `docs`, but for a quick run, whose results are not to take the
/// place of a full one's; `None` for a dry run.
pub fn page_folder(common: &Common) -> Option<PathBuf> {
    let folder = if common.quick { bench_dir().join("quick") } else { workspace().join("docs") };
    (!common.dry).then_some(folder)
}

/// Prints what was found, and keeps it unless the run is dry; says on standard error where.
///
/// # Errors
/// A file cannot be read or written.
pub fn publish<T: Serialize>(common: &Common, finding: &Finding<'_, T>) -> Result<(), Error> {
    let text = format!("Measured on {}.\n\n{}", finding.machine.text(), finding.text.trim_end());
    println!("{text}");
    let Some(folder) = page_folder(common) else { return Ok(()) };
    let page = folder.join("benchmarks.md");
    let figures = if common.quick { folder } else { bench_dir() }.join(format!("{}.json", finding.name));
    let json = serde_json::json!({ "bench": finding.name, "machine": finding.machine, "figures": finding.figures });
    write_new(&figures, &serde_json::to_string_pretty(&json)?)?;
    let beside = page.with_extension("");
    let charts = finding.charts.iter().map(|chart| chart.keep(&beside));
    let raw = finding.raw.iter().map(|table| table.keep(&beside));
    let text = [Ok(text)].into_iter().chain(charts).chain(raw).collect::<Result<Vec<_>, Error>>()?.join("\n\n");
    let old = if page.exists() { fs::read_to_string(&page)? } else { String::new() };
    write_new(&page, &with_section(&old, finding.name, &text))?;
    let left = if common.quick { "; a quick run leaves `docs` as they are" } else { "" };
    eprintln!("{}: {} and {}{left}", finding.name, page.display(), figures.display());
    Ok(())
}

fn write_new(page: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = page.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(page, text)?)
}

/// The page with one section replaced; the others stay as they are.
fn with_section(page: &str, name: &str, text: &str) -> String {
    let mut new = PREFACE.to_owned();
    for (section, title) in SECTIONS {
        let old = section_of(page, title).unwrap_or("Not run yet.");
        let text = if section == name { text } else { old };
        new += &format!("\n## {title}\n\n{}\n", text.trim());
    }
    new
}

fn section_of<'a>(page: &'a str, title: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {title}\n"))?;
    Some(rest.split_once("\n## ").map_or(rest, |(section, _)| section).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_replaces_its_own_section_and_no_other() {
        let title = |name| SECTIONS.iter().find(|(section, _)| *section == name).map_or("", |(_, title)| *title);
        let first = with_section("", "handover", "| one |");
        assert!(first.contains("Nothing here was measured on a Raspberry Pi"));
        assert_eq!(section_of(&first, title("handover")), Some("| one |"));
        assert_eq!(section_of(&first, title("budget")), Some("Not run yet."));
        let second = with_section(&first, "memory", "| two |");
        let third = with_section(&second, "handover", "| three |");
        assert_eq!(section_of(&third, title("handover")), Some("| three |"));
        assert_eq!(section_of(&third, title("memory")), Some("| two |"));
        assert_eq!(third.matches("\n## ").count(), SECTIONS.len());
    }

    #[test]
    fn only_a_full_run_changes_the_documents() {
        let folder = |dry, quick| page_folder(&Common { dry, quick, bench: true });
        assert_eq!(folder(false, false), Some(workspace().join("docs")));
        assert_eq!(folder(false, true), Some(bench_dir().join("quick")));
        assert_eq!([folder(true, false), folder(true, true)], [None, None]);
    }

    #[test]
    fn a_table_has_a_rule_below_its_header() {
        let text = table(&["a", "b"], &[vec!["1".into(), "2".into()]]);
        assert_eq!(text, "| a | b |\n| --- | --- |\n| 1 | 2 |\n");
    }
}
