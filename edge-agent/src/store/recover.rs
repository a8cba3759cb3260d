//! Opening a database that may have been damaged while it lay on the disk: it is checked, and kept aside if it is.
//!
//! What is checked, and why not everything every time: reading a whole database takes minutes on a large one and a slow card, and
//! a node that is not there finds nobody. So at each start SQLite's header, the schema, and what the node works with are checked
//! ([`SqliteStore::quick_look`]); what lies behind is old, and whoever is sent it folds it and compares the digest. After an end that
//! was not in order all of it is read beside the node's work, up to [`CHECK_BESIDE_MS_MAX`], for power cuts are when cards fail
//! ([`Rest::check`]); damage found there is believed by the next start. After an error that told of damage, everything is checked however long it takes, for the node could not work anyway.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use microlambda_faces::FaceParams;
use microlambda_runtime::last_end::{self, LastEnd, is_gone, is_removed, keep_aside, note_running};
use microlambda_runtime::notify;

use super::check::{Depth, Findings};
use super::sqlite::{DATABASE, SqliteStore, lock};
use super::{CHAINS_OPEN_MAX, Room, StoreError, copies};

/// How long the check beside the node's work goes on, ms: the write-ahead log is not reused meanwhile.
const CHECK_BESIDE_MS_MAX: u64 = 120_000;
/// What reads all of a database beside the node's work leaves the processor to everything else (nice(2)).
pub(super) const BESIDE_NICENESS: i32 = 5;
/// Damage seen so many times in a row, which no check finds, is believed.
const DAMAGES_BELIEVED: u32 = 2;
/// Findings told at most.
const TOLD_MAX: usize = 3;

/// A database, as good as it could be had.
pub struct Opened {
    /// The store, open and locked.
    pub store: SqliteStore,
    /// The one that it replaces, if that was found damaged now.
    pub damaged: Option<KeptAside>,
    /// Damaged ones that are kept beside it in all.
    pub kept: u32,
    /// Copies of what it held before a new generation took the place of records, which are kept beside it.
    pub copies: u32,
    /// What is to be checked beside the work.
    pub rest: Option<Rest>,
}

/// A database that is to be checked beside the work of its node.
pub struct Rest {
    state_dir: PathBuf,
    faces: FaceParams,
    /// The store's: an orderly end counts as one once nothing is left to check.
    notes_end: Arc<AtomicBool>,
}

impl Rest {
    /// Checks it on the calling thread, which leaves others the more part of the processor from now on. Damage is noted for the next start.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is; else why it cannot be read.
    pub fn check(&self) -> Result<(), StoreError> {
        let outcome = self.read();
        if outcome.as_ref().is_err_and(StoreError::is_damage)
            && let Err(why) = last_end::note_damage_found(&self.state_dir)
        {
            // The next start finds it once more.
            log::error!("the damage cannot be noted for the next start: {why}");
        }
        outcome
    }

    fn read(&self) -> Result<(), StoreError> {
        // On Linux this is the thread's own. A system that refuses is one on which the check costs a little more.
        let _ = rustix::process::setpriority_process(None, BESIDE_NICENESS);
        let store = SqliteStore::open_read_only(&self.state_dir)?;
        let until = Instant::now() + Duration::from_millis(CHECK_BESIDE_MS_MAX);
        store.check_content(&self.faces, Depth::Pages, Some(until)).map(|found| {
            self.notes_end.store(!found.cut_short, Ordering::Relaxed);
            let extent = if found.cut_short {
                "as far as it was checked: `edge-agent check` checks the rest"
            } else {
                "all of it"
            };
            log::info!(records = found.records; "the database is sound, {extent}");
        })
    }
}

/// A damaged database that was moved into a folder of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAside {
    /// The folder it is in now.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl SqliteStore {
    /// Opens or creates the database in `state_dir` for an agent's run, and locks the directory. A damaged one is moved into a folder
    /// of its own, and a new one takes its place.
    ///
    /// # Errors
    /// As for [`SqliteStore::open`], but for damage: a full disk, a lack of permission, a failing disk and a newer schema are errors,
    /// and leave the database where it is. It is an error too that too many damaged ones are kept already.
    pub fn open_or_renew(state_dir: &Path, faces: &FaceParams) -> Result<Opened, StoreError> {
        let directory = |source| StoreError::Directory { path: state_dir.to_owned(), source };
        let lock = lock(state_dir)?;
        copies::remove_begun(state_dir).map_err(directory)?;
        let mut end = last_end::last_end(state_dir).map_err(directory)?;
        if is_removed(state_dir, DATABASE, end) {
            log::warn!(folder:% = state_dir.display(); "the database was removed: a new one begins, and peers send what they hold");
            end = LastEnd::Never;
        }
        let mut rest = None;
        let (store, damages, damaged) = match Self::open_checked(state_dir, &lock, faces, end) {
            Ok((store, damages, is_checked)) => {
                let (state_dir, notes_end) = (state_dir.to_owned(), Arc::clone(&store.notes_end));
                rest = (!is_checked).then_some(Rest { state_dir, faces: *faces, notes_end });
                (store, damages, None)
            }
            Err(error) if error.is_damage() => {
                let why = error.what();
                let folder = keep_aside(state_dir, DATABASE).map_err(directory)?;
                log::error!(folder:% = folder.display(), why = why.as_str();
                    "the database is damaged: it is kept in this folder, and a new one begins. Peers send what they hold, and what nobody \
                     holds is made again from the frames in the camera's spool. Remove the folder once all is well; check the disk");
                (Self::connect(state_dir, &lock)?, 0, Some(KeptAside { folder, why }))
            }
            Err(error) => return Err(error),
        };
        note_running(state_dir, damages).map_err(directory)?;
        store.notes_end.store(rest.is_none(), Ordering::Relaxed);
        let (kept, copies) = (last_end::kept_aside(state_dir), copies::kept(state_dir));
        Ok(Opened { store, damaged, kept, copies, rest })
    }

    /// The database, how often in a row damage was seen that no check found, and whether all was checked that is to be.
    fn open_checked(
        state_dir: &Path,
        lock: &File,
        faces: &FaceParams,
        end: LastEnd,
    ) -> Result<(Self, u32, bool), StoreError> {
        refuse_gone(state_dir, end)?;
        if matches!(end, LastEnd::DamageSeen(DAMAGES_BELIEVED..)) {
            let what = "what was read while running, as a check said or the second such run in a row,".to_owned();
            return Err(StoreError::Damaged { path: state_dir.join(DATABASE), what });
        }
        let store = Self::connect(state_dir, lock)?;
        store.quick_look(faces, CHAINS_OPEN_MAX)?;
        match end {
            LastEnd::Never | LastEnd::Clean => Ok((store, 0, true)),
            LastEnd::Unclean(damages) => {
                log::info!("the last run did not end in order: the database is checked beside the work");
                Ok((store, damages, false))
            }
            LastEnd::DamageSeen(damages) => {
                log::info!("the last run told of damage: the database is checked first");
                notify::while_starting(|| store.check_content(faces, Depth::Everything, None))?;
                Ok((store, damages, true))
            }
        }
    }

    /// Whether the disk has so much room.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if it has not: one that is full for a while is full for everything else on it too.
    pub fn need_room(&self, bytes: u64) -> Result<(), StoreError> {
        let error = |source| StoreError::Directory { path: self.path.clone(), source };
        let room = Room::of(&self.path).map_err(error)?;
        if room.free_bytes >= bytes {
            return Ok(());
        }
        let needed_mb = bytes.div_ceil(1_000_000);
        let why = format!("its disk has {} MB free, and {needed_mb} are needed: make room on it", room.free_mb());
        Err(error(std::io::Error::new(ErrorKind::StorageFull, why)))
    }

    /// Checks as [`SqliteStore::check`] does; what is wrong is an error here.
    fn check_content(&self, faces: &FaceParams, depth: Depth, until: Option<Instant>) -> Result<Findings, StoreError> {
        let found = self.check(faces, depth, until)?;
        if found.sound {
            return Ok(found);
        }
        let told: Vec<&str> = found.problems.iter().map(String::as_str).take(TOLD_MAX).collect();
        Err(self.damaged(format!("the content ({})", told.join("; "))))
    }
}

/// Whether the files in `state_dir` are what a run leaves there. A report asks before it opens the database, for SQLite takes an empty one for a new one.
///
/// # Errors
/// As the next start will judge: [`StoreError::Damaged`] if the database is missing or empty, and no damage if it was removed with its log.
pub(super) fn check_files(state_dir: &Path) -> Result<(), StoreError> {
    let directory = |source| StoreError::Directory { path: state_dir.to_owned(), source };
    let end = last_end::last_end(state_dir).map_err(directory)?;
    if is_removed(state_dir, DATABASE, end) {
        let why =
            format!("{DATABASE} was removed from it: `edge-agent run` begins a new one, and peers send what they hold");
        return Err(directory(std::io::Error::new(ErrorKind::NotFound, why)));
    }
    refuse_gone(state_dir, end)
}

fn refuse_gone(state_dir: &Path, end: LastEnd) -> Result<(), StoreError> {
    if !is_gone(state_dir, DATABASE, end) {
        return Ok(());
    }
    Err(StoreError::Damaged { path: state_dir.join(DATABASE), what: "the file, which is missing or empty,".to_owned() })
}
