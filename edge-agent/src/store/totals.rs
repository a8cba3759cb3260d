//! What is shown of a long chain without reading all of it: sums, and the few records that went wrong.

use microlambda_faces::content::{Entry, PartialEntry};
use microlambda_faces::{Analysis, Face, FaceOutcome, Tile, Unusable};
use microlambda_wire::{Name, Record};
use rusqlite::{Connection, OptionalExtension, params};

use super::sqlite::{SqliteStore, chain_id};
use super::sqlite_read::unsigned;
use super::{ChainTotals, SetAsideRow, StoreError, StoredChain, UnreadableRow};

impl ChainTotals {
    /// The sums with one more record.
    pub fn with(self, entry: &Entry) -> Self {
        let is_frame = matches!(entry.record, Record::Frame { .. });
        let (unreadable, faces) = match &entry.analysis {
            Some(Analysis::Frame(analysis)) => (false, analysis.faces.len() as u64),
            Some(Analysis::Unreadable { .. } | Analysis::SetAside { .. }) => (true, 0),
            None => (false, 0),
        };
        Self {
            frames: self.frames.saturating_add(u64::from(is_frame)),
            unreadable: self.unreadable.saturating_add(u64::from(unreadable)),
            faces_seen: self.faces_seen.saturating_add(faces),
        }
    }
}

/// The sums over a chain's records below `before`: they stand beside the last of these.
pub(super) fn totals_before(connection: &Connection, chain: i64, before: i64) -> rusqlite::Result<ChainTotals> {
    let query = "SELECT frames, unreadable, faces_seen FROM entry WHERE chain = ?1 AND sequence < ?2 ORDER BY sequence DESC LIMIT 1";
    let last = connection.prepare_cached(query)?.query_row([chain, before], |row| {
        Ok(ChainTotals { frames: unsigned(row, 0)?, unreadable: unsigned(row, 1)?, faces_seen: unsigned(row, 2)? })
    });
    Ok(last.optional()?.unwrap_or_default())
}

impl SqliteStore {
    pub(super) fn read_totals(&self, chain: &Name) -> Result<ChainTotals, StoreError> {
        self.read(|connection| totals_before(connection, chain_id(connection, chain)?, i64::MAX))
    }

    /// The newest frames, `frames_max` at most, that could not be read, and why; the latest last.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn unreadable(&self, chain: &Name, frames_max: usize) -> Result<Vec<UnreadableRow>, StoreError> {
        let entries = self.entries_that_raise(chain, "unreadable", frames_max)?;
        let row = |entry: Entry| match (entry.record, entry.analysis) {
            (Record::Frame { label, .. }, Some(Analysis::Unreadable { why })) => {
                Some(UnreadableRow { sequence: entry.sequence, label, why })
            }
            _ => None,
        };
        Ok(entries.into_iter().filter_map(row).collect())
    }

    /// The units set aside in the newest `frames_max` records that have any, and in the record under way; the latest last.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn set_aside(&self, chain: &StoredChain, frames_max: usize) -> Result<Vec<SetAsideRow>, StoreError> {
        let entries = self.entries_that_raise(&chain.name, "set_aside", frames_max)?;
        let mut rows: Vec<SetAsideRow> = entries.iter().flat_map(set_aside_in).collect();
        if let Some(PartialEntry { sequence, partial }) = &chain.partial {
            rows.extend(set_aside_units(*sequence, "", &partial.tiles_set_aside, &partial.faces));
        }
        Ok(rows)
    }

    /// The newest entries, `max` at most, that raise a sum over all up to them, which `column` is; the latest last. Sums never fall, so
    /// each is found by halves, and a chain of millions is not read for it.
    fn entries_that_raise(&self, chain: &Name, column: &str, max: usize) -> Result<Vec<Entry>, StoreError> {
        let bodies = self.read(|connection| {
            let id = chain_id(connection, chain)?;
            let query = format!(
                "SELECT sequence, {column} FROM entry WHERE chain = ?1 AND sequence <= ?2 ORDER BY sequence DESC LIMIT 1"
            );
            let mut statement = connection.prepare(&query)?;
            let mut up_to = |sequence: i64| {
                let last =
                    statement.query_row([id, sequence], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
                last.optional()
            };
            let (mut found, mut below) = (Vec::new(), i64::MAX);
            while let Some((last, sum)) = up_to(below)?.filter(|(_, sum)| *sum > 0 && found.len() < max) {
                // The first entry with this sum lies behind `less` and not behind `enough`.
                let (mut less, mut enough) = (-1, last);
                while enough.saturating_sub(less) > 1 {
                    let middle = less + enough.saturating_sub(less) / 2;
                    match up_to(middle)? {
                        Some((at, reached)) if reached >= sum => enough = at,
                        Some(_) | None => less = middle,
                    }
                }
                found.push(enough);
                below = enough - 1;
            }
            let mut body = connection.prepare("SELECT body FROM entry WHERE chain = ?1 AND sequence = ?2")?;
            let bodies = found.iter().rev().map(|sequence| body.query_row(params![id, sequence], |row| row.get(0)));
            bodies.collect::<rusqlite::Result<Vec<Vec<u8>>>>()
        })?;
        bodies.iter().map(|body| self.entry_of(chain, body)).collect()
    }
}

fn set_aside_in(entry: &Entry) -> Vec<SetAsideRow> {
    let label = match &entry.record {
        Record::Frame { label, .. } => label.as_str(),
        Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => "",
    };
    match &entry.analysis {
        Some(Analysis::Frame(frame)) => set_aside_units(entry.sequence, label, &frame.tiles_set_aside, &frame.faces),
        Some(Analysis::SetAside { why }) => {
            vec![SetAsideRow {
                sequence: entry.sequence,
                label: label.to_owned(),
                unit: "frame".into(),
                why: why.clone(),
            }]
        }
        Some(Analysis::Unreadable { .. }) | None => Vec::new(),
    }
}

fn set_aside_units(sequence: u64, label: &str, tiles: &[Tile], faces: &[Face]) -> Vec<SetAsideRow> {
    let row = |unit: String, why: &str| SetAsideRow { sequence, label: label.to_owned(), unit, why: why.to_owned() };
    let tiles = tiles.iter().map(|tile| row(format!("tile {}", tile.index), &tile.why));
    let faces = faces.iter().enumerate().filter_map(|(index, face)| match &face.outcome {
        FaceOutcome::Unusable(Unusable::SetAside { why }) => Some(row(format!("face {index}"), why)),
        FaceOutcome::Unusable(_) | FaceOutcome::Encoded(_) => None,
    });
    tiles.chain(faces).collect()
}

#[cfg(test)]
mod tests {
    use microlambda::{Digest, Head};
    use microlambda_faces::content::to_bytes;
    use microlambda_wire::ChainClass;

    use super::*;
    use crate::store::Store;

    /// A frame; the file of each whose number is in `broken` cannot be read.
    fn frame(sequence: u64, broken: &[u64]) -> Entry {
        let record = Record::Frame { captured_at_ms: 0, digest: Digest::of(b""), label: String::new(), moved: None };
        let analysis = broken.contains(&sequence).then(|| Analysis::Unreadable { why: "cut".into() });
        Entry { sequence, record, analysis, engine: String::new() }
    }

    #[test]
    fn the_newest_records_that_went_wrong_are_found_wherever_they_are() -> Result<(), Box<dyn std::error::Error>> {
        for broken in [&[][..], &[0], &[299], &[0, 1, 2, 150, 298, 299], &[7, 64, 65, 200]] {
            let folder = tempfile::tempdir()?;
            let mut store = SqliteStore::open(folder.path())?;
            let chain = Name::new("door-1")?;
            store.add_chain(&chain, &Name::new("door")?, ChainClass::Live, Head::genesis(Digest::of(b"")))?;
            let mut totals = ChainTotals::default();
            // Numbers have gaps: every third is missing.
            for entry in (0..300).filter(|n| n % 3 != 1 || broken.contains(n)).map(|n| frame(n, broken)) {
                totals = totals.with(&entry);
                let (frames, unreadable) = (totals.frames as i64, totals.unreadable as i64);
                let row = params![entry.sequence as i64, to_bytes(&entry)?, [0_u8; 32], frames, unreadable];
                store.connection.execute("INSERT INTO entry VALUES (1, ?1, ?1 + 1, ?2, ?3, 0, 0, ?4, ?5, 0)", row)?;
            }
            assert_eq!(store.totals(&chain)?, totals);
            for max in [0, 1, 3, 50] {
                let found: Vec<u64> = store.unreadable(&chain, max)?.iter().map(|row| row.sequence).collect();
                assert_eq!(found, broken[broken.len().saturating_sub(max)..], "{max}");
            }
        }
        Ok(())
    }
}
