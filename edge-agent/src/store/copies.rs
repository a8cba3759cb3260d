//! Copies of the whole database, kept before records are replaced that nobody else may have.
//!
//! SQLite makes one as of one moment (`VACUUM INTO`), on a thread of its own beside the node's work. Its folder gets
//! its name once all is synced: so one of that name is whole, and one that was only begun is removed by the next start.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};

use microlambda_runtime::last_end::{free_place, kept_as};
use microlambda_runtime::{create_private, sync_folder};

use super::StoreError;
use super::recover::BESIDE_NICENESS;
use super::sqlite::{DATABASE, SqliteStore};

/// Folders of copies are called this with a number behind …
const COPY: &str = "replaced-";
/// … and one that is being made this.
const BEGUN: &str = "replaced-begun";
/// So many copies are kept: each takes as much room as the database did.
const COPIES_MAX: u32 = 2;
/// A copy leaves so much of its disk to the node that goes on writing there, bytes.
const LEFT_BYTES_MIN: u64 = 64 << 20;

/// How a copy of a store is getting on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copying {
    /// It is being made, and has all that was committed when it was first asked for.
    UnderWay,
    /// It is durable, in this folder.
    Made(PathBuf),
    /// There is none, and why.
    Refused(String),
}

/// Where the thread that makes a copy says what became of it.
pub(super) type Outcome = Receiver<Result<PathBuf, StoreError>>;

impl SqliteStore {
    /// Begins a copy, or says what has become of the one that was begun.
    pub(super) fn copy_beside(&mut self) -> Copying {
        let Some(outcome) = &self.copying else {
            return match self.begin_copy() {
                Ok(outcome) => {
                    self.copying = Some(outcome);
                    Copying::UnderWay
                }
                Err(why) => Copying::Refused(why.what()),
            };
        };
        let made = match outcome.try_recv() {
            Ok(made) => made.map_err(|why| why.what()),
            Err(TryRecvError::Empty) => return Copying::UnderWay,
            Err(TryRecvError::Disconnected) => Err("the thread that made it has ended".to_owned()),
        };
        self.copying = None;
        made.map_or_else(Copying::Refused, Copying::Made)
    }

    fn begin_copy(&self) -> Result<Outcome, StoreError> {
        let state_dir = self.path.parent().unwrap_or(Path::new("."));
        let directory = |source| StoreError::Directory { path: state_dir.to_owned(), source };
        let place = free_place(state_dir, COPY, COPIES_MAX).ok_or_else(|| {
            let why =
                format!("{COPIES_MAX} copies are kept in it already: remove its folders `{COPY}…` that nobody needs");
            directory(io::Error::new(ErrorKind::StorageFull, why))
        })?;
        let log = self.path.with_extension("sqlite-wal");
        let bytes: u64 = [&self.path, &log].map(|file| fs::metadata(file).map_or(0, |file| file.len())).iter().sum();
        self.need_room(bytes.saturating_add(LEFT_BYTES_MIN))?;
        let (made, outcome) = mpsc::channel();
        let from = state_dir.to_owned();
        let copy = move || {
            // On Linux this is the thread's own. A system that refuses is one on which the copy costs a little more.
            let _ = rustix::process::setpriority_process(None, BESIDE_NICENESS);
            drop(made.send(copy_to(&from, place)));
        };
        std::thread::Builder::new().name("copy".into()).spawn(copy).map_err(directory)?;
        Ok(outcome)
    }
}

/// Copies the database in `state_dir` into the folder `place`, which is there once all is durable.
fn copy_to(state_dir: &Path, place: PathBuf) -> Result<PathBuf, StoreError> {
    let directory = |source| StoreError::Directory { path: state_dir.to_owned(), source };
    remove_begun(state_dir).map_err(directory)?;
    let begun = state_dir.join(BEGUN);
    let name = || fs::rename(&begun, &place).and_then(|()| sync_folder(state_dir)).map_err(directory);
    let copied = fill(state_dir, &begun).and_then(|()| name());
    if copied.is_err()
        && let Err(why) = remove_begun(state_dir)
    {
        log::warn!(folder:% = begun.display(); "a copy that failed cannot be removed; the next start tries: {why}");
    }
    copied.map(|()| place)
}

fn fill(state_dir: &Path, begun: &Path) -> Result<(), StoreError> {
    let directory = |source| StoreError::Directory { path: begun.to_owned(), source };
    create_private(begun).map_err(directory)?;
    let copy = begun.join(DATABASE);
    let Some(copy_name) = copy.to_str() else {
        return Err(directory(io::Error::new(ErrorKind::InvalidInput, "SQLite takes only names in UTF-8")));
    };
    let store = SqliteStore::open_read_only(state_dir)?;
    store.read(|connection| {
        // It reads in a transaction of its own.
        connection.execute_batch("COMMIT")?;
        connection.execute("VACUUM INTO ?1", [copy_name])
    })?;
    File::open(&copy).and_then(|file| file.sync_all()).and_then(|()| sync_folder(begun)).map_err(directory)
}

/// How many copies are kept in a state directory.
pub(super) fn kept(state_dir: &Path) -> u32 {
    kept_as(state_dir, COPY, COPIES_MAX)
}

/// Removes what was begun of a copy when the process or the power went.
///
/// # Errors
/// What the system says.
pub(super) fn remove_begun(state_dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(state_dir.join(BEGUN)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
