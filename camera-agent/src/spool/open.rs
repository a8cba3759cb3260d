//! Opening a spool: lock, format, and whether it is the one that was asked for.

use std::fs::{File, TryLockError};
use std::path::{Component, Path, PathBuf};

use microlambda::Digest;
use microlambda::sabotage::{self, Sabotage};
use microlambda_runtime::without_passwords;
use microlambda_wire::{ChainClass, EndMark, Name};
use rusqlite::{Connection, OptionalExtension, params};

use super::recover::{Marks, identity_of, own_schema, schema_of, seal_of_marks};
use super::rows::{digest_at, integer, unsigned, unsigned_if_any};
use super::{Limits, Spool, SpoolError, View, empty_manifest};

pub(super) const SCHEMA: &str = include_str!("schema.sql");
/// `user_version` of the schema above.
const FORMAT: i64 = 2;
pub(super) const DATABASE: &str = "spool.sqlite";
const LOCK: &str = "lock";
/// The database of an edge agent, whose lock and note of its last end have the names of ours.
const EDGE_AGENTS: &str = "edge.sqlite";
/// SQLite's page cache, KiB: a frame's pages and the upper levels of two small trees.
const CACHE_KIB: i64 = 512;

/// What a spool is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The camera whose spool it is.
    pub camera: Name,
    /// Whether the camera's chain is live or has an end.
    pub class: ChainClass,
    /// What a finite input is read from.
    pub source: String,
}

/// In the description of a source, what stands before the path of a folder.
pub const FOLDER_PREFIX: &str = "folder ";

impl Identity {
    fn describe(&self) -> String {
        match self.class {
            ChainClass::Live => format!("the live stream of camera {}", self.camera),
            ChainClass::Batch => {
                format!("the job of camera {} over {}", self.camera, without_passwords(&self.source))
            }
        }
    }
}

impl Spool {
    /// Opens the spool in `folder`, or makes a new one with a new chain. [`Spool::open_or_renew`] is for an agent's run.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn open(folder: &Path, identity: &Identity, limits: Limits, now_ms: u64) -> Result<Self, SpoolError> {
        Self::open_locked(folder, lock(folder)?, identity, limits, now_ms)
    }

    pub(super) fn open_locked(
        folder: &Path,
        lock: File,
        identity: &Identity,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Self, SpoolError> {
        let mut db = connect(folder)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let schema = schema_of(&db)?;
        match found {
            1 if schema != *own_schema()? => migrate_from_1(&mut db)?,
            FORMAT if schema == *own_schema()? => {}
            FORMAT => return Err(SpoolError::damaged("its schema")),
            0 if schema.is_empty() => create(&mut db, identity, now_ms)?,
            // A newer program has raised the number with a change of the schema.
            _ if found <= 0 || schema == *own_schema()? => return Err(SpoolError::damaged("its format's number")),
            _ => return Err(SpoolError::Newer { folder: folder.display().to_string(), found, known: FORMAT }),
        }
        // The names of a new database and its log must survive a power cut as they do.
        microlambda_runtime::sync_folder(folder).map_err(|error| SpoolError::folder(folder, &error))?;
        let held = held_identity(&db)?;
        // A damaged row must not pass for somebody else's.
        let spool = load(db, lock, limits, &held)?;
        spool.check_rows()?;
        // A live camera may get another device; a finite input is what its numbers count, whatever the password to it. Former
        // builds have written that down.
        let same = held.camera == identity.camera
            && held.class == identity.class
            && (held.class == ChainClass::Live
                || is_same_source(&held.source, &identity.source)
                || without_passwords(&held.source) == identity.source);
        if !same {
            return Err(SpoolError::Other {
                folder: folder.display().to_string(),
                holds: held.describe(),
                asked: identity.describe(),
                untouched: spool.view().next == 0,
            });
        }
        Ok(spool)
    }
}

/// Whether two descriptions name one finite input: the path of a folder can be written in more than one way.
fn is_same_source(held: &str, asked: &str) -> bool {
    let path = |source: &str| {
        let components = Path::new(source.strip_prefix(FOLDER_PREFIX)?).components();
        Some(components.filter(|component| *component != Component::CurDir).collect::<PathBuf>())
    };
    held == asked || path(held).is_some_and(|held| Some(held) == path(asked))
}

/// Deletes the spool in `folder`, so that [`Spool::open`] starts a new chain. True if there was one.
///
/// # Errors
/// [`SpoolError::InUse`], [`SpoolError::EdgeAgents`] or [`SpoolError::Folder`].
pub fn replace(folder: &Path) -> Result<bool, SpoolError> {
    let _lock = lock(folder)?;
    let mut found = false;
    microlambda_runtime::last_end::forget(folder).map_err(|error| SpoolError::folder(folder, &error))?;
    // The database first: a log without its database is ignored, a database without its log would use numbers twice.
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(folder.join(format!("{DATABASE}{suffix}"))) {
            Ok(()) => found = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SpoolError::folder(folder, &error)),
        }
    }
    Ok(found)
}

pub(super) fn lock(folder: &Path) -> Result<File, SpoolError> {
    let unusable = |error: std::io::Error| SpoolError::folder(folder, &error);
    if folder.join(EDGE_AGENTS).exists() {
        return Err(SpoolError::EdgeAgents(folder.display().to_string()));
    }
    microlambda_runtime::create_private(folder).map_err(unusable)?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK)).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(folder.display().to_string())),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

fn connect(folder: &Path) -> Result<Connection, SpoolError> {
    let db = Connection::open(folder.join(DATABASE))?;
    db.pragma_update(None, "page_size", 8_192)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let why = format!("its file system cannot hold a write-ahead log (journal mode {mode})");
        return Err(SpoolError::Folder { folder: folder.display().to_string(), why });
    }
    // NORMAL may roll a commit back after a power cut; what was announced must stay.
    let synchronous = if sabotage::is_chosen(Sabotage::UnsyncedCommits) { "NORMAL" } else { "FULL" };
    db.pragma_update(None, "synchronous", synchronous)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "foreign_keys", false)?;
    Ok(db)
}

fn create(db: &mut Connection, identity: &Identity, now_ms: u64) -> Result<(), SpoolError> {
    let chain = draw_chain(&identity.camera)?;
    let class = identity.class.as_str();
    let marks = Marks { next: 0, sent_mark: 0, manifest: empty_manifest(), end_count: None, generation: 0 };
    let seal = seal_of_marks(identity_of(chain.as_str(), identity, class, now_ms), &marks);
    let transaction = db.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute(
        "INSERT INTO spool (id, chain, camera, class, source, created_at_ms, next, sent_mark, manifest, generation, seal)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, 0, 0, ?6, 0, ?7)",
        params![
            chain.as_str(),
            identity.camera.as_str(),
            class,
            identity.source,
            integer(now_ms)?,
            marks.manifest.0.as_slice(),
            seal.0.as_slice()
        ],
    )?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(())
}

/// Format 1 did not know where something moved.
fn migrate_from_1(db: &mut Connection) -> Result<(), SpoolError> {
    let own = own_schema()?.iter().find_map(|object| object.strip_prefix("table record ")).unwrap_or_default();
    let columns = "sequence, kind, span, captured_at_ms, digest, label, frame_bytes, generation, seal";
    let transaction = db.transaction()?;
    // Made anew, not altered: whoever opens the spool compares the schema with its own, letter by letter.
    transaction.execute_batch(&format!(
        "CREATE TEMP TABLE former AS SELECT {columns} FROM main.record;
         DROP TABLE main.record;
         {own};
         INSERT INTO main.record ({columns}) SELECT {columns} FROM former;
         DROP TABLE former;"
    ))?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    if schema_of(&transaction)? != *own_schema()? {
        return Err(SpoolError::damaged("its schema"));
    }
    transaction.commit()?;
    Ok(())
}

/// A name for a chain that no other has.
pub(super) fn draw_chain(camera: &Name) -> Result<Name, SpoolError> {
    let mut id = [0_u8; 4];
    getrandom::fill(&mut id).map_err(|error| SpoolError::NoRandomness(error.to_string()))?;
    name(format!("{camera}-{:08x}", u32::from_be_bytes(id)))
}

/// Gives the spool another chain; the digest of what never changes in its row of marks from now on.
pub(super) fn rename_chain(db: &Connection, chain: &Name) -> Result<Digest, SpoolError> {
    db.execute("UPDATE spool SET chain = ?1", [chain.as_str()])?;
    let held = held_identity(db)?;
    let created_at_ms = db.query_row("SELECT created_at_ms FROM spool", [], |row| unsigned(row, 0))?;
    Ok(identity_of(chain.as_str(), &held, held.class.as_str(), created_at_ms))
}

fn held_identity(db: &Connection) -> Result<Identity, SpoolError> {
    let held: Option<(String, String, String)> = db
        .query_row("SELECT camera, class, source FROM spool", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (camera, class, source) = held.ok_or_else(|| SpoolError::damaged("the row of its marks, which is missing,"))?;
    let class =
        ChainClass::parse(&class).ok_or_else(|| SpoolError::damaged(format!("the class {class:?} of its chain")))?;
    Ok(Identity { camera: name(camera)?, class, source })
}

fn load(db: Connection, lock: File, limits: Limits, held: &Identity) -> Result<Spool, SpoolError> {
    let (chain, marks, created_at_ms, seal) = db.query_row(
        "SELECT chain, next, sent_mark, manifest, end_count, generation, created_at_ms, seal FROM spool",
        [],
        |row| {
            let marks = Marks {
                next: unsigned(row, 1)?,
                sent_mark: unsigned(row, 2)?,
                manifest: digest_at(row, 3)?,
                end_count: unsigned_if_any(row, 4)?,
                generation: row.get(5)?,
            };
            Ok((row.get::<_, String>(0)?, marks, unsigned(row, 6)?, digest_at(row, 7)?))
        },
    )?;
    let identity = identity_of(&chain, held, held.class.as_str(), created_at_ms);
    if seal != seal_of_marks(identity, &marks) {
        return Err(SpoolError::damaged("the row of its marks"));
    }
    let (frames, bytes) = db
        .query_row("SELECT count(*), coalesce(sum(frame_bytes), 0) FROM record WHERE kind = 'frame'", [], |row| {
            Ok((unsigned(row, 0)?, unsigned(row, 1)?))
        })
        .optional()?
        .unwrap_or_default();
    let passed_over = db.query_row("SELECT count(*) FROM input WHERE spooled = 0", [], |row| unsigned(row, 0))?;
    let view = View {
        chain: name(chain)?,
        class: held.class,
        oldest: marks.next,
        oldest_end: marks.next,
        next: marks.next,
        end: marks.end_count.map(|count| EndMark { count, manifest: marks.manifest }),
        frames,
        bytes,
        passed_over,
    };
    let mut spool = Spool {
        db,
        _lock: lock,
        limits,
        opened_at: view.next,
        view,
        sent_mark: marks.sent_mark,
        manifest: marks.manifest,
        generation: marks.generation,
        identity,
        camera: held.camera.clone(),
        missed: 0,
        last_read: None,
    };
    spool.refresh_oldest()?;
    Ok(spool)
}

/// A name that we wrote ourselves; anything else is damage.
fn name(text: String) -> Result<Name, SpoolError> {
    Name::new(text).map_err(|_| SpoolError::damaged("a name"))
}
