//! What is in a folder: the pictures that are to be read, and what is left out.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::DirEntry;
use std::path::Path;
use std::time::{Duration, SystemTime};

use microlambda_runtime::counted;

use super::{FILES_MAX, SETTLED_AFTER};
use crate::source::SourceError;

/// Endings of what is read: JPEG and PNG.
const READ: [&str; 5] = ["jpg", "jpeg", "jpe", "jfif", "png"];
/// Endings of other pictures, which people will miss.
const NOT_READ: [&str; 8] = ["heic", "heif", "webp", "tif", "tiff", "gif", "bmp", "avif"];

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Of all pictures, sorted by their bytes.
    pub(super) names: Vec<String>,
    /// How long until nothing will have changed for [`SETTLED_AFTER`].
    pub(super) settled_in: Duration,
    /// Symbolic links whose names end as those of pictures.
    links: u64,
    /// Pictures of other kinds, and how their names end.
    others: u64,
    other_endings: BTreeSet<&'static str>,
    subfolders: u64,
    /// Pictures whose name is not UTF-8.
    unnamed: Vec<OsString>,
}

/// Lists a folder; `away` says what it means that this cannot be done.
pub(super) fn list(path: &Path, away: fn(String) -> SourceError) -> Result<Listing, SourceError> {
    let unreadable = |error: std::io::Error| {
        away(format!(
            "cannot read the folder {}: {error}; bring the folder back, or correct `path` in [source] or the folder's permissions",
            path.display()
        ))
    };
    let now = SystemTime::now();
    // A file that is moved here brings its own time along, and changes the folder's.
    let settled_in = settled_in(&path.metadata().map_err(unreadable)?, now);
    let mut listing = Listing { settled_in, ..Listing::default() };
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        listing.take(&entry.map_err(unreadable)?, now);
        if listing.names.len() + listing.unnamed.len() > FILES_MAX {
            return Err(SourceError::Fatal(format!(
                "there are more than {FILES_MAX} pictures in {}: split them into several folders",
                path.display()
            )));
        }
    }
    listing.names.sort_unstable();
    Ok(listing)
}

impl Listing {
    fn take(&mut self, entry: &DirEntry, now: SystemTime) {
        // It does not follow links: what a link names may change, or lie where this agent should not read.
        let Ok(kind) = entry.file_type() else { return };
        let name = entry.file_name();
        let ending = Path::new(&name).extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let is_picture = READ.contains(&ending.as_str());
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        self.subfolders += u64::from(kind.is_dir() && !is_hidden);
        self.links += u64::from(kind.is_symlink() && is_picture);
        if !kind.is_file() {
            return;
        }
        if let Some(other) = NOT_READ.into_iter().find(|other| *other == ending) {
            self.others += 1;
            self.other_endings.insert(other);
        }
        if !is_picture {
            return;
        }
        match name.into_string() {
            Ok(name) => self.names.push(name),
            Err(name) => self.unnamed.push(name),
        }
        // Whether it can be read is seen later.
        if let Ok(metadata) = entry.metadata() {
            self.settled_in = self.settled_in.max(settled_in(&metadata, now));
        }
    }

    /// Tells of what is not read.
    pub(super) fn tell(&self, path: &Path) {
        for name in &self.unnamed {
            log::warn!(file:? = name; "this file's name is not UTF-8: rename it; it is not read");
        }
        if let Some(left_out) = self.left_out() {
            log::warn!(folder:% = path.display(); "{left_out}");
        }
    }

    /// What is left out and can be named by its kind, and what to do.
    pub(super) fn left_out(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.links > 0 {
            let were = if self.links == 1 { "was" } else { "were" };
            parts.push(format!("{} {were} passed over: copy the files", counted(self.links, "symbolic link")));
        }
        if self.others > 0 {
            let (end, are, them) = if self.others == 1 { ("ends", "is", "it") } else { ("end", "are", "them") };
            let endings: Vec<String> = self.other_endings.iter().map(|ending| format!(".{ending}")).collect();
            parts.push(format!(
                "{} that {end} in {} {are} not read: convert {them} to JPEG",
                counted(self.others, "file"),
                endings.join(" or ")
            ));
        }
        if self.subfolders > 0 {
            let are = if self.subfolders == 1 { "is" } else { "are" };
            parts.push(format!("{} {are} not searched", counted(self.subfolders, "subfolder")));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// How long until this has not changed for [`SETTLED_AFTER`]. A time far ahead was brought along, or a clock is wrong: it says nothing.
fn settled_in(metadata: &std::fs::Metadata, now: SystemTime) -> Duration {
    let Ok(changed) = metadata.modified() else { return Duration::ZERO };
    match now.duration_since(changed) {
        Ok(age) => SETTLED_AFTER.saturating_sub(age),
        Err(ahead) if ahead.duration() < SETTLED_AFTER => SETTLED_AFTER,
        Err(_) => Duration::ZERO,
    }
}
