//! A database that is new, or of another version of this program.

use super::StoreError;
use super::check::own_schema;
use super::sqlite::{SCHEMA, SCHEMA_VERSION, SqliteStore};

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
            0 if self.schema().map_err(|source| self.sqlite(source))?.is_empty() => {
                let script = format!("BEGIN EXCLUSIVE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
                self.connection.execute_batch(&script).map_err(|source| self.sqlite(source))
            }
            SCHEMA_VERSION => Ok(()),
            1 if self.schema().map_err(|source| self.sqlite(source))?
                != *own_schema().map_err(|source| self.sqlite(source))? =>
            {
                self.migrate_from_1()
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

    /// The table is made anew, not altered: each start compares the schema with its own, letter by letter.
    fn migrate_from_1(&self) -> Result<(), StoreError> {
        let migrate = || {
            let transaction = self.connection.unchecked_transaction()?;
            let of_ours = |object: &String| {
                let sql =
                    ["index sighting_by_person ", "table sighting "].iter().find_map(|name| object.strip_prefix(name));
                sql.map(str::to_owned)
            };
            // In the order of their kinds, indexes come first; the table has to be there before.
            let made: Vec<String> = own_schema()?.iter().rev().filter_map(of_ours).collect();
            transaction.execute_batch(&format!("{FROM_1} {}; {FROM_1_REST}", made.join(";")))?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            let is_own = self.schema()? == *own_schema()?;
            if is_own { transaction.commit().map(|()| true) } else { Ok(false) }
        };
        let is_own = migrate().map_err(|source| self.sqlite(source))?;
        if is_own { Ok(()) } else { Err(self.damaged("the schema")) }
    }
}

#[cfg(test)]
mod tests {
    use microlambda::{Digest, Head};
    use microlambda_wire::{ChainClass, Name};

    use super::*;
    use crate::store::Store;

    #[test]
    fn a_database_of_version_1_gets_what_it_lacks_and_keeps_the_rest() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let chain = Name::new("door-1")?;
        let mut store = SqliteStore::open(folder.path())?;
        store.add_chain(&chain, &Name::new("door")?, ChainClass::Live, Head::genesis(Digest::of(b"")))?;
        let own = store.schema()?;
        let former = SCHEMA
            .split_inclusive("STRICT, WITHOUT ROWID;")
            .find(|table| table.contains("CREATE TABLE sighting"))
            .ok_or("no table")?;
        let lacks = |line: &&str| !line.trim().starts_with("frames ") && !line.trim().starts_with("last_seen_ms ");
        let former: Vec<&str> = former.lines().filter(lacks).collect();
        store.connection.execute_batch(&format!(
            "DROP TABLE sighting; {}
             CREATE INDEX sighting_by_person ON sighting (chain, person, sequence);
             INSERT INTO sighting VALUES (1, 0, 0, 0, 0.0, 500, 'a'), (1, 0, 1, 1, 0.0, 500, 'a'), (1, 2, 0, 0, 0.1, 400, 'c'),
               (1, 2, 1, 0, 0.2, 400, 'c'), (1, 5, 0, 0, 0.3, 900, 'f');
             PRAGMA user_version = 1;",
            former.join("\n")
        ))?;
        drop(store);
        let store = SqliteStore::open(folder.path())?;
        assert_eq!((store.user_version()?, store.schema()?), (SCHEMA_VERSION, own));
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
}
