//! Setting a camera's spool aside, so that its agent begins a new one. Nothing is deleted.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use microlambda_runtime::{create_private, move_files};

/// The spool's database, and what stands beside it while it is open, in the camera agent's folder.
const DATABASE: &str = "spool.sqlite";
const BESIDE: [&str; 3] = ["spool.sqlite-wal", "spool.sqlite-shm", "spool.sqlite-journal"];
/// The file that a running agent holds.
const LOCK: &str = "lock";
/// Folders for former spools are called this with a number behind.
const KEPT: &str = "set-aside-";
/// So many are kept: each may be as large as a spool may grow.
const KEPT_MAX: u32 = 4;

/// Moves the spool in `folder` into a folder of its own in there; whether there was one. What a loss of power cuts off is completed by the
/// next call.
///
/// # Errors
/// What is in the way, and what to do.
pub fn set_aside(folder: &Path) -> Result<bool, String> {
    let failed = |error: io::Error| failed(folder, &error);
    let Some((place, _held)) = place_for(folder)? else { return Ok(false) };
    create_private(&place).map_err(failed)?;
    move_files(folder, &place, BESIDE.into_iter().chain([DATABASE])).map(|()| true).map_err(failed)
}

/// Whether [`set_aside`] could do its work now. Nothing is changed.
///
/// # Errors
/// As there.
pub fn can_set_aside(folder: &Path) -> Result<(), String> {
    place_for(folder).map(|_| ())
}

fn failed(folder: &Path, error: &io::Error) -> String {
    format!("the spool in {} cannot be set aside: {error}", folder.display())
}

/// Where the spool in `folder` goes, and the lock that keeps an agent from it; nothing if there is none.
fn place_for(folder: &Path) -> Result<Option<(PathBuf, Option<File>)>, String> {
    let shown = folder.display();
    let failed = |error: io::Error| failed(folder, &error);
    if !folder.join(DATABASE).exists() {
        return Ok(None);
    }
    let lock = match File::open(folder.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        lock => Some(lock.map_err(failed)?),
    };
    match lock.as_ref().map(File::try_lock) {
        None | Some(Ok(())) => {}
        Some(Err(TryLockError::WouldBlock)) => {
            return Err("the camera agent is at work with what it took so far: start the device again".into());
        }
        Some(Err(TryLockError::Error(error))) => return Err(failed(error)),
    }
    // One that lacks the database, which is moved last, was begun before and is completed.
    let mut places = (1..=KEPT_MAX).map(|number| folder.join(format!("{KEPT}{number}")));
    let place = places.find(|place| !place.join(DATABASE).exists()).ok_or_else(|| {
        format!("{KEPT_MAX} former spools are kept in {shown} already: remove its folders {KEPT}1 to {KEPT}{KEPT_MAX}")
    })?;
    Ok(Some((place, lock)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).unwrap();
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap_or_default()
    }

    #[test]
    fn former_spools_are_kept_up_to_a_bound_and_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        assert_eq!(set_aside(&folder.join("none")), Ok(false));
        for number in 1..=KEPT_MAX {
            write(folder, DATABASE, &number.to_string());
            write(folder, BESIDE[0], "log");
            assert_eq!(set_aside(folder), Ok(true));
            let place = folder.join(format!("{KEPT}{number}"));
            assert_eq!((read(&place, DATABASE), read(&place, BESIDE[0])), (number.to_string(), "log".to_owned()));
            assert_eq!(set_aside(folder), Ok(false), "once is enough");
        }
        write(folder, DATABASE, "one more");
        let why = set_aside(folder).unwrap_err();
        assert!(why.contains("remove its folders set-aside-1"), "{why}");
        assert_eq!(read(folder, DATABASE), "one more");
    }

    #[test]
    fn what_a_loss_of_power_cut_off_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, place) = (dir.path(), dir.path().join("set-aside-1"));
        fs::create_dir(&place).unwrap();
        write(&place, BESIDE[0], "log");
        write(folder, DATABASE, "content");
        assert_eq!(set_aside(folder), Ok(true));
        assert_eq!((read(&place, DATABASE), read(&place, BESIDE[0])), ("content".to_owned(), "log".to_owned()));
    }

    #[test]
    fn a_spool_that_a_running_agent_holds_stays() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), DATABASE, "content");
        let held = File::create(dir.path().join(LOCK)).unwrap();
        held.try_lock().unwrap();
        assert!(set_aside(dir.path()).unwrap_err().contains("start the device again"));
        assert_eq!(read(dir.path(), DATABASE), "content");
        drop(held);
        assert_eq!(set_aside(dir.path()), Ok(true));
    }
}
