//! How the last run with a database ended, and where databases go that were found damaged.
//!
//! A check of a whole database reads all of it, which takes minutes on a large one and a slow card. A database that was closed in
//! order was written by a program that saw nothing wrong; so the whole is checked after any other end, and after an error that
//! told of damage. A small file beside the database says which it was.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::{create_private, move_files, sync_folder};

/// The file that says it.
const MARK: &str = "last-end";
/// Folders for damaged databases are called this with a number behind.
const KEPT: &str = "damaged-";
/// So many damaged databases are kept, none is deleted: a disk that damaged more is to be replaced first.
pub const KEPT_MAX: u32 = 8;

/// How the last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastEnd {
    /// There was no run: no database was ever completed here.
    Never,
    /// The last run ended in order.
    Clean,
    /// By a power cut, a signal or an error. So many times in a row damage had been seen before, and the check had found none.
    Unclean(u32),
    /// By damage seen while running, for the n-th time in a row.
    DamageSeen(u32),
}

/// Reads how the last run in `folder` ended. A mark that says nothing was torn while it was written: an unclean end.
///
/// # Errors
/// What the system says.
pub fn last_end(folder: &Path) -> io::Result<LastEnd> {
    let bytes = match fs::read(folder.join(MARK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LastEnd::Never),
        outcome => outcome?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split_whitespace();
    let (word, count) = (words.next(), words.next().and_then(|count| count.parse().ok()));
    Ok(match (word, count) {
        (Some("clean"), None) => LastEnd::Clean,
        (Some("damage"), Some(count)) => LastEnd::DamageSeen(count),
        (_, count) => LastEnd::Unclean(count.unwrap_or(0)),
    })
}

/// Notes that a run begins, before its first write; `damages` is how often in a row damage was seen and not found.
///
/// # Errors
/// What the system says.
pub fn note_running(folder: &Path, damages: u32) -> io::Result<()> {
    write_mark(folder, &format!("running {damages}\n"))
}

/// Notes that a run ended in order. Should a power cut undo this, one more check is all it costs.
///
/// # Errors
/// What the system says.
pub fn note_clean_end(folder: &Path) -> io::Result<()> {
    write_mark(folder, "clean\n")
}

/// Notes that a run ends because it came upon damage, so that the next one checks everything.
///
/// # Errors
/// What the system says.
pub fn note_damage(folder: &Path) -> io::Result<()> {
    let before = match last_end(folder)? {
        LastEnd::Unclean(damages) | LastEnd::DamageSeen(damages) => damages,
        LastEnd::Never | LastEnd::Clean => 0,
    };
    write_mark(folder, &format!("damage {}\n", before.saturating_add(1)))
}

/// Notes that a check has found damage beside a run: the next one needs no check of its own to believe it.
///
/// # Errors
/// What the system says.
pub fn note_damage_found(folder: &Path) -> io::Result<()> {
    write_mark(folder, &format!("damage {}\n", u32::MAX))
}

/// Forgets that there was a database, before it is removed on purpose.
///
/// # Errors
/// What the system says.
pub fn forget(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(folder),
    }
}

fn write_mark(folder: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(folder.join(MARK))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_folder(folder)
}

/// How many damaged databases are kept in `folder`.
pub fn kept_aside(folder: &Path) -> u32 {
    kept_as(folder, KEPT, KEPT_MAX)
}

/// How many folders inside of `folder` are called `name` with a number behind, from 1 to `max`.
pub fn kept_as(folder: &Path, name: &str, max: u32) -> u32 {
    let taken = numbered(folder, name, max).filter(|place| place.exists());
    u32::try_from(taken.count()).unwrap_or(max)
}

/// The first such folder that is not there yet.
pub fn free_place(folder: &Path, name: &str, max: u32) -> Option<PathBuf> {
    numbered(folder, name, max).find(|place| !place.exists())
}

fn numbered(folder: &Path, name: &str, max: u32) -> impl Iterator<Item = PathBuf> {
    (1..=max).map(move |number| folder.join(format!("{name}{number}")))
}

/// Moves `database` and its log, which nobody has open, into a new folder inside of `folder`, and says which. Nothing is deleted:
/// beyond [`KEPT_MAX`] it is an error.
///
/// # Errors
/// What the system says; [`io::ErrorKind::StorageFull`] if so many are kept already.
pub fn keep_aside(folder: &Path, database: &str) -> io::Result<PathBuf> {
    let place = free_place(folder, KEPT, KEPT_MAX).ok_or_else(|| {
        let text = format!(
            "{KEPT_MAX} damaged databases are kept in {} already: replace this disk, or move them away",
            folder.display()
        );
        io::Error::new(io::ErrorKind::StorageFull, text)
    })?;
    create_private(&place)?;
    // The database first: without its log it could pass for an older one, while a log alone is seen to be one.
    let names = ["", "-journal", "-wal", "-shm"].map(|suffix| format!("{database}{suffix}"));
    move_files(folder, &place, names)?;
    Ok(place)
}

/// Whether the files of a database are not what a completed one leaves: it is missing or empty, though there was one, or though its
/// log is there. SQLite would take it for a new one and drop the log.
pub fn is_gone(folder: &Path, database: &str, end: LastEnd) -> bool {
    let bytes = |name: String| fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    let log_bytes = bytes(format!("{database}-wal"));
    bytes(database.to_owned()) == 0 && (end != LastEnd::Never || log_bytes > 0)
}

/// Whether a database that there was has been removed with its log: on purpose, as far as one can tell.
pub fn is_removed(folder: &Path, database: &str, end: LastEnd) -> bool {
    end != LastEnd::Never && ["", "-wal"].iter().all(|suffix| !folder.join(format!("{database}{suffix}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_tells_how_the_last_run_ended() {
        let dir = tempfile::tempdir().unwrap();
        let end = || last_end(dir.path()).unwrap();
        assert_eq!(end(), LastEnd::Never);
        note_running(dir.path(), 0).unwrap();
        assert_eq!(end(), LastEnd::Unclean(0));
        note_damage(dir.path()).unwrap();
        assert_eq!(end(), LastEnd::DamageSeen(1));
        note_running(dir.path(), 1).unwrap();
        note_damage(dir.path()).unwrap();
        assert_eq!(end(), LastEnd::DamageSeen(2));
        note_damage_found(dir.path()).unwrap();
        note_damage(dir.path()).unwrap();
        assert_eq!(end(), LastEnd::DamageSeen(u32::MAX), "what ends the run changes nothing");
        note_clean_end(dir.path()).unwrap();
        assert_eq!(end(), LastEnd::Clean);
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(end(), LastEnd::Never);
        for torn in ["", "runn", "clean 3", "\u{fffd}"] {
            fs::write(dir.path().join(MARK), torn).unwrap();
            assert!(matches!(end(), LastEnd::Unclean(_)), "{torn:?}");
        }
    }

    #[test]
    fn damaged_databases_are_kept_up_to_a_bound_and_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=KEPT_MAX {
            fs::write(dir.path().join("a.sqlite"), number.to_string()).unwrap();
            fs::write(dir.path().join("a.sqlite-wal"), "log").unwrap();
            let place = keep_aside(dir.path(), "a.sqlite").unwrap();
            assert_eq!(fs::read_to_string(place.join("a.sqlite")).unwrap(), number.to_string());
            assert!(place.join("a.sqlite-wal").exists() && !dir.path().join("a.sqlite-wal").exists());
            assert_eq!(kept_aside(dir.path()), number);
        }
        fs::write(dir.path().join("a.sqlite"), "one more").unwrap();
        let error = keep_aside(dir.path(), "a.sqlite").unwrap_err();
        assert!(error.to_string().contains("replace this disk"), "{error}");
        assert!(dir.path().join("a.sqlite").exists());
    }

    #[test]
    fn a_database_that_was_there_and_is_not_is_gone_and_a_new_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let gone = |end| is_gone(dir.path(), "a.sqlite", end);
        assert!(!gone(LastEnd::Never) && gone(LastEnd::Clean));
        assert!(
            is_removed(dir.path(), "a.sqlite", LastEnd::Clean) && !is_removed(dir.path(), "a.sqlite", LastEnd::Never)
        );
        fs::write(dir.path().join("a.sqlite-wal"), "log").unwrap();
        assert!(gone(LastEnd::Never) && !is_removed(dir.path(), "a.sqlite", LastEnd::Clean));
        fs::write(dir.path().join("a.sqlite"), "content").unwrap();
        assert!(!gone(LastEnd::Never) && !gone(LastEnd::Unclean(0)));
    }
}
