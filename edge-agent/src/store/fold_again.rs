//! A chain that was folded with other `[faces]` settings, or by another version: its records are folded again with these.
//!
//! The analyses stand as they were recorded, so nothing is searched again, and nodes that hold the same records come to the same state. What had
//! been decided about people is decided anew. That is no news: of what it changes in the past, nothing is reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use microlambda::{Digest, Head};
use microlambda_faces::FaceParams;
use microlambda_faces::content::Entry;
use microlambda_faces::fold::{FoldState, Gallery, Person, event_id, lambda_digest, record_digest};
use microlambda_wire::{ChainClass, Name};
use rusqlite::{Transaction, params};

use super::sqlite::{SqliteStore, chain_id, identity, integer, write_sightings};
use super::sqlite_read::unsigned;
use super::{StoreError, StoredChain};

/// Records are read in parts of about this size, bytes.
const PART_BYTES: usize = 256 << 10;
/// Progress is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// A longer write-ahead log is written back before the node begins.
const LOG_BYTES_MAX: u64 = 16 << 20;

impl SqliteStore {
    /// Folds the records of all chains again that were folded with anything but `faces`, each in one transaction; gives the ids of faces that are known
    /// no longer. For the start of a node, before it reads its chains. A chain whose records cannot be folded, as the disk has no room for the write-ahead
    /// log, which takes as much as the records do, stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the records are not those that were folded; else what SQLite says of its tables.
    pub fn fold_again(&self, faces: &FaceParams) -> Result<Vec<String>, StoreError> {
        let lambda = lambda_digest(faces);
        let names = self.names_of("SELECT name FROM chain WHERE lambda != ?1 ORDER BY name", [lambda.0])?;
        self.shorten_log()?;
        let mut gone = Vec::new();
        for name in names {
            match self.fold_one_again(&name, faces) {
                Ok(faces_gone) => gone.extend(faces_gone),
                Err(error) if error.is_damage() => return Err(error),
                Err(error) => {
                    log::error!(chain:% = name; "its records cannot be folded with the present [faces] settings, and it is not continued: {error}");
                }
            }
            self.shorten_log()?;
        }
        Ok(gone)
    }

    fn fold_one_again(&self, name: &Name, faces: &FaceParams) -> Result<Vec<String>, StoreError> {
        let chain = self.read_chain(name)?.ok_or_else(|| self.damaged(format!("chain {name}")))?;
        let error = |source| StoreError::Directory { path: self.path.clone(), source };
        self.need_room(std::fs::metadata(&self.path).map_err(error)?.len())?;
        log::info!(chain:% = name, records_to = chain.boundary.version.sequence;
            "the [faces] settings or the version have changed: the stored records are folded again");
        let transaction = self.connection.unchecked_transaction().map_err(|source| self.sqlite(source))?;
        let gallery = self.fold_chain_again(&transaction, &chain, faces)?;
        transaction.commit().map_err(|source| self.sqlite(source))?;
        log::info!(chain:% = name, people_before = chain.gallery.ever, people = gallery.ever; "folded again");
        let ids = |gallery: &Gallery| {
            let id = |person: &Arc<Person>| event_id(name.as_str(), person.first);
            gallery.people.iter().map(id).collect::<BTreeSet<String>>()
        };
        Ok(ids(&chain.gallery).difference(&ids(&gallery)).cloned().collect())
    }

    /// The write-ahead log of a chain that was folded again is not left to the node's first commit, which has no time for it.
    pub(super) fn shorten_log(&self) -> Result<(), StoreError> {
        let log_bytes = std::fs::metadata(self.path.with_extension("sqlite-wal")).map_or(0, |file| file.len());
        if log_bytes > LOG_BYTES_MAX {
            let done = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            done.map_err(|source| self.sqlite(source))?;
        }
        Ok(())
    }

    fn fold_chain_again(
        &self,
        tx: &Transaction<'_>,
        chain: &StoredChain,
        faces: &FaceParams,
    ) -> Result<Gallery, StoreError> {
        let id = chain_id(tx, &chain.name).map_err(|source| self.sqlite(source))?;
        let forget = || {
            tx.execute("DELETE FROM person WHERE chain = ?1", [id])?;
            tx.execute("DELETE FROM attempt WHERE chain = ?1", [id])?;
            tx.execute("DELETE FROM failure WHERE chain = ?1", [id])?;
            // What comes back later, under other settings again, is no news then either.
            tx.execute("UPDATE event SET on_bus = max(on_bus, superseded), superseded = 1 WHERE chain = ?1", [id])
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
                log::info!(chain:% = chain.name, at = fold.head().version.sequence; "folding again");
            }
        }
        if fold.head().version.sequence != chain.boundary.version.sequence || former != chain.boundary.digest {
            return Err(self.changed(chain, fold.head().version.sequence, &"they end elsewhere"));
        }
        write_chain(tx, (id, chain), lambda_digest(faces), fold.head()).map_err(|source| self.sqlite(source))?;
        Ok(fold.gallery().clone())
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
