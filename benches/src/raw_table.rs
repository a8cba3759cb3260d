//! What a benchmark measured, trial by trial, as it was measured: from it, each figure of the page can be computed again.

use std::fs;
use std::path::Path;

use crate::Error;

/// One row for each trial.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTable {
    name: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl RawTable {
    /// Rows in the order in which they were measured. The name becomes that of the file, `NAME-raw.csv`; columns carry their units.
    ///
    /// # Panics
    /// A row has another number of cells than there are columns: an error in the benchmark.
    pub fn new(name: &'static str, columns: &[&'static str], rows: Vec<Vec<String>>) -> Self {
        for row in &rows {
            assert_eq!(row.len(), columns.len(), "{name}: {row:?}");
        }
        Self { name, columns: columns.to_vec(), rows }
    }

    /// Writes `NAME-raw.csv` into `folder`, and says what refers to it from beside it, as Markdown.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<String, Error> {
        fs::create_dir_all(folder)?;
        let file = format!("{}-raw.csv", self.name);
        fs::write(folder.join(&file), self.csv())?;
        let beside = folder.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("Raw data, a row for each trial: [{file}]({beside}/{file}).\n"))
    }

    fn csv(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = &str>| cells.map(quoted).collect::<Vec<_>>().join(",") + "\n";
        let header = line(&mut self.columns.iter().copied());
        let rows = self.rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
        header + &rows.collect::<String>()
    }
}

/// A measured value as a cell: to a thousandth of its unit, or finer.
pub fn value(value: f64) -> String {
    format!("{value:.4}")
}

/// As [`value`]; empty for what was not measured.
pub fn value_if(value: Option<f64>) -> String {
    value.map_or_else(String::new, self::value)
}

fn quoted(cell: &str) -> String {
    let is_plain = !cell.contains([',', '"', '\n']);
    if is_plain { cell.to_owned() } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_are_kept_in_the_order_in_which_they_were_measured() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("benchmarks");
        let rows = vec![
            vec!["a, \"b\"".to_owned(), value(3.0), value_if(None)],
            vec!["c".to_owned(), value(1.0), value_if(Some(2.5))],
        ];
        let text = RawTable::new("some", &["work", "ours_ms", "theirs_ms"], rows).keep(&folder).expect("kept");
        let csv = fs::read_to_string(folder.join("some-raw.csv")).expect("a file");
        assert_eq!(csv, "work,ours_ms,theirs_ms\n\"a, \"\"b\"\"\",3.0000,\nc,1.0000,2.5000\n");
        assert!(text.contains("(benchmarks/some-raw.csv)"), "{text}");
    }

    #[test]
    #[should_panic(expected = "some")]
    fn a_row_without_all_its_cells_is_an_error_in_the_benchmark() {
        let _ = RawTable::new("some", &["a", "b"], vec![vec!["1".to_owned()]]);
    }
}
