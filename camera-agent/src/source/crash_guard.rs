//! A picture that takes more memory than there is ends the agent, and would end it again after each restart. So it is noted
//! in the state directory that a large one is tried, and one that has ended the agent twice in a row is passed over.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use microlambda::Digest;
use microlambda_runtime::sync_folder;

/// The file that says which picture is tried, and how often it was by now.
const NOTE: &str = "trying";
/// A picture that was tried so often, each time without an end, is not tried again.
const TRIES_MAX: u32 = 2;

/// Knows, over the ends of this program, which picture is being tried.
#[derive(Debug, Clone)]
pub(super) struct CrashGuard {
    folder: PathBuf,
}

impl CrashGuard {
    /// `folder` is the state directory.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Notes that this picture is tried; that is durable when it returns. False if the last tries of it have ended this
    /// program: then nothing is noted.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn begin(&self, picture: Digest) -> io::Result<bool> {
        let tries = self.tries_of(picture)?;
        if tries >= TRIES_MAX {
            return Ok(false);
        }
        let mut file = File::create(self.note())?;
        file.write_all(format!("{picture} {}\n", tries + 1).as_bytes())?;
        file.sync_all()?;
        sync_folder(&self.folder)?;
        Ok(true)
    }

    /// The picture has not ended this program, or is remembered elsewhere as one that is passed over. A note that a loss of
    /// power brings back, or that cannot be removed, counts for this picture alone.
    pub(super) fn end(&self) {
        let _ = fs::remove_file(self.note());
    }

    /// How often this picture was tried last; 0 if another was. A note that was torn while it was written says nothing.
    fn tries_of(&self, picture: Digest) -> io::Result<u32> {
        let note = match fs::read(self.note()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            outcome => outcome?,
        };
        let note = String::from_utf8_lossy(&note);
        let tries = note.strip_prefix(&picture.to_string()).and_then(|tries| tries.trim().parse().ok());
        Ok(tries.unwrap_or(0))
    }

    fn note(&self) -> PathBuf {
        self.folder.join(NOTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_was_tried_twice_without_an_end_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        // Each time as after a restart.
        let begin = |picture: &str| CrashGuard::new(folder.path()).begin(Digest::of(picture.as_bytes())).unwrap();
        assert!(begin("a") && begin("a") && !begin("a") && !begin("a"));
        assert!(begin("b"), "another one is");
        assert!(begin("a") && begin("a") && !begin("a"), "in a row");
        CrashGuard::new(folder.path()).end();
        CrashGuard::new(folder.path()).end();
        assert!(begin("a"));
        CrashGuard::new(folder.path()).end();
        assert!(begin("a") && begin("a"), "after a try that went well it counts anew");
    }

    #[test]
    fn a_torn_note_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Digest::of(b"a");
        let name = picture.to_string();
        for torn in [Vec::new(), name.as_bytes()[..20].to_vec(), format!("{name} x").into(), vec![0xff; 80]] {
            fs::write(folder.path().join(NOTE), torn).unwrap();
            let guard = CrashGuard::new(folder.path());
            assert_eq!(guard.tries_of(picture).unwrap(), 0);
            assert!(guard.begin(picture).unwrap());
        }
    }
}
