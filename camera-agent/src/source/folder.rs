//! A folder of pictures: JPEG and PNG in name order, then the end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microlambda_runtime::counted;
use microlambda_wire::TIME_MS_MAX;

use super::{Captured, Next, Source, SourceError, input_of, label_of};
use crate::picture::Picture;
use crate::spool::Input;

/// A file longer than this is no picture for us, bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files at most: their names are kept in memory.
pub const FILES_MAX: usize = 100_000;
/// While the last change of a folder or of a picture in it is younger than this, somebody is filling it.
pub const SETTLED_AFTER: Duration = Duration::from_secs(2);
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Reads a folder, going on where an earlier run stopped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Of all pictures, sorted.
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
        listing.tell(path);
        let Listing { mut names, links, settled_in, .. } = listing;
        if names.is_empty() {
            let links =
                if links > 0 { format!(" ({} passed over: copy the files)", links_were(links)) } else { String::new() };
            return Err(away(format!(
                "there are no pictures in {}{links}: put .jpg, .jpeg or .png files there, or correct `path` in [source]",
                path.display()
            )));
        }
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

fn links_were(links: u64) -> String {
    format!("{} {}", counted(links, "symbolic link"), if links == 1 { "was" } else { "were" })
}

/// What is in a folder.
struct Listing {
    /// Of all pictures, sorted by their bytes.
    names: Vec<String>,
    /// Symbolic links beside them.
    links: u64,
    /// Pictures whose name is not UTF-8.
    unnamed: Vec<OsString>,
    /// How long until nothing will have changed for [`SETTLED_AFTER`].
    settled_in: Duration,
}

impl Listing {
    /// Tells of what is not read.
    fn tell(&self, path: &Path) {
        for name in &self.unnamed {
            log::warn!(file:? = name; "this file's name is not UTF-8: rename it; it is not read");
        }
        if self.links > 0 {
            log::warn!(folder:% = path.display(); "{} passed over: copy the files", links_were(self.links));
        }
    }
}

/// Lists a folder; `away` says what it means that this cannot be done.
fn list(path: &Path, away: fn(String) -> SourceError) -> Result<Listing, SourceError> {
    let unreadable = |error: std::io::Error| {
        away(format!(
            "cannot read the folder {}: {error}; bring the folder back, or correct `path` in [source] or the folder's permissions",
            path.display()
        ))
    };
    let now = SystemTime::now();
    // A file that is moved here brings its own time along, and changes the folder's.
    let mut settled_in = settled_in(&path.metadata().map_err(unreadable)?, now);
    let (mut names, mut unnamed, mut links) = (Vec::new(), Vec::new(), 0);
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let extension = Path::new(&name).extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let is_picture = extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()));
        // `file_type` does not follow links: what a link names may change, or lie where this agent should not read.
        let kind = entry.file_type().ok();
        links += u64::from(is_picture && kind.is_some_and(|kind| kind.is_symlink()));
        if !is_picture || !kind.is_some_and(|kind| kind.is_file()) {
            continue;
        }
        match name.into_string() {
            Ok(name) => names.push(name),
            Err(name) => unnamed.push(name),
        }
        // Whether it can be read is seen later.
        if let Ok(metadata) = entry.metadata() {
            settled_in = settled_in.max(self::settled_in(&metadata, now));
        }
        if names.len() + unnamed.len() > FILES_MAX {
            return Err(SourceError::Fatal(format!(
                "there are more than {FILES_MAX} pictures in {}: split them into several folders",
                path.display()
            )));
        }
    }
    names.sort_unstable();
    Ok(Listing { names, links, unnamed, settled_in })
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
mod tests {
    use super::*;
    use crate::testing::photo_jpeg;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (n, name) in names.iter().enumerate() {
            std::fs::write(folder.path().join(name), photo_jpeg(32, 32, n as u8)).unwrap();
        }
        settle(folder.path());
        folder
    }

    /// Lets the last change of everything in the folder, and of the folder itself, be long ago.
    fn settle(folder: &Path) {
        let then = SystemTime::now() - 2 * SETTLED_AFTER;
        for entry in std::fs::read_dir(folder).unwrap() {
            File::open(entry.unwrap().path()).unwrap().set_modified(then).unwrap();
        }
        File::open(folder).unwrap().set_modified(then).unwrap();
    }

    fn drain(folder: &mut Folder) -> Vec<(Input, bool)> {
        let mut inputs = Vec::new();
        loop {
            match folder.next().unwrap() {
                Next::Frame(captured) => inputs.push((captured.input.unwrap(), true)),
                Next::PassedOver { input, .. } => inputs.push((input.unwrap(), false)),
                Next::End => return inputs,
                Next::NotYet(_) => settle(&folder.path),
            }
        }
    }

    fn open(folder: &tempfile::TempDir, already: &[(Input, bool)]) -> Result<Folder, SourceError> {
        Folder::open(folder.path(), already.to_vec())
    }

    fn labels(inputs: &[(Input, bool)]) -> Vec<&str> {
        inputs.iter().map(|(input, _)| input.label.as_str()).collect()
    }

    #[test]
    fn pictures_come_in_name_order_whatever_the_case_of_their_extension() {
        let folder = folder_of(&["b.JPG", "a.jpeg", "10.jpg", "9.jpg", "c.txt", "noextension", "d.Png"]);
        let mut source = open(&folder, &[]).unwrap();
        assert_eq!(source.remaining(), 5);
        assert_eq!(labels(&drain(&mut source)), ["10.jpg", "9.jpg", "a.jpeg", "b.JPG", "d.Png"]);
        assert_eq!(source.next(), Ok(Next::End));
    }

    #[test]
    fn links_and_subfolders_are_not_read() {
        let folder = folder_of(&["a.jpg"]);
        std::os::unix::fs::symlink(folder.path().join("a.jpg"), folder.path().join("link.jpg")).unwrap();
        std::fs::create_dir(folder.path().join("folder.jpg")).unwrap();
        assert_eq!(labels(&drain(&mut open(&folder, &[]).unwrap())), ["a.jpg"]);
        std::fs::remove_file(folder.path().join("a.jpg")).unwrap();
        let error = open(&folder, &[]).unwrap_err().to_string();
        assert!(error.contains("1 symbolic link was passed over: copy the files"), "{error}");
    }

    #[test]
    fn a_frame_is_the_file_itself_with_its_time() {
        let folder = folder_of(&["a.jpg"]);
        let path = folder.path().join("a.jpg");
        let taken = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
        File::options().write(true).open(&path).unwrap().set_modified(taken).unwrap();
        let Next::Frame(captured) = open(&folder, &[]).unwrap().next().unwrap() else { panic!() };
        assert_eq!(captured.picture, Picture::File(photo_jpeg(32, 32, 0)));
        assert_eq!((captured.captured_at_ms, captured.label.as_str()), (1_234_567_890_123, "a.jpg"));
    }

    #[test]
    fn a_folder_without_pictures_or_none_at_all_is_explained() {
        let folder = folder_of(&["readme.txt"]);
        let error = open(&folder, &[]).unwrap_err().to_string();
        assert!(error.contains("no pictures") && error.contains("`path` in [source]"), "{error}");
        let error = Folder::open(&folder.path().join("none"), []).unwrap_err().to_string();
        assert!(error.contains("`path` in [source]"), "{error}");
    }

    #[test]
    fn a_huge_file_is_passed_over_with_its_name() {
        let folder = folder_of(&["b.jpg"]);
        File::create(folder.path().join("a.jpg")).unwrap().set_len(FILE_BYTES_MAX + 10).unwrap();
        settle(folder.path());
        let mut source = open(&folder, &[]).unwrap();
        let Next::PassedOver { why, .. } = source.next().unwrap() else { panic!() };
        assert!(why.contains("a.jpg") && why.contains("64 MiB"), "{why}");
        let inputs = drain(&mut open(&folder, &[]).unwrap());
        assert_eq!(open(&folder, &inputs).unwrap().remaining(), 0);
    }

    #[test]
    fn a_restart_goes_on_behind_what_was_read() {
        let folder = folder_of(&["a.jpg", "b.jpg", "c.jpg"]);
        let inputs = drain(&mut open(&folder, &[]).unwrap());
        let mut rest = open(&folder, &inputs[..2]).unwrap();
        assert_eq!(labels(&drain(&mut rest)), ["c.jpg"]);
        assert_eq!(open(&folder, &inputs).unwrap().remaining(), 0);
        std::fs::write(folder.path().join("d.jpg"), photo_jpeg(32, 32, 9)).unwrap();
        assert_eq!(open(&folder, &inputs).unwrap().remaining(), 1, "what comes later is new");
    }

    #[test]
    fn a_touched_file_with_the_same_content_is_unchanged() {
        let folder = folder_of(&["a.jpg"]);
        let inputs = drain(&mut open(&folder, &[]).unwrap());
        let file = File::options().write(true).open(folder.path().join("a.jpg")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(open(&folder, &inputs).is_ok());
    }

    #[test]
    fn a_folder_that_changed_behind_the_reader_is_refused_with_name_and_remedy() {
        let changed = |change: &dyn Fn(&Path), expected: &str| {
            let folder = folder_of(&["b.jpg", "c.jpg"]);
            let inputs = drain(&mut open(&folder, &[]).unwrap());
            change(folder.path());
            let error = open(&folder, &inputs).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("--new-job"), "{error}");
        };
        changed(&|path| std::fs::remove_file(path.join("b.jpg")).unwrap(), "c.jpg stands in its place");
        changed(&|path| std::fs::remove_file(path.join("c.jpg")).unwrap(), "c.jpg is gone");
        changed(&|path| std::fs::write(path.join("b.jpg"), "other").unwrap(), "b.jpg has another content");
    }

    #[test]
    fn what_was_passed_over_may_be_gone_after_a_restart() {
        let folder = folder_of(&["a.jpg", "b.jpg", "c.jpg", "d.jpg"]);
        let mut inputs = drain(&mut open(&folder, &[]).unwrap());
        for (gone, (_, spooled)) in ["b.jpg", "d.jpg"].iter().zip(inputs.iter_mut().skip(1).step_by(2)) {
            std::fs::remove_file(folder.path().join(gone)).unwrap();
            *spooled = false;
        }
        assert_eq!(open(&folder, &inputs).unwrap().remaining(), 0);
        assert_eq!(labels(&drain(&mut open(&folder, &inputs[..2]).unwrap())), ["c.jpg"]);
    }

    #[test]
    fn a_folder_that_is_away_is_waited_for_once_its_job_has_begun() {
        let is_trouble = |outcome: Result<(), SourceError>| {
            assert!(matches!(outcome, Err(SourceError::Trouble(_))), "{outcome:?}");
        };
        let folder = folder_of(&["a.jpg", "b.jpg"]);
        let mut source = open(&folder, &[]).unwrap();
        let Next::Frame(Captured { input, .. }) = source.next().unwrap() else { panic!() };
        let already = [(input.unwrap(), true)];
        let elsewhere = folder.path().with_extension("elsewhere");
        std::fs::rename(folder.path(), &elsewhere).unwrap();
        is_trouble(source.next().map(drop));
        is_trouble(open(&folder, &already).map(drop));
        // The place where a medium was mounted.
        std::fs::create_dir(folder.path()).unwrap();
        is_trouble(source.next().map(drop));
        is_trouble(open(&folder, &already).map(drop));
        std::fs::remove_dir(folder.path()).unwrap();
        std::fs::rename(&elsewhere, folder.path()).unwrap();
        assert_eq!(labels(&drain(&mut source)), ["b.jpg"], "nothing was passed over");
        assert_eq!(labels(&drain(&mut open(&folder, &already).unwrap())), ["b.jpg"]);
    }

    #[test]
    fn a_file_that_is_deleted_or_renamed_before_it_is_read_costs_the_job_nothing() {
        let folder = folder_of(&["b.jpg", "c.jpg", "d.jpg", "e.jpg"]);
        let mut source = open(&folder, &[]).unwrap();
        let Next::Frame(Captured { input, .. }) = source.next().unwrap() else { panic!() };
        std::fs::remove_file(folder.path().join("c.jpg")).unwrap();
        std::fs::rename(folder.path().join("d.jpg"), folder.path().join("a.jpg")).unwrap();
        let mut already = vec![(input.unwrap(), true)];
        already.extend(drain(&mut source));
        assert_eq!(labels(&already), ["b.jpg", "e.jpg"]);
        assert_eq!(
            open(&folder, &already).unwrap().remaining(),
            0,
            "a name before what was read is left out after a restart too"
        );
        assert_eq!(labels(&drain(&mut open(&folder, &already[..1]).unwrap())), ["e.jpg"]);
    }

    #[test]
    fn a_folder_that_is_being_filled_is_read_when_nothing_has_changed_for_a_while() {
        let folder = folder_of(&["b.jpg"]);
        let soon = SystemTime::now() + SETTLED_AFTER / 2;
        let set = |path: &Path, to| File::open(path).unwrap().set_modified(to).unwrap();
        let waits =
            |source: &mut Folder| matches!(source.next().unwrap(), Next::NotYet(pause) if pause <= SETTLED_AFTER);
        set(&folder.path().join("b.jpg"), soon);
        let mut source = open(&folder, &[]).unwrap();
        assert!(waits(&mut source), "a file that is being written");
        std::fs::write(folder.path().join("c.jpg"), photo_jpeg(32, 32, 7)).unwrap();
        settle(folder.path());
        set(folder.path(), soon);
        assert!(waits(&mut source), "a file was moved into the folder");
        settle(folder.path());
        assert!(matches!(source.next(), Ok(Next::Frame(_))));
        assert!(matches!(source.next(), Ok(Next::Frame(_))));
        for name in ["a.jpg", "d.jpg"] {
            std::fs::write(folder.path().join(name), photo_jpeg(32, 32, 8)).unwrap();
        }
        assert!(waits(&mut source), "the end is where nothing more comes");
        assert_eq!(labels(&drain(&mut source)), ["d.jpg"], "numbers follow the names");
    }

    #[test]
    fn a_time_far_ahead_is_not_waited_for() {
        let folder = folder_of(&["a.jpg"]);
        let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
        File::open(folder.path().join("a.jpg")).unwrap().set_modified(tomorrow).unwrap();
        assert!(matches!(open(&folder, &[]).unwrap().next(), Ok(Next::Frame(_))));
    }
}
