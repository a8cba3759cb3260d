//! A database that is new, or of another version of this program.

use microlambda_faces::content::{Entry, from_bytes};
use microlambda_runtime::notify;
use rusqlite::{Transaction, params};

use super::check::{own_schema, schema_of};
use super::sqlite::{SCHEMA, SCHEMA_VERSION, SqliteStore, integer};
use super::{ChainTotals, StoreError};

/// Version 1 counted a person's frames at each start, which took the longer the older it was.
const FROM_1: &str = "CREATE TEMP TABLE former AS SELECT *,
    dense_rank() OVER (PARTITION BY chain, person ORDER BY sequence) AS frames,
    max(captured_at_ms) OVER (PARTITION BY chain, person ORDER BY sequence) AS last_seen_ms FROM main.sighting;
    DROP TABLE main.sighting;";
const FROM_1_REST: &str = "INSERT INTO main.sighting
    (chain, sequence, face_index, person, distance, captured_at_ms, frames, last_seen_ms, label)
    SELECT chain, sequence, face_index, person, distance, captured_at_ms, frames, last_seen_ms, label FROM former;
    DROP TABLE former;";

impl SqliteStore {
    /// Brings the database to this program's schema.
    pub(super) fn migrate(&self) -> Result<(), StoreError> {
        match self.user_version()? {
            0 if self.read(schema_of)?.is_empty() => {
                let script = format!("BEGIN EXCLUSIVE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
                self.connection.execute_batch(&script).map_err(|source| self.sqlite(source))
            }
            SCHEMA_VERSION => Ok(()),
            found @ 1..SCHEMA_VERSION if !self.read(|_| self.has_own_schema())? => {
                // It takes the longer the larger the database is, and nobody is to end it for that.
                notify::while_starting(|| self.migrate_from(found))
            }
            found => Err(self.other_version(found)),
        }
    }

    /// A newer program has raised the number with a change of the schema. Under this program's own schema it is the number that is
    /// wrong.
    fn other_version(&self, found: i64) -> StoreError {
        match (self.schema(), own_schema()) {
            (Ok(held), Ok(own)) if held == *own || found <= 0 => self.damaged("the schema's version"),
            (Ok(_), Ok(_)) => self.newer(found),
            (Err(source), _) | (_, Err(source)) => self.sqlite(source),
        }
    }

    /// Tables are made anew, not altered: each start compares the schema with its own, letter by letter.
    fn migrate_from(&self, found: i64) -> Result<(), StoreError> {
        let error = |source| StoreError::Directory { path: self.path.clone(), source };
        // Until it is committed, a second copy of nearly all of it is in the file and in the write-ahead log.
        self.need_room(std::fs::metadata(&self.path).map_err(error)?.len().saturating_mul(2))?;
        log::info!(from = found, to = SCHEMA_VERSION; "the database is of an earlier version: it is brought to this one's form");
        let migrate = || {
            let transaction = self.connection.unchecked_transaction()?;
            if found == 1 {
                let made = made(&["table sighting ", "index sighting_by_person "])?;
                transaction.execute_batch(&format!("{FROM_1} {made} {FROM_1_REST}"))?;
            }
            add_totals(&transaction)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            if self.has_own_schema()? { transaction.commit().map(|()| true) } else { Ok(false) }
        };
        let is_own = migrate().map_err(|source| self.sqlite(source))?;
        if !is_own {
            return Err(self.damaged("the schema"));
        }
        self.shorten_log()
    }
}

/// What makes objects of this program's schema, named by kind and name.
fn made(objects: &[&str]) -> rusqlite::Result<String> {
    let own = own_schema()?;
    let sql = objects.iter().filter_map(|name| own.iter().find_map(|object| object.strip_prefix(name)));
    Ok(sql.map(|sql| format!("{sql};")).collect())
}

/// Up to version 2 there were no sums beside the entries: whoever wanted them read all. An entry that cannot be read is left for the checks,
/// which know what to make of it.
fn add_totals(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(&format!("ALTER TABLE entry RENAME TO former_entry; {}", made(&["table entry "])?))?;
    {
        let columns = "chain, sequence, next_sequence, body, digest, generation, set_aside";
        let mut former = tx.prepare(&format!("SELECT {columns} FROM former_entry ORDER BY chain, sequence"))?;
        let mut insert = tx.prepare(&format!(
            "INSERT INTO entry ({columns}, frames, unreadable, faces_seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
        ))?;
        let (mut rows, mut totals) = (former.query([])?, (0, ChainTotals::default()));
        while let Some(row) = rows.next()? {
            let (chain, body): (i64, Vec<u8>) = (row.get(0)?, row.get(3)?);
            let before = if totals.0 == chain { totals.1 } else { ChainTotals::default() };
            totals = (chain, from_bytes::<Entry>(&body).map_or(before, |entry| before.with(&entry)));
            let ChainTotals { frames, unreadable, faces_seen } = totals.1;
            insert.execute(params![
                chain,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                body,
                row.get::<_, Vec<u8>>(4)?,
                row.get::<_, i64>(5)?,
                row.get::<_, i64>(6)?,
                integer(frames)?,
                integer(unreadable)?,
                integer(faces_seen)?
            ])?;
        }
    }
    tx.execute_batch("DROP TABLE former_entry;")
}

#[cfg(test)]
mod tests {
    use microlambda::{Digest, Head};
    use microlambda_faces::Analysis;
    use microlambda_faces::content::to_bytes;
    use microlambda_wire::{ChainClass, Name, Record};

    use super::*;
    use crate::store::Store;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// A table as it was before it had some columns.
    fn former(table: &str, lacks: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        let found = SCHEMA.split_inclusive(';').find(|sql| sql.contains(&format!("CREATE TABLE {table} ")));
        let is_there = |line: &&str| !lacks.iter().any(|column| line.trim().starts_with(&format!("{column} ")));
        Ok(found.ok_or("no table")?.lines().filter(is_there).collect::<Vec<_>>().join("\n"))
    }

    /// A store with one chain, as version 2 had it.
    fn of_version_2(folder: &std::path::Path) -> Result<SqliteStore, Box<dyn std::error::Error>> {
        let mut store = SqliteStore::open(folder)?;
        let head = Head::genesis(Digest::of(b""));
        store.add_chain(&Name::new("door-1")?, &Name::new("door")?, ChainClass::Live, head)?;
        let entry = former("entry", &["frames", "unreadable", "faces_seen"])?;
        store.connection.execute_batch(&format!("DROP TABLE entry; {entry} PRAGMA user_version = 2;"))?;
        Ok(store)
    }

    #[test]
    fn a_database_of_version_1_gets_what_it_lacks_and_keeps_the_rest() -> Outcome {
        let folder = tempfile::tempdir()?;
        let own = own_schema()?;
        let store = of_version_2(folder.path())?;
        store.connection.execute_batch(&format!(
            "DROP TABLE sighting; {}
             CREATE INDEX sighting_by_person ON sighting (chain, person, sequence);
             INSERT INTO sighting VALUES (1, 0, 0, 0, 0.0, 500, 'a'), (1, 0, 1, 1, 0.0, 500, 'a'), (1, 2, 0, 0, 0.1, 400, 'c'),
               (1, 2, 1, 0, 0.2, 400, 'c'), (1, 5, 0, 0, 0.3, 900, 'f');
             PRAGMA user_version = 1;",
            former("sighting", &["frames", "last_seen_ms"])?
        ))?;
        drop(store);
        let store = SqliteStore::open(folder.path())?;
        assert_eq!((store.user_version()?, &store.schema()?), (SCHEMA_VERSION, own));
        let query = "SELECT sequence, face_index, person, frames, last_seen_ms, label FROM sighting ORDER BY 1, 2";
        let mut statement = store.connection.prepare(query)?;
        type Row = (i64, i64, i64, i64, i64, String);
        let rows = statement.query_map([], |row| {
            let place = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((place.0, place.1, place.2, row.get(3)?, row.get(4)?, row.get(5)?))
        })?;
        let rows: Vec<Row> = rows.collect::<rusqlite::Result<_>>()?;
        let expected = [
            (0, 0, 0, 1, 500, "a"),
            (0, 1, 1, 1, 500, "a"),
            (2, 0, 0, 2, 500, "c"),
            (2, 1, 0, 2, 500, "c"),
            (5, 0, 0, 3, 900, "f"),
        ];
        assert_eq!(rows, expected.map(|(a, b, c, d, e, f)| (a, b, c, d, e, f.to_owned())));
        Ok(())
    }
    #[test]
    fn a_database_of_version_2_gets_the_sums_over_its_records() -> Outcome {
        let folder = tempfile::tempdir()?;
        let store = of_version_2(folder.path())?;
        let frame = |sequence: u64, why: Option<&str>| {
            let record =
                Record::Frame { captured_at_ms: 0, digest: Digest::of(b"f"), label: String::new(), moved: None };
            let analysis = why.map(|why| Analysis::Unreadable { why: why.into() });
            Entry { sequence, record, analysis, engine: String::new() }
        };
        for entry in [frame(0, Some("cut")), frame(1, None), frame(4, Some("empty"))] {
            let row = params![integer(entry.sequence)?, integer(entry.sequence + 1)?, to_bytes(&entry)?, [7_u8; 32]];
            store.connection.execute("INSERT INTO entry VALUES (1, ?1, ?2, ?3, ?4, 0, 0)", row)?;
        }
        drop(store);
        let store = SqliteStore::open(folder.path())?;
        assert_eq!((store.user_version()?, &store.schema()?), (SCHEMA_VERSION, own_schema()?));
        let chain = Name::new("door-1")?;
        assert_eq!(store.totals(&chain)?, ChainTotals { frames: 3, unreadable: 2, faces_seen: 0 });
        let unreadable = |frames_max| {
            store
                .unreadable(&chain, frames_max)
                .map(|rows| rows.into_iter().map(|row| (row.sequence, row.why)).collect::<Vec<_>>())
        };
        assert_eq!(unreadable(9)?, [(0, "cut".to_owned()), (4, "empty".to_owned())]);
        assert_eq!(unreadable(1)?, [(4, "empty".to_owned())]);
        Ok(())
    }

    #[test]
    fn an_entry_that_cannot_be_read_holds_nothing_up_and_is_found_by_the_check() -> Outcome {
        let folder = tempfile::tempdir()?;
        let store = of_version_2(folder.path())?;
        store.connection.execute("INSERT INTO entry VALUES (1, 0, 1, x'00ff', zeroblob(32), 0, 0)", [])?;
        drop(store);
        let store = SqliteStore::open(folder.path())?;
        assert_eq!(store.user_version()?, SCHEMA_VERSION);
        assert!(store.entries(&Name::new("door-1")?, 0, 1).is_err_and(|error| error.is_damage()));
        Ok(())
    }
}
