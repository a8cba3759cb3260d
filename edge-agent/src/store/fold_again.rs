//! A chain that is under way and was folded with other `[faces]` settings, or by another version: its records are folded again with these.
//!
//! The analyses stand as they were recorded, so nothing is searched again, and nodes that hold the same records come to the same state. What had
//! been decided about people is decided anew. That is no news: of what it changes in the past, nothing is reported.

use std::time::{Duration, Instant};

use microlambda::{Digest, Head};
use microlambda_faces::FaceParams;
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, lambda_digest, record_digest};
use microlambda_runtime::notify;
use microlambda_wire::{ChainClass, Name};
use rusqlite::{Transaction, params};

use super::sqlite::{SqliteStore, chain_id, identity, integer, write_sightings};
use super::sqlite_read::unsigned;
use super::{StoreError, StoredChain};

/// Records are read in parts of about this size, bytes.
const PART_BYTES: usize = 256 << 10;
/// Progress is told this often, and the service manager asked each time to wait for so much longer.
const TOLD_EVERY: Duration = Duration::from_secs(10);
const WAIT_LONGER: Duration = Duration::from_secs(120);

impl SqliteStore {
    /// Folds the records of all chains under way again that were folded with anything but `faces`, each in one transaction. For the start of a node,
    /// before it reads them.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the records are not those that were folded; else what SQLite says, for example that the disk is full: the write-ahead
    /// log takes as much room as the records do.
    pub fn fold_again(&self, faces: &FaceParams) -> Result<(), StoreError> {
        let lambda = lambda_digest(faces);
        let read = || {
            let query = "SELECT name FROM chain WHERE lambda != ?1 AND done = 0 ORDER BY name";
            let mut statement = self.connection.prepare(query)?;
            statement.query_map([lambda.0], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        for name in read().map_err(|source| self.sqlite(source))? {
            let name = Name::new(name).map_err(|_| self.damaged("a chain's name"))?;
            let chain = self.read_chain(&name)?.ok_or_else(|| self.damaged(format!("chain {name}")))?;
            log::info!(chain:% = name, records_to = chain.boundary.version.sequence;
                "the [faces] settings or the version have changed: the stored records are folded again");
            let transaction = self.connection.unchecked_transaction().map_err(|source| self.sqlite(source))?;
            let people = self.fold_chain_again(&transaction, &chain, faces)?;
            transaction.commit().map_err(|source| self.sqlite(source))?;
            log::info!(chain:% = name, people_before = chain.gallery.ever, people; "folded again");
        }
        Ok(())
    }

    fn fold_chain_again(
        &self,
        tx: &Transaction<'_>,
        chain: &StoredChain,
        faces: &FaceParams,
    ) -> Result<usize, StoreError> {
        let id = chain_id(tx, &chain.name).map_err(|source| self.sqlite(source))?;
        let forget = || {
            tx.execute("DELETE FROM person WHERE chain = ?1", [id])?;
            tx.execute("DELETE FROM attempt WHERE chain = ?1", [id])?;
            tx.execute("DELETE FROM failure WHERE chain = ?1", [id])?;
            tx.execute("UPDATE event SET superseded = 1 WHERE chain = ?1", [id])
        };
        forget().map_err(|source| self.sqlite(source))?;
        let (mut fold, mut former) = (FoldState::genesis(*faces), chain.lambda);
        let mut told = Instant::now();
        loop {
            let (entries, _) = self.read_entries(&chain.name, fold.head().version.sequence, PART_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                former = self.take_former(tx, id, &former, entry)?;
                let changed = |why: &dyn std::fmt::Display| self.changed(chain, entry.sequence, why);
                let folded = fold.fold(entry).map_err(|why| changed(&why))?;
                let write = || {
                    let state = params![
                        id,
                        integer(entry.sequence)?,
                        folded.head.digest.0,
                        folded.head.version.generation,
                        folded.head.set_aside
                    ];
                    let query = "UPDATE entry SET digest = ?3, generation = ?4, set_aside = ?5 WHERE chain = ?1 AND sequence = ?2";
                    tx.prepare_cached(query)?.execute(state)?;
                    write_sightings(tx, (id, &chain.name), entry, &folded, &[], true)
                };
                write().map_err(|source| self.sqlite(source))?;
            }
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                notify::still_starting(WAIT_LONGER);
                log::info!(chain:% = chain.name, at = fold.head().version.sequence; "folding again");
            }
        }
        if fold.head().version.sequence != chain.boundary.version.sequence || former != chain.boundary.digest {
            return Err(self.changed(chain, fold.head().version.sequence, &"they end elsewhere"));
        }
        write_chain(tx, (id, chain), lambda_digest(faces), fold.head()).map_err(|source| self.sqlite(source))?;
        Ok(fold.gallery().ever)
    }

    /// Takes away what a record had led to, whose digest it gives if that is what the record, and whom its faces were taken for, lead to: damage is
    /// not to become the truth.
    fn take_former(&self, tx: &Transaction<'_>, id: i64, parent: &Digest, entry: &Entry) -> Result<Digest, StoreError> {
        let take = || {
            let sequence = integer(entry.sequence)?;
            let query = "SELECT face_index, person, EXISTS (SELECT 1 FROM exemplar e WHERE e.chain = s.chain AND e.person = s.person
                 AND e.sequence = s.sequence AND e.face_index = s.face_index)
                 FROM sighting s WHERE chain = ?1 AND sequence = ?2 ORDER BY face_index";
            let mut statement = tx.prepare_cached(query)?;
            let taken = statement.query_map([id, sequence], |row| {
                Ok((row.get::<_, u32>(0)?, unsigned(row, 1)?, row.get::<_, bool>(2)?))
            })?;
            let taken = taken.collect::<rusqlite::Result<Vec<_>>>()?;
            let query = "SELECT digest FROM entry WHERE chain = ?1 AND sequence = ?2";
            let digest: [u8; 32] = tx.prepare_cached(query)?.query_row([id, sequence], |row| row.get(0))?;
            for (_, person, _) in &taken {
                let query = "DELETE FROM exemplar WHERE chain = ?1 AND person = ?2 AND sequence = ?3";
                tx.prepare_cached(query)?.execute([id, integer(*person)?, sequence])?;
            }
            tx.prepare_cached("DELETE FROM sighting WHERE chain = ?1 AND sequence = ?2")?.execute([id, sequence])?;
            Ok((taken, Digest(digest)))
        };
        let (taken, digest) = take().map_err(|source| self.sqlite(source))?;
        let taken =
            taken.into_iter().map(|(face, person, kept)| (face, usize::try_from(person).unwrap_or(usize::MAX), kept));
        match record_digest(parent, entry, taken) {
            Ok(found) if found == digest => Ok(digest),
            Ok(_) | Err(_) => Err(self.damaged(format!("record {} or what it led to", entry.sequence))),
        }
    }

    fn changed(&self, chain: &StoredChain, sequence: u64, why: &dyn std::fmt::Display) -> StoreError {
        self.damaged(format!("chain {} at record {sequence} ({why})", chain.name))
    }
}

fn write_chain(
    tx: &Transaction<'_>,
    (id, chain): (i64, &StoredChain),
    lambda: Digest,
    head: Head,
) -> rusqlite::Result<()> {
    let identity = identity(&chain.name, &chain.camera, chain.class == ChainClass::Batch, &lambda.0);
    tx.execute(
        "UPDATE chain SET lambda = ?2, identity = ?3, generation = ?4, boundary_digest = ?5, boundary_set_aside = ?6, partial = NULL,
         head_unit = 0, head_digest = ?5, head_set_aside = ?6 WHERE id = ?1",
        params![id, lambda.0, identity, head.version.generation, head.digest.0, head.set_aside],
    )?;
    Ok(())
}
