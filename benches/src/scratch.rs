//! Where the databases and brokers of benchmarks lie: on the disk that the project is built on. The folder for temporary files is memory on many
//! systems, where a durable commit costs nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::machine::file_system;
use crate::{Error, bench_dir};

/// Held in a folder by the process whose folder it is, and gone with that, however it ends.
const LOCK: &str = "lock";

/// A folder of its own, removed on drop.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    _lock: File,
}

impl Scratch {
    /// A new one; folders of benchmarks that were killed are removed.
    ///
    /// # Errors
    /// It would lie in memory, or cannot be made.
    pub(crate) fn new() -> Result<Self, Error> {
        let all = scratch_dir();
        on_a_disk(&all, &file_system(&all))?;
        Self::within(&all)
    }

    fn within(all: &Path) -> Result<Self, Error> {
        fs::create_dir_all(all)?;
        // Nobody looks for abandoned folders while a new one has no lock yet.
        let turn = File::create(all.join(LOCK))?;
        turn.lock()?;
        for folder in fs::read_dir(all)? {
            let folder = folder?.path();
            if File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
                fs::remove_dir_all(&folder)?;
            }
        }
        let dir = tempfile::Builder::new().prefix("").tempdir_in(all)?;
        let lock = File::create(dir.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self { dir, _lock: lock })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The folder that all of them lie in.
pub(crate) fn scratch_dir() -> PathBuf {
    bench_dir().join("scratch")
}

/// Refuses a file system that is memory.
fn on_a_disk(path: &Path, file_system: &str) -> Result<(), Error> {
    if !["tmpfs", "ramfs"].contains(&file_system) {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "{path} is on {file_system}, that is in memory, where a durable commit costs nothing: set CARGO_TARGET_DIR to a folder on a real disk"
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_memory_is_refused_with_the_remedy() {
        let why = on_a_disk(Path::new("/somewhere"), "tmpfs").expect_err("refused").to_string();
        assert!(why.contains("/somewhere is on tmpfs") && why.contains("CARGO_TARGET_DIR"), "{why}");
        assert!(on_a_disk(Path::new("/somewhere"), "ext4").is_ok());
    }

    #[test]
    fn folders_in_use_stay_and_abandoned_ones_go() {
        let all = tempfile::tempdir().expect("a folder");
        let first = Scratch::within(all.path()).expect("one");
        let abandoned = all.path().join("abandoned");
        fs::create_dir(&abandoned).expect("a folder");
        fs::write(abandoned.join(LOCK), "").expect("a lock that nobody holds");
        let second = Scratch::within(all.path()).expect("another");
        assert!(first.path().exists() && second.path().exists() && first.path() != second.path());
        assert!(!abandoned.exists());
        let gone = second.path().to_path_buf();
        drop(second);
        assert!(!gone.exists());
    }
}
