//! The trials as they are kept: one file of comma-separated values, written block by block, so that a run can be resumed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::line::{LONG, Line};
use super::trial::{PARTS, Trial};
use crate::Error;

const TITLE: &str = "# microlambda figure, format 2: one row a trial";
const PARAMETERS: &str = "# parameters: ";
const CALIBRATION: &str = "# calibration: ";
/// The columns before the parts.
const COLUMNS: &str = "block,turn,began,commit,line,images,finished,total_ms,invocations,units,load_average,digest";

/// What decides what a trial measures: equal for all trials of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// The machine, without its load.
    pub machine: String,
    /// Version of the project.
    pub version: String,
    /// Digest of the programs that were run.
    pub programs: String,
    /// Of the order of the trials.
    pub seed: u64,
    /// Size of the pictures, px.
    pub size_px: (u32, u32),
    /// Images of each workload.
    pub images: Vec<usize>,
    /// The lines' keys.
    pub lines: Vec<String>,
    /// Trials of the long invocation over each workload in a block; every other line has one.
    pub long_trials: usize,
}

impl Parameters {
    fn trials_per_block(&self) -> usize {
        let trials_of = |line: &String| if line == LONG { self.long_trials } else { 1 };
        self.images.len() * self.lines.iter().map(trials_of).sum::<usize>()
    }
}

/// What was measured once, at the beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean cost of one image inside a long invocation, ms.
    pub image_ms: f64,
    /// What a long run takes beside its images, ms.
    pub beside_ms: f64,
    /// The limit of each line, ms.
    pub r_limit_ms: BTreeMap<String, u64>,
    /// What all agents and workers use of one core while no trial runs.
    pub idle_share: f64,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Which block, from 0.
    pub block: usize,
    /// Which of the block, from 0.
    pub turn: usize,
    /// When its block began, UTC.
    pub began: String,
    /// The commit that its block was run at, as [`crate::Machine::commit`].
    pub commit: String,
    /// The line's key.
    pub line: String,
    /// Images of the workload.
    pub images: usize,
    /// What it came to.
    pub trial: Trial,
    /// Load average over a minute before it.
    pub load: f64,
}

/// When and with what the blocks of a run were measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occasions<'a> {
    /// The commits that were measured, in their order, each with the number of its blocks.
    pub commits: Vec<(&'a str, usize)>,
    /// When the first block began, UTC.
    pub first_began: &'a str,
    /// When the last block began, UTC.
    pub last_began: &'a str,
}

/// All trials of complete blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    path: Option<PathBuf>,
    /// What they have in common.
    pub parameters: Parameters,
    /// Known once the first run has begun.
    pub calibration: Option<Calibration>,
    /// In the order they were run.
    pub rows: Vec<Row>,
}

impl Raw {
    /// Reads the file, if there is one; without a path nothing is kept. Trials of a block that was not finished are dropped.
    ///
    /// # Errors
    /// The file holds trials under other parameters, or is not one of ours.
    pub fn open(path: Option<&Path>, parameters: &Parameters, fresh: bool) -> Result<Self, Error> {
        let new = Self {
            path: path.map(Path::to_path_buf),
            parameters: parameters.clone(),
            calibration: None,
            rows: Vec::new(),
        };
        let Some(path) = path.filter(|path| path.exists() && !fresh) else { return Ok(new) };
        let remedy = |why: String| format!("{}: {why}; `--fresh` begins anew and drops them", path.display());
        let text = fs::read_to_string(path)?;
        let mut old = Self::parse(&text).map_err(|why| remedy(format!("it is not a file of trials ({why})")))?;
        let differences = differences(&old.parameters, parameters)?;
        if !differences.is_empty() {
            return Err(
                remedy(format!("its trials were run under other parameters ({})", differences.join("; "))).into()
            );
        }
        let complete = parameters.trials_per_block();
        let of_block = |block: usize| old.rows.iter().filter(|row| row.block == block).count();
        let blocks: Vec<usize> = (0..).take_while(|&block| of_block(block) == complete).collect();
        old.rows.retain(|row| row.block < blocks.len());
        Ok(Self { path: Some(path.to_path_buf()), ..old })
    }

    /// Complete blocks.
    pub fn blocks(&self) -> usize {
        self.rows.iter().map(|row| row.block + 1).max().unwrap_or(0)
    }

    /// On which occasions its blocks were run. `None` without a block.
    pub fn occasions(&self) -> Option<Occasions<'_>> {
        let blocks: Vec<&Row> =
            self.rows.chunk_by(|a, b| a.block == b.block).filter_map(|block| block.first()).collect();
        let mut commits: Vec<(&str, usize)> = Vec::new();
        for row in &blocks {
            match commits.iter_mut().find(|(commit, _)| *commit == row.commit) {
                Some((_, count)) => *count += 1,
                None => commits.push((row.commit.as_str(), 1)),
            }
        }
        Some(Occasions { commits, first_began: &blocks.first()?.began, last_began: &blocks.last()?.began })
    }

    /// Adds a block and keeps it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, block: Vec<Row>) -> Result<(), Error> {
        self.rows.extend(block);
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // As a whole and renamed: a run that is ended in the middle of it loses one block, never the file.
        let beside = path.with_extension("csv.new");
        let mut file = File::create(&beside)?;
        file.write_all(self.text()?.as_bytes())?;
        file.sync_all()?;
        Ok(fs::rename(&beside, path)?)
    }

    /// The file's content.
    ///
    /// # Errors
    /// Never in practice: parameters and calibration are plain data.
    pub fn text(&self) -> Result<String, Error> {
        let mut text = format!("{TITLE}\n{PARAMETERS}{}\n", serde_json::to_string(&self.parameters)?);
        if let Some(calibration) = &self.calibration {
            text += &format!("{CALIBRATION}{}\n", serde_json::to_string(calibration)?);
        }
        text += &format!("{COLUMNS},{}\n", PARTS.map(|part| format!("{part}_ms")).join(","));
        for Row { block, turn, began, commit, line, images, trial, load } in &self.rows {
            let Trial { finished, total_ms, invocations, units, parts_ms, digest } = trial;
            let parts: String = parts_ms.iter().map(|part| format!(",{part:.3}")).collect();
            text += &format!(
                "{block},{turn},{began},{commit},{line},{images},{finished},{total_ms:.3},{invocations},{units},{load:.2},{digest}{parts}\n"
            );
        }
        Ok(text)
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err("its first line is another format's".into());
        }
        let parameters = lines.next().and_then(|line| line.strip_prefix(PARAMETERS)).ok_or("no parameters")?;
        let mut raw =
            Self { path: None, parameters: serde_json::from_str(parameters)?, calibration: None, rows: Vec::new() };
        for line in lines.filter(|line| !line.starts_with(COLUMNS)) {
            match line.strip_prefix(CALIBRATION) {
                Some(json) => raw.calibration = Some(serde_json::from_str(json)?),
                None => raw.rows.push(row(line).map_err(|why| format!("{line}: {why}"))?),
            }
        }
        Ok(raw)
    }
}

fn row(line: &str) -> Result<Row, Error> {
    let cells: Vec<&str> = line.split(',').collect();
    let [block, turn, began, commit, key, images, finished, total, invocations, units, load, digest, parts @ ..] =
        cells.as_slice()
    else {
        return Err("too few columns".into());
    };
    let parts: Vec<f64> = parts.iter().map(|part| part.parse()).collect::<Result<_, _>>()?;
    let trial = Trial {
        finished: finished.parse()?,
        total_ms: total.parse()?,
        invocations: invocations.parse()?,
        units: units.parse()?,
        parts_ms: parts.try_into().map_err(|_| "another number of parts")?,
        digest: (*digest).to_owned(),
    };
    let (began, commit, line) = ((*began).to_owned(), (*commit).to_owned(), Line::of(key)?.key.to_owned());
    let (block, turn, images) = (block.parse::<usize>()?, turn.parse::<usize>()?, images.parse::<usize>()?);
    Ok(Row { block, turn, began, commit, line, images, trial, load: load.parse()? })
}

/// What differs, for people.
fn differences(old: &Parameters, new: &Parameters) -> Result<Vec<String>, Error> {
    let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return Ok(Vec::new()) };
    let differs = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
    Ok(differs.map(|(key, value)| format!("{key} was {}, is {value}", old.get(key).unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            machine: "a machine".into(),
            version: "0.1.0".into(),
            programs: "0123".into(),
            seed: 7,
            size_px: (480, 360),
            images: vec![2],
            lines: vec!["long".into(), "r2".into()],
            long_trials: 2,
        }
    }

    fn block(number: usize) -> Vec<Row> {
        let trial = Trial {
            finished: true,
            total_ms: 210.5,
            invocations: 2,
            units: 6,
            parts_ms: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.25],
            digest: "abcd".into(),
        };
        let row = |turn, line: &str| Row {
            block: number,
            turn,
            began: format!("2026-01-0{} 10:00 UTC", number + 1),
            commit: "0123abc+".into(),
            line: line.into(),
            images: 2,
            trial: trial.clone(),
            load: 0.5,
        };
        vec![row(0, "r2"), row(1, "long"), row(2, "long")]
    }

    fn kept(dir: &Path) -> PathBuf {
        let path = dir.join("figure.csv");
        let mut raw = Raw::open(Some(&path), &parameters(), false).expect("a new file");
        let r_limit_ms = [("r2".to_owned(), 250)].into();
        raw.calibration = Some(Calibration { image_ms: 100.0, beside_ms: 9.0, r_limit_ms, idle_share: 0.01 });
        raw.add(block(0)).expect("kept");
        raw.add(block(1)).expect("kept");
        path
    }

    #[test]
    fn a_run_is_resumed_with_all_it_has_measured() {
        let dir = tempfile::tempdir().expect("a folder");
        let raw = Raw::open(Some(&kept(dir.path())), &parameters(), false).expect("the file");
        assert_eq!(raw.blocks(), 2);
        assert_eq!(raw.rows, [block(0), block(1)].concat());
        assert_eq!(raw.calibration.map(|calibration| calibration.image_ms), Some(100.0));
    }

    #[test]
    fn a_run_that_was_resumed_tells_when_it_began_and_at_which_commits() {
        let mut rows = [block(0), block(1), block(2)].concat();
        for row in rows.iter_mut().filter(|row| row.block == 2) {
            row.commit = "4567def".into();
        }
        let raw = Raw { path: None, parameters: parameters(), calibration: None, rows };
        let (first_began, last_began) = ("2026-01-01 10:00 UTC", "2026-01-03 10:00 UTC");
        let commits = vec![("0123abc+", 2), ("4567def", 1)];
        assert_eq!(raw.occasions(), Some(Occasions { commits, first_began, last_began }));
    }

    #[test]
    fn trials_in_a_former_format_are_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = kept(dir.path());
        let text = fs::read_to_string(&path).expect("text");
        fs::write(&path, text.replace("format 2", "format 1")).expect("written");
        let why = Raw::open(Some(&path), &parameters(), false).expect_err("refused").to_string();
        assert!(why.contains("another format") && why.contains("--fresh"), "{why}");
    }

    #[test]
    fn no_two_columns_of_the_file_have_one_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = fs::read_to_string(kept(dir.path())).expect("text");
        let mut columns: Vec<&str> =
            text.lines().find(|line| !line.starts_with('#')).expect("columns").split(',').collect();
        let count = columns.len();
        columns.sort_unstable();
        columns.dedup();
        assert_eq!(columns.len(), count, "{columns:?}");
    }

    #[test]
    fn a_block_that_was_not_finished_is_run_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = kept(dir.path());
        let text = fs::read_to_string(&path).expect("text");
        let cut = text.trim_end().rsplit_once('\n').expect("rows").0;
        fs::write(&path, cut).expect("written");
        let raw = Raw::open(Some(&path), &parameters(), false).expect("the file");
        assert_eq!((raw.blocks(), raw.rows), (1, block(0)));
    }

    #[test]
    fn trials_under_other_parameters_are_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = kept(dir.path());
        let other = Parameters { seed: 8, ..parameters() };
        let why = Raw::open(Some(&path), &other, false).expect_err("refused").to_string();
        assert!(why.contains("seed was 7, is 8") && why.contains("--fresh"), "{why}");
        assert!(!why.contains("machine was"), "{why}");
        assert_eq!(Raw::open(Some(&path), &other, true).expect("anew").rows, []);
    }

    #[test]
    fn a_file_of_something_else_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("figure.csv");
        fs::write(&path, "a,b\n1,2\n").expect("written");
        let why = Raw::open(Some(&path), &parameters(), false).expect_err("refused").to_string();
        assert!(why.contains("--fresh"), "{why}");
    }
}
