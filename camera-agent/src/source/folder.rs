//! A folder of pictures: JPEG and PNG in name order, then the end.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use microlambda_wire::TIME_MS_MAX;

mod listing;

use listing::{Listing, list};

use super::{Captured, Next, Source, SourceError, input_of, label_of};
use crate::picture::Picture;
use crate::spool::Input;

/// A file longer than this is no picture for us, bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files at most: their names are kept in memory.
pub const FILES_MAX: usize = 100_000;
/// While the last change of a folder or of a picture in it is younger than this, somebody is filling it.
pub const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Reads a folder, going on where an earlier run stopped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The names of all pictures, sorted.
    names: Vec<String>,
    /// So many of them were read.
    read: usize,
    /// Whether nothing had changed for a while when they were listed.
    settled: bool,
    told_of_waiting: bool,
}

impl Folder {
    /// Lists the folder and checks that what was read `already`, in order, is still there unchanged. What was passed over may be gone.
    ///
    /// Only regular files of the folder itself count: no subfolders, no links.
    ///
    /// # Errors
    /// [`SourceError::Fatal`]: there are no pictures, or the folder has changed behind the reader's back.
    /// [`SourceError::Trouble`]: the job has begun, and the folder is away or cannot be read.
    pub fn open(path: &Path, already: impl IntoIterator<Item = (Input, bool)>) -> Result<Self, SourceError> {
        let mut already = already.into_iter().peekable();
        // What was there once may come again: a stick, a share.
        let away = if already.peek().is_some() { SourceError::Trouble } else { SourceError::Fatal };
        let listing = list(path, away)?;
        // Of a folder that is still being filled it is told once that has come to an end.
        if listing.names.is_empty() || listing.settled_in.is_zero() {
            listing.tell(path);
        }
        if listing.names.is_empty() {
            let left_out = listing.left_out().map(|what| format!(" ({what})")).unwrap_or_default();
            return Err(away(format!(
                "there are no pictures in {}{left_out}: put .jpg, .jpeg or .png files there, or correct `path` in [source]",
                path.display()
            )));
        }
        let Listing { mut names, settled_in, .. } = listing;
        let mut read = 0;
        for (input, spooled) in already {
            while let Some(late) = names.get(read).filter(|name| **name < input.label) {
                tell_of_late(path, late);
                names.remove(read);
            }
            let name = names.get(read);
            if !spooled && name.is_none_or(|name| *name > input.label) {
                continue;
            }
            let same = name == Some(&input.label)
                && is_unchanged(&path.join(&input.label), &input)
                    .map_err(|error| unreadable(&path.join(&input.label), &error))?;
            if !same {
                return Err(SourceError::Fatal(format!(
                    "{} has changed since the job began: {} {}. Put it back as it was, or start anew with `camera-agent run --new-job`",
                    path.display(),
                    input.label,
                    match name {
                        Some(name) if *name == input.label => "has another content".to_owned(),
                        Some(name) => format!("was read before, and {name} stands in its place"),
                        None => "is gone".to_owned(),
                    }
                )));
            }
            read += 1;
        }
        let settled = settled_in.is_zero();
        Ok(Self { path: path.to_owned(), names, read, settled, told_of_waiting: false })
    }

    /// Files not yet read.
    pub fn remaining(&self) -> usize {
        self.names.len() - self.read
    }

    /// Lists the folder again and takes in what was added behind the last name read; how long to wait if it is still being filled.
    fn look_again(&mut self) -> Result<Option<Duration>, SourceError> {
        let listing = list(&self.path, SourceError::Trouble)?;
        if listing.names.is_empty() {
            let why = format!("there are no pictures in {} any more: put them back", self.path.display());
            return Err(SourceError::Trouble(why));
        }
        self.settled = listing.settled_in.is_zero();
        if !self.settled {
            if !std::mem::replace(&mut self.told_of_waiting, true) {
                log::info!(folder:% = self.path.display();
                    "the folder is still being filled: waiting until nothing in it has changed for {} s", SETTLED_AFTER.as_secs());
            }
            return Ok(Some(listing.settled_in));
        }
        let (names, known) = (&listing.names, &self.names[..self.read]);
        let (before, behind) =
            names.split_at(names.partition_point(|name| known.last().is_some_and(|last| name <= last)));
        if let Some(late) = before.iter().find(|name| known.binary_search(name).is_err()) {
            tell_of_late(&self.path, late);
        }
        if !behind.is_empty() {
            listing.tell(&self.path);
        }
        self.names.truncate(self.read);
        self.names.extend_from_slice(behind);
        Ok(None)
    }
}

impl Source for Folder {
    fn next(&mut self) -> Result<Next, SourceError> {
        // What is not there any more is not read. If all of it has gone, so has the folder.
        while self.names.get(self.read).is_some_and(|name| is_gone(&self.path.join(name))) {
            self.names.remove(self.read);
        }
        if (!self.settled || self.remaining() == 0)
            && let Some(pause) = self.look_again()?
        {
            return Ok(Next::NotYet(pause));
        }
        let Some(name) = self.names.get(self.read) else { return Ok(Next::End) };
        let path = self.path.join(name);
        let passed_over = |why: String, input| Next::PassedOver { why: format!("{}: {why}", path.display()), input };
        let (bytes, modified_at_ms) = match read(&path) {
            Ok(read) => read,
            // The folder itself is there, and lets the file be looked at.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && path.symlink_metadata().is_ok() => {
                // Nothing was read: the entry keeps the order of names for a restart.
                let why = format!("it cannot be read ({error}): check its permissions");
                let passed_over = passed_over(why, Some(input_of(name, &[], 0)));
                self.read += 1;
                return Ok(passed_over);
            }
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let input = input_of(name, &bytes, modified_at_ms);
        let next = if bytes.len() as u64 > FILE_BYTES_MAX {
            let why = format!("it has more than {} MiB: scale it down", FILE_BYTES_MAX >> 20);
            passed_over(why, Some(input))
        } else {
            Next::Frame(Captured {
                picture: Picture::File(bytes),
                captured_at_ms: modified_at_ms,
                label: label_of(name),
                input: Some(input),
            })
        };
        self.read += 1;
        Ok(next)
    }
}

fn tell_of_late(folder: &Path, name: &str) {
    log::warn!(folder:% = folder.display(), file = name;
        "this file was added, and its name comes before what was read: it is not read. Run with --new-job to read the folder again");
}

/// The medium may be away, or the file damaged: who opens the folder again sees.
fn unreadable(path: &Path, error: &std::io::Error) -> SourceError {
    SourceError::Trouble(format!(
        "cannot read {} ({error}): bring the folder back; if the file is broken, take it out of the folder",
        path.display()
    ))
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Content (cut one byte behind the bound) and modification time, ms since 1970.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, u64)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let modified_at_ms = modified_at_ms(&metadata);
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or(0) + 1);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes, modified_at_ms))
}

fn modified_at_ms(metadata: &std::fs::Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    // A file system may hold a time that no record can.
    u64::try_from(since.as_millis()).unwrap_or(0).min(TIME_MS_MAX)
}

/// Same length and modification time, or, if only the time differs, the same bytes.
fn is_unchanged(path: &Path, input: &Input) -> std::io::Result<bool> {
    let never_read = input.input_bytes == 0;
    if never_read {
        return Ok(true);
    }
    let metadata = path.metadata()?;
    if metadata.len().min(FILE_BYTES_MAX + 1) != input.input_bytes {
        return Ok(false);
    }
    Ok(modified_at_ms(&metadata) == input.modified_at_ms || microlambda::Digest::of(&read(path)?.0) == input.digest)
}

#[cfg(test)]
mod tests;
