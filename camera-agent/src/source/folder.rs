//! A folder of pictures: JPEG and PNG in name order, then the end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use microlambda_runtime::counted;
use microlambda_wire::TIME_MS_MAX;

use super::{Captured, Next, Source, SourceError, input_of, label_of};
use crate::picture::Picture;
use crate::spool::Input;

/// A file longer than this is no picture for us, bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files at most: their names are kept in memory.
pub const FILES_MAX: usize = 100_000;
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Reads a folder, going on where an earlier run stopped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    names: VecDeque<String>,
}

impl Folder {
    /// Lists the folder and checks that what was read `already`, in order, is still there unchanged.
    ///
    /// Only regular files of the folder itself count: no subfolders, no links.
    ///
    /// # Errors
    /// [`SourceError::Fatal`]: there are no pictures, or the folder has changed behind the reader's back.
    pub fn open(path: &Path, already: &[(Input, bool)]) -> Result<Self, SourceError> {
        let (names, links) = list(path)?;
        let mut names: VecDeque<String> = names.into();
        if names.is_empty() {
            let links =
                if links > 0 { format!(" ({} passed over: copy the files)", links_were(links)) } else { String::new() };
            return Err(SourceError::Fatal(format!(
                "there are no pictures in {}{links}: put .jpg, .jpeg or .png files there, or correct `path` in [source]",
                path.display()
            )));
        }
        for (input, _) in already {
            let name = names.pop_front();
            let same = name.as_deref() == Some(input.label.as_str()) && is_unchanged(&path.join(&input.label), input);
            if !same {
                return Err(SourceError::Fatal(format!(
                    "{} has changed since the job began: {} {}. Put it back as it was, or start anew with `camera-agent run --new-job`",
                    path.display(),
                    input.label,
                    match &name {
                        Some(name) if *name == input.label => "has another content".to_owned(),
                        Some(name) => format!("was read before, and {name} stands in its place"),
                        None => "is gone".to_owned(),
                    }
                )));
            }
        }
        Ok(Self { path: path.to_owned(), names })
    }

    /// Files not yet read.
    pub fn remaining(&self) -> usize {
        self.names.len()
    }
}

impl Source for Folder {
    fn next(&mut self) -> Result<Next, SourceError> {
        let Some(name) = self.names.pop_front() else { return Ok(Next::End) };
        let path = self.path.join(&name);
        let passed_over = |why: String, input| Next::PassedOver { why: format!("{}: {why}", path.display()), input };
        let (bytes, modified_at_ms) = match read(&path) {
            Ok(read) => read,
            Err(error) => {
                // Nothing was read: the entry keeps the order of names for a restart.
                let why = format!("it cannot be read ({error}): check its permissions");
                return Ok(passed_over(why, Some(input_of(&name, &[], 0))));
            }
        };
        let input = input_of(&name, &bytes, modified_at_ms);
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let why = format!("it has more than {} MiB: scale it down", FILE_BYTES_MAX >> 20);
            return Ok(passed_over(why, Some(input)));
        }
        Ok(Next::Frame(Captured {
            picture: Picture::File(bytes),
            captured_at_ms: modified_at_ms,
            label: label_of(&name),
            input: Some(input),
        }))
    }
}

fn links_were(links: u64) -> String {
    format!("{} {}", counted(links, "symbolic link"), if links == 1 { "was" } else { "were" })
}

/// The names of all pictures, sorted by their bytes, and how many links there are beside them.
fn list(path: &Path) -> Result<(Vec<String>, u64), SourceError> {
    let unreadable = |error: std::io::Error| {
        SourceError::Fatal(format!(
            "cannot read the folder {}: {error}; correct `path` in [source] or the folder's permissions",
            path.display()
        ))
    };
    let mut names = Vec::new();
    let mut links = 0;
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
            Err(name) => log::warn!(file:? = name; "this file's name is not UTF-8: rename it; it is not read"),
        }
        if names.len() > FILES_MAX {
            return Err(SourceError::Fatal(format!(
                "there are more than {FILES_MAX} pictures in {}: split them into several folders",
                path.display()
            )));
        }
    }
    if links > 0 {
        log::warn!(folder:% = path.display(); "{} passed over: copy the files", links_were(links));
    }
    names.sort_unstable();
    Ok((names, links))
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
fn is_unchanged(path: &Path, input: &Input) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let never_read = input.input_bytes == 0;
    if !never_read && metadata.len().min(FILE_BYTES_MAX + 1) != input.input_bytes {
        return false;
    }
    never_read
        || modified_at_ms(&metadata) == input.modified_at_ms
        || read(path).is_ok_and(|(bytes, _)| microlambda::Digest::of(&bytes) == input.digest)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::testing::photo_jpeg;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (n, name) in names.iter().enumerate() {
            std::fs::write(folder.path().join(name), photo_jpeg(32, 32, n as u8)).unwrap();
        }
        folder
    }

    fn drain(folder: &mut Folder) -> Vec<(Input, bool)> {
        let mut inputs = Vec::new();
        loop {
            match folder.next().unwrap() {
                Next::Frame(captured) => inputs.push((captured.input.unwrap(), true)),
                Next::PassedOver { input, .. } => inputs.push((input.unwrap(), false)),
                Next::End => return inputs,
            }
        }
    }

    fn labels(inputs: &[(Input, bool)]) -> Vec<&str> {
        inputs.iter().map(|(input, _)| input.label.as_str()).collect()
    }

    #[test]
    fn pictures_come_in_name_order_whatever_the_case_of_their_extension() {
        let folder = folder_of(&["b.JPG", "a.jpeg", "10.jpg", "9.jpg", "c.txt", "noextension", "d.Png"]);
        let mut source = Folder::open(folder.path(), &[]).unwrap();
        assert_eq!(source.remaining(), 5);
        assert_eq!(labels(&drain(&mut source)), ["10.jpg", "9.jpg", "a.jpeg", "b.JPG", "d.Png"]);
        assert_eq!(source.next(), Ok(Next::End));
    }

    #[test]
    fn links_and_subfolders_are_not_read() {
        let folder = folder_of(&["a.jpg"]);
        std::os::unix::fs::symlink(folder.path().join("a.jpg"), folder.path().join("link.jpg")).unwrap();
        std::fs::create_dir(folder.path().join("folder.jpg")).unwrap();
        assert_eq!(labels(&drain(&mut Folder::open(folder.path(), &[]).unwrap())), ["a.jpg"]);
        std::fs::remove_file(folder.path().join("a.jpg")).unwrap();
        let error = Folder::open(folder.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("1 symbolic link was passed over: copy the files"), "{error}");
    }

    #[test]
    fn a_frame_is_the_file_itself_with_its_time() {
        let folder = folder_of(&["a.jpg"]);
        let path = folder.path().join("a.jpg");
        let taken = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
        File::options().write(true).open(&path).unwrap().set_modified(taken).unwrap();
        let Next::Frame(captured) = Folder::open(folder.path(), &[]).unwrap().next().unwrap() else { panic!() };
        assert_eq!(captured.picture, Picture::File(photo_jpeg(32, 32, 0)));
        assert_eq!((captured.captured_at_ms, captured.label.as_str()), (1_234_567_890_123, "a.jpg"));
    }

    #[test]
    fn a_folder_without_pictures_or_none_at_all_is_explained() {
        let folder = folder_of(&["readme.txt"]);
        let error = Folder::open(folder.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("no pictures") && error.contains("`path` in [source]"), "{error}");
        let error = Folder::open(&folder.path().join("none"), &[]).unwrap_err().to_string();
        assert!(error.contains("`path` in [source]"), "{error}");
    }

    #[test]
    fn a_huge_file_is_passed_over_with_its_name() {
        let folder = folder_of(&["b.jpg"]);
        File::create(folder.path().join("a.jpg")).unwrap().set_len(FILE_BYTES_MAX + 10).unwrap();
        let mut source = Folder::open(folder.path(), &[]).unwrap();
        let Next::PassedOver { why, .. } = source.next().unwrap() else { panic!() };
        assert!(why.contains("a.jpg") && why.contains("64 MiB"), "{why}");
        let inputs = drain(&mut Folder::open(folder.path(), &[]).unwrap());
        assert_eq!(Folder::open(folder.path(), &inputs).unwrap().remaining(), 0);
    }

    #[test]
    fn a_restart_goes_on_behind_what_was_read() {
        let folder = folder_of(&["a.jpg", "b.jpg", "c.jpg"]);
        let inputs = drain(&mut Folder::open(folder.path(), &[]).unwrap());
        let mut rest = Folder::open(folder.path(), &inputs[..2]).unwrap();
        assert_eq!(labels(&drain(&mut rest)), ["c.jpg"]);
        assert_eq!(Folder::open(folder.path(), &inputs).unwrap().remaining(), 0);
        std::fs::write(folder.path().join("d.jpg"), photo_jpeg(32, 32, 9)).unwrap();
        assert_eq!(Folder::open(folder.path(), &inputs).unwrap().remaining(), 1, "what comes later is new");
    }

    #[test]
    fn a_touched_file_with_the_same_content_is_unchanged() {
        let folder = folder_of(&["a.jpg"]);
        let inputs = drain(&mut Folder::open(folder.path(), &[]).unwrap());
        let file = File::options().write(true).open(folder.path().join("a.jpg")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(Folder::open(folder.path(), &inputs).is_ok());
    }

    #[test]
    fn a_folder_that_changed_behind_the_reader_is_refused_with_name_and_remedy() {
        let changed = |change: &dyn Fn(&Path), expected: &str| {
            let folder = folder_of(&["b.jpg", "c.jpg"]);
            let inputs = drain(&mut Folder::open(folder.path(), &[]).unwrap());
            change(folder.path());
            let error = Folder::open(folder.path(), &inputs).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("--new-job"), "{error}");
        };
        changed(&|path| std::fs::write(path.join("a.jpg"), "new").unwrap(), "a.jpg stands in its place");
        changed(&|path| std::fs::remove_file(path.join("c.jpg")).unwrap(), "c.jpg is gone");
        changed(&|path| std::fs::write(path.join("b.jpg"), "other").unwrap(), "b.jpg has another content");
    }
}
