//! SQLite as a store: writes. Reads are in `sqlite_read`, those of people in `sqlite_gallery`.

use std::cmp::Ordering;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as AtomicOrdering};
use std::time::Duration;

use microlambda::sabotage::{self, Sabotage};
use microlambda::{Attempt, Digest, DigestBuilder, Head, StepMode};
use microlambda_faces::content::{Entry, to_bytes};
use microlambda_faces::fold::{Folded, event_id};
use microlambda_faces::{Analysis, FaceAt, FaceOutcome, Thumbnail};
use microlambda_wire::{ChainClass, EventKind, EventNote, Name, Record};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::copies::Outcome;
use super::recover::check_files;
use super::sqlite_read::encoding_bytes;
use super::totals::totals_before;
use super::{Advance, ChainSummary, ChainTotals, Copying, FaceRow, Store, StoreError, StoredChain};

/// Written into `user_version`; raised by one with every change of `schema.sql`.
pub(super) const SCHEMA_VERSION: i64 = 3;
/// The database inside a state directory.
pub(super) const DATABASE: &str = "edge.sqlite";
/// The database of a camera agent, whose lock and note of its last end have the names of ours.
const CAMERA_AGENTS: &str = "spool.sqlite";
pub(super) const SCHEMA: &str = include_str!("schema.sql");
/// Pages kept in memory, KiB: the working set of a commit, no more.
const CACHE_KIB: i64 = 1_024;

/// Statements that are kept compiled: all that a step takes.
const STATEMENTS_MAX: usize = 48;

/// A [`Store`] in one SQLite file of a state directory, which it locks while open.
pub struct SqliteStore {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// Whether an orderly end is noted: that of an agent's run whose database was checked as far as it had to be.
    pub(super) notes_end: Arc<AtomicBool>,
    /// The copy that is being made.
    pub(super) copying: Option<Outcome>,
    #[expect(dead_code, reason = "held, and released when it is dropped")]
    lock: Option<File>,
}

impl SqliteStore {
    /// Opens or creates the database in `state_dir` and locks the directory. Nothing is checked:
    /// [`SqliteStore::open_or_renew`] is for an agent's run.
    ///
    /// # Errors
    /// [`StoreError`]; among them that another agent holds the lock, and that the file is not a sound database.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::connect(state_dir, &lock(state_dir)?)
    }

    /// Opens or creates the database in a directory that is locked.
    pub(super) fn connect(state_dir: &Path, lock: &File) -> Result<Self, StoreError> {
        let directory = |source| StoreError::Directory { path: state_dir.to_owned(), source };
        let path = state_dir.join(DATABASE);
        let connection = Connection::open(&path).map_err(|source| StoreError::Sqlite { path: path.clone(), source })?;
        let lock = lock.try_clone().map_err(directory)?;
        let store = Self { connection, path, notes_end: Arc::default(), copying: None, lock: Some(lock) };
        store.prepare().map_err(|source| store.sqlite(source))?;
        store.migrate()?;
        // The directory entry of a new database must survive a power cut as the database itself does.
        microlambda_runtime::sync_folder(state_dir).map_err(directory)?;
        Ok(store)
    }

    /// Opens an existing database for reading beside a running agent, as it is at the first read: not to be kept open, for it keeps the
    /// write-ahead log from being reused.
    ///
    /// # Errors
    /// [`StoreError`] if there is none, it is not readable, or its files are not what a run leaves.
    pub fn open_read_only(state_dir: &Path) -> Result<Self, StoreError> {
        refuse_camera_agents(state_dir)?;
        // An agent that holds the folder has judged the files itself, and may be making a new database at this moment.
        if let Err(error) = check_files(state_dir)
            && !Self::is_locked(state_dir)
        {
            return Err(error);
        }
        let path = state_dir.join(DATABASE);
        // SQLite would not say why.
        if let Err(mut source) = File::open(&path) {
            if source.kind() == ErrorKind::NotFound {
                let why =
                    format!("it holds no {DATABASE} yet: has `edge-agent run` been started with this configuration?");
                source = std::io::Error::new(ErrorKind::NotFound, why);
            }
            return Err(StoreError::Directory { path: state_dir.to_owned(), source });
        }
        let open = || {
            let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            // All that is read is of one moment: between two reads the agent may commit.
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        };
        let connection = open().map_err(|source| StoreError::Sqlite { path: path.clone(), source })?;
        let store = Self { connection, path, notes_end: Arc::default(), copying: None, lock: None };
        let found = store.user_version()?;
        match found.cmp(&SCHEMA_VERSION) {
            Ordering::Less => Err(StoreError::Older { path: store.path.clone(), found, known: SCHEMA_VERSION }),
            Ordering::Equal => Ok(store),
            Ordering::Greater => Err(store.newer(found)),
        }
    }

    /// Whether an agent holds the state directory at the moment.
    pub fn is_locked(state_dir: &Path) -> bool {
        File::open(state_dir.join("lock")).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // NORMAL could take back, after a power cut, what was already published.
        let synchronous = if sabotage::is_chosen(Sabotage::UnsyncedCommits) { "NORMAL" } else { "FULL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "wal_autocheckpoint", 256)
    }

    pub(super) fn user_version(&self) -> Result<i64, StoreError> {
        self.read(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))
    }

    pub(super) fn newer(&self, found: i64) -> StoreError {
        StoreError::Newer { path: self.path.clone(), found, known: SCHEMA_VERSION }
    }

    pub(super) fn sqlite(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: what.into() }
    }

    /// What `work` reads; an error is told with its file.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.connection).map_err(|source| self.sqlite(source))
    }

    fn write<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let run = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run(&mut self.connection).map_err(|source| StoreError::Sqlite { path: self.path.clone(), source })
    }
}

impl Store for SqliteStore {
    fn chain(&self, name: &Name) -> Result<Option<StoredChain>, StoreError> {
        self.read_chain(name)
    }

    fn chain_summary(&self, name: &Name) -> Result<Option<ChainSummary>, StoreError> {
        self.read_summary("name = ?1", [name.as_str()])
    }

    fn finished_chain(&self, behind: Option<&Name>, lambda: &Digest) -> Result<Option<ChainSummary>, StoreError> {
        // No name is empty.
        let behind = behind.map_or("", Name::as_str);
        let finished = "done = 1 AND lambda = ?2 AND name > ?1 ORDER BY name LIMIT 1";
        self.read_summary(finished, params![behind, lambda.0])
    }

    fn newest_chains(&self, max: usize) -> Result<Vec<StoredChain>, StoreError> {
        self.read_newest_chains(max)
    }

    fn add_chain(
        &mut self,
        name: &Name,
        camera: &Name,
        class: ChainClass,
        genesis: Head,
    ) -> Result<StoredChain, StoreError> {
        let batch = class == ChainClass::Batch;
        let identity = identity(name, camera, batch, &genesis.digest.0);
        self.write(|tx| {
            tx.execute(
                "INSERT OR IGNORE INTO chain (name, camera, batch, lambda, generation, boundary_sequence, boundary_digest,
                 boundary_set_aside, partial, head_unit, head_digest, head_set_aside, holder, done, identity)
                 VALUES (?1, ?2, ?3, ?4, 0, 0, ?4, 0, NULL, 0, ?4, 0, NULL, 0, ?5)",
                params![name.as_str(), camera.as_str(), batch, genesis.digest.0, identity],
            )
        })?;
        self.read_chain(name)?.ok_or_else(|| self.damaged(format!("chain {name}")))
    }

    fn begin(&mut self, chain: &Name, attempt: &Attempt) -> Result<(), StoreError> {
        self.write(|tx| {
            let id = chain_id(tx, chain)?;
            write_attempt(tx, id, Some(attempt))
        })
    }

    fn withdraw(&mut self, chain: &Name) -> Result<(), StoreError> {
        self.write(|tx| {
            let id = chain_id(tx, chain)?;
            write_attempt(tx, id, None)
        })
    }

    fn fail(&mut self, chain: &Name, head: &Head, times: u32, why: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            let id = chain_id(tx, chain)?;
            tx.execute("DELETE FROM attempt WHERE chain = ?1", [id])?;
            tx.execute(
                "INSERT OR REPLACE INTO failure (chain, digest, times, why) VALUES (?1, ?2, ?3, ?4)",
                params![id, head.digest.0, times, why],
            )?;
            Ok(())
        })
    }

    fn advance(&mut self, advance: &Advance<'_>) -> Result<(), StoreError> {
        self.write(|tx| write_advance(tx, advance))
    }

    fn boundary(&self, chain: &Name, sequence: u64) -> Result<Option<Head>, StoreError> {
        self.read_boundary(chain, sequence)
    }

    fn locator(&self, chain: &Name) -> Result<Vec<(u64, Digest)>, StoreError> {
        self.read_locator(chain)
    }

    fn entries(&self, chain: &Name, sequence: u64, bytes_max: usize) -> Result<(Vec<Entry>, Option<Head>), StoreError> {
        self.read_entries(chain, sequence, bytes_max)
    }

    fn gallery_at(&self, chain: &Name, sequence: u64) -> Result<microlambda_faces::fold::Gallery, StoreError> {
        self.read_gallery(chain, sequence)
    }

    fn events_not_on_bus(&self) -> Result<Vec<EventNote>, StoreError> {
        self.read_events_not_on_bus()
    }

    fn note_bus(&mut self, events: &[String], thumbnails: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(|tx| {
            for event in events {
                tx.prepare_cached("UPDATE event SET on_bus = 1 WHERE id = ?1")?.execute([event])?;
            }
            thumbnails.iter().try_for_each(|(face, jpeg)| write_thumbnail(tx, face, jpeg))
        })
    }

    fn faces(&self, chain: Option<&Name>) -> Result<Vec<FaceRow>, StoreError> {
        self.read_faces(chain)
    }

    fn people(&self, chain: &Name, max: usize) -> Result<Vec<String>, StoreError> {
        self.read_people(chain, max)
    }

    fn thumbnail(&self, face: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let query = "SELECT jpeg FROM thumbnail WHERE face = ?1";
        self.read(|connection| connection.query_row(query, [face], |row| row.get(0)).optional())
    }

    fn totals(&self, chain: &Name) -> Result<ChainTotals, StoreError> {
        self.read_totals(chain)
    }

    fn keep_copy(&mut self) -> Copying {
        self.copy_beside()
    }

    fn note_clean_end(&mut self) -> Result<(), StoreError> {
        let folder = self.path.parent().filter(|_| self.notes_end.load(AtomicOrdering::Relaxed));
        folder.map_or(Ok(()), |folder| {
            let directory = |source| StoreError::Directory { path: folder.to_owned(), source };
            microlambda_runtime::last_end::note_clean_end(folder).map_err(directory)
        })
    }
}

/// Makes the state directory unless it is there, and locks it.
pub(super) fn lock(state_dir: &Path) -> Result<File, StoreError> {
    let directory = |source| StoreError::Directory { path: state_dir.to_owned(), source };
    refuse_camera_agents(state_dir)?;
    microlambda_runtime::create_private(state_dir).map_err(directory)?;
    let lock = File::create(state_dir.join("lock")).map_err(directory)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            // A camera agent that has just begun may have made its spool since.
            refuse_camera_agents(state_dir)?;
            Err(StoreError::Locked { path: state_dir.to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(directory(source)),
    }
}

/// That a camera agent keeps its spool in `state_dir` is an error. A spool beside our own database is left over: no camera agent works in such a folder.
fn refuse_camera_agents(state_dir: &Path) -> Result<(), StoreError> {
    let is_camera_agents = state_dir.join(CAMERA_AGENTS).exists() && !state_dir.join(DATABASE).exists();
    if is_camera_agents { Err(StoreError::CameraAgents { path: state_dir.to_owned() }) } else { Ok(()) }
}

pub(super) fn chain_id(connection: &Connection, chain: &Name) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT id FROM chain WHERE name = ?1")?.query_row([chain.as_str()], |row| row.get(0))
}

/// SQLite's integers are signed; sequence numbers beyond 2^63 cannot be stored and are refused.
pub(super) fn integer(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// The digest over what never changes in a chain's row.
pub(super) fn identity(name: &Name, camera: &Name, batch: bool, lambda: &[u8; 32]) -> [u8; 32] {
    let digest = DigestBuilder::new("chain row").field(name.as_str().as_bytes()).field(camera.as_str().as_bytes());
    digest.number(u64::from(batch)).field(lambda).finish().0
}

fn blob<T: serde::Serialize>(value: &T) -> rusqlite::Result<Vec<u8>> {
    to_bytes(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn write_attempt(tx: &Transaction<'_>, chain: i64, attempt: Option<&Attempt>) -> rusqlite::Result<()> {
    match attempt {
        None => tx.prepare_cached("DELETE FROM attempt WHERE chain = ?1")?.execute([chain])?,
        Some(attempt) => tx
            .prepare_cached("INSERT OR REPLACE INTO attempt (chain, digest, epoch, one_unit) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![chain, attempt.step.digest.0, attempt.epoch, attempt.mode == StepMode::OneUnit])?,
    };
    Ok(())
}

fn write_thumbnail(tx: &Transaction<'_>, face: &str, jpeg: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO thumbnail (face, jpeg) VALUES (?1, ?2)")?.execute(params![face, jpeg])?;
    Ok(())
}

fn write_advance(tx: &Transaction<'_>, advance: &Advance<'_>) -> rusqlite::Result<()> {
    let id = chain_id(tx, advance.chain)?;
    let from = integer(advance.from_sequence)?;
    take_back(tx, id, from)?;
    for (entry, folded) in &advance.entries {
        write_entry(tx, id, entry, folded)?;
        write_sightings(tx, (id, advance.chain), entry, folded, advance.thumbnails, false)?;
    }
    let boundary = advance.fold.head();
    let partial = advance.partial.map(blob).transpose()?;
    // Another branch may not have come to the end that this one had.
    let done = advance.entries.last().map(|(_, folded)| folded.done);
    tx.prepare_cached(
        "UPDATE chain SET boundary_sequence = ?2, boundary_digest = ?3, boundary_set_aside = ?4, partial = ?5, head_unit = ?6,
         head_digest = ?7, head_set_aside = ?8, holder = ?9, done = coalesce(?10, done), generation = ?11
         WHERE id = ?1",
    )?
    .execute(params![
        id,
        integer(boundary.version.sequence)?,
        boundary.digest.0,
        boundary.set_aside,
        partial,
        advance.head.version.unit,
        advance.head.digest.0,
        advance.head.set_aside,
        advance.holder,
        done,
        boundary.version.generation,
    ])?;
    write_attempt(tx, id, advance.then.as_ref())?;
    tx.prepare_cached("DELETE FROM failure WHERE chain = ?1")?.execute([id])?;
    Ok(())
}

/// Takes back what records from `from` on have led to. Everything else comes with an entry, so that there is hardly ever anything to look for: the
/// tables of people and events are not in the order of records.
fn take_back(tx: &Transaction<'_>, chain: i64, from: i64) -> rusqlite::Result<()> {
    let query = "SELECT EXISTS (SELECT 1 FROM entry WHERE chain = ?1 AND sequence >= ?2)";
    if !tx.prepare_cached(query)?.query_row([chain, from], |row| row.get::<_, bool>(0))? {
        return Ok(());
    }
    for statement in [
        "DELETE FROM entry WHERE chain = ?1 AND sequence >= ?2",
        "DELETE FROM sighting WHERE chain = ?1 AND sequence >= ?2",
        "DELETE FROM exemplar WHERE chain = ?1 AND sequence >= ?2",
        "DELETE FROM person WHERE chain = ?1 AND first_sequence >= ?2",
        "UPDATE event SET superseded = 1 WHERE chain = ?1 AND sequence >= ?2",
    ] {
        tx.prepare_cached(statement)?.execute([chain, from])?;
    }
    Ok(())
}

fn write_entry(tx: &Transaction<'_>, chain: i64, entry: &Entry, folded: &Folded) -> rusqlite::Result<()> {
    let sequence = integer(entry.sequence)?;
    let totals = totals_before(tx, chain, sequence)?.with(entry);
    tx.prepare_cached(
        "INSERT INTO entry (chain, sequence, next_sequence, body, digest, generation, set_aside, frames, unreadable, faces_seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        chain,
        sequence,
        integer(entry.next_sequence())?,
        blob(entry)?,
        folded.head.digest.0,
        folded.head.version.generation,
        folded.head.set_aside,
        integer(totals.frames)?,
        integer(totals.unreadable)?,
        integer(totals.faces_seen)?
    ])?;
    Ok(())
}

/// Writes whom a record's faces were taken for. Events of the past are not news: they count as published.
pub(super) fn write_sightings(
    tx: &Transaction<'_>,
    (chain, name): (i64, &Name),
    entry: &Entry,
    folded: &Folded,
    thumbnails: &[Thumbnail],
    of_the_past: bool,
) -> rusqlite::Result<()> {
    let sequence = integer(entry.sequence)?;
    let (Record::Frame { captured_at_ms, label, .. }, Some(Analysis::Frame(analysis))) =
        (&entry.record, &entry.analysis)
    else {
        return Ok(());
    };
    let captured_at_ms = integer(*captured_at_ms)?;
    for sighting in &folded.sightings {
        let index = sighting.face_index;
        let at = FaceAt { sequence: entry.sequence, face_index: index };
        let person = sighting.person as i64;
        let face = event_id(name.as_str(), sighting.first);
        if sighting.event == Some(EventKind::NewFace) {
            tx.prepare_cached(
                "INSERT INTO person (chain, number, face, first_sequence, first_face_index, first_seen_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![chain, person, face, sequence, index, captured_at_ms])?;
            if let Some(picture) = thumbnails.iter().find(|picture| picture.at == at) {
                write_thumbnail(tx, &face, &picture.jpeg)?;
            }
        }
        if sighting.kept
            && let Some(FaceOutcome::Encoded(encoding)) = analysis.faces.get(index as usize).map(|face| &face.outcome)
        {
            let bytes = encoding_bytes(encoding);
            tx.prepare_cached(
                "INSERT INTO exemplar (chain, person, sequence, face_index, encoding) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![chain, person, sequence, index, bytes])?;
        }
        tx.prepare_cached(
            "INSERT INTO sighting (chain, sequence, face_index, person, distance, captured_at_ms, frames, last_seen_ms, label)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            chain,
            sequence,
            index,
            person,
            sighting.distance,
            captured_at_ms,
            integer(sighting.frames)?,
            integer(sighting.last_seen_ms)?,
            label
        ])?;
        if let Some(kind) = sighting.event {
            let id = event_id(name.as_str(), at);
            tx.prepare_cached(
                "INSERT INTO event (id, chain, sequence, face_index, kind, face, captured_at_ms, label, on_bus, superseded)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0)
                 ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, face = excluded.face, superseded = 0",
            )?
            .execute(params![id, chain, sequence, index, kind.as_str(), face, captured_at_ms, label, of_the_past])?;
        }
    }
    Ok(())
}
