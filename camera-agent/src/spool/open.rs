//! Opening a spool: lock, format, and whether it is the one that was asked for.

use std::fs::{File, TryLockError};
use std::path::Path;

use microlambda_wire::{ChainClass, EndMark, Name};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{number, sql};
use super::{Limits, Spool, SpoolError, View, digest_of, empty_manifest};

const SCHEMA: &str = include_str!("schema.sql");
/// `user_version` of the schema above.
const FORMAT: i64 = 1;
const DATABASE: &str = "spool.sqlite";
const LOCK: &str = "lock";
/// SQLite's page cache, KiB: a frame's pages and the upper levels of two small trees.
const CACHE_KIB: i64 = 512;

/// What a spool is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The camera.
    pub camera: Name,
    /// Live or with an end.
    pub class: ChainClass,
    /// What a finite input is read from.
    pub source: String,
}

impl Identity {
    fn describe(&self) -> String {
        match self.class {
            ChainClass::Live => format!("the live stream of camera {}", self.camera),
            ChainClass::Batch => format!("the job of camera {} over {}", self.camera, self.source),
        }
    }
}

fn class_text(class: ChainClass) -> &'static str {
    match class {
        ChainClass::Live => "live",
        ChainClass::Batch => "batch",
    }
}

impl Spool {
    /// Opens the spool in `folder`, or makes a new one with a new chain.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn open(folder: &Path, identity: &Identity, limits: Limits, now_ms: u64) -> Result<Self, SpoolError> {
        let lock = lock(folder)?;
        let mut db = connect(folder)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match found {
            FORMAT => {}
            0 => create(&mut db, identity, now_ms)?,
            _ => return Err(SpoolError::Newer { folder: folder.display().to_string(), found, known: FORMAT }),
        }
        let held = held_identity(&db)?;
        // A live camera may get another device; a finite input is what its numbers count.
        let same = held.camera == identity.camera
            && held.class == identity.class
            && (held.class == ChainClass::Live || held.source == identity.source);
        if !same {
            return Err(SpoolError::Other {
                folder: folder.display().to_string(),
                holds: held.describe(),
                asked: identity.describe(),
            });
        }
        load(db, lock, limits, identity.class)
    }
}

/// Deletes the spool in `folder`, so that [`Spool::open`] starts a new chain. True if there was one.
///
/// # Errors
/// [`SpoolError::InUse`] or [`SpoolError::Folder`].
pub fn replace(folder: &Path) -> Result<bool, SpoolError> {
    let _lock = lock(folder)?;
    let mut found = false;
    // The database first: a log without its database is ignored, a database without its log would use numbers twice.
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(folder.join(format!("{DATABASE}{suffix}"))) {
            Ok(()) => found = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(SpoolError::Folder { folder: folder.display().to_string(), why: error.to_string() });
            }
        }
    }
    Ok(found)
}

fn lock(folder: &Path) -> Result<File, SpoolError> {
    let unusable =
        |error: std::io::Error| SpoolError::Folder { folder: folder.display().to_string(), why: error.to_string() };
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
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "foreign_keys", false)?;
    Ok(db)
}

fn create(db: &mut Connection, identity: &Identity, now_ms: u64) -> Result<(), SpoolError> {
    let mut id = [0_u8; 4];
    getrandom::fill(&mut id)
        .map_err(|error| SpoolError::Folder { folder: "the spool".into(), why: error.to_string() })?;
    let chain = format!("{}-{:08x}", identity.camera, u32::from_be_bytes(id));
    let transaction = db.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute(
        "INSERT INTO spool (id, chain, camera, class, source, created_at_ms, next, sent_mark, manifest)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, 0, 0, ?6)",
        params![
            chain,
            identity.camera.as_str(),
            class_text(identity.class),
            identity.source,
            sql(now_ms),
            empty_manifest().0.as_slice()
        ],
    )?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(())
}

fn held_identity(db: &Connection) -> Result<Identity, SpoolError> {
    let (camera, class, source): (String, String, String) =
        db.query_row("SELECT camera, class, source FROM spool", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let class = if class == "live" { ChainClass::Live } else { ChainClass::Batch };
    Ok(Identity { camera: name(camera)?, class, source })
}

fn load(db: Connection, lock: File, limits: Limits, class: ChainClass) -> Result<Spool, SpoolError> {
    let (chain, next, sent_mark, manifest, end_count): (String, i64, i64, Vec<u8>, Option<i64>) =
        db.query_row("SELECT chain, next, sent_mark, manifest, end_count FROM spool", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
    let (frames, bytes): (i64, i64) = db
        .query_row("SELECT count(*), coalesce(sum(frame_bytes), 0) FROM record WHERE kind = 'frame'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?
        .unwrap_or_default();
    let manifest = digest_of(&manifest);
    let view = View {
        chain: name(chain)?,
        class,
        oldest: number(next),
        next: number(next),
        end: end_count.map(|count| EndMark { count: number(count), manifest }),
        frames: number(frames),
        bytes: number(bytes),
    };
    let sent_mark = number(sent_mark);
    let mut spool = Spool { db, _lock: lock, limits, view, sent_mark, manifest, missed: 0, last_read: None };
    spool.refresh_oldest()?;
    Ok(spool)
}

/// A name that we wrote ourselves; anything else is damage.
fn name(text: String) -> Result<Name, SpoolError> {
    Name::new(text).map_err(|_| SpoolError::Database(rusqlite::Error::InvalidQuery))
}
