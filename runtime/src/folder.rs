//! Folders for what nobody else should read.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use microlambda::sabotage::{self, Sabotage};

/// Makes `folder`, open to its owner alone (mode 0700), unless it is there already; missing parents get the usual mode,
/// as they may be shared. The mode of a folder that is there is its owner's business. When this returns, a power cut does
/// not take the folder away.
///
/// # Errors
/// What the system says.
pub fn create_private(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        // A former start may have made it and died before the next line. Whoever made it another way, in a parent that we may
        // not even read, has seen to it.
        return parent_of(folder).map_or(Ok(()), |parent| match sync_folder(parent) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            outcome => outcome,
        });
    }
    let Some(parent) = parent_of(folder) else { return make_private(folder) };
    create_synced(parent)?;
    make_private(folder)?;
    sync_folder(parent)
}

/// Makes the entries of `folder` durable: what was created, renamed or removed in it. Syncing a file does not do that for its
/// name.
///
/// # Errors
/// What the system says, unless it is that this file system cannot sync a folder.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if sabotage::is_chosen(Sabotage::FoldersNotSynced) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        outcome => outcome,
    }
}

/// Moves those of `names` that are there from one folder to another of the same file system, in this order; durable when it returns.
///
/// # Errors
/// What the system says; what was moved until then stays there.
pub fn move_files<N: AsRef<Path>>(from: &Path, to: &Path, names: impl IntoIterator<Item = N>) -> io::Result<()> {
    for name in names {
        match fs::rename(from.join(&name), to.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    sync_folder(to)?;
    sync_folder(from)
}

/// Makes a shared folder and its parents; each is durable when this returns, unless it was there.
fn create_synced(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent_of(folder);
    parent.map_or(Ok(()), create_synced)?;
    existing_is_fine(folder, DirBuilder::new().create(folder))?;
    parent.map_or(Ok(()), sync_folder)
}

fn make_private(folder: &Path) -> io::Result<()> {
    existing_is_fine(folder, DirBuilder::new().mode(0o700).create(folder))
}

/// Another process may be faster.
fn existing_is_fine(folder: &Path, outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        outcome => outcome,
    }
}

/// The folder that names this one; the working folder for a bare name, none for the root.
fn parent_of(folder: &Path) -> Option<&Path> {
    let parent = folder.parent()?;
    Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_folder_is_its_owners_alone_and_a_folder_that_is_there_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shared/state");
        create_private(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&dir.path().join("shared")) & 0o700, 0o700);
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o750)).unwrap();
        create_private(&folder).unwrap();
        assert_eq!(mode(&folder), 0o750);
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state"), "").unwrap();
        assert!(create_private(&dir.path().join("state")).is_err());
    }
}
